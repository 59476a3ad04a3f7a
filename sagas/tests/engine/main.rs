//! What the engine promises beyond its cells: locks in line, signals that are not lost, one owner, pinned versions, verbs.
//! Who enters: sagas of the samples, people, two engines over one ledger.
//! What leaves: sagas where they should stand, and entries that tell how they came there.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

#[path = "../common/mod.rs"]
mod common;
mod locks;
mod ownership;
mod people;
mod signals;
mod telling;

use std::time::Duration;

use audit::{EntryFilter, EntryScope};
use sagas::{Definition, End, Engine, Origin, SagaKey, SignalRequest, Signalled, StartRequest, State};

use common::{Input, Sample, scope};

const LONG: Duration = Duration::from_secs(30);

fn request(workflow: &str, round: u64) -> StartRequest {
    let origin = Origin { actor: "user:alice".to_owned(), request: "req-1".to_owned(), ..Origin::default() };
    StartRequest::new(workflow, scope(), &Input { round }).unwrap().origin(origin)
}

fn operator() -> Origin {
    Origin { actor: "operator:olga".to_owned(), ..Origin::default() }
}

async fn engine(sample: &Sample, definitions: Vec<Definition>) -> Engine {
    Engine::start(sample.parts_with(definitions)).await.unwrap()
}

async fn until(engine: &Engine, key: &SagaKey, state: State) {
    let stands = async || engine.show(key).await.unwrap().unwrap().summary.state;
    while stands().await != state.as_str() {
        engine.tick();
        tokio::task::yield_now().await;
    }
}

async fn end(engine: &Engine, key: &SagaKey) -> End {
    engine.wait(key, LONG).await.unwrap().expect("it ends")
}

async fn vote(engine: &Engine, key: &SagaKey, vote: u32) -> Signalled {
    let signal = SignalRequest::new(key.clone(), "approve", vote.to_string(), &vote).unwrap();
    engine.signal(signal).await.unwrap()
}

async fn actions(sample: &Sample) -> Vec<String> {
    let filter = EntryFilter { scope: EntryScope::Workspace(common::acme()), ..EntryFilter::default() };
    let entries = sample.ledger().read(move |view| view.entries(&filter)).await.unwrap();
    entries.into_iter().map(|entry| entry.action).collect()
}
