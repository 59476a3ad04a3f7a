//! What the token remembers of the ledger, so that a database rolled back or swapped is noticed.
//! Enters: the ledger's steps, in order, after they are durable in the database.
//! Leaves: what the token holds now, and, from a TPM, signed statements about it.

use serde::{Deserialize, Serialize};

/// One step of the anchor: the ledger had `size` entries under `root`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchorStep {
    /// The step's number, from 1, without gaps.
    pub k: u64,
    /// How many entries the ledger had.
    pub size: u64,
    /// The Merkle root over them.
    pub root: [u8; 32],
    /// What a TPM extends by.
    pub digest: [u8; 32],
    /// The head before this step; all zero before the first.
    pub before: [u8; 32],
    /// The head after it: SHA-256(before | digest).
    pub after: [u8; 32],
}

/// What the token holds of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AnchorReading {
    /// The head after the last step; `None` before the first.
    pub head: Option<[u8; 32]>,
    /// The number of the last step, where the token tells.
    pub steps: Option<u64>,
    /// A counter that only grows, where there is one.
    pub counter: Option<u64>,
    /// Which token or index answered: another value means another token.
    pub identity: Vec<u8>,
    /// There is no anchor at all: a fresh token, a cleared one, or another one.
    pub missing: bool,
}

/// A TPM's signed statement of the anchor's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnchorAttestation {
    /// TPMS_ATTEST, as signed.
    pub attest: Vec<u8>,
    /// ECDSA signature over it, DER.
    pub signature_der: Vec<u8>,
    /// The attestation key's SPKI DER.
    pub ak_spki_der: Vec<u8>,
}

/// A TPM's signed statement of the machine's measured state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// TPMS_ATTEST, as signed.
    pub attest: Vec<u8>,
    /// ECDSA signature over it, DER.
    pub signature_der: Vec<u8>,
    /// The attestation key's SPKI DER.
    pub ak_spki_der: Vec<u8>,
    /// The quoted PCRs of the SHA-256 bank: index and value.
    pub pcrs: Vec<(u8, [u8; 32])>,
}
