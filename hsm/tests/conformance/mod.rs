//! One set of promises for every kind of token: PKCS#11, TPM and double are judged by the same cases.
//! Enters: a way to start a token, and the list of cases it is known not to support.
//! Leaves: a test per case. A case on the list must end as "unsupported": once it works, the list has to shrink.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each back-end's test file uses its own part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

pub mod backups;
pub mod cases;
pub mod ceremonies;
pub mod imports;
pub mod outside;
pub mod verify;

use std::future::Future;
use std::time::{Duration, Instant};

use hsm::{KeyId, Token, TokenError};

/// Every case, wherever it stands.
pub mod all {
    pub use super::{backups::*, cases::*, ceremonies::*, imports::*};
}

/// Declares one test per case for one kind of token.
#[macro_export]
macro_rules! conformance {
    ($subject:path, unsupported: $unsupported:expr) => {
        $crate::conformance_cases!($subject, $unsupported;
            p256_signs_what_others_verify,
            p384_signs_what_others_verify,
            secp256k1_signs_what_others_verify,
            ed25519_signs_what_others_verify,
            rsa_2048_signs_what_others_verify,
            rsa_3072_signs_what_others_verify,
            rsa_4096_signs_what_others_verify,
            a_made_key_was_never_outside,
            a_made_key_is_found_by_its_name,
            a_key_asked_for_twice_is_made_once,
            a_name_in_use_is_refused_to_a_key_of_another_kind,
            a_destroyed_key_signs_no_more_and_is_destroyed_twice_in_peace,
            a_key_that_is_not_there_is_missing_not_wrong,
            another_key_behind_the_name_is_refused,
            another_key_behind_the_name_is_not_destroyed,
            a_digest_of_wrong_length_is_refused,
            a_scheme_of_another_kind_is_refused,
            a_message_and_its_digest_are_signed_alike,
            random_bytes_do_not_repeat,
            a_deadline_in_the_past_sends_nothing,
            many_at_once_all_get_their_own_signature,
            hmac_agrees_with_software,
            an_hmac_key_asked_for_twice_is_made_once,
            hmac_under_another_key_is_refused,
            a_wrapped_secret_opens_again,
            a_wrapped_secret_opens_under_its_own_binding_only,
            an_altered_wrapped_secret_does_not_open,
            wrapping_twice_gives_different_bytes,
            the_root_key_is_made_once,
            an_old_root_opens_what_it_closed_until_it_is_destroyed,
            the_root_in_use_is_not_destroyed,
            the_anchor_is_missing_at_first_and_then_follows_each_step,
            the_anchor_takes_a_step_twice_in_peace,
            the_anchor_refuses_a_step_from_elsewhere,
            statements_are_made_or_absent_but_never_an_error,
            a_kek_opens_what_it_closed,
            a_kek_asked_for_twice_is_made_once,
            a_kek_opens_nothing_of_another_kek_or_binding_or_what_was_altered,
            a_destroyed_kek_leaves_nothing_that_opens,
            a_fresh_name_is_absent_and_a_whole_key_is_not_swept_away,
            a_p256_key_made_with_openssl_is_imported,
            a_p384_key_made_with_openssl_is_imported,
            a_secp256k1_key_made_with_openssl_is_imported,
            an_ed25519_key_made_with_openssl_is_imported,
            an_rsa_2048_key_made_with_openssl_is_imported,
            an_rsa_4096_key_made_with_openssl_is_imported,
            an_imported_key_that_is_not_the_announced_one_is_destroyed,
            an_altered_import_does_not_open,
            an_import_key_is_made_once_opens_keys_only_and_is_destroyed_twice_in_peace,
            a_recoverable_p256_key_comes_back_from_its_backup,
            a_recoverable_p384_key_comes_back_from_its_backup,
            a_recoverable_secp256k1_key_comes_back_from_its_backup,
            a_recoverable_ed25519_key_comes_back_from_its_backup,
            a_recoverable_rsa_2048_key_comes_back_from_its_backup,
            a_key_made_never_to_leave_is_not_exported,
            custody_is_chosen_once_and_not_by_asking_again,
            a_backup_of_another_key_or_altered_or_under_another_kek_is_refused,
            a_backup_key_is_made_once_and_destroyed_twice_in_peace,
            a_statement_about_a_key_is_made_or_absent_but_never_an_error,
        );
    };
}

/// The tests themselves; called by [`conformance!`] only.
#[macro_export]
macro_rules! conformance_cases {
    ($subject:path, $unsupported:expr; $($case:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let (token, _hold) = $subject().await;
                let outcome = $crate::conformance::all::$case(token.clone()).await;
                $crate::conformance::judge(stringify!($case), &$unsupported, outcome);
                token.close().await;
            }
        )*

        #[test]
        fn the_list_of_unsupported_cases_names_real_cases_only() {
            let all = [$(stringify!($case)),*];
            for listed in $unsupported {
                assert!(all.contains(&listed), "{listed} is no case; correct the list");
            }
        }
    };
}

/// Compares what happened with what is known.
pub fn judge(case: &str, unsupported: &[&str], outcome: Result<(), TokenError>) {
    match (outcome, unsupported.contains(&case)) {
        (Ok(()), false) | (Err(TokenError::Unsupported { .. }), true) => {}
        (Ok(()), true) => panic!("{case} works now; take it off the list of unsupported cases"),
        (Err(fault), _) => panic!("{case}: {fault} ({fault:?})"),
    }
}

/// Time enough for an RSA-4096 key on a slow machine.
pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

/// A name nobody used before.
pub fn fresh_id() -> KeyId {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    KeyId(bytes)
}

/// When a test gives up on what should come at once: it measures nothing, and a machine ten times as busy passes too.
pub const GIVEN_UP: Duration = Duration::from_secs(60);

/// Waits until a condition holds; fails after `within`, saying what it waited for.
pub async fn until<F: Future<Output = bool>>(what: &str, within: Duration, mut holds: impl FnMut() -> F) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < within, "waited {within:?} in vain until {what}");
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A deadline that no test lives to see: what ends before it was ended by something else.
pub fn in_an_hour() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// What ends without being waited for any longer: a minute is when the test gives up, and no measure of anything.
pub async fn ends<T>(what: &str, work: impl Future<Output = T>) -> T {
    let given_up = Duration::from_secs(60);
    tokio::time::timeout(given_up, work).await.unwrap_or_else(|_| panic!("in vain waited until {what}"))
}

/// A token that is ready, whatever it did before.
pub async fn until_ready(token: &Token, within: Duration) {
    let mut state = token.watch();
    let ready = state.wait_for(|state| matches!(state, hsm::TokenState::Ready { .. }));
    assert!(
        tokio::time::timeout(within, ready).await.is_ok(),
        "not ready within {within:?}: {:?}",
        token.state()
    );
}

/// A token whose worker is the one of this generation.
pub async fn until_ready_again(token: &Token, generation: u64, within: Duration) {
    let mut state = token.watch();
    let ready = state.wait_for(|state| *state == hsm::TokenState::Ready { generation });
    assert!(
        tokio::time::timeout(within, ready).await.is_ok(),
        "not ready within {within:?}: {:?}",
        token.state()
    );
}
