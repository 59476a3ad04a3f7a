//! Workflows over the real programs: approvals by others, cancellation, a kill at any moment, a stuck run and its way on.
//! Who enters: members and operators of temporary appliances.
//! What leaves: runs at their end, keys in the token or not, and a ledger that verifies.

use std::time::Duration;

use promises::people::sign_p256;
use promises::programs::said;
use promises::runs::{in_state, vote, waiting_for_approval};
use promises::{Appliance, Member, evidence, get, post};
use rusqlite::Connection;
use rustix::process::Signal;
use serde_json::{Value, json};

async fn schedule(member: &Member, key: &str) -> String {
    let asked = post(format!("/v1/keys/{key}/schedule-destruction"), json!({ "days": 1, "reason": "old" }));
    member.ask(asked).await.expect(202).json()["workflow"].as_str().unwrap().to_owned()
}

async fn state_of(member: &Member, key: &str) -> Value {
    member.ask(get(format!("/v1/keys/{key}"))).await.expect(200).json()["state"].clone()
}

/// Another program of the same workspace, with a certificate and an API key of its own.
async fn colleague(house: &Appliance, of: &Member, name: &str) -> Member {
    let operator = house.operator().acting_in(&of.workspace);
    let (_, identity) = operator.enrol(name).await;
    let (_, secret) = operator.issue(name, &promises::SCOPES).await;
    of.with_secret(&secret).with_identity(&identity)
}

