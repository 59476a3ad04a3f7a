//! What the engine promises beyond its cells: locks in line, signals that are not lost, one owner, pinned versions, verbs.
//! Who enters: sagas of the samples, people, two engines over one ledger.
//! What leaves: sagas where they should stand, and entries that tell how they came there.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use audit::{Clock, EntryFilter, EntryScope, Told, WriteRefused};
use common::{Input, SECOND, Sample, fan, mixed, parent, plain_local, remote_pivot, scope};
use sagas::testing::TestClock;
use sagas::testing::inject::{Fault, How, Plan, wrap};
use sagas::{
    Catalog, Definition, End, Engine, EngineParts, Filter, OnConflict, Origin, Phase, Ruling, SagaKey,
    SignalRefused, SignalRequest, Signalled, StartRefused, StartRequest, State, Undo, Verb, VerbRefused,
    Workflow, pinned,
};
use serde_json::json;

const LONG: Duration = Duration::from_secs(30);
/// So many that some of them come between a look and its commit.
const VOTES: i64 = 200;

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

#[tokio::test(flavor = "multi_thread")]
async fn a_held_lock_refuses_with_who_holds_it_and_queues_in_the_order_of_coming() {
    let sample = Sample::new("");
    let engine = engine(&sample, vec![mixed(&sample.outside)]).await;
    let holder = engine.launch(request("sample.mixed", 1)).await.unwrap().key;
    match engine.launch(request("sample.mixed", 1)).await {
        Err(WriteRefused::Rejected(StartRefused::Locked(blocker))) => {
            assert_eq!(
                (blocker.saga, blocker.held, blocker.lock.as_str()),
                (holder.clone(), true, "round/1")
            );
        }
        other => panic!("{other:?}"),
    }
    let patient = || request("sample.mixed", 1).on_conflict(OnConflict::Queue(SECOND * 600));
    let second = engine.launch(patient()).await.unwrap();
    let third = engine.launch(patient()).await.unwrap();
    assert_eq!((second.state, third.state), (State::Pending, State::Pending));
    for (now, next) in [(&holder, Some(&second.key)), (&second.key, Some(&third.key)), (&third.key, None)] {
        until(&engine, now, State::Waiting).await;
        if let Some(next) = next {
            assert_eq!(engine.show(next).await.unwrap().unwrap().summary.state, "pending");
        }
        vote(&engine, now, 1).await;
        vote(&engine, now, 2).await;
        assert_eq!(end(&engine, now).await.state, State::Succeeded);
    }
    assert!(engine.locks().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_too_long_for_a_lock_ends_without_having_done_anything() {
    let sample = Sample::new("");
    let engine = engine(&sample, vec![mixed(&sample.outside)]).await;
    let holder = engine.launch(request("sample.mixed", 1)).await.unwrap().key;
    until(&engine, &holder, State::Waiting).await;
    let patient = request("sample.mixed", 1).on_conflict(OnConflict::Queue(SECOND * 5));
    let waiting = engine.launch(patient).await.unwrap().key;
    sample.clock.advance(SECOND * 5);
    engine.tick();
    let end = end(&engine, &waiting).await;
    assert_eq!((end.state, end.code.as_deref()), (State::Compensated, Some("locked")));
    let late = engine.locks().await.unwrap();
    assert!(late.iter().all(|lock| lock.saga == holder), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn patience_for_a_lock_is_on_the_row_from_its_first_commit() {
    let sample = Sample::new("");
    let engine = engine(&sample, vec![mixed(&sample.outside)]).await;
    let holder = engine.launch(request("sample.mixed", 1)).await.unwrap().key;
    until(&engine, &holder, State::Waiting).await;
    let patient = request("sample.mixed", 1).on_conflict(OnConflict::Queue(SECOND * 5));
    let start = engine.prepare(patient).await.unwrap();
    let waiting = start.key().clone();
    // As if the process had died before the engine heard of it: all that is known stands in the row.
    sample.ledger().write(move |tx| start.commit(tx)).await.unwrap();
    sample.clock.advance(SECOND * 5);
    let end = end(&engine, &waiting).await;
    assert_eq!((end.state, end.code.as_deref()), (State::Compensated, Some("locked")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_is_heard_once_also_when_it_came_before_anyone_waited() {
    let sample = Sample::new("");
    let plan = Arc::new(Plan::default());
    plan.set(vec![Fault { step: 1, phase: Phase::Do, how: How::Later, times: 1 }]);
    let engine = engine(&sample, vec![wrap(mixed(&sample.outside), &plan)]).await;
    let key = engine.launch(request("sample.mixed", 1)).await.unwrap().key;
    until(&engine, &key, State::Backoff).await;
    assert_eq!(vote(&engine, &key, 2).await, Signalled::New);
    assert_eq!(vote(&engine, &key, 2).await, Signalled::Repeated);
    sample.clock.advance(SECOND * 2);
    engine.tick();
    assert_eq!(end(&engine, &key).await.state, State::Succeeded);
    let votes: Vec<_> = sample.things().await.into_iter().filter(|(name, _)| name.contains("vote")).collect();
    assert_eq!(votes, [("r1/vote2".to_owned(), 1)]);
    let deaf = SignalRequest::new(key, "approve", "3", &3).unwrap();
    assert!(matches!(engine.signal(deaf).await, Err(WriteRefused::Rejected(SignalRefused::Over))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_comes_while_nothing_is_to_be_told_is_told_when_it_is_heard() {
    let sample = Sample::new("");
    let engine = engine(&sample, vec![mixed(&sample.outside)]).await;
    let key = engine.launch(request("sample.mixed", 1)).await.unwrap().key;
    until(&engine, &key, State::Waiting).await;
    let (restless, waiting) = (engine.clone(), key.clone());
    // Looked at without end, it is again and again about to commit that nothing has changed.
    let looking = tokio::spawn(async move {
        loop {
            restless.nudge(&waiting);
            tokio::task::yield_now().await;
        }
    });
    for number in 0..VOTES {
        let signal = SignalRequest::new(key.clone(), "approve", format!("voter {number}"), &1).unwrap();
        assert_eq!(engine.signal(signal).await.unwrap(), Signalled::New);
    }
    vote(&engine, &key, 2).await;
    assert_eq!(end(&engine, &key).await.state, State::Succeeded);
    looking.abort();
    let heard: Vec<_> = sample.things().await.into_iter().filter(|(name, _)| name == "r1/vote1").collect();
    assert_eq!(heard, [("r1/vote1".to_owned(), VOTES)]);
    let filter = EntryFilter {
        scope: EntryScope::Workspace(common::acme()),
        object: Some("r1/vote1".to_owned()),
        ..EntryFilter::default()
    };
    let told = sample.ledger().read(move |view| view.entries(&filter)).await.unwrap();
    assert_eq!(i64::try_from(told.len()).unwrap(), VOTES, "heard, and not on the ledger");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_whose_first_part_is_over_begins_its_time_anew() {
    let sample = Sample::new("");
    let two_parts = Workflow::define("sample.two_parts")
        .version(1)
        .input::<Input>()
        .wait(
            "parts",
            |step| {
                step.until(|_, ()| SECOND * 60, |_, _, _, ()| Ok(Ruling::Passed((), Vec::new()))).on(
                    &["approve"],
                    |_, cx, _, (), _| {
                        Ok(Ruling::WaitingAnew(SECOND * 60, vec![cx.entry("thing.begun_anew", "x")]))
                    },
                )
            },
            Undo::none("waiting changes nothing"),
        )
        .local("second", |_, cx, _, ()| Ok(Told::new((), cx.entry("thing.done", "x"))), Undo::none("nothing"))
        .pivot_local("pivot", |_, cx, _, ()| Ok(Told::new((), cx.entry("thing.done", "x"))))
        .build()
        .unwrap();
    let engine = engine(&sample, vec![two_parts]).await;
    let key = engine.launch(request("sample.two_parts", 1)).await.unwrap().key;
    until(&engine, &key, State::Waiting).await;
    sample.clock.advance(SECOND * 59);
    vote(&engine, &key, 1).await;
    while !actions(&sample).await.contains(&"thing.begun_anew".to_owned()) {
        engine.tick();
        tokio::task::yield_now().await;
    }
    let due = engine.show(&key).await.unwrap().unwrap().summary.due_us.unwrap();
    assert_eq!(due - sample.clock.unix_us(), 60_000_000);
    sample.clock.advance(SECOND * 60);
    engine.tick();
    assert_eq!(end(&engine, &key).await.state, State::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_nobody_listens_to_is_refused_by_name() {
    let sample = Sample::new("");
    let engine = engine(&sample, vec![mixed(&sample.outside)]).await;
    let key = engine.launch(request("sample.mixed", 1)).await.unwrap().key;
    let wrong = SignalRequest::new(key.clone(), "aprove", "1", &1).unwrap();
    match engine.signal(wrong).await {
        Err(WriteRefused::Rejected(SignalRefused::NotHeard { name, .. })) => assert_eq!(name, "aprove"),
        other => panic!("{other:?}"),
    }
    let foreign =
        SagaKey { scope: sagas::Scope::Workspace(audit::Workspace::new("other").unwrap()), id: key.id };
    let signal = SignalRequest::new(foreign.clone(), "approve", "1", &1).unwrap();
    assert!(matches!(engine.signal(signal).await, Err(WriteRefused::Rejected(SignalRefused::NoSuchSaga))));
    assert!(engine.show(&foreign).await.unwrap().is_none(), "another workspace does not see it");
}

#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_signals_at_once_lose_no_wake_up() {
    let sample = Sample::new("");
    let engine = engine(&sample, vec![mixed(&sample.outside)]).await;
    let mut keys = Vec::new();
    for round in 0..60 {
        keys.push(engine.launch(request("sample.mixed", round)).await.unwrap().key);
    }
    let votes: Vec<_> = keys
        .iter()
        .flat_map(|key| [1, 2].map(|number| (engine.clone(), key.clone(), number)))
        .map(|(engine, key, number)| tokio::spawn(async move { vote(&engine, &key, number).await }))
        .collect();
    for vote in votes {
        // A second vote may come when the first, being a 2, has ended it already.
        let _ = vote.await;
    }
    for key in &keys {
        assert_eq!(end(&engine, key).await.state, State::Succeeded);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_after_the_pivot_is_refused_with_the_pivots_name() {
    let sample = Sample::new("");
    let plan = Arc::new(Plan::default());
    plan.set(vec![Fault { step: 5, phase: Phase::Do, how: How::Later, times: u32::MAX }]);
    let engine = engine(&sample, vec![wrap(mixed(&sample.outside), &plan)]).await;
    let key = engine.launch(request("sample.mixed", 1)).await.unwrap().key;
    until(&engine, &key, State::Waiting).await;
    vote(&engine, &key, 2).await;
    until(&engine, &key, State::Backoff).await;
    match engine.cancel(&key, operator(), "too late").await {
        Err(WriteRefused::Rejected(VerbRefused::PastPivot { pivot })) => assert_eq!(pivot, "pivot"),
        other => panic!("{other:?}"),
    }
}

/// A call that sleeps until it is let go.
fn slow_call(
    sample: &Sample,
    entered: &Arc<tokio::sync::Notify>,
    gate: Option<Arc<tokio::sync::Notify>>,
) -> Definition {
    let (entered, outside) = (entered.clone(), sample.outside.clone());
    Workflow::define("sample.slow")
        .version(1)
        .input::<Input>()
        .local("one", |_, cx, _, ()| Ok(Told::new(1_u8, cx.entry("thing.one", "x"))), Undo::none("nothing"))
        .pivot_remote("call", move |step| {
            let probed = outside.clone();
            step.within(SECOND * 60)
                .act(move |cx, _, _, _| {
                    let (entered, gate, outside) = (entered.clone(), gate.clone(), outside.clone());
                    async move {
                        let made = outside.apply(cx.effect, "made");
                        if let Some(gate) = gate {
                            entered.notify_one();
                            gate.notified().await;
                        }
                        Ok(made)
                    }
                })
                .probe(move |cx, _, _| {
                    let found = probed.find(cx.effect);
                    async move { found.map_or(sagas::Probe::NotApplied, sagas::Probe::Applied) }
                })
        })
        .local("two", |_, cx, _, _| Ok(Told::new(2_u8, cx.entry("thing.two", "x"))))
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_commits_nothing_after_another_engine_has_taken_over() {
    let sample = Sample::new("");
    let (entered, gate) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let first = engine(&sample, vec![slow_call(&sample, &entered, Some(gate.clone()))]).await;
    let key = first.launch(request("sample.slow", 1)).await.unwrap().key;
    entered.notified().await;
    // The first sleeps in its call. A second engine takes over, probes, and goes on to the end.
    let second = Engine::start(EngineParts {
        random: Arc::new(sagas::testing::TestDice::seeded(7)),
        ..sample.parts_with(vec![slow_call(&sample, &entered, None)])
    })
    .await
    .unwrap();
    assert_eq!(end(&second, &key).await.state, State::Succeeded);
    let told = actions(&sample).await;
    // The first wakes and would record what its call gave.
    gate.notify_one();
    first.close().await;
    assert_eq!(actions(&sample).await, told, "the zombie wrote nothing");
    assert_eq!(sample.outside.all().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_goes_on_with_the_version_it_was_started_with_and_waits_untouched_without_it() {
    let sample = Sample::new("");
    let newer = |version| Definition::clone(&with_version(mixed(&sample.outside), version));
    let first = engine(&sample, vec![newer(1)]).await;
    let key = first.launch(request("sample.mixed", 1)).await.unwrap().key;
    until(&first, &key, State::Waiting).await;
    first.close().await;
    // A build that has only the newer one: it waits, visibly, and others go on.
    let second = engine(&sample, vec![newer(2), plain_local("sample.plain")]).await;
    let other = second.launch(request("sample.plain", 2)).await.unwrap().key;
    assert_eq!(end(&second, &other).await.state, State::Succeeded);
    let shown = second.show(&key).await.unwrap().unwrap();
    assert_eq!((shown.summary.state, shown.summary.runnable), ("waiting", false));
    assert!(shown.advice[0].contains("install a build"));
    let verb = second.cancel(&key, operator(), "no").await;
    assert!(matches!(verb, Err(WriteRefused::Rejected(VerbRefused::NotOpen(_)))), "{verb:?}");
    second.close().await;
    // A build that has both: new starts take the newest, the old one goes on as it was.
    let third = engine(&sample, vec![newer(1), newer(2)]).await;
    let fresh = third.launch(request("sample.mixed", 3)).await.unwrap().key;
    vote(&third, &key, 2).await;
    assert_eq!(end(&third, &key).await.state, State::Succeeded);
    let versions = [&key, &fresh].map(|key| key.clone());
    assert_eq!(third.show(&versions[0]).await.unwrap().unwrap().summary.version, 1);
    assert_eq!(third.show(&versions[1]).await.unwrap().unwrap().summary.version, 2);
}

/// The same steps under another version; only tests can do this, a product writes the new version down.
fn with_version(definition: Definition, version: u32) -> Arc<Definition> {
    Arc::new(sagas::testing::renumbered(definition, version))
}

#[tokio::test]
async fn an_edited_definition_without_a_new_version_is_found_by_its_pin() {
    let sample = Sample::new("");
    let catalog = Catalog::new(vec![mixed(&sample.outside), plain_local("sample.plain")]).unwrap();
    let file = format!("# pinned\n{}", pinned::lines(&catalog));
    pinned::check(&catalog, &file).unwrap();
    let edited = Catalog::new(vec![fan(&sample.outside), plain_local("sample.plain")]).unwrap();
    assert!(matches!(pinned::check(&edited, &file), Err(pinned::PinRefused::Missing { .. })));
    let forged = file.replace("sample.plain@1 ", "sample.plain@1 0");
    assert!(matches!(pinned::check(&catalog, &forged), Err(pinned::PinRefused::Edited { .. })));
}

async fn stuck_at_call(sample: &Sample, plan: &Arc<Plan>) -> (Engine, SagaKey) {
    plan.set(vec![Fault { step: 1, phase: Phase::Do, how: How::Panic, times: u32::MAX }]);
    let engine = engine(sample, vec![wrap(mixed(&sample.outside), plan)]).await;
    let key = engine.launch(request("sample.mixed", 1)).await.unwrap().key;
    until(&engine, &key, State::StuckForward).await;
    (engine, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_supplies_the_result_of_a_step_that_is_known_to_have_happened() {
    let (sample, plan) = (Sample::new(""), Arc::new(Plan::default()));
    let (engine, key) = stuck_at_call(&sample, &plan).await;
    assert_eq!(engine.stuck().await.unwrap(), [("sample.mixed".to_owned(), 1)]);
    let wrong = engine.operate(&key, Verb::SupplyResult(json!(7)), operator(), "seen in the HSM").await;
    assert!(matches!(wrong, Err(WriteRefused::Rejected(VerbRefused::BadEvidence(_)))), "{wrong:?}");
    let right = Verb::SupplyResult(json!("a r1/made"));
    assert_eq!(engine.operate(&key, right, operator(), "seen in the HSM").await.unwrap(), State::Running);
    until(&engine, &key, State::Waiting).await;
    vote(&engine, &key, 2).await;
    let end = end(&engine, &key).await;
    assert_eq!(end.result, Some(json!("a r1/made!bpr1/published")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_unwinds_or_lets_go_and_a_verb_needs_a_reason_and_its_state() {
    let (sample, plan) = (Sample::new(""), Arc::new(Plan::default()));
    let (engine, key) = stuck_at_call(&sample, &plan).await;
    assert!(matches!(
        engine.operate(&key, Verb::Unwind, operator(), " ").await,
        Err(WriteRefused::Rejected(VerbRefused::NoReason))
    ));
    assert!(matches!(
        engine.operate(&key, Verb::SkipUndo, operator(), "why not").await,
        Err(WriteRefused::Rejected(VerbRefused::NotNow { .. }))
    ));
    engine.operate(&key, Verb::Unwind, operator(), "wrong key").await.unwrap();
    assert_eq!(end(&engine, &key).await.state, State::Compensated);
    assert!(sample.things().await.is_empty());
    let told = actions(&sample).await;
    assert!(
        told.contains(&"workflow.stuck".to_owned()) && told.contains(&"workflow.operator.unwind".to_owned())
    );
    engine.close().await;

    let (engine, key) = stuck_at_call(&sample, &plan).await;
    let fence = engine.locks().await.unwrap()[0].fence;
    engine.operate(&key, Verb::Abandon, operator(), "the token is lost").await.unwrap();
    assert_eq!(end(&engine, &key).await.state, State::Abandoned);
    assert!(engine.locks().await.unwrap().is_empty());
    plan.heal();
    engine.launch(request("sample.mixed", 1)).await.unwrap();
    assert!(
        engine.locks().await.unwrap()[0].fence > fence + 1,
        "the fence grew once more for the one let go"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_turns_a_stuck_undo_forward_again() {
    let (sample, plan) = (Sample::new(""), Arc::new(Plan::default()));
    plan.set(vec![
        Fault { step: 2, phase: Phase::Do, how: How::Refuse, times: 1 },
        Fault { step: 1, phase: Phase::Undo, how: How::Later, times: u32::MAX },
    ]);
    let parts = sample.parts_with(vec![wrap(mixed(&sample.outside), &plan)]);
    let limits = sagas::SagaLimits { undo_budget: SECOND, ..parts.limits };
    let engine = Engine::start(EngineParts { limits, ..parts }).await.unwrap();
    let key = engine.launch(request("sample.mixed", 1)).await.unwrap().key;
    until(&engine, &key, State::Waiting).await;
    vote(&engine, &key, 2).await;
    while engine.show(&key).await.unwrap().unwrap().summary.state != "stuck_undo" {
        sample.clock.advance(SECOND);
        engine.tick();
        tokio::task::yield_now().await;
    }
    plan.heal();
    // The wait itself was undone before; with that, the way forward is closed.
    let closed = engine.operate(&key, Verb::ResumeForward, operator(), "after all").await;
    assert!(matches!(closed, Err(WriteRefused::Rejected(VerbRefused::NotOpen(_)))), "{closed:?}");
    engine.operate(&key, Verb::Retry, operator(), "the token is back").await.unwrap();
    assert_eq!(end(&engine, &key).await.state, State::Compensated);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_undo_goes_forward_again_while_no_later_step_is_undone() {
    let (sample, plan) = (Sample::new(""), Arc::new(Plan::default()));
    // The step after the fan-out refuses; the fan-out's own undo is the first, and it sticks.
    plan.set(vec![
        Fault { step: 2, phase: Phase::Do, how: How::Refuse, times: 2 },
        Fault { step: 1, phase: Phase::Undo, how: How::Later, times: u32::MAX },
    ]);
    let parts = sample.parts_with(vec![wrap(fan(&sample.outside), &plan)]);
    let limits = sagas::SagaLimits { undo_budget: SECOND, ..parts.limits };
    let engine = Engine::start(EngineParts { limits, ..parts }).await.unwrap();
    let key = engine.launch(request("sample.fan", 1)).await.unwrap().key;
    while engine.show(&key).await.unwrap().unwrap().summary.state != "stuck_undo" {
        sample.clock.advance(SECOND);
        engine.tick();
        tokio::task::yield_now().await;
    }
    plan.heal();
    engine.operate(&key, Verb::ResumeForward, operator(), "the rule was wrong").await.unwrap();
    assert_eq!(end(&engine, &key).await.state, State::Succeeded);
    assert_eq!(sample.outside.all().len(), 10);
    assert_eq!(sample.outside.calls(), 10, "no item was called a second time");
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_records_what_came_of_a_call_and_begins_nothing_more() {
    let sample = Sample::new("");
    let (entered, gate) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let first = engine(&sample, vec![slow_call(&sample, &entered, Some(gate.clone()))]).await;
    let key = first.launch(request("sample.slow", 1)).await.unwrap().key;
    entered.notified().await;
    let closing = tokio::spawn(first.clone().close());
    while !first.is_closing() {
        tokio::task::yield_now().await;
    }
    gate.notify_one();
    closing.await.unwrap();
    assert!(!actions(&sample).await.contains(&"thing.two".to_owned()));
    let second = engine(&sample, vec![slow_call(&sample, &entered, None)]).await;
    assert_eq!(end(&second, &key).await.state, State::Succeeded);
    assert_eq!(sample.outside.calls(), 1, "the outcome was recorded, so nobody called again");
    let log = second.log(&key, 0, 100).await.unwrap();
    assert!(log.iter().all(|line| line.attempt <= 1), "{log:?}");
}

#[tokio::test]
async fn a_definition_that_is_none_is_refused_by_name() {
    use sagas::DefinitionRefused as No;
    let begin = || Workflow::define("bad").version(1).input::<Input>();
    let entry = |cx: &sagas::StepContext| Told::new((), cx.entry("x", "x"));
    let short = begin()
        .local("one", move |_, cx, _, ()| Ok(entry(cx)), Undo::none("nothing"))
        .pivot_local("two", move |_, cx, _, ()| Ok(entry(cx)))
        .build();
    assert_eq!(short.unwrap_err(), No::Steps { name: "bad", steps: 2 });
    let silent = begin()
        .local("one", move |_, cx, _, ()| Ok(entry(cx)), Undo::none(" "))
        .local("two", move |_, cx, _, ()| Ok(entry(cx)), Undo::none("nothing"))
        .pivot_local("three", move |_, cx, _, ()| Ok(entry(cx)))
        .build();
    assert_eq!(silent.unwrap_err(), No::NoReason { name: "bad", step: "one" });
    let twice = begin()
        .local("one", move |_, cx, _, ()| Ok(entry(cx)), Undo::none("nothing"))
        .local("one", move |_, cx, _, ()| Ok(entry(cx)), Undo::none("nothing"))
        .pivot_local("three", move |_, cx, _, ()| Ok(entry(cx)))
        .build();
    assert_eq!(twice.unwrap_err(), No::StepTwice { name: "bad", step: "one" });
    let timeless = begin()
        .local("one", move |_, cx, _, ()| Ok(entry(cx)), Undo::none("nothing"))
        .remote(
            "two",
            |step| {
                step.within(Duration::ZERO)
                    .act(|_, _, (), _| async { Ok(()) })
                    .probe(|_, _, ()| async { sagas::Probe::Applied(()) })
            },
            Undo::none("nothing"),
        )
        .pivot_local("three", move |_, cx, _, ()| Ok(entry(cx)))
        .build();
    assert_eq!(timeless.unwrap_err(), No::NoTime { name: "bad", step: "two" });
    let sample = Sample::new("");
    let catalog = Catalog::new(vec![mixed(&sample.outside), mixed(&sample.outside)]);
    assert!(matches!(catalog, Err(sagas::CatalogRefused::Twice { .. })));
    assert!(matches!(Catalog::new(vec![parent()]), Err(sagas::CatalogRefused::NoSuchChild { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_commit_is_told_in_order_and_the_order_of_a_call_leads_its_commit() {
    let sample = Sample::new("");
    let engine = engine(&sample, vec![remote_pivot(&sample.outside)]).await;
    let key = engine.launch(request("sample.remote_pivot", 1)).await.unwrap().key;
    until(&engine, &key, State::Waiting).await;
    sample.clock.advance(SECOND * 61);
    engine.tick();
    assert_eq!(end(&engine, &key).await.state, State::Succeeded);
    assert_eq!(actions(&sample).await, TOLD_BY_REMOTE_PIVOT);
}

const TOLD_BY_REMOTE_PIVOT: [&str; 8] = [
    "workflow.start",
    "thing.put", // claim
    "thing.put", // the order of the call, which is its evidence
    "workflow.step",
    "workflow.wait",
    "thing.cooled",
    "thing.put",
    "workflow.done",
];

/// Seven seconds pass from one look at it to the next.
#[derive(Debug)]
struct Hasty(Arc<TestClock>);

impl Clock for Hasty {
    fn unix_us(&self) -> u64 {
        self.0.advance(SECOND * 7);
        self.0.unix_us()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_falls_due_between_two_looks_of_one_commit_is_told_too() {
    for round in 0..12 {
        let sample = Sample::new("");
        sample.clock.advance(SECOND * round);
        let parts = sample.parts_with(vec![remote_pivot(&sample.outside)]);
        let clock = Arc::new(Hasty(sample.clock.clone()));
        let engine = Engine::start(EngineParts { clock, ..parts }).await.unwrap();
        let key = engine.launch(request("sample.remote_pivot", 1)).await.unwrap().key;
        while !matches!(engine.wait(&key, Duration::ZERO).await, Ok(Some(_))) {
            engine.tick();
            tokio::task::yield_now().await;
        }
        assert_eq!(actions(&sample).await, TOLD_BY_REMOTE_PIVOT, "round {round}");
        engine.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_sealed_outlives_the_saga_but_its_result_and_that_not_for_long() {
    let sample = Sample::new("");
    let engine = engine(&sample, vec![fan(&sample.outside)]).await;
    let key = engine.launch(request("sample.fan", 1)).await.unwrap().key;
    assert_eq!(end(&engine, &key).await.state, State::Succeeded);
    assert_eq!(sagas::testing::sealed_columns(&sample.ledger(), &key).await, ["result"]);
    engine.close().await;
    sample.clock.advance(SECOND * 3600 * 25);
    // The first thing a scheduler does is to wipe what is over its time.
    let engine = self::engine(&sample, vec![fan(&sample.outside)]).await;
    while !sagas::testing::sealed_columns(&sample.ledger(), &key).await.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(engine.show(&key).await.unwrap().unwrap().result, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_parent_turns_its_child_round_first() {
    let sample = Sample::new("");
    let outside = sample.outside.clone();
    let inner = sagas::testing::renamed(mixed(&outside), "sample.child");
    let engine = engine(&sample, vec![parent(), inner]).await;
    let key = engine.launch(request("sample.parent", 1)).await.unwrap().key;
    let all = async || engine.list(Filter { rows_max: 10, ..Filter::default() }).await.unwrap();
    while !all().await.iter().any(|it| it.workflow == "sample.child" && it.state == "waiting") {
        tokio::task::yield_now().await;
    }
    engine.cancel(&key, operator(), "no longer wanted").await.unwrap();
    let end = end(&engine, &key).await;
    assert_eq!(end.state, State::Compensated);
    assert!(all().await.iter().all(|it| it.state == "compensated"), "{:?}", all().await);
    assert!(sample.things().await.is_empty() && sample.outside.all().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_held_to_their_scope_filtered_and_paged() {
    let sample = Sample::new("");
    let engine = engine(&sample, vec![plain_local("sample.plain"), mixed(&sample.outside)]).await;
    for round in 0..5 {
        sample.clock.advance(SECOND);
        engine.launch(request("sample.plain", round)).await.unwrap();
    }
    sample.clock.advance(SECOND);
    let waiting = engine.launch(request("sample.mixed", 9)).await.unwrap().key;
    until(&engine, &waiting, State::Waiting).await;
    let mine = Filter { scope: Some(scope()), rows_max: 4, ..Filter::default() };
    let first = engine.list(mine.clone()).await.unwrap();
    let after = Some(first.last().unwrap().id.parse().unwrap());
    let second = engine.list(Filter { after, ..mine.clone() }).await.unwrap();
    assert_eq!((first.len(), second.len()), (4, 2));
    assert!(first.iter().chain(&second).map(|it| &it.id).is_sorted_by(|one, next| one > next));
    let waits = engine.list(Filter { state: Some(State::Waiting), ..mine.clone() }).await.unwrap();
    assert_eq!((waits.len(), waits[0].step), (1, Some("approval")));
    let named = Filter { workflow: Some("sample.plain".to_owned()), rows_max: 100, ..mine };
    assert_eq!(engine.list(named).await.unwrap().len(), 5);
    let other = sagas::Scope::Workspace(audit::Workspace::new("other").unwrap());
    assert!(
        engine
            .list(Filter { scope: Some(other), rows_max: 9, ..Filter::default() })
            .await
            .unwrap()
            .is_empty()
    );
}
