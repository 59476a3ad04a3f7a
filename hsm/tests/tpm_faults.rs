//! What the daemon sees when a TPM is switched off, frozen, wiped or rolled back under it.
//! Enters: a fresh swtpm per test, behind the real worker and its supervisor.
//! Leaves: proof that calls fail clearly, nothing is signed wrongly, and the token heals without anyone's help.
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod conformance;
mod tpm;

use std::time::{Duration, Instant};

use conformance::verify::aws_lc_accepts;
use conformance::{GIVEN_UP, ends, fresh_id, in_an_hour, soon, until_ready};
use hsm::{AnchorStep, Hash, KeyKind, NewKey, Refusal, Scheme, SignInput, Token, TokenError, TokenState};
use tpm::Machine;

const MESSAGE: &[u8] = b"pay 1.00 to bob";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tpm_switched_off_and_on_heals_and_its_keys_still_sign() {
    let mut machine = Machine::new();
    let token = machine.start().await;
    let made = a_key(&token).await;
    machine.tpm.kill();
    let answer = sign(&token, &made, Instant::now() + Duration::from_secs(2)).await;
    assert!(is_clear(&answer), "{answer:?}");
    machine.tpm.restart().unwrap();
    until_ready(&token, GIVEN_UP).await;
    assert_signs(&token, &made).await;
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_tpm_costs_a_deadline_and_not_a_hang() {
    let machine = Machine::new();
    let token = machine.start().await;
    let made = a_key(&token).await;
    machine.tpm.freeze().unwrap();
    // The TPM stands still until the test lets it go: nothing but the deadline can end the call.
    let call = sign(&token, &made, Instant::now() + Duration::from_millis(500));
    assert_eq!(ends("the call is over", call).await, Err(TokenError::OutcomeUnknown));
    machine.tpm.resume().unwrap();
    until_ready(&token, GIVEN_UP).await;
    assert_signs(&token, &made).await;
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tpm_that_dies_amid_a_call_is_noticed_long_before_the_deadline() {
    let mut machine = Machine::new();
    let token = machine.start().await;
    let made = a_key(&token).await;
    machine.tpm.freeze().unwrap();
    let call = {
        let (token, made) = (token.clone(), made.clone());
        tokio::spawn(async move { sign(&token, &made, in_an_hour()).await })
    };
    // Whether the call has reached the frozen TPM by now or not, it must not wait for its deadline.
    tokio::task::yield_now().await;
    machine.tpm.kill();
    let answer = ends("its death is noticed", call).await.unwrap();
    assert!(is_clear(&answer), "{answer:?}");
    machine.tpm.restart().unwrap();
    until_ready(&token, GIVEN_UP).await;
    assert_signs(&token, &made).await;
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn power_cuts_amid_signatures_never_yield_a_wrong_one_nor_a_lock_out() {
    let mut machine = Machine::new();
    let token = machine.start().await;
    let made = a_key(&token).await;
    for _ in 0..5 {
        until_ready(&token, GIVEN_UP).await;
        let calls: Vec<_> = (0..8).map(|_| tokio::spawn(sign_owned(token.clone(), made.clone()))).collect();
        machine.tpm.kill();
        for call in calls {
            let answer = call.await.unwrap();
            if let Ok(signature) = &answer {
                assert!(aws_lc_accepts(&made.public, Scheme::EcdsaSha256, MESSAGE, signature));
            }
            assert!(answer.is_ok() || is_clear(&answer), "{answer:?}");
        }
        machine.tpm.restart().unwrap();
    }
    until_ready(&token, GIVEN_UP).await;
    assert_signs(&token, &made).await;
    token.close().await;
    assert_eq!(machine.lockout_counter(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_tpm_opens_no_secret_holds_no_key_and_shows_no_anchor() {
    let mut machine = Machine::new();
    let token = machine.start().await;
    let made = a_key(&token).await;
    token.ensure_root(soon()).await.unwrap();
    let wrapped = token.wrap(&[7; 32], b"master", soon()).await.unwrap();
    token.anchor_advance(step(1, [0; 32]), soon()).await.unwrap();
    let before = token.anchor_read(soon()).await.unwrap();
    token.close().await;
    machine.tpm.wipe().unwrap();
    let token = machine.start().await;
    let missing = TokenError::Refused(Refusal::RootMissing);
    assert_eq!(token.unwrap(&wrapped, b"master", soon()).await.unwrap_err(), missing);
    assert_eq!(sign(&token, &made, soon()).await, Err(missing));
    let after = token.anchor_read(soon()).await.unwrap();
    assert!(after.missing && after.identity != before.identity);
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tpm_rolled_back_shows_its_older_head() {
    let mut machine = Machine::new();
    let token = machine.start().await;
    let first = step(1, [0; 32]);
    token.anchor_advance(first.clone(), soon()).await.unwrap();
    let copy = machine.tpm.snapshot("after the first step").unwrap();
    token.anchor_advance(step(2, first.after), soon()).await.unwrap();
    token.close().await;
    machine.tpm.roll_back(&copy).unwrap();
    let token = machine.start().await;
    assert_eq!(token.anchor_read(soon()).await.unwrap().head, Some(first.after));
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_boot_keeps_the_master_key_shut_and_names_the_register() {
    let machine = Machine::new();
    let token = machine.start().await;
    token.ensure_root(soon()).await.unwrap();
    let wrapped = token.wrap(&[7; 32], b"master", soon()).await.unwrap();
    token.close().await;
    machine.tpm.extend_pcr(7, [1; 32]).unwrap();
    let token = machine.start().await;
    let refused = token.unwrap(&wrapped, b"master", soon()).await.unwrap_err();
    assert!(refused.to_string().contains("PCR 7 was 0000000000000000..., is "), "{refused}");
    assert!(matches!(token.state(), TokenState::Ready { .. }), "a refusal is no fault of the device");
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_killed_twenty_times_leaves_no_slot_taken() {
    let machine = Machine::new();
    let mut made = None;
    for _ in 0..20 {
        let token = machine.start().await;
        let key = match made.take() {
            Some(key) => key,
            None => a_key(&token).await,
        };
        // The worker is killed with the key loaded: dropping the handle waits for nothing.
        assert_signs(&token, &key).await;
        made = Some(key);
        drop(token);
    }
    let token = machine.start().await;
    assert_signs(&token, &made.unwrap()).await;
    token.close().await;
}

async fn a_key(token: &Token) -> NewKey {
    token.generate(fresh_id(), KeyKind::P256, "fault", soon()).await.unwrap()
}

async fn sign(token: &Token, made: &NewKey, deadline: Instant) -> Result<Vec<u8>, TokenError> {
    token.sign(&made.key, Scheme::EcdsaSha256, SignInput::Message(MESSAGE.to_vec()), deadline).await
}

async fn sign_owned(token: Token, made: NewKey) -> Result<Vec<u8>, TokenError> {
    sign(&token, &made, Instant::now() + Duration::from_secs(3)).await
}

async fn assert_signs(token: &Token, made: &NewKey) {
    let signature = sign(token, made, soon()).await.unwrap();
    assert!(aws_lc_accepts(&made.public, Scheme::EcdsaSha256, MESSAGE, &signature));
}

/// Errors that tell the caller whether to send again, to wait or to reconcile.
fn is_clear<T>(answer: &Result<T, TokenError>) -> bool {
    matches!(
        answer,
        Err(TokenError::OutcomeUnknown
            | TokenError::Gone { .. }
            | TokenError::Busy { .. }
            | TokenError::Expired)
    )
}

fn step(k: u64, before: [u8; 32]) -> AnchorStep {
    let digest: [u8; 32] = Hash::Sha256.digest(&k.to_be_bytes()).try_into().unwrap();
    let after = Hash::Sha256.digest(&[before, digest].concat()).try_into().unwrap();
    AnchorStep { k, size: k, root: [0; 32], digest, before, after }
}
