//! The rare acts behind a module that dies at the worst instant, or makes keys looser than it was asked to.
//! Enters: SoftHSM behind a module of ours that is told what to do.
//! Leaves: proof that the same call again ends with one key, and that a loose key does not stay.
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod bad;
mod conformance;
mod host;

use bad::Bad;
use conformance::outside::Outside;
use conformance::verify::assert_verifies;
use conformance::{GIVEN_UP, fresh_id, soon, until_ready_again};
use hsm::{Custody, KeyKind, NewKey, Presence, Refusal, SignInput, Token, TokenError};

const MESSAGE: &[u8] = b"pay 1.00 to bob";
const PAIR: [&str; 2] = ["Private Key Object", "Public Key Object"];

async fn start(bad: &Bad) -> Token {
    Token::start(bad.config()).await.unwrap()
}

/// The module keeps its word once; then the next worker finds it well.
async fn dies_once(bad: &Bad, token: &Token, generation: u64, answer: Result<(), TokenError>) {
    assert_eq!(answer, Err(TokenError::OutcomeUnknown));
    bad.say("");
    until_ready_again(token, generation, GIVEN_UP).await;
}

async fn assert_signs(token: &Token, made: &NewKey) {
    let scheme = made.key.kind.schemes()[0];
    let signature =
        token.sign(&made.key, scheme, SignInput::Message(MESSAGE.to_vec()), soon()).await.unwrap();
    assert_verifies(&made.public, scheme, MESSAGE, &signature);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_dies_with_half_a_pair_made_leaves_one_key_after_the_same_call_again() {
    let bad = Bad::new();
    let token = start(&bad).await;
    for (round, custody) in [Custody::NonExtractable, Custody::Recoverable].into_iter().enumerate() {
        let id = fresh_id();
        bad.say("halfway");
        let lost = token.generate_in(id, KeyKind::P256, custody, "k", soon()).await;
        dies_once(&bad, &token, round as u64 + 2, lost.map(drop)).await;
        assert_eq!(token.presence(id, soon()).await.unwrap(), Presence::Half);
        let made = token.generate_in(id, KeyKind::P256, custody, "k", soon()).await.unwrap();
        assert_eq!(bad.host.objects(id), PAIR);
        assert_signs(&token, &made).await;
    }
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_whose_answer_was_lost_is_the_one_that_the_same_call_answers() {
    let bad = Bad::new();
    let token = start(&bad).await;
    let id = fresh_id();
    bad.say("answerless");
    let lost = token.generate(id, KeyKind::P256, "k", soon()).await;
    dies_once(&bad, &token, 2, lost.map(drop)).await;
    let found = token.find(id, soon()).await.unwrap().unwrap();
    let made = token.generate(id, KeyKind::P256, "k", soon()).await.unwrap();
    assert_eq!((&made.public, bad.host.objects(id)), (&found, PAIR.map(str::to_owned).to_vec()));
    assert_signs(&token, &made).await;
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_for_keys_whose_answer_was_lost_are_found_and_made_once() {
    let bad = Bad::new();
    let token = start(&bad).await;
    let (kek, backup, import, hmac) = (fresh_id(), fresh_id(), fresh_id(), fresh_id());
    bad.say("answerless");
    let lost = token.create_kek(kek, "k", soon()).await;
    dies_once(&bad, &token, 2, lost.map(drop)).await;
    assert!(token.find_kek(kek, soon()).await.unwrap().is_some());
    bad.say("answerless");
    let lost = token.create_backup_kek(backup, "b", soon()).await;
    dies_once(&bad, &token, 3, lost.map(drop)).await;
    assert!(token.find_backup_kek(backup, soon()).await.unwrap().is_some());
    bad.say("answerless");
    let lost = token.create_import_key(import, "i", soon()).await;
    dies_once(&bad, &token, 4, lost.map(drop)).await;
    assert!(token.find_import_key(import, soon()).await.unwrap().is_some());
    bad.say("answerless");
    let lost = token.generate_hmac_key(hmac, "h", soon()).await;
    dies_once(&bad, &token, 5, lost.map(drop)).await;
    token.create_kek(kek, "k", soon()).await.unwrap();
    token.create_backup_kek(backup, "b", soon()).await.unwrap();
    token.create_import_key(import, "i", soon()).await.unwrap();
    token.generate_hmac_key(hmac, "h", soon()).await.unwrap();
    for (id, objects) in [(kek, 1), (backup, 1), (import, 2), (hmac, 1)] {
        assert_eq!(bad.host.objects(id).len(), objects);
    }
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_module_that_dies_with_a_private_key_just_in_leaves_nothing_usable_and_one_key_after_the_same_call()
{
    let bad = Bad::new();
    let token = start(&bad).await;
    let with = token.create_import_key(fresh_id(), "i", soon()).await.unwrap();
    let kek = token.create_backup_kek(fresh_id(), "b", soon()).await.unwrap();
    let outside = Outside::make(KeyKind::P256);
    let wrapped = outside.wrapped_for(&with);
    let (id, custody) = (fresh_id(), Custody::NonExtractable);
    bad.say("alone");
    let lost = token.import_key(&with, id, &outside.public, &wrapped, "k", soon()).await;
    dies_once(&bad, &token, 2, lost.map(drop)).await;
    assert_eq!(token.presence(id, soon()).await.unwrap(), Presence::Half, "it has not proved whose it is");
    let taken = token.import_key(&with, id, &outside.public, &wrapped, "k", soon()).await.unwrap();
    assert_eq!(bad.host.objects(id), PAIR);
    assert_signs(&token, &taken).await;
    let made = token.generate_in(fresh_id(), KeyKind::P256, Custody::Recoverable, "r", soon()).await.unwrap();
    let backup = token.wrap_export(&made.key, &kek, soon()).await.unwrap();
    let back = fresh_id();
    bad.say("alone");
    let lost = token.unwrap_restore(&kek, back, &made.public, &backup, custody, "r", soon()).await;
    dies_once(&bad, &token, 3, lost.map(drop)).await;
    let restored =
        token.unwrap_restore(&kek, back, &made.public, &backup, custody, "r", soon()).await.unwrap();
    assert_eq!(bad.host.objects(back), PAIR);
    assert_signs(&token, &restored).await;
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_comes_out_extractable_is_refused_and_destroyed_whatever_it_is_for() {
    let bad = Bad::new();
    let token = start(&bad).await;
    let with = token.create_import_key(fresh_id(), "i", soon()).await.unwrap();
    let outside = Outside::make(KeyKind::P256);
    let wrapped = outside.wrapped_for(&with);
    let (kek, backup, import, taken) = (fresh_id(), fresh_id(), fresh_id(), fresh_id());
    bad.say("loose");
    let answers = [
        token.create_kek(kek, "k", soon()).await.map(drop),
        token.create_backup_kek(backup, "b", soon()).await.map(drop),
        token.create_import_key(import, "i", soon()).await.map(drop),
        token.import_key(&with, taken, &outside.public, &wrapped, "k", soon()).await.map(drop),
    ];
    for answer in answers {
        assert!(matches!(answer, Err(TokenError::Refused(Refusal::LooseKey { .. }))), "{answer:?}");
    }
    bad.say("");
    for id in [kek, backup, import, taken] {
        assert_eq!(bad.host.objects(id), [""; 0], "the loose key is still there");
    }
    token.close().await;
}
