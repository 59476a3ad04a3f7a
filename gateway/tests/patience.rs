//! A caller's patience and the token's: whoever has a minute does not hold a place of the token's for a minute.
//! Who enters: a program with 60 seconds of time, and a token that hangs.
//! What leaves: an answer after the token's own bound.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::time::Duration;

use common::house::house;
use gateway::limits::TOKEN_CALL_WAIT_MAX;
use hsm::double::DoubleFault;
use serde_json::json;

#[tokio::test]
async fn a_patient_caller_is_answered_when_the_tokens_own_time_is_over() {
    const PATIENCE: Duration = Duration::from_secs(60);
    // Between the two bounds, so that a busy machine passes and a missing bound does not.
    let between = TOKEN_CALL_WAIT_MAX + (PATIENCE - TOKEN_CALL_WAIT_MAX) * 4 / 5;
    let standing = house().await;
    let program = standing.program("acme", &["sign", "keys:manage"]).await;
    let made = program.asker.post("/v1/keys", json!({ "name": "release", "kind": "p256" })).await;
    assert_eq!(made.status, 201, "{made:?}");
    standing.double.next(DoubleFault::HangBefore);
    let patient = program.asker.with("chancery-deadline-ms", &PATIENCE.as_millis().to_string());
    let body = json!({ "scheme": "ecdsa-sha256", "message": "aGVsbG8=" });
    let answer = tokio::time::timeout(between, patient.post("/v1/keys/release/sign", body)).await;
    let answer = answer.expect("the caller's patience was spent on a token that hangs");
    assert_eq!((answer.status, answer.json()["code"].clone()), (503, json!("outcome_unknown")), "{answer:?}");
}
