//! Signals that are not lost, whenever they come; and waits that begin anew.

use std::sync::Arc;

use audit::{Clock, EntryFilter, EntryScope, Told, WriteRefused};
use sagas::testing::inject::{Fault, How, Plan, wrap};
use sagas::{Phase, Ruling, SagaKey, SignalRefused, SignalRequest, Signalled, State, Undo, Workflow};

use crate::actions;
use crate::common;
use crate::common::{Input, SECOND, Sample, end, engine, mixed, request, until, vote};

/// So many that some of them come between a look and its commit.
const VOTES: i64 = 200;

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
