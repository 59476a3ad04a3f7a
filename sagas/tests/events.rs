//! What others are told of workflows: in the order of commits, once, for a while, and at once for whoever waits.
//! Who enters: sagas of the samples, readers with cursors, a clock that is moved past everybody's time.
//! What leaves: feeds without holes; and the word for each cursor that does not fit.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use audit::{Clock, EntryFilter, EntryScope, ReadRefused, SqlFault, Told, WriteRefused};
use common::{Input, SECOND, Sample, end, engine, mixed, operator, plain_local, request, scope, until, vote};
use sagas::outbox::{self, Page, Published, Topic, Wanted, Withheld};
use sagas::testing::inject::{Fault, How, Plan, wrap};
use sagas::{
    Engine, OnConflict, Phase, Refused, Ruling, SagaKey, Scope, SignalRequest, State, Undo, Verb, Workflow,
};
use serde_json::json;

const LONG: Duration = Duration::from_secs(30);
const ALL: usize = 500;

async fn over(engine: &Engine, key: &SagaKey) -> State {
    end(engine, key).await.state
}

fn here(after: Option<u64>) -> Wanted {
    Wanted { scope: Some(scope()), after, rows_max: ALL, ..Wanted::default() }
}

async fn read(engine: &Engine, wanted: Wanted) -> Page {
    engine.events(wanted, Duration::ZERO).await.unwrap()
}

async fn topics(engine: &Engine, key: &SagaKey) -> Vec<String> {
    let page = read(engine, Wanted { saga: Some(key.id), ..here(None) }).await;
    page.events.into_iter().map(|event| event.topic).collect()
}

