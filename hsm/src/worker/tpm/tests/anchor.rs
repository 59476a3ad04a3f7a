//! The anchor: it follows the ledger, survives power cuts, and shows what was rolled back, wiped or meddled with.
//! In come lanes on a fresh swtpm each.
//! Out goes proof, or the name of the promise that was broken.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature as check;
use hsm::backend::Fault;
use hsm::{KeyKind, Refusal, Scheme, TokenConfig};

use super::super::connect;
use super::{ID, Machine, step, tool};

#[test]
fn the_anchor_follows_the_ledger_step_by_step() {
    let machine = Machine::new();
    let mut lane = machine.lane();
    assert!(lane.read().unwrap().missing);
    let first = step(1, [0; 32]);
    lane.advance(&first).unwrap();
    lane.advance(&first).unwrap();
    let second = step(2, first.after);
    lane.advance(&second).unwrap();
    let reading = lane.read().unwrap();
    assert_eq!((reading.head, reading.missing), (Some(second.after), false));
    assert_eq!(lane.advance(&first).unwrap_err(), Refusal::AnchorElsewhere.into());
    assert_eq!(lane.advance(&step(4, [9; 32])).unwrap_err(), Refusal::AnchorElsewhere.into());
}

#[test]
fn the_anchor_survives_a_power_cut_unchanged() {
    let mut machine = Machine::new();
    let mut lane = machine.lane();
    let first = step(1, [0; 32]);
    lane.advance(&first).unwrap();
    let count = lane.attest().unwrap().count().unwrap();
    let before = lane.read().unwrap();
    machine.tpm.restart().unwrap();
    drop(lane);
    assert_eq!(machine.lane().read().unwrap(), before);
    assert_eq!((before.head, before.counter), (Some(first.after), Some(count)));
}

#[test]
fn the_counter_only_grows() {
    let machine = Machine::new();
    let mut lane = machine.lane();
    let base = lane.attest().unwrap().count().unwrap();
    assert_eq!(lane.attest().unwrap().count().unwrap(), base + 1);
    assert_eq!(lane.read().unwrap().counter, Some(base + 1));
}

#[test]
fn a_tpm_rolled_back_shows_the_older_head() {
    let mut machine = Machine::new();
    let mut lane = machine.lane();
    let first = step(1, [0; 32]);
    lane.advance(&first).unwrap();
    drop(lane);
    let old = machine.tpm.snapshot("old").unwrap();
    machine.lane().advance(&step(2, first.after)).unwrap();
    machine.tpm.roll_back(&old).unwrap();
    assert_eq!(machine.lane().read().unwrap().head, Some(first.after));
}

#[test]
fn a_wiped_tpm_has_no_anchor_another_identity_and_no_root() {
    let mut machine = Machine::new();
    let mut lane = machine.lane();
    lane.ensure_root().unwrap();
    lane.advance(&step(1, [0; 32])).unwrap();
    let wrapped = lane.wrap(b"secret", b"").unwrap();
    let before = lane.read().unwrap();
    drop(lane);
    machine.tpm.wipe().unwrap();
    let mut lane = machine.lane();
    let after = lane.read().unwrap();
    assert!(after.missing && after.identity != before.identity);
    assert_eq!(lane.unwrap(&wrapped, b"").unwrap_err(), Refusal::RootMissing.into());
    assert_eq!(lane.advance(&step(2, step(1, [0; 32]).after)).unwrap_err(), Refusal::AnchorElsewhere.into());
}

#[test]
fn a_cleared_tpm_is_the_same_chip_and_another_token() {
    let machine = Machine::new();
    let mut lane = machine.lane();
    let key = lane.generate(ID, KeyKind::P256, "").unwrap().key;
    lane.advance(&step(1, [0; 32])).unwrap();
    let before = lane.read().unwrap();
    drop(lane);
    let serial = machine.connect().probe().serial;
    tool(&machine.tpm, "tpm2_clear -c lockout", machine.dir.path());
    assert_eq!(machine.connect().probe().serial, serial);
    let mut lane = machine.lane();
    lane.ensure_root().unwrap();
    let after = lane.read().unwrap();
    assert!(after.missing && after.identity != before.identity);
    assert_eq!(lane.sign(&key, Scheme::EcdsaSha256, &[1; 32]).unwrap_err(), Fault::KeyMissing { id: ID });
    let refused = lane.advance(&step(1, [0; 32])).unwrap_err();
    assert!(
        matches!(&refused, Fault::Refused(Refusal::Other(why)) if why.contains("another TPM")),
        "{refused:?}"
    );
}

#[test]
fn a_power_cut_amid_a_step_leaves_it_taken_or_not_and_it_can_be_repeated() {
    let mut machine = Machine::new();
    let mut last = [0; 32];
    for k in 1..20 {
        let next = step(k, last);
        let mut lane = machine.lane();
        let (tpm, cut_after) = (&mut machine.tpm, std::time::Duration::from_micros(k * 300));
        std::thread::scope(|scope| {
            scope.spawn(|| lane.advance(&next));
            // The instant of the cut is what this test varies: from before the step to after it.
            std::thread::sleep(cut_after);
            tpm.kill();
        });
        drop(lane);
        machine.tpm.restart().unwrap();
        let mut lane = machine.lane();
        let head = lane.read().unwrap().head.unwrap_or([0; 32]);
        assert!(head == last || head == next.after, "step {k}: neither before nor after");
        lane.advance(&next).unwrap();
        assert_eq!(lane.read().unwrap().head, Some(next.after));
        last = next.after;
    }
}

