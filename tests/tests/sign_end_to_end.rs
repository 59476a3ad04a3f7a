//! Signing, end to end: from a client's mutual TLS to a signature that strangers verify and a receipt that says so.
//! Who enters: members of temporary appliances with real tokens.
//! What leaves: signatures checked by openssl and aws-lc-rs, entries checked against them, receipts checked offline.

use audit::{NoteKey, Proof, Receipt};
use aws_lc_rs::signature as lc;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use promises::evidence::{self, recorded_digest};
use promises::foreign::{curl, openssl_accepts};
use promises::people::{sign_digest, sign_message, sign_p256};
use promises::programs::{complained, said};
use promises::{Answer, Appliance, Hardware, Load, Member, Plan, Protocol, Until, get, post};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha384, Sha512};

/// Every kind of key with every scheme it signs with.
const KINDS: [(&str, &[&str]); 7] = [
    ("p256", &["ecdsa-sha256"]),
    ("p384", &["ecdsa-sha384"]),
    ("secp256k1", &["ecdsa-sha256"]),
    ("ed25519", &["ed25519"]),
    ("rsa-2048", &RSA),
    ("rsa-3072", &RSA),
    ("rsa-4096", &RSA),
];
const RSA: [&str; 6] = [
    "rsa-pkcs1-sha256",
    "rsa-pkcs1-sha384",
    "rsa-pkcs1-sha512",
    "rsa-pss-sha256",
    "rsa-pss-sha384",
    "rsa-pss-sha512",
];
const TPM_KINDS: [&str; 3] = ["p256", "p384", "rsa-2048"];

fn digest_for(scheme: &str, message: &[u8]) -> Vec<u8> {
    match scheme.rsplit('-').next() {
        Some("sha384") => Sha384::digest(message).to_vec(),
        Some("sha512") => Sha512::digest(message).to_vec(),
        _ => Sha256::digest(message).to_vec(),
    }
}

fn aws_lc_accepts(kind: &str, scheme: &str, pem: &str, message: &[u8], signature: &[u8]) -> bool {
    let algorithm: &dyn lc::VerificationAlgorithm = match (kind, scheme) {
        ("p256", _) => &lc::ECDSA_P256_SHA256_ASN1,
        ("p384", _) => &lc::ECDSA_P384_SHA384_ASN1,
        ("secp256k1", _) => &lc::ECDSA_P256K1_SHA256_ASN1,
        ("ed25519", _) => &lc::ED25519,
        (_, "rsa-pkcs1-sha256") => &lc::RSA_PKCS1_2048_8192_SHA256,
        (_, "rsa-pkcs1-sha384") => &lc::RSA_PKCS1_2048_8192_SHA384,
        (_, "rsa-pkcs1-sha512") => &lc::RSA_PKCS1_2048_8192_SHA512,
        (_, "rsa-pss-sha256") => &lc::RSA_PSS_2048_8192_SHA256,
        (_, "rsa-pss-sha384") => &lc::RSA_PSS_2048_8192_SHA384,
        (_, "rsa-pss-sha512") => &lc::RSA_PSS_2048_8192_SHA512,
        other => panic!("no verifier for {other:?}"),
    };
    let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).unwrap();
    // RFC 8410: the 32 bytes of an Ed25519 key end its SPKI.
    let key = if kind == "ed25519" { &spki.as_ref()[spki.as_ref().len() - 32..] } else { spki.as_ref() };
    lc::UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
}

fn signature_of(answer: &Answer) -> Vec<u8> {
    STANDARD.decode(answer.json()["signature"].as_str().unwrap()).unwrap()
}

async fn public_key(member: &Member, key: &str, version: usize) -> String {
    let shown = member.ask(get(format!("/v1/keys/{key}"))).await.expect(200).json();
    shown["versions"][version - 1]["pem"].as_str().unwrap().to_owned()
}

async fn signs_so_that_strangers_verify(house: &Appliance, kinds: &[(&str, &[&str])]) {
    let member = house.member("acme").await;
    for (kind, schemes) in kinds {
        let key = member.create_key(kind, kind).await;
        let pem = public_key(&member, &key, 1).await;
        for scheme in *schemes {
            let message = format!("signed by {kind} with {scheme}").into_bytes();
            let mut asks = vec![sign_message(&key, scheme, &message)];
            if *scheme != "ed25519" {
                asks.push(sign_digest(&key, scheme, &digest_for(scheme, &message)));
            }
            for ask in asks {
                let signature = signature_of(&member.ask(ask).await.expect(200));
                let at = format!("{kind} {scheme}");
                assert!(
                    openssl_accepts(&house.path(""), scheme, &pem, &message, &signature),
                    "openssl: {at}"
                );
                assert!(aws_lc_accepts(kind, scheme, &pem, &message, &signature), "aws-lc: {at}");
                assert!(
                    !openssl_accepts(&house.path(""), scheme, &pem, b"another", &signature),
                    "anything goes: {at}"
                );
            }
        }
    }
}

