//! Rotating and destroying a key, taken through everything that can go wrong.
//! Who enters: `key.rotate` and `key.destroy` as the house has them, over keys made for each round.
//! What leaves: proofs: one more version or none, gone or as it stood before.

use std::collections::HashMap;
use std::sync::Mutex;

use gateway::ids::WorkspaceId;
use gateway::services::keys::destruction::DestructionPlan;
use gateway::services::keys::rotation::RotationPlan;
use gateway::workflows;
use hsm::Custody;
use sagas::testing::Heard;
use sagas::{Scope, StartRequest};
use serde_json::{Value as Json, json};

use crate::common::house::Standing;
use crate::keys_in_and_out::{latest, votes};
use crate::world::{Seen, Stage, Story, now, proven};

/// More keys than any proof has rounds: each round changes one of its own.
const ROUNDS_MAX: u64 = 160;

async fn many_keys(standing: &Standing) -> (WorkspaceId, Vec<String>) {
    let operator = standing.operator();
    let made = operator.post("/v1/workspaces", json!({ "name": "acme" })).await.json();
    let within = operator.with("chancery-workspace", "acme");
    let mut keys = Vec::new();
    for round in 0..ROUNDS_MAX {
        let key =
            within.post("/v1/keys", json!({ "name": format!("k{round}"), "kind": "p256" })).await.json();
        keys.push(key["id"].as_str().unwrap().to_owned());
    }
    (made["id"].as_str().unwrap().parse().unwrap(), keys)
}

pub(crate) async fn shown(stage: &Stage, workspace: &WorkspaceId, key: &str) -> Json {
    let within = stage.standing.operator().with("chancery-workspace", workspace.as_str());
    let key = within.get(&format!("/v1/keys/{key}")).await.json();
    let versions = key["versions"].as_array().map_or(0, Vec::len);
    json!({ "state": key["state"], "latest": key["latest_version"], "versions": versions, "changing": key["workflow"].is_string() })
}

struct Rotating {
    workspace: WorkspaceId,
    keys: Vec<String>,
    places: Mutex<HashMap<u64, usize>>,
}

/// Rounds have numbers of their own; each takes the next key.
fn key_of<'k>(places: &Mutex<HashMap<u64, usize>>, keys: &'k [String], round: u64) -> &'k str {
    let mut places = places.lock().unwrap();
    let next = places.len();
    &keys[*places.entry(round).or_insert(next)]
}

impl Story for Rotating {
    fn request(&self, _: &Stage, round: u64) -> StartRequest {
        let plan = RotationPlan {
            workspace: self.workspace.clone(),
            key: key_of(&self.places, &self.keys, round).parse().unwrap(),
            custody: Custody::NonExtractable,
            overlap_seconds: 60,
        };
        StartRequest::new("key.rotate", Scope::Workspace(self.workspace.on_ledger().clone()), &plan).unwrap()
    }

    fn seen<'a>(&'a self, stage: &'a Stage, round: u64) -> Seen<'a> {
        Box::pin(shown(stage, &self.workspace, key_of(&self.places, &self.keys, round)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rotating_a_key_holds_in_every_cell() {
    let (stage, (workspace, keys)) = Stage::set(many_keys).await;
    let definition = workflows::keys::rotate(&stage.standing.house.keys).unwrap();
    proven(stage, Rotating { workspace, keys, places: Mutex::default() }, &definition).await;
}

pub(crate) struct Destroying {
    pub(crate) workspace: WorkspaceId,
    pub(crate) keys: Vec<String>,
    pub(crate) places: Mutex<HashMap<u64, usize>>,
}

impl Story for Destroying {
    fn request(&self, stage: &Stage, round: u64) -> StartRequest {
        let key = key_of(&self.places, &self.keys, round);
        let (version, fingerprint) = now(latest(stage, &self.workspace, key));
        let plan = DestructionPlan {
            workspace: self.workspace.clone(),
            key: key.parse().unwrap(),
            version,
            fingerprint,
            reason: "old".to_owned(),
            notice_seconds: 60,
        };
        StartRequest::new("key.destroy", Scope::Workspace(self.workspace.on_ledger().clone()), &plan).unwrap()
    }

    fn answer(&self, stage: &Stage, step: &str, _: u64) -> Vec<Heard> {
        match step {
            "signing.await_approvals" => now(votes(stage, &self.workspace)),
            // The notice ends by itself.
            _ => Vec::new(),
        }
    }

    fn seen<'a>(&'a self, stage: &'a Stage, round: u64) -> Seen<'a> {
        Box::pin(shown(stage, &self.workspace, key_of(&self.places, &self.keys, round)))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn destroying_a_key_holds_in_every_cell() {
    let (stage, (workspace, keys)) = Stage::set(many_keys).await;
    let definition = workflows::keys::destroy(&stage.standing.house.keys).unwrap();
    proven(stage, Destroying { workspace, keys, places: Mutex::default() }, &definition).await;
}
