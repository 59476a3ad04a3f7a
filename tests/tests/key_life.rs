//! The life of a key: made, rotated, disabled, scheduled for destruction, kept after all, shown in every form.
//! Who enters: members and operators of temporary appliances.
//! What leaves: signatures by exactly the versions and in exactly the states that allow them, each change with its entry.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use promises::evidence;
use promises::people::{sign_message, sign_p256};
use promises::programs::{complained, said, succeeds, tool};
use promises::{Appliance, GIVEN_UP, Hardware, Member, Plan, SCOPES, eventually, get, post};
use serde_json::{Value, json};

async fn verdict(member: &Member, key: &str, version: Option<u32>, message: &str, signature: &str) -> Value {
    let mut body =
        json!({ "scheme": "ecdsa-sha256", "message": STANDARD.encode(message), "signature": signature });
    if let Some(version) = version {
        body["version"] = version.into();
    }
    member.ask(post(format!("/v1/keys/{key}/verify"), body)).await.expect(200).json()["valid"].clone()
}

async fn change(member: &Member, key: &str, verb: &str) -> promises::Answer {
    member.ask(post(format!("/v1/keys/{key}/{verb}"), Value::Null)).await
}

async fn old_versions_verify_after_rotation(mut house: Appliance) {
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let old = member.ask(sign_p256(&key, b"by the old one")).await.expect(200).json();
    let rotated = change(&member, &key, "rotate").await.expect(201);
    assert_eq!(rotated.json()["latest_version"], 2);
    let versions = rotated.json()["versions"].as_array().unwrap().clone();
    assert_ne!(versions[0]["fingerprint"], versions[1]["fingerprint"], "the same key twice");
    let new = member.ask(sign_p256(&key, b"by the new one")).await.expect(200).json();
    assert_eq!((&old["version"], &new["version"]), (&json!(1), &json!(2)));
    let (old, new) = (old["signature"].as_str().unwrap(), new["signature"].as_str().unwrap());
    assert_eq!(verdict(&member, &key, Some(1), "by the old one", old).await, true);
    assert_eq!(verdict(&member, &key, Some(2), "by the new one", new).await, true);
    assert_eq!(verdict(&member, &key, None, "by the new one", new).await, true);
    assert_eq!(verdict(&member, &key, Some(2), "by the old one", old).await, false);
    assert_eq!(verdict(&member, &key, Some(1), "something else", old).await, false);
    house.terminate().await;
    house.serve().await;
    assert_eq!(verdict(&member, &key, Some(1), "by the old one", old).await, true, "forgotten by a restart");
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn old_versions_of_a_token_key_verify_after_rotation_and_restart() {
    old_versions_verify_after_rotation(Appliance::start().await).await;
}

#[tokio::test]
async fn old_versions_of_a_tpm_key_verify_after_rotation_and_restart() {
    old_versions_verify_after_rotation(Plan::with(Hardware::Tpm).start().await).await;
}

#[tokio::test]
async fn a_key_called_back_from_destruction_stands_as_it_stood_before() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    for days in [0, 91] {
        let ask = post(format!("/v1/keys/{key}/schedule-destruction"), json!({ "days": days }));
        member.ask(ask).await.refused(422, "invalid");
    }
    let scheduled = post(format!("/v1/keys/{key}/schedule-destruction"), json!({ "days": 1 }));
    let scheduled = member.ask(scheduled).await.expect(202).json();
    assert_eq!(scheduled["state"], "destruction_pending");
    assert!(scheduled["destroy_after"].is_string());
    member.ask(sign_p256(&key, b"no")).await.refused(409, "key_unusable");
    change(&member, &key, "enable").await.refused(409, "key_unusable");
    assert_eq!(change(&member, &key, "keep").await.expect(200).json()["state"], "enabled");
    change(&member, &key, "keep").await.refused(409, "key_unusable");
    member.ask(sign_p256(&key, b"yes")).await.expect(200);
    change(&member, &key, "disable").await.expect(200);
    member.ask(post(format!("/v1/keys/{key}/schedule-destruction"), json!({ "days": 1 }))).await.expect(202);
    assert_eq!(change(&member, &key, "keep").await.expect(200).json()["state"], "disabled");
    let told: Vec<_> = house.operator().entries(&format!("object={key}")).await;
    let told: Vec<_> = told.iter().filter_map(|entry| entry["action"].as_str()).collect();
    let expected = [
        // Reserved and ordered in one commit, the order first: its number is the evidence that the token asks for.
        "key.order",
        "key.reserve",
        "key.made",
        "policy.none",
        "key.create",
        "key.schedule_destruction",
        "key.keep",
        "key.sign",
        "key.disable",
        "key.schedule_destruction",
        "key.keep",
    ];
    assert_eq!(told, expected);
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn a_name_is_given_once_in_a_workspace_and_again_in_another() {
    let house = Appliance::start().await;
    let (acme, globex) = (house.member("acme").await, house.member("globex").await);
    acme.create_key("release", "p256").await;
    let again = post("/v1/keys", json!({ "name": "release", "kind": "p256" }));
    acme.ask(again.clone()).await.refused(409, "name_taken");
    globex.ask(again).await.expect(201);
    acme.ask(sign_p256("release", b"by name")).await.expect(200);
    for name in ["", "Release", "a/b", "..", &"a".repeat(65)] {
        acme.ask(post("/v1/keys", json!({ "name": name, "kind": "p256" }))).await.refused(422, "invalid");
    }
}

#[tokio::test]
async fn the_public_half_is_the_same_as_pem_jwk_and_openssh() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    for kind in ["p256", "p384", "ed25519", "rsa-2048"] {
        let key = member.create_key(kind, kind).await;
        let version =
            member.ask(get(format!("/v1/keys/{key}"))).await.expect(200).json()["versions"][0].clone();
        assert!(version["jwk"]["kty"].is_string(), "{version}");
        let path = house.path("public");
        std::fs::write(&path, version["pem"].as_str().unwrap()).unwrap();
        let mut from_pem = tool("ssh-keygen", "openssh-client");
        // ssh-keygen reads PKCS#8 PEM of every kind but Ed25519.
        if kind != "ed25519" {
            let converted = succeeds(from_pem.args(["-i", "-m", "PKCS8", "-f"]).arg(&path));
            let ours: Vec<_> = version["ssh"].as_str().unwrap().split(' ').take(2).collect();
            assert_eq!(converted.split_whitespace().take(2).collect::<Vec<_>>(), ours, "{kind}");
        }
        std::fs::write(&path, version["ssh"].as_str().unwrap()).unwrap();
        succeeds(tool("ssh-keygen", "openssh-client").args(["-l", "-f"]).arg(&path));
    }
}

