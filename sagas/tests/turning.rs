//! What is asked of a saga while a call is under way holds for everything that the call's outcome would bring along.
//! Who enters: a saga whose call is held open, and whoever calls it off meanwhile, or a clock that runs past its deadline.
//! What leaves: a saga that turned round before its pivot, and a world as before.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use audit::{Told, WriteRefused};
use common::{Input, SECOND, Sample, drop_it, put_thing, scope, undo_outside};
use sagas::{
    Definition, Engine, Origin, PivotProbe, Probe, SagaKey, StartRequest, State, Undo, VerbRefused, Workflow,
};
use tokio::sync::Notify;

const LONG: Duration = Duration::from_secs(30);

/// A call that is held open, and behind it nothing but steps that share the commit of its outcome, the pivot among them.
struct Held {
    sample: Sample,
    engine: Engine,
    key: SagaKey,
    gate: Arc<Notify>,
}

impl Held {
    async fn open(define: fn(&Sample, &Arc<Notify>, &Arc<Notify>) -> Definition) -> Self {
        let sample = Sample::new("");
        let (entered, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let definition = define(&sample, &entered, &gate);
        let engine = Engine::start(sample.parts_with(vec![definition])).await.unwrap();
        let request = StartRequest::new("sample.held", scope(), &Input { round: 1 }).unwrap();
        let key = engine.launch(request).await.unwrap().key;
        entered.notified().await;
        Self { sample, engine, key, gate }
    }

    async fn turns_round_for(self, reason: &str) {
        self.gate.notify_one();
        let end = self.engine.wait(&self.key, LONG).await.unwrap().expect("it ends");
        assert_eq!((end.state, end.code.as_deref()), (State::Compensated, Some(reason)), "{end:?}");
        assert!(self.sample.things().await.is_empty() && self.sample.outside.all().is_empty());
    }
}

fn before_the_pivot(sample: &Sample, entered: &Arc<Notify>, gate: &Arc<Notify>) -> Definition {
    let (make, find) = (sample.outside.clone(), sample.outside.clone());
    let (entered, gate) = (entered.clone(), gate.clone());
    Workflow::define("sample.held")
        .version(1)
        .input::<Input>()
        .deadline(SECOND * 600)
        .remote(
            "make",
            |step| {
                step.within(SECOND * 60)
                    .act(move |cx, _, (), _| {
                        let (entered, gate, make) = (entered.clone(), gate.clone(), make.clone());
                        async move {
                            let made = make.apply(cx.effect, "made");
                            entered.notify_one();
                            gate.notified().await;
                            Ok(made)
                        }
                    })
                    .probe(move |cx, _, ()| {
                        let found = find.find(cx.effect);
                        async move { found.map_or(Probe::NotApplied, Probe::Applied) }
                    })
            },
            undo_outside(&sample.outside),
        )
        .local(
            "attach",
            |tx, cx, _, made: &String| {
                put_thing(tx, "r1/attached")?;
                Ok(Told::new(made.clone(), cx.entry("thing.put", "attached")))
            },
            drop_it::<String>("attached"),
        )
        .pivot_local("pivot", |tx, cx, _, made: &String| {
            put_thing(tx, "r1/pivot")?;
            Ok(Told::new(made.clone(), cx.entry("thing.put", "pivot")))
        })
        .build()
        .unwrap()
}

/// The same with the call as the pivot itself.
fn as_the_pivot(sample: &Sample, entered: &Arc<Notify>, gate: &Arc<Notify>) -> Definition {
    let (make, find) = (sample.outside.clone(), sample.outside.clone());
    let (entered, gate) = (entered.clone(), gate.clone());
    Workflow::define("sample.held")
        .version(1)
        .input::<Input>()
        .deadline(SECOND * 600)
        .local("one", |_, cx, _, ()| Ok(Told::new((), cx.entry("thing.one", "x"))), Undo::none("nothing"))
        .pivot_remote("make", |step| {
            step.within(SECOND * 60)
                .act(move |cx, _, (), _, _| {
                    let (entered, gate, make) = (entered.clone(), gate.clone(), make.clone());
                    async move {
                        let made = make.apply(cx.effect, "made");
                        entered.notify_one();
                        gate.notified().await;
                        Ok(made)
                    }
                })
                .probe(move |cx, _, ()| {
                    let found = find.find(cx.effect);
                    async move { PivotProbe::of_one_effect(found) }
                })
        })
        .local("two", |_, cx, _, _| Ok(Told::new((), cx.entry("thing.two", "x"))))
        .build()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_during_the_call_of_the_pivot_is_refused_and_not_merely_forgotten() {
    let held = Held::open(as_the_pivot).await;
    match held.engine.cancel(&held.key, Origin::default(), "too late").await {
        Err(WriteRefused::Rejected(VerbRefused::PastPivot { pivot })) => assert_eq!(pivot, "make"),
        other => panic!("{other:?}"),
    }
    held.gate.notify_one();
    let end = held.engine.wait(&held.key, LONG).await.unwrap().expect("it ends");
    assert_eq!(end.state, State::Succeeded, "{end:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_that_was_accepted_during_a_call_holds_before_the_pivot() {
    let held = Held::open(before_the_pivot).await;
    held.engine.cancel(&held.key, Origin::default(), "no longer wanted").await.unwrap();
    held.turns_round_for("cancelled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_during_a_call_holds_before_the_pivot() {
    let held = Held::open(before_the_pivot).await;
    held.sample.clock.advance(SECOND * 601);
    held.turns_round_for("deadline").await;
}
