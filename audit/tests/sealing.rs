//! Promises about the seal: what is detected at start, and that no crash between two steps is mistaken for an attack.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

mod common;

use std::sync::Arc;

use audit::double::{Call, Failing, MemoryAnchor};
use audit::{
    Anchor, Checkpoint, HardwareFault, RecoverRefused, SealRefused, Sealing, Standing, StoredCheckpoint,
    Tier, Verdict, WriteRefused,
};
use common::House;
use common::sealed::{Sealed, copy_ledger};

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
