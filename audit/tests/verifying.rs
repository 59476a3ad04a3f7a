//! Promises about the verifier: every row of the detection matrix that can be seen offline, and honest reports.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use audit::export::{Folder, Wanted, export, pack};
use audit::leaf::{Leaf, genesis_chain, leaf_hash, next_chain, payload_commit};
use audit::verify::{Report, Source, Terms, verify};
use audit::{Checkpoint, Note, NoteKey, Sealer, Tier, UNWRITTEN, extend, step_digest};
use common::sealed::{ORIGIN, Sealed};

fn report(path: &Path, terms: &Terms) -> Report {
    verify(&Source::open(path).unwrap(), terms, |_| {}).unwrap()
}

/// All that an auditor can have written down at enrolment: both keys of the log, and the TPM's attestation key.
fn all_pins(sealed: &Sealed) -> Terms {
    Terms { ak: Some(sealed.anchor.attestation_key()), ..pinned(sealed) }
}

fn pinned(sealed: &Sealed) -> Terms {
    Terms { keys: sealed.sealer.keys().to_vec(), ..Terms::default() }
}

/// What the verifier says after a thief's edit of a ledger file with two checkpoints and a tail.
async fn finding(sql: &str) -> String {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    sealed.edit(sql);
    report(&sealed.house.path(), &pinned(&sealed)).finding.expect("the edit was not found")
}

async fn exported(sealed: &Sealed) -> PathBuf {
    let (ledger, sealing) = sealed.start().await;
    for n in 0..600 {
        sealed.house.add(&ledger, "b", &format!("bulk-{n}")).await;
    }
    sealing.seal().await.unwrap();
    let to = sealed.house.directory.path().join("export");
    let folder = Folder::create(&to).unwrap();
    let (exported, _) = export(&ledger, sealed.keys(), Wanted::default(), folder).await.unwrap();
    assert_eq!((exported.checkpoints, exported.left_behind), (3, 1));
    drop(sealing);
    ledger.close().await;
    to
}

#[tokio::test]
async fn an_honest_ledger_verifies_and_the_report_names_what_it_does_not_show() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let report = report(&sealed.house.path(), &pinned(&sealed));
    let expected = format!(
        "VERIFIED  ledger file `test.example/audit/0001`
  entries      15 (12 under a checkpoint, 3 beyond)
  checkpoints  2 (2 attested by a TPM), newest held by: tpm-nv
  trust        pinned keys
               signed by test.example/audit/0001
               signed by test.example/audit/0001/tpm
  root         {}
not proven:
  - that the attestation key is the appliance's TPM: compare it, or give --ak
  - the last 3 entries (from 12): no checkpoint covers them yet, they may still be cut off unseen
  - that nothing was cut off since you last looked: give the checkpoint you kept (--checkpoint)
  - that the daemon acts upon what these entries say: its tables of keys, clients, API keys, policies and approvals are under no checkpoint, and who can write the file can change them unseen
  - that what the entries say is true, or that nobody else was shown another log (witnesses)
",
        report.root
    );
    assert_eq!(report.to_string(), expected);
}

#[tokio::test]
async fn without_a_key_nothing_is_said_about_who_sealed_it() {
    let sealed = Sealed::with_history(Tier::TokenObject).await;
    let report = report(&sealed.house.path(), &Terms::default());
    assert_eq!((report.verified, report.trust.as_str()), (true, "chain only"));
    assert_eq!(
        report.not_proven[..2],
        [
            "who sealed it: no signature was checked, because no key was given (--key)",
            "anything against someone who held the token's PIN: the anchor is an object in the token",
        ]
    );
}

