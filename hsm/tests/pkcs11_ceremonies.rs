//! The rare acts on a real module, with its worker killed in the middle and its objects mutilated by a foreign tool.
//! Enters: SoftHSM through the real worker; pkcs11-tool.
//! Leaves: proof that one name holds one key, whatever happened before, and what a stranger reads of its attributes.
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod conformance;
mod host;

use std::time::Duration;

use conformance::outside::Outside;
use conformance::verify::assert_verifies;
use conformance::{GIVEN_UP, fresh_id, soon, until, until_ready_again};
use host::Host;
use hsm::{Custody, Kek, KeyId, KeyKind, NewKey, Presence, Refusal, SignInput, Token, TokenError};
use rustix::process::Signal;

const MESSAGE: &[u8] = b"pay 1.00 to bob";

async fn assert_signs(token: &Token, made: &NewKey) {
    let scheme = made.key.kind.schemes()[0];
    let signature =
        token.sign(&made.key, scheme, SignInput::Message(MESSAGE.to_vec()), soon()).await.unwrap();
    assert_verifies(&made.public, scheme, MESSAGE, &signature);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_while_it_makes_a_key_leaves_one_key_after_the_same_call_again() {
    let host = Host::new();
    let token = Token::start(host.config()).await.unwrap();
    let mut killed = 0;
    for (round, kind) in [KeyKind::Rsa4096, KeyKind::Rsa3072, KeyKind::Rsa4096].into_iter().enumerate() {
        let id = fresh_id();
        let worker = host::worker();
        let ticks = worker.cpu_ticks();
        let lost = {
            let token = token.clone();
            tokio::spawn(async move { token.generate(id, kind, "k", soon()).await })
        };
        until("the worker is at work", GIVEN_UP, || async { worker.cpu_ticks() > ticks + 2 }).await;
        worker.signal(Signal::KILL);
        match lost.await.unwrap() {
            Err(fault) => {
                assert_eq!(fault, TokenError::OutcomeUnknown);
                killed += 1;
            }
            // It was quicker than the kill.
            Ok(made) => assert_eq!(made.key.id, id),
        }
        until_ready_again(&token, round as u64 + 2, GIVEN_UP).await;
        let made = token.generate(id, kind, "k", soon()).await.unwrap();
        assert_eq!(host.objects(id), ["Private Key Object", "Public Key Object"]);
        assert_signs(&token, &made).await;
    }
    assert!(killed > 0, "no kill struck while a key was made");
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_pair_in_the_token_is_no_key_and_is_made_whole_by_asking_again() {
    let host = Host::new();
    let token = Token::start(host.config()).await.unwrap();
    for missing in ["privkey", "pubkey"] {
        let id = fresh_id();
        let first = token.generate(id, KeyKind::P256, "k", soon()).await.unwrap();
        host.delete_half(id, missing);
        assert_eq!(token.presence(id, soon()).await.unwrap(), Presence::Half, "without its {missing}");
        assert_eq!(token.find(id, soon()).await.unwrap(), None);
        let made = token.generate(id, KeyKind::P256, "k", soon()).await.unwrap();
        assert_ne!(made.key.fingerprint, first.key.fingerprint);
        assert_eq!(host.objects(id), ["Private Key Object", "Public Key Object"]);
        assert_signs(&token, &made).await;
        host.delete_half(id, missing);
        token.destroy_half(id, soon()).await.unwrap();
        assert_eq!(host.objects(id), [""; 0]);
    }
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kek_survives_its_worker_and_its_destruction_is_final() {
    let host = Host::new();
    let token = Token::start(host.config()).await.unwrap();
    let kek = token.create_kek(fresh_id(), "workspace", soon()).await.unwrap();
    let wrapped = token.wrap_under(&kek, b"data key", b"row", soon()).await.unwrap();
    host::worker().signal(Signal::KILL);
    until_ready_again(&token, 2, GIVEN_UP).await;
    assert_eq!(token.create_kek(kek.id, "workspace", soon()).await.unwrap(), kek);
    assert_eq!(host.objects(kek.id), ["Secret Key Object"]);
    assert_eq!(token.unwrap_under(&kek, &wrapped, b"row", soon()).await.unwrap().as_slice(), b"data key");
    let attributes = host.describe(kek.id).concat();
    for word in ["sensitive", "always sensitive", "never extractable", "local"] {
        assert!(attributes.contains(word), "{word} is missing in\n{attributes}");
    }
    token.destroy_kek(&kek, soon()).await.unwrap();
    assert_eq!(host.objects(kek.id), [""; 0]);
    host::worker().signal(Signal::KILL);
    until_ready_again(&token, 3, GIVEN_UP).await;
    let answer = token.unwrap_under(&kek, &wrapped, b"row", soon()).await;
    assert_eq!(answer, Err(TokenError::KeyMissing { id: kek.id }));
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_someone_knows_put_in_a_keks_place_is_not_used() {
    let host = Host::new();
    let token = Token::start(host.config()).await.unwrap();
    let id = fresh_id();
    host.plant_secret_key(id, &[9; 32]);
    let planted = Kek { id, blob: Vec::new() };
    let answer = token.wrap_under(&planted, b"data key", b"", soon()).await.unwrap_err();
    assert!(answer.to_string().contains("was not made here"), "{answer:?}");
    let answer = token.create_kek(id, "workspace", soon()).await;
    assert_eq!(answer, Err(TokenError::Refused(Refusal::KeyExists { id })), "nor taken for ours");
    assert!(token.destroy_kek(&planted, soon()).await.is_err(), "nor called gone while something is there");
    assert_eq!(host.objects(id), ["Secret Key Object"], "nor destroyed in place of ours");
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_products_own_keys_are_no_ones_kek() {
    let host = Host::new();
    let token = Token::start(host.config()).await.unwrap();
    let root = token.ensure_root(soon()).await.unwrap();
    let wrapped = token.wrap(b"master", b"", soon()).await.unwrap();
    let posing = Kek { id: KeyId(root.id.clone().try_into().unwrap()), blob: Vec::new() };
    assert!(token.destroy_kek(&posing, soon()).await.is_err());
    assert!(token.wrap_under(&posing, b"x", b"", soon()).await.is_err());
    assert_eq!(token.unwrap(&wrapped, b"", soon()).await.unwrap().as_slice(), b"master");
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_reads_of_each_key_what_its_record_says() {
    let host = Host::new();
    let token = Token::start(host.config()).await.unwrap();
    let kind = KeyKind::P256;
    let kept = token.generate(fresh_id(), kind, "kept", soon()).await.unwrap();
    let loose = token.generate_in(fresh_id(), kind, Custody::Recoverable, "loose", soon()).await.unwrap();
    let with = token.create_import_key(fresh_id(), "door", soon()).await.unwrap();
    let outside = Outside::make(kind);
    let wrapped = outside.wrapped_for(&with);
    let taken =
        token.import_key(&with, fresh_id(), &outside.public, &wrapped, "taken", soon()).await.unwrap();
    let access = |id: KeyId| {
        let private = host.describe(id).into_iter().find(|object| object.starts_with("Private")).unwrap();
        let line = private.lines().find_map(|line| line.trim().strip_prefix("Access:")).unwrap().to_owned();
        line.split(',').map(|word| word.trim().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(access(kept.key.id), ["sensitive", "always sensitive", "never extractable", "local"]);
    assert_eq!(access(loose.key.id), ["sensitive", "always sensitive", "extractable", "local"]);
    assert_eq!(access(taken.key.id), ["sensitive"]);
    assert_eq!(access(with.id), ["sensitive", "always sensitive", "never extractable", "local"]);
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kind_that_the_token_does_not_wrap_is_refused_before_and_after_it_was_sent_and_never_made() {
    let host = Host::new();
    let token = Token::start(host.config()).await.unwrap();
    let (kind, custody) = (KeyKind::Ed25519, Custody::Recoverable);
    let (made, taken) = (fresh_id(), fresh_id());
    let told = |answer: Result<(), TokenError>| match answer {
        Err(TokenError::Unsupported { what }) => what,
        other => panic!("{other:?}; if SoftHSM wraps Ed25519 keys now, take another kind"),
    };
    assert_eq!(told(token.import_takes(kind, soon()).await), "import of ed25519 keys");
    let with = token.create_import_key(fresh_id(), "door", soon()).await.unwrap();
    let outside = Outside::make(kind);
    let wrapped = outside.wrapped_for(&with);
    let sent = token.import_key(&with, taken, &outside.public, &wrapped, "x", soon()).await;
    assert_eq!(told(sent.map(drop)), "import of ed25519 keys");
    let asked = token.generate_in(made, kind, custody, "x", soon()).await;
    assert_eq!(told(asked.map(drop)), "backup of ed25519 keys");
    for id in [made, taken] {
        assert_eq!(host.objects(id), [""; 0], "nothing of it stays");
    }
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_killed_amid_imports_and_restores_leaves_one_key_after_the_same_call_again() {
    let host = Host::new();
    let token =
        Token::start(host.config_with(|config| config.limits.restart_pause_ms_max = 50)).await.unwrap();
    let (with, kek) = (fresh_id(), fresh_id());
    let outside = Outside::make(KeyKind::Rsa2048);
    let with = token.create_import_key(with, "door", soon()).await.unwrap();
    let wrapped = outside.wrapped_for(&with);
    let kek = token.create_backup_kek(kek, "backup", soon()).await.unwrap();
    let custody = Custody::Recoverable;
    let made = token.generate_in(fresh_id(), KeyKind::P256, custody, "k", soon()).await.unwrap();
    let backup = token.wrap_export(&made.key, &kek, soon()).await.unwrap();
    for round in 0..12_u64 {
        let (import_id, restore_id) = (fresh_id(), fresh_id());
        let import = || token.import_key(&with, import_id, &outside.public, &wrapped, "i", soon());
        let restore = || token.unwrap_restore(&kek, restore_id, &made.public, &backup, custody, "r", soon());
        let worker = host::worker();
        // The kill comes a little later each time, so that it strikes before, amid and after.
        let kill = async {
            tokio::time::sleep(Duration::from_micros(300 * round)).await;
            worker.signal(Signal::KILL);
        };
        let (imported, restored, ()) = tokio::join!(import(), restore(), kill);
        for lost in [imported.err(), restored.err()].into_iter().flatten() {
            assert!(matches!(lost, TokenError::OutcomeUnknown | TokenError::Gone { .. }), "{lost:?}");
        }
        until_ready_again(&token, round + 2, GIVEN_UP).await;
        let (imported, restored) = (import().await.unwrap(), restore().await.unwrap());
        for made in [imported, restored] {
            assert_eq!(host.objects(made.key.id), ["Private Key Object", "Public Key Object"]);
            assert_signs(&token, &made).await;
        }
    }
    token.close().await;
}
