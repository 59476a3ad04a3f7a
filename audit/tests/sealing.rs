//! Promises about the seal: what is detected at start, and that no crash between two steps is mistaken for an attack.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

mod common;

use std::sync::Arc;

use audit::double::{Call, Failing, MemoryAnchor};
use audit::export::{ExportRefused, Folder, Wanted, export};
use audit::{
    Anchor, Checkpoint, HardwareFault, RecoverRefused, SealRefused, Sealer, Sealing, Standing,
    StoredCheckpoint, Tier, Verdict, WriteRefused,
};
use common::House;
use common::sealed::{ORIGIN, Sealed, copy_ledger};

#[tokio::test]
async fn nothing_is_written_before_recovery_has_vouched() {
    let sealed = Sealed::new(Tier::TpmNv);
    let (ledger, sealing) = sealed.open();
    let early =
        ledger.write(|_| Ok::<_, audit::SqlFault>(audit::Told::new((), audit::Entry::new("x")))).await;
    assert!(matches!(early, Err(WriteRefused::Unverified)));
    let recovered = sealing.recover().await.unwrap();
    assert_eq!((recovered.verdict, recovered.counter), (Some(Verdict::Fresh), Some(8)));
    sealed.house.add(&ledger, "a", "one").await;
}

#[tokio::test]
async fn a_seal_is_signed_by_every_key_and_anchored_once() {
    let sealed = Sealed::new(Tier::TpmNv);
    let (ledger, sealing) = sealed.start().await;
    sealed.house.add(&ledger, "a", "one").await;
    assert_eq!(ledger.health().unanchored_rows, 2);
    let StoredCheckpoint { k, size, note, tier } = sealing.seal().await.unwrap();
    let (checkpoint, signers) = Checkpoint::open(note.as_bytes(), sealed.keys()).unwrap();
    assert_eq!((k, size, tier.as_str(), checkpoint.size, signers.len()), (1, 2, "tpm-nv", 2, 2));
    assert_eq!((sealed.anchor.state().writes, ledger.health().unanchored_rows), (1, 0));
    let again = sealing.seal().await.unwrap();
    assert_eq!(
        (again.k, sealed.anchor.state().writes),
        (1, 1),
        "the entry about a seal asks for no other seal"
    );
}

#[tokio::test]
async fn every_entry_under_a_seal_has_a_receipt_that_checks_elsewhere() {
    let sealed = Sealed::new(Tier::TpmNv);
    let (ledger, sealing) = sealed.start().await;
    for n in 0..300 {
        sealed.house.add(&ledger, "a", &n.to_string()).await;
    }
    sealing.seal().await.unwrap();
    for seq in [0, 1, 17, 255, 256, 300] {
        let receipt = ledger.read(move |view| view.receipt(seq)).await.unwrap();
        let json = receipt.to_json();
        let receipt = audit::Receipt::from_json(json.as_bytes()).unwrap();
        let (leaf, checkpoint, signers) = receipt.check(sealed.keys()).unwrap();
        assert_eq!((leaf.seq, checkpoint.size, signers.len()), (seq, 301, 2));
    }
    let uncovered = ledger.read(|view| view.receipt(301)).await.unwrap_err();
    assert_eq!(format!("{uncovered:?}"), "Rejected(NotCovered(301))");
}

#[tokio::test]
async fn consistency_holds_between_any_two_sizes() {
    let sealed = Sealed::new(Tier::TpmNv);
    let (ledger, _sealing) = sealed.start().await;
    for n in 0..600 {
        sealed.house.add(&ledger, "a", &n.to_string()).await;
    }
    for (old, new) in [(1, 600), (255, 256), (256, 600), (257, 512), (300, 300), (511, 601)] {
        let work =
            move |view: &audit::View<'_>| Ok((view.root(old)?, view.root(new)?, view.consistency(old, new)?));
        let (old_root, new_root, proof) = ledger.read::<_, audit::NoProof>(work).await.unwrap();
        assert!(audit::merkle::check_consistency(old, &old_root, new, &new_root, &proof), "{old} {new}");
    }
}

