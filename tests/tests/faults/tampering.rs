//! A ledger that is not what it was: yesterday's copy, an edited row, a cut end, another log's file.
//! Who enters: somebody with the disk in hand, while the daemon is down.
//! What leaves: a daemon that serves reads, signs and changes nothing, and says what it expected and what it found.

use std::time::Duration;

use promises::people::sign_p256;
use promises::programs::{complained, said};
use promises::{Appliance, Hardware, Load, Member, Plan, Until, eventually, evidence, get, post};
use rusqlite::Connection;
use serde_json::{Value, json};

/// The examination of the whole log runs beside the first requests; these logs are short.
const FOUND_OUT_MAX: Duration = Duration::from_secs(10);

/// Reads are served, writes and signatures are not, and the operator is told why.
pub(crate) async fn frozen(house: &Appliance, member: &Member, key: &str) {
    let refuses =
        || async { (member.ask(sign_p256(key, b"no")).await.code() == "ledger_frozen").then_some(()) };
    eventually("signing is refused", FOUND_OUT_MAX, refuses).await;
    member.ask(get("/v1/keys")).await.expect(200);
    member.ask(get("/v1/audit/entries")).await.expect(200);
    house.operator().ask(get("/v1/audit/everything")).await.expect(200);
    member.ask(get("/health/live")).await.expect(204);
    member.ask(sign_p256(key, b"no")).await.refused(503, "ledger_frozen");
    let create = post("/v1/keys", json!({ "name": "new", "kind": "p256" }));
    member.ask(create).await.refused(503, "ledger_frozen");
    let operator = house.operator();
    operator.ask(post("/v1/workspaces", json!({ "name": "new" }))).await.refused(503, "ledger_frozen");
    let not_ready = || async { (!operator.is_ready().await).then_some(()) };
    eventually("a frozen one is not called ready", FOUND_OUT_MAX, not_ready).await;
    let status = house.cli(&["status"]);
    let words = said(&status);
    assert!(!status.status.success(), "{words}");
    assert!(words.contains("frozen:") && words.contains("expected") && words.contains("found"), "{words}");
}

/// An appliance with some history, stopped after a seal.
async fn with_history(hardware: Hardware) -> (Appliance, Member, String) {
    let mut house = Plan::with(hardware).start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    sign_some(&house, &member, &key).await;
    house.operator().ask(post("/v1/audit/seal", Value::Null)).await.expect(200);
    house.terminate().await;
    (house, member, key)
}

async fn sign_some(house: &Appliance, member: &Member, key: &str) {
    let load = Load { until: Until::Sent(20), ..Load::of(member, &house.door(), key) };
    assert_eq!(load.finish().await.signed.len(), 20);
}