#[tokio::test]
async fn a_key_is_destroyed_only_with_two_others_who_saw_this_very_request() {
    let mut house = Appliance::start().await;
    let acme = house.member("acme").await;
    let key = acme.create_key("old", "p256").await;
    let run = schedule(&acme, &key).await;
    let operator = house.operator().acting_in(&acme.workspace);
    let seen = waiting_for_approval(&operator, &run).await;
    vote(&acme, &seen, "approve").await.refused(403, "own_request");
    let second_key = {
        let (_, secret) = operator.issue("second", &promises::SCOPES).await;
        acme.with_secret(&secret)
    };
    vote(&second_key, &seen, "approve").await.refused(403, "own_request");
    let bob = colleague(&house, &acme, "bob").await;
    let mut another = seen.clone();
    another["approval"]["digest"] = "00".repeat(32).into();
    vote(&bob, &another, "approve").await.refused(409, "stale_approval");
    another["approval"] = seen["approval"].clone();
    another["approval"]["policy_version"] = 7.into();
    vote(&bob, &another, "approve").await.refused(409, "stale_approval");
    vote(&bob, &seen, "approve").await.expect(200);
    vote(&bob, &seen, "approve").await.refused(409, "wrong_state");
    let (_, secret) = operator.issue("bobs-second", &promises::SCOPES).await;
    vote(&bob.with_secret(&secret), &seen, "approve").await.expect(200);
    let shown = operator.ask(get(format!("/v1/workflows/{run}"))).await.expect(200).json();
    assert_eq!(shown["step"], "signing.await_approvals", "two keys behind one certificate are one approver");
    let carol = colleague(&house, &acme, "carol").await;
    vote(&carol, &seen, "approve").await.expect(200);
    promises::runs::until(&operator, &run, "the notice", |run| run["step"] == "keys.await_cooling").await;
    assert_eq!(state_of(&acme, &key).await, "destruction_pending");
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn one_refusal_lets_the_key_stand_as_it_stood_before() {
    let mut house = Appliance::start().await;
    let acme = house.member("acme").await;
    let key = acme.create_key("old", "p256").await;
    let run = schedule(&acme, &key).await;
    let operator = house.operator().acting_in(&acme.workspace);
    let seen = waiting_for_approval(&operator, &run).await;
    let bob = colleague(&house, &acme, "bob").await;
    vote(&bob, &seen, "refuse").await.expect(200);
    let ended = in_state(&operator, &run, "compensated").await;
    assert!(ended["error"].as_str().unwrap().contains("refused it"), "{ended}");
    acme.ask(sign_p256(&key, b"still here")).await.expect(200);
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn a_run_that_holds_a_key_is_named_to_whoever_else_would_change_it() {
    let house = Appliance::start().await;
    let acme = house.member("acme").await;
    let key = acme.create_key("old", "p256").await;
    let run = schedule(&acme, &key).await;
    let refused = acme.ask(post(format!("/v1/keys/{key}/rotate"), Value::Null)).await;
    assert!(refused.text().contains(&run), "{}", refused.text());
    refused.refused(409, "resource_locked");
}

#[tokio::test]
async fn a_stuck_run_is_shown_in_words_and_led_on_by_an_operator() {
    promises::described::enforce();
    let mut house = Appliance::start().await;
    let acme = house.member("acme").await;
    // The workspace's own key is opened once, while the token still answers.
    acme.create_key("first", "p256").await;
    let worker = house.daemon().token_worker().await;
    promises::daemon::kill(worker, Signal::STOP);
    let start = post("/v1/workflows/key.generate", json!({ "name": "meddled", "kind": "p256" }));
    let run = acme.ask(start).await.expect(202).json()["id"].as_str().unwrap().to_owned();
    let operator = house.operator().acting_in(&acme.workspace);
    promises::runs::until(&operator, &run, "the making", |run| run["step"] == "keys.hsm_generate").await;
    // Somebody with the file changes a row behind the daemon's back, between two steps.
    let meddle = |state: &str| {
        let database = Connection::open(house.ledger()).unwrap();
        database.busy_timeout(Duration::from_secs(5)).unwrap();
        assert_eq!(
            database.execute("UPDATE keys SET state = ?1 WHERE name = 'meddled'", [state]).unwrap(),
            1
        );
    };
    meddle("disabled");
    promises::daemon::kill(worker, Signal::CONT);
    let stuck = in_state(&operator, &run, "stuck_forward").await;
    assert!(stuck["advice"].as_array().is_some_and(|advice| !advice.is_empty()), "{stuck}");
    let told = || async {
        let ready = operator.ask(get("/health/ready")).await.json();
        let parts = ready["parts"].as_array().cloned().unwrap_or_default();
        parts.into_iter().find(|part| part["part"] == "workflows" && part["code"] == "stuck")
    };
    promises::eventually("health that says so", promises::GIVEN_UP, told).await;
    let picture = said(&house.cli(&["-w", "acme", "saga", "show", &run]));
    for word in ["keys.activate", "stuck", "retry"] {
        assert!(picture.contains(word), "{picture}");
    }
    let lead = |verb: &str| {
        post(format!("/v1/workflows/{run}/lead/{verb}"), json!({ "reason": "the row is put right" }))
    };
    operator.ask(lead("skip-undo")).await.refused(409, "wrong_state");
    meddle("creating");
    operator.ask(lead("retry")).await.expect(200);
    in_state(&operator, &run, "succeeded").await;
    acme.ask(sign_p256("meddled", b"at last")).await.expect(200);
    let told = house.operator().entries(&format!("object=workflow/{run}")).await;
    assert!(
        told.iter()
            .any(|entry| entry["action"] == "workflow.operator.retry" && entry["actor"] == "operator:0"),
        "{told:?}"
    );
    promises::described::saw("POST /v1/workflows/{workflow}/lead/{verb}");
}

/// SHA-256 by a tool that knows nothing of us, over the bytes that the paper names.
fn digest_by_others(house: &Appliance, document: &str) -> String {
    let file = house.path("document");
    std::fs::write(&file, document).unwrap();
    let command = format!("{{ printf 'chancery.approval.v2\\0'; cat '{}'; }} | sha256sum", file.display());
    let hashed = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
    said(&hashed).split(' ').next().unwrap().to_owned()
}

#[tokio::test]
async fn approvers_see_everything_that_they_approve_and_can_compute_its_digest() {
    let mut house = Appliance::start().await;
    let acme = house.member("acme").await;
    let key = acme.create_key("old", "p256").await;
    let shown = acme.ask(get(format!("/v1/keys/{key}"))).await.expect(200).json();
    let run = schedule(&acme, &key).await;
    let operator = house.operator().acting_in(&acme.workspace);
    let seen = waiting_for_approval(&operator, &run).await;
    let approval = &seen["approval"];
    let document = approval["document"].as_str().unwrap();
    assert_eq!(approval["digest"], digest_by_others(&house, document));
    let read: Value = serde_json::from_str(document).unwrap();
    assert_eq!(read.to_string(), document, "canonical: no blanks, names in order");
    assert_eq!((&read["request"], &read["consequence"]), (&approval["request"], &approval["consequence"]));
    let fingerprint = shown["versions"][0]["fingerprint"].as_str().unwrap();
    let asked = &read["request"]["key"];
    assert_eq!((&asked["id"], &asked["name"], &asked["version"]), (&shown["id"], &json!("old"), &json!(1)));
    assert_eq!(asked["fingerprint"], fingerprint);
    assert_eq!((&read["request"]["reason"], &read["workflow_id"]), (&json!("old"), &json!(run)));
    let picture = said(&house.cli(&["-w", "acme", "saga", "show", &run]));
    let digest = approval["digest"].as_str().unwrap();
    for word in
        ["`approve`", "`refuse`", "nothing brings it back", fingerprint, digest, "key.name", "asked by"]
    {
        assert!(picture.contains(word), "{word} is not in\n{picture}");
    }
    let vote = |more: &[&str]| {
        let mut words = vec!["-w", "acme", "saga", "approve", &run];
        words.extend(more);
        house.cli(&words)
    };
    let unasked = vote(&[]);
    assert_eq!(unasked.status.code(), Some(2), "nobody can be asked here: {unasked:?}");
    assert!(
        String::from_utf8_lossy(&unasked.stdout).contains(fingerprint),
        "shown before it is asked: {unasked:?}"
    );
    assert_eq!(vote(&["--digest", &"00".repeat(32)]).status.code(), Some(1), "another digest");
    let votes = async || {
        let shown = operator.ask(get(format!("/v1/workflows/{run}"))).await.expect(200).json();
        shown["approval"]["votes"].as_array().unwrap().len()
    };
    assert_eq!(votes().await, 0);
    assert!(vote(&["--digest", digest]).status.success());
    promises::runs::until(&operator, &run, "the vote", |run| run["approval"]["votes"][0]["counts"] == true)
        .await;
    let wanted = operator.entries("action=approval.open").await;
    assert_eq!(wanted[0]["detail"]["after"]["request"]["key"]["fingerprint"], fingerprint, "{wanted:?}");
    let events = operator.ask(get("/v1/events")).await.expect(200).json();
    let told =
        events["events"].as_array().unwrap().iter().find(|it| it["topic"] == "approval.wanted").unwrap();
    assert_eq!(told["facts"]["request"]["key"]["fingerprint"], fingerprint, "{told}");
    evidence::verifies(&mut house).await;
}