#[tokio::test]
async fn an_honest_restart_is_intact_and_counts_its_tail() {
    for tier in [Tier::TpmNv, Tier::TokenObject] {
        let sealed = Sealed::with_history(tier).await;
        let (ledger, sealing) = sealed.open();
        let recovered = sealing.recover().await.unwrap();
        assert_eq!((recovered.verdict, recovered.tail_rows), (Some(Verdict::Intact), 3));
        sealing.examine_everything().await.unwrap();
        ledger.close().await;
    }
}

#[tokio::test]
async fn a_failure_before_or_after_any_call_is_finished_by_the_next_start() {
    for (call, when) in [
        (Call::Sign, Failing::Before),
        (Call::Sign, Failing::After),
        (Call::Advance, Failing::Before),
        (Call::Advance, Failing::After),
        (Call::Attest, Failing::Before),
        (Call::Attest, Failing::After),
    ] {
        let sealed = Sealed::with_history(Tier::TpmNv).await;
        let (ledger, sealing) = sealed.start().await;
        sealed.house.add(&ledger, "a", "more").await;
        sealed.anchor.fail(call, when);
        sealed.sealer.fail(call, when);
        let refused = sealing.seal().await.unwrap_err();
        assert!(matches!(refused, SealRefused::Hardware(_)), "{call:?} {when:?}: {refused:?}");
        drop(sealing);
        ledger.close().await;
        let (ledger, sealing) = sealed.start().await;
        sealing.seal().await.unwrap();
        sealing.examine_everything().await.unwrap();
        assert_eq!(ledger.health().standing, Standing::Open, "{call:?} {when:?}");
        drop(sealing);
        ledger.close().await;
        sealed.start().await;
    }
}

#[tokio::test]
async fn a_failed_seal_is_finished_by_the_next_without_a_restart() {
    for when in [Failing::Before, Failing::After] {
        let sealed = Sealed::new(Tier::TokenObject);
        let (ledger, sealing) = sealed.start().await;
        sealed.anchor.fail(Call::Advance, when);
        sealing.seal().await.unwrap_err();
        sealed.house.add(&ledger, "a", "one").await;
        assert_eq!(sealing.seal().await.unwrap().k, 2);
        assert_eq!(sealed.anchor.state().writes, 2, "each step is taken exactly once");
    }
}

#[tokio::test]
async fn a_start_interrupted_around_its_count_is_counted_once() {
    for when in [Failing::Before, Failing::After] {
        let sealed = Sealed::with_history(Tier::TpmNv).await;
        let before = sealed.anchor.state().reading.counter.unwrap();
        sealed.anchor.fail(Call::CountStart, when);
        let (ledger, sealing) = sealed.open();
        let refused = sealing.recover().await.unwrap_err();
        assert!(matches!(
            refused,
            RecoverRefused::Hardware(HardwareFault::Unavailable(_) | HardwareFault::OutcomeUnknown(_))
        ));
        drop(sealing);
        ledger.close().await;
        let (_ledger, sealing) = sealed.open();
        assert_eq!(sealing.recover().await.unwrap().counter, Some(before + 1), "{when:?}");
    }
}

#[tokio::test]
async fn hardware_that_stays_away_stops_writes_at_the_bound_and_not_before() {
    let sealed = Sealed::new(Tier::TpmNv);
    let ledger = sealed
        .house
        .try_open(|options| {
            options.dangerous_without_recovery = false;
            options.limits.unanchored_rows_max = 4;
        })
        .unwrap();
    let sealing = Sealing::new(ledger.clone(), sealed.sealer.clone(), Some(Arc::new(sealed.anchor.clone())));
    sealing.recover().await.unwrap();
    for n in 0..4 {
        sealed.house.add(&ledger, "a", &n.to_string()).await;
    }
    let refused =
        ledger.write(|_| Ok::<_, audit::SqlFault>(audit::Told::new((), audit::Entry::new("x")))).await;
    assert_eq!(
        refused.unwrap_err().to_string(),
        "5 entries wait for an anchor; writes resume when the hardware answers"
    );
    sealing.seal().await.unwrap();
    sealed.house.add(&ledger, "a", "again").await;
}

