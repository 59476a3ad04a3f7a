//! Who may come in: workspaces, API keys, clients, authorities; and what the auditor takes away.

use std::time::Duration;

use promises::{Ask, delete, eventually, get, identity, post};
use serde_json::{Value, json};

use crate::act::{Act, By, Stage, text};

const fn act(route: &'static str, action: &'static str, status: u16) -> Act {
    Act { route, action, told: 1..=1, status, workflow: false, lost: false }
}

async fn founded(stage: &mut Stage) -> String {
    stage.house.operator().create_workspace(&stage.name()).await
}

fn by_operator(stage: &Stage, ask: Ask) -> (By, Ask) {
    (By::Operator(stage.operator()), ask)
}

#[tokio::test]
async fn a_workspace_is_closed_once() {
    let act = act("POST /v1/workspaces/{workspace}/close", "workspace.close", 204);
    let prepare = async |stage: &mut Stage| {
        let id = founded(stage).await;
        by_operator(stage, post(format!("/v1/workspaces/{id}/close"), Value::Null))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn a_workspace_is_opened_once() {
    let act = act("POST /v1/workspaces/{workspace}/open", "workspace.open", 204);
    let prepare = async |stage: &mut Stage| {
        let id = founded(stage).await;
        let close = post(format!("/v1/workspaces/{id}/close"), Value::Null);
        stage.house.operator().ask(close).await.expect(204);
        by_operator(stage, post(format!("/v1/workspaces/{id}/open"), Value::Null))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn a_workspace_is_founded_once() {
    let act = Act { workflow: true, ..act("POST /v1/workspaces", "workflow.start", 201) };
    let prepare = async |stage: &mut Stage| {
        let body = json!({ "name": stage.name() });
        (By::Operator(stage.house.operator()), post("/v1/workspaces", body))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn a_workspace_begins_to_be_shredded_once() {
    let act = act("POST /v1/workspaces/{workspace}/shred", "workspace.freeze", 202);
    let prepare = async |stage: &mut Stage| {
        let id = founded(stage).await;
        let body = json!({ "reason": "over", "grace_days": 1, "approvals": 1 });
        by_operator(stage, post(format!("/v1/workspaces/{id}/shred"), body))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn an_api_key_is_issued_once_and_its_secret_is_not_lost() {
    let act = act("POST /v1/api-keys", "api_key.create", 201);
    let prepare = async |stage: &mut Stage| {
        let ask = post("/v1/api-keys", json!({ "name": stage.name(), "scopes": ["sign"] }));
        (By::Member(stage.acme.clone()), ask)
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn an_api_key_is_revoked_once() {
    let act = act("DELETE /v1/api-keys/{api_key}", "api_key.revoke", 204);
    let prepare = async |stage: &mut Stage| {
        let (id, _) = stage.operator().issue(&stage.name(), &["sign"]).await;
        (By::Member(stage.acme.clone()), delete(format!("/v1/api-keys/{id}")))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn a_client_is_enrolled_once() {
    let act = act("POST /v1/clients", "client.enrol", 201);
    let prepare = async |stage: &mut Stage| {
        let (_, csr) = identity::request();
        by_operator(stage, post("/v1/clients", json!({ "name": stage.name(), "csr": csr })))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn a_client_is_revoked_once() {
    let act = act("DELETE /v1/clients/{client}", "client.revoke", 204);
    let prepare = async |stage: &mut Stage| {
        let (id, _) = stage.operator().enrol(&stage.name()).await;
        (By::Member(stage.acme.clone()), delete(format!("/v1/clients/{id}")))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

/// Two authorities at most, so that there is room for a successor.
async fn two_authorities(stage: &mut Stage) {
    let operator = stage.house.operator();
    let trusted = operator.authorities().await.into_iter().filter(|one| one["state"] == "trusted");
    let mut names: Vec<String> = trusted.map(|one| text(&one, "fingerprint")).collect();
    names.pop();
    for elder in names {
        operator.retire_ca(&elder).await.expect(200);
    }
}

#[tokio::test]
async fn an_authority_is_succeeded_once() {
    let act = act("POST /v1/authorities", "ca.rotate", 201);
    let prepare = async |stage: &mut Stage| {
        two_authorities(stage).await;
        (By::Operator(stage.house.operator()), post("/v1/authorities", Value::Null))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn an_authority_is_retired_once() {
    let act = act("POST /v1/authorities/{authority}/retire", "ca.retire", 200);
    let prepare = async |stage: &mut Stage| {
        two_authorities(stage).await;
        let elder = text(&stage.house.operator().authorities().await.pop().unwrap(), "fingerprint");
        stage.house.operator().rotate_ca().await;
        let ask = post(format!("/v1/authorities/{elder}/retire"), Value::Null);
        (By::Operator(stage.house.operator()), ask)
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn the_master_key_is_sealed_anew_once() {
    promises::described::enforce();
    let act = act("POST /v1/token/reseal", "appliance.reseal", 200);
    let prepare = async |stage: &mut Stage| {
        (By::Operator(stage.house.operator()), post("/v1/token/reseal", Value::Null))
    };
    Stage::on(promises::Appliance::with_tpm().await).await.cuts_off(&act, prepare).await;
    promises::described::saw("POST /v1/token/reseal");
}

#[tokio::test]
async fn the_ledger_is_sealed_when_it_is_asked_for_again() {
    // Nothing is changed that is told: what is sealed already is not sealed again.
    let act = Act { told: 0..=0, ..act("POST /v1/audit/seal", "audit.seal", 200) };
    let prepare = async |stage: &mut Stage| {
        stage.operator().issue(&stage.name(), &["sign"]).await;
        (By::Operator(stage.house.operator()), post("/v1/audit/seal", Value::Null))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn the_log_is_exported_once() {
    let act = Act { workflow: true, ..act("POST /v1/audit/export", "workflow.start", 201) };
    let prepare = async |stage: &mut Stage| {
        // What was cut off the last time goes on, and no two run at once.
        let operator = stage.house.operator();
        let over = || async {
            let runs = operator.ask(get("/v1/workflows-everywhere?workflow=audit.seal_export")).await;
            let runs = runs.expect(200).json()["workflows"].as_array().cloned().unwrap_or_default();
            runs.iter().all(|run| run["state"] == "succeeded").then_some(())
        };
        eventually("the end of every export", Duration::from_secs(20), over).await;
        (By::Operator(operator.clone()), post("/v1/audit/export", Value::Null))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}
