//! What people do: call off, supply, unwind, skip, lead on, let go.

use std::sync::Arc;

use audit::WriteRefused;
use sagas::testing::inject::{Fault, How, Plan, wrap};
use sagas::{Engine, EngineParts, Filter, Phase, SagaKey, State, Verb, VerbRefused};
use serde_json::json;

use crate::actions;
use crate::common::{SECOND, Sample, end, engine, fan, mixed, operator, parent, request, until, vote};

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
