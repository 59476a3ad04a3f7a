//! What the engine promises beyond its cells: locks in line, signals that are not lost, one owner, pinned versions, verbs.
//! Who enters: sagas of the samples, people, two engines over one ledger.
//! What leaves: sagas where they should stand, and entries that tell how they came there.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

#[path = "../common/mod.rs"]
mod common;
mod locks;
mod ownership;
mod people;
mod pivots;
mod signals;
mod telling;
mod time;

use audit::{EntryFilter, EntryScope};

use common::Sample;

async fn actions(sample: &Sample) -> Vec<String> {
    let filter = EntryFilter { scope: EntryScope::Workspace(common::acme()), ..EntryFilter::default() };
    let entries = sample.ledger().read(move |view| view.entries(&filter)).await.unwrap();
    entries.into_iter().map(|entry| entry.action).collect()
}
