//! What is done with keys: made, turned, destroyed, signed with; and the locks that programs lease.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use promises::people::{sign_digest, sign_p256};
use promises::{Ask, post};
use serde_json::{Value, json};

use crate::act::{Act, By, Stage, text};

const fn act(route: &'static str, action: &'static str, status: u16) -> Act {
    Act { route, action, told: 1..=1, status, workflow: false, lost: false }
}

/// What was authorised under a key is not authorised again under it: a signature that was lost with the daemon stays lost.
const fn signs(route: &'static str, action: &'static str) -> Act {
    Act { lost: true, ..act(route, action, 200) }
}

fn by_member(stage: &Stage, ask: Ask) -> (By, Ask) {
    (By::Member(stage.acme.clone()), ask)
}

#[tokio::test]
async fn a_key_is_made_once() {
    let act = Act { workflow: true, ..act("POST /v1/keys", "workflow.start", 201) };
    let prepare = async |stage: &mut Stage| {
        by_member(stage, post("/v1/keys", json!({ "name": stage.name(), "kind": "p256" })))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn a_key_is_rotated_once() {
    let act = Act { workflow: true, ..act("POST /v1/keys/{key}/rotate", "workflow.start", 201) };
    let prepare = async |stage: &mut Stage| {
        let key = stage.key().await;
        by_member(stage, post(format!("/v1/keys/{key}/rotate"), Value::Null))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn a_key_is_disabled_once() {
    let act = act("POST /v1/keys/{key}/disable", "key.disable", 200);
    let prepare = async |stage: &mut Stage| {
        let key = stage.key().await;
        by_member(stage, post(format!("/v1/keys/{key}/disable"), Value::Null))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn a_key_is_enabled_once() {
    let act = act("POST /v1/keys/{key}/enable", "key.enable", 200);
    let prepare = async |stage: &mut Stage| {
        let key = stage.key().await;
        stage.acme.ask(post(format!("/v1/keys/{key}/disable"), Value::Null)).await.expect(200);
        by_member(stage, post(format!("/v1/keys/{key}/enable"), Value::Null))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

fn schedule(key: &str) -> Ask {
    post(format!("/v1/keys/{key}/schedule-destruction"), json!({ "days": 1, "reason": "old" }))
}

#[tokio::test]
async fn a_destruction_is_scheduled_once() {
    let act = Act {
        workflow: true,
        ..act("POST /v1/keys/{key}/schedule-destruction", "key.schedule_destruction", 202)
    };
    let prepare = async |stage: &mut Stage| {
        let key = stage.key().await;
        by_member(stage, schedule(&key))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn a_destruction_is_called_off_once() {
    let act = Act { workflow: true, ..act("POST /v1/keys/{key}/keep", "workflow.cancel", 200) };
    let prepare = async |stage: &mut Stage| {
        let key = stage.key().await;
        stage.acme.ask(schedule(&key)).await.expect(202);
        by_member(stage, post(format!("/v1/keys/{key}/keep"), Value::Null))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn one_signature_leaves() {
    let act = signs("POST /v1/keys/{key}/sign", "key.sign");
    let prepare = async |stage: &mut Stage| {
        let key = stage.key().await;
        by_member(stage, sign_p256(&key, b"once"))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn one_signature_of_each_item_leaves() {
    let act = signs("POST /v1/sign-batch", "key.sign");
    let prepare = async |stage: &mut Stage| {
        let key = stage.key().await;
        let item = json!({ "key": key, "scheme": "ecdsa-sha256", "digest": STANDARD.encode([7; 32]) });
        by_member(stage, post("/v1/sign-batch", json!({ "items": [item] })))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn a_signature_is_asked_for_once() {
    let act = Act { workflow: true, ..act("POST /v1/keys/{key}/signatures", "workflow.start", 201) };
    let prepare = async |stage: &mut Stage| {
        let key = stage.key().await;
        let body = json!({
            "scheme": "ecdsa-sha256",
            "digest": STANDARD.encode([7; 32]),
            "intent": "release",
            "nonce": stage.name(),
        });
        let ask = post(format!("/v1/keys/{key}/signatures"), body).header("prefer", "wait=20");
        by_member(stage, ask)
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn a_verdict_is_given_as_often_as_it_is_asked_for() {
    let act = Act { told: 0..=0, ..act("POST /v1/keys/{key}/verify", "key.verify", 200) };
    let prepare = async |stage: &mut Stage| {
        let key = stage.key().await;
        let signed = stage.acme.ask(sign_digest(&key, "ecdsa-sha256", &[7; 32])).await.expect(200).json();
        let body = json!({
            "scheme": "ecdsa-sha256",
            "digest": STANDARD.encode([7; 32]),
            "signature": text(&signed, "signature"),
        });
        by_member(stage, post(format!("/v1/keys/{key}/verify"), body))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

fn lease(name: &str) -> Ask {
    post("/v1/locks", json!({ "name": name, "ttl_seconds": 600, "wait_seconds": 0 }))
}

#[tokio::test]
async fn a_lock_is_leased_once() {
    let act = act("POST /v1/locks", "lock.acquire", 201);
    let prepare = async |stage: &mut Stage| by_member(stage, lease(&stage.name()));
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn a_lease_is_renewed_to_the_same_end_or_later() {
    // Whoever asks again after a crash is granted the whole time anew: a second entry, and the same fence.
    let act = Act { told: 1..=2, ..act("POST /v1/locks/{name}/renew", "lock.renew", 200) };
    let prepare = async |stage: &mut Stage| {
        let held = stage.acme.ask(lease(&stage.name())).await.expect(201).json();
        let body = json!({ "lease_id": text(&held, "lease_id"), "ttl_seconds": 900 });
        by_member(stage, post(format!("/v1/locks/{}/renew", stage.name()), body))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}

#[tokio::test]
async fn a_lock_is_given_back_once() {
    let act = act("POST /v1/locks/{name}/release", "lock.release", 204);
    let prepare = async |stage: &mut Stage| {
        let held = stage.acme.ask(lease(&stage.name())).await.expect(201).json();
        let body = json!({ "lease_id": text(&held, "lease_id") });
        by_member(stage, post(format!("/v1/locks/{}/release", stage.name()), body))
    };
    Stage::new().await.cuts_off(&act, prepare).await;
}
