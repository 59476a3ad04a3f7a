//! Secrets closed by an AES key that cannot leave the token.
//! Enters: a key, a secret and what it is bound to.
//! Leaves: a closed secret that opens under the same key alone, bound to the same.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, KeyType, ObjectHandle};
use cryptoki::types::Ulong;
use hsm::backend::Fault;
use hsm::{KeyId, Refusal};
use zeroize::Zeroizing;

use super::Desk;
use super::fault::{self, Effect};
use super::templates::{Duty, SAFE_NEW_SECRET, SAFE_SECRET, secret_template};

/// What GCM made of a text: the initialisation vector, whoever chose it, and the ciphertext with its tag.
pub(super) struct Sealed {
    iv: Vec<u8>,
    text: Vec<u8>,
}

impl Sealed {
    /// `length of the vector | vector | ciphertext and tag`.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // The vector is at most `IV_BYTES_MAX` long.
        [&[self.iv.len() as u8], self.iv.as_slice(), &self.text].concat()
    }

    /// What [`Sealed::to_bytes`] gave.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let (len, rest) = bytes.split_first()?;
        let (iv, text) = rest.split_at_checked(usize::from(*len))?;
        (!iv.is_empty() && iv.len() <= IV_BYTES_MAX).then(|| Self { iv: iv.to_vec(), text: text.to_vec() })
    }

    /// The first layout: twelve bytes of vector, and no word about it.
    pub(super) fn read_first(bytes: &[u8]) -> Option<Self> {
        let (iv, text) = bytes.split_at_checked(IV_BYTES)?;
        Some(Self { iv: iv.to_vec(), text: text.to_vec() })
    }
}

impl Desk {
    /// Makes an AES-256 key that cannot leave, for one duty, and reads it back.
    pub(super) fn make_aes(&self, id: KeyId, label: &str, duty: Duty) -> Result<ObjectHandle, Fault> {
        let mut template = secret_template(id.0.to_vec(), label);
        template.push(Attribute::KeyType(KeyType::AES));
        template.extend(duty.attributes());
        let made = self
            .session
            .generate_key(&Mechanism::AesKeyGen, &template)
            .map_err(|error| self.unmade(&error))?;
        self.require(made, &SAFE_SECRET)
            .and_then(|()| self.require(made, &SAFE_NEW_SECRET))
            .and_then(|()| self.require(made, &duty.flags()))
            .inspect_err(|_| {
                let _ = self.session.destroy_object(made);
            })?;
        Ok(made)
    }

    /// AES-256-GCM over `SHA-256(aad) | secret`. The binding travels inside, since modules exist that ignore GCM's associated data, or
    /// abort on it; GCM protects it there as well.
    pub(super) fn seal(&self, key: ObjectHandle, secret: &[u8], aad: &[u8]) -> Result<Sealed, Error> {
        let mut plain = Zeroizing::new(Vec::with_capacity(32 + secret.len()));
        plain.extend_from_slice(digest(&SHA256, aad).as_ref());
        plain.extend_from_slice(secret);
        let mut iv = [0; IV_BYTES];
        self.session.generate_random_slice(&mut iv)?;
        let ours = self.encrypt(key, &mut iv, &plain);
        match ours {
            // Devices that choose the vector themselves want an empty place for it, and fill it.
            Err(Error::Pkcs11(RvError::MechanismParamInvalid, _)) => {
                iv = [0; IV_BYTES];
                let made = self.encrypt(key, &mut iv, &plain)?;
                let sealed = taken_apart(iv, made, plain.len())?;
                // One that took the zeros for the vector would use them again: two texts under one vector are open to each other.
                if sealed.iv == [0; IV_BYTES] { Err(no_gcm()) } else { Ok(sealed) }
            }
            made => taken_apart(iv, made?, plain.len()),
        }
    }

    fn encrypt(&self, key: ObjectHandle, iv: &mut [u8; IV_BYTES], plain: &[u8]) -> Result<Vec<u8>, Error> {
        let gcm = GcmParams::new(iv, &[], Ulong::from(TAG_BYTES as u64 * 8))?;
        self.session.encrypt(&Mechanism::AesGcm(gcm), key, plain)
    }

    /// The secret behind its binding, if it was closed under this key and is bound to this.
    pub(super) fn open(
        &self,
        key: ObjectHandle,
        sealed: &Sealed,
        aad: &[u8],
    ) -> Result<Result<Zeroizing<Vec<u8>>, Fault>, Error> {
        let mut iv = sealed.iv.clone();
        let gcm = GcmParams::new(&mut iv, &[], Ulong::from(TAG_BYTES as u64 * 8))?;
        let plain = self.session.decrypt(&Mechanism::AesGcm(gcm), key, &sealed.text).map(Zeroizing::new)?;
        Ok(unbind(&plain, aad))
    }
}

/// The vector is read after the call: some devices write their own in the place of ours, others hang it on the ciphertext.
fn taken_apart(iv: [u8; IV_BYTES], mut made: Vec<u8>, plain_len: usize) -> Result<Sealed, Error> {
    match made.len().checked_sub(plain_len + TAG_BYTES) {
        Some(0) => Ok(Sealed { iv: iv.to_vec(), text: made }),
        Some(more) if (IV_BYTES..=IV_BYTES_MAX).contains(&more) => {
            let iv = made.split_off(made.len() - more);
            Ok(Sealed { iv, text: made })
        }
        _ => Err(no_gcm()),
    }
}

fn no_gcm() -> Error {
    Error::Pkcs11(RvError::MechanismParamInvalid, Function::Encrypt)
}

/// Modules answer a broken tag with all sorts of general errors.
pub(super) fn read_open_fault(error: &Error) -> Fault {
    match error {
        Error::Pkcs11(RvError::GeneralError | RvError::FunctionFailed | RvError::DataInvalid, _) => {
            Refusal::SealBroken.into()
        }
        other => fault::read(other, Effect::None),
    }
}

fn unbind(plain: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let (found, secret) = plain.split_first_chunk::<32>().ok_or(Refusal::SealBroken)?;
    verify_slices_are_equal(found, digest(&SHA256, aad).as_ref()).map_err(|_| Refusal::SealBroken)?;
    Ok(Zeroizing::new(secret.to_vec()))
}

const IV_BYTES: usize = 12;
/// What devices that choose it themselves make it.
const IV_BYTES_MAX: usize = 16;
const TAG_BYTES: usize = 16;
