//! What an observer sees of a saga: each run, undo, probe and wait, once, with its end, and on whose behalf.
//! Who enters: sagas of the samples that go well, go wrong, or outlive their engine.
//! What leaves: the deeds in the order in which they ended.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit::Told;
use common::{Input, SECOND, Sample, fan, mixed, parent, plain_local, scope};
use sagas::limits::ITEMS_SEEN_MAX;
use sagas::testing::World as _;
use sagas::testing::inject::{Fault, How, Plan, wrap};
use sagas::{
    Deed, Definition, Engine, EngineParts, Observer, OnConflict, Origin, Past, Phase, Probe, SagaKey,
    SignalRequest, StartRequest, State, StepContext, Undo, Watched, Workflow,
};

const LONG: Duration = Duration::from_secs(30);
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Writes down what it sees.
#[derive(Clone, Default)]
struct Witness {
    seen: Arc<Mutex<Vec<Seen>>>,
}

struct Seen {
    words: String,
    item: Option<usize>,
    origin: Arc<Origin>,
    took: Option<Duration>,
}

impl Witness {
    fn note(&self, deed: Deed, at: &StepContext, ended: &str, took: Option<Duration>) {
        let words = format!("{} {} {ended}", deed.as_str(), at.step);
        self.seen.lock().unwrap().push(Seen { words, item: at.item, origin: at.origin.clone(), took });
    }

    fn words(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|seen| seen.words.clone()).collect()
    }

    /// The items that were seen, each as often as it was.
    fn items(&self) -> Vec<usize> {
        let mut items: Vec<_> = self.seen.lock().unwrap().iter().filter_map(|seen| seen.item).collect();
        items.sort_unstable();
        items
    }

    /// Every deed was done in the name of who started the saga, in the trace of that start.
    fn all_of(&self, request: &str) {
        let seen = self.seen.lock().unwrap();
        assert!(
            seen.iter().all(|it| it.origin.request == request && it.origin.trace_id() == Some(&TRACE[3..35]))
        );
    }
}

impl Observer for Witness {
    fn watch(&self, deed: Deed, at: &StepContext, work: Watched) -> Watched {
        let (witness, at) = (self.clone(), at.clone());
        Box::pin(async move {
            let ended = work.await;
            witness.note(deed, &at, ended, None);
            ended
        })
    }

    fn taken(&self, deed: Deed, at: &StepContext, past: &Past) {
        self.note(deed, at, &past.ended, Some(past.took));
    }
}

fn request(workflow: &str) -> StartRequest {
    let origin = Origin {
        actor: "user:alice".to_owned(),
        request: "req-1".to_owned(),
        traceparent: Some(TRACE.to_owned()),
        ..Origin::default()
    };
    StartRequest::new(workflow, scope(), &Input { round: 1 }).unwrap().origin(origin)
}

async fn engine(sample: &Sample, witness: &Witness, definitions: Vec<Definition>) -> Engine {
    let parts = EngineParts { observer: Arc::new(witness.clone()), ..sample.parts_with(definitions) };
    Engine::start(parts).await.unwrap()
}

async fn waits(engine: &Engine, key: &SagaKey) {
    while engine.show(key).await.unwrap().unwrap().summary.state != State::Waiting.as_str() {
        engine.tick();
        tokio::task::yield_now().await;
    }
}