#[tokio::test]
async fn without_an_anchor_checkpoints_are_only_signed_and_say_so() {
    let sealed = Sealed::new(Tier::TpmNv);
    let ledger = sealed.house.try_open(|options| options.dangerous_without_recovery = false).unwrap();
    let sealing = Sealing::new(ledger.clone(), sealed.sealer.clone(), None);
    assert_eq!(sealing.recover().await.unwrap().verdict, None);
    sealed.house.add(&ledger, "a", "one").await;
    assert_eq!(sealing.seal().await.unwrap().tier, "signature");
    drop(sealing);
    ledger.close().await;
    // An anchor may be added later; from then on it may not be left out again.
    let (ledger, sealing) = sealed.open();
    assert_eq!(sealing.recover().await.unwrap().verdict, Some(Verdict::Fresh));
    assert_eq!(sealing.seal().await.unwrap().tier, "tpm-nv");
    drop(sealing);
    ledger.close().await;
    let ledger = sealed.house.try_open(|options| options.dangerous_without_recovery = false).unwrap();
    let refused = Sealing::new(ledger.clone(), sealed.sealer.clone(), None).recover().await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "this ledger is sealed to an anchor: expected the anchor of kind tpm-nv, found a configuration without an \
         anchor; configure the anchor again, or open a new log in a restore ceremony"
    );
}

#[tokio::test]
async fn an_edited_row_is_found_at_start() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    sealed.edit("UPDATE entry SET actor = 'user:mallory' WHERE seq = 14");
    let refused = sealed.refused().await;
    assert!(
        refused.contains("entry 14: column `actor` says `user:mallory`, the signed leaf says `user:alice`"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_deleted_middle_row_is_found_at_start() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    sealed.edit("DELETE FROM entry WHERE seq = 13");
    let refused = sealed.refused().await;
    assert!(refused.contains("entry 13 is missing: the next row is entry 14"), "{refused}");
}

#[tokio::test]
async fn a_row_edited_under_a_running_ledger_is_found_by_the_background_check() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let (ledger, sealing) = sealed.start().await;
    sealing.examine_everything().await.unwrap();
    sealed.edit("UPDATE entry SET payload = x'5b5d' WHERE seq = 2");
    let refused = sealing.examine_everything().await.unwrap_err().to_string();
    assert!(
        refused.contains("entry 2: its payload is not the one that the signed leaf commits to"),
        "{refused}"
    );
    assert!(matches!(ledger.health().standing, Standing::Frozen(_)));
}

#[tokio::test]
async fn an_older_copy_of_the_whole_ledger_is_found_at_start() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let early = sealed.house.directory.path().join("early.db");
    copy_ledger(&sealed.house.path(), &early);
    let (ledger, sealing) = sealed.start().await;
    sealed.house.add(&ledger, "a", "later").await;
    sealing.seal().await.unwrap();
    drop(sealing);
    ledger.close().await;
    copy_ledger(&early, &sealed.house.path());
    let refused = sealed.refused().await;
    assert!(refused.starts_with("the ledger is older than its anchor, or another: expected "), "{refused}");
}

#[tokio::test]
async fn a_truncation_below_the_last_anchor_is_found_at_start() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    // The clumsy thief cuts rows only; the skilful one cuts tree and anchors too, and meets the hardware.
    sealed.edit("DELETE FROM entry WHERE seq >= 10");
    let clumsy = sealed.refused().await;
    assert!(clumsy.contains("the stored end of the log"), "{clumsy}");
}

#[tokio::test]
async fn an_older_anchor_state_under_a_newer_ledger_is_found_at_start() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let old = sealed.anchor.state();
    let (ledger, sealing) = sealed.start().await;
    sealing.seal().await.unwrap();
    drop(sealing);
    ledger.close().await;
    sealed.anchor.set_state(old);
    let refused = sealed.refused().await;
    assert!(refused.starts_with("the anchor went back: expected step 3, found step 2"), "{refused}");
}

