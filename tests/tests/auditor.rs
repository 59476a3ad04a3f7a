//! What an auditor asks who holds a file, its signature and a receipt: did this appliance sign this, when, and by whose authority?
//! Answered offline by `chancery-audit check`, which hashes the file itself.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use promises::people::{sign_message, sign_p256};
use promises::programs::{complained, program, said};
use promises::{Appliance, Member, evidence, get, post};
use serde_json::Value;

const TEXT: &[u8] = b"firmware 1.0";

/// What the auditor holds, in files.
struct Held {
    house: Appliance,
    member: Member,
    keys: Vec<String>,
}

impl Held {
    async fn new() -> Self {
        let house = Appliance::start().await;
        let member = house.member("acme").await;
        let keys = evidence::verifier_keys(&house).await;
        Self { house, member, keys }
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.house.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// A key of this kind, and the text signed with it: what `check` is given.
    async fn signed(&self, kind: &str, scheme: &str) -> [PathBuf; 4] {
        self.member.create_key(kind, kind).await;
        let answer = self.member.ask(sign_message(kind, scheme, TEXT)).await.expect(200);
        let signature = answer.json()["signature"].as_str().unwrap().to_owned();
        let receipt = self.receipt(answer.entry().unwrap()).await;
        let key = self.member.ask(get(format!("/v1/keys/{kind}"))).await.expect(200).json();
        [
            self.put("receipt.json", receipt),
            self.put("text", TEXT),
            self.put("signature", STANDARD.decode(signature).unwrap()),
            self.put("public.pem", key["versions"][0]["pem"].as_str().unwrap()),
        ]
    }

    async fn receipt(&self, entry: u64) -> Vec<u8> {
        self.house.operator().ask(post("/v1/audit/seal", Value::Null)).await.expect(200);
        self.member.ask(get(format!("/v1/audit/receipts/{entry}"))).await.expect(200).body.to_vec()
    }

    fn check(&self, [receipt, file, signature, key]: &[PathBuf; 4], more: &[&str]) -> Output {
        let mut command = self.checker(receipt);
        command.arg("--file").arg(file).arg("--signature").arg(signature).arg("--public-key").arg(key);
        command.args(more).output().unwrap()
    }

    fn checker(&self, receipt: &PathBuf) -> Command {
        let mut command = Command::new(program("chancery-audit"));
        command.arg("check").arg(receipt);
        for key in &self.keys {
            command.args(["--key", key]);
        }
        command
    }
}

fn differs(output: &Output, words: &str) {
    assert_eq!(output.status.code(), Some(1), "{}{}", said(output), complained(output));
    assert!(
        said(output).starts_with("DOES NOT VERIFY") && said(output).contains(words),
        "{words}: {}",
        said(output)
    );
}

#[tokio::test]
async fn a_file_its_signature_and_its_receipt_answer_who_signed_it_and_when() {
    let held = Held::new().await;
    for (kind, scheme) in [
        ("p256", "ecdsa-sha256"),
        ("p384", "ecdsa-sha384"),
        ("secp256k1", "ecdsa-sha256"),
        ("ed25519", "ed25519"),
        ("rsa-2048", "rsa-pkcs1-sha512"),
        ("rsa-3072", "rsa-pss-sha384"),
    ] {
        let files = held.signed(kind, scheme).await;
        let output = held.check(&files, &[]);
        assert!(output.status.success(), "{kind}: {}{}", said(&output), complained(&output));
        for words in [
            "VERIFIED",
            "its digest is the one",
            "of this file, by the key named here",
            &held.member.api_key,
            "recorded at",
        ] {
            assert!(said(&output).contains(words), "{kind}: no {words}: {}", said(&output));
        }
        // The signature as the API gives it.
        let bytes = fs::read(&files[2]).unwrap();
        held.put("signature", STANDARD.encode(bytes) + "\n");
        let output = held.check(&files, &["--json"]);
        let told: Value = serde_json::from_str(&said(&output)).unwrap();
        assert_eq!((&told["verified"], &told["fits"]["signature"]), (&true.into(), &true.into()), "{told}");
        assert_eq!(told["fits"]["public_key"], told["detail"]["after"]["fingerprint"]);
    }
}

#[tokio::test]
async fn whatever_was_changed_is_named_and_nothing_passes_for_it() {
    let held = Held::new().await;
    let files = held.signed("p256", "ecdsa-sha256").await;
    let [receipt, file, signature, key] = &files;
    let good = [receipt, file, signature, key].map(|path| fs::read(path).unwrap());
    let restore = || {
        for (path, bytes) in files.iter().zip(&good) {
            fs::write(path, bytes).unwrap();
        }
    };
    held.put("text", b"firmware 1.1");
    differs(&held.check(&files, &[]), "authorises a signature of digest");
    restore();
    let mut bytes = good[2].clone();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(signature, bytes).unwrap();
    differs(&held.check(&files, &[]), "is no signature of");
    restore();
    // Another signature by another key is another's, whatever it signs; so is another key alone.
    held.member.create_key("other", "p256").await;
    let other = held.member.ask(get("/v1/keys/other")).await.expect(200).json();
    fs::write(key, other["versions"][0]["pem"].as_str().unwrap()).unwrap();
    differs(&held.check(&files, &[]), "the entry names the key with SHA-256");
    restore();
    // A receipt of another signature, and of something that is none.
    let answer = held.member.ask(sign_p256("p256", b"something else")).await.expect(200);
    fs::write(receipt, held.receipt(answer.entry().unwrap()).await).unwrap();
    differs(&held.check(&files, &[]), "authorises a signature of digest");
    fs::write(receipt, held.receipt(answer.entry().unwrap() - 2).await).unwrap();
    differs(&held.check(&files, &[]), "authorises no signature");
    // A receipt that somebody wrote another digest into.
    let mut forged: Value = serde_json::from_slice(&good[0]).unwrap();
    let payload = STANDARD.decode(forged["payload"].as_str().unwrap()).unwrap();
    let payload = String::from_utf8(payload).unwrap().replace("\"version\":1", "\"version\":2");
    forged["payload"] = STANDARD.encode(payload).into();
    fs::write(receipt, forged.to_string()).unwrap();
    differs(&held.check(&files, &[]), "the detail is not the one");
    restore();
    let output = held.check(&files, &["--json"]);
    assert!(output.status.success(), "{}", said(&output));
}

#[tokio::test]
async fn what_cannot_be_looked_at_is_no_verdict() {
    let held = Held::new().await;
    let files = held.signed("p256", "ecdsa-sha256").await;
    let [receipt, file, signature, key] = &files;
    let ends_with_2 = |command: &mut Command, words: &str| {
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{}", said(&output));
        assert!(complained(&output).contains(words), "{words}: {}", complained(&output));
    };
    ends_with_2(held.checker(receipt).arg("--file").arg("/nowhere"), "cannot be read");
    ends_with_2(
        held.checker(receipt).arg("--file").arg(file).arg("--signature").arg(signature),
        "--public-key",
    );
    ends_with_2(held.checker(receipt).arg("--public-key").arg(key), "--signature");
    fs::write(key, "no PEM").unwrap();
    let output = held.check(&files, &[]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    // The file alone is an answer too.
    let output = held.checker(receipt).arg("--file").arg(file).output().unwrap();
    assert!(output.status.success() && said(&output).contains("digest is the one"), "{}", said(&output));
}