#[tokio::test]
async fn the_command_line_signs_and_verifies_a_file_that_openssl_accepts() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let (file, signature) = (house.path("release.tar"), house.path("release.sig"));
    std::fs::write(&file, b"the release").unwrap();
    let (file_text, signature_text) = (file.display().to_string(), signature.display().to_string());
    let run = |arguments: &[&str]| {
        let output = house.cli(&[&["-w", "acme"], arguments].concat());
        (output.status.code(), said(&output))
    };
    assert_eq!(run(&["key", "create", "release", "--kind", "p256"]).0, Some(0));
    let with = ["--key", "release", "--scheme", "ecdsa-sha256"];
    assert_eq!(run(&[&["sign"], &with[..], &["--out", &signature_text, &file_text]].concat()).0, Some(0));
    let verify = [&["verify"], &with[..], &["--signature", &signature_text, &file_text]].concat();
    assert_eq!(run(&verify).0, Some(0));
    let pem = house.path("release.pem");
    std::fs::write(&pem, run(&["key", "show", "release", "--public", "pem"]).1).unwrap();
    let mut openssl = tool("openssl", "openssl");
    succeeds(
        openssl.args(["dgst", "-sha256", "-verify"]).arg(&pem).arg("-signature").arg(&signature).arg(&file),
    );
    std::fs::write(&file, b"the release, altered").unwrap();
    assert_eq!(run(&verify).0, Some(1), "an altered file verifies");
    member.ask(sign_message("release", "ecdsa-sha256", b"the same key over the API")).await.expect(200);
}

/// Two who may approve in the owner's workspace.
async fn approvers(house: &Appliance, owner: &Member) -> Vec<Member> {
    let mut found = Vec::new();
    for name in ["bob", "carol"] {
        let operator = house.operator().acting_in(&owner.workspace);
        let (_, identity) = operator.enrol(name).await;
        let (_, secret) = operator.issue(name, &SCOPES).await;
        found.push(owner.with_secret(&secret).with_identity(&identity));
    }
    found
}