#[tokio::test]
async fn a_cleared_anchor_is_found_at_start() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let mut state = sealed.anchor.state();
    state.reading.missing = true;
    sealed.anchor.set_state(state);
    let refused = sealed.refused().await;
    assert!(
        refused.starts_with("the anchor is not the one this ledger was sealed to: expected 000be1"),
        "{refused}"
    );
}

#[tokio::test]
async fn another_tpm_brought_to_the_same_value_is_found_at_start_and_at_a_seal() {
    let mut sealed = Sealed::with_history(Tier::TpmNv).await;
    let honest = sealed.anchor.clone();
    sealed.anchor = honest.impostor();
    let refused = sealed.refused().await;
    assert!(
        refused.starts_with(
            "the anchor is not the one this ledger was sealed to: expected the attestation key "
        ),
        "{refused}"
    );
    sealed.anchor = honest;
    let (ledger, sealing) = sealed.start().await;
    drop(sealing);
    let impostor =
        Sealing::new(ledger.clone(), sealed.sealer.clone(), Some(Arc::new(sealed.anchor.impostor())));
    assert!(matches!(impostor.seal().await, Err(SealRefused::Frozen(_))));
}

#[tokio::test]
async fn a_ledger_without_entries_on_a_used_anchor_is_found_at_start() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let emptied =
        Sealed { house: House::new(), sealer: sealed.sealer.clone(), anchor: sealed.anchor.clone() };
    let refused = emptied.refused().await;
    assert!(refused.starts_with("the ledger is older than its anchor, or another"), "{refused}");
}

#[tokio::test]
async fn a_fork_from_the_same_past_is_found_at_start() {
    let sealed = Sealed::with_history(Tier::TokenObject).await;
    let fork = Sealed {
        house: House::new(),
        sealer: sealed.sealer.clone(),
        anchor: MemoryAnchor::new(Tier::TokenObject),
    };
    copy_ledger(&sealed.house.path(), &fork.house.path());
    fork.anchor.set_state(sealed.anchor.state());
    for (side, note) in [(&sealed, "left"), (&fork, "right")] {
        let (ledger, sealing) = side.start().await;
        side.house.add(&ledger, "a", note).await;
        sealing.seal().await.unwrap();
        drop(sealing);
        ledger.close().await;
    }
    sealed.anchor.set_state(fork.anchor.state());
    let refused = sealed.refused().await;
    assert!(refused.starts_with("the ledger is older than its anchor, or another"), "{refused}");
}

#[tokio::test]
async fn a_rolled_back_start_counter_is_found_at_start() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let mut state = sealed.anchor.state();
    state.reading.counter = Some(3);
    sealed.anchor.set_state(state.clone());
    let behind = sealed.refused().await;
    assert!(behind.starts_with("the start counter went back: expected 8, found 3"), "{behind}");
    state.reading.counter = Some(20);
    sealed.anchor.set_state(state);
    let ahead = sealed.refused().await;
    assert!(
        ahead.starts_with("the hardware has counted starts this ledger does not know: expected 8, found 20"),
        "{ahead}"
    );
}

#[tokio::test]
async fn an_anchor_that_moves_under_a_running_ledger_freezes_it() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let (ledger, sealing) = sealed.start().await;
    let mut state = sealed.anchor.state();
    state.reading.head = Some([9; 32]);
    sealed.anchor.set_state(state);
    let refused = sealing.seal().await.unwrap_err();
    assert!(matches!(refused, SealRefused::Frozen(_)), "{refused:?}");
    assert!(matches!(ledger.health().standing, Standing::Frozen(_)));
}

