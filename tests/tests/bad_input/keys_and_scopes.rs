//! API keys, scopes and signing keys that do not go with the request.
//! Who enters: members with one thing wrong at a time.
//! What leaves: a stable code for each; nothing signed, nothing changed.

use std::time::Duration;

use promises::people::{sign_digest, sign_message, sign_p256};
use promises::{Appliance, GIVEN_UP, Protocol, delete, eventually, get, post};
use serde_json::{Value, json};

#[tokio::test]
async fn an_api_key_of_another_workspace_is_refused() {
    let house = Appliance::start().await;
    let (acme, globex) = (house.member("acme").await, house.member("globex").await);
    let key = acme.create_key("release", "p256").await;
    let mixed = acme.with_secret(&globex.secret);
    mixed.ask(sign_p256(&key, b"whose?")).await.refused(403, "workspace_mismatch");
    mixed.ask(get("/v1/keys")).await.refused(403, "workspace_mismatch");
}

#[tokio::test]
async fn a_missing_scope_is_named() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let (_, reader) = house.operator().acting_in(&member.workspace).issue("reader", &["keys:read"]).await;
    let reader = member.with_secret(&reader);
    reader.ask(get("/v1/keys")).await.expect(200);
    let refused = reader.ask(sign_p256(&key, b"no")).await.refused(403, "scope_missing");
    assert!(refused.text().contains("`sign`"), "{}", refused.text());
}

#[tokio::test]
async fn an_api_key_cannot_give_more_than_it_has() {
    let house = Appliance::start().await;
    let member = house.member_with("acme", &["access:manage", "sign"]).await;
    let ask = |scopes: Value| post("/v1/api-keys", json!({ "name": "child", "scopes": scopes }));
    member.ask(ask(json!(["sign", "keys:manage"]))).await.refused(403, "scope_missing");
    member.ask(ask(json!([]))).await.refused(422, "invalid");
    member.ask(ask(json!(["sign"]))).await.expect(201);
}

#[tokio::test]
async fn an_absent_unknown_revoked_or_doubled_api_key_is_refused() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let operator = house.operator().acting_in(&member.workspace);
    let bare = house.door().connect(&member.identity, None, Protocol::H1).await.unwrap();
    bare.send(get("/v1/keys")).await.unwrap().refused(401, "api_key_unknown");
    member
        .with_secret("ck_nobody-ever-issued-this")
        .ask(get("/v1/keys"))
        .await
        .refused(401, "api_key_unknown");
    let twice = get("/v1/keys").bearer(&member.secret).bearer(&member.secret);
    member.ask(twice).await.refused(400, "bad_request");
    member.ask(get("/v1/keys").header("authorization", "Basic YTpi")).await.refused(401, "api_key_unknown");
    operator.ask(delete(format!("/v1/api-keys/{}", member.api_key))).await.expect(204);
    member.ask(get("/v1/keys")).await.refused(401, "api_key_unknown");
}

#[tokio::test]
async fn an_api_key_ends_when_it_was_to_end() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let end = time::OffsetDateTime::now_utc() + Duration::from_secs(2);
    let end = end.format(&time::format_description::well_known::Rfc3339).unwrap();
    let operator = house.operator().acting_in(&member.workspace);
    let body = json!({ "name": "brief", "scopes": ["keys:read"], "expires": end });
    let secret = operator.ask(post("/v1/api-keys", body)).await.expect(201).json()["secret"]
        .as_str()
        .unwrap()
        .to_owned();
    let brief = member.with_secret(&secret);
    brief.ask(get("/v1/keys")).await.expect(200);
    let ended = || async { (brief.ask(get("/v1/keys")).await.code() == "api_key_expired").then_some(()) };
    eventually("the API key ends", GIVEN_UP, ended).await;
    let late = json!({ "name": "late", "scopes": ["keys:read"], "expires": "2001-01-01T00:00:00Z" });
    operator.ask(post("/v1/api-keys", late)).await.refused(422, "invalid");
}

#[tokio::test]
async fn an_unknown_key_version_scheme_or_digest_length_signs_nothing() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    member.ask(sign_p256("no-such-key", b"x")).await.refused(404, "not_found");
    member.ask(sign_p256("key_00000000000000000000", b"x")).await.refused(404, "not_found");
    member.ask(sign_digest(&key, "ecdsa-sha384", &[7; 48])).await.refused(422, "scheme_mismatch");
    member.ask(sign_message(&key, "ed25519", b"x")).await.refused(422, "scheme_mismatch");
    member.ask(sign_message(&key, "ecdsa-md5", b"x")).await.refused(422, "invalid");
    for length in [0, 1, 31, 33, 64] {
        member.ask(sign_digest(&key, "ecdsa-sha256", &vec![7; length])).await.refused(422, "digest_length");
    }
    let path = format!("/v1/keys/{key}/sign");
    let version = json!({ "scheme": "ecdsa-sha256", "message": "eA==", "version": 2 });
    member.ask(post(&path, version)).await.refused(404, "not_found");
    let both = json!({ "scheme": "ecdsa-sha256", "message": "eA==", "digest": "eA==" });
    member.ask(post(&path, both)).await.refused(422, "invalid");
    let base64 = json!({ "scheme": "ecdsa-sha256", "message": "not base64!" });
    member.ask(post(&path, base64)).await.refused(422, "invalid");
    assert!(house.operator().entries(&format!("action=key.sign&object={key}")).await.is_empty());
}

#[tokio::test]
async fn a_disabled_key_signs_nothing_until_it_is_enabled() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    member.ask(post(format!("/v1/keys/{key}/disable"), Value::Null)).await.expect(200);
    member.ask(sign_p256(&key, b"no")).await.refused(409, "key_unusable");
    member.ask(post(format!("/v1/keys/{key}/disable"), Value::Null)).await.refused(409, "key_unusable");
    member.ask(post(format!("/v1/keys/{key}/enable"), Value::Null)).await.expect(200);
    member.ask(sign_p256(&key, b"yes")).await.expect(200);
}

#[tokio::test]
async fn a_closed_workspace_is_closed_to_its_programs_and_opens_again() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let door = |verb: &str| post(format!("/v1/workspaces/{}/{verb}", member.workspace), Value::Null);
    house.operator().ask(door("close")).await.expect(204);
    member.ask(sign_p256(&key, b"no")).await.refused(403, "workspace_closed");
    house.operator().ask(door("close")).await.refused(409, "wrong_state");
    house.operator().ask(door("open")).await.expect(204);
    member.ask(sign_p256(&key, b"yes")).await.expect(200);
}
