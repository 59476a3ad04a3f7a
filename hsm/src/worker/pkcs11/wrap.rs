//! Secrets wrapped under the token's root key.
//! Enters: a secret and what it is bound to.
//! Leaves: a wrapped secret that opens in this token alone, bound to the same.

use std::sync::atomic::Ordering;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use cryptoki::context::Function;
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::types::Ulong;
use hsm::backend::{Fault, Rotate, Seal};
use hsm::{Fingerprint, KeyId, Refusal, RootKey};
use zeroize::Zeroizing;

use super::fault::{self, Effect};
use super::templates::{Duty, SAFE_SECRET, secret_template};
use super::{Desk, Handle};

impl Seal for Desk {
    fn ensure_root(&mut self) -> Result<RootKey, Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        match self.newest_root()? {
            Some(number) => Ok(RootKey { id: name(number).0.to_vec(), created: false }),
            None => self.make_root(FIRST),
        }
    }

    /// `format | number of the root | nonce | AES-256-GCM(SHA-256(aad) | secret)`. The binding travels inside the plaintext, since modules
    /// exist that ignore GCM's associated data, or abort on it; GCM protects it there as well.
    fn wrap(&mut self, secret: &[u8], aad: &[u8]) -> Result<Vec<u8>, Fault> {
        let (number, root) = self.root_in_use()?;
        let sealed = self.seal(root, secret, aad).map_err(|error| fault::read(&error, Effect::None))?;
        Ok([&[FORMAT, number], sealed.as_slice()].concat())
    }

    fn unwrap(&mut self, wrapped: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let [FORMAT, number, sealed @ ..] = wrapped else { return Err(Refusal::SealBroken.into()) };
        let root = self.root(*number)?;
        let plain = self.open(root, sealed).map_err(|error| read_open_fault(&error))?;
        unbind(&plain, aad)
    }
}

impl Rotate for Desk {
    fn succeed_root(&mut self, id: &[u8]) -> Result<RootKey, Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        let next = number(id).and_then(|number| number.checked_add(1)).ok_or(Refusal::RootMissing)?;
        let newest = self.newest_root()?.ok_or(Refusal::RootMissing)?;
        match newest {
            newest if newest == next => Ok(RootKey { id: name(next).0.to_vec(), created: false }),
            newest if newest + 1 == next => self.make_root(next),
            _ => Err(Refusal::RootMissing.into()),
        }
    }

    fn destroy_root(&mut self, id: &[u8]) -> Result<(), Fault> {
        let shared = self.shared.clone();
        let _alone = shared.objects();
        let number = number(id).ok_or(Refusal::RootMissing)?;
        if number >= self.newest_root()?.ok_or(Refusal::RootMissing)? {
            return Err(Refusal::RootInUse.into());
        }
        self.shared.forget(name(number));
        self.destroy_all(ObjectClass::SECRET_KEY, name(number))
    }
}

impl Desk {
    fn make_root(&self, number: u8) -> Result<RootKey, Fault> {
        let id = name(number);
        self.make_aes(id, ROOT_LABEL, Duty::Secrets)?;
        self.shared.newest_root.store(number, Ordering::Release);
        Ok(RootKey { id: id.0.to_vec(), created: true })
    }

    /// Makes an AES-256 key that cannot leave, for one duty, and reads it back.
    pub(super) fn make_aes(&self, id: KeyId, label: &str, duty: Duty) -> Result<ObjectHandle, Fault> {
        let mut template = secret_template(id.0.to_vec(), label);
        template.push(Attribute::KeyType(KeyType::AES));
        template.extend(duty.attributes());
        let made = self
            .session
            .generate_key(&Mechanism::AesKeyGen, &template)
            .map_err(|error| fault::read(&error, Effect::Possible))?;
        self.require(made, &SAFE_SECRET).inspect_err(|_| {
            let _ = self.session.destroy_object(made);
        })?;
        Ok(made)
    }