#[tokio::test]
async fn a_frozen_ledger_signs_nothing_and_counts_nothing_as_sealed() {
    for dirty in [false, true] {
        let sealed = Sealed::with_history(Tier::TpmNv).await;
        let older = sealed.house.directory.path().join("older.db");
        if !dirty {
            let (ledger, sealing) = sealed.start().await;
            sealing.seal().await.unwrap();
            drop(sealing);
            ledger.close().await;
        }
        copy_ledger(&sealed.house.path(), &older);
        let (ledger, sealing) = sealed.start().await;
        sealed.house.add(&ledger, "a", "forgotten").await;
        sealing.seal().await.unwrap();
        drop(sealing);
        ledger.close().await;
        copy_ledger(&older, &sealed.house.path());
        let (ledger, sealing) = sealed.open();
        sealing.recover().await.unwrap_err();
        let (signatures, before) = (sealed.sealer.signatures(), ledger.health());
        for _ in 0..2 {
            let refused = sealing.seal().await.unwrap_err();
            assert!(matches!(refused, SealRefused::Frozen(_)), "dirty {dirty}: {refused:?}");
        }
        assert_eq!(sealed.sealer.signatures(), signatures, "dirty {dirty}: a frozen ledger signed");
        assert_eq!(ledger.health(), before, "dirty {dirty}");
        assert!(before.unanchored_rows > 0, "dirty {dirty}: nothing is known to be sealed");
    }
}

/// Everything a thief may do to a running ledger's seals or to entries that are long sealed; each is found by the look at
/// everything, and most of them, being older than what the start looks at, by nothing else.
#[tokio::test]
async fn what_is_changed_under_a_running_ledger_is_found_by_the_next_examination() {
    for (edit, expected) in [
        (
            "UPDATE entry SET actor = 'forged-live' WHERE seq = 3",
            "entry 3: column `actor` says `forged-live`",
        ),
        ("UPDATE entry SET payload = x'5b5d' WHERE seq = 2", "entry 2: its payload is not the one"),
        (
            "UPDATE anchor SET statement = NULL, signature = NULL WHERE k = 1",
            "checkpoint 1: the TPM's statement about it is missing",
        ),
        ("UPDATE anchor SET signature = x'00' WHERE k = 1", "checkpoint 1: the attestation key did not sign"),
        (
            "UPDATE anchor SET note = substr(note, 1, instr(note, 'audit/0001/tpm') - 1 - length('\u{2014} test.example/')) WHERE k = 1",
            "checkpoint 1: the hardware line",
        ),
        (
            "UPDATE anchor SET tier = 'token-object' WHERE k = 1",
            "checkpoint 1: its tier is \"token-object\", entry 6 tells of \"tpm-nv\"",
        ),
        ("UPDATE anchor SET counter = 999 WHERE k = 1", "checkpoint 1: its counter is 999"),
        ("UPDATE anchor SET identity = x'01' WHERE k = 1", "checkpoint 1: its identity is"),
        ("DELETE FROM anchor WHERE k = 1", "checkpoint 1 is missing"),
        ("DELETE FROM tree_node WHERE height = 8 AND place = 0", "the tree node at height 8, place 0"),
        ("UPDATE tree_node SET hash = zeroblob(32)", "the tree node at height 8, place 0"),
        ("DELETE FROM entry WHERE seq = 40", "entry 40 is missing"),
    ] {
        let sealed = Sealed::with_history(Tier::TpmNv).await;
        let (ledger, sealing) = sealed.start().await;
        for n in 0..300 {
            sealed.house.add(&ledger, "a", &format!("more-{n}")).await;
        }
        sealing.seal().await.unwrap();
        sealing.examine_everything().await.unwrap();
        sealed.edit(edit);
        sealed.house.add(&ledger, "a", "later").await;
        let refused = sealing.examine_everything().await.unwrap_err();
        assert!(refused.to_string().contains(expected), "{edit}: {refused}");
        assert_eq!(ledger.health().standing, Standing::Frozen(ledger.frozen().await), "{edit}");
        let sealed_again = sealing.seal().await.unwrap_err();
        assert!(matches!(sealed_again, SealRefused::Frozen(_)), "{edit}: {sealed_again:?}");
        drop(sealing);
        ledger.close().await;
    }
}

#[tokio::test]
async fn an_examination_beside_writes_and_seals_finds_nothing_that_is_not_there() {
    let sealed = Sealed::new(Tier::TpmNv);
    let (ledger, sealing) = sealed.start().await;
    // More than one look takes, so that what is sealed between two of them covers what the first has passed.
    for n in 0..1_500 {
        sealed.house.add(&ledger, "a", &n.to_string()).await;
    }
    let sealing = Arc::new(sealing);
    let examining = sealing.clone();
    let examined = tokio::spawn(async move {
        for _ in 0..8 {
            examining.examine_everything().await.unwrap();
        }
    });
    for n in 0..40 {
        sealed.house.add(&ledger, "b", &n.to_string()).await;
        sealing.seal().await.unwrap();
    }
    examined.await.unwrap();
    sealing.examine_everything().await.unwrap();
}

