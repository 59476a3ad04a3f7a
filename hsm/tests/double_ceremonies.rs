//! The rare acts when the device fails: before the effect, after it, by death in the middle; and then the same call again.
//! Enters: a double and a script of faults.
//! Leaves: proof that the same call, sent again under the same name, ends with one object or none, and never with two.
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod conformance;

use std::future::Future;

use conformance::outside::Outside;
use conformance::{GIVEN_UP, fresh_id, soon, until_ready};
use hsm::double::DoubleFault;
use hsm::{Custody, Double, Kek, KeyKind, Limits, Presence, Refusal, Token, TokenError};

const FAULTS: [DoubleFault; 4] =
    [DoubleFault::LoseBefore, DoubleFault::LoseAfter, DoubleFault::DieBefore, DoubleFault::DieAfter];

async fn ready() -> (Double, Token) {
    // Deaths in series make for long pauses, which are not what is judged here.
    let limits = Limits { patience_ms: 5_000, restart_pause_ms_max: 20, ..Limits::default() };
    let double = Double::with_limits(limits);
    let token = Token::double(double.clone());
    until_ready(&token, GIVEN_UP).await;
    (double, token)
}

/// Sends a call into a fault, and then again, as a saga does.
async fn again<T, F>(double: &Double, fault: &DoubleFault, call: impl Fn() -> F) -> T
where
    F: Future<Output = Result<T, TokenError>>,
    T: std::fmt::Debug,
{
    double.next(fault.clone());
    let lost = call().await.unwrap_err();
    match fault {
        DoubleFault::LoseBefore => assert!(lost.retry_is_safe(), "{fault:?}: {lost:?}"),
        DoubleFault::LoseAfter => assert_eq!(lost, TokenError::OutcomeUnknown),
        _ => assert!(lost == TokenError::OutcomeUnknown || lost.retry_is_safe(), "{fault:?}: {lost:?}"),
    }
    call().await.unwrap()
}

#[tokio::test]
async fn a_kek_made_used_and_destroyed_under_every_fault_is_one_and_then_none() {
    let (double, token) = ready().await;
    for fault in FAULTS {
        let id = fresh_id();
        let kek = again(&double, &fault, || token.create_kek(id, "k", soon())).await;
        assert_eq!(again(&double, &fault, || token.find_kek(id, soon())).await, Some(kek.clone()));
        let wrapped = again(&double, &fault, || token.wrap_under(&kek, b"secret", b"row", soon())).await;
        let opened = again(&double, &fault, || token.unwrap_under(&kek, &wrapped, b"row", soon())).await;
        assert_eq!(opened.as_slice(), b"secret");
        again(&double, &fault, || token.destroy_kek(&kek, soon())).await;
        assert_eq!(token.find_kek(id, soon()).await.unwrap(), None);
        let answer = token.unwrap_under(&kek, &wrapped, b"row", soon()).await;
        assert_eq!(answer, Err(TokenError::KeyMissing { id }));
    }
}

#[tokio::test]
async fn a_kek_lost_with_the_answer_still_opens_what_it_closed() {
    let (double, token) = ready().await;
    let id = fresh_id();
    double.next(DoubleFault::DieAfter);
    assert_eq!(token.create_kek(id, "k", soon()).await, Err(TokenError::OutcomeUnknown));
    // The probe of a saga: the effect happened, and is found under the name that was chosen before.
    let found = token.find_kek(id, soon()).await.unwrap();
    assert_eq!(found, Some(Kek { id, blob: Vec::new() }));
    let wrapped = token.wrap_under(&found.unwrap(), b"secret", b"", soon()).await.unwrap();
    let remade = token.create_kek(id, "k", soon()).await.unwrap();
    assert_eq!(token.unwrap_under(&remade, &wrapped, b"", soon()).await.unwrap().as_slice(), b"secret");
}

#[tokio::test]
async fn a_key_asked_for_again_after_every_fault_is_one_key() {
    let (double, token) = ready().await;
    for fault in FAULTS {
        for custody in [Custody::NonExtractable, Custody::Recoverable] {
            let (id, held) = (fresh_id(), double.keys_held());
            let generate = || token.generate_in(id, KeyKind::P256, custody, "k", soon());
            let made = again(&double, &fault, generate).await;
            assert_eq!(double.keys_held(), held + 1);
            assert_eq!(made.provenance.custody, custody);
            assert_eq!(token.presence(id, soon()).await.unwrap(), Presence::Whole(made.public));
        }
    }
}

