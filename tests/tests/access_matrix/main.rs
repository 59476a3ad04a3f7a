//! Who may do what: every route the appliance serves, for every caller, in an open and in a closed workspace.
//! Who enters: the API's own description, from which every cell is generated.
//! What leaves: a failure naming each cell that differs, and each route that this matrix does not know.

mod known;

use std::collections::BTreeSet;

use promises::insider::forge;
use promises::wire::Ask;
use promises::{Appliance, Identity, Member, Protocol, SCOPES, delete, get, post};
use serde_json::{Value, json};

use crate::known::{CALLED_ELSEWHERE, KNOWN, WITHOUT_ENTRY};

/// A caller, seen from the first workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    NoApiKey,
    WrongScope,
    RightScope,
    AnothersApiKey,
    RevokedClient,
    RevokedApiKey,
    NotEnrolled,
    OperatorInWorkspace,
    OperatorNowhere,
}

const CALLERS: [Caller; 9] = [
    Caller::NoApiKey,
    Caller::WrongScope,
    Caller::RightScope,
    Caller::AnothersApiKey,
    Caller::RevokedClient,
    Caller::RevokedApiKey,
    Caller::NotEnrolled,
    Caller::OperatorInWorkspace,
    Caller::OperatorNowhere,
];

/// A guard as the description names it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Guard {
    Open,
    Enrolled,
    Scope(String),
    Operator,
}

#[derive(Clone, Debug)]
struct Route {
    method: String,
    path: String,
    guard: Guard,
}

async fn routes(house: &Appliance) -> Vec<Route> {
    let description = house.operator().ask(get("/v1/openapi.json")).await.expect(200).json();
    let mut routes = Vec::new();
    for (path, operations) in description["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let guard = match operation["x-guard"].as_str().unwrap() {
                "open" => Guard::Open,
                "enrolled client" => Guard::Enrolled,
                "operator" => Guard::Operator,
                text => Guard::Scope(
                    text.strip_prefix("scope ").unwrap_or_else(|| panic!("guard {text}")).to_owned(),
                ),
            };
            routes.push(Route { method: method.to_uppercase(), path: path.clone(), guard });
        }
    }
    routes
}

impl Route {
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    fn line(&self) -> String {
        let guard = match &self.guard {
            Guard::Open => "open".to_owned(),
            Guard::Enrolled => "enrolled client".to_owned(),
            Guard::Scope(scope) => format!("scope {scope}"),
            Guard::Operator => "operator".to_owned(),
        };
        format!("{}: {guard}", self.name())
    }

    /// A request that passes the guard and goes no further: things that do not exist, bodies that are not right.
    fn harmless(&self) -> Ask {
        let path = self.path.split('/').map(|part| if part.starts_with('{') { "nothing" } else { part });
        let path = path.collect::<Vec<_>>().join("/");
        match self.method.as_str() {
            "GET" => get(path),
            "DELETE" => delete(path),
            _ => post(path, json!({ "not": "right" })),
        }
    }

    /// The code with which the guard must refuse, or `None` where the caller must pass.
    fn refusal(&self, caller: Caller, closed: bool) -> Option<&'static str> {
        use Caller::*;
        if self.guard == Guard::Open {
            return None;
        }
        match (caller, &self.guard) {
            (OperatorInWorkspace, _) | (OperatorNowhere, Guard::Operator | Guard::Enrolled) => None,
            (OperatorNowhere, _) => Some("bad_request"),
            (NotEnrolled | RevokedClient, _) => unreachable!("they are hung up on"),
            _ if closed => Some("workspace_closed"),
            (AnothersApiKey, _) => Some("workspace_mismatch"),
            (RevokedApiKey, _) => Some("api_key_unknown"),
            (_, Guard::Operator) => Some("operator_only"),
            (_, Guard::Enrolled) | (RightScope, Guard::Scope(_)) => None,
            (NoApiKey, Guard::Scope(_)) => Some("api_key_unknown"),
            (WrongScope, Guard::Scope(_)) => Some("scope_missing"),
            (_, Guard::Open) => None,
        }
    }
}

/// Codes that only a guard gives, and so tell that a request did not pass.
const GUARD_CODES: [&str; 8] = [
    "client_unknown",
    "client_revoked",
    "workspace_closed",
    "workspace_mismatch",
    "api_key_unknown",
    "scope_missing",
    "operator_only",
    "api_key_expired",
];

/// Everybody who calls, ready to call.
struct Crowd {
    house: Appliance,
    acme: Member,
    other_secret: String,
    revoked_secret: String,
    revoked: Identity,
    unknown: Identity,
    by_scope: Vec<(String, String)>,
    all_but: Vec<(String, String)>,
}