/// Starts a workflow over the command line; its run's id, or how it was refused.
fn started(house: &Appliance, workflow: &str, input: &Value) -> Result<String, String> {
    let output = house.cli(&["--json", "-w", "acme", "saga", "start", workflow, &input.to_string()]);
    match output.status.success() {
        true => {
            let run: Value = serde_json::from_slice(&output.stdout).unwrap();
            Ok(run["id"].as_str().unwrap().to_owned())
        }
        false => Err(said(&output) + &complained(&output)),
    }
}

async fn run_of(member: &Member, id: &str) -> Value {
    member.ask(get(format!("/v1/workflows/{id}"))).await.expect(200).json()
}

/// All of them agree to what waits, and it comes to its end.
async fn agreed(others: &[Member], id: &str) {
    for other in others {
        let asked = || async {
            let run = run_of(other, id).await;
            (!run["approval"].is_null()).then_some(run["approval"].clone())
        };
        let (approval, _) = eventually("it waits for approval", GIVEN_UP, asked).await;
        let (digest, policy_version) = (&approval["digest"], &approval["policy_version"]);
        let vote = json!({ "verdict": "approve", "digest": digest, "policy_version": policy_version });
        other.ask(post(format!("/v1/workflows/{id}/approvals"), vote)).await.expect(200);
    }
    let over = || async { (run_of(&others[0], id).await["state"] == "succeeded").then_some(()) };
    eventually("it is done", GIVEN_UP, over).await;
}

async fn signs_as(member: &Member, version: u64) {
    let signed = member.ask(sign_p256("release", b"by whichever signs")).await.expect(200).json();
    assert_eq!(signed["version"], version);
}

#[tokio::test]
async fn an_older_version_comes_back_to_sign_only_where_it_is_said_and_shown_to_those_who_approve() {
    let house = Appliance::start().await;
    let owner = house.member("acme").await;
    let others = approvers(&house, &owner).await;
    succeeds(&mut house.command(&["-w", "acme", "key", "create", "release", "--recoverable"]));
    let backup = started(&house, "key.backup", &json!({ "key": "release" })).unwrap();
    agreed(&others, &backup).await;
    succeeds(&mut house.command(&["-w", "acme", "key", "rotate", "release"]));
    signs_as(&owner, 2).await;
    let key = owner.ask(get("/v1/keys/release")).await.expect(200).json();
    let fingerprint = |at: usize| key["versions"][at]["fingerprint"].as_str().unwrap().to_owned();

    // Unless it is said, the newer one stays.
    let refused = started(&house, "key.restore", &json!({ "backup": backup })).unwrap_err();
    for told in ["version 1", "version 2 signs now", "older_version"] {
        assert!(refused.contains(told), "{told}: {refused}");
    }
    signs_as(&owner, 2).await;

    // Where it is said, those who approve see both versions and both fingerprints before they agree.
    let said_so = json!({ "backup": backup, "older_version": true });
    let called_off = started(&house, "key.restore", &said_so).unwrap();
    let waits = || async { (!run_of(&others[0], &called_off).await["approval"].is_null()).then_some(()) };
    eventually("it waits for approval", GIVEN_UP, waits).await;
    let shown = said(&house.cli(&["-w", "acme", "saga", "show", &called_off]));
    for told in ["OLDER version 1", "version 2 is taken out of use", &fingerprint(0), &fingerprint(1)] {
        assert!(shown.contains(told), "{told} is not shown in\n{shown}");
    }
    signs_as(&owner, 2).await;
    let because = ["-w", "acme", "saga", "cancel", &called_off, "--reason", "not that one"];
    succeeds(&mut house.command(&because));
    let over = || async { (run_of(&owner, &called_off).await["state"] == "compensated").then_some(()) };
    eventually("it is called off", GIVEN_UP, over).await;
    signs_as(&owner, 2).await;

    let restored = started(&house, "key.restore", &said_so).unwrap();
    agreed(&others, &restored).await;
    signs_as(&owner, 3).await;
    let key = owner.ask(get("/v1/keys/release")).await.expect(200).json();
    let states: Vec<_> = key["versions"].as_array().unwrap().iter().map(|it| it["state"].clone()).collect();
    assert_eq!(states, ["replaced", "superseded", "signing"]);
    assert_eq!(key["versions"][2]["fingerprint"], fingerprint(0).as_str());
}
