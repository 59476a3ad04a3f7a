//! Promises about excerpts: one workspace's own entries or a range of everybody's, each provable by itself.
//! Who enters: sealed ledgers, and the hand of whoever carries the excerpt.
//! What leaves: reports that verify and say what they do not show; findings about everything that was changed.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

mod common;

use std::path::{Path, PathBuf};

use audit::export::{Archive, ExportRefused, Folder, Wanted, export};
use audit::verify::{NotProvable, Report, Source, Terms, prove, verify};
use audit::{Checkpoint, Note, ReadRefused, Sealer, Tier, Workspace};
use common::sealed::Sealed;

fn report(path: &Path, terms: &Terms) -> Report {
    verify(&Source::open(path).unwrap(), terms, |_| {}).unwrap()
}

fn pinned(sealed: &Sealed) -> Terms {
    Terms { keys: sealed.sealer.keys().to_vec(), ..Terms::default() }
}

/// A ledger in which `b` has 300 entries and `secret` stands between each two of them; sealed, and two more beyond.
async fn mixed(sealed: &Sealed, wanted: Wanted) -> (PathBuf, Result<u64, String>) {
    let (ledger, sealing) = sealed.start().await;
    for n in 0..300 {
        sealed.house.add(&ledger, "b", &format!("own-{n}")).await;
        sealed.house.add(&ledger, "secret", &format!("foreign-{n}")).await;
    }
    sealing.seal().await.unwrap();
    sealed.house.add(&ledger, "b", "beyond").await;
    let to = sealed.house.directory.path().join("excerpt");
    let exported = export(&ledger, sealed.keys(), wanted, Folder::create(&to).unwrap()).await;
    drop(sealing);
    ledger.close().await;
    let exported = exported.map(|(exported, _)| exported.entries).map_err(|why| match why {
        ReadRefused::Rejected(why @ ExportRefused::NoSuchRange { .. }) => why.to_string(),
        other => panic!("{other:?}"),
    });
    (to, exported)
}

fn of(workspace: &str) -> Wanted {
    Wanted { workspace: Some(Workspace::new(workspace).unwrap()), ..Wanted::default() }
}

/// Every file of an excerpt in one text.
fn all(directory: &Path) -> String {
    let mut text = String::new();
    for item in std::fs::read_dir(directory).unwrap() {
        let path = item.unwrap().path();
        text += &if path.is_dir() { all(&path) } else { std::fs::read_to_string(&path).unwrap() };
    }
    text
}

/// The entries of an excerpt as text: what its lines hide in base64.
fn shown(directory: &Path) -> String {
    use base64::Engine;
    let lines = std::fs::read_to_string(directory.join("entries/00000000.jsonl")).unwrap();
    let mut text = String::new();
    for line in lines.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        for field in ["leaf", "payload"] {
            let bytes = base64::engine::general_purpose::STANDARD.decode(line[field].as_str().unwrap());
            text += &String::from_utf8_lossy(&bytes.unwrap());
        }
    }
    text
}

#[tokio::test]
async fn a_workspaces_excerpt_verifies_and_holds_nothing_of_any_other() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let (directory, exported) = mixed(&sealed, of("b")).await;
    assert_eq!(exported, Ok(300));
    let report = report(&directory, &pinned(&sealed));
    assert_eq!(
        (report.finding.as_deref(), report.entries, report.source.as_str()),
        (None, 300, "excerpt directory")
    );
    assert!(report.not_proven[0].starts_with("that no entry of `b` was left out"), "{report}");
    let extent = report.excerpt.unwrap();
    assert_eq!((extent.workspace.as_deref(), extent.from), (Some("b"), 0));
    let text = all(&directory) + &shown(&directory);
    assert!(text.contains("own-299"), "the test sees nothing");
    assert!(!text.contains("foreign") && !text.contains("secret") && !text.contains("beyond"));
}

#[tokio::test]
async fn a_range_of_everybodys_entries_has_no_gap() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let (directory, exported) =
        mixed(&sealed, Wanted { from: Some(100), to: Some(420), ..Wanted::default() }).await;
    assert_eq!(exported, Ok(321));
    let terms = pinned(&sealed);
    assert_eq!(report(&directory, &terms).finding, None);
    let file = directory.join("entries/00000000.jsonl");
    let whole = std::fs::read_to_string(&file).unwrap();
    let without = |at: usize| -> String {
        whole.lines().enumerate().filter(|(n, _)| *n != at).flat_map(|(_, line)| [line, "\n"]).collect()
    };
    for (at, found) in
        [(7, "entry 107 is missing"), (0, "entry 100 is missing"), (320, "320 entries are shown")]
    {
        std::fs::write(&file, without(at)).unwrap();
        let finding = report(&directory, &terms).finding.unwrap();
        assert!(finding.starts_with(found), "{finding}");
    }
}

