//! Names that people read, and frames that processes exchange: both survive the round trip, and neither takes rubbish.
//! Enters: every name, every word of the protocol, and random bytes.
//! Leaves: proof.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use hsm::ceremony::{Ceremony, Incoming};
use hsm::protocol::{Answer, Call, FRAME_BYTES_MAX, Request, Secret, next_frame, push_frame};
use hsm::{
    BackupKek, Custody, Fingerprint, ImportKey, Kek, KeyId, KeyKind, KeyRef, Limits, Oaep, Origin,
    Provenance, PublicKey, Refusal, Scheme, TokenConfig, TokenError,
};

#[test]
fn every_name_reads_back_as_itself() {
    for kind in KeyKind::ALL {
        assert_eq!(kind.to_string().parse::<KeyKind>().unwrap(), kind);
        let json = serde_json::to_string(&kind).unwrap();
        assert_eq!(json, format!("{:?}", kind.name()));
        assert_eq!(serde_json::from_str::<KeyKind>(&json).unwrap(), kind);
        assert!(kind.schemes().iter().all(|scheme| Scheme::ALL.contains(scheme)));
    }
    for scheme in Scheme::ALL {
        assert_eq!(scheme.to_string().parse::<Scheme>().unwrap(), scheme);
        assert_eq!(serde_json::to_string(&scheme).unwrap(), format!("{:?}", scheme.name()));
        assert!(KeyKind::ALL.iter().any(|kind| kind.schemes().contains(&scheme)), "{scheme} has no key");
    }
}

#[test]
fn an_unknown_name_is_answered_with_the_known_ones() {
    let fault = "p-256".parse::<KeyKind>().unwrap_err().to_string();
    assert_eq!(
        fault,
        "\"p-256\" is no key kind; one of these is: p256, p384, secp256k1, ed25519, rsa-2048, rsa-3072, rsa-4096"
    );
    assert!("P256".parse::<KeyKind>().is_err(), "names have one spelling");
}

#[test]
fn ids_and_fingerprints_are_hex_of_one_length() {
    let id = KeyId([0xab; 16]);
    assert_eq!(id.to_string().parse::<KeyId>().unwrap(), id);
    let print = Fingerprint([0xcd; 32]);
    assert_eq!(print.to_string().parse::<Fingerprint>().unwrap(), print);
    for bad in ["", "ab", &"ab".repeat(15), &"ab".repeat(17), &"zz".repeat(16), &"ä".repeat(16)] {
        assert!(bad.parse::<KeyId>().is_err(), "{bad:?}");
    }
}

#[test]
fn a_configuration_reads_from_toml_with_its_defaults_and_refuses_unknown_words() {
    let text = "kind = \"pkcs11\"\nmodule = \"/m.so\"\nserial = \"1\"\npin_file = \"/pin\"\n";
    let config: TokenConfig = toml::from_str(text).unwrap();
    assert_eq!(*config.limits(), Limits::default());
    assert!(!config.network());
    assert!(toml::from_str::<TokenConfig>(&format!("{text}pin = \"1234\"\n")).is_err());
    assert!(toml::from_str::<TokenConfig>(&format!("{text}[limits]\nqueue = 1\n")).is_err());
    let tpm: TokenConfig = toml::from_str("kind = \"tpm\"\ntcti = \"device:/dev/tpmrm0\"\n").unwrap();
    assert!(matches!(tpm, TokenConfig::Tpm { .. }));
}

