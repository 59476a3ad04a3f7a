//! Who asks, and what is done with a saga from outside: start, vote, wait.
//! Who enters: tests. What leaves: requests, engines, ends.

use std::time::Duration;

use sagas::{Definition, End, Engine, Origin, SagaKey, SignalRequest, Signalled, StartRequest, State};

use super::{Input, Sample, scope};

const LONG: Duration = Duration::from_secs(30);

pub fn request(workflow: &str, round: u64) -> StartRequest {
    let origin = Origin { actor: "user:alice".to_owned(), request: "req-1".to_owned(), ..Origin::default() };
    StartRequest::new(workflow, scope(), &Input { round }).unwrap().origin(origin)
}

pub fn operator() -> Origin {
    Origin { actor: "operator:olga".to_owned(), ..Origin::default() }
}

pub async fn engine(sample: &Sample, definitions: Vec<Definition>) -> Engine {
    Engine::start(sample.parts_with(definitions)).await.unwrap()
}

/// Until it stands so, trying whatever is due again and again.
pub async fn until(engine: &Engine, key: &SagaKey, state: State) {
    let stands = async || engine.show(key).await.unwrap().unwrap().summary.state;
    while stands().await != state.as_str() {
        engine.tick();
        tokio::task::yield_now().await;
    }
}

pub async fn end(engine: &Engine, key: &SagaKey) -> End {
    engine.wait(key, LONG).await.unwrap().expect("it ends")
}

pub async fn vote(engine: &Engine, key: &SagaKey, vote: u32) -> Signalled {
    let signal = SignalRequest::new(key.clone(), "approve", vote.to_string(), &vote).unwrap();
    engine.signal(signal).await.unwrap()
}