#[tokio::test]
async fn entries_that_no_checkpoint_covers_are_not_exported() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let (_, refused) = mixed(&sealed, Wanted { from: Some(3), to: Some(5_000), ..Wanted::default() }).await;
    assert!(refused.unwrap_err().starts_with("there are no entries 3 to 5000"));
}

#[tokio::test]
async fn a_changed_line_of_an_excerpt_is_found() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let (directory, _) = mixed(&sealed, of("b")).await;
    let (file, about) = (directory.join("entries/00000000.jsonl"), directory.join("excerpt.json"));
    let (whole, honest) = (std::fs::read_to_string(&file).unwrap(), std::fs::read_to_string(&about).unwrap());
    let lines: Vec<serde_json::Value> =
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let bent = |field: &str| {
        let mut lines = lines.clone();
        lines[5][field] = lines[6][field].clone();
        lines.iter().map(|line| format!("{line}\n")).collect::<String>()
    };
    for (field, expected) in
        [("leaf", "its payload is not"), ("salt", "its payload is not"), ("path", "its path does not lead")]
    {
        std::fs::write(&file, bent(field)).unwrap();
        let finding = report(&directory, &pinned(&sealed)).finding.unwrap();
        assert!(finding.contains(expected), "{field}: {finding}");
    }
    std::fs::write(&file, &whole).unwrap();
    for (from, to, expected) in [
        ("\"b\"", "\"secret\"", "column `workspace`"),
        ("\"entries\":300", "\"entries\":299", "300 entries are shown"),
    ] {
        std::fs::write(&about, honest.replace(from, to)).unwrap();
        let finding = report(&directory, &pinned(&sealed)).finding.unwrap();
        assert!(finding.contains(expected), "{finding}");
    }
    std::fs::write(&about, &honest).unwrap();
    assert_eq!(report(&directory, &pinned(&sealed)).finding, None);
}

#[tokio::test]
async fn an_excerpt_is_worth_what_its_keys_are() {
    let (sealed, other) = (Sealed::with_history(Tier::TpmNv).await, Sealed::new(Tier::TpmNv));
    let (directory, _) = mixed(&sealed, of("b")).await;
    assert_eq!(
        report(&directory, &pinned(&other)).finding.unwrap(),
        "the checkpoint: no known key has signed it"
    );
    assert_eq!(report(&directory, &Terms::default()).trust, "bundled keys");
    std::fs::remove_dir_all(directory.join("keys")).unwrap();
    std::fs::create_dir(directory.join("keys")).unwrap();
    assert!(
        verify(&Source::open(&directory).unwrap(), &Terms::default(), |_| {}).is_err(),
        "it verified by no key"
    );
    let note = Note::parse(&std::fs::read(directory.join("checkpoint")).unwrap()).unwrap();
    let mut known = Checkpoint::parse(note.text()).unwrap();
    known.root = [7; 32];
    let finding = report(&directory, &Terms { known: Some(known), ..pinned(&sealed) }).finding.unwrap();
    assert!(finding.ends_with("two histories"), "{finding}");
}

#[tokio::test]
async fn an_excerpt_in_an_archive_gives_the_receipt_of_each_entry_and_no_others() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let (ledger, sealing) = sealed.start().await;
    let own = sealed.house.add(&ledger, "b", "own").await;
    sealing.seal().await.unwrap();
    let packed = Archive::onto(Vec::new());
    let (_, packed) = export(&ledger, sealed.keys(), of("b"), packed).await.unwrap();
    let path = sealed.house.directory.path().join("excerpt.tar");
    std::fs::write(&path, packed.end().unwrap()).unwrap();
    drop(sealing);
    ledger.close().await;
    assert_eq!(report(&path, &pinned(&sealed)).source, "excerpt archive");
    let source = Source::open(&path).unwrap();
    let receipt = prove(&source, own).unwrap();
    let (leaf, _, signers) = receipt.check(sealed.keys()).unwrap();
    assert_eq!((leaf.object, signers.is_empty()), ("own", false));
    assert!(matches!(prove(&source, 0), Err(NotProvable::NoEntry(0))));
}
