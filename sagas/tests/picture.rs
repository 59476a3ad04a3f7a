//! What people see of a saga, held against golden text: a change here is a change for everyone who reads it.
//! Who enters: sagas that wait, are stuck, or have turned round.
//! What leaves: pictures.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::sync::Arc;

use common::{Input, Sample, mixed, scope};
use sagas::testing::inject::{Fault, How, Plan, wrap};
use sagas::{Engine, Origin, Phase, SagaKey, StartRequest, picture};

async fn drawn(fault: Option<Fault>, state: &str) -> String {
    let (sample, plan) = (Sample::new(""), Arc::new(Plan::default()));
    plan.set(fault.into_iter().collect());
    let engine = Engine::start(sample.parts_with(vec![wrap(mixed(&sample.outside), &plan)])).await.unwrap();
    let origin = Origin { actor: "user:alice".to_owned(), request: "req-1".to_owned(), ..Origin::default() };
    let request = StartRequest::new("sample.mixed", scope(), &Input { round: 1 }).unwrap().origin(origin);
    let key: SagaKey = engine.launch(request).await.unwrap().key;
    loop {
        let detail = engine.show(&key).await.unwrap().unwrap();
        if detail.summary.state == state {
            return picture(&detail).replace(&detail.summary.id, "wf_1");
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_that_waits() {
    let golden = "\
sample.mixed v1  wf_1  waiting
started by user:alice in acme, request req-1

  ✓   reserve   local    done
  ✓   make      remote   done
  ●   approval  wait     current
  ·   attach    local
  · ◆ pivot     local
  ·   publish   remote

what you can do:
  - `cancel` to undo what was done
";
    assert_eq!(drawn(None, "waiting").await, golden);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_that_is_stuck() {
    let golden = "\
sample.mixed v1  wf_1  stuck_forward
started by user:alice in acme, request req-1

  ✓   reserve   local    done
  ✗   make      remote   stuck; the call panicked
  ·   approval  wait
  ·   attach    local
  · ◆ pivot     local
  ·   publish   remote

why: the call panicked

what you can do:
  - remove the cause, then `retry`
  - if the step has happened, `supply-result` with the evidence
  - `unwind` to undo what was done
  - `abandon` to let go; its locks are released and nothing is undone
";
    let fault = Fault { step: 1, phase: Phase::Do, how: How::Panic, times: 1 };
    assert_eq!(drawn(Some(fault), "stuck_forward").await, golden);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saga_that_has_turned_round() {
    let golden = "\
sample.mixed v1  wf_1  compensated
started by user:alice in acme, request req-1

  ↩   reserve   local    undone
  ↩   make      remote   undone
  ·   approval  wait
  ·   attach    local
  · ◆ pivot     local
  ·   publish   remote

why: refused on request
";
    let fault = Fault { step: 1, phase: Phase::Do, how: How::Refuse, times: 1 };
    assert_eq!(drawn(Some(fault), "compensated").await, golden);
}