    /// `nonce | AES-256-GCM(SHA-256(aad) | secret)`.
    pub(super) fn seal(&self, key: ObjectHandle, secret: &[u8], aad: &[u8]) -> Result<Vec<u8>, Error> {
        let mut nonce = [0; NONCE_BYTES];
        self.session.generate_random_slice(&mut nonce)?;
        let mut plain = Zeroizing::new(Vec::with_capacity(32 + secret.len()));
        plain.extend_from_slice(digest(&SHA256, aad).as_ref());
        plain.extend_from_slice(secret);
        let sealed = {
            let gcm = GcmParams::new(&mut nonce, &[], Ulong::from(TAG_BITS))?;
            self.session.encrypt(&Mechanism::AesGcm(gcm), key, &plain)?
        };
        // The nonce is read after the call: some tokens put their own in its place.
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// What [`Desk::seal`] closed, its binding in front.
    pub(super) fn open(&self, key: ObjectHandle, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let short = Error::Pkcs11(RvError::EncryptedDataLenRange, Function::Decrypt);
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(short)?;
        let mut nonce = *nonce;
        let gcm = GcmParams::new(&mut nonce, &[], Ulong::from(TAG_BITS))?;
        self.session.decrypt(&Mechanism::AesGcm(gcm), key, sealed).map(Zeroizing::new)
    }

    /// The number of the newest root in the token.
    fn newest_root(&self) -> Result<Option<u8>, Fault> {
        let read = |error| fault::read(&error, Effect::None);
        let ours = [
            Attribute::Class(ObjectClass::SECRET_KEY),
            Attribute::Token(true),
            Attribute::Label(ROOT_LABEL.as_bytes().to_vec()),
        ];
        let mut newest = None;
        for object in self.session.find_objects(&ours).map_err(read)? {
            let found = self.session.get_attributes(object, &[AttributeType::Id]).map_err(read)?;
            if let [Attribute::Id(id)] = found.as_slice() {
                newest = newest.max(number(id));
            }
        }
        if newest.is_none() {
            self.confirm_presence()?;
        }
        self.shared.newest_root.store(newest.unwrap_or(0), Ordering::Release);
        Ok(newest)
    }

    fn root_in_use(&self) -> Result<(u8, ObjectHandle), Fault> {
        let number = match self.shared.newest_root.load(Ordering::Acquire) {
            0 => {
                let shared = self.shared.clone();
                let _alone = shared.objects();
                self.newest_root()?.ok_or(Refusal::RootMissing)?
            }
            known => known,
        };
        Ok((number, self.root(number)?))
    }

    fn root(&self, number: u8) -> Result<ObjectHandle, Fault> {
        let id = name(number);
        if let Some(handle) = self.shared.cached(id) {
            return Ok(handle.object);
        }
        let shared = self.shared.clone();
        let _alone = shared.objects();
        match self.look_up(ObjectClass::SECRET_KEY, id)?.as_slice() {
            [one] => {
                // Nothing pins the root but what it opens: the cache's fingerprint is left blank.
                self.shared.cache(id, Handle { object: *one, fingerprint: Fingerprint([0; 32]) });
                Ok(*one)
            }
            [] => {
                self.confirm_presence()?;
                let any = self.newest_root()?.is_some();
                Err(if any { Refusal::SealBroken } else { Refusal::RootMissing }.into())
            }
            _ => {
                Err(Refusal::Other("the token holds two root keys of one name; remove one".to_owned()).into())
            }
        }
    }
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

/// The secret behind its binding, if it is bound to this.
pub(super) fn unbind(plain: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let (found, secret) = plain.split_first_chunk::<32>().ok_or(Refusal::SealBroken)?;
    verify_slices_are_equal(found, digest(&SHA256, aad).as_ref()).map_err(|_| Refusal::SealBroken)?;
    Ok(Zeroizing::new(secret.to_vec()))
}

/// A root key's name: its number stands at the end.
fn name(number: u8) -> KeyId {
    let mut id = *b"chancery-root-v0";
    id[15] = number;
    KeyId(id)
}

fn number(id: &[u8]) -> Option<u8> {
    match id.strip_prefix(b"chancery-root-v")? {
        [number] if *number >= FIRST => Some(*number),
        _ => None,
    }
}

const ROOT_LABEL: &str = "chancery-root";
const FIRST: u8 = 1;
const FORMAT: u8 = 1;
const NONCE_BYTES: usize = 12;
const TAG_BITS: u64 = 128;
