//! Work that nobody asks for: destruction that fell due, and when API keys were last used.
//! Who enters: the clock.
//! What leaves: what the services do about it, each in its own words on the ledger.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::services::keys::Keys;
use crate::services::workspaces::Workspaces;

const EVERY: Duration = Duration::from_secs(30);

/// Keeps house until the house stops.
pub async fn run(keys: Arc<Keys>, workspaces: Arc<Workspaces>, stopping: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stopping.cancelled() => return note(&workspaces).await,
        }
        note(&workspaces).await;
        match keys.destroy_due().await {
            Ok(0) => {}
            Ok(gone) => tracing::info!(gone, "keys whose notice was over were destroyed"),
            Err(why) => tracing::warn!(%why, "destruction that fell due will be tried again"),
        }
    }
}

async fn note(workspaces: &Workspaces) {
    if let Err(why) = workspaces.note_last_used().await {
        tracing::warn!(%why, "last uses of API keys were not noted");
    }
}
