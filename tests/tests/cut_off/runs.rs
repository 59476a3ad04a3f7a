//! What is done with workflow runs: started, voted on, brought what they wait for, called off, led on.

use promises::runs::{in_state, until, waiting_for_approval};
use promises::{Outside, post};
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::json;

use crate::act::{Act, By, Stage, text};

const fn act(route: &'static str, action: &'static str, status: u16) -> Act {
    Act { route, action, told: 1..=1, status, workflow: true, lost: false }
}

/// A run that waits for others to agree.
async fn waiting(stage: &mut Stage) -> serde_json::Value {
    let key = stage.key().await;
    let ask = post(format!("/v1/keys/{key}/schedule-destruction"), json!({ "days": 1, "reason": "old" }));
    let run = text(&stage.acme.ask(ask).await.expect(202).json(), "workflow");
    waiting_for_approval(&stage.operator(), &run).await
}

#[tokio::test]
async fn a_workflow_is_started_once() {
    let act = act("POST /v1/workflows/{workflow}", "workflow.start", 202);
    let prepare = async |stage: &mut Stage| {
        let form = json!({ "name": stage.name(), "kind": "p256" });
        (By::Member(stage.acme.clone()), post("/v1/workflows/key.generate", form))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn a_vote_counts_once() {
    let act = act("POST /v1/workflows/{workflow}/approvals", "workflow.signal", 200);
    let prepare = async |stage: &mut Stage| {
        let run = waiting(stage).await;
        let approval = &run["approval"];
        let body = json!({
            "verdict": "approve",
            "digest": approval["digest"],
            "policy_version": approval["policy_version"],
        });
        let ask = post(format!("/v1/workflows/{}/approvals", text(&run, "id")), body);
        (By::Member(stage.bob.clone()), ask)
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn a_run_is_called_off_once() {
    let act = act("POST /v1/workflows/{workflow}/cancel", "workflow.cancel", 202);
    let prepare = async |stage: &mut Stage| {
        let run = waiting(stage).await;
        let ask = post(format!("/v1/workflows/{}/cancel", text(&run, "id")), json!({ "reason": "no" }));
        (By::Member(stage.acme.clone()), ask)
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn a_wrapped_key_is_brought_once() {
    let act = act("POST /v1/workflows/{workflow}/blob", "workflow.signal", 202);
    let outside = Outside::make();
    let prepare = async |stage: &mut Stage| {
        let form = json!({ "name": stage.name(), "kind": "p256", "public_key": outside.public_key() });
        let started = stage.acme.ask(post("/v1/workflows/key.import", form)).await.expect(202).json();
        let run = text(&started, "id");
        until(&stage.operator(), &run, "an import that waits", |run| {
            run["step"] == "keys.await_wrapped_blob"
        })
        .await;
        let path = format!("/v1/keys/{}", stage.name());
        let shown = stage.acme.ask(promises::get(path)).await.expect(200).json();
        let body = json!({ "wrapped": outside.wrapped_for(&shown["incoming"]) });
        (By::Member(stage.acme.clone()), post(format!("/v1/workflows/{run}/blob"), body))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn a_stuck_run_is_led_on_once() {
    let act = act("POST /v1/workflows/{workflow}/lead/{verb}", "workflow.operator.retry", 200);
    let prepare = async |stage: &mut Stage| {
        let run = stuck(stage).await;
        let ask = post(format!("/v1/workflows/{run}/lead/retry"), json!({ "reason": "it is put right" }));
        (By::Operator(stage.operator()), ask)
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

/// A run that stands still because somebody changed a row behind the daemon's back; the row is put right again.
async fn stuck(stage: &mut Stage) -> String {
    // The workspace's own key is opened once, while the token still answers.
    stage.key().await;
    let name = format!("meddled-{}", stage.round);
    let worker = stage.house.daemon().token_worker().await;
    promises::daemon::kill(worker, Signal::STOP);
    let start = post("/v1/workflows/key.generate", json!({ "name": name, "kind": "p256" }));
    let run = text(&stage.acme.ask(start).await.expect(202).json(), "id");
    until(&stage.operator(), &run, "the making", |run| run["step"] == "keys.hsm_generate").await;
    let meddle = |state: &str| {
        let database = Connection::open(stage.house.ledger()).unwrap();
        database.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
        let changed = database.execute("UPDATE keys SET state = ?1 WHERE name = ?2", [state, &name]);
        assert_eq!(changed.unwrap(), 1);
    };
    meddle("disabled");
    promises::daemon::kill(worker, Signal::CONT);
    in_state(&stage.operator(), &run, "stuck_forward").await;
    meddle("creating");
    run
}
