//! What `chancery init` prints of a new appliance, for those who recognise it by that later.
//! Who enters: an appliance over a TPM, and the vendor-neutral tools at the same TPM.
//! What leaves: the fingerprint that anybody can read out of the chip, the keys that verify the log; and no other TPM's statement.

use std::fs;

use promises::programs::{said, succeeds, tool};
use promises::{GIVEN_UP, Hardware, Plan, eventually};
use rusqlite::Connection;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::init;

/// SHA-256 of the attestation key, as `tpm2_readpublic` reads it.
fn read_out_of_band(house: &promises::Appliance) -> String {
    let file = house.path("ak.der");
    let mut command = tool("tpm2_readpublic", "tpm2-tools");
    command.env("TPM2TOOLS_TCTI", house.tpm.as_ref().unwrap().tcti());
    succeeds(command.args(["-Q", "-c", "0x81010c00", "-f", "der", "-o"]).arg(&file));
    hex::encode(Sha256::digest(fs::read(file).unwrap()))
}

#[tokio::test]
async fn init_and_audit_keys_print_the_attestation_key_as_it_is_read_out_of_band() {
    for hardware in [Hardware::Tpm, Hardware::TokenAndTpm] {
        let mut house = Plan::with(hardware).prepare();
        let made = init(&house);
        assert!(made.status.success());
        let (printed, fingerprint) = (said(&made), read_out_of_band(&house));
        assert!(printed.contains(&fingerprint), "{hardware:?}: {fingerprint} is not in\n{printed}");
        house.serve().await;
        house.ready().await;
        let keys: Value = serde_json::from_slice(&house.cli(&["--json", "audit", "keys"]).stdout).unwrap();
        assert_eq!(keys["attestation_key"], fingerprint.as_str(), "{hardware:?}");
        let verifier_keys = keys["verifier_keys"].as_array().unwrap();
        assert_eq!(verifier_keys.len(), if hardware == Hardware::Tpm { 1 } else { 2 });
        for key in verifier_keys {
            assert!(printed.contains(key.as_str().unwrap()), "{hardware:?}: {key} is not in\n{printed}");
        }
    }
}

#[tokio::test]
async fn an_anchor_that_another_attestation_key_vouches_for_serves_nobody() {
    let mut house = Plan::with(Hardware::Tpm).init();
    let ledger = Connection::open(house.ledger()).unwrap();
    let read = |row: &rusqlite::Row<'_>| row.get::<_, Vec<u8>>(0);
    let kept = ledger.query_row("SELECT value FROM appliance WHERE name = 'facts'", [], read).unwrap();
    let mut facts: Value = serde_json::from_slice(&kept).unwrap();
    let recorded = facts["attestation_key"].as_array_mut().unwrap();
    let last = recorded.len() - 1;
    recorded[last] = Value::from(recorded[last].as_u64().unwrap() ^ 1);
    let forged = serde_json::to_vec(&facts).unwrap();
    ledger.execute("UPDATE appliance SET value = ?1 WHERE name = 'facts'", [forged]).unwrap();
    drop(ledger);
    // The first thing that a start does with the anchor is to have it attested.
    house.begin_to_serve();
    let refused = || async { house.log().contains("another attestation key").then_some(()) };
    eventually("the statement is refused", GIVEN_UP, refused).await;
    assert!(!house.operator().is_ready().await, "it serves all the same");
}
