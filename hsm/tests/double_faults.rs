//! The supervisor judged with a token that fails on command: before its effect and after it, by silence and by death.
//! Enters: a double and a script of faults.
//! Leaves: proof that each ending is told apart, and that nothing is signed twice.
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod conformance;

use std::time::{Duration, Instant};

use conformance::verify::aws_lc_accepts;
use conformance::{GIVEN_UP, ends, fresh_id, in_an_hour, soon, until, until_ready, until_ready_again};
use hsm::double::DoubleFault;
use hsm::{
    AnchorStep, Double, KeyKind, Limits, NewKey, Refusal, Scheme, SignInput, Token, TokenError, TokenState,
};

const MESSAGE: &[u8] = b"pay 1.00 to bob";

async fn ready() -> (Double, Token, NewKey) {
    let double = Double::new();
    let token = Token::double(double.clone());
    until_ready(&token, GIVEN_UP).await;
    let made = token.generate(fresh_id(), KeyKind::P256, "k", soon()).await.unwrap();
    (double, token, made)
}

async fn sign(token: &Token, made: &NewKey, within: Duration) -> Result<Vec<u8>, TokenError> {
    let input = SignInput::Message(MESSAGE.to_vec());
    token.sign(&made.key, Scheme::EcdsaSha256, input, Instant::now() + within).await
}

const SHORT: Duration = Duration::from_millis(150);
const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn a_device_lost_before_the_effect_leaves_a_call_that_may_be_sent_again() {
    let (double, token, made) = ready().await;
    double.next(DoubleFault::LoseBefore);
    let answer = sign(&token, &made, LONG).await.unwrap_err();
    assert!(matches!(answer, TokenError::Gone { .. }) && answer.retry_is_safe(), "{answer:?}");
    assert_eq!(double.signatures_made(), 0);
    sign(&token, &made, LONG).await.unwrap();
    assert_eq!(double.signatures_made(), 1);
}

#[tokio::test]
async fn a_device_lost_after_the_effect_leaves_an_unknown_outcome() {
    for fault in [DoubleFault::LoseAfter, DoubleFault::DieAfter] {
        let (double, token, made) = ready().await;
        double.next(fault);
        let answer = sign(&token, &made, LONG).await.unwrap_err();
        assert_eq!(answer, TokenError::OutcomeUnknown);
        assert!(!answer.retry_is_safe());
        assert_eq!(double.signatures_made(), 1, "made, and never seen");
    }
}

#[tokio::test]
async fn a_worker_that_dies_during_a_signature_leaves_an_unknown_outcome_even_if_it_did_nothing() {
    let (double, token, made) = ready().await;
    double.next(DoubleFault::DieBefore);
    assert_eq!(sign(&token, &made, LONG).await, Err(TokenError::OutcomeUnknown));
    assert_eq!(double.signatures_made(), 0);
}

#[tokio::test]
async fn a_hang_ends_at_the_deadline_with_an_unknown_outcome_and_the_token_heals() {
    for (fault, made_then) in [(DoubleFault::HangBefore, 0), (DoubleFault::HangAfter, 1)] {
        let (double, token, made) = ready().await;
        double.next(fault);
        let begun = Instant::now();
        // It hangs for ever: nothing but the deadline can end the call, and not before its time.
        let answer = ends("the hang is over", sign(&token, &made, SHORT)).await;
        assert_eq!(answer, Err(TokenError::OutcomeUnknown));
        assert!(begun.elapsed() >= SHORT, "the call was given up before its deadline");
        assert_eq!(double.signatures_made(), made_then);
        let signature = sign(&token, &made, LONG).await.unwrap();
        assert!(aws_lc_accepts(&made.public, Scheme::EcdsaSha256, MESSAGE, &signature));
        // The other lane may have signed before the hung one was noticed.
        until_ready_again(&token, 2, GIVEN_UP).await;
    }
}

/// However patient the token is with itself: whoever asked with a deadline is answered at it, and not when the token is given up.
#[tokio::test]
async fn a_call_in_line_is_answered_at_its_deadline_while_the_token_is_away() {
    let patient = Limits {
        patience_ms: 3_600_000,
        restart_pause_ms_min: 3_600_000,
        restart_pause_ms_max: 3_600_000,
        ..Limits::default()
    };
    let double = Double::with_limits(patient);
    let token = Token::double(double.clone());
    until_ready(&token, GIVEN_UP).await;
    let made = token.generate(fresh_id(), KeyKind::P256, "k", soon()).await.unwrap();
    double.unplug();
    let away = || async { !matches!(token.state(), TokenState::Ready { .. }) };
    let _ = sign(&token, &made, SHORT).await;
    until("the token is away", GIVEN_UP, away).await;
    let asked = tokio::time::timeout(Duration::from_secs(60), sign(&token, &made, SHORT)).await;
    assert_eq!(asked.expect("it still stands in line"), Err(TokenError::Expired));
}

#[tokio::test]
async fn a_read_lost_on_the_way_is_safe_to_repeat() {
    let (double, token, made) = ready().await;
    double.next(DoubleFault::DieBefore);
    let answer = token.find(made.key.id, soon()).await.unwrap_err();
    assert!(answer.retry_is_safe(), "{answer:?}");
    assert_eq!(token.find(made.key.id, soon()).await.unwrap(), Some(made.public));
}