impl Crowd {
    async fn gather() -> Self {
        let house = Appliance::start().await;
        let (acme, globex) = (house.member("acme").await, house.member("globex").await);
        let operator = house.operator().acting_in(&acme.workspace);
        let (client, revoked) = operator.enrol("revoked").await;
        operator.ask(delete(format!("/v1/clients/{client}"))).await.expect(204);
        let (api_key, revoked_secret) = operator.issue("revoked", &SCOPES).await;
        operator.ask(delete(format!("/v1/api-keys/{api_key}"))).await.expect(204);
        let unknown = forge(house.hsm.as_ref().unwrap(), &acme.identity.ca, &house.path(""), -1, 9);
        let (mut by_scope, mut all_but) = (Vec::new(), Vec::new());
        for scope in SCOPES {
            let others: Vec<&str> = SCOPES.into_iter().filter(|other| *other != scope).collect();
            by_scope.push((scope.to_owned(), operator.issue("one", &[scope]).await.1));
            all_but.push((scope.to_owned(), operator.issue("others", &others).await.1));
        }
        Self { house, acme, other_secret: globex.secret, revoked_secret, revoked, unknown, by_scope, all_but }
    }

    /// Whoever has no certificate that stands is hung up on, whatever the route, before HTTP.
    async fn is_hung_up_on(&self, caller: Caller, route: &Route) -> Option<bool> {
        let identity = match caller {
            Caller::RevokedClient => &self.revoked,
            Caller::NotEnrolled => &self.unknown,
            _ => return None,
        };
        Some(self.acme.with_identity(identity).try_ask(route.harmless()).await.is_err())
    }

    async fn ask(&self, caller: Caller, route: &Route) -> promises::Answer {
        let ask = route.harmless();
        let scope = match &route.guard {
            Guard::Scope(scope) => scope.as_str(),
            _ => "sign",
        };
        let secret_of = |list: &[(String, String)]| {
            list.iter()
                .find(|(name, _)| name == scope)
                .unwrap_or_else(|| panic!("the scope {scope} is new"))
                .1
                .clone()
        };
        let acme = &self.acme;
        match caller {
            Caller::OperatorInWorkspace => self.house.operator().acting_in(&acme.workspace).ask(ask).await,
            Caller::OperatorNowhere => self.house.operator().ask(ask).await,
            Caller::NoApiKey => {
                let connection = self.house.door().connect(&acme.identity, None, Protocol::H1).await.unwrap();
                connection.send(ask).await.unwrap()
            }
            Caller::WrongScope => acme.with_secret(&secret_of(&self.all_but)).ask(ask).await,
            Caller::RightScope => acme.with_secret(&secret_of(&self.by_scope)).ask(ask).await,
            Caller::AnothersApiKey => acme.with_secret(&self.other_secret).ask(ask).await,
            Caller::RevokedApiKey => acme.with_secret(&self.revoked_secret).ask(ask).await,
            Caller::RevokedClient | Caller::NotEnrolled => unreachable!("they are hung up on"),
        }
    }

    async fn wrong_cells(&self, routes: &[Route], closed: bool) -> Vec<String> {
        let mut wrong = Vec::new();
        for route in routes {
            for caller in CALLERS {
                if let Some(hung_up) = self.is_hung_up_on(caller, route).await {
                    if !hung_up {
                        wrong.push(format!("{} by {caller:?}: answered", route.name()));
                    }
                    continue;
                }
                let answer = self.ask(caller, route).await;
                let (code, expected) = (answer.code(), route.refusal(caller, closed));
                let right = match expected {
                    Some(expected) => code == expected,
                    None => !GUARD_CODES.contains(&code.as_str()) && answer.status < 500,
                };
                if !right {
                    let state = if closed { "closed" } else { "open" };
                    let got = format!("{} {code}", answer.status);
                    wrong.push(format!("{} by {caller:?}, {state}: {got}, not {expected:?}", route.name()));
                }
            }
        }
        wrong
    }
}

#[tokio::test]
async fn the_matrix_knows_every_route_that_is_served_and_no_other() {
    let house = Appliance::start().await;
    let served: BTreeSet<String> = routes(&house).await.iter().map(Route::line).collect();
    let known: BTreeSet<String> = KNOWN.iter().map(|line| (*line).to_owned()).collect();
    let (new, gone): (Vec<_>, Vec<_>) =
        (served.difference(&known).collect(), known.difference(&served).collect());
    assert!(
        new.is_empty() && gone.is_empty(),
        "served and not known: {new:#?}\nknown and not served: {gone:#?}"
    );
}