/// Changes the file as its owner could: the triggers that forbid it are his to drop.
fn edit(house: &Appliance, statements: &str) {
    let database = Connection::open(house.ledger()).unwrap();
    let mut triggers = database.prepare("SELECT name FROM sqlite_schema WHERE type = 'trigger'").unwrap();
    let names: Vec<String> = triggers.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    drop(triggers);
    let sources: Vec<String> = {
        let mut query = database.prepare("SELECT sql FROM sqlite_schema WHERE type = 'trigger'").unwrap();
        query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    for name in names {
        database.execute_batch(&format!("DROP TRIGGER {name}")).unwrap();
    }
    database.execute_batch(statements).unwrap();
    // The thief leaves the house as he found it.
    for source in sources {
        database.execute_batch(&source).unwrap();
    }
}

async fn yesterdays_ledger_is_found_out(hardware: Hardware) {
    let (mut house, member, key) = with_history(hardware).await;
    evidence::copy_ledger(&house, &house.path("yesterday"));
    house.serve().await;
    sign_some(&house, &member, &key).await;
    house.operator().ask(post("/v1/audit/seal", Value::Null)).await.expect(200);
    house.terminate().await;
    evidence::restore_ledger(&house, &house.path("yesterday"));
    house.serve().await;
    frozen(&house, &member, &key).await;
}

#[tokio::test]
async fn yesterdays_ledger_is_found_out_by_the_token() {
    yesterdays_ledger_is_found_out(Hardware::Token).await;
}

#[tokio::test]
async fn yesterdays_ledger_is_found_out_by_the_tpm() {
    yesterdays_ledger_is_found_out(Hardware::TokenAndTpm).await;
}

#[tokio::test]
async fn yesterdays_ledger_is_found_out_by_a_tpm_that_holds_the_keys() {
    yesterdays_ledger_is_found_out(Hardware::Tpm).await;
}

#[tokio::test]
async fn an_edited_entry_is_found_out() {
    let (mut house, member, key) = with_history(Hardware::Token).await;
    edit(&house, "UPDATE entry SET actor = 'somebody else' WHERE action = 'key.create'");
    house.serve().await;
    frozen(&house, &member, &key).await;
    house.terminate().await;
    let (verified, _) = evidence::report(&evidence::copy_ledger(&house, &house.path("copy")), &[]);
    assert!(!verified, "the verifier did not see it");
}

#[tokio::test]
async fn a_missing_entry_is_found_out() {
    let (mut house, member, key) = with_history(Hardware::Token).await;
    edit(&house, "DELETE FROM entry WHERE seq = (SELECT MAX(seq) - 12 FROM entry)");
    house.serve().await;
    frozen(&house, &member, &key).await;
}

#[tokio::test]
async fn a_ledger_whose_end_was_cut_off_is_found_out() {
    let (mut house, member, key) = with_history(Hardware::Token).await;
    // Everything that tells of the last entries goes, as far as the thief knows how.
    edit(
        &house,
        "DELETE FROM anchor WHERE k = (SELECT MAX(k) FROM anchor); DELETE FROM entry WHERE seq >= (SELECT MAX(size) FROM anchor)",
    );
    house.serve().await;
    frozen(&house, &member, &key).await;
}

#[tokio::test]
async fn a_use_counter_set_back_raises_an_alarm_and_no_use_is_numbered_twice() {
    let (mut house, member, key) = with_history(Hardware::Token).await;
    edit(&house, "UPDATE keys SET uses = 7");
    house.serve().await;
    let alarms = house.operator().entries(&format!("action=key.counter_gap&object={key}")).await;
    assert_eq!(alarms.len(), 1, "{alarms:?}");
    assert_eq!(alarms[0]["detail"]["after"], json!({ "counted": 7, "told": 20 }));
    let signed = member.ask(sign_p256(&key, b"hidden?")).await.expect(200).json();
    assert_eq!(signed["use"], 21);
}

#[tokio::test]
async fn a_use_counter_ahead_of_the_ledger_raises_an_alarm() {
    let (mut house, _, key) = with_history(Hardware::Token).await;
    edit(&house, "UPDATE keys SET uses = 99");
    house.serve().await;
    let alarms = house.operator().entries(&format!("action=key.counter_gap&object={key}")).await;
    assert_eq!(alarms[0]["detail"]["after"], json!({ "counted": 99, "told": 20 }));
}

#[tokio::test]
async fn another_appliances_ledger_is_not_taken_for_ours() {
    let (mut house, _, _) = with_history(Hardware::Token).await;
    let (other, member, key) = with_history(Hardware::Token).await;
    evidence::copy_ledger(&other, &house.path("foreign"));
    evidence::restore_ledger(&house, &house.path("foreign"));
    match house.try_serve().await {
        // Its master key does not open with our token: nothing stands.
        Err(status) => assert_eq!(status.code(), Some(6), "{}", house.log()),
        Ok(()) => frozen(&house, &member, &key).await,
    }
}

#[tokio::test]
async fn a_file_that_is_no_ledger_is_refused_and_left_alone() {
    let (mut house, _, _) = with_history(Hardware::Token).await;
    for name in ["ledger.db-wal", "ledger.db-shm"] {
        let _ = std::fs::remove_file(house.state().join(name));
    }
    std::fs::write(house.ledger(), b"not a ledger at all").unwrap();
    assert!(house.try_serve().await.is_err(), "it serves over a broken file");
    assert_eq!(std::fs::read(house.ledger()).unwrap(), b"not a ledger at all");
}

/// The appliance has just looked at everything; the change comes after that, and what is exported is evidence.
#[tokio::test]
async fn an_export_of_a_ledger_that_was_changed_meanwhile_freezes_it_and_says_so() {
    let (mut house, member, key) = with_history(Hardware::Token).await;
    house.serve().await;
    let operator = house.operator();
    let examined = || async {
        let figures = operator.ask(get("/metrics")).await.expect(200).text();
        let figure = figures.lines().find(|line| line.contains("part=\"ledger\",figure=\"examinations\""));
        figure.is_some_and(|line| !line.ends_with(" 0.0")).then_some(())
    };
    eventually("everything was looked at", FOUND_OUT_MAX, examined).await;
    member.ask(sign_p256(&key, b"yes")).await.expect(200);
    edit(&house, "UPDATE entry SET actor = 'somebody else' WHERE action = 'key.create'");
    operator.ask(post("/v1/audit/export", Value::Null)).await.refused(503, "ledger_frozen");
    frozen(&house, &member, &key).await;
    let exported = std::fs::read_dir(house.state().join("exports")).into_iter().flatten().count();
    assert_eq!(exported, 0, "something was kept of what does not verify");
    let again = house.cli(&["audit", "export"]);
    let words = complained(&again);
    assert!(!again.status.success() && words.contains("the ledger does not agree"), "{words}");
    operator.ask(post("/v1/audit/seal", Value::Null)).await.refused(503, "ledger_frozen");
}
