//! An appliance from before root keys were recorded: made over into one, with its root, anchor and record as they were then.
//! Who enters: a state directory and a token as an old version left them, and a stranger at the token.
//! What leaves: an appliance that starts, knows its root from then on, and says so in its log.

use std::fs;
use std::time::{Duration, Instant};

use hsm::{AnchorStep, RootTag, Token, TokenConfig};
use promises::appliance::ORIGIN;
use promises::people::sign_p256;
use promises::{Appliance, Hardware, Plan};
use rusqlite::Connection;
use serde_json::Value;

use crate::plant;

const LEGACY_ROOT: &[u8; 16] = b"chancery-root-v\x01";

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn config(house: &Appliance) -> TokenConfig {
    let text = fs::read_to_string(house.config_file()).unwrap();
    let table: toml::Table = text.parse().unwrap();
    serde_json::from_value(serde_json::to_value(&table["token"]).unwrap()).unwrap()
}

fn facts(house: &Appliance) -> Value {
    let ledger = Connection::open(house.ledger()).unwrap();
    let read = |row: &rusqlite::Row<'_>| row.get::<_, Vec<u8>>(0);
    let kept = ledger.query_row("SELECT value FROM appliance WHERE name = 'facts'", [], read).unwrap();
    serde_json::from_slice(&kept).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    value.as_array().unwrap().iter().map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap()).collect()
}

/// Gives the appliance the root and the anchor that it would have got from an old version, and takes away the ones that it has.
async fn age(house: &Appliance) {
    let mut facts = facts(house);
    let named = serde_json::from_value(facts["root"].clone()).unwrap();
    let now = Token::start_with(config(house), Some(named)).await.unwrap();
    let reading = now.anchor_read(soon()).await.unwrap();
    assert_eq!(reading.steps, Some(1), "it was sealed more than once");
    let aad = format!("chancery.master.v1\n{ORIGIN}").into_bytes();
    let master = now.unwrap(&bytes(&facts["master"]), &aad, soon()).await.unwrap();

    let then = Token::start(config(house)).await.unwrap();
    assert_eq!(then.ensure_root(soon()).await.unwrap().id, LEGACY_ROOT);
    let wrapped = then.wrap(&master, &aad, soon()).await.unwrap();
    let head = reading.head.unwrap();
    let step = AnchorStep { k: 1, size: 0, root: [0; 32], digest: [0; 32], before: [0; 32], after: head };
    then.anchor_advance(step, soon()).await.unwrap();
    then.close().await;

    let tag: [u8; 6] = bytes(&facts["root"]["id"])[9..15].try_into().unwrap();
    now.unmake_root(RootTag(tag), soon()).await.unwrap();
    now.close().await;
    // `3 | id | length of the vector | vector | text` as it is now; `1 | number | vector | text` as it was then.
    assert_eq!((wrapped[0], wrapped[17]), (3, 12), "it is laid out otherwise");
    facts["master"] = Value::from([&[1, 1], &wrapped[18..]].concat());
    facts.as_object_mut().unwrap().remove("root");
    let ledger = Connection::open(house.ledger()).unwrap();
    let kept = serde_json::to_vec(&facts).unwrap();
    ledger.execute("UPDATE appliance SET value = ?1 WHERE name = 'facts'", [kept]).unwrap();
}

#[tokio::test]
async fn an_appliance_from_before_roots_were_recorded_starts_and_records_its_root() {
    let mut house = Plan::with(Hardware::Token).init();
    age(&house).await;
    assert_eq!(facts(&house)["root"], Value::Null);
    // Before the root is recorded, and while a higher number would have been taken for the newest.
    plant(&house, &[hex::encode(LEGACY_ROOT), hex::encode(b"chancery-root-v\xff")]);
    house.serve().await;
    house.ready().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    member.ask(sign_p256(&key, b"by an old appliance")).await.expect(200);
    let told = house.operator().entries("action=appliance.roots").await;
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["detail"]["after"]["root"], hex::encode(LEGACY_ROOT));
    assert_eq!(bytes(&facts(&house)["root"]["id"]), LEGACY_ROOT);
    for _ in 0..2 {
        house.terminate().await;
        house.serve().await;
        house.ready().await;
        member.ask(sign_p256(&key, b"and again")).await.expect(200);
    }
    assert_eq!(
        house.operator().entries("action=appliance.roots").await.len(),
        1,
        "it is recorded again and again"
    );
    assert!(!house.log().contains("frozen"), "{}", house.log());
}