#[test]
fn records_from_before_there_was_a_choice_of_custody_still_read() {
    let old = r#"{"local":true,"never_extractable":true,"always_sensitive":true,"token_serial":"1"}"#;
    let read: Provenance = serde_json::from_str(old).unwrap();
    assert_eq!((read.origin, read.custody), (Origin::Generated, Custody::NonExtractable));
    let text = serde_json::to_string(&read).unwrap();
    assert!(text.ends_with(r#""origin":"generated","custody":"non-extractable"}"#), "{text}");
    let key = r#"{"id":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1],"kind":"p256","fingerprint":[FF],"blob":[]}"#;
    let key = key.replace("FF", &["2"; 32].join(","));
    assert_eq!(serde_json::from_str::<KeyRef>(&key).unwrap().id, KeyId([1; 16]));
}

#[test]
fn every_ceremony_survives_its_frame_and_shows_no_secret() {
    let id = KeyId([1; 16]);
    let public = PublicKey { kind: KeyKind::P256, spki_der: vec![5; 91] };
    let label = "k".to_owned();
    let incoming = || Incoming {
        id,
        expected: public.clone(),
        wrapped: vec![6; 500],
        custody: Custody::Recoverable,
        label: label.clone(),
    };
    let key = KeyRef { id, kind: KeyKind::P256, fingerprint: public.fingerprint(), blob: vec![3; 9] };
    let (kek, under) = (Kek { id, blob: vec![4; 9] }, BackupKek { id });
    let with = ImportKey { id, public: public.clone(), oaep: Oaep::Sha1 };
    let (aad, secret, wrapped) = (vec![7; 3], Secret(b"hunter2".to_vec()), vec![8; 60]);
    let ceremonies = vec![
        Ceremony::Presence { id },
        Ceremony::DestroyHalf { id },
        Ceremony::CreateKek { id, label: label.clone() },
        Ceremony::FindKek { id },
        Ceremony::WrapUnder { kek: kek.clone(), secret, aad: aad.clone() },
        Ceremony::UnwrapUnder { kek: kek.clone(), wrapped, aad },
        Ceremony::DestroyKek { kek },
        Ceremony::CreateImportKey { id, label: label.clone() },
        Ceremony::FindImportKey { id },
        Ceremony::Import { with: with.clone(), incoming: incoming() },
        Ceremony::DestroyImportKey { key: with },
        Ceremony::GenerateRecoverable { id, kind: KeyKind::P384, label: label.clone() },
        Ceremony::CreateBackupKek { id, label: label.clone() },
        Ceremony::FindBackupKek { id },
        Ceremony::Export { key: key.clone(), under: under.clone() },
        Ceremony::Restore { under: under.clone(), incoming: incoming() },
        Ceremony::DestroyBackupKek { kek: under },
        Ceremony::Attest { key, nonce: [9; 32] },
        Ceremony::Takes { kind: KeyKind::Ed25519 },
    ];
    for (number, ceremony) in ceremonies.into_iter().enumerate() {
        assert!(
            !format!("{ceremony:?}").contains("hunter2") && !format!("{ceremony:?}").contains("104, 117")
        );
        let call = Call::Ceremony(Box::new(ceremony));
        let mut frame = Vec::new();
        push_frame(&mut frame, &Request { number: number as u64, deadline_ns: 1, call: call.clone() })
            .unwrap();
        let read: Request = next_frame(&frame, &mut 0).unwrap().unwrap();
        assert_eq!(read.call, call);
        // Their order is the wire's: each keeps its number for as long as the protocol keeps its version.
        assert_eq!(frame[4 + 2 + 1], u8::try_from(number).unwrap(), "{call:?}");
    }
}

fn a_request() -> Request {
    let key = KeyRef {
        id: KeyId([1; 16]),
        kind: KeyKind::Rsa3072,
        fingerprint: Fingerprint([2; 32]),
        blob: vec![3; 9],
    };
    Request {
        number: 7,
        deadline_ns: 9,
        call: Call::Sign { key, scheme: Scheme::ALL[7], input: vec![4; 48] },
    }
}

#[test]
fn frames_back_to_back_come_out_one_by_one() {
    let mut batch = Vec::new();
    for _ in 0..3 {
        push_frame(&mut batch, &a_request()).unwrap();
    }
    let mut at = 0;
    for _ in 0..3 {
        let read: Request = next_frame(&batch, &mut at).unwrap().unwrap();
        assert_eq!((read.number, read.call), (7, a_request().call));
    }
    assert_eq!(at, batch.len());
    assert!(next_frame::<Request>(&batch, &mut at).unwrap().is_none());
}

#[test]
fn a_frame_cut_anywhere_waits_for_the_rest() {
    let mut whole = Vec::new();
    push_frame(&mut whole, &a_request()).unwrap();
    for len in 0..whole.len() {
        let mut at = 0;
        assert!(next_frame::<Request>(&whole[..len], &mut at).unwrap().is_none(), "{len} bytes");
        assert_eq!(at, 0);
    }
}

#[test]
fn a_frame_that_claims_to_be_huge_is_refused_before_it_is_awaited() {
    let prefix = u32::try_from(FRAME_BYTES_MAX + 1).unwrap().to_le_bytes();
    assert!(next_frame::<Request>(&prefix, &mut 0).is_err());
    let mut batch = vec![1, 2, 3];
    let call = Call::Hmac {
        key: hsm::HmacKeyRef { id: KeyId([0; 16]), check: Fingerprint([0; 32]), blob: Vec::new() },
        data: vec![0; FRAME_BYTES_MAX],
    };
    assert!(push_frame(&mut batch, &Request { number: 1, deadline_ns: 9, call }).is_err());
    assert_eq!(batch, [1, 2, 3], "a refused frame leaves the batch as it was");
}

#[test]
fn random_bytes_never_crash_the_reader() {
    let mut bytes = vec![0; 4096];
    for round in 0..2_000_usize {
        aws_lc_rs::rand::fill(&mut bytes).unwrap();
        let len = round % 300;
        bytes[..4].copy_from_slice(&u32::try_from(len).unwrap().to_le_bytes());
        let _ = next_frame::<Request>(&bytes, &mut 0);
        let _ = next_frame::<Answer>(&bytes, &mut 0);
    }
}

#[test]
fn only_errors_of_calls_that_did_nothing_are_safe_to_retry() {
    let second = std::time::Duration::from_secs(1);
    let id = KeyId([0; 16]);
    let (expected, found) = (Fingerprint([1; 32]), Fingerprint([2; 32]));
    let safe =
        [TokenError::Busy { waited: second }, TokenError::Gone { retry_after: second }, TokenError::Expired];
    let unsafe_or_useless = [
        TokenError::OutcomeUnknown,
        TokenError::Refused(Refusal::TokenFull),
        TokenError::WrongKey { id, expected, found },
        TokenError::KeyMissing { id },
        TokenError::Unsupported { what: "x".to_owned() },
    ];
    assert!(safe.iter().all(TokenError::retry_is_safe));
    assert!(!unsafe_or_useless.iter().any(TokenError::retry_is_safe));
}
