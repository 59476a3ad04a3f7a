//! One owner at a time, one version from start to end, and nothing begun once it closes.

use std::sync::Arc;

use audit::{Told, WriteRefused};
use sagas::{Catalog, Definition, Engine, EngineParts, State, Undo, VerbRefused, Workflow, pinned};

use crate::actions;
use crate::common::{
    Input, SECOND, Sample, end, engine, fan, mixed, operator, plain_local, request, until, vote,
};

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
                .act(move |cx, _, _, _, _| {
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
                    async move { sagas::PivotProbe::of_one_effect(found) }
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