#[tokio::test]
async fn every_kind_and_scheme_of_a_token_verifies_with_strangers_code() {
    let mut house = Appliance::start().await;
    signs_so_that_strangers_verify(&house, &KINDS).await;
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn every_kind_and_scheme_of_a_tpm_verifies_with_strangers_code() {
    let mut house = Plan::with(Hardware::Tpm).start().await;
    let kinds: Vec<_> = KINDS.into_iter().filter(|(kind, _)| TPM_KINDS.contains(kind)).collect();
    signs_so_that_strangers_verify(&house, &kinds).await;
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn a_tpm_refuses_by_name_the_kinds_that_it_cannot_make() {
    let house = Plan::with(Hardware::Tpm).start().await;
    let member = house.member("acme").await;
    for (kind, _) in KINDS.into_iter().filter(|(kind, _)| !TPM_KINDS.contains(kind)) {
        member
            .ask(post("/v1/keys", json!({ "name": kind, "kind": kind })))
            .await
            .refused(501, "token_cannot");
    }
}

#[tokio::test]
async fn curl_signs_over_http_1_1_and_h2() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let files = member.identity.files(&house.path("curl"));
    let body = json!({ "scheme": "ecdsa-sha256", "message": STANDARD.encode("by curl") }).to_string();
    let bearer = format!("Authorization: Bearer {}", member.secret);
    for (flag, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
        let output = curl(
            &house.door(),
            &files,
            &format!("/v1/keys/{key}/sign"),
            &[flag, "-H", &bearer, "--json", &body, "--write-out", "\n%{http_version} %{http_code}"],
        );
        let text = said(&output);
        let (answer, trailer) = text.rsplit_once('\n').unwrap_or_else(|| panic!("{}", complained(&output)));
        assert_eq!(trailer, format!("{version} 200"), "{text}{}", complained(&output));
        let signature =
            serde_json::from_str::<Value>(answer).unwrap()["signature"].as_str().unwrap().to_owned();
        let signature = STANDARD.decode(signature).unwrap();
        let pem = public_key(&member, &key, 1).await;
        assert!(openssl_accepts(&house.path(""), "ecdsa-sha256", &pem, b"by curl", &signature));
    }
}

#[tokio::test]
async fn every_signature_has_the_entry_that_authorised_it_with_the_same_digest_key_and_request() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let answer = member.ask(sign_p256(&key, b"the one message")).await.expect(200);
    let seq = answer.entry().unwrap();
    assert_eq!(answer.json()["entry"].as_u64(), Some(seq));
    let entry = member.ask(get(format!("/v1/audit/entries/{seq}"))).await.expect(200).json();
    assert_eq!(entry["action"], "key.sign");
    assert_eq!(entry["object"], key.as_str());
    assert_eq!(entry["outcome"], "done");
    assert_eq!(entry["request_id"], answer.request_id().as_str());
    assert_eq!(entry["workspace"], member.workspace.as_str());
    assert_eq!(entry["actor"], format!("{}/{}", member.client, member.api_key).as_str());
    let after = &entry["detail"]["after"];
    assert_eq!(after["digest"], recorded_digest(b"the one message").as_str());
    assert_eq!(after["scheme"], "ecdsa-sha256");
    assert_eq!((&after["version"], &after["use"]), (&json!(1), &json!(1)));
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn the_use_counter_steps_by_one_under_parallel_load() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let load = Load { connections: 8, until: Until::Sent(200), ..Load::of(&member, &house.door(), &key) };
    let tally = load.finish().await;
    assert_eq!((tally.signed.len(), tally.failed), (200, 0), "{:?}", tally.refused);
    evidence::each_has_its_entry(&house, &key, &tally.signed).await;
    let shown = member.ask(get(format!("/v1/keys/{key}"))).await.expect(200).json();
    assert_eq!(shown["uses"], 200);
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn one_h2_connection_carries_many_signatures_at_once() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "ed25519").await;
    let load = Load {
        connections: 1,
        streams: 32,
        protocol: Protocol::H2,
        scheme: "ed25519".to_owned(),
        until: Until::Sent(128),
        ..Load::of(&member, &house.door(), &key)
    };
    let tally = load.finish().await;
    assert_eq!((tally.signed.len(), tally.failed), (128, 0), "{:?}", tally.refused);
    evidence::each_has_its_entry(&house, &key, &tally.signed).await;
}