#[tokio::test]
async fn every_column_of_an_entry_is_bound_and_an_edit_of_each_is_found() {
    for (column, value, expected) in [
        ("time_us", "5", "entry 3: column `time_us` says `5`, the signed leaf says `1700000000000000`"),
        ("workspace", "'b'", "entry 3: column `workspace` says `b`, the signed leaf says `a`"),
        (
            "actor",
            "'user:mallory'",
            "entry 3: column `actor` says `user:mallory`, the signed leaf says `user:alice`",
        ),
        ("action", "'x'", "entry 3: column `action` says `x`, the signed leaf says `note.add`"),
        ("object", "'x'", "entry 3: column `object` says `x`, the signed leaf says `0-2`"),
        ("outcome", "'denied'", "entry 3: column `outcome` says `denied`, the signed leaf says `done`"),
        ("request_id", "'x'", "entry 3: column `request_id` says `x`, the signed leaf says `req-0-2`"),
        ("leaf", "x'00'", "entry 3: not a leaf: it does not start with the leaf tag"),
        ("salt", "zeroblob(32)", "entry 3: its payload is not the one that the signed leaf commits to"),
        ("payload", "x'5b5d'", "entry 3: its payload is not the one that the signed leaf commits to"),
        ("chain", "zeroblob(32)", "the chain value of entry 3 is 00000000"),
    ] {
        let found = finding(&format!("UPDATE entry SET {column} = {value} WHERE seq = 3")).await;
        assert!(found.starts_with(expected), "{column}: {found}");
    }
}

#[tokio::test]
async fn a_deleted_middle_row_is_found() {
    assert_eq!(
        finding("DELETE FROM entry WHERE seq = 5").await,
        "entry 5 is missing: the next row is entry 6"
    );
}

#[tokio::test]
async fn forged_rows_before_after_and_of_another_type_are_found() {
    let copy = |seq: &str| {
        format!(
            "INSERT INTO entry SELECT {seq}, time_us, workspace, actor, action, object, outcome, request_id, leaf, \
             salt, payload, chain FROM entry WHERE seq = 3"
        )
    };
    let before = finding(&copy("-1")).await;
    assert_eq!(before, format!("entry 0 is missing: the next row is entry {}", u64::MAX));
    let after = finding(&copy("15")).await;
    assert_eq!(after, "entry 15 is missing: the next row is entry 3");
    let typed = finding("UPDATE entry SET payload = 7 WHERE seq = 3").await;
    assert!(typed.starts_with("entry 3: its row is malformed"), "{typed}");
}

#[tokio::test]
async fn reordered_rows_are_found() {
    let swap = "UPDATE entry SET seq = 1000 WHERE seq = 4; UPDATE entry SET seq = 4 WHERE seq = 5;
        UPDATE entry SET seq = 5 WHERE seq = 1000";
    assert_eq!(finding(swap).await, "entry 4 is missing: the next row is entry 5");
}

#[tokio::test]
async fn a_cut_below_the_last_checkpoint_is_found() {
    assert_eq!(
        finding("DELETE FROM entry WHERE seq >= 9").await,
        "the log ends after 9 entries, but checkpoint 2 covers 12: entries were cut off"
    );
}

#[tokio::test]
async fn removed_seals_are_found_one_or_two_at_the_end_or_in_the_middle() {
    assert_eq!(
        finding("DELETE FROM anchor WHERE k = 2").await,
        "the entries tell of checkpoint 2, but the newest one kept is checkpoint 1: seals were removed"
    );
    assert_eq!(
        finding("DELETE FROM anchor").await,
        "the entries tell of checkpoint 2, but the newest one kept is checkpoint 0: seals were removed"
    );
    assert_eq!(
        finding("DELETE FROM anchor WHERE k = 1").await,
        "checkpoint 1 is missing: the next one is checkpoint 2"
    );
}

#[tokio::test]
async fn edited_anchors_nodes_and_ends_are_found() {
    let cases = [
        (
            "UPDATE anchor SET after = zeroblob(32) WHERE k = 1",
            "checkpoint 1: the anchor's value after the step is 0000",
        ),
        (
            "UPDATE anchor SET identity = x'01' WHERE k = 2",
            "checkpoint 2: the anchor's identity is 01, expected 000b",
        ),
        (
            "UPDATE anchor SET statement = NULL WHERE k = 2",
            "checkpoint 2: the TPM's statement about it is missing",
        ),
        (
            "UPDATE anchor SET statement = zeroblob(99) WHERE k = 2",
            "checkpoint 2: the attestation key did not sign this statement",
        ),
        (
            "UPDATE anchor SET size = 11 WHERE k = 2",
            "checkpoint 2: its note is about 12 entries of `test.example/audit/0001`, expected 11",
        ),
        (
            "UPDATE anchor SET note = (SELECT note FROM anchor WHERE k = 1) WHERE k = 2",
            "checkpoint 2: its note is about 6",
        ),
        (
            "UPDATE tree_state SET size = 7, peaks = zeroblob(96)",
            "the stored end of the log is 7 entries with root",
        ),
    ];
    for (sql, expected) in cases {
        let found = finding(sql).await;
        assert!(found.starts_with(expected), "{sql}: {found}");
    }
}

