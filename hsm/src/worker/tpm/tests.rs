//! Promises of the TPM back-end, kept on a real swtpm, one per test.
//! In come lanes, connected as the worker connects them.
//! Out goes trust in each file of this folder; what needs a supervisor is promised in the crate's own tests.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature as check;
use hsm::backend::{Backend, Fault, Lane};
use hsm::{AnchorStep, Hash, KeyId, KeyKind, Refusal, Scheme, TokenConfig};
use simulators::Swtpm;
use tempfile::TempDir;

use super::connect;

const ID: KeyId = KeyId([7; 16]);

#[test]
fn every_kind_signs_with_every_scheme_and_others_can_check_it() {
    let machine = Machine::new();
    let mut lane = machine.lane();
    for kind in [KeyKind::P256, KeyKind::P384, KeyKind::Rsa2048] {
        let made = lane.generate(ID, kind, "a label").unwrap();
        for scheme in kind.schemes() {
            let message = b"the message";
            let digest = scheme.hash().unwrap().digest(message);
            let signature = lane.sign(&made.key, *scheme, &digest).unwrap();
            assert_eq!(signature.len(), kind.signature_len());
            verify(*scheme, &made.public.spki_der, message, &signature);
        }
    }
}

#[test]
fn a_new_key_is_local_fixed_and_bound_to_this_chip() {
    let machine = Machine::new();
    let made = machine.lane().generate(ID, KeyKind::P256, "").unwrap();
    assert!(made.provenance.local && made.provenance.never_extractable && made.provenance.always_sensitive);
    assert_eq!(made.provenance.token_serial, machine.connect().probe().serial);
    assert_eq!(made.key.fingerprint, made.public.fingerprint());
}

#[test]
fn kinds_no_tpm_has_are_refused_by_name() {
    let machine = Machine::new();
    let mut tpm = machine.connect();
    let probe = tpm.probe();
    let mut lane = tpm.lanes().unwrap().pop().unwrap();
    for kind in [KeyKind::Secp256k1, KeyKind::Ed25519, KeyKind::Rsa3072, KeyKind::Rsa4096] {
        let refused = lane.generate(ID, kind, "").unwrap_err();
        assert_eq!(refused, Fault::Unsupported { what: format!("{kind} keys") });
        assert!(!probe.kinds.contains(&kind));
    }
}

#[test]
fn two_hundred_operations_leave_no_slot_taken() {
    let machine = Machine::new();
    let mut lane = machine.lane();
    let keys: Vec<_> = (0..5).map(|_| lane.generate(ID, KeyKind::P256, "").unwrap().key).collect();
    let wrapped = lane.wrap(b"secret", b"row").unwrap();
    for turn in 0..200 {
        match turn % 4 {
            0 | 1 => drop(lane.sign(&keys[turn % 5], Scheme::EcdsaSha256, &[turn as u8; 32]).unwrap()),
            2 => drop(lane.unwrap(&wrapped, b"row").unwrap()),
            _ => drop(lane.attest().unwrap().quote([0; 32]).unwrap()),
        }
    }
    drop(lane);
    assert_eq!(machine.handles(0x8000_0000), 0, "transient objects");
    assert_eq!(machine.handles(0x0200_0000), 0, "sessions");
}

#[test]
fn a_key_of_another_tpm_is_missing_and_not_used() {
    let (home, abroad) = (Machine::new(), Machine::new());
    let key = home.lane().generate(ID, KeyKind::P256, "").unwrap().key;
    let mut lane = abroad.lane();
    lane.ensure_root().unwrap();
    let refused = lane.sign(&key, Scheme::EcdsaSha256, &[1; 32]).unwrap_err();
    assert_eq!(refused, Fault::KeyMissing { id: ID });
}

#[test]
fn another_key_behind_the_right_name_is_refused() {
    let machine = Machine::new();
    let mut lane = machine.lane();
    let (mut one, two) = (
        lane.generate(ID, KeyKind::P256, "").unwrap().key,
        lane.generate(ID, KeyKind::P256, "").unwrap().key,
    );
    one.blob = two.blob;
    let refused = lane.sign(&one, Scheme::EcdsaSha256, &[1; 32]).unwrap_err();
    assert_eq!(refused, Fault::WrongKey { id: ID, expected: one.fingerprint, found: two.fingerprint });
}

#[test]
fn a_blob_with_any_byte_changed_is_refused() {
    let machine = Machine::new();
    let mut lane = machine.lane();
    let key = lane.generate(ID, KeyKind::P256, "").unwrap().key;
    for place in (0..key.blob.len()).step_by(13) {
        let mut bent = key.clone();
        bent.blob[place] ^= 1;
        assert!(lane.sign(&bent, Scheme::EcdsaSha256, &[1; 32]).is_err(), "byte {place}");
    }
}

#[test]
fn hmacs_of_any_length_equal_those_of_one_stroke() {
    let machine = Machine::new();
    let mut lane = machine.lane();
    let key = lane.generate_hmac_key(ID, "").unwrap();
    let short = lane.hmac_sha256(&key, b"payload").unwrap();
    assert_eq!(lane.hmac_sha256(&key, b"payload").unwrap(), short);
    let long = vec![9; 5000];
    let whole = lane.hmac_sha256(&key, &long).unwrap();
    assert_eq!(lane.hmac_sha256(&key, &long).unwrap(), whole);
    assert_ne!(lane.hmac_sha256(&key, &long[..4999]).unwrap(), whole);
    let other = lane.generate_hmac_key(KeyId([8; 16]), "").unwrap();
    assert_ne!(lane.hmac_sha256(&other, &long).unwrap(), whole);
}

