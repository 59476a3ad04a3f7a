//! Key-encryption keys by name: AES keys that cannot leave the token, one per workspace, and the backup keys beside them.
//! Enters: names; secrets and what they are bound to.
//! Leaves: wrapped secrets that nobody opens once the key is destroyed.

use cryptoki::object::{ObjectClass, ObjectHandle};
use hsm::backend::{Fault, Keks};
use hsm::{Fingerprint, Kek, KeyId, Refusal};
use zeroize::Zeroizing;

use super::fault::{self, Effect};
use super::keys::{exists, several};
use super::templates::{Duty, SAFE_SECRET};
use super::wrap::{Sealed, read_open_fault};
use super::{Desk, Handle};

impl Keks for Desk {
    fn create_kek(&mut self, id: KeyId, label: &str) -> Result<Kek, Fault> {
        self.aes_or_new(id, label, Duty::Secrets).map(|()| kek(id))
    }

    fn find_kek(&mut self, id: KeyId) -> Result<Option<Kek>, Fault> {
        Ok(self.find_aes(id, Duty::Secrets)?.map(|_| kek(id)))
    }

    fn wrap_under(&mut self, kek: &Kek, secret: &[u8], aad: &[u8]) -> Result<Vec<u8>, Fault> {
        let key = self.aes(kek.id, Duty::Secrets)?;
        let sealed = self.seal(key, secret, aad).map_err(|error| self.read_use(kek.id, &error))?;
        Ok([&[FORMAT], sealed.to_bytes().as_slice()].concat())
    }

    fn unwrap_under(&mut self, kek: &Kek, wrapped: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let key = self.aes(kek.id, Duty::Secrets)?;
        let sealed = match wrapped {
            [FIRST_FORMAT, sealed @ ..] => Sealed::read_first(sealed),
            [FORMAT, sealed @ ..] => Sealed::read(sealed),
            _ => None,
        };
        let sealed = sealed.ok_or(Refusal::SealBroken)?;
        self.open(key, &sealed, aad).map_err(|error| self.read_use(kek.id, &error))?
    }

    fn destroy_kek(&mut self, kek: &Kek) -> Result<(), Fault> {
        self.destroy_aes(kek.id, Duty::Secrets)
    }
}

impl Desk {
    pub(super) fn aes_or_new(&self, id: KeyId, label: &str, duty: Duty) -> Result<(), Fault> {
        free_name(id)?;
        let shared = self.shared.clone();
        let _alone = shared.objects();
        if !self.look_up(ObjectClass::SECRET_KEY, id)?.is_empty() {
            return self.look_up_aes(id, duty)?.map(drop).ok_or_else(|| exists(id));
        }
        self.confirm_presence()?;
        self.make_aes(id, label, duty).map(drop)
    }

    pub(super) fn find_aes(&self, id: KeyId, duty: Duty) -> Result<Option<ObjectHandle>, Fault> {
        free_name(id)?;
        let shared = self.shared.clone();
        let _alone = shared.objects();
        match self.look_up_aes(id, duty)? {
            None => self.confirm_presence().map(|()| None),
            found => Ok(found),
        }
    }

    /// The handle, looked up on first use in this worker's life and refused if it is not as we make it: whoever has the PIN could put a
    /// key he knows under this name, and read what is wrapped from then on.
    pub(super) fn aes(&self, id: KeyId, duty: Duty) -> Result<ObjectHandle, Fault> {
        free_name(id)?;
        if let Some(known) = self.shared.cached(id)
            && known.fingerprint == mark(duty)
        {
            return Ok(known.object);
        }
        let shared = self.shared.clone();
        let _alone = shared.objects();
        let Some(object) = self.look_up_aes(id, duty)? else {
            let other = !self.look_up(ObjectClass::SECRET_KEY, id)?.is_empty();
            return Err(if other { not_ours(id) } else { self.missing(id) });
        };
        self.shared.cache(id, Handle { object, fingerprint: mark(duty) });
        Ok(object)
    }

    pub(super) fn destroy_aes(&self, id: KeyId, duty: Duty) -> Result<(), Fault> {
        free_name(id)?;
        let shared = self.shared.clone();
        let _alone = shared.objects();
        self.confirm_presence()?;
        self.shared.forget(id);
        match self.look_up_aes(id, duty)?.map(|object| self.session.destroy_object(object)) {
            Some(Err(error)) if !fault::is_stale(&error) => {
                return Err(fault::read(&error, Effect::Possible));
            }
            _ => {}
        }
        // What is left under the name may be the very key, with its flags changed: nobody is told that it is gone.
        if self.look_up(ObjectClass::SECRET_KEY, id)?.is_empty() { Ok(()) } else { Err(not_ours(id)) }
    }

    /// The one AES key of this name that is as we make it for this duty; others under the name do not count.
    fn look_up_aes(&self, id: KeyId, duty: Duty) -> Result<Option<ObjectHandle>, Fault> {
        let mut ours = Vec::new();
        for object in self.look_up(ObjectClass::SECRET_KEY, id)? {
            let checked =
                self.require(object, &SAFE_SECRET).and_then(|()| self.require(object, &duty.flags()));
            match checked {
                Ok(()) => ours.push(object),
                Err(Fault::Refused(Refusal::LooseKey { .. })) => {}
                Err(fault) => return Err(fault),
            }
        }
        match ours.as_slice() {
            [] => Ok(None),
            [one] => Ok(Some(*one)),
            _ => Err(several(id)),
        }
    }

    /// A key destroyed by another lane between look-up and use is missing, not a broken device.
    fn read_use(&self, id: KeyId, error: &cryptoki::error::Error) -> Fault {
        if fault::is_stale(error) {
            self.shared.forget(id);
            return self.missing(id);
        }
        read_open_fault(error)
    }
}

const fn kek(id: KeyId) -> Kek {
    Kek { id, blob: Vec::new() }
}

/// Names of our own keep clear of the callers': a root key is no workspace's key, whoever asks.
fn free_name(id: KeyId) -> Result<(), Fault> {
    if id.0.starts_with(b"chancery-") {
        return Err(
            Refusal::BadInput("names that begin with `chancery-` are the product's own".to_owned()).into()
        );
    }
    Ok(())
}

fn not_ours(id: KeyId) -> Fault {
    Refusal::Other(format!(
        "the key named {id} was not made here for this use; remove it, or use another name"
    ))
    .into()
}

/// Nothing pins a secret key but what it opens; the cache's fingerprint tells what it was checked for.
const fn mark(duty: Duty) -> Fingerprint {
    match duty {
        Duty::Secrets => Fingerprint([1; 32]),
        Duty::Keys => Fingerprint([2; 32]),
    }
}

const FIRST_FORMAT: u8 = 2;
const FORMAT: u8 = 4;
