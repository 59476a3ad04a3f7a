//! Sealed secrets: they open on their own machine, in its own state, for their own data.
//! In come lanes on a fresh swtpm each.
//! Out goes proof, or the name of the promise that was broken.

use hsm::backend::Fault;
use hsm::{Refusal, TokenConfig};

use super::Machine;

#[test]
fn a_sealed_secret_opens_for_its_own_data_only() {
    let machine = Machine::new();
    let mut lane = machine.lane();
    lane.ensure_root().unwrap();
    for secret in [&b""[..], &[1; 32], &[2; 4000]] {
        let wrapped = lane.wrap(secret, b"row 1").unwrap();
        assert_eq!(lane.unwrap(&wrapped, b"row 1").unwrap().as_slice(), secret);
        assert_eq!(lane.unwrap(&wrapped, b"row 2").unwrap_err(), Refusal::SealBroken.into());
    }
    assert_eq!(lane.unwrap(b"nonsense", b"row 1").unwrap_err(), Refusal::SealBroken.into());
}

#[test]
fn after_a_changed_boot_the_seal_stays_shut_and_says_why() {
    let mut machine = Machine::new();
    let mut lane = machine.lane();
    lane.ensure_root().unwrap();
    let wrapped = lane.wrap(&[5; 32], b"master").unwrap();
    drop(lane);
    machine.tpm.extend_pcr(7, [0x11; 32]).unwrap();
    let refused = machine.lane().unwrap(&wrapped, b"master").unwrap_err();
    let Fault::Refused(Refusal::StateChanged { pcrs }) = refused else { panic!("{refused:?}") };
    assert!(pcrs.starts_with("PCR 7 was 0000000000000000..., is "), "{pcrs}");
    machine.tpm.restart().unwrap();
    assert_eq!(machine.lane().unwrap(&wrapped, b"master").unwrap().as_slice(), [5; 32]);
}

#[test]
fn a_register_that_is_not_configured_may_change() {
    let machine = Machine::new();
    let mut lane = machine.lane();
    lane.ensure_root().unwrap();
    let wrapped = lane.wrap(&[5; 32], b"master").unwrap();
    drop(lane);
    machine.tpm.extend_pcr(4, [0x11; 32]).unwrap();
    assert_eq!(machine.lane().unwrap(&wrapped, b"master").unwrap().as_slice(), [5; 32]);
}

#[test]
fn a_secret_without_registers_opens_in_every_state_of_its_own_machine() {
    let machine = Machine::with(|config| {
        if let TokenConfig::Tpm { pcrs, .. } = config {
            pcrs.clear();
        }
    });
    let mut lane = machine.lane();
    lane.ensure_root().unwrap();
    let wrapped = lane.wrap(&[5; 32], b"master").unwrap();
    drop(lane);
    machine.tpm.extend_pcr(7, [0x11; 32]).unwrap();
    assert_eq!(machine.lane().unwrap(&wrapped, b"master").unwrap().as_slice(), [5; 32]);
}

#[test]
fn a_copied_disk_does_not_open_on_another_machine() {
    let (home, abroad) = (Machine::new(), Machine::new());
    let mut lane = home.lane();
    lane.ensure_root().unwrap();
    let wrapped = lane.wrap(&[5; 32], b"master").unwrap();
    let mut stranger = abroad.lane();
    assert_eq!(stranger.unwrap(&wrapped, b"master").unwrap_err(), Refusal::RootMissing.into());
    stranger.ensure_root().unwrap();
    assert_eq!(stranger.unwrap(&wrapped, b"master").unwrap_err(), Refusal::SealBroken.into());
}

#[test]
fn a_register_that_no_tpm_has_is_named() {
    let machine = Machine::with(|config| {
        if let TokenConfig::Tpm { pcrs, .. } = config {
            *pcrs = vec![99];
        }
    });
    let mut lane = machine.lane();
    lane.ensure_root().unwrap();
    let refused = lane.wrap(b"secret", b"").unwrap_err();
    assert!(
        matches!(&refused, Fault::Refused(Refusal::Other(why)) if why.contains("no PCR 99")),
        "{refused:?}"
    );
}
