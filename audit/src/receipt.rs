//! The room of receipts: what someone outside needs to see that an act was recorded, and nothing of other entries.
//! Who enters: the audit service, handing one out; anyone who was handed one.
//! What leaves: one JSON object, or the facts it proves and who vouches for them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{Checkpoint, Proof, ProofRefused};
use crate::leaf::{Leaf, NotALeaf, leaf_hash, payload_commit};
use crate::note::NoteKey;
use crate::verify::seals::required_lines;

/// A leaf, what it commits to, and the proof that it is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The leaf, verbatim.
    pub leaf: Vec<u8>,
    /// The salt of its commitment.
    pub salt: Vec<u8>,
    /// The detail it commits to.
    pub payload: Vec<u8>,
    /// Path and signed checkpoint.
    pub proof: Proof,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    leaf: String,
    salt: String,
    payload: String,
    proof: String,
}

/// Why a receipt is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptRefused {
    /// It does not have the form of a receipt.
    #[error("not a receipt: {0}")]
    Malformed(&'static str),
    /// Its leaf is none.
    #[error(transparent)]
    Leaf(#[from] NotALeaf),
    /// Leaf and proof speak of different entries or logs.
    #[error(
        "the leaf is entry {leaf} of `{origin}`, but the proof is about entry {proof} of `{proof_origin}`"
    )]
    Mismatch {
        /// The leaf's number.
        leaf: u64,
        /// The leaf's log.
        origin: String,
        /// The proof's index.
        proof: u64,
        /// The checkpoint's log.
        proof_origin: String,
    },
    /// The detail was exchanged.
    #[error("the detail is not the one that entry {0} commits to")]
    WrongPayload(u64),
    /// A line that the keys demand is not there.
    #[error("the checkpoint: {0}")]
    Lines(String),
    /// The proof does not hold.
    #[error("the proof does not hold")]
    Proof(#[from] ProofRefused),
}

impl Receipt {
    /// The JSON form: leaf, salt and payload in base64, the proof as text.
    pub fn to_json(&self) -> String {
        serde_json::json!({
            "leaf": STANDARD.encode(&self.leaf),
            "salt": STANDARD.encode(&self.salt),
            "payload": STANDARD.encode(&self.payload),
            "proof": self.proof.to_string(),
        })
        .to_string()
    }

    /// Reads the JSON form.
    pub fn from_json(json: &[u8]) -> Result<Self, ReceiptRefused> {
        let bad = ReceiptRefused::Malformed;
        let wire: Wire =
            serde_json::from_slice(json).map_err(|_| bad("it is not the JSON object of a receipt"))?;
        let decode = |text: &str| STANDARD.decode(text).map_err(|_| bad("a field is not base64"));
        Ok(Self {
            leaf: decode(&wire.leaf)?,
            salt: decode(&wire.salt)?,
            payload: decode(&wire.payload)?,
            proof: Proof::parse(wire.proof.as_bytes())?,
        })
    }

    /// Checks all of it against keys the reader trusts: what was recorded, in which checkpoint, signed by whom. Each key
    /// that bears a name of this log is a demand: its line must be there.
    pub fn check<'k>(
        &self,
        known: &'k [NoteKey],
    ) -> Result<(Leaf<'_>, Checkpoint, Vec<&'k NoteKey>), ReceiptRefused> {
        let leaf = Leaf::decode(&self.leaf)?;
        let salt = <&[u8; 32]>::try_from(&self.salt[..]);
        let salt = salt.map_err(|_| ReceiptRefused::Malformed("its salt does not have 32 bytes"))?;
        if payload_commit(salt, &self.payload) != leaf.payload_commit {
            return Err(ReceiptRefused::WrongPayload(leaf.seq));
        }
        let (checkpoint, signers) = self.proof.check(&leaf_hash(&self.leaf), known)?;
        if leaf.seq != self.proof.index || leaf.origin != checkpoint.origin {
            return Err(ReceiptRefused::Mismatch {
                leaf: leaf.seq,
                origin: leaf.origin.to_owned(),
                proof: self.proof.index,
                proof_origin: checkpoint.origin,
            });
        }
        required_lines(&checkpoint.origin, known, &signers, true).map_err(ReceiptRefused::Lines)?;
        Ok((leaf, checkpoint, signers))
    }
}
