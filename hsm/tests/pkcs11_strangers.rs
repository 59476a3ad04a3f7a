//! What others put into the token, with and without its PIN: it is named, and changes nothing.
//! Enters: a real SoftHSM, and `pkcs11-tool` in a stranger's hands.
//! Leaves: proof that no object is believed by its name.
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod conformance;
mod host;

use std::time::Duration;

use conformance::verify::aws_lc_accepts;
use conformance::{fresh_id, soon, until_ready_again};
use host::Host;
use hsm::{
    AnchorStep, Hash, KeyKind, NewKey, Refusal, RootPin, RootTag, Scheme, SignInput, Token, TokenError,
};
use rustix::process::Signal;

const TAG: RootTag = RootTag(*b"tag-01");
const OTHER: RootTag = RootTag(*b"tag-02");
const MESSAGE: &[u8] = b"pay 1.00 to bob";
const LEGACY_ROOT: &[u8; 16] = b"chancery-root-v\x01";

fn root_id(tag: RootTag, number: u8) -> String {
    hex::encode([b"chancery-".as_slice(), &tag.0, &[number]].concat())
}

fn step(k: u64, before: [u8; 32]) -> AnchorStep {
    let digest = Hash::Sha256.digest(&k.to_be_bytes()).try_into().unwrap();
    let after = Hash::Sha256.digest(&[before, digest].concat()).try_into().unwrap();
    AnchorStep { k, size: k, root: [0; 32], digest, before, after }
}

/// An anchor's value as the product writes it, at a step that is far away.
fn far_away() -> Vec<u8> {
    [b"chancery.hsm.anchor.v1".as_slice(), &(1_u64 << 62).to_be_bytes(), &[0; 8], &[0; 32], &[9; 32]].concat()
}

async fn restart(token: &Token, generation: u64) {
    host::worker().signal(Signal::KILL);
    until_ready_again(token, generation, Duration::from_secs(20)).await;
}

async fn signs(token: &Token, made: &NewKey) {
    let key = made.key.clone().knowing(&made.public.spki_der);
    let scheme = made.key.kind.schemes()[0];
    let signature = token.sign(&key, scheme, SignInput::Message(MESSAGE.to_vec()), soon()).await.unwrap();
    assert!(aws_lc_accepts(&made.public, scheme, MESSAGE, &signature));
}

/// Plants what a stranger can, everywhere where the product looks.
fn plant(host: &Host, made: &NewKey) {
    let known = host.file("known", &[9; 32]);
    let roots = [
        hex::encode(LEGACY_ROOT),
        hex::encode(b"chancery-root-v\xff"),
        root_id(TAG, 1),
        root_id(TAG, 2),
        root_id(TAG, 0xff),
    ];
    for id in roots {
        let key = ["--write-object", &known, "--type", "secrkey", "--key-type", "AES:32"];
        host.stranger(&[&key[..], &["--id", &id, "--label", "chancery-root"]].concat());
    }
    plant_certificates(host, &[&made.key.id.to_string(), &root_id(TAG, 1), &hex::encode(LEGACY_ROOT)]);
    let anchor = host.file("anchor", &far_away());
    for application in ["chancery.anchor".to_owned(), format!("chancery.anchor.{}", hex::encode(TAG.0))] {
        let data = ["--write-object", &anchor, "--type", "data", "--label", "chancery-anchor-stray"];
        host.stranger(&[&data[..], &["--application-label", &application]].concat());
    }
    plant_public(host, made, "stray");
}

/// Certificates under ids of ours, and under labels of ours.
fn plant_certificates(host: &Host, ids: &[&str]) {
    let certificate = host.certificate();
    for (id, label) in ids.iter().zip(["k", "chancery-root", "chancery appliance log"].iter().cycle()) {
        host.stranger(&["--write-object", &certificate, "--type", "cert", "--id", id, "--label", label]);
    }
}

/// Another's public key, twice, under the key's own id.
fn plant_public(host: &Host, made: &NewKey, label: &str) {
    let id = made.key.id.to_string();
    let stray = host.file("stray.der", &hex::decode(STRAY_P256).unwrap());
    for label in [label, "another"] {
        host.stranger(&["--write-object", &stray, "--type", "pubkey", "--id", &id, "--label", label]);
    }
}

