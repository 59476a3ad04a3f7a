//! Work that nobody asks for: noting when API keys were last used, forgetting answers and events whose time is over.
//! Who enters: the clock.
//! What leaves: what the services do about it, each in its own words on the ledger.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::again::Again;
use crate::events::Events;
use crate::services::workspaces::Workspaces;

const EVERY: Duration = Duration::from_secs(30);

/// Keeps house until the house stops.
pub async fn run(
    workspaces: Arc<Workspaces>,
    again: Again,
    events: Arc<Events>,
    stopping: CancellationToken,
) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stopping.cancelled() => return note(&workspaces).await,
        }
        note(&workspaces).await;
        if let Err(why) = again.sweep().await {
            tracing::debug!(%why, "answers whose time is over stay for another round");
        }
        if let Err(why) = events.sweep().await {
            tracing::debug!(%why, "events whose time is over stay for another round");
        }
    }
}

async fn note(workspaces: &Workspaces) {
    if let Err(why) = workspaces.note_last_used().await {
        tracing::warn!(%why, "last uses of API keys were not noted");
    }
}
