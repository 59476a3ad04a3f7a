//! A module that misbehaves from within: what SoftHSM never does, and other modules are known for.
//! Enters: SoftHSM behind a module of ours, compiled here, that hangs, crashes, lies and moves slots on command.
//! Leaves: proof that each lie is seen and each failure told apart.
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod bad;
mod conformance;
mod host;

use std::time::{Duration, Instant};

use bad::Bad;
use conformance::verify::aws_lc_accepts;
use conformance::{ends, fresh_id, soon, until, until_ready_again};
use hsm::{KeyKind, NewKey, Refusal, Scheme, SignInput, StartRefused, Token, TokenError};
use rustix::process::Signal;

/// When a test gives up waiting for a token to heal.
const HEALED_WITHIN: Duration = Duration::from_secs(60);
const MESSAGE: &[u8] = b"pay 1.00 to bob";

async fn start(bad: &Bad) -> (Token, NewKey) {
    let token = Token::start(bad.config()).await.unwrap();
    let made = token.generate(fresh_id(), KeyKind::P256, "k", soon()).await.unwrap();
    (token, made)
}

async fn sign(token: &Token, made: &NewKey, within: Duration) -> Result<Vec<u8>, TokenError> {
    let input = SignInput::Message(MESSAGE.to_vec());
    token.sign(&made.key, Scheme::EcdsaSha256, input, Instant::now() + within).await
}

async fn heals(token: &Token, made: &NewKey) {
    until("it signs again", HEALED_WITHIN, || async {
        let answer = sign(token, made, Duration::from_secs(2)).await;
        answer.is_ok_and(|signature| aws_lc_accepts(&made.public, Scheme::EcdsaSha256, MESSAGE, &signature))
    })
    .await;
}

#[tokio::test]
async fn a_moved_slot_is_followed() {
    let bad = Bad::new();
    let (token, made) = start(&bad).await;
    let place = token.probe().place.clone();
    bad.say("slots");
    host::worker().signal(Signal::KILL);
    until_ready_again(&token, 2, HEALED_WITHIN).await;
    heals(&token, &made).await;
    assert_ne!(token.probe().place, place, "the slot did not move, so this proves nothing");
    token.close().await;
}

#[tokio::test]
async fn a_module_that_hangs_or_crashes_in_a_signature_leaves_an_unknown_outcome_and_heals() {
    for word in ["hang", "crash"] {
        let bad = Bad::new();
        let (token, made) = start(&bad).await;
        bad.say(word);
        // It hangs for ever: whatever ends the call is its deadline, on however busy a machine.
        let answer = ends(word, sign(&token, &made, Duration::from_millis(300))).await;
        assert_eq!(answer, Err(TokenError::OutcomeUnknown), "{word}");
        bad.say("");
        heals(&token, &made).await;
        token.close().await;
    }
}

#[tokio::test]
async fn a_device_error_in_c_sign_is_unknown_and_a_lost_session_before_it_is_safe() {
    let bad = Bad::new();
    let (token, made) = start(&bad).await;
    bad.say("device");
    assert_eq!(sign(&token, &made, Duration::from_secs(5)).await, Err(TokenError::OutcomeUnknown));
    bad.say("");
    heals(&token, &made).await;
    bad.say("session");
    let answer = sign(&token, &made, Duration::from_secs(5)).await;
    assert!(matches!(answer, Err(TokenError::Gone { .. })), "{answer:?}");
    bad.say("");
    heals(&token, &made).await;
    token.close().await;
}

#[tokio::test]
async fn a_signature_of_wrong_length_never_leaves_the_worker() {
    let bad = Bad::new();
    let (token, made) = start(&bad).await;
    bad.say("short");
    assert_eq!(sign(&token, &made, Duration::from_secs(5)).await, Err(TokenError::OutcomeUnknown));
    bad.say("");
    heals(&token, &made).await;
    token.close().await;
}

#[tokio::test]
async fn a_full_token_says_so_and_keeps_serving() {
    let bad = Bad::new();
    let (token, made) = start(&bad).await;
    bad.say("full");
    let answer = token.generate(fresh_id(), KeyKind::P256, "k", soon()).await;
    assert_eq!(answer, Err(TokenError::Refused(Refusal::TokenFull)));
    assert!(sign(&token, &made, Duration::from_secs(5)).await.is_ok());
    token.close().await;
}

#[tokio::test]
async fn a_key_that_comes_out_extractable_is_refused_and_destroyed() {
    let bad = Bad::new();
    let (token, _) = start(&bad).await;
    bad.say("loose");
    let id = fresh_id();
    let answer = token.generate(id, KeyKind::P256, "k", soon()).await;
    assert!(matches!(answer, Err(TokenError::Refused(Refusal::LooseKey { .. }))), "{answer:?}");
    bad.say("");
    assert_eq!(token.find(id, soon()).await, Ok(None), "the loose key is still there");
    token.close().await;
}

#[tokio::test]
async fn the_last_pin_try_is_left_to_a_person() {
    let bad = Bad::new();
    bad.say("lasttry");
    assert_eq!(Token::start(bad.config()).await.unwrap_err(), StartRefused::PinLastTry);
    bad.say("");
    Token::start(bad.config()).await.unwrap().close().await;
}
