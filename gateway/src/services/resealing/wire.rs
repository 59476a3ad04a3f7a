//! The JSON of a master key that was sealed anew.
//! Who enters: what the command gives back.
//! What leaves: answers.

use schemars::JsonSchema;
use serde::Serialize;

use super::Resealed;

/// What the master key is sealed to now.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SealedTo {
    /// The TPM's registers (PCRs of the SHA-256 bank) with the values they have now; an empty list seals to the chip alone.
    pub pcrs: Vec<u8>,
}

impl From<&Resealed> for SealedTo {
    fn from(resealed: &Resealed) -> Self {
        Self { pcrs: resealed.pcrs.clone() }
    }
}
