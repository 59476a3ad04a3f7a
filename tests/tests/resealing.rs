//! The master key sealed anew around a planned change of what the TPM measures, as docs/recipes/tpm.md has it.

use promises::people::sign_p256;
use promises::programs::{complained, said, succeeds};
use promises::{Appliance, GIVEN_UP, eventually, evidence, post};
use rusqlite::Connection;
use serde_json::{Value, json};
use toml::Value as Toml;

/// Names the registers in the configuration, and starts anew with it.
async fn configure(house: &mut Appliance, pcrs: &[i64]) {
    house.set("tpm.pcrs", pcrs.iter().copied().map(Toml::from).collect::<Vec<_>>());
    house.terminate().await;
    house.serve().await;
    house.ready().await;
}

fn reseal(house: &Appliance) -> String {
    succeeds(&mut house.command(&["token", "reseal"]))
}

/// An update of the firmware, as far as the TPM sees it.
async fn update(house: &mut Appliance) {
    house.terminate().await;
    house.tpm.as_ref().unwrap().extend_pcr(7, [0x5e; 32]).unwrap();
}

/// How the wrapped master key stands in the file: a part of it that is found nowhere else.
fn wrapped(house: &Appliance) -> String {
    let ledger = Connection::open(house.ledger()).unwrap();
    let facts: Vec<u8> =
        ledger.query_row("SELECT value FROM appliance WHERE name = 'facts'", [], |row| row.get(0)).unwrap();
    let facts: Value = serde_json::from_slice(&facts).unwrap();
    let master = facts["master"].as_array().unwrap();
    let end: Vec<String> = master[master.len() - 48..].iter().map(Value::to_string).collect();
    end.join(",")
}

fn files_hold(house: &Appliance, text: &str) -> bool {
    let files = ["ledger.db", "ledger.db-wal"]
        .map(|name| std::fs::read(house.state().join(name)).unwrap_or_default());
    files.iter().any(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
}

#[tokio::test]
async fn a_planned_change_of_a_register_is_gone_through_by_sealing_anew_before_and_after() {
    let mut house = Appliance::with_tpm().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    configure(&mut house, &[]).await;
    assert!(reseal(&house).contains("chip alone"));
    let open_to_all = wrapped(&house);
    update(&mut house).await;
    house.serve().await;
    house.ready().await;
    member.ask(sign_p256(&key, b"in the new state")).await.expect(200);
    configure(&mut house, &[7]).await;
    assert!(files_hold(&house, &open_to_all), "the search finds nothing at all");
    assert!(reseal(&house).contains("present values of PCR 7"));
    // What opens in any state must not stay on the disk beside what does not.
    let gone = || async { (!files_hold(&house, &open_to_all)).then_some(()) };
    eventually("what was sealed to no register is gone from the files", GIVEN_UP, gone).await;
    house.terminate().await;
    house.serve().await;
    house.ready().await;
    member.ask(sign_p256(&key, b"sealed again")).await.expect(200);
    let told = house.operator().entries("action=appliance.reseal").await;
    let pcrs: Vec<&Value> = told.iter().map(|entry| &entry["detail"]["after"]["pcrs"]).collect();
    assert_eq!(pcrs, [&json!([]), &json!([7])], "{told:#?}");
    assert!(
        told.iter().all(|entry| entry["actor"] == "operator:0" && entry["outcome"] == "done"),
        "{told:#?}"
    );
    evidence::verifies(&mut house).await;
    // And it is sealed indeed.
    house.serve().await;
    update(&mut house).await;
    let output = house.cli(&["serve"]);
    let words = said(&output) + &complained(&output);
    assert_eq!(output.status.code(), Some(6), "{words}");
    assert!(words.contains("measured state differs"), "{words}");
}

#[tokio::test]
async fn where_nothing_is_sealed_to_the_machine_nothing_is_sealed_anew() {
    let house = Appliance::start().await;
    house.operator().ask(post("/v1/token/reseal", Value::Null)).await.refused(501, "token_cannot");
    let output = house.cli(&["token", "reseal"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(complained(&output).contains("no TPM is configured"), "{}", complained(&output));
}
