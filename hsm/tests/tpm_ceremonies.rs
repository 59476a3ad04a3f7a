//! A workspace's own key on a TPM: what it survives, what it does not, and what is left when its blob is gone.
//! Enters: a fresh swtpm per test, behind the real worker and its supervisor.
//! Leaves: proof; and the plain truth about a copied blob.
#![allow(clippy::unwrap_used, reason = "these are tests")]

mod conformance;
mod tpm;

use std::time::{Duration, Instant};

use conformance::{GIVEN_UP, fresh_id, soon, until_ready};
use hsm::{Kek, KeyKind, Presence, Refusal, Token, TokenError};
use tpm::Machine;

const SECRET: &[u8] = b"data key";

async fn a_closed_secret(token: &Token) -> (Kek, Vec<u8>) {
    let kek = token.create_kek(fresh_id(), "workspace", soon()).await.unwrap();
    let wrapped = token.wrap_under(&kek, SECRET, b"row", soon()).await.unwrap();
    (kek, wrapped)
}

async fn opens(token: &Token, kek: &Kek, wrapped: &[u8]) {
    assert_eq!(token.unwrap_under(kek, wrapped, b"row", soon()).await.unwrap().as_slice(), SECRET);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kek_survives_a_power_cut_and_a_killed_worker() {
    let mut machine = Machine::new();
    let token = machine.start().await;
    let (kek, wrapped) = a_closed_secret(&token).await;
    machine.tpm.kill();
    let lost = token.unwrap_under(&kek, &wrapped, b"row", Instant::now() + Duration::from_secs(2)).await;
    assert!(lost.is_err());
    machine.tpm.restart().unwrap();
    until_ready(&token, GIVEN_UP).await;
    opens(&token, &kek, &wrapped).await;
    token.close().await;
    let token = machine.start().await;
    opens(&token, &kek, &wrapped).await;
    token.close().await;
    assert_eq!(machine.lockout_counter(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_tpm_costs_a_kek_its_deadline_and_the_same_call_again_makes_one() {
    let machine = Machine::new();
    let token = machine.start().await;
    token.ensure_root(soon()).await.unwrap();
    let id = fresh_id();
    machine.tpm.freeze().unwrap();
    let lost = token.create_kek(id, "workspace", Instant::now() + Duration::from_millis(300)).await;
    assert_eq!(lost, Err(TokenError::OutcomeUnknown));
    machine.tpm.resume().unwrap();
    until_ready(&token, GIVEN_UP).await;
    assert_eq!(token.presence(id, soon()).await.unwrap(), Presence::Absent, "a TPM keeps nothing");
    let kek = token.create_kek(id, "workspace", soon()).await.unwrap();
    let wrapped = token.wrap_under(&kek, SECRET, b"row", soon()).await.unwrap();
    opens(&token, &kek, &wrapped).await;
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_tpm_and_the_same_one_wiped_open_nothing() {
    let (mut machine, other) = (Machine::new(), Machine::new());
    let token = machine.start().await;
    let (kek, wrapped) = a_closed_secret(&token).await;
    token.close().await;
    let stranger = other.start().await;
    stranger.ensure_root(soon()).await.unwrap();
    let answer = stranger.unwrap_under(&kek, &wrapped, b"row", soon()).await;
    assert_eq!(answer, Err(TokenError::KeyMissing { id: kek.id }));
    stranger.close().await;
    machine.tpm.wipe().unwrap();
    let token = machine.start().await;
    let answer = token.unwrap_under(&kek, &wrapped, b"row", soon()).await;
    assert_eq!(answer, Err(TokenError::Refused(Refusal::RootMissing)));
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_boot_does_not_shred_a_workspace() {
    let machine = Machine::new();
    let token = machine.start().await;
    let (kek, wrapped) = a_closed_secret(&token).await;
    token.close().await;
    machine.tpm.extend_pcr(7, [1; 32]).unwrap();
    let token = machine.start().await;
    opens(&token, &kek, &wrapped).await;
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_blob_a_kek_opens_nothing_and_with_a_copy_it_still_does() {
    let machine = Machine::new();
    let token = machine.start().await;
    let (kek, wrapped) = a_closed_secret(&token).await;
    let copy = kek.clone();
    token.destroy_kek(&kek, soon()).await.unwrap();
    let gone = Kek { id: kek.id, blob: Vec::new() };
    let answer = token.unwrap_under(&gone, &wrapped, b"row", soon()).await;
    assert_eq!(answer, Err(TokenError::KeyMissing { id: kek.id }));
    // The price that the decision record names: shredding on a TPM means deleting every copy of the blob.
    opens(&token, &copy, &wrapped).await;
    token.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_keys_blob_under_a_keks_name_opens_nothing() {
    let machine = Machine::new();
    let token = machine.start().await;
    let (one, wrapped) = a_closed_secret(&token).await;
    let (two, _) = a_closed_secret(&token).await;
    let broken = Err(TokenError::Refused(Refusal::SealBroken));
    let renamed = Kek { id: two.id, blob: one.blob.clone() };
    assert_eq!(token.unwrap_under(&renamed, &wrapped, b"row", soon()).await, broken);
    let swapped = Kek { id: one.id, blob: two.blob };
    assert_eq!(token.unwrap_under(&swapped, &wrapped, b"row", soon()).await, broken);
    let signing = token.generate(fresh_id(), KeyKind::P256, "k", soon()).await.unwrap();
    let no_kek = Kek { id: one.id, blob: signing.key.blob };
    assert!(token.unwrap_under(&no_kek, &wrapped, b"row", soon()).await.is_err());
    opens(&token, &one, &wrapped).await;
    token.close().await;
}