#[test]
fn random_bytes_come_in_any_number_and_differ() {
    let machine = Machine::new();
    let mut lane = machine.lane();
    for length in [1, 32, 33, 1000] {
        assert_eq!(lane.random(length).unwrap().len(), length);
    }
    assert_ne!(lane.random(32).unwrap(), lane.random(32).unwrap());
}

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
    let mut lane = connect(&stranger).unwrap().lanes().unwrap().pop().unwrap();
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
fn an_absent_tpm_is_said_to_be_absent() {
    let mut machine = Machine::new();
    machine.tpm.kill();
    let refused = connect(&machine.config).err().unwrap();
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
    if let TokenConfig::Tpm { owner_auth_file, .. } = &mut config {
        *owner_auth_file = Some(file);
    }
    let mut lane = connect(&config).unwrap().lanes().unwrap().pop().unwrap();
    lane.ensure_root().unwrap();
    lane.advance(&step(1, [0; 32])).unwrap();
    drop(lane);
    // Once enrolled, daily work needs no owner.
    machine.lane().advance(&step(2, step(1, [0; 32]).after)).unwrap();
}

/// A machine with a TPM in it.
struct Machine {
    tpm: Swtpm,
    config: TokenConfig,
    dir: TempDir,
}

impl Machine {
    fn new() -> Self {
        Self::with(|_| ())
    }

    fn with(change: impl FnOnce(&mut TokenConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let tpm = Swtpm::start(dir.path().join("tpm")).unwrap();
        let auth = dir.path().join("index.auth");
        let text = serde_json::json!({ "kind": "tpm", "tcti": tpm.tcti(), "index_auth_file": auth });
        let mut config = serde_json::from_value(text).unwrap();
        change(&mut config);
        Self { tpm, config, dir }
    }

    fn connect(&self) -> Box<dyn Backend> {
        connect(&self.config).unwrap()
    }

    fn lane(&self) -> Box<dyn Lane> {
        self.connect().lanes().unwrap().pop().unwrap()
    }

    fn handles(&self, range: u32) -> u32 {
        let answer = self.capability(1, range);
        u32::from_be_bytes(answer[15..19].try_into().unwrap())
    }

    fn lockout_counter(&self) -> u32 {
        const LOCKOUT_COUNTER: u32 = 0x20e;
        let answer = self.capability(6, LOCKOUT_COUNTER);
        assert_eq!(u32::from_be_bytes(answer[19..23].try_into().unwrap()), LOCKOUT_COUNTER);
        u32::from_be_bytes(answer[23..27].try_into().unwrap())
    }

    fn capability(&self, capability: u32, property: u32) -> Vec<u8> {
        let mut command = vec![0x80, 0x01, 0, 0, 0, 22, 0, 0, 0x01, 0x7a];
        for word in [capability, property, 1] {
            command.extend(word.to_be_bytes());
        }
        self.tpm.command(&command).unwrap()
    }
}

fn foreign_root(machine: &Machine, options: &str) {
    let dir = machine.dir.path();
    tool(&machine.tpm, &format!("tpm2_createprimary -Q -C o -G ecc -c FILE/root {options}"), dir);
    tool(&machine.tpm, "tpm2_evictcontrol -Q -C o -c FILE/root 0x81000001", dir);
    tool(&machine.tpm, "tpm2_flushcontext -t", dir);
}

fn step(k: u64, before: [u8; 32]) -> AnchorStep {
    let by = Hash::Sha256.digest(&k.to_be_bytes()).try_into().unwrap();
    let after = Hash::Sha256.digest(&[before, by].concat()).try_into().unwrap();
    AnchorStep { k, size: k, root: [0; 32], digest: by, before, after }
}

fn verify(scheme: Scheme, spki: &[u8], message: &[u8], signature: &[u8]) {
    let algorithm: &dyn check::VerificationAlgorithm = match scheme {
        Scheme::EcdsaSha256 => &check::ECDSA_P256_SHA256_FIXED,
        Scheme::EcdsaSha384 => &check::ECDSA_P384_SHA384_FIXED,
        Scheme::RsaPkcs1(Hash::Sha256) => &check::RSA_PKCS1_2048_8192_SHA256,
        Scheme::RsaPkcs1(Hash::Sha384) => &check::RSA_PKCS1_2048_8192_SHA384,
        Scheme::RsaPkcs1(Hash::Sha512) => &check::RSA_PKCS1_2048_8192_SHA512,
        Scheme::RsaPss(Hash::Sha256) => &check::RSA_PSS_2048_8192_SHA256,
        Scheme::RsaPss(Hash::Sha384) => &check::RSA_PSS_2048_8192_SHA384,
        Scheme::RsaPss(Hash::Sha512) => &check::RSA_PSS_2048_8192_SHA512,
        Scheme::Ed25519 => panic!("no TPM has it"),
    };
    check::UnparsedPublicKey::new(algorithm, spki).verify(message, signature).unwrap();
}

fn check_der(spki: &[u8], message: &[u8], signature: &[u8]) {
    check::UnparsedPublicKey::new(&check::ECDSA_P256_SHA256_ASN1, spki).verify(message, signature).unwrap();
}

fn holds(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

fn tool(tpm: &Swtpm, line: &str, dir: &std::path::Path) {
    let line = line.replace("FILE", &dir.display().to_string());
    let mut words = line.split(' ');
    let output = std::process::Command::new(words.next().unwrap())
        .args(words)
        .env("TPM2TOOLS_TCTI", tpm.tcti())
        .output()
        .expect("tpm2-tools is not installed: run `apt-get install tpm2-tools`");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}
