//! What is destroyed, shredded or wiped is gone from the bytes of the ledger's files, on the way that it takes in use.
//! Who enters: a key, a workspace, a secret shown once, each to its end; and a hand on the files beneath.
//! What leaves: files without one piece of what was erased, while the daemon runs.

use std::collections::HashSet;
use std::time::Duration;

use promises::{Appliance, Hardware, eventually, post};
use rusqlite::{Connection, OpenFlags};
use serde_json::json;

use crate::stage::Stage;
use crate::story::{Rest, Story, newest, text};

/// The log of pages is emptied ten seconds after the last time, or at the first commit after that; secrets are looked through each half
/// minute.
const ERASED_WAIT_MAX: Duration = Duration::from_secs(120);
/// No two secrets have so many bytes in common.
const PIECE: usize = 16;

fn ledger(house: &Appliance) -> Connection {
    Connection::open_with_flags(house.ledger(), OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the ledger opens")
}

/// The bytes that a question finds, one value a row.
fn values(house: &Appliance, question: &str, about: &str) -> Vec<Vec<u8>> {
    let ledger = ledger(house);
    let mut asked = ledger.prepare(question).expect("a question");
    let found = asked.query_map([about], |row| row.get::<_, Option<Vec<u8>>>(0)).expect("rows");
    found.filter_map(|value| value.expect("a value")).filter(|value| value.len() >= 2 * PIECE).collect()
}

/// How many pieces of these values stand in the ledger's files.
fn pieces_left(house: &Appliance, erased: &[Vec<u8>]) -> usize {
    // The first one may be the name of a field, which others have as well.
    let pieces: HashSet<&[u8]> = erased.iter().flat_map(|value| value.chunks_exact(PIECE).skip(1)).collect();
    let mut wal = house.ledger().into_os_string();
    wal.push("-wal");
    let files = [std::fs::read(house.ledger()).expect("the ledger"), std::fs::read(wal).unwrap_or_default()];
    let found: HashSet<&[u8]> =
        files.iter().flat_map(|file| file.windows(PIECE)).filter(|window| pieces.contains(window)).collect();
    found.len()
}

async fn are_gone(house: &Appliance, erased: &[Vec<u8>], what: &str) {
    let look = || async { (pieces_left(house, erased) == 0).then_some(()) };
    eventually(&format!("{what}: gone from the files"), ERASED_WAIT_MAX, look).await;
}

fn there(house: &Appliance, what: &str, erased: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    assert!(!erased.is_empty(), "{what}: there is nothing to erase, so this proves nothing");
    assert!(pieces_left(house, &erased) > 0, "{what}: it is not in the files, so this proves nothing");
    erased
}

#[tokio::test]
async fn a_key_destroyed_over_a_tpm_leaves_no_piece_of_its_blob_nor_of_its_workflow() {
    let mut stage = Stage::make("key.destroy over a TPM, erased", Hardware::Tpm).await;
    let form = json!({ "name": "release", "kind": "p256" });
    let key = stage.owner.ask(post("/v1/keys", form)).await.expect(201).json();
    let key = text(&key, "id").to_owned();
    let blobs = values(&stage.house, "SELECT sealed_blob FROM key_versions WHERE key = ?1", &key);
    let blobs = there(&stage.house, "what the TPM loads the key from", blobs);

    let story = Story::of("key.destroy", json!({ "key": key, "days": 1, "reason": "old" }));
    story.begin(&mut stage).await;
    let run = newest(&stage, "key.destroy").await.expect("an answer").expect("a run");
    // While it waits, what its steps have found out stands in its log.
    let states = "SELECT out_sealed FROM saga_log WHERE workspace = ?1 AND out_sealed IS NOT NULL";
    let states = there(&stage.house, "its states", values(&stage.house, states, &stage.owner.workspace));
    let Rest::Over(over) = story.follow(&mut stage, None).await else { panic!("it does not run") };
    assert_eq!((text(&over, "id"), text(&over, "state")), (text(&run, "id"), "succeeded"));
    are_gone(&stage.house, &blobs, "the blob").await;
    are_gone(&stage.house, &states, "the workflow's states").await;
}

#[tokio::test]
async fn a_workspace_closed_for_good_leaves_no_piece_of_its_keys() {
    for hardware in [Hardware::Tpm, Hardware::Token] {
        let mut stage = Stage::make("workspace.close, erased", hardware).await;
        let workspace = stage.owner.workspace.clone();
        let keys = ["data_key", "kek"].map(|column| {
            values(&stage.house, &format!("SELECT {column} FROM workspaces WHERE id = ?1"), &workspace)
        });
        let keys = there(&stage.house, "its keys", keys.concat());
        assert_eq!(keys.len(), 2, "the data key, and the one over it");
        let form = json!({ "reason": "over", "grace_days": 1, "approvals": 1 });
        let path = format!("/v1/workspaces/{workspace}/shred");
        Story::of_operator("workspace.close", post(path, form)).told(&mut stage).await;
        are_gone(&stage.house, &keys, &format!("keys over {hardware:?}")).await;
    }
}

#[tokio::test]
async fn a_secret_that_is_shown_once_leaves_no_piece_when_its_time_is_over() {
    let mut stage = Stage::make("apikey.create, erased", Hardware::Token).await;
    let workspace = stage.owner.workspace.clone();
    let form = json!({ "name": "second", "scopes": ["sign"] });
    let ask = post("/v1/api-keys", form).header("idempotency-key", "asked-for-once");
    stage.operator().ask(ask).await.expect(201);
    let kept = "SELECT secret_sealed FROM idempotency WHERE ?1 <> '' AND secret_sealed IS NOT NULL";
    let secrets = there(&stage.house, "the secret", values(&stage.house, kept, &workspace));
    // Ten minutes it may be asked for again.
    stage.let_pass(3_600);
    are_gone(&stage.house, &secrets, "the secret").await;
    let left = values(&stage.house, kept, &workspace);
    assert!(left.is_empty(), "{} secrets are still kept", left.len());
}
