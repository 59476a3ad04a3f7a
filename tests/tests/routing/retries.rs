//! What is repeated and what is not: counted by the upstream itself, which knows what took effect.
//! Who enters: requests of every kind, before upstreams that fail before and after their effect.
//! What leaves: counts; a write that took effect twice fails here.

use promises::{get, post};
use serde_json::json;
use simulators::Upstream;
use simulators::upstream::{Behaviour, Speaks};

use crate::{before, ground, table};

#[tokio::test]
async fn a_dead_endpoint_costs_nobody_an_answer_while_another_lives() {
    let (mut dead, alive) =
        (Upstream::plain(Speaks::Http1).await.unwrap(), Upstream::plain(Speaks::Http1).await.unwrap());
    dead.stop();
    let ground = ground(vec![table("a", "/a", &[dead.endpoint(), alive.endpoint()])]).await;
    for _ in 0..20 {
        // Nothing was sent to the dead one, so even a write may go elsewhere.
        ground.member.ask(post("/a", json!({ "once": true }))).await.expect(200);
    }
    assert_eq!((alive.effects(), dead.arrived()), (20, 0));
}

#[tokio::test]
async fn reads_are_repeated_and_writes_are_not() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let ground = ground(vec![before("a", &upstream, &[])]).await;
    ground.member.ask(get("/a")).await.expect(200);
    upstream.behave_next([Behaviour::ResetAfter]);
    ground.member.ask(get("/a")).await.expect(200);
    assert_eq!(upstream.effects(), 3, "the read was repeated once");
    upstream.behave_next([Behaviour::ResetAfter]);
    let broken = ground.member.ask(post("/a", json!({}))).await.refused(502, "upstream_failed");
    assert!(broken.text().contains("may have been carried out"), "{}", broken.text());
    upstream.behave_next([Behaviour::ResetAfter]);
    let keyed = post("/a", json!({})).header("idempotency-key", "k1");
    ground.member.ask(keyed).await.refused(502, "upstream_failed");
    assert_eq!(upstream.effects(), 5, "a key helps only where the upstream is said to honour it");
}

#[tokio::test]
async fn a_write_with_a_key_is_repeated_where_the_upstream_is_idempotent() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let ground = ground(vec![before("a", &upstream, &[("idempotent", true.into())])]).await;
    upstream.behave_next([Behaviour::Well, Behaviour::ResetAfter, Behaviour::FailBefore(503)]);
    ground.member.ask(get("/a")).await.expect(200);
    ground.member.ask(post("/a", json!({ "n": 1 })).header("idempotency-key", "k1")).await.expect(200);
    assert_eq!(upstream.arrived(), 4, "broken, refused, answered");
    let keys: Vec<_> =
        upstream.seen().iter().skip(1).map(|seen| seen.headers["idempotency-key"].clone()).collect();
    assert!(keys.iter().all(|key| key == "k1"), "{keys:?}");
    upstream.behave_next([Behaviour::ResetAfter]);
    ground.member.ask(post("/a", json!({ "n": 2 }))).await.refused(502, "upstream_failed");
    assert_eq!(upstream.arrived(), 5, "without a key there is no second time");
}

#[tokio::test]
async fn a_plain_failure_is_an_answer_and_not_repeated() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let ground = ground(vec![before("a", &upstream, &[])]).await;
    for status in [500, 501, 404, 429] {
        upstream.behave_next([Behaviour::FailAfter(status)]);
        ground.member.ask(get("/a")).await.expect(status);
    }
    assert_eq!(upstream.arrived(), 4);
}

#[tokio::test]
async fn of_all_requests_no_more_than_a_fifth_is_repeated() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let ground = ground(vec![before("a", &upstream, &[])]).await;
    const ROUNDS: usize = 60;
    for _ in 0..ROUNDS {
        // Two good ones between the bad, so that the breaker stays out of it; the bad one would be repeated twice.
        upstream.behave_next([
            Behaviour::Well,
            Behaviour::Well,
            Behaviour::FailBefore(503),
            Behaviour::FailBefore(503),
        ]);
        for _ in 0..2 {
            ground.member.ask(get("/a")).await.expect(200);
        }
        ground.member.ask(get("/a")).await;
        upstream.behave_as_before();
    }
    let repeated = upstream.arrived() - ROUNDS * 3;
    let most = 2 + ROUNDS * 3 / 5;
    assert!(repeated <= most, "{repeated} of {} were repeated, at most {most} may be", ROUNDS * 3);
    assert!(repeated >= ROUNDS * 3 / 10, "only {repeated} were repeated: is the budget used at all?");
}

#[tokio::test]
async fn an_endpoint_that_keeps_failing_is_left_out_and_the_others_carry_on() {
    let (sick, well) =
        (Upstream::plain(Speaks::Http1).await.unwrap(), Upstream::plain(Speaks::Http1).await.unwrap());
    sick.behave(Behaviour::FailBefore(500));
    let ground = ground(vec![table("a", "/a", &[sick.endpoint(), well.endpoint()])]).await;
    for _ in 0..40 {
        ground.member.ask(post("/a", json!({}))).await;
    }
    assert_eq!((sick.arrived(), well.arrived()), (5, 35), "five failures in a row, then no more");
    let figures = ground.house.operator().ask(get("/metrics")).await.expect(200).text();
    assert!(figures.contains("chancery_service{service=\"a\",figure=\"endpoints_out\"} 1"), "{figures}");
}
