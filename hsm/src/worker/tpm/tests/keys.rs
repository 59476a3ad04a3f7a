//! Keys: every kind signs, others check; blobs that are not this TPM's are refused.
//! In come lanes on a fresh swtpm each.
//! Out goes proof, or the name of the promise that was broken.

use aws_lc_rs::signature as check;
use hsm::backend::Fault;
use hsm::{Hash, KeyId, KeyKind, Scheme};

use super::{ID, Machine};

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
fn a_destroyed_key_leaves_its_slot_at_once() {
    let machine = Machine::new();
    let mut lane = machine.lane();
    let key = lane.generate(ID, KeyKind::P256, "").unwrap().key;
    lane.sign(&key, Scheme::EcdsaSha256, &[1; 32]).unwrap();
    assert_eq!(machine.handles(0x8000_0000), 1, "it is not loaded, so this proves nothing");
    lane.destroy(&key).unwrap();
    assert_eq!(machine.handles(0x8000_0000), 0, "its private half is still in the TPM");
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
