//! What is late at the start: the token, the TPM, room on the disk.
//! Who enters: a daemon that is started before the machine has all of it.
//! What leaves: health and reasons, what stands on the ledger, no write; and service by the same daemon once it is there.

use promises::appliance::READY_MAX;
use promises::people::sign_p256;
use promises::{Appliance, Hardware, Plan, eventually, get, post};
use rustix::process::Pid;
use serde_json::{Value, json};

/// The part of the readiness that says so, once it does.
async fn told(house: &Appliance, part: &str, word: &str) -> Value {
    let operator = house.operator();
    let said = || async {
        let answer = operator.try_ask(get("/health/ready")).await.ok()?;
        assert_eq!(answer.status, 503, "it is ready without its hardware");
        let parts = answer.json()["parts"].as_array()?.clone();
        parts
            .into_iter()
            .find(|one| one["part"] == part && one["detail"].as_str().is_some_and(|why| why.contains(word)))
    };
    eventually("the reason", READY_MAX, said).await.0
}

/// A daemon that lives, says what it waits for, shows its ledger and changes nothing.
async fn waits(house: &mut Appliance) -> Pid {
    let operator = house.operator();
    operator.ask(get("/health/live")).await.expect(204);
    let entries = operator.ask(get("/v1/audit/everything")).await.expect(200).json();
    let actions: Vec<_> =
        entries["entries"].as_array().unwrap().iter().map(|entry| entry["action"].clone()).collect();
    assert!(actions.contains(&json!("appliance.init")), "{actions:?}");
    let answer = operator.ask(post("/v1/workspaces", json!({ "name": "early" }))).await;
    assert_eq!(answer.status, 503, "it changed something: {answer:?}");
    let status = house.cli(&["status"]);
    assert!(!status.status.success(), "the command line calls it ready");
    assert!(house.daemon().has_ended().is_none(), "it gave up: {}", house.log());
    house.daemon().pid()
}

/// All is there: the same daemon serves.
async fn serves(house: &mut Appliance, waiting: Pid) {
    house.listens().await;
    house.ready().await;
    assert_eq!(house.daemon().pid(), waiting);
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    member.ask(sign_p256(&key, b"late, and not never")).await.expect(200);
}

#[tokio::test]
async fn a_token_that_is_late_is_waited_for_with_health_reasons_and_reads() {
    let mut house = Plan::with(Hardware::Token).init();
    house.hsm.as_ref().unwrap().unplug().unwrap();
    house.begin_to_serve();
    let part = told(&house, "token", "").await;
    assert_eq!((&part["code"], &part["ready"]), (&json!("away"), &json!(false)), "{part}");
    let waiting = waits(&mut house).await;
    house.hsm.as_ref().unwrap().plug_in().unwrap();
    serves(&mut house, waiting).await;
}

#[tokio::test]
async fn a_tpm_that_is_late_is_waited_for_with_health_reasons_and_reads() {
    let mut house = Plan::with(Hardware::TokenAndTpm).init();
    house.tpm.as_mut().unwrap().kill();
    house.begin_to_serve();
    let part = told(&house, "tpm", "no TPM answers").await;
    assert_eq!(part["code"], "away", "{part}");
    let waiting = waits(&mut house).await;
    house.tpm.as_mut().unwrap().restart().unwrap();
    serves(&mut house, waiting).await;
}

#[tokio::test]
async fn a_disk_that_is_full_at_the_start_is_waited_for_with_the_reason() {
    let mut house = Plan::with(Hardware::Token).small_disk("state", 8 << 20).init();
    house.disk.as_ref().unwrap().fill();
    house.begin_to_serve();
    let part = told(&house, "daemon", "").await;
    assert_eq!(part["code"], "waiting", "{part}");
    told(&house, "daemon", "ledger").await;
    let answer = house.operator().ask(get("/v1/audit/everything")).await;
    answer.refused(503, "starting");
    let waiting = house.daemon().pid();
    house.disk.as_ref().unwrap().free();
    serves(&mut house, waiting).await;
}

/// The power went while it served: the ledger's log is there, and opening it needs no room that what follows does not need as well.
#[tokio::test]
async fn a_disk_that_is_full_after_a_power_cut_is_waited_for_too() {
    let mut house = Plan::with(Hardware::Token).small_disk("state", 8 << 20).start().await;
    house.member("early").await;
    house.kill().await;
    house.disk.as_ref().unwrap().fill();
    house.begin_to_serve();
    let operator = house.operator();
    let unready =
        || async { operator.try_ask(get("/health/ready")).await.ok().filter(|answer| answer.status == 503) };
    eventually("an answer", READY_MAX, unready).await;
    let waiting = house.daemon().pid();
    house.disk.as_ref().unwrap().free();
    serves(&mut house, waiting).await;
}

#[tokio::test]
async fn a_daemon_that_waits_is_stopped_like_any_other() {
    let mut house = Plan::with(Hardware::Token).init();
    house.hsm.as_ref().unwrap().unplug().unwrap();
    house.begin_to_serve();
    told(&house, "token", "").await;
    let ended = house.terminate().await;
    assert!(ended.success(), "{ended}: {}", house.log());
    assert!(!house.path("chancery.sock").exists(), "it left its socket behind");
}