#[tokio::test]
async fn every_caller_gets_through_every_guard_that_lets_it_and_no_other() {
    promises::described::enforce();
    let crowd = Crowd::gather().await;
    let routes = routes(&crowd.house).await;
    let wrong = crowd.wrong_cells(&routes, false).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
    let close = post(format!("/v1/workspaces/{}/close", crowd.acme.workspace), Value::Null);
    crowd.house.operator().ask(close).await.expect(204);
    let wrong = crowd.wrong_cells(&routes, true).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// One call of each changing route that succeeds, in an order in which it can.
fn succeeding_calls(
    key: &str,
    acme: &Member,
    first_ca: &str,
    waiting: [Value; 2],
) -> Vec<(&'static str, Ask)> {
    let run = |at: usize| waiting[at]["id"].as_str().unwrap().to_owned();
    let ballot = &waiting[1]["approval"];
    let vote = json!({ "verdict": "approve", "digest": ballot["digest"], "policy_version": ballot["policy_version"] });
    let Member { workspace, client, api_key, .. } = acme;
    let (_, csr) = promises::identity::request();
    let key_to = |verb: &str| post(format!("/v1/keys/{key}/{verb}"), Value::Null);
    let sign = json!({ "scheme": "ecdsa-sha256", "message": "eA==" });
    let wanted = json!({ "scheme": "ecdsa-sha256", "message": "eA==", "nonce": "one" });
    let verify = json!({ "scheme": "ecdsa-sha256", "message": "eA==", "signature": "eA==" });
    let batch = json!({ "items": [{ "key": key, "scheme": "ecdsa-sha256", "message": "eA==" }] });
    vec![
        ("POST /v1/workspaces", post("/v1/workspaces", json!({ "name": "initech" }))),
        ("POST /v1/clients", post("/v1/clients", json!({ "name": "more", "csr": csr }))),
        ("POST /v1/authorities", post("/v1/authorities", Value::Null)),
        ("POST /v1/api-keys", post("/v1/api-keys", json!({ "name": "more", "scopes": ["sign"] }))),
        ("POST /v1/keys", post("/v1/keys", json!({ "name": "more", "kind": "p256" }))),
        ("POST /v1/keys/{key}/sign", post(format!("/v1/keys/{key}/sign"), sign)),
        ("POST /v1/keys/{key}/signatures", post(format!("/v1/keys/{key}/signatures"), wanted)),
        ("POST /v1/sign-batch", post("/v1/sign-batch", batch)),
        ("POST /v1/keys/{key}/verify", post(format!("/v1/keys/{key}/verify"), verify)),
        ("POST /v1/keys/{key}/rotate", key_to("rotate")),
        (
            "POST /v1/workflows/{workflow}",
            post("/v1/workflows/key.generate", json!({ "name": "by-name", "kind": "p256" })),
        ),
        (
            "POST /v1/workflows/{workflow}/cancel",
            post(format!("/v1/workflows/{}/cancel", run(0)), json!({ "reason": "kept after all" })),
        ),
        (
            "POST /v1/workflows/{workflow}/approvals",
            post(format!("/v1/workflows/{}/approvals", run(1)), vote),
        ),
        ("POST /v1/keys/{key}/disable", key_to("disable")),
        ("POST /v1/keys/{key}/enable", key_to("enable")),
        (
            "POST /v1/keys/{key}/schedule-destruction",
            post(format!("/v1/keys/{key}/schedule-destruction"), json!({ "days": 9 })),
        ),
        ("POST /v1/keys/{key}/keep", key_to("keep")),
        ("POST /v1/audit/export", post("/v1/audit/export", Value::Null)),
        ("POST /v1/audit/seal", post("/v1/audit/seal", Value::Null)),
        ("DELETE /v1/api-keys/{api_key}", delete(format!("/v1/api-keys/{api_key}"))),
        ("DELETE /v1/clients/{client}", delete(format!("/v1/clients/{client}"))),
        (
            "POST /v1/workspaces/{workspace}/close",
            post(format!("/v1/workspaces/{workspace}/close"), Value::Null),
        ),
        (
            "POST /v1/workspaces/{workspace}/open",
            post(format!("/v1/workspaces/{workspace}/open"), Value::Null),
        ),
        (
            "POST /v1/authorities/{authority}/retire",
            post(format!("/v1/authorities/{first_ca}/retire"), Value::Null),
        ),
    ]
}

/// Reads by each route that only reads, once there is something to be read by it.
async fn read_everything(operator: &promises::Operator, key: &str, run: &str) {
    let checkpoint = operator.ask(get("/v1/audit/checkpoint")).await.expect(200).json();
    let size = checkpoint["size"].as_u64().unwrap();
    let explained = operator.ask(get("/v1/routes/explain?path=/v1/keys")).await.expect(200).request_id();
    let entries = operator.ask(get("/v1/audit/entries?limit=1")).await.expect(200).json();
    let own = &entries["entries"][0]["seq"];
    let of_a_thing = [
        format!("/v1/audit/consistency?old=1&new={size}"),
        format!("/v1/audit/entries/{own}"),
        format!("/v1/audit/receipts/{own}"),
        format!("/v1/keys/{key}"),
        format!("/v1/policies/{key}"),
        format!("/v1/traces/{explained}"),
        format!("/v1/workflows/{run}"),
    ];
    let plain = promises::described::routes();
    let plain = plain.iter().filter_map(|name| name.strip_prefix("GET ")).filter(|path| !path.contains('{'));
    let with_query = ["/v1/audit/consistency", "/v1/routes/explain"];
    for path in plain.filter(|path| !with_query.contains(path)).map(str::to_owned).chain(of_a_thing) {
        let answer = operator.ask(get(path.as_str())).await;
        assert!((200..300).contains(&answer.status), "GET {path}: {}", answer.text());
    }
}

#[tokio::test]
async fn every_changing_route_leaves_an_entry_that_names_its_request() {
    promises::described::enforce();
    let mut house = Appliance::start().await;
    let acme = house.member("acme").await;
    let key = acme.create_key("release", "p256").await;
    let operator = house.operator().acting_in(&acme.workspace);
    let first_ca = operator.authorities().await[0]["fingerprint"].as_str().unwrap().to_owned();
    let mut waiting = Vec::new();
    for name in ["doomed", "damned"] {
        acme.create_key(name, "p256").await;
        let asked = post(format!("/v1/keys/{name}/schedule-destruction"), json!({ "days": 9 }));
        let run = acme.ask(asked).await.expect(202).json()["workflow"].as_str().unwrap().to_owned();
        waiting.push(promises::runs::waiting_for_approval(&operator, &run).await);
    }
    let spare = house.operator().create_workspace("spare").await;
    let shred = json!({ "reason": "no longer needed", "grace_days": 30 });
    let run = waiting[0]["id"].as_str().unwrap().to_owned();
    let mut calls = succeeding_calls(&key, &acme, &first_ca, waiting.try_into().unwrap());
    let lease = post("/v1/locks", json!({ "name": "held", "ttl_seconds": 60 }));
    let lease = operator.ask(lease).await.expect(201).json()["lease_id"].clone();
    calls.push(("POST /v1/locks", post("/v1/locks", json!({ "name": "nightly", "ttl_seconds": 60 }))));
    let renewal = json!({ "lease_id": lease, "ttl_seconds": 90 });
    calls.push(("POST /v1/locks/{name}/renew", post("/v1/locks/held/renew", renewal)));
    let release = json!({ "lease_id": lease });
    calls.push(("POST /v1/locks/{name}/release", post("/v1/locks/held/release", release)));
    calls.push((
        "POST /v1/workspaces/{workspace}/shred",
        post(format!("/v1/workspaces/{spare}/shred"), shred),
    ));
    let elsewhere = CALLED_ELSEWHERE.iter().map(|(name, _)| *name);
    let called: BTreeSet<&str> = calls.iter().map(|(name, _)| *name).chain(elsewhere).collect();
    let changing: BTreeSet<String> =
        routes(&house).await.iter().filter(|route| route.method != "GET").map(Route::name).collect();
    let missing: Vec<_> = changing.iter().filter(|name| !called.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "changing routes that nobody calls here: {missing:?}");
    for (name, ask) in calls {
        let answer = operator.ask(ask).await;
        assert!((200..300).contains(&answer.status), "{name}: {}", answer.text());
        let told = house.operator().entries(&format!("request_id={}", answer.request_id())).await;
        match WITHOUT_ENTRY.iter().find(|(without, _)| *without == name) {
            Some((_, why)) => {
                assert!(told.is_empty(), "{name} leaves an entry; strike it from the list ({why})")
            }
            None => assert!(!told.is_empty(), "{name} left no entry"),
        }
        if let Some(seq) = answer.entry() {
            assert!(
                told.iter().any(|entry| entry["seq"] == seq),
                "{name} names entry {seq}, which is another's"
            );
        }
    }
    read_everything(&operator, &key, &run).await;
    let seen = promises::described::succeeded();
    let unseen: BTreeSet<String> = promises::described::routes().difference(&seen).cloned().collect();
    let elsewhere: BTreeSet<String> = CALLED_ELSEWHERE.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(unseen, elsewhere, "routes whose success was never held against their description");
    promises::evidence::verifies(&mut house).await;
}
