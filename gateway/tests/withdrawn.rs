//! Credentials that are revoked, or a workspace that is closed, after the guard has seen them: whatever is then still to be
//! written is not, and whatever is still to be read is not shown.
//! Who enters: a program that passed its guard, and an operator who revokes its API key or its certificate, or closes its workspace.
//! What leaves: refusals by name, and a house in which nothing has changed.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::fmt::Debug;
use std::time::{Duration, Instant};

use common::house::{Program, Standing, house};
use gateway::api::exchange::done;
use gateway::api::guard::{Permit, may};
use gateway::api::{self, Caller, Client, Guard, InWorkspace, Origin, Scopes};
use gateway::boundary::authenticate::Peer;
use gateway::boundary::connection;
use gateway::ids::RequestId;
use gateway::runs::Runs;
use gateway::services::keys::Change;
use gateway::services::workspaces::NewApiKey;
use hsm::{Custody, KeyKind};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::sync::CancellationToken;

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

/// A request whose head has passed the guard, and whose body has not come yet.
struct HalfSent(DuplexStream);

impl HalfSent {
    /// Sends the head; the server says `100 Continue` when it begins to wait for the body, which is behind the guard.
    async fn of(standing: &Standing, by: &Program, method: &str, path: &str) -> Self {
        let (mut near, far) = tokio::io::duplex(64 << 10);
        let peer = Peer::Remote { address: ([192, 0, 2, 1], 4711).into(), certificate: by.certificate };
        let gate = standing.house.api.clone();
        tokio::spawn(async move {
            let never = CancellationToken::new();
            connection::serve(far, peer, gate, &never, &never).await;
        });
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\nidempotency-key: {}\r\n\
             content-type: application/json\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n",
            by.secret,
            common::house::fresh("half"),
        );
        near.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\n") {
            answer.push(char::from(near.read_u8().await.unwrap()));
        }
        assert!(answer.starts_with("HTTP/1.1 100"), "{method} {path} is past its guard: {answer}");
        Self(near)
    }

    /// Sends the body; the answer's status and code.
    async fn go_on(mut self, body: &Value) -> (u16, String) {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        if !text.is_empty() {
            let chunk = format!("{:x}\r\n{text}\r\n", text.len());
            self.0.write_all(chunk.as_bytes()).await.unwrap();
        }
        self.0.write_all(b"0\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        self.0.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let code =
            serde_json::from_str::<Value>(body).map(|it| it["code"].as_str().unwrap_or_default().to_owned());
        (status, code.unwrap_or_else(|_| body.to_owned()))
    }
}

