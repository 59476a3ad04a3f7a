//! Requests that are sent twice: one effect, one answer, byte for byte, whatever was lost on the way.
//! Who enters: members of temporary appliances, with keys of their own choosing.
//! What leaves: answers compared, entries counted, and a ledger that verifies.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use promises::people::sign_p256;
use promises::wire::Ask;
use promises::{Answer, Appliance, evidence, get, post};
use rusqlite::{Connection, OpenFlags};
use rustix::process::Signal;
use serde_json::{Value, json};

fn keyed(ask: Ask, key: &str) -> Ask {
    ask.header("idempotency-key", key)
}

fn make(name: &str) -> Ask {
    post("/v1/keys", json!({ "name": name, "kind": "p256" }))
}

fn same(first: &Answer, again: &Answer) {
    assert_eq!((first.status, &first.body), (again.status, &again.body));
    assert_eq!(first.header("location"), again.header("location"));
    assert_eq!(first.header("chancery-entry"), again.header("chancery-entry"));
    assert_eq!(again.header("idempotency-replayed"), Some("true"), "{again:?}");
}

#[tokio::test]
async fn a_key_is_made_once_however_often_it_is_asked_for_and_the_answer_is_the_same_to_the_byte() {
    let mut house = Appliance::start().await;
    let acme = house.member("acme").await;
    let first = acme.ask(keyed(make("release"), "k-1")).await.expect(201);
    let again = acme.ask(keyed(make("release"), "\"k-1\"")).await;
    same(&first, &again);
    house.terminate().await;
    house.serve().await;
    same(&first, &acme.ask(keyed(make("release"), "k-1")).await);
    let keys = acme.ask(get("/v1/keys")).await.expect(200).json();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1);
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn a_signature_sent_for_twice_is_one_use_and_one_signature() {
    let mut house = Appliance::start().await;
    let acme = house.member("acme").await;
    let key = acme.create_key("release", "p256").await;
    let ask = || keyed(sign_p256(&key, b"once"), "s-1");
    let first = acme.ask(ask()).await.expect(200);
    // ECDSA is different every time: equal bytes are the same signature.
    same(&first, &acme.ask(ask()).await);
    let uses = acme.ask(get(format!("/v1/keys/{key}"))).await.expect(200).json()["uses"].clone();
    assert_eq!(uses, 1);
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn the_largest_batch_sent_for_twice_is_signed_once_and_its_answer_is_the_same_to_the_byte() {
    let mut house = Appliance::start().await;
    let acme = house.member("acme").await;
    let key = acme.create_key("release", "p256").await;
    let digest = STANDARD.encode([7; 32]);
    let items = vec![json!({ "key": key, "scheme": "ecdsa-sha256", "digest": digest }); 500];
    let ask = || keyed(post("/v1/sign-batch", json!({ "items": items })), "b-1");
    let first = acme.ask(ask()).await.expect(200);
    assert!(first.body.len() > 64 * 1024, "{} bytes", first.body.len());
    same(&first, &acme.ask(ask()).await);
    // The longest answer of any route that takes a key: each signature of RSA-4096 has 512 bytes.
    let long_key = acme.create_key("long", "rsa-4096").await;
    let items = vec![json!({ "key": long_key, "scheme": "rsa-pkcs1-sha256", "digest": digest }); 500];
    let long = || {
        keyed(post("/v1/sign-batch", json!({ "items": items })), "b-2")
            .header("chancery-deadline-ms", "60000")
    };
    let longest = acme.ask(long()).await.expect(200);
    assert!(longest.body.len() > 350_000, "{} bytes", longest.body.len());
    assert!(longest.json()["results"].as_array().unwrap().iter().all(|item| item["signature"].is_string()));
    same(&longest, &acme.ask(long()).await);
    house.terminate().await;
    house.serve().await;
    same(&first, &acme.ask(ask()).await);
    same(&longest, &acme.ask(long()).await);
    for key in [key, long_key] {
        let uses = acme.ask(get(format!("/v1/keys/{key}"))).await.expect(200).json()["uses"].clone();
        assert_eq!(uses, 500);
    }
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn the_same_key_and_body_for_another_path_or_query_is_another_request() {
    let house = Appliance::start().await;
    let acme = house.member("acme").await;
    let (one, two) = (acme.create_key("one", "p256").await, acme.create_key("two", "p256").await);
    acme.ask(keyed(sign_p256(&one, b"same"), "s-1")).await.expect(200);
    acme.ask(keyed(sign_p256(&two, b"same"), "s-1")).await.refused(422, "idempotency_key_reused");
    let uses = acme.ask(get(format!("/v1/keys/{two}"))).await.expect(200).json()["uses"].clone();
    assert_eq!(uses, 0);
    let with_query = |query: &str| keyed(post(format!("/v1/keys/{one}/disable{query}"), Value::Null), "d-1");
    acme.ask(with_query("")).await.expect(200);
    acme.ask(with_query("?why=other")).await.refused(422, "idempotency_key_reused");
}

#[tokio::test]
async fn a_refusal_that_says_when_to_ask_again_may_be_asked_again_under_the_same_key() {
    let house = Appliance::start().await;
    let acme = house.member("acme").await;
    let (_, secret) = house.operator().acting_in(&acme.workspace).issue("bob", &promises::SCOPES).await;
    let bob = acme.with_secret(&secret);
    let lock = |key: &str| {
        keyed(post("/v1/locks", json!({ "name": "deploy", "ttl_seconds": 60, "wait_seconds": 0 })), key)
    };
    let held = acme.ask(lock("l-1")).await.expect(201).json();
    let refused = bob.ask(lock("l-2")).await;
    assert!(refused.header("retry-after").is_some());
    refused.refused(409, "lock_held");
    let release = json!({ "lease_id": held["lease_id"] });
    acme.ask(post("/v1/locks/deploy/release", release)).await.expect(204);
    bob.ask(lock("l-2")).await.expect(201);
}

#[tokio::test]
async fn a_refusal_by_a_rule_is_the_answer_to_its_key_also_once_the_rule_would_say_yes() {
    let house = Appliance::start().await;
    let acme = house.member("acme").await;
    let key = acme.create_key("release", "p256").await;
    acme.ask(post(format!("/v1/keys/{key}/disable"), Value::Null)).await.expect(200);
    let sign = || keyed(sign_p256(&key, b"one"), "s-1");
    let first = acme.ask(sign()).await;
    let missing = || keyed(post("/v1/keys/nobody/disable", Value::Null), "d-1");
    let not_found = acme.ask(missing()).await;
    assert_eq!((first.status, not_found.status), (409, 404));
    acme.ask(post(format!("/v1/keys/{key}/enable"), Value::Null)).await.expect(200);
    acme.create_key("nobody", "p256").await;
    same(&first, &acme.ask(sign()).await);
    same(&not_found, &acme.ask(missing()).await);
    acme.ask(keyed(sign_p256(&key, b"one"), "s-2")).await.expect(200);
}

#[tokio::test]
async fn a_key_of_another_request_is_refused_and_shows_nothing_of_it() {
    let house = Appliance::start().await;
    let (acme, globex) = (house.member("acme").await, house.member("globex").await);
    let first = acme.ask(keyed(make("release"), "k-1")).await.expect(201);
    let other_body = acme.ask(keyed(make("other"), "k-1")).await;
    assert!(!other_body.text().contains(first.json()["id"].as_str().unwrap()));
    other_body.refused(422, "idempotency_key_reused");
    let other_route = keyed(post("/v1/keys/release/disable", Value::Null), "k-1");
    acme.ask(other_route).await.refused(422, "idempotency_key_reused");
    globex.ask(keyed(make("release"), "k-1")).await.expect(201);
    let (_, secret) = house.operator().acting_in(&acme.workspace).issue("second", &promises::SCOPES).await;
    acme.with_secret(&secret).ask(keyed(make("release"), "k-1")).await.refused(409, "name_taken");
}

#[tokio::test]
async fn a_missing_or_malformed_key_is_refused_before_anything_is_done() {
    let house = Appliance::start().await;
    let acme = house.member("acme").await;
    let long = "x".repeat(256);
    for bad in ["", "a b", "\"unclosed", long.as_str(), "a,b"] {
        acme.ask(keyed(make("never"), bad)).await.refused(400, "bad_request");
    }
    let twice = keyed(keyed(make("never"), "one"), "two");
    acme.ask(twice).await.refused(400, "bad_request");
    let connection = acme.connect(promises::Protocol::H1).await;
    let missing = connection.send_bare(make("never")).await.unwrap();
    assert_eq!(missing.header("link"), Some("</v1/openapi.json>; rel=\"describedby\""));
    missing.refused(400, "idempotency_key_missing");
    let keys = acme.ask(get("/v1/keys")).await.expect(200).json();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 0);
}

#[tokio::test]
async fn a_revoked_caller_gets_no_answer_again() {
    let house = Appliance::start().await;
    let acme = house.member("acme").await;
    acme.ask(keyed(make("release"), "k-1")).await.expect(201);
    let operator = house.operator().acting_in(&acme.workspace);
    operator.ask(promises::delete(format!("/v1/api-keys/{}", acme.api_key))).await.expect(204);
    acme.ask(keyed(make("release"), "k-1")).await.refused(401, "api_key_unknown");
}

#[tokio::test]
async fn a_secret_shown_once_is_shown_again_only_to_the_same_request_and_stands_on_no_ledger() {
    let house = Appliance::start().await;
    let acme = house.member("acme").await;
    let ask = || keyed(post("/v1/api-keys", json!({ "name": "ci", "scopes": ["sign"] })), "a-1");
    let first = acme.ask(ask()).await.expect(201);
    same(&first, &acme.ask(ask()).await);
    let secret = first.json()["secret"].as_str().unwrap().to_owned();
    let file = std::fs::read(house.ledger()).unwrap();
    let needle = secret.as_bytes();
    assert!(!file.windows(needle.len()).any(|window| window == needle), "the secret stands in the file");
}

#[tokio::test]
async fn a_hundred_equal_requests_at_once_make_one_key() {
    let house = Appliance::start().await;
    let acme = house.member("acme").await;
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let acme = acme.clone();
            tokio::spawn(async move { acme.ask(keyed(make("release"), "k-1")).await })
        })
        .collect();
    let mut answered = 0;
    for asking in asking {
        let answer = asking.await.unwrap();
        match answer.status {
            201 => answered += 1,
            202 => assert!(answer.header("location").unwrap().starts_with("/v1/workflows/"), "{answer:?}"),
            _ => drop(answer.refused(409, "request_in_progress")),
        }
    }
    assert!(answered >= 1);
    let keys = acme.ask(get("/v1/keys")).await.expect(200).json();
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1);
}

