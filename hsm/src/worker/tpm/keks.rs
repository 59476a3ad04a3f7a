//! Key-encryption keys of a TPM: HMAC keys that never leave it, from which each secret's own key is derived.
//! In come blobs that the caller kept, secrets and what they are bound to.
//! Out go wrapped secrets; without the blob nobody opens them again.
//!
//! Not sealed to measured state: what a firmware update must not destroy for good hangs on the storage root alone. The blob lies in the
//! caller's database, under the master key, and that one is sealed.

use hsm::backend::{Fault, Keks};
use hsm::{Kek, KeyId, Refusal};
use zeroize::Zeroizing;

use super::blob;
use super::lane::TpmLane;
use super::sessions::drawn;
use super::templates;
use super::wrap::{NONCE_LEN, close, open};

const DOMAIN: &[u8] = b"chancery.tpm.kek.v1\n";
const FORMAT: u8 = 2;
const SALT_LEN: usize = 32;

impl Keks for TpmLane {
    /// Each call makes another key; the one whose blob is not recorded is gone.
    fn create_kek(&mut self, id: KeyId, _label: &str) -> Result<Kek, Fault> {
        let (wrapped, _) = self.make(&templates::hmac_key(), "key-encryption")?;
        Ok(Kek { id, blob: blob::write(&wrapped)? })
    }

    fn find_kek(&mut self, _id: KeyId) -> Result<Option<Kek>, Fault> {
        Ok(None)
    }

    fn wrap_under(&mut self, kek: &Kek, secret: &[u8], aad: &[u8]) -> Result<Vec<u8>, Fault> {
        let salt = *drawn::<SALT_LEN>()?;
        let key = self.derive(kek, &salt)?;
        let sealed = close(key.as_slice(), [0; NONCE_LEN], secret, aad)?;
        Ok([&[FORMAT], salt.as_slice(), &sealed].concat())
    }

    fn unwrap_under(&mut self, kek: &Kek, wrapped: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let [FORMAT, rest @ ..] = wrapped else { return Err(Refusal::SealBroken.into()) };
        let (salt, sealed) = rest.split_first_chunk::<SALT_LEN>().ok_or(Refusal::SealBroken)?;
        let key = self.derive(kek, salt)?;
        open(key.as_slice(), [0; NONCE_LEN], sealed.to_vec(), aad).ok_or_else(|| Refusal::SealBroken.into())
    }

    /// Gives up the loaded copy; the key itself is destroyed with its blob.
    fn destroy_kek(&mut self, kek: &Kek) -> Result<(), Fault> {
        self.unload(&kek.blob);
        Ok(())
    }
}

impl TpmLane {
    /// The key of a wrapped secret, for tests that look for it elsewhere.
    #[cfg(test)]
    pub(super) fn kek_layer_key(&mut self, kek: &Kek, wrapped: &[u8]) -> Result<Zeroizing<[u8; 32]>, Fault> {
        self.derive(kek, wrapped.get(1..=SALT_LEN).unwrap_or_default())
    }

    /// The key of one wrapped secret. Its salt is never used again, so its nonce may be constant.
    fn derive(&mut self, kek: &Kek, salt: &[u8]) -> Result<Zeroizing<[u8; 32]>, Fault> {
        let text = [DOMAIN, &kek.id.0, salt].concat();
        self.authenticate_hidden(&kek.blob, kek.id, &text)
    }
}
