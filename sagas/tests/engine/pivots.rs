//! Points of no return that consist of parts, and what is certain of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use audit::WriteRefused;
use sagas::{
    Definition, Part, PivotFault, PivotProbe, Reason, SagaKey, State, Undo, Verb, VerbRefused, Workflow,
};

use crate::common::{Input, SECOND, Sample, end, engine, operator, request, until};

/// Three parts of which the outside has done so many; while it is blocked it does one a call at most.
#[derive(Default)]
struct Parts {
    done: AtomicUsize,
    /// After this many parts the next one fails.
    fails_after: AtomicUsize,
    /// Said of a failure: that nothing was done, if nothing was.
    refuses: AtomicBool,
    looks: AtomicUsize,
}

impl Parts {
    fn failing_after(count: usize) -> Arc<Self> {
        Arc::new(Self { fails_after: AtomicUsize::new(count), ..Self::default() })
    }

    fn heal(&self) {
        self.fails_after.store(usize::MAX, Ordering::SeqCst);
    }
}

fn in_parts(parts: &Arc<Parts>) -> Definition {
    let (act, look) = (parts.clone(), parts.clone());
    Workflow::define("sample.parts")
        .version(1)
        .input::<Input>()
        .deadline(SECOND * 600)
        .local(
            "one",
            |_, cx, _, ()| Ok(audit::Told::new((), cx.entry("thing.one", "x"))),
            Undo::none("nothing"),
        )
        .pivot_remote("destroy", |step| {
            step.within(SECOND * 60)
                .act(move |_, _, (), _, untouched| {
                    let parts = act.clone();
                    async move {
                        let done = parts.done.load(Ordering::SeqCst);
                        let fails_after = parts.fails_after.load(Ordering::SeqCst);
                        if done == 0 && fails_after == 0 {
                            return Err(match parts.refuses.load(Ordering::SeqCst) {
                                true => untouched.refused(Reason::new("locked", "the outside is locked")),
                                false => untouched.later("the outside is away"),
                            });
                        }
                        drop(untouched);
                        parts.done.store(fails_after.min(3), Ordering::SeqCst);
                        match fails_after {
                            ..3 => Err(PivotFault::unknown("the outside failed")),
                            _ => Ok(()),
                        }
                    }
                })
                .probe(move |_, _, ()| {
                    look.looks.fetch_add(1, Ordering::SeqCst);
                    let done = look.done.load(Ordering::SeqCst);
                    async move {
                        let part = |place| if place < done { Part::Done } else { Part::Untouched };
                        PivotProbe::of_parts((0..3).map(part), ())
                    }
                })
        })
        .local("two", |_, cx, _, ()| Ok(audit::Told::new((), cx.entry("thing.two", "x"))))
        .build()
        .unwrap()
}

async fn cancel(engine: &sagas::Engine, key: &SagaKey) -> Result<(), VerbRefused> {
    match engine.cancel(key, operator(), "no longer wanted").await {
        Ok(()) => Ok(()),
        Err(WriteRefused::Rejected(refused)) => Err(refused),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pivot_of_which_a_part_is_done_is_never_called_off_and_is_finished_after_its_deadline() {
    for done in [1, 2] {
        let (sample, parts) = (Sample::new(""), Parts::failing_after(done));
        let engine = engine(&sample, vec![in_parts(&parts)]).await;
        let key = engine.launch(request("sample.parts", 1)).await.unwrap().key;
        until(&engine, &key, State::Backoff).await;
        let refused = cancel(&engine, &key).await;
        assert!(matches!(refused, Err(VerbRefused::PastPivot { pivot: "destroy" })), "{refused:?}");
        sample.clock.advance(SECOND * 700);
        engine.tick();
        // It was looked at and called again after the deadline, and goes on as before it.
        let looks = parts.looks.load(Ordering::SeqCst);
        while parts.looks.load(Ordering::SeqCst) < looks + 2 {
            sample.clock.advance(SECOND * 60);
            engine.tick();
            tokio::task::yield_now().await;
        }
        parts.heal();
        until_over(&sample, &engine, &key).await;
        assert_eq!(end(&engine, &key).await.state, State::Succeeded);
        assert_eq!(parts.done.load(Ordering::SeqCst), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pivot_of_which_certainly_nothing_is_done_can_be_called_off() {
    let (sample, parts) = (Sample::new(""), Parts::failing_after(0));
    let engine = engine(&sample, vec![in_parts(&parts)]).await;
    let key = engine.launch(request("sample.parts", 1)).await.unwrap().key;
    until(&engine, &key, State::Backoff).await;
    cancel(&engine, &key).await.unwrap();
    assert_eq!(end(&engine, &key).await.state, State::Compensated);
    assert_eq!(parts.done.load(Ordering::SeqCst), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rule_may_refuse_a_pivot_before_its_first_effect() {
    let (sample, parts) = (Sample::new(""), Parts::failing_after(0));
    parts.refuses.store(true, Ordering::SeqCst);
    let engine = engine(&sample, vec![in_parts(&parts)]).await;
    let key = engine.launch(request("sample.parts", 1)).await.unwrap().key;
    let end = end(&engine, &key).await;
    assert_eq!((end.state, end.code.as_deref()), (State::Compensated, Some("locked")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_cannot_unwind_a_pivot_of_which_a_part_is_done() {
    let (sample, parts) = (Sample::new(""), Parts::failing_after(1));
    let plan = Arc::new(sagas::testing::inject::Plan::default());
    let engine = engine(&sample, vec![sagas::testing::inject::wrap(in_parts(&parts), &plan)]).await;
    let key = engine.launch(request("sample.parts", 1)).await.unwrap().key;
    until(&engine, &key, State::Backoff).await;
    plan.set(vec![sagas::testing::inject::Fault {
        step: 1,
        phase: sagas::Phase::Do,
        how: sagas::testing::inject::How::Panic,
        times: 1,
    }]);
    sample.clock.advance(SECOND * 60);
    until(&engine, &key, State::StuckForward).await;
    let unwound = engine.operate(&key, Verb::Unwind, operator(), "away with it").await;
    assert!(matches!(unwound, Err(WriteRefused::Rejected(VerbRefused::PastPivot { .. }))), "{unwound:?}");
    parts.heal();
    engine.operate(&key, Verb::Retry, operator(), "the cause is gone").await.unwrap();
    until_over(&sample, &engine, &key).await;
    assert_eq!(end(&engine, &key).await.state, State::Succeeded);
}

async fn until_over(sample: &Sample, engine: &sagas::Engine, key: &SagaKey) {
    while !engine.show(key).await.unwrap().unwrap().summary.state.ends_with("succeeded") {
        sample.clock.advance(SECOND * 60);
        engine.tick();
        tokio::task::yield_now().await;
    }
}
