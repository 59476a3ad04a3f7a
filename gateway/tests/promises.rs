//! Promises of the house that need no hardware to be broken: evidence before effect, isolation, traces, reasons.
//! Who enters: requests through the real gate, over a token in memory that fails on command.
//! What leaves: answers and ledger entries, compared.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use audit::Schema;
use audit::testing::{crossing_statements, tenant_plan_slips};
use common::house::{Answer, Asker, Standing, house, house_with, quota};
use gateway::config::RatesConfig;
use hsm::double::DoubleFault;
use serde_json::{Value, json};

const DIGEST: &str = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

async fn key(of: &Asker, name: &str) -> Answer {
    let made = of.post("/v1/keys", json!({ "name": name, "kind": "p256" })).await;
    assert_eq!(made.status, 201, "{made:?}");
    made
}

async fn sign(by: &Asker, name: &str) -> Answer {
    by.post(&format!("/v1/keys/{name}/sign"), json!({ "scheme": "ecdsa-sha256", "digest": DIGEST })).await
}

async fn entries(standing: &Standing) -> Vec<Value> {
    let answer = standing.operator().get("/v1/audit/everything?limit=500").await;
    answer.json()["entries"].as_array().cloned().unwrap_or_default()
}

fn schemas() -> Vec<&'static Schema> {
    let mut schemas = gateway::services::schemas();
    schemas.push(&gateway::appliance::store::SCHEMA);
    schemas
}

#[test]
fn every_statement_over_a_tenants_table_searches_it_by_workspace() {
    let slips = tenant_plan_slips(&schemas());
    assert!(slips.is_empty(), "{}", slips.join("\n"));
}

#[test]
fn statements_across_workspaces_are_few_and_listed() {
    common::golden(
        "gateway/tests/golden/crossing-statements.txt",
        &(crossing_statements(&schemas()).join("\n") + "\n"),
    );
}

#[tokio::test]
async fn a_wrong_signature_never_leaves_and_is_told() {
    let standing = house().await;
    let program = standing.program("acme", &["sign", "keys:manage"]).await;
    key(&program.asker, "release").await;
    assert_eq!(sign(&program.asker, "release").await.status, 200);
    standing.double.next(DoubleFault::WrongSignature);
    let answer = sign(&program.asker, "release").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "token_refused"), "{answer:?}");
    assert!(answer.json().get("signature").is_none());
    let told = entries(&standing).await;
    let failed =
        told.iter().find(|entry| entry["action"] == "key.sign_failed").expect("an entry of the failure");
    assert_eq!(
        (&failed["outcome"], &failed["detail"]["after"]["outcome"]),
        (&json!("failed"), &json!("withheld"))
    );
}

#[tokio::test]
async fn a_signature_that_was_lost_on_the_way_is_told_as_unknown() {
    let standing = house().await;
    let program = standing.program("acme", &["sign", "keys:manage"]).await;
    key(&program.asker, "release").await;
    standing.double.next(DoubleFault::LoseAfter);
    let answer = sign(&program.asker, "release").await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "outcome_unknown"), "{answer:?}");
    assert!(!answer.header("retry-after").is_empty());
}

#[tokio::test]
async fn nothing_is_signed_or_changed_once_the_ledger_takes_no_writes() {
    let standing = house().await;
    let program = standing.program("acme", &["sign", "keys:manage", "keys:read"]).await;
    key(&program.asker, "release").await;
    let (made, held) = (standing.double.signatures_made(), standing.double.keys_held());
    standing.house.ground.ledger.close().await;
    assert_eq!(sign(&program.asker, "release").await.status, 503);
    let refused = program.asker.post("/v1/keys", json!({ "name": "another", "kind": "p256" })).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!((standing.double.signatures_made(), standing.double.keys_held()), (made, held));
}

