//! Connecting: what a killed worker left is swept, what others made is shared or refused, what is absent is named.
//! In come lanes on a fresh swtpm each.
//! Out goes proof, or the name of the promise that was broken.

use hsm::backend::Fault;
use hsm::{KeyKind, Refusal, Scheme, TokenConfig};

use super::super::connect;
use super::super::esys::Esys;
use super::{ID, Machine, step, tool, tool_says_yes};

#[test]
fn the_root_is_made_once_and_recognised_after_a_restart() {
    let mut machine = Machine::new();
    let first = machine.lane().ensure_root().unwrap();
    machine.tpm.restart().unwrap();
    let second = machine.lane().ensure_root().unwrap();
    assert!(first.created && !second.created);
    assert_eq!(first.id, second.id);
}

#[test]
fn a_storage_root_made_by_others_is_shared_if_it_is_as_safe_as_ours() {
    let machine = Machine::new();
    let safe = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt";
    foreign_root(&machine, &format!("-a {safe}"));
    assert!(!machine.lane().ensure_root().unwrap().created);
}

#[test]
fn a_storage_root_whose_use_counts_towards_the_lock_out_is_refused() {
    let machine = Machine::new();
    foreign_root(&machine, "-g sha256");
    let refused = machine.lane().ensure_root().unwrap_err();
    let Fault::Refused(Refusal::Other(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("0x81000001 is no storage root: noDA is wrong; configure another handle"), "{why}");
}

#[test]
fn a_tpm_switched_off_in_use_is_lost_and_not_refused() {
    let mut machine = Machine::new();
    let mut lane = machine.lane();
    let key = lane.generate(ID, KeyKind::P256, "").unwrap().key;
    machine.tpm.kill();
    let lost = lane.sign(&key, Scheme::EcdsaSha256, &[1; 32]).unwrap_err();
    assert!(matches!(lost, Fault::Lost { harmless: false, .. }), "{lost:?}");
}

#[test]
fn a_tpm_left_in_order_remembers_an_orderly_shutdown() {
    let mut machine = Machine::new();
    machine.connect().close();
    machine.tpm.restart().unwrap();
    assert!(machine.last_shutdown_was_orderly());
    drop(machine.lane().generate(ID, KeyKind::P256, ""));
    machine.tpm.restart().unwrap();
    assert!(!machine.last_shutdown_was_orderly());
}

#[test]
fn a_lock_out_that_others_caused_does_not_stop_us() {
    let machine = Machine::new();
    let dir = machine.dir.path();
    tool(&machine.tpm, "tpm2_dictionarylockout -Q -s -n 1 -t 600 -l 600", dir);
    tool(&machine.tpm, "tpm2_createprimary -Q -C o -p right -c FILE/theirs", dir);
    assert!(!tool_says_yes(&machine.tpm, "tpm2_create -Q -C FILE/theirs -P wrong -u FILE/u -r FILE/r", dir));
    tool(&machine.tpm, "tpm2_flushcontext -t", dir);
    assert_eq!(machine.lockout_counter(), 1);
    let mut lane = machine.lane();
    lane.ensure_root().unwrap();
    let key = lane.generate(ID, KeyKind::P256, "").unwrap().key;
    lane.sign(&key, Scheme::EcdsaSha256, &[1; 32]).unwrap();
    let wrapped = lane.wrap(b"secret", b"").unwrap();
    lane.unwrap(&wrapped, b"").unwrap();
    lane.advance(&step(1, [0; 32])).unwrap();
    drop(lane);
    assert_eq!(machine.lockout_counter(), 1);
}

#[test]
fn an_endorsement_hierarchy_with_an_authorisation_is_named() {
    let machine = Machine::new();
    tool(&machine.tpm, "tpm2_changeauth -Q -c endorsement sesame", machine.dir.path());
    let refused = connect(&machine.config, None).err().unwrap().to_string();
    assert!(refused.contains("endorsement hierarchy asks for its authorisation"), "{refused}");
}

#[test]
fn once_enrolled_the_endorsement_hierarchy_may_be_closed() {
    let machine = Machine::new();
    machine.lane().ensure_root().unwrap();
    tool(&machine.tpm, "tpm2_changeauth -Q -c endorsement sesame", machine.dir.path());
    machine.lane().attest().unwrap().quote([0; 32]).unwrap();
}

#[test]
fn two_handles_to_one_object_do_not_close_each_other() {
    let machine = Machine::new();
    machine.lane().ensure_root().unwrap();
    let TokenConfig::Tpm { tcti, storage_root, .. } = &machine.config else { panic!("not a TPM") };
    let esys = Esys::connect(tcti).unwrap();
    let (one, two) = (esys.persistent(*storage_root).unwrap(), esys.persistent(*storage_root).unwrap());
    drop(one);
    assert!(esys.read_public(&two, None).is_ok());
}

#[test]
fn an_absent_tpm_is_said_to_be_absent() {
    let mut machine = Machine::new();
    machine.tpm.kill();
    let refused = connect(&machine.config, None).err().unwrap();
    assert!(refused.to_string().contains("no TPM answers at swtpm:path="), "{refused}");
    assert!(refused.may_heal());
}

#[test]
fn slots_and_sessions_left_by_a_killed_worker_are_swept() {
    let machine = Machine::new();
    let hash_sequence = hex::decode("80010000000e000001860000000b").unwrap();
    let session = format!("80010000002b0000017640000007400000070010{}000000001000{}", "00".repeat(16), "0b");
    for _ in 0..3 {
        assert_eq!(machine.tpm.command(&hash_sequence).unwrap()[6..10], [0; 4]);
        assert_eq!(machine.tpm.command(&hex::decode(&session).unwrap()).unwrap()[6..10], [0; 4]);
    }
    let mut lane = machine.lane();
    lane.ensure_root().unwrap();
    assert_eq!(lane.wrap(b"secret", b"").map(|wrapped| lane.unwrap(&wrapped, b"").is_ok()), Ok(true));
    drop(lane);
    assert_eq!((machine.handles(0x8000_0000), machine.handles(0x0200_0000)), (0, 0));
}

#[test]
fn an_owner_with_an_authorisation_is_asked_for_it_by_name() {
    let machine = Machine::new();
    tool(&machine.tpm, "tpm2_changeauth -Q -c owner sesame", machine.dir.path());
    let refused = machine.lane().ensure_root().unwrap_err();
    assert!(
        matches!(&refused, Fault::Refused(Refusal::Other(why)) if why.contains("owner_auth_file")),
        "{refused:?}"
    );
    let mut config = machine.config.clone();
    let file = machine.dir.path().join("owner");
    std::fs::write(&file, "sesame\n").unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    if let TokenConfig::Tpm { owner_auth_file, .. } = &mut config {
        *owner_auth_file = Some(file);
    }
    let mut lane = connect(&config, None).unwrap().lanes().unwrap().pop().unwrap();
    lane.ensure_root().unwrap();
    lane.advance(&step(1, [0; 32])).unwrap();
    drop(lane);
    // Once enrolled, daily work needs no owner.
    machine.lane().advance(&step(2, step(1, [0; 32]).after)).unwrap();
}

fn foreign_root(machine: &Machine, options: &str) {
    let dir = machine.dir.path();
    tool(&machine.tpm, &format!("tpm2_createprimary -Q -C o -G ecc -c FILE/root {options}"), dir);
    tool(&machine.tpm, "tpm2_evictcontrol -Q -C o -c FILE/root 0x81000001", dir);
    tool(&machine.tpm, "tpm2_flushcontext -t", dir);
}

#[test]
fn an_authorisation_that_others_may_read_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let mut machine = Machine::new();
    let file = machine.dir.path().join("owner.auth");
    std::fs::write(&file, "a value").unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    if let TokenConfig::Tpm { owner_auth_file, .. } = &mut machine.config {
        *owner_auth_file = Some(file.clone());
    }
    let refused = connect(&machine.config, None).map(drop).unwrap_err().to_string();
    assert!(refused.contains("open to others"), "{refused}");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    connect(&machine.config, None).map(drop).unwrap();
}