#[tokio::test]
async fn a_node_of_the_stored_tree_is_checked_too() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    exported(&sealed).await;
    sealed.edit("UPDATE tree_node SET hash = zeroblob(32) WHERE height = 8 AND place = 1");
    let found = report(&sealed.house.path(), &pinned(&sealed)).finding.unwrap();
    assert!(found.starts_with("the tree node at height 8, place 1 is 00000000"), "{found}");
}

#[tokio::test]
async fn a_log_signed_by_another_key_is_found() {
    let (sealed, other) = (Sealed::with_history(Tier::TpmNv).await, Sealed::new(Tier::TpmNv));
    let found = report(&sealed.house.path(), &pinned(&other)).finding.unwrap();
    assert_eq!(found, "checkpoint 1: no known key has signed it");
}

#[tokio::test]
async fn a_log_under_another_name_is_not_covered_by_this_logs_keys() {
    let sealed = Sealed::new(Tier::TpmNv);
    let ledger = sealed.house.try_open(|options| options.origin = "test.example/audit/0002".into()).unwrap();
    let sealing = audit::Sealing::new(ledger.clone(), sealed.sealer.clone(), None);
    sealed.house.add(&ledger, "a", "one").await;
    sealing.seal().await.unwrap();
    drop(sealing);
    ledger.close().await;
    let found = report(&sealed.house.path(), &pinned(&sealed)).finding.unwrap();
    assert_eq!(
        found,
        "checkpoint 1: it is signed by `test.example/audit/0001`, which is no key of `test.example/audit/0002`"
    );
}

#[test]
fn the_tool_links_no_token_library() {
    let linked = Command::new("ldd").arg(env!("CARGO_BIN_EXE_chancery-audit")).output();
    let linked = linked.expect("ldd is needed for this test: apt-get install libc-bin");
    let linked = String::from_utf8(linked.stdout).unwrap();
    assert!(linked.contains("libc.so"), "{linked}");
    for library in ["pkcs11", "softhsm", "tss2", "p11"] {
        assert!(!linked.contains(library), "{linked}");
    }
}

#[tokio::test]
async fn a_stolen_log_key_without_the_hardware_line_is_found() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let note: String = {
        let conn = rusqlite::Connection::open(sealed.house.path()).unwrap();
        conn.query_row("SELECT note FROM anchor WHERE k = 2", [], |row| row.get(0)).unwrap()
    };
    let without: String = note.split_inclusive('\n').filter(|line| !line.contains("/tpm ")).collect();
    sealed.edit(&format!("UPDATE anchor SET note = '{without}' WHERE k = 2"));
    let found = report(&sealed.house.path(), &pinned(&sealed)).finding.unwrap();
    assert_eq!(found, "checkpoint 2: the hardware line `test.example/audit/0001/tpm` is missing");
}

#[tokio::test]
async fn an_older_checkpoint_in_the_auditors_hand_convicts_a_cut_and_a_fork() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let newest = {
        let conn = rusqlite::Connection::open(sealed.house.path()).unwrap();
        let note: String =
            conn.query_row("SELECT note FROM anchor WHERE k = 2", [], |row| row.get(0)).unwrap();
        Checkpoint::parse(Note::parse(note.as_bytes()).unwrap().text()).unwrap()
    };
    let holding = |known: Checkpoint| Terms { known: Some(known), ..pinned(&sealed) };
    assert!(report(&sealed.house.path(), &holding(newest.clone())).verified);
    let forked = report(&sealed.house.path(), &holding(Checkpoint { root: [7; 32], ..newest.clone() }));
    assert!(forked.finding.unwrap().ends_with("two histories"));
    let newest_copy = newest.clone();
    let longer = report(&sealed.house.path(), &holding(Checkpoint { size: 99, ..newest }));
    let foreign =
        report(&sealed.house.path(), &holding(Checkpoint { origin: "other.example".into(), ..newest_copy }));
    assert_eq!(
        foreign.finding.unwrap(),
        "the checkpoint you hold is of the log `other.example`, this is `test.example/audit/0001`"
    );
    assert_eq!(
        longer.finding.unwrap(),
        "the log has 15 entries, but the checkpoint you hold covers 99: entries were cut off, or this is an older copy"
    );
}