#[tokio::test]
async fn every_change_is_told_with_actor_address_agent_and_request_and_without_secrets() {
    let standing = house().await;
    let program = standing.program("acme", &["sign", "keys:manage", "access:manage"]).await;
    let asker = program.asker.with("user-agent", "builder/7");
    let secret = asker.post("/v1/api-keys", json!({ "name": "second", "scopes": ["sign"] })).await;
    let changes = [
        key(&asker, "release").await,
        sign(&asker, "release").await,
        asker.ask("POST", "/v1/keys/release/rotate", None).await,
        asker.ask("POST", "/v1/keys/release/disable", None).await,
        asker.ask("POST", "/v1/keys/release/enable", None).await,
        asker.post("/v1/keys/release/schedule-destruction", json!({ "days": 30 })).await,
        asker.ask("POST", "/v1/keys/release/keep", None).await,
        asker.ask("DELETE", &format!("/v1/api-keys/{}", secret.json()["id"].as_str().unwrap()), None).await,
    ];
    let told = entries(&standing).await;
    for change in &changes {
        assert!(change.status < 300, "{change:?}");
        let entry =
            told.iter().find(|entry| entry["request_id"] == change.header("request-id")).expect("its entry");
        assert_eq!(entry["actor"], format!("{}/{}", program.client, program.api_key), "{entry}");
        assert_eq!(entry["workspace"], program.workspace, "{entry}");
        assert_eq!(
            (&entry["detail"]["ip"], &entry["detail"]["user_agent"]),
            (&json!("192.0.2.1"), &json!("builder/7"))
        );
        assert!(change.header("chancery-entry").parse::<u64>().is_ok(), "{change:?}");
    }
    let disabled = told.iter().find(|entry| entry["action"] == "key.disable").expect("its entry");
    assert_eq!(disabled["detail"]["before"]["state"], "enabled");
    assert_eq!(disabled["detail"]["after"]["state"], "disabled");
    let all = Value::from(told).to_string();
    for secret in [secret.json()["secret"].as_str().unwrap().to_owned(), program.secret] {
        assert!(!all.contains(secret.trim_start_matches("ck_")), "an API key stands on the ledger");
    }
}

#[tokio::test]
async fn a_trace_is_taken_up_and_the_request_is_named_in_answer_and_entry() {
    let standing = house().await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let asker = standing.operator().with("traceparent", parent).with("tracestate", "vendor=1");
    let answer = asker.post("/v1/workspaces", json!({ "name": "acme" })).await;
    let (out, request) = (answer.header("traceparent"), answer.header("request-id").to_owned());
    assert!(out.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && out.ends_with("-01"), "{out}");
    assert_ne!(out, parent, "a span of its own");
    let span = out.split('-').nth(2).unwrap();
    assert_eq!(answer.header("tracestate"), format!("chancery={span},vendor=1"));
    assert!(entries(&standing).await.iter().any(|entry| entry["request_id"] == request));
    let begun = standing.operator().get("/health/live").await;
    assert_eq!(begun.header("traceparent").len(), parent.len(), "a trace begins here where none came");
}

#[tokio::test]
async fn a_problem_has_its_code_its_words_and_the_request_and_nothing_from_inside() {
    let standing = house().await;
    let program = standing.program("acme", &["keys:read"]).await;
    let stranger = standing.client(gateway::api::CertificateHash([7; 32]));
    let answers = [
        stranger.get("/v1/keys").await,
        standing.client(program.certificate).get("/v1/keys").await,
        program.asker.post("/v1/keys", json!({ "name": "x", "kind": "p256" })).await,
        program.asker.get("/v1/keys/none").await,
        program.asker.get("/v1/nothing").await,
        program.asker.ask("PUT", "/v1/keys", None).await,
        program.asker.get("/v1/workspaces").await,
        standing.operator().get("/v1/keys").await,
        standing.operator().post("/v1/workspaces", json!({ "nome": "acme" })).await,
        standing.operator().post("/v1/workspaces", json!({ "name": "acme" })).await,
        program.asker.with("chancery-deadline-ms", "0").get("/v1/keys").await,
    ];
    let mut shown = String::new();
    for answer in &answers {
        assert_eq!(answer.header("content-type"), "application/problem+json", "{answer:?}");
        let mut document = answer.json();
        assert_eq!(document["request_id"], answer.header("request-id"));
        assert_eq!(document["status"], answer.status);
        document["request_id"] = json!("req_...");
        shown += &(serde_json::to_string_pretty(&document).unwrap() + "\n");
    }
    common::golden("gateway/tests/golden/problems.txt", &shown);
}

#[tokio::test]
async fn an_api_key_opens_nothing_behind_a_certificate_of_another_workspace() {
    let standing = house().await;
    let (acme, other) =
        (standing.program("acme", &["keys:read"]).await, standing.program("other", &["keys:read"]).await);
    assert_eq!(acme.asker.get("/v1/keys").await.status, 200);
    let mixed = standing.client(acme.certificate).with("authorization", &format!("Bearer {}", other.secret));
    let refused = mixed.get("/v1/keys").await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "workspace_mismatch"), "{refused:?}");
}

#[tokio::test]
async fn nobody_gives_an_api_key_more_than_they_have() {
    let standing = house().await;
    let program = standing.program("acme", &["access:manage", "keys:read"]).await;
    let make = async |name: &str, scopes: Value| {
        program.asker.post("/v1/api-keys", json!({ "name": name, "scopes": scopes })).await
    };
    assert_eq!(make("less", json!(["keys:read"])).await.status, 201);
    for scopes in [json!(["sign"]), json!(["keys:read", "approve"])] {
        let refused = make("more", scopes).await;
        assert_eq!((refused.status, refused.code().as_str()), (403, "scope_missing"), "{refused:?}");
    }
    let by_operator = standing.operator().with("chancery-workspace", "acme");
    let made = by_operator.post("/v1/api-keys", json!({ "name": "all", "scopes": ["approve"] })).await;
    assert_eq!(made.status, 201, "an operator has all: {made:?}");
}