/// Everything that the acts are about, and how they are asked for: a path and a body that would be carried out.
async fn acts(standing: &Standing, by: &Program, other: &Program) -> Vec<(&'static str, String, Value)> {
    let key = |name: &str, policy: Value| json!({ "name": name, "kind": "p256", "policy": policy });
    let agreed = json!({ "direct": true, "approvals": 1 });
    for (name, policy) in
        [("release", Value::Null), ("resting", Value::Null), ("doomed", Value::Null), ("guarded", agreed)]
    {
        assert_eq!(by.asker.post("/v1/keys", key(name, policy)).await.status, 201);
    }
    assert_eq!(by.asker.post_nothing("/v1/keys/resting/disable").await.status, 200);
    let doomed = by.asker.post("/v1/keys/doomed/schedule-destruction", json!({ "days": 30 })).await;
    assert!(doomed.status < 300, "{doomed:?}");
    let lease = by.asker.post("/v1/locks", json!({ "name": "deploy", "ttl_seconds": 600 })).await.json();
    let digest = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let order = json!({ "scheme": "ecdsa-sha256", "digest": digest });
    let with = |more: Value| {
        let mut all = order.clone();
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    };
    let asked = other.asker.with("prefer", "wait=0");
    let asked = asked.post("/v1/keys/guarded/signatures", with(json!({ "nonce": "first" }))).await;
    let waiting = asked.header("location").to_owned();
    let mut run = by.asker.get(&waiting).await.json();
    while run["approval"]["digest"].is_null() {
        run = by.asker.get(&waiting).await.json();
    }
    let ballot = json!({ "verdict": "approve", "digest": run["approval"]["digest"],
        "policy_version": run["approval"]["policy_version"] });
    let expected = rcgen::KeyPair::generate().unwrap().public_key_pem();
    let form = json!({ "name": "brought", "kind": "p256", "public_key": expected });
    let import = by.asker.post("/v1/workflows/key.import", form).await;
    let importing = import.header("location").to_owned();
    while by.asker.get("/v1/keys/brought").await.json()["incoming"].is_null() {
        tokio::task::yield_now().await;
    }
    let third = standing.program("acme", &["sign"]).await;
    let lease_id = json!({ "lease_id": lease["lease_id"] });
    let renew = json!({ "lease_id": lease["lease_id"], "ttl_seconds": 600 });
    let signed = with(json!({ "signature": "AA==" }));
    vec![
        ("POST /v1/api-keys", "/v1/api-keys".into(), json!({ "name": "late", "scopes": ["sign"] })),
        ("DELETE /v1/api-keys/{api_key}", format!("/v1/api-keys/{}", third.api_key), Value::Null),
        ("DELETE /v1/clients/{client}", format!("/v1/clients/{}", third.client), Value::Null),
        ("POST /v1/keys", "/v1/keys".into(), key("late", Value::Null)),
        ("POST /v1/keys/{key}/disable", "/v1/keys/release/disable".into(), Value::Null),
        ("POST /v1/keys/{key}/enable", "/v1/keys/resting/enable".into(), Value::Null),
        ("POST /v1/keys/{key}/keep", "/v1/keys/doomed/keep".into(), Value::Null),
        ("POST /v1/keys/{key}/rotate", "/v1/keys/release/rotate".into(), Value::Null),
        (
            "POST /v1/keys/{key}/schedule-destruction",
            "/v1/keys/release/schedule-destruction".into(),
            json!({ "days": 30 }),
        ),
        ("POST /v1/keys/{key}/sign", "/v1/keys/release/sign".into(), order.clone()),
        (
            "POST /v1/keys/{key}/signatures",
            "/v1/keys/guarded/signatures".into(),
            with(json!({ "nonce": "late" })),
        ),
        ("POST /v1/keys/{key}/verify", "/v1/keys/release/verify".into(), signed),
        ("POST /v1/locks", "/v1/locks".into(), json!({ "name": "late", "ttl_seconds": 60 })),
        ("POST /v1/locks/{name}/release", "/v1/locks/deploy/release".into(), lease_id),
        ("POST /v1/locks/{name}/renew", "/v1/locks/deploy/renew".into(), renew),
        (
            "POST /v1/sign-batch",
            "/v1/sign-batch".into(),
            json!({ "items": [with(json!({ "key": "release" }))] }),
        ),
        ("POST /v1/workflows/{workflow}", "/v1/workflows/key.rotate".into(), json!({ "key": "release" })),
        ("POST /v1/workflows/{workflow}/approvals", format!("{waiting}/approvals"), ballot),
        (
            "POST /v1/workflows/{workflow}/blob",
            format!("{importing}/blob"),
            json!({ "wrapped": "A".repeat(800) }),
        ),
        ("POST /v1/workflows/{workflow}/cancel", format!("{waiting}/cancel"), json!({ "reason": "late" })),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_over_any_route_for_credentials_that_were_revoked_before_the_body_came() {
    let standing = house().await;
    let [by, other] = [standing.program("acme", &SCOPES).await, standing.program("acme", &SCOPES).await];
    let acts = acts(&standing, &by, &other).await;
    let operator = standing.operator().with("chancery-workspace", "acme");
    for (route, path, body) in &acts {
        let method = route.split(' ').next().unwrap();
        for (lost, status, code) in [("api-keys", 401, "api_key_unknown"), ("clients", 403, "client_revoked")]
        {
            let late = standing.program("acme", &SCOPES).await;
            let half = HalfSent::of(&standing, &late, method, path).await;
            let id = if lost == "clients" { &late.client } else { &late.api_key };
            let revoked = operator.ask("DELETE", &format!("/v1/{lost}/{id}"), None).await;
            assert_eq!(revoked.status, 204, "{revoked:?}");
            let before = standing_of_all(&standing).await;
            assert_eq!(half.go_on(body).await, (status, code.to_owned()), "{route}");
            assert_eq!(standing_of_all(&standing).await, before, "{route} did something");
        }
    }
}

const SCOPES: [&str; 9] = [
    "sign",
    "verify",
    "keys:manage",
    "keys:read",
    "access:manage",
    "locks",
    "workflows:read",
    "workflows:manage",
    "approve",
];

/// Every route that changes something and that a member may use, as the description has them.
async fn changing_routes(standing: &Standing) -> Vec<String> {
    let description = standing.operator().get("/v1/openapi.json").await.json();
    let mut routes = Vec::new();
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, route) in methods.as_object().unwrap() {
            let guard = route["x-guard"].as_str().unwrap_or_default();
            if method != "get" && guard.starts_with("scope ") {
                routes.push(format!("{} {path}", method.to_uppercase()));
            }
        }
    }
    routes.sort();
    routes
}

