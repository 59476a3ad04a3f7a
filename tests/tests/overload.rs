//! More than the token can do: what is shed, who is served first, and who cannot starve whom.
//! Who enters: loads far above the capacity of a software token that makes large RSA signatures.
//! What leaves: early 503s with Retry-After, a fast lane that stays fast, a fair share for the small.

use std::time::{Duration, Instant};

use promises::people::sign_digest;
use promises::{Appliance, Load, Member, Protocol, Until, eventually, evidence, get, post};
use serde_json::json;

/// A slow signature: a few hundred a second on a software token, so that the token and not the network is the limit.
const SLOW: (&str, &str) = ("rsa-3072", "rsa-pkcs1-sha256");
const PATIENCE: Duration = Duration::from_secs(20);

/// Far more requests at once than the token can answer in the time they give it.
fn flood(house: &Appliance, member: &Member, key: &str) -> Load {
    Load {
        connections: 8,
        streams: 40,
        protocol: Protocol::H2,
        scheme: SLOW.1.to_owned(),
        ..Load::of(member, &house.door(), key)
    }
}

async fn slow_key(member: &Member) -> String {
    member.create_key("slow", SLOW.0).await
}

async fn flowing(load: &promises::load::Running) {
    let working = || async { (load.signed() > 100).then_some(()) };
    eventually("the flood flows", PATIENCE, working).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_answered_in_time_is_shed_early_with_retry_after() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = slow_key(&member).await;
    let mut load = flood(&house, &member, &key);
    load.headers.push(("chancery-deadline-ms".to_owned(), "400".to_owned()));
    let load = load.start();
    flowing(&load).await;
    let hasty = member.connect(Protocol::H2).await;
    let (mut shed, mut slowest) = (0, Duration::ZERO);
    for at in 0..60u8 {
        let begun = Instant::now();
        let ask = sign_digest(&key, SLOW.1, &[at; 32]).header("chancery-deadline-ms", "50");
        let answer = hasty.send(ask).await.unwrap();
        slowest = slowest.max(begun.elapsed());
        if answer.code() == "overloaded" {
            assert!(answer.refused(503, "overloaded").header("retry-after").is_some());
            shed += 1;
        }
    }
    let tally = load.stop().await;
    assert!(shed > 0, "sixty requests in a hurry, and none was shed");
    assert!(slowest < Duration::from_secs(2), "a request with 50 ms of patience was kept for {slowest:?}");
    assert!(tally.refused.get("overloaded").is_some_and(|count| *count > 0), "{:?}", tally.refused);
    assert_eq!(tally.without_retry_after, 0, "{:?}", tally.refused);
    // Whoever was shed early is nowhere on the ledger; whoever was signed for stands there once.
    evidence::each_has_its_entry(&house, &key, &tally.signed).await;
    evidence::verifies(&mut house).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goodput_does_not_collapse_under_ten_times_the_load() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = slow_key(&member).await;
    let length = Until::Over(Duration::from_secs(3));
    let fitting = Load { connections: 4, streams: 4, until: length, ..flood(&house, &member, &key) };
    let peak = fitting.finish().await.rate();
    let mut crowd = Load { until: length, ..flood(&house, &member, &key) };
    crowd.headers.push(("chancery-deadline-ms".to_owned(), "1000".to_owned()));
    let under_pressure = crowd.finish().await;
    let share = under_pressure.rate() / peak;
    assert!(
        share > 0.5,
        "{share:.2} of the peak of {peak:.0} signatures/s is left: {:?}",
        under_pressure.refused
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_priority_lane_stays_fast_beside_a_flood() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = slow_key(&member).await;
    let load = flood(&house, &member, &key).start();
    flowing(&load).await;
    let urgent = Load { connections: 1, streams: 2, until: Until::Sent(40), ..flood(&house, &member, &key) };
    let urgent = Load { headers: vec![("priority".to_owned(), "u=0".to_owned())], ..urgent }.finish().await;
    let crowd = load.stop().await;
    assert_eq!(urgent.failed, 0, "{:?}", urgent.refused);
    let (fast, slow) = (urgent.percentile(50.0), crowd.percentile(50.0));
    assert!(fast * 3 < slow, "the urgent took {fast:?}, the crowd {slow:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_priority_lane_is_for_those_with_its_scope() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = slow_key(&member).await;
    let (_, secret) = house.operator().acting_in(&member.workspace).issue("plain", &["sign"]).await;
    let plain = member.with_secret(&secret);
    let load = flood(&house, &member, &key).start();
    flowing(&load).await;
    let pretender = Load { connections: 1, streams: 2, until: Until::Sent(8), ..flood(&house, &plain, &key) };
    let pretender =
        Load { headers: vec![("priority".to_owned(), "u=0".to_owned())], ..pretender }.finish().await;
    let crowd = load.stop().await;
    let (pretended, slow) = (pretender.percentile(50.0), crowd.percentile(50.0));
    assert!(pretended * 3 > slow, "without the scope it took {pretended:?}, the crowd {slow:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_big_workspace_does_not_starve_a_small_one() {
    let house = Appliance::start().await;
    let (big, small) = (house.member("big").await, house.member("small").await);
    let (big_key, small_key) = (slow_key(&big).await, slow_key(&small).await);
    let load = flood(&house, &big, &big_key).start();
    flowing(&load).await;
    let few =
        Load { connections: 1, streams: 4, until: Until::Sent(80), ..flood(&house, &small, &small_key) };
    let few = few.finish().await;
    let crowd = load.stop().await;
    assert_eq!(few.failed, 0, "{:?}", few.refused);
    let (of_small, of_big) = (few.percentile(50.0), crowd.percentile(50.0));
    assert!(of_small * 3 < of_big, "the small waited {of_small:?}, the big {of_big:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_health_answer_beside_a_flood() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = slow_key(&member).await;
    let load = flood(&house, &member, &key).start();
    flowing(&load).await;
    let connection = member.connect(Protocol::H1).await;
    for _ in 0..20 {
        let begun = Instant::now();
        connection.send(get("/v1/keys")).await.unwrap().expect(200);
        connection.send(get("/health/live")).await.unwrap().expect(204);
        assert!(begun.elapsed() < Duration::from_secs(2), "two reads took {:?}", begun.elapsed());
    }
    assert!(house.operator().is_ready().await, "busy, and called not ready");
    drop(load.stop().await);
}

#[tokio::test]
async fn a_workspace_over_its_rate_is_told_when_to_come_back_and_others_are_served() {
    let quota = toml::toml! { burst = 20
    per_second = 5 };
    let plan = promises::Plan::with(promises::Hardware::Token).set("rates.workspace", quota);
    let house = plan.start().await;
    let (acme, globex) = (house.member("acme").await, house.member("globex").await);
    let connection = acme.connect(Protocol::H1).await;
    let mut limited = None;
    for _ in 0..60 {
        let answer = connection.send(get("/v1/keys")).await.unwrap();
        if answer.status != 200 {
            limited = Some(answer);
            break;
        }
    }
    let limited = limited.expect("sixty requests fit into a burst of twenty").refused(429, "rate_limited");
    assert!(limited.header("retry-after").is_some());
    globex.ask(post("/v1/keys", json!({ "name": "other", "kind": "p256" }))).await.expect(201);
    let again = || async { (connection.send(get("/v1/keys")).await.unwrap().status == 200).then_some(()) };
    eventually("it may come back", Duration::from_secs(5), again).await;
}