#[tokio::test]
async fn an_export_verifies_as_a_directory_and_as_an_archive() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let directory = exported(&sealed).await;
    let archive = directory.with_extension("tar");
    pack(&directory, &archive).unwrap();
    for path in [&directory, &archive] {
        let with_keys = report(path, &pinned(&sealed));
        assert_eq!(
            (with_keys.verified, with_keys.entries, with_keys.tail),
            (true, 616, 0),
            "{:?}",
            with_keys.finding
        );
        assert_eq!(report(path, &Terms::default()).trust, "bundled keys");
    }
    let listed = Command::new("tar").arg("-tf").arg(&archive).output().unwrap();
    assert!(String::from_utf8(listed.stdout).unwrap().contains("tile/entries/002.p/104"));
}

#[tokio::test]
async fn a_changed_file_of_an_export_is_found() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let export = exported(&sealed).await;
    for (file, expected) in [
        ("payload/001", "entry 256: its payload is not the one"),
        ("tile/entries/000", "entry 0: "),
        ("checkpoints/00000002.note", "checkpoint 2: "),
        ("anchors/00000001.sig", "checkpoint 1: the attestation key did not sign this statement"),
    ] {
        let path = export.join(file);
        let honest = std::fs::read(&path).unwrap();
        let mut bent = honest.clone();
        bent[6] ^= 1;
        std::fs::write(&path, &bent).unwrap();
        let found = report(&export, &pinned(&sealed)).finding.unwrap();
        assert!(found.starts_with(expected), "{file}: {found}");
        std::fs::write(&path, &honest).unwrap();
    }
    std::fs::remove_file(export.join("payload/000")).unwrap();
    let withheld = report(&export, &pinned(&sealed));
    assert!(withheld.verified);
    assert!(
        withheld.not_proven.contains(&"the details of 256 entries: their payloads were left out".to_owned())
    );
}

#[tokio::test]
async fn no_damaged_archive_verifies_as_if_it_were_whole_or_makes_the_verifier_panic() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let directory = exported(&sealed).await;
    let archive = directory.with_extension("tar");
    pack(&directory, &archive).unwrap();
    let honest = std::fs::read(&archive).unwrap();
    let terms = pinned(&sealed);
    let whole = report(&archive, &terms);
    let step = honest.len() / 97;
    for at in (0..honest.len()).step_by(step) {
        let mut bent = honest.clone();
        bent[at] ^= 0x11;
        std::fs::write(&archive, &bent).unwrap();
        let Ok(source) = Source::open(&archive) else { continue };
        let Ok(report) = verify(&source, &terms, |_| {}) else { continue };
        // What no check covers is the README, padding, and the tiles, which are made anew; the facts stay the facts.
        assert!(!report.verified || report.root == whole.root, "byte {at}");
    }
    std::fs::write(&archive, &honest[..honest.len() / 2]).unwrap();
    assert!(Source::open(&archive).is_err(), "half an archive opened");
}

#[tokio::test]
async fn openssl_alone_checks_what_the_readme_says_it_checks() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let export = exported(&sealed).await;
    let checked = Command::new("openssl")
        .args([
            "dgst",
            "-sha256",
            "-verify",
            "keys/ak.pem",
            "-signature",
            "anchors/00000001.sig",
            "anchors/00000001.att",
        ])
        .current_dir(&export)
        .output()
        .expect("openssl is needed for this test: apt-get install openssl");
    assert_eq!(String::from_utf8_lossy(&checked.stdout), "Verified OK\n");
}

fn tool(arguments: &[&str], directory: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_chancery-audit"))
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap()
}

fn said(output: &Output) -> (i32, String) {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap(), text)
}