#[tokio::test]
async fn a_workflow_wants_the_scope_of_what_it_does_beside_its_own() {
    let standing = house().await;
    let make = standing.program("acme", &["keys:manage"]).await;
    assert_eq!(make.asker.post("/v1/keys", json!({ "name": "k", "kind": "p256" })).await.status, 201);
    let program = standing.program("acme", &["workflows:manage"]).await;
    let refused = program.asker.post("/v1/workflows/key.backup", json!({ "key": "k" })).await;
    assert_eq!((refused.status, refused.code().as_str()), (403, "scope_missing"), "{refused:?}");
}

#[tokio::test]
async fn readiness_says_which_part_is_missing_and_heals() {
    let standing = house().await;
    let look = async || {
        standing.house.health.look(&standing.house.probes).await;
        standing.operator().get("/health/ready").await
    };
    assert_eq!(look().await.status, 200);
    standing.double.unplug();
    let away = look().await;
    assert_eq!(away.status, 503, "{away:?}");
    let part = away.json()["parts"]
        .as_array()
        .unwrap()
        .iter()
        .find(|part| part["part"] == "token")
        .cloned()
        .unwrap();
    assert_eq!(part["ready"], false, "{part}");
    assert_eq!(standing.operator().get("/health/live").await.status, 204, "alive all the same");
    standing.double.plug_in();
    let healed = tokio::time::timeout(std::time::Duration::from_secs(30), async {
        while look().await.status != 200 {
            tokio::task::yield_now().await;
        }
    });
    healed.await.expect("ready again");
}

#[tokio::test]
async fn figures_tell_of_answers_and_signatures() {
    let standing = house().await;
    let program = standing.program("acme", &["sign", "keys:manage"]).await;
    key(&program.asker, "release").await;
    sign(&program.asker, "release").await;
    let figures = String::from_utf8(standing.operator().get("/metrics").await.body.to_vec()).unwrap();
    for part in ["/v1/keys/{key}/sign", "p256", "ledger", "# EOF"] {
        assert!(figures.contains(part), "{part} is missing in:\n{figures}");
    }
    assert_eq!(program.asker.get("/metrics").await.code(), "operator_only");
}

#[tokio::test]
async fn a_workspace_over_its_rate_waits_and_its_neighbour_does_not() {
    let rates = RatesConfig { workspace: quota(2, 1), address: quota(1000, 1000) };
    let standing = house_with(rates).await;
    let (loud, quiet) =
        (standing.program("loud", &["keys:read"]).await, standing.program("quiet", &["keys:read"]).await);
    let mut last = loud.asker.get("/v1/keys").await;
    assert!(last.header("ratelimit").contains("r=1"), "{last:?}");
    for _ in 0..3 {
        last = loud.asker.get("/v1/keys").await;
    }
    assert_eq!((last.status, last.code().as_str()), (429, "rate_limited"));
    assert!(last.header("retry-after").parse::<u64>().unwrap() >= 1);
    assert_eq!(quiet.asker.get("/v1/keys").await.status, 200);
}

#[tokio::test]
async fn a_batch_counts_as_many_requests_as_it_has_items() {
    let rates = RatesConfig { workspace: quota(10, 1), address: quota(1000, 1000) };
    let standing = house_with(rates).await;
    let signer = standing.program("signer", &["sign"]).await;
    let item = json!({ "key": "nothing", "scheme": "ecdsa-sha256", "message": "eA==" });
    let batch = async |items: usize| {
        let answer = signer.asker.post("/v1/sign-batch", json!({ "items": vec![item.clone(); items] })).await;
        (answer.status, answer.code())
    };
    assert_eq!(batch(6).await.0, 200);
    assert_eq!(batch(6).await, (429, "rate_limited".to_owned()));
}

#[tokio::test]
async fn the_address_bucket_stands_before_anyone_has_said_who_they_are() {
    let rates = RatesConfig { workspace: quota(1000, 1000), address: quota(2, 1) };
    let standing = house_with(rates).await;
    let stranger = standing.client(gateway::api::CertificateHash([9; 32]));
    let mut codes = Vec::new();
    for _ in 0..4 {
        codes.push(stranger.get("/v1/keys").await.code());
    }
    assert_eq!(codes, ["client_unknown", "client_unknown", "rate_limited", "rate_limited"]);
}
