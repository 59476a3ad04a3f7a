//! Keeps one worker alive and carries calls to it.
//! Enters: queued calls with deadlines.
//! Leaves: their results, and the token's state.

use std::time::Instant;

use crate::error::StartRefused;

/// How a token is at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// Answers. Handles and sessions live no longer than one generation.
    Ready {
        /// Which worker since the start, from 1.
        generation: u64,
    },
    /// Does not answer; another worker is on its way.
    Down {
        /// Since when.
        since: Instant,
        /// In words.
        why: String,
    },
    /// A person has to change something; nothing is tried any more.
    Refused {
        /// What, and how.
        why: StartRefused,
    },
}

#[derive(Clone, Debug)]
pub(crate) struct Supervised {}

impl Supervised {
    pub(crate) async fn start(_config: crate::TokenConfig) -> Result<Self, StartRefused> {
        Err(StartRefused::Device("not built yet".to_owned()))
    }
    pub(crate) fn double(_double: crate::Double) -> Self {
        Self {}
    }
    pub(crate) fn state(&self) -> TokenState {
        TokenState::Ready { generation: 1 }
    }
    pub(crate) fn watch(&self) -> tokio::sync::watch::Receiver<TokenState> {
        tokio::sync::watch::channel(self.state()).1
    }
    pub(crate) fn probe(&self) -> std::sync::Arc<crate::Probe> {
        std::sync::Arc::default()
    }
    pub(crate) async fn close(self) {}
    pub(crate) async fn ask(
        &self,
        _call: crate::protocol::Call,
        _deadline: Instant,
    ) -> Result<crate::protocol::Reply, crate::TokenError> {
        Err(crate::TokenError::Expired)
    }
}