/// How everything stands that the acts could change.
async fn standing_of_all(standing: &Standing) -> Vec<Value> {
    let operator = standing.operator().with("chancery-workspace", "acme");
    let mut all = vec![json!(standing.double.signatures_made())];
    for path in ["/v1/keys", "/v1/api-keys", "/v1/clients", "/v1/locks", "/v1/workflows", "/v1/keys/release"]
    {
        let mut seen = operator.get(path).await.json();
        for key in seen["api_keys"].as_array_mut().into_iter().flatten() {
            key.as_object_mut().unwrap().remove("last_used");
        }
        all.push(seen);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_done_over_any_route_once_the_workspace_was_closed_before_the_body_came() {
    let standing = house().await;
    let [by, other] = [standing.program("acme", &SCOPES).await, standing.program("acme", &SCOPES).await];
    let acts = acts(&standing, &by, &other).await;
    let mut known: Vec<_> = acts.iter().map(|(route, ..)| (*route).to_owned()).collect();
    known.sort();
    assert_eq!(known, changing_routes(&standing).await, "each changing route has an act here");
    let before = standing_of_all(&standing).await;
    let turn = async |verb: &str| {
        let path = format!("/v1/workspaces/{}/{verb}", by.workspace);
        let turned = standing.operator().post_nothing(&path).await;
        assert!(turned.status < 300, "{turned:?}");
    };
    for (route, path, body) in &acts {
        let method = route.split(' ').next().unwrap();
        let half = HalfSent::of(&standing, &by, method, path).await;
        turn("close").await;
        assert_eq!(half.go_on(body).await, (403, "workspace_closed".to_owned()), "{route}");
        turn("open").await;
        assert_eq!(standing_of_all(&standing).await, before, "{route} did something");
    }
    // They are acts that are carried out where nobody closes the workspace.
    let (_, path, body) = acts.iter().find(|(route, ..)| route.ends_with("/sign")).unwrap();
    let half = HalfSent::of(&standing, &by, "POST", path).await;
    assert_eq!(half.go_on(body).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_is_not_given_to_a_waiter_whose_workspace_was_closed() {
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
    let path = format!("/v1/workspaces/{}/close", waiter.workspace);
    assert!(standing.operator().post_nothing(&path).await.status < 300);
    let operator = standing.operator().with("chancery-workspace", "acme");
    let lease = json!({ "lease_id": held.json()["lease_id"] });
    let released = operator.post("/v1/locks/deploy/release", lease).await;
    assert!(released.status < 300, "{released:?}");
    let refused = waiting.await.unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (403, "workspace_closed"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_poll_shows_nothing_to_whoever_was_revoked_while_it_waited() {
    for (what, code) in
        [("api-keys", "api_key_unknown"), ("clients", "client_revoked"), ("", "workspace_closed")]
    {
        let standing = house().await;
        let scopes = ["workflows:read", "keys:manage"];
        let [reader, maker] =
            [standing.program("acme", &scopes).await, standing.program("acme", &scopes).await];
        let events = reader.asker.get("/v1/events").await.json();
        let after = events["next"].as_u64().unwrap();
        let polling = tokio::spawn({
            let asker = reader.asker.with("prefer", "wait=50");
            async move { asker.get(&format!("/v1/events?after={after}")).await }
        });
        while !standing.house.compartments.seen().iter().any(|it| it.name == "events" && it.in_flight > 0) {
            tokio::task::yield_now().await;
        }
        let operator = standing.operator().with("chancery-workspace", "acme");
        let revoked = match what {
            "api-keys" => operator.ask("DELETE", &format!("/v1/api-keys/{}", reader.api_key), None).await,
            "clients" => operator.ask("DELETE", &format!("/v1/clients/{}", reader.client), None).await,
            _ => operator.post_nothing(&format!("/v1/workspaces/{}/close", reader.workspace)).await,
        };
        assert!(revoked.status < 300, "{revoked:?}");
        drop(maker);
        let made = operator.post("/v1/keys", json!({ "name": "release", "kind": "p256" })).await;
        assert_eq!(made.status, 201, "{made:?}");
        let answer = polling.await.unwrap();
        assert_eq!(answer.code(), code, "{answer:?}");
    }
}