#[tokio::test]
async fn a_cut_tail_that_takes_the_entry_of_the_newest_step_with_it_is_found_at_start() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    sealed.cut_to(12);
    let refused = sealed.refused().await;
    let expected = "the newest checkpoint that an entry tells of: expected checkpoint/2, found checkpoint/1";
    assert!(refused.starts_with(expected), "{refused}");
}

#[tokio::test]
async fn a_confirmed_step_that_was_made_pending_again_is_found_at_start() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    sealed.edit("UPDATE anchor SET state = 'pending' WHERE k = 2");
    let refused = sealed.refused().await;
    let expected = "the newest checkpoint that an entry tells of: expected checkpoint/1, found checkpoint/2";
    assert!(refused.starts_with(expected), "{refused}");
}

#[tokio::test]
async fn the_newest_step_is_held_against_its_entry_at_start() {
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    sealed.edit("UPDATE anchor SET counter = 7 WHERE k = 2");
    let refused = sealed.refused().await;
    assert!(refused.contains("checkpoint 2: its counter is 7, entry 12 tells of 8"), "{refused}");
}

/// The signed root of the last checkpoint, and its signature, are looked at before the ledger takes a write.
#[tokio::test]
async fn a_last_checkpoint_that_is_not_ours_or_not_of_this_log_is_found_at_start() {
    let foreign = Sealed::with_history(Tier::TpmNv).await;
    let of = |sealed: &Sealed, k: u64| -> String {
        let conn = rusqlite::Connection::open(sealed.house.path()).unwrap();
        conn.query_row("SELECT note FROM anchor WHERE k = ?1", [k.cast_signed()], |row| row.get(0)).unwrap()
    };
    let replaced = async |sealed: &Sealed, note: &str, expected: &str| {
        sealed.edit(&format!("UPDATE anchor SET note = '{note}' WHERE k = 2"));
        let refused = sealed.refused().await;
        assert!(refused.starts_with(expected), "{refused}");
    };
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    replaced(
        &sealed,
        &of(&foreign, 2),
        "checkpoint 2: expected a checkpoint signed by the keys of this appliance",
    )
    .await;
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let older = of(&sealed, 1);
    replaced(&sealed, &older, "checkpoint 2: expected test.example/audit/0001 of 12 entries, found").await;
    // Signed by our own key, over as many entries, and still not the log that lies here.
    let sealed = Sealed::with_history(Tier::TpmNv).await;
    let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size: 12, root: [7; 32] };
    let mut note = audit::Note::new(checkpoint.text()).unwrap();
    let signature = sealed.sealer.sign(0, checkpoint.text().as_bytes()).await.unwrap();
    note.sign(&sealed.keys()[0], signature).unwrap();
    replaced(&sealed, &note.to_string(), "the root over 12 entries: expected 0707").await;
}

#[tokio::test]
async fn a_checkpoint_that_the_hardware_has_not_confirmed_proves_nothing() {
    let sealed = Sealed::new(Tier::TpmNv);
    let (ledger, sealing) = sealed.start().await;
    let first = sealing.seal().await.unwrap();
    sealed.house.add(&ledger, "a", "new").await;
    sealed.anchor.fail(Call::Advance, Failing::Before);
    sealing.seal().await.unwrap_err();
    let newest = || async { ledger.read(|view| view.latest_checkpoint()).await.unwrap() };
    assert_eq!(newest().await, Some(first));
    let receipt = |seq: u64| {
        let ledger = ledger.clone();
        async move { ledger.read(move |view| view.receipt(seq)).await }
    };
    let refused = receipt(2).await.unwrap_err();
    assert!(matches!(refused, audit::ReadRefused::Rejected(audit::NoProof::NotCovered(2))), "{refused:?}");
    assert_eq!(receipt(0).await.unwrap().proof.index, 0);
    sealing.seal().await.unwrap();
    assert_eq!((newest().await.unwrap().k, receipt(2).await.unwrap().proof.index), (2, 2));
}