async fn approve(engine: &Engine, key: &SagaKey) {
    for vote in [1, 2] {
        let signal = SignalRequest::new(key.clone(), "approve", vote.to_string(), &vote).unwrap();
        engine.signal(signal).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_step_is_seen_once_with_how_it_ended_and_for_whom() {
    let (sample, witness) = (Sample::new(""), Witness::default());
    let engine = engine(&sample, &witness, vec![mixed(&sample.outside)]).await;
    let key = engine.launch(request("sample.mixed")).await.unwrap().key;
    waits(&engine, &key).await;
    assert_eq!(witness.words(), ["run reserve done", "run make done"], "the wait is not over");
    approve(&engine, &key).await;
    assert_eq!(engine.wait(&key, LONG).await.unwrap().unwrap().state, State::Succeeded);
    let after = ["wait approval done", "run attach done", "run pivot done", "run publish done"];
    assert_eq!(witness.words()[2..], after);
    witness.all_of("req-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_seen_with_its_probe_and_a_refusal_with_every_undo() {
    let (sample, witness, plan) = (Sample::new(""), Witness::default(), Arc::new(Plan::default()));
    plan.set(vec![
        Fault { step: 1, phase: Phase::Do, how: How::LostAfter, times: 1 },
        // However often it is asked: in the commit of the wait's end it has no word yet, alone it has.
        Fault { step: 3, phase: Phase::Do, how: How::Refuse, times: 9 },
    ]);
    let engine = engine(&sample, &witness, vec![wrap(mixed(&sample.outside), &plan)]).await;
    let key = engine.launch(request("sample.mixed")).await.unwrap().key;
    waits(&engine, &key).await;
    assert_eq!(witness.words(), ["run reserve done", "run make unknown", "probe make applied"]);
    approve(&engine, &key).await;
    assert_eq!(engine.wait(&key, LONG).await.unwrap().unwrap().state, State::Compensated);
    let after = [
        "wait approval done",
        "run attach injected",
        "undo approval done",
        "undo make done",
        "undo reserve done",
    ];
    assert_eq!(witness.words()[3..], after);
    witness.all_of("req-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_is_seen_whole_by_the_engine_that_ends_it_and_in_the_same_trace() {
    let (sample, first, second) = (Sample::new(""), Witness::default(), Witness::default());
    let definitions = || vec![mixed(&sample.outside)];
    let dying = engine(&sample, &first, definitions()).await;
    let key = dying.launch(request("sample.mixed")).await.unwrap().key;
    waits(&dying, &key).await;
    dying.halt();
    dying.close().await;
    sample.reopen().await;
    sample.clock.advance(SECOND * 20);
    let engine = engine(&sample, &second, definitions()).await;
    approve(&engine, &key).await;
    assert_eq!(engine.wait(&key, LONG).await.unwrap().unwrap().state, State::Succeeded);
    assert_eq!(second.words()[0], "wait approval done");
    let took = second.seen.lock().unwrap()[0].took.unwrap();
    assert!(took >= SECOND * 20 && took < SECOND * 60, "{took:?}");
    second.all_of("req-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fan_out_is_seen_item_by_item_and_as_a_whole_and_a_child_with_its_parent() {
    let (sample, witness) = (Sample::new(""), Witness::default());
    let definitions = vec![fan(&sample.outside), parent(), plain_local("sample.child")];
    let engine = engine(&sample, &witness, definitions).await;
    for workflow in ["sample.fan", "sample.parent"] {
        let key = engine.launch(request(workflow)).await.unwrap().key;
        assert_eq!(engine.wait(&key, LONG).await.unwrap().unwrap().state, State::Succeeded);
    }
    // Ten items and the step itself.
    let fan = [&["run claim done"][..], &["run each done"; 11], &["run pivot done"]].concat();
    assert_eq!(witness.items(), (0..10).collect::<Vec<_>>());
    let child = [
        "run open done",
        "run first done",
        "run second done",
        "run third done",
        "run pivot done",
        "run after done",
    ];
    let parent = ["run inner done", "run pivot done"];
    assert_eq!(witness.words(), [&fan[..], &child, &parent].concat());
    witness.all_of("req-1");
}

/// A fan-out of so many items that take nothing.
fn crowd(items: u32) -> Definition {
    Workflow::define("sample.crowd")
        .version(1)
        .input::<Input>()
        .local("open", |_, cx, _, ()| Ok(Told::new(0, cx.entry("thing.open", "x"))), Undo::none("nothing"))
        .pivot_fan_out("each", move |step| {
            step.items(SECOND * 10, move |_, _: &usize| (0..items).collect())
                .act(|_, _, _, item: u32, _| async move { Ok(item) })
                .probe(|_, _, _, _| async { Probe::NotApplied })
                .gather(|_, cx, _, _, outs: Vec<u32>| Ok((outs.len(), vec![cx.entry("thing.all", "x")])))
        })
        .local("close", |_, cx, _, all: &usize| Ok(Told::new(*all, cx.entry("thing.close", "x"))))
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_crowd_of_items_the_first_are_seen_and_of_the_others_how_many_there_are() {
    let (sample, witness) = (Sample::new(""), Witness::default());
    let engine = engine(&sample, &witness, vec![crowd(100)]).await;
    let key = engine.launch(request("sample.crowd")).await.unwrap().key;
    assert_eq!(engine.wait(&key, LONG).await.unwrap().unwrap().state, State::Succeeded);
    assert_eq!(witness.items(), (0..ITEMS_SEEN_MAX).collect::<Vec<_>>());
    let each = vec!["run each done"; ITEMS_SEEN_MAX];
    let after = ["others each 36 more items", "run each done", "run close done"];
    assert_eq!(witness.words(), [&["run open done"][..], &each, &after].concat());
    witness.all_of("req-1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_in_line_for_a_lock_is_seen_and_of_one_that_was_granted_at_once_there_is_none() {
    let (sample, witness) = (Sample::new(""), Witness::default());
    let engine = engine(&sample, &witness, vec![mixed(&sample.outside)]).await;
    let queue = |patience| request("sample.mixed").on_conflict(OnConflict::Queue(patience));
    let holder = engine.launch(queue(SECOND * 600)).await.unwrap().key;
    waits(&engine, &holder).await;
    let patient = engine.launch(queue(SECOND * 600)).await.unwrap();
    let impatient = engine.launch(queue(SECOND * 5)).await.unwrap();
    assert_eq!((patient.state, impatient.state), (State::Pending, State::Pending));
    sample.clock.advance(SECOND * 20);
    engine.tick();
    assert_eq!(engine.wait(&impatient.key, LONG).await.unwrap().unwrap().state, State::Compensated);
    approve(&engine, &holder).await;
    waits(&engine, &patient.key).await;
    let seen = witness.seen.lock().unwrap();
    let locks: Vec<_> = seen.iter().filter(|seen| seen.words.starts_with("lock")).collect();
    let words: Vec<_> = locks.iter().map(|seen| seen.words.as_str()).collect();
    assert_eq!(words, ["lock reserve locked", "lock reserve granted"]);
    assert!(locks.iter().all(|seen| seen.took.unwrap() >= SECOND * 20), "from the start on");
    drop(seen);
    witness.all_of("req-1");
}
