//! What is told, in what order, and what is left when it is over; what is refused before anything is told.

use std::sync::Arc;
use std::time::Duration;

use audit::{Clock, Told};
use sagas::testing::TestClock;
use sagas::{Catalog, Engine, EngineParts, Filter, State, Undo, Workflow};

use crate::actions;
use crate::common::{
    Input, SECOND, Sample, end, engine, fan, mixed, parent, plain_local, remote_pivot, request, scope, until,
};

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

    fn boot(&self) -> audit::Boot {
        self.0.boot()
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