#[tokio::test]
async fn a_receipt_that_does_not_lead_to_the_signed_root_is_not_handed_out() {
    for edit in [
        "UPDATE entry SET leaf = (SELECT leaf FROM entry WHERE seq = 5) WHERE seq = 4",
        "UPDATE tree_node SET hash = zeroblob(32) WHERE height = 8 AND place = 0",
        "UPDATE anchor SET note = (SELECT note FROM anchor WHERE k = 1) WHERE k = 3",
    ] {
        let sealed = Sealed::with_history(Tier::TpmNv).await;
        let (ledger, sealing) = sealed.start().await;
        for n in 0..300 {
            sealed.house.add(&ledger, "a", &format!("more-{n}")).await;
        }
        sealing.seal().await.unwrap();
        // The newest checkpoint covers it, and so does the path through both halves of the tree.
        let receipt = |seq: u64| {
            let ledger = ledger.clone();
            async move { ledger.read(move |view| view.receipt(seq)).await }
        };
        assert!(receipt(4).await.is_ok() && receipt(300).await.is_ok());
        sealed.edit(edit);
        let seq = if edit.contains("seq = 4") { 4 } else { 300 };
        let refused = receipt(seq).await.unwrap_err();
        let contradiction = matches!(refused, audit::ReadRefused::Rejected(audit::NoProof::Contradiction(_)));
        assert!(contradiction, "{edit}: {refused:?}");
    }
}

#[tokio::test]
async fn an_export_that_meets_an_edit_freezes_the_ledger() {
    for (wanted, edit) in [
        (Wanted::default(), "UPDATE entry SET actor = 'x' WHERE seq = 3"),
        (Wanted::default(), "DELETE FROM entry WHERE seq = 3"),
        (Wanted::default(), "DELETE FROM anchor WHERE k = 1"),
        (Wanted { from: Some(2), ..Wanted::default() }, "UPDATE entry SET actor = 'x' WHERE seq = 3"),
        (Wanted { from: Some(2), ..Wanted::default() }, "UPDATE entry SET payload = x'7b7d20' WHERE seq = 3"),
        (
            Wanted { from: Some(2), ..Wanted::default() },
            "UPDATE entry SET leaf = (SELECT leaf FROM entry WHERE seq = 5) WHERE seq = 3",
        ),
    ] {
        let sealed = Sealed::with_history(Tier::TpmNv).await;
        let (ledger, sealing) = sealed.start().await;
        sealed.edit(edit);
        let folder = Folder::create(&sealed.house.directory.path().join("export")).unwrap();
        let refused = match export(&ledger, sealed.keys(), wanted, folder).await {
            Err(audit::ReadRefused::Rejected(refused)) => refused,
            other => panic!("{edit}: {:?}", other.map(|(exported, _)| exported)),
        };
        let freeze = sealing.freeze_for(&refused).unwrap_or_else(|| panic!("{edit}: {refused:?}"));
        assert_eq!(ledger.health().standing, Standing::Frozen(Arc::new(freeze)), "{edit}");
    }
    let sealed = Sealed::new(Tier::TpmNv);
    let (ledger, sealing) = sealed.start().await;
    assert!(sealing.freeze_for(&ExportRefused::NothingSealed).is_none());
    assert_eq!(ledger.health().standing, Standing::Open);
}

#[tokio::test]
async fn the_anchor_advances_by_the_published_rule() {
    let sealed = Sealed::new(Tier::TpmNv);
    let (_ledger, sealing) = sealed.start().await;
    let stored = sealing.seal().await.unwrap();
    let note = audit::Note::parse(stored.note.as_bytes()).unwrap();
    let body_hash = Checkpoint::parse(note.text()).unwrap().body_hash();
    let expected = audit::extend(&audit::UNWRITTEN, &audit::step_digest(1, stored.size, &body_hash));
    assert_eq!(sealed.anchor.read().await.unwrap().head, Some(expected));
}