#[test]
fn a_stranger_at_the_tpm_cannot_move_the_anchor() {
    let machine = Machine::new();
    let mut lane = machine.lane();
    let first = step(1, [0; 32]);
    lane.advance(&first).unwrap();
    drop(lane);
    let mut stranger = machine.config.clone();
    if let TokenConfig::Tpm { index_auth_file, .. } = &mut stranger {
        *index_auth_file = None;
    }
    let mut lane = connect(&stranger, None).unwrap().lanes().unwrap().pop().unwrap();
    let refused = lane.advance(&step(2, first.after)).unwrap_err();
    assert!(
        matches!(&refused, Fault::Refused(Refusal::Other(why)) if why.contains("index_auth_file")),
        "{refused:?}"
    );
    drop(lane);
    assert_eq!(machine.lane().read().unwrap().head, Some(first.after));
    assert_eq!(machine.lockout_counter(), 0);
}

#[test]
fn the_authorisation_of_the_anchor_does_not_lie_in_the_clear() {
    let machine = Machine::new();
    machine.lane().advance(&step(1, [0; 32])).unwrap();
    machine.tpm.extend_pcr(7, [1; 32]).unwrap();
    let refused = machine.lane().read().unwrap_err();
    assert!(matches!(refused, Fault::Refused(Refusal::StateChanged { .. })), "{refused:?}");
}

#[test]
fn an_announced_change_of_firmware_does_not_lock_the_anchor() {
    let mut machine = Machine::new();
    machine.lane().advance(&step(1, [0; 32])).unwrap();
    machine.seal_to(&[]);
    machine.lane().read().unwrap();
    machine.tpm.extend_pcr(7, [1; 32]).unwrap();
    machine.lane().read().unwrap();
    machine.seal_to(&[7]);
    machine.lane().read().unwrap();
    // From here on the new state holds, and the old one no longer does.
    machine.lane().read().unwrap();
    machine.tpm.restart().unwrap();
    let refused = machine.lane().read().unwrap_err();
    assert!(matches!(refused, Fault::Refused(Refusal::StateChanged { .. })), "{refused:?}");
}

#[test]
fn a_lost_authorisation_file_is_named() {
    let machine = Machine::new();
    machine.lane().advance(&step(1, [0; 32])).unwrap();
    std::fs::remove_file(machine.dir.path().join("index.auth")).unwrap();
    let refused = machine.lane().read().unwrap_err();
    assert!(
        matches!(&refused, Fault::Refused(Refusal::Other(why)) if why.contains("index.auth")),
        "{refused:?}"
    );
}

#[test]
fn an_index_of_somebody_else_is_left_alone() {
    let machine = Machine::new();
    tool(&machine.tpm, "tpm2_nvdefine -Q 0x1800C00 -s 32", machine.dir.path());
    let refused = machine.lane().read().unwrap_err();
    assert!(
        matches!(&refused, Fault::Refused(Refusal::Other(why)) if why.contains("not ours")),
        "{refused:?}"
    );
}

#[test]
fn a_certified_anchor_and_a_quote_check_out_with_the_attestation_key() {
    let machine = Machine::new();
    let mut lane = machine.lane();
    let first = step(1, [0; 32]);
    lane.advance(&first).unwrap();
    let certified = lane.attest().unwrap().certify_anchor([0xAA; 32]).unwrap();
    check_der(&certified.ak_spki_der, &certified.attest, &certified.signature_der);
    assert_eq!(certified.attest[..6], [0xff, b'T', b'C', b'G', 0x80, 0x14]);
    assert!(holds(&certified.attest, &first.after) && holds(&certified.attest, &[0xAA; 32]));
    let quote = lane.attest().unwrap().quote([0xBB; 32]).unwrap();
    check_der(&quote.ak_spki_der, &quote.attest, &quote.signature_der);
    assert_eq!(quote.pcrs, [(7, [0; 32])]);
    assert!(holds(&quote.attest, digest(&SHA256, &[0; 32]).as_ref()) && holds(&quote.attest, &[0xBB; 32]));
    assert_eq!(certified.ak_spki_der, quote.ak_spki_der);
}

#[test]
fn ten_power_cuts_count_nothing_towards_the_lock_out() {
    let mut machine = Machine::new();
    let mut lane = machine.lane();
    let mut last = step(1, [0; 32]);
    lane.advance(&last).unwrap();
    drop(lane);
    for k in 2..12 {
        let mut lane = machine.lane();
        last = step(k, last.after);
        lane.advance(&last).unwrap();
        machine.tpm.kill();
        drop(lane);
        machine.tpm.restart().unwrap();
    }
    assert_eq!(machine.lockout_counter(), 0);
}

fn check_der(spki: &[u8], message: &[u8], signature: &[u8]) {
    check::UnparsedPublicKey::new(&check::ECDSA_P256_SHA256_ASN1, spki).verify(message, signature).unwrap();
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
