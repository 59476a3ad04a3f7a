//! Credentials that are revoked after the guard has seen them: whatever is then still to be written is not.
//! Who enters: a program that passed its guard, and an operator who revokes its API key or its certificate.
//! What leaves: refusals by name, and a house in which nothing has changed.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::fmt::Debug;
use std::time::{Duration, Instant};

use common::house::{Program, Standing, house};
use gateway::api::exchange::done;
use gateway::api::guard::{Permit, may};
use gateway::api::{self, Caller, Client, Guard, InWorkspace, Origin, Scopes};
use gateway::ids::RequestId;
use gateway::runs::Runs;
use gateway::services::keys::Change;
use gateway::services::workspaces::NewApiKey;
use hsm::{Custody, KeyKind};
use serde_json::json;

/// What a guard saw before anything was revoked.
struct Seen {
    keys: Permit<may::KeysManage>,
    access: Permit<may::AccessManage>,
    workflows: Permit<may::WorkflowsManage>,
}

impl Seen {
    fn of(program: &Program) -> Self {
        let client =
            Client { id: program.client.parse().unwrap(), workspace: program.workspace.parse().unwrap() };
        let api_key = program.api_key.parse().unwrap();
        let caller = Caller::Program(api::Program { client, api_key, scopes: Scopes::LegacyWildcard });
        let caller = Ok(&caller);
        Self {
            keys: InWorkspace::check(caller).unwrap(),
            access: InWorkspace::check(caller).unwrap(),
            workflows: InWorkspace::check(caller).unwrap(),
        }
    }
}

fn origin(standing: &Standing) -> Origin {
    Origin {
        request: RequestId::new(&standing.house.ground.dice),
        ip: None,
        user_agent: String::new(),
        deadline: Instant::now() + Duration::from_secs(10),
        urgent: false,
        fences: Vec::new(),
        once: None,
    }
}

/// Every kind of act that a member can have written: each says in its own service's words why it was not.
async fn refusals(standing: &Standing, seen: &Seen) -> Vec<String> {
    fn words<T>(outcome: Result<T, impl Debug>) -> String {
        outcome.map(drop).map_or_else(|why| format!("{why:?}"), |()| "done".to_owned())
    }
    let (house, origin) = (&standing.house, origin(standing));
    let runs = Runs::new(house.ground.clone(), vec![]);
    let new_key = NewApiKey { name: "late".parse().unwrap(), scopes: Scopes::LegacyWildcard, expires: None };
    let (name, custody) = ("late".parse().unwrap(), Custody::default());
    let run = format!("wf_{}", "7".repeat(32)).parse().unwrap();
    vec![
        words(house.keys.change(&seen.keys, &origin, "release", Change::Disable, done).await),
        words(house.keys.rotate(&seen.keys, &origin, "release", Duration::ZERO).await),
        words(house.keys.create(&seen.keys, &origin, name, KeyKind::P256, custody, None).await),
        words(house.workspaces.issue_api_key(&seen.access, &origin, new_key, done).await),
        words(house.workspaces.revoke_api_key(&seen.access, &origin, seen_key(standing).await, done).await),
        words(runs.cancel(&seen.workflows, &origin, run, "late").await),
    ]
}

/// An API key that still stands in the workspace of the program.
async fn seen_key(standing: &Standing) -> gateway::ids::ApiKeyId {
    let listed = standing.operator().with("chancery-workspace", "acme").get("/v1/api-keys").await.json();
    let all = listed["api_keys"].as_array().unwrap().clone();
    let other = all.iter().find(|one| one["name"] == "other").unwrap();
    other["id"].as_str().unwrap().parse().unwrap()
}

async fn stage() -> (Standing, Program, Seen) {
    let standing = house().await;
    let program = standing.program("acme", &["keys:manage", "keys:read"]).await;
    let operator = standing.operator().with("chancery-workspace", "acme");
    operator.post("/v1/api-keys", json!({ "name": "other", "scopes": ["sign"] })).await;
    let made = program.asker.post("/v1/keys", json!({ "name": "release", "kind": "p256" })).await;
    assert_eq!(made.status, 201, "{made:?}");
    let seen = Seen::of(&program);
    (standing, program, seen)
}

async fn nothing_has_changed(standing: &Standing) {
    let operator = standing.operator().with("chancery-workspace", "acme");
    let keys = operator.get("/v1/keys").await.json();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1, "{keys}");
    assert_eq!(
        (&keys["keys"][0]["state"], &keys["keys"][0]["latest_version"]),
        (&json!("enabled"), &json!(1)),
        "{keys}"
    );
}

#[tokio::test]
async fn nothing_is_written_for_an_api_key_that_was_revoked_after_the_guard_saw_it() {
    let (standing, program, seen) = stage().await;
    let operator = standing.operator().with("chancery-workspace", "acme");
    let revoked = operator.ask("DELETE", &format!("/v1/api-keys/{}", program.api_key), None).await;
    assert_eq!(revoked.status, 204, "{revoked:?}");
    for words in refusals(&standing, &seen).await {
        assert!(words.contains("ApiKeyWithdrawn"), "{words}");
    }
    nothing_has_changed(&standing).await;
}

#[tokio::test]
async fn nothing_is_written_for_a_client_that_was_revoked_after_the_guard_saw_it() {
    let (standing, program, seen) = stage().await;
    let operator = standing.operator().with("chancery-workspace", "acme");
    let revoked = operator.ask("DELETE", &format!("/v1/clients/{}", program.client), None).await;
    assert_eq!(revoked.status, 204, "{revoked:?}");
    for words in refusals(&standing, &seen).await {
        assert!(words.contains("ClientWithdrawn"), "{words}");
    }
    nothing_has_changed(&standing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_not_given_to_whoever_was_revoked_while_standing_in_line() {
    let standing = house().await;
    let [holder, waiter] =
        [standing.program("acme", &["locks"]).await, standing.program("acme", &["locks"]).await];
    let held = holder.asker.post("/v1/locks", json!({ "name": "deploy", "ttl_seconds": 60 })).await;
    assert_eq!(held.status, 201, "{held:?}");
    let waiting = tokio::spawn({
        let asker = waiter.asker.clone();
        let wish = json!({ "name": "deploy", "ttl_seconds": 60, "wait_seconds": 30 });
        async move { asker.post("/v1/locks", wish).await }
    });
    let ground = &standing.house.ground;
    let scope = sagas::Scope::Workspace(audit::Workspace::new(&waiter.workspace).unwrap());
    while sagas::lock::lease::waiting(&ground.ledger, &scope, "deploy", ground.clock.unix_us()).await == 0 {
        tokio::task::yield_now().await;
    }
    let operator = standing.operator().with("chancery-workspace", "acme");
    let revoked = operator.ask("DELETE", &format!("/v1/api-keys/{}", waiter.api_key), None).await;
    assert_eq!(revoked.status, 204, "{revoked:?}");
    let lease = json!({ "lease_id": held.json()["lease_id"] });
    let released = holder.asker.post("/v1/locks/deploy/release", lease).await;
    assert!(released.status < 300, "{released:?}");
    let refused = waiting.await.unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (401, "api_key_unknown"), "{refused:?}");
}
