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
use hsm::{
    AnchorStep, Custody, Hash, KeyKind, NewKey, Power, Refusal, RootTag, Scheme, SignInput, StartRefused,
    Token, TokenError, TokenState,
};
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

fn generation(token: &Token) -> u64 {
    match token.state() {
        TokenState::Ready { generation } => generation,
        other => panic!("{other:?}"),
    }
}

/// What a device says when it cannot make a kind of key, be it NetHSM, Luna or kryoptic.
#[tokio::test]
async fn a_kind_that_the_device_fails_to_make_costs_nobody_else_anything() {
    let bad = Bad::new();
    let (token, made) = start(&bad).await;
    bad.say("nok1");
    for _ in 0..3 {
        let answer = token.generate(fresh_id(), KeyKind::Secp256k1, "k", soon()).await;
        assert!(matches!(answer, Err(TokenError::Refused(Refusal::Failed(_)))), "{answer:?}");
        let words = answer.unwrap_err().to_string();
        assert!(words.contains("C_GenerateKeyPair gave GeneralError"), "{words}");
        assert!(sign(&token, &made, Duration::from_secs(20)).await.is_ok());
    }
    bad.say("general");
    let answer = token.generate(fresh_id(), KeyKind::P256, "k", soon()).await;
    assert!(matches!(answer, Err(TokenError::Refused(Refusal::Failed(_)))), "{answer:?}");
    assert_eq!(generation(&token), 1, "its worker was ended");
    bad.say("");
    assert!(token.generate(fresh_id(), KeyKind::Secp256k1, "k", soon()).await.is_ok());
    token.close().await;
}

#[tokio::test]
async fn a_token_that_takes_no_more_writes_goes_on_signing_and_says_what_fails() {
    let bad = Bad::new();
    let (token, made) = start(&bad).await;
    token.make_root(RootTag(*b"tag-01"), soon()).await.unwrap();
    bad.say("readonly");
    let digest = [7; 32];
    let after = Hash::Sha256.digest(&[[0; 32], digest].concat()).try_into().unwrap();
    let step = AnchorStep { k: 1, size: 1, root: [0; 32], digest, before: [0; 32], after };
    let answer = token.anchor_advance(step, soon()).await.unwrap_err();
    assert!(answer.to_string().contains("C_CreateObject gave GeneralError"), "{answer}");
    assert!(sign(&token, &made, Duration::from_secs(20)).await.is_ok());
    assert_eq!(generation(&token), 1, "its worker was ended");
    token.close().await;
}

#[tokio::test]
async fn a_token_without_session_objects_is_probed_for_what_it_really_makes() {
    let bad = Bad::new();
    let usual = Token::start(bad.config()).await.unwrap();
    let (kinds, powers) = (usual.probe().kinds.clone(), usual.probe().powers.clone());
    usual.close().await;
    bad.say("nosession");
    let token = Token::start(bad.config()).await.unwrap();
    assert_eq!((&token.probe().kinds, &token.probe().powers), (&kinds, &powers));
    assert!(powers.contains(&Power::Backup));
    let made = token.generate_in(fresh_id(), KeyKind::P256, Custody::Recoverable, "k", soon()).await;
    made.unwrap();
    let left = bad.host.tool(&["--list-objects"]);
    assert!(!left.contains("chancery-probe") && !left.contains("chancery-trial"), "{left}");
    token.close().await;
}

/// p11-kit gives whoever asks for the functions an instance of its own.
#[tokio::test]
async fn a_module_that_gives_each_caller_other_functions_signs_all_the_same() {
    let bad = Bad::new();
    bad.say("twolists");
    let (token, made) = start(&bad).await;
    let signature = sign(&token, &made, Duration::from_secs(20)).await.unwrap();
    assert!(aws_lc_accepts(&made.public, Scheme::EcdsaSha256, MESSAGE, &signature));
    let key = token.generate_hmac_key(fresh_id(), "h", soon()).await.unwrap();
    token.hmac_sha256(&key, b"text", soon()).await.unwrap();
    assert_eq!(generation(&token), 1);
    token.close().await;
}

#[tokio::test]
async fn a_token_that_cannot_be_read_is_named_with_its_slot_and_the_reason() {
    let bad = Bad::new();
    let usual = Token::start(bad.config()).await.unwrap();
    let place = usual.probe().place.clone();
    usual.close().await;
    bad.say("badclock");
    let refused = Token::start(bad.config()).await.unwrap_err().to_string();
    assert!(refused.contains(&format!("one in {place} that cannot be read: ")), "{refused}");
}

#[tokio::test]
async fn a_token_that_calls_no_key_local_makes_keys_that_say_so() {
    let bad = Bad::new();
    bad.say("nolocal");
    let (token, made) = start(&bad).await;
    assert!(!made.provenance.local, "it is said that the token says so");
    assert!(made.provenance.never_extractable && made.provenance.always_sensitive);
    token.ensure_root(soon()).await.unwrap();
    let signature = sign(&token, &made, Duration::from_secs(20)).await.unwrap();
    assert!(aws_lc_accepts(&made.public, Scheme::EcdsaSha256, MESSAGE, &signature));
    // The same call again finds the key that was made, and takes it for no other.
    let again = token.generate(made.key.id, KeyKind::P256, "k", soon()).await.unwrap();
    assert_eq!(again, made);
    token.close().await;
}

/// The same configuration with this serial, and this label.
fn named(bad: &Bad, wanted_serial: &str, wanted_label: Option<&str>) -> hsm::TokenConfig {
    let mut config = bad.config();
    if let hsm::TokenConfig::Pkcs11 { serial, label, .. } = &mut config {
        *serial = wanted_serial.to_owned();
        *label = wanted_label.map(str::to_owned);
    }
    config
}

#[tokio::test]
async fn a_token_without_a_serial_is_found_by_its_label_and_only_if_no_other_has_it() {
    let bad = Bad::new();
    bad.say("noserial");
    let label = bad.host.soft.label().to_owned();
    let token = Token::start(named(&bad, "", Some(&label))).await.unwrap();
    let made = token.generate(fresh_id(), KeyKind::P256, "k", soon()).await.unwrap();
    sign(&token, &made, Duration::from_secs(20)).await.unwrap();
    // Whether it is still there is asked by label as well.
    assert_eq!(token.find(fresh_id(), soon()).await, Ok(None));
    token.close().await;
    let other = Token::start(named(&bad, "", Some("another"))).await.unwrap_err().to_string();
    assert!(other.contains(&format!("no serial ({label})")), "{other}");

    bad.host.twin();
    for chosen in [None, Some(label.as_str())] {
        let refused = Token::start(named(&bad, "  ", chosen)).await.unwrap_err().to_string();
        assert!(refused.contains("several tokens"), "{chosen:?}: {refused}");
        assert_eq!(refused.matches(&format!("no serial ({label})")).count(), 2, "{refused}");
    }
    bad.say("");
    // A serial of its own is enough, and a label beside it has to be right.
    let serial = bad.host.soft.serial().to_owned();
    Token::start(named(&bad, &serial, None)).await.unwrap().close().await;
    Token::start(named(&bad, &serial, Some(&label))).await.unwrap().close().await;
    assert!(Token::start(named(&bad, &serial, Some("another"))).await.is_err());
}
