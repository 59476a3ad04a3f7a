//! Many things at once, on a real module: everything mixed on all lanes, deadlines of a whole crowd, kills between the two halves of a step.
//! Enters: SoftHSM through the real worker.
//! Leaves: proof that nothing crashes by itself, that nobody waits past his deadline, and that the anchor is never between two steps.
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod conformance;
mod host;

use std::sync::Arc;
use std::time::{Duration, Instant};

use conformance::outside::Outside;
use conformance::verify::aws_lc_accepts;
use conformance::{ends, fresh_id, in_an_hour, soon};
use host::Host;
use hsm::{AnchorStep, Custody, Hash, ImportKey, KeyKind, Scheme, SignInput, Token, TokenError, TokenState};
use rustix::process::Signal;

const MESSAGE: &[u8] = b"pay 1.00 to bob";

/// The whole life of a key, and some of everything else.
async fn a_busy_life(token: Token, round: u8) {
    let kind = [KeyKind::P256, KeyKind::Ed25519, KeyKind::Secp256k1][usize::from(round) % 3];
    let made = token.generate(fresh_id(), kind, "stress", soon()).await.unwrap();
    let scheme = kind.schemes()[0];
    for _ in 0..5 {
        let signature =
            token.sign(&made.key, scheme, SignInput::Message(MESSAGE.to_vec()), soon()).await.unwrap();
        assert!(aws_lc_accepts(&made.public, scheme, MESSAGE, &signature));
        assert_eq!(token.find(made.key.id, soon()).await.unwrap().as_ref(), Some(&made.public));
    }
    let hmac = token.generate_hmac_key(fresh_id(), "stress", soon()).await.unwrap();
    token.hmac_sha256(&hmac, MESSAGE, soon()).await.unwrap();
    let wrapped = token.wrap(&[round; 32], b"stress", soon()).await.unwrap();
    assert_eq!(token.unwrap(&wrapped, b"stress", soon()).await.unwrap().as_slice(), [round; 32]);
    token.destroy(&made.key, soon()).await.unwrap();
    token.destroy_hmac_key(&hmac, soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_at_once_on_all_lanes_costs_no_worker() {
    let host = Host::new();
    let token = Token::start(host.config_with(|config| config.threads = 4)).await.unwrap();
    token.ensure_root(soon()).await.unwrap();
    let lives: Vec<_> = (0..48).map(|round| tokio::spawn(a_busy_life(token.clone(), round))).collect();
    for life in lives {
        life.await.unwrap();
    }
    assert_eq!(token.state(), TokenState::Ready { generation: 1 }, "a worker was lost");
    token.close().await;
}

/// The whole life of a workspace's key, of an imported one and of one that is backed up.
async fn a_ceremonious_life(token: Token, with: ImportKey, outside: Arc<Outside>, wrapped: Arc<Vec<u8>>) {
    let kek = token.create_kek(fresh_id(), "stress", soon()).await.unwrap();
    for row in 0..5_u8 {
        let closed = token.wrap_under(&kek, &[row; 32], &[row], soon()).await.unwrap();
        assert_eq!(token.unwrap_under(&kek, &closed, &[row], soon()).await.unwrap().as_slice(), [row; 32]);
    }
    let import = token.import_key(&with, fresh_id(), &outside.public, &wrapped, "stress", soon());
    let recoverable = token.generate_in(fresh_id(), KeyKind::P256, Custody::Recoverable, "stress", soon());
    let (taken, made) = tokio::join!(import, recoverable);
    let (taken, made) = (taken.unwrap(), made.unwrap());
    let under = token.create_backup_kek(fresh_id(), "stress", soon()).await.unwrap();
    let backup = token.wrap_export(&made.key, &under, soon()).await.unwrap();
    let custody = Custody::NonExtractable;
    let back =
        token.unwrap_restore(&under, fresh_id(), &made.public, &backup, custody, "s", soon()).await.unwrap();
    for key in [&taken, &made, &back] {
        let input = SignInput::Message(MESSAGE.to_vec());
        let signature = token.sign(&key.key, Scheme::EcdsaSha256, input, soon()).await.unwrap();
        assert!(aws_lc_accepts(&key.public, Scheme::EcdsaSha256, MESSAGE, &signature));
        token.destroy(&key.key, soon()).await.unwrap();
    }
    token.destroy_kek(&kek, soon()).await.unwrap();
    token.destroy_backup_kek(&under, soon()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ceremonies_and_signatures_at_once_on_all_lanes_cost_no_worker() {
    let host = Host::new();
    let token = Token::start(host.config_with(|config| config.threads = 4)).await.unwrap();
    token.ensure_root(soon()).await.unwrap();
    let with = token.create_import_key(fresh_id(), "stress", soon()).await.unwrap();
    let outside = Arc::new(Outside::make(KeyKind::P256));
    let wrapped = Arc::new(outside.wrapped_for(&with));
    let lives: Vec<_> = (0..24)
        .flat_map(|round| {
            let life = a_ceremonious_life(token.clone(), with.clone(), outside.clone(), wrapped.clone());
            [tokio::spawn(life), tokio::spawn(a_busy_life(token.clone(), round))]
        })
        .collect();
    for life in lives {
        life.await.unwrap();
    }
    assert_eq!(token.state(), TokenState::Ready { generation: 1 }, "a worker was lost");
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_before_a_stopped_worker_is_answered_in_time() {
    let host = Host::new();
    let token = Token::start(host.config()).await.unwrap();
    let made = token.generate(fresh_id(), KeyKind::P256, "k", soon()).await.unwrap();
    host::worker().signal(Signal::STOP);
    let crowd: Vec<_> = (0..200_u64)
        .map(|number| {
            let (token, key) = (token.clone(), made.key.clone());
            tokio::spawn(async move {
                let deadline = Instant::now() + Duration::from_millis(200 + number % 7 * 40);
                token.sign(&key, Scheme::EcdsaSha256, SignInput::Message(MESSAGE.to_vec()), deadline).await
            })
        })
        .collect();
    for call in crowd {
        // The worker stands still for ever: nothing but their deadlines can end the calls.
        match ends("a call is answered", call).await.unwrap() {
            Ok(signature) => assert!(aws_lc_accepts(&made.public, Scheme::EcdsaSha256, MESSAGE, &signature)),
            Err(fault) => assert!(fault.retry_is_safe() || fault == TokenError::OutcomeUnknown, "{fault:?}"),
        }
    }
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_work_than_can_be_done_in_time_expires_and_costs_no_worker() {
    let host = Host::new();
    let token = Token::start(host.config()).await.unwrap();
    let made = token.generate(fresh_id(), KeyKind::Rsa4096, "k", soon()).await.unwrap();
    // Half have all the time there is and are signed on any machine; half have none left and are begun on none, though they stand in
    // the line of a worker that is at work. What runs out in the worker's hands depends on how busy the machine is: it is left out here.
    let crowd: Vec<_> = (0..300_u64)
        .map(|number| {
            let (token, key) = (token.clone(), made.key.clone());
            let deadline = if number % 2 == 0 { in_an_hour() } else { Instant::now() };
            tokio::spawn(async move {
                let message = SignInput::Message(MESSAGE.to_vec());
                (number, token.sign(&key, key.kind.schemes()[0], message, deadline).await)
            })
        })
        .collect();
    for call in crowd {
        match call.await.unwrap() {
            (patient, Ok(_)) if patient % 2 == 0 => {}
            (hurried, Err(TokenError::Expired)) if hurried % 2 == 1 => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(
        token.state(),
        TokenState::Ready { generation: 1 },
        "a healthy worker was killed for being busy"
    );
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_moment_of_a_step_leaves_the_anchor_before_or_after_it() {
    let host = Host::new();
    let token =
        Token::start(host.config_with(|config| config.limits.restart_pause_ms_max = 20)).await.unwrap();
    let mut before = [0; 32];
    for k in 1..=25_u64 {
        let after = Hash::Sha256.digest(&[before, [7; 32]].concat()).try_into().unwrap();
        let step = AnchorStep { k, size: k, root: [1; 32], digest: [7; 32], before, after };
        let taking = {
            let (token, step) = (token.clone(), step.clone());
            tokio::spawn(async move { token.anchor_advance(step, soon()).await })
        };
        // A step takes about 3 ms here: the kill falls before, into and after it.
        let mut spun = 0_u64;
        while spun < k * 4_000 && !taking.is_finished() {
            spun += 1;
            std::hint::spin_loop();
        }
        host::worker().signal(Signal::KILL);
        let first = taking.await.unwrap();
        assert!(matches!(first, Ok(()) | Err(TokenError::OutcomeUnknown)), "{first:?}");
        let reading = loop {
            match token.anchor_read(soon()).await {
                Ok(reading) => break reading,
                Err(fault) => assert!(fault.retry_is_safe(), "{fault:?}"),
            }
        };
        let at = (reading.steps.unwrap_or(0), reading.head.unwrap_or_default());
        assert!(at == (k - 1, before) || at == (k, after), "step {k} left the anchor at {at:?}");
        token.anchor_advance(step, soon()).await.unwrap();
        assert_eq!(token.anchor_read(soon()).await.unwrap().head, Some(after));
        before = after;
    }
    token.close().await;
}
