//! Secrets wrapped under the token's root key.
//! Enters: a secret and what it is bound to.
//! Leaves: a wrapped secret that opens in this token alone, bound to the same.

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, KeyType, ObjectClass, ObjectHandle};
use cryptoki::types::Ulong;
use hsm::backend::{Fault, Seal};
use hsm::{Fingerprint, KeyId, Refusal, RootKey};
use zeroize::{Zeroize, Zeroizing};

use super::fault::{self, Effect};
use super::templates::{SAFE_SECRET, secret_template};
use super::{Desk, Handle};

impl Seal for Desk {
    fn ensure_root(&mut self) -> Result<RootKey, Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        let created = match self.look_up(ObjectClass::SECRET_KEY, ROOT)?.as_slice() {
            [] => {
                self.confirm_presence()?;
                self.make_root()?;
                true
            }
            [_] => false,
            _ => {
                return Err(
                    Refusal::Other("the token holds two root keys; remove the stray one".to_owned()).into()
                );
            }
        };
        Ok(RootKey { id: ROOT.0.to_vec(), created })
    }

    /// `version | length of the nonce | nonce | AES-256-GCM(SHA-256(aad) | secret)`. The binding travels inside the plaintext, since modules
    /// exist that ignore GCM's associated data, or abort on it; GCM protects it there as well.
    fn wrap(&mut self, secret: &[u8], aad: &[u8]) -> Result<Vec<u8>, Fault> {
        let root = self.root()?;
        let mut nonce = [0; NONCE_BYTES];
        self.session.generate_random_slice(&mut nonce).map_err(|error| fault::read(&error, Effect::None))?;
        let mut plain = Zeroizing::new(digest(&SHA256, aad).as_ref().to_vec());
        plain.reserve_exact(secret.len());
        plain.extend_from_slice(secret);
        let sealed = {
            let gcm = params(&mut nonce)?;
            self.session.encrypt(&Mechanism::AesGcm(gcm), root, &plain)
        };
        let sealed = sealed.map_err(|error| fault::read(&error, Effect::None))?;
        // The nonce is read after the call: some tokens put their own in its place.
        Ok([&[FORMAT, NONCE_BYTES as u8], nonce.as_slice(), &sealed].concat())
    }

    fn unwrap(&mut self, wrapped: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let [FORMAT, NONCE_LEN, rest @ ..] = wrapped else { return Err(Refusal::SealBroken.into()) };
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(Refusal::SealBroken)?;
        let root = self.root()?;
        let mut nonce = *nonce;
        let opened = {
            let gcm = params(&mut nonce)?;
            self.session.decrypt(&Mechanism::AesGcm(gcm), root, sealed)
        };
        let mut plain = Zeroizing::new(opened.map_err(|error| self.read_open_fault(&error))?);
        let bound = digest(&SHA256, aad);
        let (found, secret) = plain.split_first_chunk::<32>().ok_or(Refusal::SealBroken)?;
        verify_slices_are_equal(found, bound.as_ref()).map_err(|_| Refusal::SealBroken)?;
        let secret = Zeroizing::new(secret.to_vec());
        plain.zeroize();
        Ok(secret)
    }
}

impl Desk {
    fn make_root(&self) -> Result<(), Fault> {
        let mut template = secret_template(ROOT.0.to_vec(), "chancery-root");
        template.extend([
            Attribute::KeyType(KeyType::AES),
            Attribute::Encrypt(true),
            Attribute::Decrypt(true),
            Attribute::Wrap(false),
            Attribute::Unwrap(false),
        ]);
        let root = self
            .session
            .generate_key(&Mechanism::AesKeyGen, &template)
            .map_err(|error| fault::read(&error, Effect::Possible))?;
        self.require(root, &SAFE_SECRET).inspect_err(|_| {
            let _ = self.session.destroy_object(root);
        })
    }

    fn root(&self) -> Result<ObjectHandle, Fault> {
        if let Some(handle) = self.shared.cached(ROOT) {
            return Ok(handle.object);
        }
        let shared = self.shared.clone();
        let _alone = shared.objects();
        match self.look_up(ObjectClass::SECRET_KEY, ROOT)?.as_slice() {
            [one] => {
                // Nothing pins the root but what it opens: the cache's fingerprint is left blank.
                self.shared.cache(ROOT, Handle { object: *one, fingerprint: Fingerprint([0; 32]) });
                Ok(*one)
            }
            [] => self.confirm_presence().and(Err(Refusal::RootMissing.into())),
            _ => Err(Refusal::Other("the token holds two root keys; remove the stray one".to_owned()).into()),
        }
    }

    /// Modules answer a broken tag with all sorts of general errors.
    #[allow(clippy::unused_self, reason = "reads as part of the desk's work")]
    fn read_open_fault(&self, error: &cryptoki::error::Error) -> Fault {
        use cryptoki::error::{Error, RvError};
        match error {
            Error::Pkcs11(RvError::GeneralError | RvError::FunctionFailed | RvError::DataInvalid, _) => {
                Refusal::SealBroken.into()
            }
            other => fault::read(other, Effect::None),
        }
    }
}

fn params(nonce: &mut [u8; NONCE_BYTES]) -> Result<GcmParams<'_>, Fault> {
    GcmParams::new(nonce, &[], Ulong::from(TAG_BITS)).map_err(|error| fault::read(&error, Effect::None))
}

/// The root key's name.
const ROOT: KeyId = KeyId(*b"chancery-root-v1");

const FORMAT: u8 = 1;
const NONCE_BYTES: usize = 12;
const NONCE_LEN: u8 = NONCE_BYTES as u8;
const TAG_BITS: u64 = 128;
