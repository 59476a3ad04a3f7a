//! Evidence: copies of a ledger, exports, and what the stand-alone verifier says of them.
//! Who enters: tests, after whatever they did to the appliance.
//! What leaves: verdicts. The verifier is another program; it shares no memory and no connection with the daemon.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::appliance::Appliance;
use crate::load::Signed;
use crate::programs::{complained, program, said};
use crate::wire::post;

/// What an auditor wrote down at enrolment: the verifier keys of the log.
pub async fn verifier_keys(house: &Appliance) -> Vec<String> {
    let answer = house.operator().ask(post("/v1/audit/seal", Value::Null)).await.expect(200).json();
    let keys = answer["verifier_keys"].as_array().cloned().unwrap_or_default();
    keys.iter().filter_map(|key| key.as_str().map(str::to_owned)).collect()
}

/// Copies database, log and index of the ledger, as a disk's thief or a backup would.
pub fn copy_ledger(house: &Appliance, to: &Path) -> PathBuf {
    std::fs::create_dir_all(to).expect("a directory for the copy");
    for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        let source = house.state().join(name);
        let target = to.join(name);
        if source.exists() {
            std::fs::copy(source, target).expect("copy the ledger");
        } else if target.exists() {
            std::fs::remove_file(target).expect("make room for the copy");
        }
    }
    to.join("ledger.db")
}

/// Puts a copy back in place of the ledger.
pub fn restore_ledger(house: &Appliance, from: &Path) {
    for name in ["ledger.db", "ledger.db-wal", "ledger.db-shm"] {
        let (source, target) = (from.join(name), house.state().join(name));
        if target.exists() {
            std::fs::remove_file(&target).expect("discard the present ledger");
        }
        if source.exists() {
            std::fs::copy(source, target).expect("put the copy in place");
        }
    }
}

/// The verifier's report about evidence, and whether it verified.
pub fn report(evidence: &Path, keys: &[String]) -> (bool, Value) {
    let mut command = Command::new(program("chancery-audit"));
    command.arg("--json").arg("verify").arg(evidence);
    for key in keys {
        command.arg("--key").arg(key);
    }
    let output = command.output().expect("chancery-audit");
    let report =
        serde_json::from_str(&said(&output)).unwrap_or_else(|_| json!({ "said": complained(&output) }));
    (output.status.success(), report)
}

/// Stops the daemon if it runs, and insists that what it leaves on disk verifies from genesis.
pub async fn verifies(house: &mut Appliance) {
    let keys = verifier_keys(house).await;
    house.terminate().await;
    verifies_at_rest(house, &keys);
}

/// Insists that the ledger of a stopped appliance verifies from genesis.
pub fn verifies_at_rest(house: &Appliance, keys: &[String]) {
    let copy = copy_ledger(house, &house.path("evidence"));
    let (verified, report) = report(&copy, keys);
    assert!(verified, "the ledger does not verify: {report:#}");
}

/// Insists that each signature that somebody was handed has exactly one entry that authorised it, and the right one.
pub async fn each_has_its_entry(house: &Appliance, key: &str, signed: &[Signed]) {
    let entries = house.operator().entries(&format!("action=key.sign&object={key}")).await;
    let mut by_request: HashMap<&str, Vec<&Value>> = HashMap::new();
    for entry in &entries {
        by_request.entry(entry["request_id"].as_str().unwrap_or_default()).or_default().push(entry);
    }
    for one in signed {
        let told = by_request.get(one.request.as_str()).map(Vec::as_slice).unwrap_or_default();
        assert_eq!(told.len(), 1, "entries of request {}: {told:?}", one.request);
        let after = &told[0]["detail"]["after"];
        assert_eq!(told[0]["seq"].as_u64(), Some(one.entry), "{}", told[0]);
        assert_eq!(after["digest"].as_str(), Some(one.digest.as_str()), "{}", told[0]);
        assert_eq!(after["use"].as_u64(), Some(one.use_number), "{}", told[0]);
    }
    let uses: Vec<u64> =
        entries.iter().filter_map(|entry| entry["detail"]["after"]["use"].as_u64()).collect();
    assert!(uses.windows(2).all(|pair| pair[1] == pair[0] + 1), "the use counter has gaps");
    assert_eq!(uses.first().copied().unwrap_or(1), 1, "the use counter starts at one");
}

/// What the ledger says was signed: the digest, or the SHA-256 of the message, as hex.
pub fn recorded_digest(message: &[u8]) -> String {
    hex::encode(Sha256::digest(message))
}