#[tokio::test]
async fn the_tool_answers_with_documented_codes() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    exported(&sealed).await;
    let home = sealed.house.directory.path();
    let keys: Vec<String> = sealed.keys().iter().map(ToString::to_string).collect();

    let (code, text) = said(&tool(&["verify", "export", "--key", &keys[0], "--key", &keys[1]], home));
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("VERIFIED  export directory `test.example/audit/0001`\n"), "{text}");

    let (code, text) = said(&tool(&["verify", "ledger.db", "--json"], home));
    let object: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, object["verified"].as_bool(), object["entries"].as_u64()), (0, Some(true), Some(617)));

    let (code, text) = said(&tool(&["verify", "nowhere"], home));
    assert_eq!(
        (code, text.as_str()),
        (2, "chancery-audit: nowhere cannot be read: No such file or directory (os error 2)\n")
    );
    assert_eq!(tool(&["verify"], home).status.code(), Some(2));

    let (code, receipt) = said(&tool(&["prove", "export", "300"], home));
    assert_eq!(code, 0);
    std::fs::write(home.join("receipt.json"), &receipt).unwrap();
    let (code, text) = said(&tool(&["check", "receipt.json", "--key", &keys[0]], home));
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("VERIFIED  recorded under the checkpoint over 616 entries\n"), "{text}");
    std::fs::write(home.join("bent.json"), receipt.replace("\"payload\":\"e", "\"payload\":\"f")).unwrap();
    let (code, text) = said(&tool(&["check", "bent.json", "--key", &keys[0]], home));
    assert_eq!(
        (code, text.as_str()),
        (1, "DOES NOT VERIFY  the detail is not the one that entry 300 commits to\n")
    );

    sealed.edit("UPDATE entry SET object = 'x' WHERE seq = 3");
    let (code, text) = said(&tool(&["verify", "ledger.db"], home));
    assert_eq!(code, 1);
    assert!(text.starts_with(
        "DOES NOT VERIFY  ledger file `test.example/audit/0001`\n  entry 3: column `object` says"
    ));
}

#[tokio::test]
async fn the_tool_shows_an_entry_one_fact_a_line() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let (code, text) = said(&tool(&["show", "ledger.db", "3"], sealed.house.directory.path()));
    let expected = "  entry        3
  log          test.example/audit/0001
  recorded at  2023-11-14T22:13:20.000000Z
  workspace    a
  actor        user:alice
  action       note.add
  object       0-2
  outcome      done
  request      req-0-2
  detail       {}
";
    assert_eq!((code, text.as_str()), (0, expected));
}

#[tokio::test]
async fn the_tool_tells_a_continuation_from_a_cut_and_a_fork() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let home = sealed.house.directory.path();
    exported(&sealed).await;
    let (code, text) = said(&tool(&["diff", "export", "ledger.db"], home));
    assert_eq!(
        (code, text.as_str()),
        (0, "CONTINUES  the second has all 616 entries of the first, and 1 more\n")
    );
    let (code, text) = said(&tool(&["diff", "ledger.db", "export"], home));
    assert_eq!(
        (code, text.as_str()),
        (1, "SHORTER  the second has 616 entries of the first and lacks the last 1\n")
    );
    sealed.edit("UPDATE entry SET leaf = zeroblob(99) WHERE seq = 44");
    let (code, text) = said(&tool(&["diff", "export", "ledger.db"], home));
    assert_eq!((code, text.as_str()), (1, "FORKED  the two histories part at entry 44\n"));
}

/// Replaces whole lines of the file that lists the steps.
fn edit_steps(export: &Path, mut edit: impl FnMut(&mut serde_json::Value)) {
    let path = export.join("anchors.jsonl");
    let mut edited = String::new();
    for line in std::fs::read_to_string(&path).unwrap().lines() {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        edit(&mut line);
        edited += &format!("{line}\n");
    }
    std::fs::write(path, edited).unwrap();
}

/// Takes every trace of the TPM out of an export, as anyone can who carries it: no key is needed.
fn strip_hardware(export: &Path) {
    edit_steps(export, |line| {
        line["tier"] = "token-object".into();
        line["attested"] = false.into();
    });
    std::fs::remove_dir_all(export.join("anchors")).unwrap();
    let mut newest = String::new();
    let mut notes: Vec<PathBuf> =
        std::fs::read_dir(export.join("checkpoints")).unwrap().map(|item| item.unwrap().path()).collect();
    notes.sort();
    for path in notes {
        newest = std::fs::read_to_string(&path).unwrap();
        newest = newest.split_inclusive('\n').filter(|line| !line.contains("/tpm ")).collect();
        std::fs::write(&path, &newest).unwrap();
    }
    std::fs::write(export.join("checkpoint"), newest).unwrap();
}

