//! Stories of the appliance: a workspace founded and closed for good, the ledger's sealed export.
//! Who enters: an operator, and a second one who agrees.
//! What leaves: a workspace with its key in the token, or neither; one export in its place, or none.

use promises::{Hardware, post};
use serde_json::{Value, json};

use crate::stage::Stage;
use crate::story::{Story, Turn};
use crate::trouble::{Defect, Late};

const A_MINUTE: u64 = 60;

fn founding() -> Story {
    Story::of_operator("workspace.create", post("/v1/workspaces", json!({ "name": "globex" })))
}

fn export() -> Story {
    Story::of_operator("audit.seal_export", post("/v1/audit/export", Value::Null))
}

fn closing(stage: &Stage) -> Story {
    let form = json!({ "reason": "over", "grace_days": 1, "approvals": 1 });
    let path = format!("/v1/workspaces/{}/shred", stage.owner.workspace);
    Story::of_operator("workspace.close", post(path, form))
}

#[tokio::test]
async fn a_workspace_is_founded_once_whatever_commit_the_power_goes_after() {
    let Some(stage) = Stage::set("workspace.create", Hardware::Token).await else { return };
    founding().holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_founding_that_is_too_late_leaves_nothing_whatever_commit_the_power_goes_after() {
    let Some(stage) = Stage::set("workspace.create too late", Hardware::Token).await else { return };
    let late = Late { at: "keys.hsm_create_kek", after: 11 * A_MINUTE };
    founding().turning(Turn::TooLate(late)).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_founding_that_an_operator_has_unwound_leaves_nothing_whatever_commit_the_power_goes_after() {
    let Some(stage) = Stage::set("workspace.create unwound", Hardware::Token).await else { return };
    let stage = stage.spoilt(Defect::WorkspacesStayUnfounded);
    founding().turning(Turn::Unwound).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_workspace_is_shredded_once_whatever_commit_the_power_goes_after() {
    let Some(stage) = Stage::set("workspace.close", Hardware::Token).await else { return };
    closing(&stage).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_shredding_refused_leaves_the_workspace_whatever_commit_the_power_goes_after() {
    let Some(stage) = Stage::set("workspace.close refused", Hardware::Token).await else { return };
    closing(&stage).turning(Turn::Refused("workspaces.await_grace")).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn an_export_is_kept_once_whatever_commit_the_power_goes_after() {
    let Some(stage) = Stage::set("audit.seal_export", Hardware::Token).await else { return };
    export().holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn an_export_that_is_too_late_leaves_none_whatever_commit_the_power_goes_after() {
    let Some(stage) = Stage::set("audit.seal_export too late", Hardware::Token).await else { return };
    let late = Late { at: "audit.build_bundle", after: 361 * A_MINUTE };
    export().turning(Turn::TooLate(late)).holds_after_every_commit(stage).await;
}