/// Somebody's P-256 key: the base point of the curve, SPKI.
const STRAY_P256: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stranger_planted_before_the_root_was_made_is_not_taken_for_it() {
    let host = Host::new();
    let known = host.file("known", &[9; 32]);
    for id in [hex::encode(LEGACY_ROOT), root_id(TAG, 1)] {
        let key = ["--write-object", &known, "--type", "secrkey", "--key-type", "AES:32"];
        host.stranger(&[&key[..], &["--id", &id, "--label", "chancery-root"]].concat());
    }
    let token = Token::start(host.config()).await.unwrap();
    assert!(token.make_root(TAG, soon()).await.unwrap().created, "a planted key was taken for the root");
    let wrapped = token.wrap(b"master", b"aad", soon()).await.unwrap();
    assert!(!opens_with(&[9; 32], &wrapped), "the master key opens under a key that somebody knows");
    assert_eq!(token.unwrap(&wrapped, b"aad", soon()).await.unwrap().as_slice(), b"master");
    token.close().await;

    let unnamed = Token::start(host.config()).await.unwrap();
    assert!(unnamed.ensure_root(soon()).await.unwrap().created, "nor by the name that roots had at first");
    unnamed.close().await;
}

/// GCM under a known key, wherever in the bytes vector and text may begin.
fn opens_with(key: &[u8; 32], wrapped: &[u8]) -> bool {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
    (0..wrapped.len().saturating_sub(28)).any(|at| {
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
        let nonce = Nonce::try_assume_unique_for_key(&wrapped[at..at + 12]).unwrap();
        key.open_in_place(nonce, Aad::empty(), &mut wrapped[at + 12..].to_vec()).is_ok()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_stranger_plants_on_a_running_token_is_named_and_changes_nothing() {
    let host = Host::new();
    let token = Token::start(host.config()).await.unwrap();
    token.make_root(TAG, soon()).await.unwrap();
    let wrapped = token.wrap(b"master", b"", soon()).await.unwrap();
    let first = step(1, [0; 32]);
    token.anchor_advance(first.clone(), soon()).await.unwrap();
    let made = token.generate(fresh_id(), KeyKind::P256, "k", soon()).await.unwrap();
    let rsa = token.generate(fresh_id(), KeyKind::Rsa2048, "r", soon()).await.unwrap();
    plant(&host, &made);
    plant_public(&host, &rsa, "stray");

    for generation in 2..4 {
        restart(&token, generation).await;
        assert_eq!(token.unwrap(&wrapped, b"", soon()).await.unwrap().as_slice(), b"master");
        let reading = token.anchor_read(soon()).await.unwrap();
        assert_eq!(
            (reading.head, reading.steps),
            (Some(first.after), Some(1)),
            "a planted step was believed"
        );
        signs(&token, &made).await;
        signs(&token, &rsa).await;
        assert_eq!(token.find(made.key.id, soon()).await.unwrap().as_ref(), Some(&made.public));
    }
    token.anchor_advance(step(2, first.after), soon()).await.unwrap();

    let told = token.probe().to_string();
    for named in [
        "secrkey",
        "data",
        "the cert with id",
        "chancery-root",
        "chancery-anchor-stray",
        &made.key.id.to_string(),
    ] {
        assert!(told.contains(named), "{named} is not named in\n{told}");
    }
    token.destroy(&made.key.clone().knowing(&made.public.spki_der), soon()).await.unwrap();
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_root_of_the_same_name_made_with_the_pin_does_not_stop_the_right_one() {
    for pinned in [true, false] {
        let host = Host::new();
        let token = Token::start(host.config()).await.unwrap();
        let root = token.ensure_root(soon()).await.unwrap();
        let wrapped = token.wrap(b"master", b"", soon()).await.unwrap();
        let other = token.make_root(OTHER, soon()).await.unwrap();
        token.close().await;
        let (id, other) = (hex::encode(&root.id), hex::encode(&other.id));
        host.tool(&["--type", "secrkey", "--id", &other, "--set-id", &id]);
        let pin = pinned.then(|| root.pin());
        let token = Token::start_with(host.config(), pin).await.unwrap();
        assert_eq!(token.unwrap(&wrapped, b"", soon()).await.unwrap().as_slice(), b"master");
        let wrapped = token.wrap(b"again", b"", soon()).await.unwrap();
        token.close().await;
        let token = Token::start_with(host.config(), Some(root.pin())).await.unwrap();
        assert_eq!(token.unwrap(&wrapped, b"", soon()).await.unwrap().as_slice(), b"again", "{pinned}");
        let told = token.probe().foreign.clone();
        token.close().await;
        let strays: Vec<_> = told.iter().filter(|words| words.contains("is not it")).collect();
        assert_eq!(strays.len(), 1, "the stray, and it alone, is named: {told:?}");
        assert!(strays[0].contains(&id) && strays[0].contains("`chancery-root`"), "{strays:?}");
        assert!(!strays[0].contains("check value none"), "{strays:?}");
    }
}

/// `3 | id | length of the vector | vector | text` as it is now; `1 | number | vector | text` as it was at first.
fn as_at_first(wrapped: &[u8]) -> Vec<u8> {
    let (id, sealed) = wrapped[1..].split_at(16);
    assert_eq!((wrapped[0], sealed[0], id), (3, 12, LEGACY_ROOT.as_slice()), "it is laid out otherwise");
    [&[1, id[15]], &sealed[1..]].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_appliance_closed_before_roots_had_tags_opens_whatever_was_planted_since() {
    let host = Host::new();
    let token = Token::start(host.config()).await.unwrap();
    let root = token.ensure_root(soon()).await.unwrap();
    assert_eq!(root.id, LEGACY_ROOT);
    let wrapped = as_at_first(&token.wrap(b"master", b"aad", soon()).await.unwrap());
    let first = step(1, [0; 32]);
    token.anchor_advance(first.clone(), soon()).await.unwrap();
    token.close().await;
    let known = host.file("known", &[9; 32]);
    for id in [hex::encode(LEGACY_ROOT), hex::encode(b"chancery-root-v\xff")] {
        let key = ["--write-object", &known, "--type", "secrkey", "--key-type", "AES:32"];
        host.stranger(&[&key[..], &["--id", &id, "--label", "chancery-root"]].concat());
    }
    for pin in [None, Some(root.pin())] {
        let token = Token::start_with(host.config(), pin).await.unwrap();
        assert_eq!(token.unwrap(&wrapped, b"aad", soon()).await.unwrap().as_slice(), b"master");
        assert_eq!(token.anchor_read(soon()).await.unwrap().head, Some(first.after));
        // What is closed from now on opens as well, and the record that the next start makes is of this root.
        let again = token.wrap(b"again", b"aad", soon()).await.unwrap();
        assert_eq!(token.unwrap(&again, b"aad", soon()).await.unwrap().as_slice(), b"again");
        assert_eq!(token.ensure_root(soon()).await.unwrap().id, LEGACY_ROOT);
        token.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_that_is_not_the_recorded_one_closes_nothing() {
    let host = Host::new();
    let token = Token::start(host.config()).await.unwrap();
    let root = token.make_root(TAG, soon()).await.unwrap();
    let other = token.make_root(OTHER, soon()).await.unwrap();
    token.close().await;
    let confused = RootPin { id: root.id, check: other.check };
    let token = Token::start_with(host.config(), Some(confused)).await.unwrap();
    let refused = token.wrap(b"master", b"", soon()).await.unwrap_err();
    assert_eq!(refused, TokenError::Refused(Refusal::RootMissing));
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_appliances_share_a_token_and_one_that_came_to_nothing_leaves_nothing() {
    let host = Host::new();
    let (one, two) = (Token::start(host.config()).await.unwrap(), Token::start(host.config()).await.unwrap());
    let root = one.make_root(TAG, soon()).await.unwrap();
    two.make_root(OTHER, soon()).await.unwrap();
    let (mine, theirs) = (step(1, [0; 32]), step(1, [0; 32]));
    one.anchor_advance(mine.clone(), soon()).await.unwrap();
    assert!(two.anchor_read(soon()).await.unwrap().missing, "another's anchor is not ours");
    two.anchor_advance(theirs, soon()).await.unwrap();
    two.anchor_advance(step(2, mine.after), soon()).await.unwrap();
    assert_eq!(one.anchor_read(soon()).await.unwrap().steps, Some(1));
    let wrapped = one.wrap(b"master", b"", soon()).await.unwrap();
    two.unmake_root(OTHER, soon()).await.unwrap();
    two.unmake_root(OTHER, soon()).await.unwrap();
    assert_eq!(one.unwrap(&wrapped, b"", soon()).await.unwrap().as_slice(), b"master");
    assert!(one.unmake_root(RootTag::UNNAMED, soon()).await.is_err(), "nor is an old appliance's taken away");
    one.close().await;
    two.close().await;
    let left = host.tool(&["--list-objects"]);
    assert!(!left.contains(&root_id(OTHER, 1)) && !left.contains(&hex::encode(OTHER.0)), "{left}");
    assert!(left.contains(&hex::encode(&root.id)), "{left}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_of_a_key_is_told_by_name_and_a_sound_key_has_none() {
    use hsm::KeyFault::{PrivateDoubled, PrivateMismatch, PrivateMissing, PublicMismatch, PublicMissing};
    for (kind, like) in [(KeyKind::P256, "EC:prime256v1"), (KeyKind::Rsa2048, "rsa:2048")] {
        let host = Host::new();
        let token = Token::start(host.config()).await.unwrap();
        let made = token.generate(fresh_id(), kind, "k", soon()).await.unwrap();
        let (id, key) = (made.key.id.to_string(), made.key.clone().knowing(&made.public.spki_der));
        let faults = || async { token.examine(&key, soon()).await.unwrap() };
        assert_eq!(faults().await, []);
        plant_public(&host, &made, "stray");
        restart(&token, 2).await;
        assert_eq!(faults().await, [PublicMismatch]);
        host.tool(&["--keypairgen", "--key-type", like, "--id", &id, "--label", "k"]);
        restart(&token, 3).await;
        assert_eq!(faults().await, [PrivateDoubled, PublicMismatch]);
        assert_eq!(faults().await, [PrivateDoubled, PublicMismatch], "once it was recognised");
        signs(&token, &made).await;
        // Its own, the two strays and the one of the second pair.
        for _ in 0..4 {
            host.delete_half(made.key.id, "pubkey");
        }
        restart(&token, 4).await;
        assert_eq!(faults().await, [PrivateDoubled, PublicMissing]);
        host.delete_half(made.key.id, "privkey");
        host.delete_half(made.key.id, "privkey");
        assert_eq!(faults().await, [PrivateMissing, PublicMissing], "while its handle is still remembered");
        host.tool(&["--keypairgen", "--key-type", like, "--id", &id, "--label", "k"]);
        restart(&token, 5).await;
        assert_eq!(faults().await, [PrivateMismatch, PublicMissing, PublicMismatch]);
        assert!(PrivateMissing.prevents_use() && PrivateMismatch.prevents_use());
        assert!(![PrivateDoubled, PublicMissing, PublicMismatch].iter().any(|fault| fault.prevents_use()));
        token.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_signs_by_its_private_half_alone_and_by_the_right_one_of_several() {
    for kind in [KeyKind::P256, KeyKind::Rsa2048] {
        let host = Host::new();
        let token = Token::start(host.config()).await.unwrap();
        let made = token.generate(fresh_id(), kind, "k", soon()).await.unwrap();
        let id = made.key.id.to_string();
        host.delete_half(made.key.id, "pubkey");
        restart(&token, 2).await;
        signs(&token, &made).await;
        let like = if kind == KeyKind::P256 { "EC:prime256v1" } else { "rsa:2048" };
        for _ in 0..3 {
            host.tool(&["--keypairgen", "--key-type", like, "--id", &id, "--label", "k"]);
        }
        restart(&token, 3).await;
        signs(&token, &made).await;
        assert!(token.probe().to_string().contains(&id), "the doubled halves are not named");
        token.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reference_without_its_public_half_is_not_fooled_by_strays() {
    let host = Host::new();
    let token = Token::start(host.config()).await.unwrap();
    let made = token.generate(fresh_id(), KeyKind::P256, "k", soon()).await.unwrap();
    plant_public(&host, &made, "stray");
    restart(&token, 2).await;
    let input = SignInput::Message(MESSAGE.to_vec());
    let signature = token.sign(&made.key, Scheme::EcdsaSha256, input, soon()).await.unwrap();
    assert!(aws_lc_accepts(&made.public, Scheme::EcdsaSha256, MESSAGE, &signature));
    token.close().await;
}