#[test]
fn a_link_in_the_place_of_the_anchors_authorisation_is_neither_read_nor_written_through() {
    let machine = Machine::new();
    let (precious, beside) = (machine.dir.path().join("precious"), machine.dir.path().join("index.new"));
    std::fs::write(&precious, "as it was").unwrap();
    std::os::unix::fs::symlink(&precious, &beside).unwrap();
    machine.lane().advance(&step(1, [0; 32])).unwrap();
    assert_eq!(std::fs::read(&precious).unwrap(), b"as it was");
    let (file, moved) = (machine.dir.path().join("index.auth"), machine.dir.path().join("moved"));
    std::fs::rename(&file, &moved).unwrap();
    std::os::unix::fs::symlink(&moved, &file).unwrap();
    assert!(machine.lane().read().is_err(), "it was read through a link");
}

/// A sleep: the TPM forgets keys and sessions, and the connection lives on.
#[test]
fn a_tpm_that_was_reset_behind_our_back_is_lost_without_harm() {
    let machine = Machine::new();
    let mut lane = machine.lane();
    lane.ensure_root().unwrap();
    let kek = lane.create_kek(ID, "").unwrap();
    let wrapped = lane.wrap_under(&kek, b"secret", b"").unwrap();
    let key = lane.generate_hmac_key(ID, "").unwrap();
    lane.hmac_sha256(&key, b"text").unwrap();
    machine.tpm.reset().unwrap();
    let lost = lane.hmac_sha256(&key, b"text").unwrap_err();
    assert!(matches!(lost, Fault::Lost { harmless: true, .. }), "{lost:?}");
    let lost = lane.unwrap_under(&kek, &wrapped, b"").unwrap_err();
    assert!(matches!(lost, Fault::Lost { harmless: true, .. }), "{lost:?}");
    drop(lane);
    let mut lane = machine.lane();
    assert_eq!(lane.unwrap_under(&kek, &wrapped, b"").unwrap().as_slice(), b"secret");
}