#[tokio::test]
async fn an_export_stripped_of_its_tpm_does_not_verify() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let export = exported(&sealed).await;
    let honest = report(&export, &all_pins(&sealed));
    assert_eq!((honest.finding, honest.attested), (None, 3));
    strip_hardware(&export);
    let demanded =
        "checkpoint 1: it is held by `token-object`, but a key of the TPM was given, so a TPM must hold it";
    let only_ak = Terms { keys: vec![sealed.keys()[0].clone()], ..all_pins(&sealed) };
    for terms in [all_pins(&sealed), pinned(&sealed), only_ak] {
        assert_eq!(report(&export, &terms).finding.as_deref(), Some(demanded));
    }
    // Without any key the entries themselves still say what held the step.
    let told = report(&export, &Terms::default()).finding.unwrap();
    assert_eq!(told, "checkpoint 1: its tier is \"token-object\", entry 6 tells of \"tpm-nv\"");
}

/// A history written anew from entry 3 on by whoever has the log's key, but no TPM: every leaf, chain value, node and
/// checkpoint fits the others, and no step speaks of a TPM, neither in its row nor in its entry.
async fn forged(sealed: &Sealed) {
    struct Row {
        seq: u64,
        bytes: Vec<u8>,
        salt: [u8; 32],
        payload: Vec<u8>,
    }
    sealed.edit("SELECT 1");
    let conn = rusqlite::Connection::open(sealed.house.path()).unwrap();
    let rows: Vec<Row> = {
        let mut find = conn.prepare("SELECT seq, leaf, salt, payload FROM entry ORDER BY seq").unwrap();
        let read = |row: &rusqlite::Row<'_>| {
            let (seq, bytes): (i64, _) = (row.get(0)?, row.get(1)?);
            Ok(Row { seq: seq.cast_unsigned(), bytes, salt: row.get(2)?, payload: row.get(3)? })
        };
        find.query_map([], read).unwrap().map(Result::unwrap).collect()
    };
    let mut steps: Vec<(u64, u64)> = {
        let mut find = conn.prepare("SELECT k, size FROM anchor ORDER BY k").unwrap();
        find.query_map([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?)))
            .unwrap()
            .map(|row| row.map(|(k, size)| (k.cast_unsigned(), size.cast_unsigned())).unwrap())
            .collect()
    };
    steps.reverse();
    let (mut chain, mut value) = (genesis_chain(ORIGIN), UNWRITTEN);
    let mut tree = audit::merkle::Frontier::default();
    for row in rows {
        let honest = Leaf::decode(&row.bytes).unwrap();
        let mut payload = row.payload.clone();
        if honest.action == "audit.anchor" {
            let mut told: serde_json::Value = serde_json::from_slice(&payload).unwrap();
            let told = told.as_object_mut().unwrap();
            told.insert("tier".into(), "token-object".into());
            told.insert("value".into(), hex::encode(value).into());
            for field in ["attestation_sha256", "ak_sha256", "counter", "identity"] {
                told.remove(field);
            }
            payload = serde_json::to_vec(told).unwrap();
        }
        let actor = if row.seq == 3 { "user:mallory" } else { honest.actor };
        let commit = payload_commit(&row.salt, &payload);
        let leaf = Leaf { actor, payload_commit: commit, prev_chain: chain, ..honest };
        let mut bytes = Vec::new();
        leaf.encode(&mut bytes);
        let hash = leaf_hash(&bytes);
        chain = next_chain(&chain, &hash);
        tree.push(hash, |_, _, _| {});
        conn.execute(
            "UPDATE entry SET actor = ?2, leaf = ?3, payload = ?4, chain = ?5 WHERE seq = ?1",
            rusqlite::params![row.seq.cast_signed(), actor, bytes, payload, chain],
        )
        .unwrap();
        if let Some((k, size)) = steps.pop_if(|(_, size)| *size == tree.size()) {
            let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size, root: tree.root() };
            let before = value;
            value = extend(&before, &step_digest(k, size, &checkpoint.body_hash()));
            let mut note = Note::new(checkpoint.text()).unwrap();
            let signature = sealed.sealer.sign(0, checkpoint.text().as_bytes()).await.unwrap();
            note.sign(&sealed.keys()[0], signature).unwrap();
            conn.execute(
                "UPDATE anchor SET note = ?2, before = ?3, after = ?4, tier = 'token-object', counter = NULL, \
                 identity = NULL, statement = NULL, signature = NULL, ak = NULL WHERE k = ?1",
                rusqlite::params![k.cast_signed(), note.to_string(), before, value],
            )
            .unwrap();
        }
    }
    let peaks = tree.peaks().concat();
    conn.execute("UPDATE tree_state SET chain = ?1, peaks = ?2", rusqlite::params![chain, peaks]).unwrap();
}

