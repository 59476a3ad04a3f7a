//! The room where a TPM's word is read: `TPMS_ATTEST` over an NV index, and the signature on it.
//! Who enters: sealing, before it trusts an attestation; the verifier, years later.
//! What leaves: the certified value with the clock beside it, or what is wrong with the statement.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};

use crate::hardware::Attestation;
use crate::leaf::Hash;

const GENERATED: &[u8] = &[0xff, 0x54, 0x43, 0x47];
const TAG_NV: u16 = 0x8014;
/// SubjectPublicKeyInfo of an uncompressed P-256 point, up to the point itself.
const P256_SPKI_LENGTH: usize = 26;

/// What an NV_Certify statement says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NvStatement {
    /// Name of the index, pinned at the first anchor.
    pub index_name: Vec<u8>,
    /// What we asked the TPM to put in.
    pub extra: Vec<u8>,
    /// The certified contents.
    pub contents: Vec<u8>,
    /// Milliseconds the TPM was powered; only grows.
    pub clock_ms: u64,
    /// Resets of the TPM.
    pub resets: u32,
    /// Restarts since the last reset.
    pub restarts: u32,
}

/// What is wrong with an attestation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttestationRefused {
    /// It is not a statement about an NV index.
    #[error("not an NV_Certify statement: {0}")]
    Malformed(&'static str),
    /// The attestation key did not sign it.
    #[error("the attestation key did not sign this statement")]
    BadSignature,
    /// It is a statement about something else.
    #[error("the statement's {field} is {found}, expected {expected}")]
    Other {
        /// Which part.
        field: &'static str,
        /// What should be there.
        expected: String,
        /// What is.
        found: String,
    },
}

impl NvStatement {
    /// Reads a `TPMS_ATTEST` of type NV.
    pub fn parse(bytes: &[u8]) -> Result<Self, AttestationRefused> {
        let mut rest = Reader(bytes);
        if rest.take(4)? != GENERATED {
            return Err(AttestationRefused::Malformed("it was not made by a TPM"));
        }
        if rest.number::<2>()? != u64::from(TAG_NV) {
            return Err(AttestationRefused::Malformed("it is of another type"));
        }
        rest.sized()?;
        let extra = rest.sized()?.to_vec();
        let clock_ms = rest.number::<8>()?;
        let (resets, restarts) = (rest.number::<4>()?, rest.number::<4>()?);
        rest.take(1)?;
        rest.take(8)?;
        let index_name = rest.sized()?.to_vec();
        if rest.number::<2>()? != 0 {
            return Err(AttestationRefused::Malformed("it does not begin at offset 0"));
        }
        let contents = rest.sized()?.to_vec();
        if !rest.0.is_empty() {
            return Err(AttestationRefused::Malformed("bytes follow its end"));
        }
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        Ok(Self { index_name, extra, contents, clock_ms, resets: narrow(resets), restarts: narrow(restarts) })
    }
}

/// Checks that `attestation` is its key's word that an index held `value` when asked with `qualifying`.
/// Whose key it is, is for the reader to know: compare it with the one pinned at enrolment. So it is with the index:
/// its name stands in the statement, and every later statement must be about the index `name` of the first.
pub fn check_attestation(
    attestation: &Attestation,
    name: Option<&[u8]>,
    value: &Hash,
    qualifying: &Hash,
) -> Result<NvStatement, AttestationRefused> {
    let point = attestation.key.get(P256_SPKI_LENGTH..).unwrap_or_default();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point)
        .verify(&attestation.statement, &attestation.signature)
        .map_err(|_| AttestationRefused::BadSignature)?;
    let statement = NvStatement::parse(&attestation.statement)?;
    let same = |field, expected: &[u8], found: &[u8]| match expected == found {
        true => Ok(()),
        false => Err(AttestationRefused::Other {
            field,
            expected: hex::encode(expected),
            found: hex::encode(found),
        }),
    };
    same("index name", name.unwrap_or(&statement.index_name), &statement.index_name)?;
    same("value", value, &statement.contents)?;
    same("qualifying data", qualifying, &statement.extra)?;
    Ok(statement)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], AttestationRefused> {
        let ends = AttestationRefused::Malformed("it ends too early");
        let (head, tail) = self.0.split_at_checked(count).ok_or(ends)?;
        self.0 = tail;
        Ok(head)
    }

    fn number<const N: usize>(&mut self) -> Result<u64, AttestationRefused> {
        Ok(self.take(N)?.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte)))
    }

    fn sized(&mut self) -> Result<&'a [u8], AttestationRefused> {
        let length = self.number::<2>()?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }
}