#[tokio::test]
async fn half_a_pair_is_told_apart_swept_away_and_made_whole() {
    let (double, token) = ready().await;
    for fault in FAULTS {
        let (swept, remade) = (fresh_id(), fresh_id());
        for id in [swept, remade] {
            double.leave_half(id);
            assert_eq!(again(&double, &fault, || token.presence(id, soon())).await, Presence::Half);
            assert_eq!(token.find(id, soon()).await.unwrap(), None, "half a pair is no key");
        }
        again(&double, &fault, || token.destroy_half(swept, soon())).await;
        assert_eq!(token.presence(swept, soon()).await.unwrap(), Presence::Absent);
        let made = again(&double, &fault, || token.generate(remade, KeyKind::P256, "k", soon())).await;
        assert_eq!(token.presence(remade, soon()).await.unwrap(), Presence::Whole(made.public));
    }
}

#[tokio::test]
async fn an_import_under_every_fault_brings_one_key_in() {
    let (double, token) = ready().await;
    let outside = Outside::make(KeyKind::P256);
    for fault in FAULTS {
        let (name, id, held) = (fresh_id(), fresh_id(), double.keys_held());
        again(&double, &fault, || token.import_takes(KeyKind::P256, soon())).await;
        let with = again(&double, &fault, || token.create_import_key(name, "i", soon())).await;
        assert_eq!(again(&double, &fault, || token.find_import_key(name, soon())).await, Some(with.clone()));
        let wrapped = outside.wrapped_for(&with);
        let import = || token.import_key(&with, id, &outside.public, &wrapped, "k", soon());
        let taken = again(&double, &fault, import).await;
        assert_eq!((taken.public, double.keys_held()), (outside.public.clone(), held + 1));
        again(&double, &fault, || token.destroy_import_key(&with, soon())).await;
        assert_eq!(token.find_import_key(name, soon()).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_backup_and_its_restore_under_every_fault_give_the_key_back_once() {
    let (double, token) = ready().await;
    for fault in FAULTS {
        let (name, back, custody) = (fresh_id(), fresh_id(), Custody::NonExtractable);
        let made =
            token.generate_in(fresh_id(), KeyKind::P256, Custody::Recoverable, "k", soon()).await.unwrap();
        let held = double.keys_held();
        let kek = again(&double, &fault, || token.create_backup_kek(name, "b", soon())).await;
        assert_eq!(again(&double, &fault, || token.find_backup_kek(name, soon())).await, Some(kek.clone()));
        let backup = again(&double, &fault, || token.wrap_export(&made.key, &kek, soon())).await;
        let restore = || token.unwrap_restore(&kek, back, &made.public, &backup, custody, "r", soon());
        let restored = again(&double, &fault, restore).await;
        assert_eq!((restored.public, double.keys_held()), (made.public.clone(), held + 1));
        again(&double, &fault, || token.destroy_backup_kek(&kek, soon())).await;
        let answer = token.wrap_export(&made.key, &kek, soon()).await;
        assert_eq!(answer, Err(TokenError::KeyMissing { id: name }));
    }
}

#[tokio::test]
async fn a_statement_asked_for_into_every_fault_is_absent_and_no_error() {
    let (double, token) = ready().await;
    let made = token.generate(fresh_id(), KeyKind::P256, "k", soon()).await.unwrap();
    for fault in FAULTS {
        // The double makes no statements, so the call does not reach its keys, and the fault waits for the next.
        assert_eq!(token.attest(&made.key, [1; 32], soon()).await.unwrap(), None);
        again(&double, &fault, || token.find(made.key.id, soon())).await;
    }
}

#[tokio::test]
async fn a_refusal_of_a_rare_act_is_told_as_it_is() {
    let (double, token) = ready().await;
    double.next(DoubleFault::Refuse(Refusal::TokenFull));
    let answer = token.create_kek(fresh_id(), "k", soon()).await;
    assert_eq!(answer, Err(TokenError::Refused(Refusal::TokenFull)));
}