#[tokio::test]
async fn a_history_forged_with_the_logs_key_does_not_verify_against_the_tpms() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    forged(&sealed).await;
    let log_key = Terms { keys: vec![sealed.keys()[0].clone()], ..Terms::default() };
    let believed = report(&sealed.house.path(), &log_key);
    assert_eq!(believed.finding, None, "the forgery is not perfect, so it proves nothing about the pins");
    let demanded =
        "checkpoint 1: it is held by `token-object`, but a key of the TPM was given, so a TPM must hold it";
    let only_ak = Terms { ak: Some(sealed.anchor.attestation_key()), ..log_key };
    for terms in [all_pins(&sealed), pinned(&sealed), only_ak] {
        assert_eq!(report(&sealed.house.path(), &terms).finding.as_deref(), Some(demanded));
    }
    // A claim that the TPM came later does not help when it has not come at all.
    let later = Terms { hardware_since: Some(9), ..all_pins(&sealed) };
    assert_eq!(
        report(&sealed.house.path(), &later).finding.as_deref(),
        Some("the attestation key given vouches for no checkpoint here")
    );
}

#[tokio::test]
async fn what_is_kept_of_a_step_is_held_against_what_its_entry_tells() {
    for (edit, expected) in [
        ("tier = 'quantum' WHERE k = 1", "checkpoint 1: there is no tier `quantum`"),
        (
            "tier = 'token-object' WHERE k = 2",
            "checkpoint 2: it is held by `token-object`, the one before by `tpm-nv`, and no log goes back to a weaker one",
        ),
        ("counter = 999 WHERE k = 1", "checkpoint 1: its counter is 999, entry 6 tells of 8"),
        ("counter = NULL WHERE k = 2", "checkpoint 2: the start counter is missing, expected at least 8"),
        ("counter = 7 WHERE k = 2", "checkpoint 2: the start counter is 7, expected at least 8"),
        ("identity = x'01'", "checkpoint 1: its identity is \"01\", entry 6 tells of \"000be1e1"),
        ("identity = NULL WHERE k = 2", "checkpoint 2: the anchor's identity is missing, expected 000be1e1"),
    ] {
        let found = {
            let sealed = Sealed::with_history(Tier::TpmNv).await;
            sealed.edit(&format!("UPDATE anchor SET {edit}"));
            report(&sealed.house.path(), &Terms { keys: vec![sealed.keys()[0].clone()], ..Terms::default() })
                .finding
        };
        let found = found.unwrap_or_else(|| panic!("{edit}: not found"));
        assert!(found.starts_with(expected), "{edit}: {found}");
    }
}

#[tokio::test]
async fn a_cut_tail_that_takes_the_entry_of_the_newest_step_with_it_is_found() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    sealed.cut_to(12);
    assert_eq!(
        report(&sealed.house.path(), &pinned(&sealed)).finding.unwrap(),
        "checkpoint 2 was confirmed, but no entry behind it tells of it: entries were cut off"
    );
}

#[tokio::test]
async fn keys_that_signed_nothing_vouch_for_nothing() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    sealed.cut_to(4);
    sealed.edit("DELETE FROM anchor");
    assert_eq!(
        report(&sealed.house.path(), &pinned(&sealed)).finding.unwrap(),
        "the keys given have signed nothing here: there is no checkpoint"
    );
    let only_ak = Terms { ak: Some(sealed.anchor.attestation_key()), ..Terms::default() };
    assert_eq!(
        report(&sealed.house.path(), &only_ak).finding.unwrap(),
        "the attestation key given vouches for no checkpoint here"
    );
}

