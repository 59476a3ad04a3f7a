//! The words of idempotency: whose key, what answer, where a request stands, why a claim is void.
//! Who enters: claims and their rows.
//! What leaves: values the boundary turns into answers.

use std::time::Duration;

use audit::SqlFault;
use serde::{Deserialize, Serialize};

use crate::ids::{SagaKey, Scope};
use crate::seal::SealFault;

/// Whose key it is: two principals never meet, whatever keys they choose.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Whose {
    /// The workspace, or the appliance for operators.
    pub scope: Scope,
    /// Who asks: an API key's or a person's id.
    pub principal: String,
}

/// How an answer is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// How long: a day, or thirty for what cannot be undone. A refusal by a rule goes after a day in any case.
    pub long: Duration,
    /// As long as the workspace's answers take less than this; a request with a key is refused beyond. `None`: no bound.
    pub bytes_max: Option<u64>,
}

/// What is kept of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Headers that are given again; the boundary knows which.
    pub headers: Vec<(String, String)>,
    /// The body, byte for byte.
    pub body: Vec<u8>,
    /// Where the result can be read, which is all that is kept of a long body.
    pub location: Option<String>,
}

/// An answer given again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    /// The answer; with the one-time secret while that is kept.
    pub answer: Answer,
    /// Whether the body is whole: of a long one only status and place are kept.
    pub whole: bool,
    /// For an answer with a one-time secret: whether the secret is still in it.
    pub secret_available: Option<bool>,
}

/// Where a request with this key stands.
#[derive(Clone, Debug, PartialEq)]
pub enum Standing {
    /// Nobody has claimed it. From [`Claim::take`] it comes with the claim.
    Fresh(Held),
    /// It was answered, or stopped after its effect; this is the answer.
    Finished(Replay),
    /// It started this workflow, which is its answer.
    Attached(SagaKey),
    /// Another request with it is being worked on, at most until then.
    InFlight {
        /// In microseconds since 1970.
        until_us: u64,
    },
    /// It was begun and not answered, and did nothing that was to be kept: go on with it.
    Resume(Held),
    /// The key belongs to another request; nothing of that is shown.
    OtherRequest,
}

/// The claim of one request on its key. A later claim makes this one void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    pub(super) epoch: i64,
}

/// Why a claim could not be used.
#[derive(Debug, thiserror::Error)]
pub enum ClaimRefused {
    /// It took too long, and another request has gone on with it. That one answers.
    #[error("another request has taken over this key")]
    Superseded,
    /// The workspace keeps as many bytes of answers as it may; nothing was done.
    #[error("the workspace keeps as many answers as it may")]
    Full,
    /// Sealing or opening failed.
    #[error("what is kept of the request cannot be sealed or opened")]
    Seal(#[from] SealFault),
    /// A value does not serialise.
    #[error("what is to be kept does not serialise")]
    Json(#[from] serde_json::Error),
    /// The database did not do it.
    #[error("the database did not run a statement")]
    Sql(#[from] SqlFault),
}