#[tokio::test]
async fn a_receipt_proves_offline_that_the_signature_was_recorded() {
    let house = Appliance::with_tpm().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let seq = member.ask(sign_p256(&key, b"to be proven")).await.expect(200).entry().unwrap();
    let keys: Vec<NoteKey> =
        evidence::verifier_keys(&house).await.iter().map(|key| key.parse().unwrap()).collect();
    let path = format!("/v1/audit/receipts/{seq}");
    let receipt = Receipt::from_json(&member.ask(get(&path)).await.expect(200).body).unwrap();
    let (leaf, checkpoint, signers) = receipt.check(&keys).unwrap();
    assert_eq!((leaf.seq, leaf.action, leaf.object), (seq, "key.sign", key.as_str()));
    assert!(checkpoint.size > seq);
    assert_eq!(signers.len(), 2, "token and TPM both signed the checkpoint");
    let payload: Value = serde_json::from_slice(&receipt.payload).unwrap();
    assert_eq!(payload["after"]["digest"], recorded_digest(b"to be proven").as_str());

    let text = member.ask(get(&path).header("accept", "text/plain")).await.expect(200);
    assert_eq!(text.header("content-type"), Some("text/plain; charset=utf-8"));
    let proof = Proof::parse(&text.body).unwrap();
    assert!(proof.check(&audit::leaf::leaf_hash(&receipt.leaf), &keys).is_ok());
    assert!(proof.check(&audit::leaf::leaf_hash(b"another leaf"), &keys).is_err(), "any leaf would do");
}

#[tokio::test]
async fn a_receipt_asked_for_before_the_seal_says_when_to_come_back() {
    let house = Plan::with(Hardware::Token).set("ledger.seal_seconds", 1).start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let path = format!("/v1/audit/receipts/{}", member.ask(sign_p256(&key, b"soon")).await.entry().unwrap());
    let first = member.ask(get(&path)).await;
    if first.status != 200 {
        assert!(first.clone().refused(409, "not_yet_sealed").header("retry-after").is_some());
    }
    let ask = || async { (member.ask(get(&path)).await.status == 200).then_some(()) };
    promises::eventually("the receipt", std::time::Duration::from_secs(10), ask).await;
}

#[tokio::test]
async fn a_workspace_sees_its_own_entries_and_keys_only() {
    let house = Appliance::start().await;
    let (acme, globex) = (house.member("acme").await, house.member("globex").await);
    let key = acme.create_key("release", "p256").await;
    let seq = acme.ask(sign_p256(&key, b"acme's business")).await.expect(200).entry().unwrap();
    let theirs = globex.ask(get("/v1/audit/entries?limit=500")).await.expect(200).json();
    let foreign: Vec<_> = theirs["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|e| e["workspace"] != globex.workspace.as_str())
        .collect();
    assert!(foreign.is_empty() && !theirs["entries"].as_array().unwrap().is_empty(), "{foreign:?}");
    globex.ask(get(format!("/v1/audit/entries/{seq}"))).await.refused(404, "not_found");
    globex.ask(get(format!("/v1/audit/receipts/{seq}"))).await.refused(404, "not_found");
    globex.ask(get(format!("/v1/keys/{key}"))).await.refused(404, "not_found");
    globex.ask(sign_p256(&key, b"not theirs")).await.refused(404, "not_found");
    globex.ask(get(format!("/v1/audit/entries?object={key}"))).await.expect(200);
    let found = globex.ask(get(format!("/v1/audit/entries?object={key}"))).await.json();
    assert_eq!(found["entries"], json!([]));
}

#[tokio::test]
async fn a_batch_signs_the_good_items_and_refuses_the_bad_one_by_itself() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let item = |key: &str, text: &str| json!({ "key": key, "scheme": "ecdsa-sha256", "message": STANDARD.encode(text) });
    let resting = member.create_key("resting", "p256").await;
    member.ask(post(format!("/v1/keys/{resting}/disable"), json!(null)).raw("")).await.expect(200);
    let items = [item(&key, "one"), item("no-such-key", "two"), item(&key, "three"), item(&resting, "four")];
    let items = json!({ "items": items });
    let answer = member.ask(post("/v1/sign-batch", items)).await.expect(200).json();
    let pem = public_key(&member, &key, 1).await;
    for (at, message) in [(0, "one"), (2, "three")] {
        let signature = STANDARD.decode(answer["results"][at]["signature"].as_str().unwrap()).unwrap();
        assert!(openssl_accepts(&house.path(""), "ecdsa-sha256", &pem, message.as_bytes(), &signature));
    }
    assert_eq!(answer["results"][1]["code"], "not_found");
    assert_eq!(answer["results"][3]["code"], "key_unusable");
    assert_eq!((&answer["results"][0]["use"], &answer["results"][2]["use"]), (&json!(1), &json!(2)));
    assert_eq!(house.operator().entries(&format!("action=key.sign&object={key}")).await.len(), 2);
    evidence::verifies(&mut house).await;
}
