//! The TPM beside the token: killed and back, rolled back, wiped, exchanged.
//! Who enters: swtpm, tormented while the daemon runs or between two of its lives.
//! What leaves: service where the keys' token suffices, and a refusal to sign where the anchor disagrees.

use std::time::Duration;

use promises::people::sign_p256;
use promises::programs::{complained, said};
use promises::{Appliance, GIVEN_UP, eventually, evidence, get, post};
use serde_json::Value;

use crate::tampering::frozen;

#[tokio::test]
async fn a_tpm_that_loses_power_stops_no_signature_and_seals_again_once_it_is_back() {
    let mut house = Appliance::with_tpm().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    house.tpm.as_mut().unwrap().kill();
    for _ in 0..5 {
        member.ask(sign_p256(&key, b"without it")).await.expect(200);
    }
    let operator = house.operator();
    let unready = || async { (!operator.is_ready().await).then_some(()) };
    eventually("readiness says so", GIVEN_UP, unready).await;
    let refused = operator.ask(post("/v1/audit/seal", Value::Null)).await.refused(503, "token_unavailable");
    assert!(refused.header("retry-after").is_some());
    house.tpm.as_mut().unwrap().restart().unwrap();
    house.ready_within(GIVEN_UP).await;
    let sealed =
        || async { (operator.ask(post("/v1/audit/seal", Value::Null)).await.status == 200).then_some(()) };
    eventually("sealed again", GIVEN_UP, sealed).await;
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn a_tpm_that_hangs_holds_up_no_signature() {
    let mut house = Appliance::with_tpm().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    house.tpm.as_ref().unwrap().freeze().unwrap();
    for _ in 0..5 {
        // It hangs until it is told to go on, further down: a signature that waited for it would get no answer.
        member.ask(sign_p256(&key, b"while it hangs")).await.expect(200);
    }
    house.tpm.as_ref().unwrap().resume().unwrap();
    house.ready_within(Duration::from_secs(20)).await;
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn a_tpm_rolled_back_is_found_out_at_the_next_start() {
    let mut house = Appliance::with_tpm().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let yesterday = house.tpm.as_ref().unwrap().snapshot("yesterday").unwrap();
    for _ in 0..2 {
        member.ask(sign_p256(&key, b"today")).await.expect(200);
        house.operator().ask(post("/v1/audit/seal", Value::Null)).await.expect(200);
    }
    house.terminate().await;
    house.tpm.as_mut().unwrap().roll_back(&yesterday).unwrap();
    house.serve().await;
    frozen(&house, &member, &key).await;
}

#[tokio::test]
async fn a_wiped_tpm_opens_nothing_and_says_what_to_do() {
    let mut house = Appliance::with_tpm().await;
    let member = house.member("acme").await;
    member.create_key("release", "p256").await;
    house.terminate().await;
    house.tpm.as_mut().unwrap().wipe().unwrap();
    let output = house.cli(&["serve"]);
    let words = format!("{}{}", said(&output), complained(&output));
    assert!(!output.status.success(), "a wiped TPM opened the master key:\n{words}");
    assert!(words.contains("restore") || words.contains("enrol"), "no advice:\n{words}");
}

#[tokio::test]
async fn a_disk_moved_to_another_machine_does_not_start_there() {
    let mut house = Appliance::with_tpm().await;
    house.terminate().await;
    let stranger = Appliance::with_tpm().await;
    let tcti = stranger.tpm.as_ref().unwrap().tcti();
    drop(stranger.operator().ask(get("/v1/status")).await);
    let mut stranger = stranger;
    stranger.terminate().await;
    house.set("tpm.tcti", tcti);
    let output = house.cli(&["serve"]);
    assert!(!output.status.success(), "it started with another machine's TPM");
}
