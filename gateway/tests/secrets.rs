//! The keys of everything at rest: nowhere but in memory.
//! Who enters: a house that has worked, with every line that it can log; its master key, data key and server's key, got by the test
//! itself; what its token keeps.
//! What leaves: the place in which one of them stands, in whatever spelling.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::house::{Standing, config_in, house};
use gateway::appliance::{Facts, master, store};
use gateway::face::{FaceUnmade, read_or_issue};
use hsm::custody::{Binding, MASTER_KEY_BYTES, MasterKey};
use serde_json::json;

/// Everything that is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn files(directory: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => files(&entry.path(), found),
            kind if kind.is_file() => {
                found.push((entry.path().display().to_string(), std::fs::read(entry.path()).unwrap()))
            }
            _ => {}
        }
    }
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|part| part == needle)
}

/// As it might be written: raw, in hexadecimal, in base64 at each of its three alignments, as a list of numbers.
fn spellings(secret: &[u8]) -> Vec<Vec<u8>> {
    let hex = hex::encode(secret);
    let mut all = vec![secret.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()];
    for skipped in 0..3 {
        let whole = &secret[skipped..skipped + (secret.len() - skipped) / 3 * 3];
        all.extend([STANDARD.encode(whole).into_bytes(), URL_SAFE_NO_PAD.encode(whole).into_bytes()]);
    }
    for between in [", ", ","] {
        all.push(secret.iter().map(u8::to_string).collect::<Vec<_>>().join(between).into_bytes());
    }
    all
}

async fn master_key(standing: &Standing) -> Vec<u8> {
    let facts = standing
        .house
        .ground
        .read::<_, FaceUnmade>(|view| Ok(store::get(view, store::FACTS)?))
        .await
        .unwrap();
    let facts: Facts = serde_json::from_slice(&facts.unwrap()).unwrap();
    let origin = standing.house.ground.ledger.origin();
    let key = master::unwrap(&standing.house.tokens, origin, &facts.master).await.unwrap();
    key.lend(|bytes| bytes.to_vec())
}

/// The key of the server's certificate, and the number that it is.
async fn server_key(standing: &Standing) -> [Vec<u8>; 2] {
    let line = standing.house.authorities.present();
    let config = config_in(standing.directory.path());
    let dressing = read_or_issue(&config, &standing.house, &line).await.unwrap();
    let der = dressing.parts.key.secret_der().to_vec();
    // In PKCS#8 of P-256 it is the one octet string of 32 bytes.
    let at = der.windows(2).position(|head| head == [4, 32]).expect("a P-256 key");
    let number = der[at + 2..at + 34].to_vec();
    [der, number]
}

/// The bytes of a workspace's data key, which nothing gives out: wrapped under a key that is known here, and opened.
async fn data_key(standing: &Standing, workspace: &str) -> Vec<u8> {
    let key = standing.house.workspaces.data_key(&workspace.parse().unwrap()).await.unwrap();
    let known = [7; MASTER_KEY_BYTES];
    let place = Binding { workspace: "", table: "", row: "", purpose: "", key_version: 0 };
    let master = MasterKey::from_unwrapped(known.to_vec().into()).unwrap();
    let wrapped = master.wrap_data_key(&key, &place).unwrap();
    // Its format, its nonce, its text and tag; bound to four empty names, each with its length, and to a version.
    let (nonce, mut text) = (wrapped[1..=NONCE_LEN].try_into().unwrap(), wrapped[1 + NONCE_LEN..].to_vec());
    let bound = [b"chancery.custody.binding.v1".as_slice(), &[0; 4 * 8 + 4]].concat();
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &known).unwrap());
    let nonce = Nonce::assume_unique_for_key(nonce);
    cipher.open_in_place(nonce, Aad::from(bound), &mut text).expect("the format of a wrapped key").to_vec()
}

#[tokio::test]
async fn the_keys_of_everything_at_rest_stand_in_no_file_log_or_answer() {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .init();
    let standing = house().await;
    let mut secrets = vec![("the master key", master_key(&standing).await)];
    let [der, number] = server_key(&standing).await;
    secrets.extend([("the server's key", der), ("the number of the server's key", number)]);
    let program = standing.program("acme", &["sign", "keys:manage", "keys:read", "audit:read"]).await;
    let body = json!({ "name": "release", "kind": "p256" });
    assert_eq!(program.asker.post("/v1/keys", body).await.status, 201);
    let body = json!({ "scheme": "ecdsa-sha256", "message": "aGVsbG8=" });
    assert_eq!(program.asker.post("/v1/keys/release/sign", body).await.status, 200);
    let data_key = data_key(&standing, &program.workspace).await;
    assert_eq!(data_key.len(), MASTER_KEY_BYTES);
    secrets.push(("the workspace's data key", data_key));
    let kept = standing.double.raw_keys();
    for kind in ["a root key", "a workspace's key", "a private key"] {
        assert!(kept.iter().any(|(name, _)| *name == kind), "the token holds no such thing: {kind}");
    }
    secrets.extend(kept);
    let operator = standing.operator();
    let mut places = Vec::new();
    let exported = operator.ask("POST", "/v1/audit/export", None).await;
    assert_eq!(exported.status, 201, "{exported:?}");
    for path in ["/v1/status", "/v1/token", "/v1/audit/everything?limit=1000", "/v1/ca", "/metrics"] {
        places.push((path.to_owned(), operator.get(path).await.body.to_vec()));
    }
    files(standing.directory.path(), &mut places);
    places.push(("the log".to_owned(), log.0.lock().unwrap().clone()));
    // This test looks at something: what is no secret is found, in files as in the log.
    for known in [b"test.example/log".as_slice(), program.workspace.as_bytes()] {
        assert!(places.iter().filter(|(_, content)| holds(content, known)).count() > 0);
    }
    assert!(holds(&places.last().unwrap().1, b"request_id"), "the log is silent");
    for (name, secret) in secrets {
        for spelling in spellings(&secret) {
            for (place, content) in &places {
                assert!(!holds(content, &spelling), "{name} stands in {place}");
            }
        }
    }
}
