//! Work that nobody asks for: noting when API keys were last used, forgetting what is over when its time is over.
//! Who enters: the clock.
//! What leaves: what the services do about it, each in its own words on the ledger.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::again::Again;
use crate::config::RetentionConfig;
use crate::events::Events;
use crate::leases::Leases;
use crate::runs::Runs;
use crate::services::workspaces::Workspaces;

const EVERY: Duration = Duration::from_secs(30);

/// Who has something to note or to forget.
pub struct Housekeeping {
    /// When API keys were last used.
    pub workspaces: Arc<Workspaces>,
    /// Answers.
    pub again: Again,
    /// Events.
    pub events: Arc<Events>,
    /// Names that nobody leases.
    pub leases: Arc<Leases>,
    /// Workflows that are over.
    pub runs: Arc<Runs>,
    /// How long things are kept.
    pub retention: RetentionConfig,
}

impl Housekeeping {
    /// Keeps house until the house stops.
    pub async fn run(self, stopping: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = stopping.cancelled() => return self.note().await,
            }
            self.note().await;
            self.sweep().await;
        }
    }

    async fn note(&self) {
        if let Err(why) = self.workspaces.note_last_used().await {
            tracing::warn!(%why, "last uses of API keys were not noted");
        }
    }

    async fn sweep(&self) {
        stays("answers", self.again.sweep().await);
        stays("events", self.events.sweep(self.retention.events()).await);
        stays("names of leases", self.leases.sweep().await);
        stays("workflows", self.runs.sweep(self.retention.workflows()).await);
    }
}

fn stays<T, E: Display>(what: &str, swept: Result<T, E>) {
    if let Err(why) = swept {
        tracing::debug!(%why, what, "what is over stays for another round");
    }
}