#[tokio::test]
async fn a_log_that_is_older_than_its_tpm_verifies_when_the_auditor_says_so() {
    let sealed = Sealed::new(Tier::TpmNv);
    let ledger = sealed.house.open();
    let alone = audit::Sealing::new(ledger.clone(), sealed.sealer.clone(), None);
    sealed.house.add(&ledger, "a", "one").await;
    alone.seal().await.unwrap();
    drop(alone);
    ledger.close().await;
    let (ledger, sealing) = sealed.start().await;
    sealing.seal().await.unwrap();
    sealing.examine_everything().await.unwrap();
    drop(sealing);
    ledger.close().await;
    let strict = report(&sealed.house.path(), &all_pins(&sealed)).finding.unwrap();
    assert!(strict.starts_with("checkpoint 1: it is held by `signature`"), "{strict}");
    let told = Terms { hardware_since: Some(2), ..all_pins(&sealed) };
    let report = report(&sealed.house.path(), &told);
    assert_eq!((report.finding, report.attested, report.checkpoints), (None, 1, 2));
}

#[tokio::test]
async fn the_file_that_public_tools_read_must_be_the_newest_checkpoint() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let export = exported(&sealed).await;
    let path = export.join("checkpoint");
    let honest = std::fs::read_to_string(&path).unwrap();
    let without: String = honest.split_inclusive('\n').filter(|line| !line.contains("/tpm ")).collect();
    for (bent, expected) in [
        (without, "the file `checkpoint`: the hardware line `test.example/audit/0001/tpm` is missing"),
        (
            honest.replace("— test.example/audit/0001 ", "— elsewhere.example "),
            "the file `checkpoint`: the line of `test.example/audit/0001` is missing",
        ),
    ] {
        std::fs::write(&path, bent).unwrap();
        assert_eq!(report(&export, &pinned(&sealed)).finding.unwrap(), expected);
    }
}

#[tokio::test]
async fn a_receipt_keeps_every_line_that_the_pins_demand() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    exported(&sealed).await;
    let home = sealed.house.directory.path();
    let keys: Vec<String> = sealed.keys().iter().map(ToString::to_string).collect();
    let both = ["--key", &keys[0], "--key", &keys[1]];
    let (_, receipt) = said(&tool(&["prove", "export", "300"], home));
    let honest = audit::Receipt::from_json(receipt.as_bytes()).unwrap();
    let checks = |json: String| {
        std::fs::write(home.join("receipt.json"), json).unwrap();
        said(&tool(&[&["check", "receipt.json"][..], &both[..]].concat(), home))
    };
    assert_eq!(checks(honest.to_json()).0, 0);
    for (gone, expected) in [
        ("/tpm ", "the hardware line `test.example/audit/0001/tpm` is missing"),
        ("0001 ", "the line of `test.example/audit/0001` is missing"),
    ] {
        let bare = |key: &NoteKey| honest.proof.note.verify(std::slice::from_ref(key)).is_ok();
        assert!(sealed.keys().iter().all(bare));
        let text = honest.proof.to_string();
        let cut: String = text
            .split_inclusive('\n')
            .filter(|line| !(line.starts_with('\u{2014}') && line.contains(gone)))
            .collect();
        assert_ne!(cut, text);
        let proof = audit::Proof::parse(cut.as_bytes()).unwrap();
        let (code, text) = checks(audit::Receipt { proof, ..honest.clone() }.to_json());
        assert_eq!((code, text), (1, format!("DOES NOT VERIFY  the checkpoint: {expected}\n")));
    }
}

#[tokio::test]
async fn an_excerpt_cannot_answer_for_an_attestation_key() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let (ledger, sealing) = sealed.start().await;
    sealing.seal().await.unwrap();
    let to = sealed.house.directory.path().join("excerpt");
    let wanted = Wanted { from: Some(1), to: Some(4), ..Wanted::default() };
    export(&ledger, sealed.keys(), wanted, Folder::create(&to).unwrap()).await.unwrap();
    let refused = verify(&Source::open(&to).unwrap(), &all_pins(&sealed), |_| {}).unwrap_err();
    assert!(refused.to_string().contains("give --ak with a whole export"), "{refused}");
    assert!(report(&to, &pinned(&sealed)).verified);
}
