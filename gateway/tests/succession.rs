//! A new CA when the token does not play along: refused, lost before or after the effect, gone, lying.
//! Who enters: operators who rotate, over a token in memory that fails on command.
//! What leaves: a line without the new one, nothing left in the token, and a next rotation that succeeds.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use common::house::{Answer, Standing, house};
use gateway::ca::authorities::Authorities;
use hsm::Refusal;
use hsm::double::DoubleFault;
use serde_json::{Value, json};

/// Nobody serves here, so somebody has to put on each line as the server would.
fn wear_everything(authorities: &Authorities) {
    let (authorities, mut changes) = (authorities.clone(), authorities.changes());
    authorities.wear(&authorities.present());
    tokio::spawn(async move {
        while changes.changed().await.is_ok() {
            authorities.wear(&authorities.present());
        }
    });
}

async fn standing() -> Standing {
    let standing = house().await;
    wear_everything(&standing.house.authorities);
    standing
}

async fn rotate(standing: &Standing) -> Answer {
    standing.operator().post_nothing("/v1/authorities").await
}

async fn line(standing: &Standing) -> Vec<Value> {
    let answer = standing.operator().get("/v1/authorities").await;
    answer.json()["authorities"].as_array().cloned().unwrap_or_default()
}

async fn told(standing: &Standing) -> Vec<String> {
    let answer = standing.operator().get("/v1/audit/everything?limit=500").await.json();
    let actions = answer["entries"].as_array().cloned().unwrap_or_default();
    let actions = actions.iter().filter_map(|entry| entry["action"].as_str()).map(str::to_owned);
    actions.filter(|action| action.starts_with("ca.")).collect()
}

/// A failed rotation leaves the line and the token as they were, and the next one succeeds.
async fn leaves_nothing(standing: &Standing, held: usize, expected: &[&str]) {
    assert_eq!(line(standing).await.len(), 1);
    assert_eq!(told(standing).await, expected);
    assert_eq!(standing.double.keys_held(), held, "a key without a CA is left in the token");
    let answer = rotate(standing).await;
    assert_eq!((answer.status, &answer.json()["in_use"]), (201, &json!(true)), "{answer:?}");
    assert_eq!(line(standing).await.len(), 2);
    assert_eq!(standing.double.keys_held(), held + 1);
}

#[tokio::test]
async fn a_key_that_the_token_refuses_to_make_is_struck_from_the_order() {
    let standing = standing().await;
    let held = standing.double.keys_held();
    standing.double.next(DoubleFault::Refuse(Refusal::TokenFull));
    let answer = rotate(&standing).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "token_full"), "{answer:?}");
    leaves_nothing(&standing, held, &["ca.order", "ca.order_closed"]).await;
}

#[tokio::test]
async fn a_key_that_was_made_when_the_answer_was_lost_is_destroyed() {
    let standing = standing().await;
    let held = standing.double.keys_held();
    standing.double.next(DoubleFault::LoseAfter);
    let answer = rotate(&standing).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "outcome_unknown"), "{answer:?}");
    // While the token comes back the order may stay open; the next rotation closes it first.
    let answer = settled(&standing).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let told = told(&standing).await;
    assert_eq!(told.iter().filter(|action| *action == "ca.order_closed").count(), 1, "{told:?}");
    assert_eq!((line(&standing).await.len(), standing.double.keys_held()), (2, held + 1));
}

#[tokio::test]
async fn a_certificate_that_the_token_signed_wrongly_never_takes_its_place() {
    let standing = standing().await;
    let held = standing.double.keys_held();
    // Making the key is no signature, so the fault waits for the certificate's.
    standing.double.next(DoubleFault::WrongSignature);
    let answer = rotate(&standing).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "token_refused"), "{answer:?}");
    leaves_nothing(&standing, held, &["ca.order", "ca.draft", "ca.order_closed"]).await;
}

#[tokio::test]
async fn an_order_left_open_while_the_token_was_away_is_closed_by_the_next_rotation() {
    let standing = standing().await;
    let held = standing.double.keys_held();
    standing.double.unplug();
    let answer = rotate(&standing).await;
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(told(&standing).await, ["ca.order"], "the token is away, so nobody knows what it holds");
    standing.double.plug_in();
    let answer = settled(&standing).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!((line(&standing).await.len(), standing.double.keys_held()), (2, held + 1));
}

#[tokio::test]
async fn a_face_that_does_not_follow_is_told_in_the_answer() {
    let standing = house().await;
    let answer = rotate(&standing).await;
    assert_eq!((answer.status, &answer.json()["in_use"]), (201, &json!(false)), "{answer:?}");
}

/// Rotates until the token is back.
async fn settled(standing: &Standing) -> Answer {
    for _ in 0..3_000 {
        let answer = rotate(standing).await;
        if answer.status != 503 {
            return answer;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("the token does not come back");
}