fn numbers(events: &[Published]) -> Vec<u64> {
    events.iter().map(|event| event.number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workflow_tells_of_each_change_of_its_state_and_of_no_attempt() {
    let (sample, plan) = (Sample::new(""), Arc::new(Plan::default()));
    plan.set(vec![Fault { step: 1, phase: Phase::Do, how: How::Later, times: 3 }]);
    let engine = engine(&sample, vec![wrap(mixed(&sample.outside), &plan)]).await;
    let key = engine.launch(request("sample.mixed", 1)).await.unwrap().key;
    let line = request("sample.mixed", 1).on_conflict(OnConflict::Queue(SECOND * 600));
    let second = engine.launch(line).await.unwrap().key;
    loop {
        let summary = engine.show(&key).await.unwrap().unwrap().summary;
        match (summary.state, summary.due_us) {
            ("waiting", _) => break,
            // To the very moment of the next try: more would be past everybody's patience.
            ("backoff", Some(due)) => {
                sample.clock.advance(Duration::from_micros(due.saturating_sub(sample.clock.unix_us())))
            }
            _ => {}
        }
        engine.tick();
        tokio::task::yield_now().await;
    }
    vote(&engine, &key, 2).await;
    assert_eq!(over(&engine, &key).await, State::Succeeded);
    let life = ["workflow.started", "workflow.waiting", "thing.put", "workflow.succeeded"];
    assert_eq!(topics(&engine, &key).await, life);
    until(&engine, &second, State::Waiting).await;
    engine.cancel(&second, operator(), "no longer wanted").await.unwrap();
    assert_eq!(over(&engine, &second).await, State::Compensated);
    let life =
        ["queued", "started", "waiting", "unwinding", "compensated"].map(|it| format!("workflow.{it}"));
    assert_eq!(topics(&engine, &second).await, life);
    let told = read(&engine, Wanted { saga: Some(second.id), ..here(None) }).await.events;
    assert_eq!(
        (&told[0].body["actor"], &told[2].body["for"], &told[2].body["signals"], &told[3].body["code"]),
        (&json!("user:alice"), &json!("signal"), &json!(["approve"]), &json!("cancelled"))
    );
    assert_eq!((told[0].request.as_str(), told[0].workflow.as_str()), ("req-1", "sample.mixed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_workflow_says_why_and_that_a_person_let_it_go_on() {
    let (sample, plan) = (Sample::new(""), Arc::new(Plan::default()));
    let stuck = async |sample: &Sample| {
        plan.set(vec![Fault { step: 1, phase: Phase::Do, how: How::Panic, times: u32::MAX }]);
        let engine = engine(sample, vec![wrap(mixed(&sample.outside), &plan)]).await;
        let key = engine.launch(request("sample.mixed", 1)).await.unwrap().key;
        until(&engine, &key, State::StuckForward).await;
        plan.heal();
        (engine, key)
    };
    let (engine, key) = stuck(&sample).await;
    let told = read(&engine, here(None)).await.events;
    let why = &told.last().unwrap().body;
    assert_eq!((&why["step"], &why["phase"], &why["code"]), (&json!("make"), &json!("do"), &json!("bug")));
    assert!(why["why"].as_str().unwrap().contains("panicked"), "{why}");
    engine.operate(&key, Verb::Retry, operator(), "it was the cable").await.unwrap();
    until(&engine, &key, State::Waiting).await;
    engine.cancel(&key, operator(), "enough").await.unwrap();
    over(&engine, &key).await;
    let life = ["started", "stuck", "resumed", "waiting", "unwinding", "compensated"];
    assert_eq!(topics(&engine, &key).await, life.map(|it| format!("workflow.{it}")));
    engine.close().await;
    let (engine, key) = stuck(&sample).await;
    engine.operate(&key, Verb::Abandon, operator(), "the token is lost").await.unwrap();
    assert_eq!(
        topics(&engine, &key).await,
        ["started", "stuck", "abandoned"].map(|it| format!("workflow.{it}"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_is_read_in_the_order_of_commits_page_by_page_and_each_event_names_its_entry() {
    let sample = Sample::new("");
    let engine = engine(&sample, vec![plain_local("sample.plain")]).await;
    for round in 1..=3 {
        let key = engine.launch(request("sample.plain", round)).await.unwrap().key;
        assert_eq!(over(&engine, &key).await, State::Succeeded);
    }
    let all = read(&engine, here(None)).await;
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = read(&engine, Wanted { rows_max: 4, ..here(after) }).await;
        if page.events.is_empty() {
            break;
        }
        after = Some(page.next);
        paged.extend(page.events);
    }
    assert_eq!(paged, all.events);
    assert!(numbers(&paged).is_sorted_by(|one, next| one < next));
    let filter = EntryFilter { scope: EntryScope::Workspace(common::acme()), ..EntryFilter::default() };
    let entries = sample.ledger().read(move |view| view.entries(&filter)).await.unwrap();
    for event in &paged {
        let entry = entries.iter().find(|entry| entry.seq == event.entry()).expect("its entry");
        // These workflows take one commit, so the entry that leads it is that of the start.
        assert_eq!(
            (entry.action.as_str(), entry.object.as_str()),
            ("workflow.start", &*format!("workflow/{}", event.saga))
        );
    }
    let everything = read(&engine, Wanted { scope: None, ..here(None) }).await;
    assert_eq!(everything, all);
    let other = Scope::Workspace(audit::Workspace::new("other").unwrap());
    assert_eq!(read(&engine, Wanted { scope: Some(other), ..here(None) }).await.events, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_is_asked_for_by_whole_words_and_the_cursor_steps_over_what_was_not() {
    let sample = Sample::new("");
    let engine = engine(&sample, vec![plain_local("sample.plain")]).await;
    let key = engine.launch(request("sample.plain", 1)).await.unwrap().key;
    over(&engine, &key).await;
    let of = async |topic: &str| read(&engine, Wanted { topic: topic.to_owned(), ..here(None) }).await;
    let count = async |topic: &str| of(topic).await.events.len();
    let found = (count("thing").await, count("thing.put").await, count("thin").await, count("thing.").await);
    assert_eq!(found, (3, 3, 0, 0));
    let newest = read(&engine, here(None)).await.next;
    assert_eq!(of("nothing").await.next, newest, "what was looked at is not looked at again");
    let beyond = engine.events(here(Some(newest + 1)), Duration::ZERO).await;
    assert!(
        matches!(beyond, Err(ReadRefused::Rejected(Withheld::Ahead { newest: it })) if it == newest),
        "{beyond:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_is_told_in_the_moment_of_the_commit_and_only_of_what_they_asked_for() {
    let sample = Sample::new("");
    let engine = engine(&sample, vec![mixed(&sample.outside), plain_local("sample.plain")]).await;
    let waiting = |wanted: Wanted| {
        let engine = engine.clone();
        tokio::spawn(async move { engine.events(wanted, LONG).await.unwrap() })
    };
    let put = Wanted { topic: "thing".to_owned(), ..here(None) };
    let (anything, things) = (waiting(Wanted { scope: None, ..here(None) }), waiting(put));
    let key = engine.launch(request("sample.mixed", 1)).await.unwrap().key;
    assert_eq!(anything.await.unwrap().events[0].topic, "workflow.started");
    until(&engine, &key, State::Waiting).await;
    assert!(!things.is_finished());
    vote(&engine, &key, 2).await;
    let told = things.await.unwrap().events;
    assert_eq!((told.len(), told[0].topic.as_str()), (1, "thing.put"));
    over(&engine, &key).await;
    let newest = read(&engine, here(None)).await.next;
    let none = engine.events(here(Some(newest)), Duration::from_millis(1)).await.unwrap();
    assert_eq!((none.events.len(), none.next), (0, newest));
    // A start that is committed in somebody's own transaction is heard of when the engine is told of it.
    let next = waiting(here(Some(newest)));
    let start = engine.prepare(request("sample.mixed", 2)).await.unwrap();
    let committed = start.clone();
    sample.ledger().write(move |tx| committed.commit(tx)).await.unwrap();
    engine.begun(&start);
    assert_eq!(next.await.unwrap().events[0].topic, "workflow.started");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_swept_leaves_no_hole_and_no_number_and_a_cursor_from_before_is_told_so() {
    let sample = Sample::new("");
    let engine = engine(&sample, vec![plain_local("sample.plain")]).await;
    let run = async |round| {
        let key = engine.launch(request("sample.plain", round)).await.unwrap().key;
        assert_eq!(over(&engine, &key).await, State::Succeeded);
    };
    let sweep = async |before_us| {
        let sweep = move |tx: &mut audit::Tx<'_>| outbox::sweep(tx, before_us);
        sample.ledger().write_unaudited("a test", sweep).await.unwrap().gone
    };
    run(1).await;
    let first = read(&engine, here(None)).await;
    sample.clock.advance(SECOND * 60);
    let between = sample.clock.unix_us();
    run(2).await;
    let kept = read(&engine, here(Some(first.next))).await;
    assert_eq!(sweep(between).await, first.events.len());
    assert_eq!(sweep(between).await, 0);
    assert_eq!(read(&engine, here(None)).await, kept);
    assert_eq!(read(&engine, here(Some(first.next))).await, kept, "who had come so far has missed nothing");
    let missed = engine.events(here(Some(first.next - 1)), Duration::ZERO).await;
    let Err(ReadRefused::Rejected(Withheld::Gone { kept_after, oldest })) = missed else {
        panic!("{missed:?}")
    };
    assert_eq!((kept_after, oldest), (first.next, Some(kept.events[0].number)));
    // Somebody elsewhere has missed nothing, since nothing of theirs is gone.
    let other = Scope::Workspace(audit::Workspace::new("other").unwrap());
    assert_eq!(read(&engine, Wanted { scope: Some(other), ..here(Some(0)) }).await.events, []);
    assert_eq!(sweep(u64::MAX).await, kept.events.len());
    let empty = read(&engine, here(Some(kept.next))).await;
    assert_eq!((empty.events.len(), empty.next), (0, kept.next));
    run(3).await;
    let later = read(&engine, here(Some(kept.next))).await;
    assert!(later.events[0].number > kept.next, "no number is given twice");
    // What was written while the clock stood in the future goes with what came after it.
    sample.clock.put_forward(SECOND * 1_000_000);
    run(4).await;
    sample.clock.put_back(SECOND * 1_000_000);
    run(5).await;
    let before_us = sample.clock.unix_us() + 1;
    while sweep(before_us).await > 0 {}
    assert_eq!(read(&engine, here(None)).await.events, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_an_entry_is_a_defect_and_nothing_of_it_commits() {
    let sample = Sample::new("");
    const LOST: Topic = Topic::new("thing.lost");
    let definition = Workflow::define("sample.untold")
        .version(1)
        .input::<Input>()
        .local(
            "first",
            |_, cx, _, ()| Ok(Told::new((), cx.entry("thing.first", "it"))),
            Undo::none("it changes nothing"),
        )
        .wait(
            "hear",
            |step| {
                step.at_most(|_, ()| SECOND * 60).on(&["hush"], |tx, cx, _, (), _| {
                    cx.publish(tx, LOST, "it", json!({}))?;
                    Ok::<_, Refused>(Ruling::<()>::StillWaiting(Vec::new()))
                })
            },
            Undo::none("waiting changes nothing"),
        )
        .pivot_local("last", |_, cx, _, ()| Ok(Told::new((), cx.entry("thing.last", "it"))))
        .build()
        .unwrap();
    let engine = engine(&sample, vec![definition]).await;
    let key = engine.launch(request("sample.untold", 1)).await.unwrap().key;
    until(&engine, &key, State::Waiting).await;
    engine.signal(SignalRequest::new(key.clone(), "hush", "1", &1).unwrap()).await.unwrap();
    until(&engine, &key, State::StuckForward).await;
    let shown = engine.show(&key).await.unwrap().unwrap();
    assert!(shown.summary.error.unwrap().contains("tells nothing"));
    assert!(!topics(&engine, &key).await.contains(&LOST.to_string()));
    // Nor can anybody else start something in a write that tells nothing.
    let start = engine.prepare(request("sample.untold", 2)).await.unwrap();
    let slipped = sample.ledger().write_unaudited("a test", move |tx| start.commit(tx).map(drop)).await;
    assert!(matches!(slipped, Err(WriteRefused::Rejected(_))), "{slipped:?}");
    let untold = sample.ledger().write_unaudited("a test", |tx| Ok::<_, SqlFault>(tx.entry())).await.unwrap();
    assert_eq!(untold, None);
}
