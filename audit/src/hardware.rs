//! The two narrow joints to hardware: a `Sealer` signs texts, an `Anchor` remembers how far the ledger has come.
//! Who enters: `wiring`, with a token or TPM behind each; the doubles of the tests.
//! What leaves: requests to sign, read, advance and attest, one at a time.

use std::future::Future;
use std::pin::Pin;

use crate::note::NoteKey;

/// A request to hardware under way.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, HardwareFault>> + Send + 'a>>;

/// The hardware did not do it, or did not say that it did.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum HardwareFault {
    /// It did nothing; the same request may be sent again.
    #[error("the hardware is not available: {0}")]
    Unavailable(String),
    /// It may have acted. Read before anything else is asked of it.
    #[error("the hardware was lost during the request: {0}")]
    OutcomeUnknown(String),
    /// It said no, and will say so again.
    #[error("the hardware refused: {0}")]
    Refused(String),
}

/// Signs checkpoint texts with keys that cannot leave their hardware.
pub trait Sealer: Send + Sync {
    /// The keys, in the order of the lines they write.
    fn keys(&self) -> &[NoteKey];
    /// A raw signature: Ed25519 64 bytes, or ECDSA P-256 as DER over SHA-256 of the text.
    fn sign<'a>(&'a self, key: usize, text: &'a [u8]) -> Answer<'a, Vec<u8>>;
}

/// What an anchor is made of, and so what it stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// An object in the token, replaced at each step: stops who writes the database, not who holds the PIN.
    TokenObject,
    /// An NV extend index in the TPM: no host software can take a step back.
    TpmNv,
}

impl Tier {
    /// The word kept on the ledger.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TokenObject => "token-object",
            Self::TpmNv => "tpm-nv",
        }
    }
}

/// Where the hardware remembers the ledger to be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reading {
    /// The extend value; `None` when nothing was ever written.
    pub head: Option<[u8; 32]>,
    /// The highest step, where the hardware keeps it (token object).
    pub steps: Option<u64>,
    /// The start counter, where there is one.
    pub counter: Option<u64>,
    /// What tells this anchor from another: index name, or prefix of the object's label.
    pub identity: Vec<u8>,
    /// The index or object that was set up is not there.
    pub missing: bool,
}

/// One step of the anchor: the TPM needs only `digest`, a token object stores the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Its number, from 1.
    pub k: u64,
    /// Entries covered.
    pub size: u64,
    /// Root over them.
    pub root: [u8; 32],
    /// What the index is extended by.
    pub digest: [u8; 32],
    /// The value before.
    pub before: [u8; 32],
    /// The value after: SHA-256(before | digest).
    pub after: [u8; 32],
}

/// The hardware's signed word about the value it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// `TPMS_ATTEST` as it came out.
    pub statement: Vec<u8>,
    /// DER ECDSA signature over SHA-256 of the statement.
    pub signature: Vec<u8>,
    /// The attestation key's public part, SPKI DER.
    pub key: Vec<u8>,
}

/// Remembers how far the ledger has come, where software cannot take it back.
pub trait Anchor: Send + Sync {
    /// What it is made of.
    fn tier(&self) -> Tier;
    /// What it remembers.
    fn read(&self) -> Answer<'_, Reading>;
    /// Takes one step.
    fn advance(&self, step: Step) -> Answer<'_, ()>;
    /// Its signed word about the present value, with 32 bytes of ours inside; `None` where it cannot sign.
    fn attest(&self, qualifying: [u8; 32]) -> Answer<'_, Option<Attestation>>;
    /// Increments the start counter, once per start of the service; `None` where there is none.
    fn count_start(&self) -> Answer<'_, Option<u64>>;
}
