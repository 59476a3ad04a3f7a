//! What leaves the TPM to be kept elsewhere: a key wrapped under the storage root, in bytes.
//! In come the TPM's two halves of an object.
//! Out go bytes for a database or a file, and back, refused unless they are exactly what was written.

use hsm::backend::Fault;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tss_esapi::structures::{Private, Public};
use tss_esapi::traits::{Marshall, UnMarshall};
use tss_esapi_sys::{TPM2B_PRIVATE, TPM2B_PUBLIC};

use super::templates::{parsed, plain, unreadable};

/// An object that only its TPM can load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Wrapped {
    /// TPMT_PUBLIC.
    public: Vec<u8>,
    /// TPM2B_PRIVATE without its length: encrypted and authenticated by the storage root.
    private: Vec<u8>,
}

impl Wrapped {
    pub(super) fn of(private: TPM2B_PRIVATE, public: TPM2B_PUBLIC) -> Result<Self, Fault> {
        let public = parsed(public)?.marshall().map_err(unreadable)?;
        let private = Private::try_from(private).map_err(unreadable)?.value().to_vec();
        Ok(Self { public, private })
    }

    /// As the load command wants it; `None` when these were never a TPM's bytes.
    pub(super) fn halves(&self) -> Option<(TPM2B_PRIVATE, TPM2B_PUBLIC)> {
        let private = Private::try_from(self.private.as_slice()).ok()?.into();
        let public = plain(self.public()?).ok()?;
        Some((private, public))
    }

    pub(super) fn public(&self) -> Option<Public> {
        Public::unmarshall(&self.public).ok()
    }
}

/// The first byte of each blob; another layout gets another number.
const LAYOUT: u8 = 1;

/// Bytes for keeping.
pub(super) fn write(value: &impl Serialize) -> Result<Vec<u8>, Fault> {
    let bytes = postcard::to_extend(value, vec![LAYOUT]);
    bytes.map_err(|reason| Fault::Lost { why: format!("a blob cannot be written: {reason}"), harmless: true })
}

/// Reads what [`write`] wrote, all of it.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (value, rest) = postcard::take_from_bytes(bytes.strip_prefix(&[LAYOUT])?).ok()?;
    rest.is_empty().then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tpm::templates::{attestation_key, hmac_key};

    fn sample(public: &Public) -> Vec<u8> {
        write(&Wrapped { public: public.marshall().unwrap(), private: vec![7; 100] }).unwrap()
    }

    #[test]
    fn what_was_written_is_read_and_nothing_longer_or_shorter() {
        let bytes = sample(&hmac_key());
        assert!(read::<Wrapped>(&bytes).is_some_and(|wrapped| wrapped.halves().is_some()));
        assert_eq!(read::<Wrapped>(&bytes[..bytes.len() - 1]), None);
        assert_eq!(read::<Wrapped>(&[bytes, vec![0]].concat()), None);
    }

    #[test]
    fn no_altered_bit_does_more_than_be_refused() {
        for bytes in [sample(&hmac_key()), sample(&attestation_key())] {
            for bit in 0..bytes.len() * 8 {
                let mut bent = bytes.clone();
                bent[bit / 8] ^= 1 << (bit % 8);
                // What still parses is for the TPM to judge; here it must only not panic.
                let _ = read::<Wrapped>(&bent).map(|wrapped| (wrapped.halves(), wrapped.public()));
            }
        }
    }
}
