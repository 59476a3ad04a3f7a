//! Clocks that jump and tokens that are full.
//! Who enters: a daemon under a bent clock; a token on a disk of a few pages.
//! What leaves: an order by sequence that no clock disturbs, and a refusal that leaves no half-made key behind.

use promises::appliance::READY_MAX;
use promises::evidence;
use promises::people::sign_p256;
use promises::programs::libfaketime;
use promises::{Appliance, Hardware, Plan, Protocol, eventually, get, post};
use serde_json::json;

/// An appliance whose clock is where a file says, relative to the machine's.
async fn under_a_bent_clock(offset: &str) -> (Appliance, std::path::PathBuf) {
    let mut house = Plan::with(Hardware::Token).init();
    let clock = house.path("clock");
    std::fs::write(&clock, offset).unwrap();
    house.set_env("LD_PRELOAD", &libfaketime().display().to_string());
    house.set_env("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string());
    house.set_env("FAKETIME_NO_CACHE", "1");
    house.set_env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    house.set_env("DONT_FAKE_MONOTONIC", "1");
    house.serve().await;
    (house, clock)
}

#[tokio::test]
async fn a_clock_that_jumps_disturbs_neither_order_nor_chain() {
    let (mut house, clock) = under_a_bent_clock("+0").await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    // Opened before the jumps: a new handshake would judge the client's certificate by the bent clock.
    let connection = member.connect(Protocol::H1).await;
    let mut entries = Vec::new();
    for offset in ["+0", "-1d", "+30d", "-3h", "+0"] {
        std::fs::write(&clock, offset).unwrap();
        let signed = connection.send(sign_p256(&key, offset.as_bytes())).await.unwrap().expect(200);
        entries.push(signed.entry().unwrap());
    }
    assert!(entries.windows(2).all(|pair| pair[0] < pair[1]), "{entries:?}");
    let told = house.operator().entries(&format!("action=key.sign&object={key}")).await;
    let times: Vec<&str> = told.iter().filter_map(|entry| entry["time"].as_str()).collect();
    assert!(times[1] < times[0] && times[2] > times[0], "the clock did not jump: {times:?}");
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn an_api_key_gains_no_life_when_the_clock_goes_back() {
    let (house, clock) = under_a_bent_clock("+0").await;
    let member = house.member("acme").await;
    let operator = house.operator().acting_in(&member.workspace);
    let end = time::OffsetDateTime::now_utc() + time::Duration::hours(1);
    let end = end.format(&time::format_description::well_known::Rfc3339).unwrap();
    let body = json!({ "name": "brief", "scopes": ["keys:read"], "expires": end });
    let made = operator.ask(post("/v1/api-keys", body)).await.expect(201).json();
    let brief = member.with_secret(made["secret"].as_str().unwrap()).connect(Protocol::H1).await;
    brief.send(get("/v1/keys")).await.unwrap().expect(200);
    std::fs::write(&clock, "+2h").unwrap();
    brief.send(get("/v1/keys")).await.unwrap().refused(401, "api_key_expired");
    std::fs::write(&clock, "-1d").unwrap();
    brief.send(get("/v1/keys")).await.unwrap().refused(401, "api_key_expired");
}

#[tokio::test]
async fn a_full_token_refuses_a_new_key_and_goes_on_signing() {
    let house = Plan::with(Hardware::Token).small_disk("hsm/tokens", 256 << 10).start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let mut refused = None;
    for at in 0..200 {
        let answer = member.ask(post("/v1/keys", json!({ "name": format!("k{at}"), "kind": "p256" }))).await;
        if answer.status != 201 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.expect("two hundred keys fit into 256 KiB");
    // The token said no and made nothing: that is an answer, and the way to go on is in it.
    refused.refused(503, "token_refused");
    let signs = || async { (member.ask(sign_p256(&key, b"still")).await.status == 200).then_some(()) };
    eventually("signing goes on", READY_MAX, signs).await;
}