/// Claims that stand in the ledger's file without an answer.
fn claims_open(house: &Appliance) -> Option<u32> {
    let file = Connection::open_with_flags(house.ledger(), OpenFlags::SQLITE_OPEN_READ_ONLY).ok()?;
    file.query_row("SELECT COUNT(*) FROM idempotency WHERE state = 'claimed'", [], |row| row.get(0)).ok()
}

/// How many entries stand in the ledger's file.
fn entries(house: &Appliance) -> u64 {
    let file = Connection::open_with_flags(house.ledger(), OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
    file.query_row("SELECT COUNT(*) FROM entry", [], |row| row.get::<_, i64>(0)).unwrap().unsigned_abs()
}

#[tokio::test]
async fn a_request_that_died_with_its_daemon_is_answered_at_once_after_the_restart() {
    let mut house = Appliance::start().await;
    let acme = house.member("acme").await;
    let key = acme.create_key("release", "p256").await;
    let ask = || keyed(sign_p256(&key, b"cut off"), "s-1");
    let workers = house.daemon().workers();
    workers.iter().for_each(|worker| promises::daemon::kill(*worker, Signal::STOP));
    let (member, cut_off) = (acme.clone(), ask());
    let asking = tokio::spawn(async move { member.try_ask(cut_off).await });
    let claimed = || async { (claims_open(&house) == Some(1)).then_some(()) };
    promises::eventually("the claim", promises::GIVEN_UP, claimed).await;
    house.kill().await;
    workers.iter().for_each(|worker| promises::daemon::kill(*worker, Signal::KILL));
    assert!(asking.await.unwrap().is_err(), "it was not answered");
    assert_eq!(claims_open(&house), Some(1), "its claim outlived it");
    house.serve().await;
    house.ready().await;
    // Not "in progress", as while the claim of the dead runs by the clock; and not signed anew under the same key.
    let answer = acme.ask(ask()).await;
    same(&answer, &acme.ask(ask()).await);
    answer.refused(503, "outcome_unknown");
    let uses = acme.ask(get(format!("/v1/keys/{key}"))).await.expect(200).json()["uses"].clone();
    assert_eq!(uses, 1);
    acme.ask(keyed(sign_p256(&key, b"cut off"), "s-2")).await.expect(200);
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn replays_are_told_at_the_first_the_second_the_fourth_and_the_eighth() {
    let mut house = Appliance::start().await;
    let acme = house.member("acme").await;
    let first = acme.ask(keyed(make("release"), "k-1")).await.expect(201);
    for _ in 0..9 {
        same(&first, &acme.ask(keyed(make("release"), "k-1")).await);
    }
    let told = house.operator().entries("action=request.replayed").await;
    let times: Vec<_> = told.iter().map(|entry| entry["detail"]["times"].as_u64().unwrap()).collect();
    assert_eq!(times, [1, 2, 4, 8], "{told:?}");
    for entry in &told {
        assert_eq!(entry["object"], "route/POST /v1/keys");
        assert_eq!(entry["actor"], format!("{}/{}", acme.client, acme.api_key));
        assert_eq!(entry["detail"]["first_entry"], json!(first.header("chancery-entry")));
        assert!(entry["request_id"].as_str().is_some_and(|id| id != first.request_id()));
    }
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn a_daemon_killed_at_any_moment_makes_one_key_for_one_request() {
    let mut house = Appliance::start().await;
    let acme = house.member("acme").await;
    // What a key's making leaves on the ledger, entry by entry: a daemon is killed as each of them appears, and once before.
    let told = entries(&house);
    acme.ask(keyed(make("whole"), "whole")).await.expect(201);
    let whole = entries(&house) - told;
    assert!(whole >= 3, "there is nothing to be killed in between: {whole}");
    for round in 0..=whole {
        let name = format!("key-{round}");
        let ask = || keyed(make(&name), &name);
        let (member, first, daemon) = (acme.clone(), ask(), house.daemon().pid());
        let told = entries(&house);
        let asking = tokio::spawn(async move { member.try_ask(first).await });
        while entries(&house) < told + round {
            tokio::task::yield_now().await;
        }
        promises::daemon::kill(daemon, Signal::KILL);
        let _ = asking.await;
        house.ended().await;
        house.serve().await;
        house.ready().await;
        let answer = acme.ask(ask()).await;
        assert!(matches!(answer.status, 201 | 202), "the request that died is in nobody's way: {answer:?}");
        let ready = || async {
            let shown = acme.ask(get(format!("/v1/keys/{name}"))).await;
            (shown.status == 200 && shown.json()["state"] == "enabled").then_some(())
        };
        promises::eventually("the key's activation", promises::GIVEN_UP, ready).await;
    }
    let keys = acme.ask(get("/v1/keys")).await.expect(200).json();
    assert_eq!(keys["keys"].as_array().unwrap().len() as u64, whole + 2);
    evidence::verifies(&mut house).await;
}