#[tokio::test]
async fn an_anchor_step_of_unknown_outcome_is_resolved_by_taking_it_again() {
    let (double, token, _) = ready().await;
    let step = AnchorStep { k: 1, size: 1, root: [1; 32], digest: [2; 32], before: [0; 32], after: [3; 32] };
    for fault in [DoubleFault::DieBefore, DoubleFault::DieAfter] {
        double.next(fault);
        let answer = token.anchor_advance(step.clone(), soon()).await;
        assert_eq!(answer, Err(TokenError::OutcomeUnknown));
        token.anchor_advance(step.clone(), soon()).await.unwrap();
        assert_eq!(token.anchor_read(soon()).await.unwrap().steps, Some(1));
    }
}

#[tokio::test]
async fn a_refusal_costs_no_worker() {
    let (double, token, made) = ready().await;
    double.next(DoubleFault::Refuse(Refusal::TokenFull));
    let answer = token.generate(fresh_id(), KeyKind::P256, "k", soon()).await;
    assert_eq!(answer, Err(TokenError::Refused(Refusal::TokenFull)));
    sign(&token, &made, LONG).await.unwrap();
    assert_eq!(token.state(), TokenState::Ready { generation: 1 });
}

#[tokio::test]
async fn a_wrong_signature_can_be_had_for_those_who_must_catch_it() {
    let (double, token, made) = ready().await;
    double.next(DoubleFault::WrongSignature);
    let wrong = sign(&token, &made, LONG).await.unwrap();
    assert!(!aws_lc_accepts(&made.public, Scheme::EcdsaSha256, MESSAGE, &wrong));
    let right = sign(&token, &made, LONG).await.unwrap();
    assert!(aws_lc_accepts(&made.public, Scheme::EcdsaSha256, MESSAGE, &right));
}

#[tokio::test]
async fn a_token_that_is_away_for_long_turns_calls_away_at_once_and_heals() {
    let limits = Limits { patience_ms: 100, restart_pause_ms_max: 100, ..Limits::default() };
    let double = Double::with_limits(limits);
    let token = Token::double(double.clone());
    until_ready(&token, GIVEN_UP).await;
    let made = token.generate(fresh_id(), KeyKind::P256, "k", soon()).await.unwrap();
    double.unplug();
    assert!(sign(&token, &made, LONG).await.is_err());
    until("calls are turned away", Duration::from_secs(60), || async {
        let hour = Duration::from_secs(3600);
        let answer = ends("a call is turned away", sign(&token, &made, hour)).await;
        matches!(answer, Err(TokenError::Gone { .. }))
    })
    .await;
    double.plug_in();
    until_ready(&token, GIVEN_UP).await;
    sign(&token, &made, LONG).await.unwrap();
}

#[tokio::test]
async fn under_random_deaths_no_signature_is_answered_twice_or_wrong() {
    let (double, token, made) = ready().await;
    for round in 0..30_u32 {
        double.next(if round % 2 == 0 { DoubleFault::DieBefore } else { DoubleFault::DieAfter });
        let calls: Vec<_> = (0..32)
            .map(|_| {
                let (token, made) = (token.clone(), made.clone());
                tokio::spawn(async move { sign(&token, &made, LONG).await })
            })
            .collect();
        let before = double.signatures_made();
        let (mut answered, mut unknown) = (0, 0);
        for call in calls {
            match call.await.unwrap() {
                Ok(signature) => {
                    assert!(aws_lc_accepts(&made.public, Scheme::EcdsaSha256, MESSAGE, &signature));
                    answered += 1;
                }
                Err(TokenError::OutcomeUnknown) => unknown += 1,
                Err(TokenError::Gone { .. }) => {}
                Err(other) => panic!("{other:?}"),
            }
        }
        let made_now = double.signatures_made() - before;
        assert!(
            made_now >= answered && made_now <= answered + unknown,
            "{made_now} made, {answered} answered, {unknown} unknown"
        );
    }
}

#[tokio::test]
async fn a_closed_token_answers_what_it_has_in_hand_first() {
    let (_double, token, made) = ready().await;
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let (token, made) = (token.clone(), made.clone());
            tokio::spawn(async move { sign(&token, &made, LONG).await })
        })
        .collect();
    tokio::task::yield_now().await;
    token.clone().close().await;
    for call in calls {
        let answer = call.await.unwrap();
        assert!(matches!(answer, Ok(_) | Err(TokenError::Gone { .. })), "{answer:?}");
    }
    assert!(matches!(sign(&token, &made, LONG).await, Err(TokenError::Gone { .. })));
}

#[tokio::test]
async fn a_board_that_takes_no_marks_ends_its_worker_at_once_and_costs_no_call() {
    let double = Double::new();
    double.blot_boards(1);
    let token = Token::double(double.clone());
    until_ready(&token, GIVEN_UP).await;
    let making = token.generate(fresh_id(), KeyKind::P256, "k", in_an_hour());
    ends("the next worker makes the key", making).await.unwrap();
    assert_eq!(double.keys_held(), 1);
    until_ready_again(&token, 2, GIVEN_UP).await;
}

#[tokio::test]
async fn boards_that_never_take_a_mark_turn_calls_away_long_before_their_deadline() {
    let double = Double::new();
    double.blot_boards(u32::MAX);
    let token = Token::double(double.clone());
    until_ready(&token, GIVEN_UP).await;
    let making = token.generate(fresh_id(), KeyKind::P256, "k", in_an_hour());
    let answer = ends("the call is turned away", making).await;
    assert!(matches!(answer, Err(TokenError::Gone { .. })), "{answer:?}");
    assert_eq!(double.keys_held(), 0);
    double.blot_boards(0);
    until("it heals", GIVEN_UP, || async {
        token.generate(fresh_id(), KeyKind::P256, "k", Instant::now() + LONG).await.is_ok()
    })
    .await;
}
