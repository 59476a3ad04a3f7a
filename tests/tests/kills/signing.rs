//! Stories of signing: a request, a batch, a change of policy.
//! Who enters: the owner of a key whose policy asks one other person.
//! What leaves: signatures on record once; a policy in force, or the one before it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use promises::{Hardware, post};
use serde_json::{Value, json};

use crate::stage::Stage;
use crate::story::{Story, Turn};
use crate::trouble::Lack;

const AN_HOUR: u64 = 3600;
const A_MONTH: u64 = 31 * 24 * 3600;

/// What holds for the key: one other person, a limit, an hour in which a change can be vetoed.
fn policy(uses: u32) -> Value {
    let limit = json!({ "uses": uses, "per_seconds": A_MONTH });
    json!({ "approvals": 1, "direct": false, "limit": limit, "timelock_seconds": AN_HOUR })
}

async fn with_a_policy(story: &'static str) -> Option<(Stage, String)> {
    with_a_policy_for("p256", story).await
}

async fn with_a_policy_for(kind: &str, story: &'static str) -> Option<(Stage, String)> {
    let stage = Stage::set(story, Hardware::Token).await?;
    let form = json!({ "name": "release", "kind": kind, "policy": policy(100) });
    let key = stage.owner.ask(post("/v1/keys", form)).await.expect(201).json();
    Some((stage, key["id"].as_str().expect("an id").to_owned()))
}

fn message(of: &str) -> String {
    STANDARD.encode(of)
}

fn request(key: &str) -> Story {
    request_by(key, "ecdsa-sha256")
}

fn request_by(key: &str, scheme: &str) -> Story {
    let form = json!({ "key": key, "scheme": scheme, "message": message("pay"), "nonce": "one" });
    Story::of("signing.request", form)
}

fn batch(key: &str) -> Story {
    let items = ["one", "two", "three"].map(|item| json!({ "message": message(item) }));
    Story::of(
        "signing.batch",
        json!({ "key": key, "scheme": "ecdsa-sha256", "items": items, "nonce": "many" }),
    )
}

fn change(key: &str) -> Story {
    Story::of("signing.policy_change", json!({ "scope": key, "policy": policy(200) }))
}

#[tokio::test]
async fn a_request_is_signed_whatever_commit_the_power_goes_after() {
    let Some((stage, key)) = with_a_policy("signing.request").await else { return };
    request(&key).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_request_refused_uses_nothing_up_whatever_commit_the_power_goes_after() {
    let Some((stage, key)) = with_a_policy("signing.request refused").await else { return };
    request(&key).turning(Turn::Refused("signing.await_approvals")).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_request_that_the_token_cannot_sign_uses_nothing_up_whatever_commit_the_power_goes_after() {
    let made = with_a_policy_for("rsa-2048", "signing.request in vain").await;
    let Some((stage, key)) = made else { return };
    let stage = stage.lacking(Lack::RsaSignatures);
    request_by(&key, "rsa-pkcs1-sha256").turning(Turn::ByItself).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_batch_is_signed_whatever_commit_the_power_goes_after() {
    let Some((stage, key)) = with_a_policy("signing.batch").await else { return };
    batch(&key).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_batch_called_off_uses_nothing_up_whatever_commit_the_power_goes_after() {
    let Some((stage, key)) = with_a_policy("signing.batch called off").await else { return };
    batch(&key).turning(Turn::CalledOff("signing.await_approvals")).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_policy_changes_once_whatever_commit_the_power_goes_after() {
    let Some((stage, key)) = with_a_policy("signing.policy_change").await else { return };
    change(&key).holds_after_every_commit(stage).await;
}

#[tokio::test]
async fn a_change_of_policy_vetoed_leaves_the_old_one_whatever_commit_the_power_goes_after() {
    let Some((stage, key)) = with_a_policy("signing.policy_change vetoed").await else { return };
    change(&key).turning(Turn::Refused("signing.await_timelock")).holds_after_every_commit(stage).await;
}
