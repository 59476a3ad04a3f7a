//! The life of a workspace: every state, and in which of them its programs may act.
//! Who enters: commands and steps of workflows.
//! What leaves: a state, as stored and shown.

use std::str::FromStr;

use crate::malformed::Malformed;

/// Where a workspace stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkspaceState {
    /// Its name is reserved; its key is being made.
    Creating,
    /// Its programs act.
    Open,
    /// Closed to its programs, until an operator opens it again.
    Closed,
    /// It will be shredded; until then it can be called off.
    Closing,
    /// Its key is destroyed, and with it all that it stored. The record and its ledger entries stay.
    Shredded,
}

impl WorkspaceState {
    const ALL: [Self; 5] = [Self::Creating, Self::Open, Self::Closed, Self::Closing, Self::Shredded];

    /// As stored and shown.
    pub fn text(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Open => "open",
            Self::Closed => "closed",
            Self::Closing => "closing",
            Self::Shredded => "shredded",
        }
    }

    /// Whether its programs may act.
    pub fn is_open(self) -> bool {
        self == Self::Open
    }
}

impl FromStr for WorkspaceState {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        Self::ALL
            .into_iter()
            .find(|state| state.text() == text)
            .ok_or(Malformed { expected: "workspace state" })
    }
}
