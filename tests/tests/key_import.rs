//! Bringing a key in, exactly as the recipe says it, with openssl alone and a real token.
//! Who enters: the recipe's own commands; a member who announces and brings.
//! What leaves: a key that signs here what its public half outside verifies; or a refusal that leaves nothing.

use std::fs;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use promises::people::sign_p256;
use promises::{Answer, Appliance, Member, Outside, evidence, get, post};
use serde_json::{Value, json};

const SCOPES: [&str; 6] =
    ["keys:manage", "keys:read", "sign", "verify", "workflows:manage", "workflows:read"];

async fn announce(member: &Member, outside: &Outside) -> String {
    let form = json!({ "name": "brought", "kind": "p256", "public_key": outside.public_key() });
    let started = member.ask(post("/v1/workflows/key.import", form)).await.expect(202);
    started.header("location").unwrap().rsplit('/').next().unwrap().to_owned()
}

async fn until(member: &Member, path: &str, what: impl Fn(&Answer) -> bool) -> Value {
    for _ in 0..20_000 {
        let answer = member.ask(get(path)).await;
        if what(&answer) {
            return answer.json();
        }
    }
    panic!("it does not come: {}", member.ask(get(path)).await.text());
}

async fn wrapped(member: &Member, outside: &Outside) -> String {
    let shown =
        until(member, "/v1/keys/brought", |it| it.status == 200 && it.json()["incoming"]["pem"].is_string())
            .await;
    outside.wrapped_for(&shown["incoming"])
}

async fn end(member: &Member, workflow: &str) -> Value {
    let over =
        |it: &Answer| ["succeeded", "compensated"].contains(&it.json()["state"].as_str().unwrap_or_default());
    until(member, &format!("/v1/workflows/{workflow}"), over).await
}

#[tokio::test]
async fn a_key_brought_in_as_the_recipe_says_signs_what_its_public_half_outside_verifies() {
    promises::described::enforce();
    let mut house = Appliance::start().await;
    let member = house.member_with("acme", &SCOPES).await;
    let outside = Outside::make();
    let workflow = announce(&member, &outside).await;
    let wrapped = wrapped(&member, &outside).await;
    member
        .ask(post(format!("/v1/workflows/{workflow}/blob"), json!({ "wrapped": wrapped })))
        .await
        .expect(202);
    let run = end(&member, &workflow).await;
    assert_eq!(run["state"], "succeeded", "{run}");
    let key = member.ask(get("/v1/keys/brought")).await.expect(200).json();
    assert_eq!(key["versions"][0]["provenance"]["origin"], "imported");
    let signed = member.ask(sign_p256("brought", b"by the key from outside")).await.expect(200).json();
    let signature = STANDARD.decode(signed["signature"].as_str().unwrap()).unwrap();
    fs::write(outside.path().join("signature"), signature).unwrap();
    fs::write(outside.path().join("message"), "by the key from outside").unwrap();
    outside.sh("openssl dgst -sha256 -verify public.pem -signature signature message", "");
    promises::described::saw("POST /v1/workflows/{workflow}/blob");
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn another_key_than_the_announced_one_is_refused_and_its_name_is_free_again() {
    let house = Appliance::start().await;
    let member = house.member_with("acme", &SCOPES).await;
    let outside = Outside::make();
    let workflow = announce(&member, &outside).await;
    outside.make_again();
    let wrapped = wrapped(&member, &outside).await;
    member
        .ask(post(format!("/v1/workflows/{workflow}/blob"), json!({ "wrapped": wrapped })))
        .await
        .expect(202);
    assert_eq!(end(&member, &workflow).await["state"], "compensated");
    member.ask(get("/v1/keys/brought")).await.refused(404, "not_found");
}

#[tokio::test]
async fn a_kind_that_the_token_does_not_take_is_refused_before_anybody_wraps_it() {
    let house = Appliance::start().await;
    let member = house.member_with("acme", &SCOPES).await;
    let outside = Outside::made_by(
        "openssl genpkey -algorithm ED25519 -out key.pem; openssl pkey -in key.pem -pubout -out public.pem",
    );
    let form = json!({ "name": "brought", "kind": "ed25519", "public_key": outside.public_key() });
    let started = member.ask(post("/v1/workflows/key.import", form)).await.expect(202);
    let workflow = started.header("location").unwrap().rsplit('/').next().unwrap().to_owned();
    let run = end(&member, &workflow).await;
    assert!(run["error"].as_str().unwrap_or_default().contains("cannot do import of ed25519"), "{run}");
    member.ask(get("/v1/keys/brought")).await.refused(404, "not_found");
}
