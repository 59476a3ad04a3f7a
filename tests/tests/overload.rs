//! More than the token can do: what is shed, who is served first, and who cannot starve whom.
//!
//! Who comes first is counted in turns and not in seconds. The token is made to stand still, so that a line forms; then it goes
//! on, and the ledger, which numbers each signature as it is let in, says who came when. A machine that is ten times as busy
//! takes ten times as long and counts the same.

use std::time::Duration;

use promises::daemon::kill;
use promises::people::{sign_digest, sign_p256};
use promises::wire::Answer;
use promises::{Appliance, GIVEN_UP, Load, Member, Protocol, Until, eventually, evidence, get, post};
use rustix::process::{Pid, Signal};
use serde_json::json;
use tokio::task::JoinHandle;

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
    let mut shed = 0;
    for at in 0..60u8 {
        let ask = sign_digest(&key, SLOW.1, &[at; 32]).header("chancery-deadline-ms", "50");
        let answer = hasty.send(ask).await.unwrap();
        if answer.code() == "overloaded" {
            assert!(answer.refused(503, "overloaded").header("retry-after").is_some());
            shed += 1;
        }
    }
    let tally = load.stop().await;
    assert!(shed > 0, "sixty requests in a hurry, and none was shed");
    assert!(tally.refused.get("overloaded").is_some_and(|count| *count > 0), "{:?}", tally.refused);
    assert_eq!(tally.without_retry_after, 0, "{:?}", tally.refused);
    // Whoever was shed early is nowhere on the ledger; whoever was signed for stands there once.
    evidence::each_has_its_entry(&house, &key, &tally.signed).await;
    evidence::verifies(&mut house).await;
}

/// What the token does for requests that nobody waits for any more is lost. Under ten times its load most of what is let in must
/// still be answered: whoever could not be answered in time was turned away before, not after.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goodput_does_not_collapse_under_ten_times_the_load() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = slow_key(&member).await;
    // Patience goes by the pace of this very machine: twice as long as all slots together take.
    let pace = Load { connections: 4, streams: 4, until: Until::Sent(128), ..flood(&house, &member, &key) };
    let patience = pace.finish().await.took.as_millis().max(1_000);
    let mut crowd = flood(&house, &member, &key);
    crowd.headers.push(("chancery-deadline-ms".to_owned(), patience.to_string()));
    let crowd = crowd.start();
    let much = || async { (crowd.signed() > 400).then_some(()) };
    eventually("four hundred signatures", PATIENCE * 6, much).await;
    let tally = crowd.stop().await;
    let let_in = house.operator().entries(&format!("action=key.sign&object={key}")).await.len();
    let answered = tally.signed.len();
    assert!(answered.min(1_000) * 2 > let_in, "{answered} answered of {let_in} let in: {:?}", tally.refused);
}

/// Requests that have their entry while the token stands still: as many as there are slots in front of it.
const SLOTS: usize = 64;
/// Requests that then stand in line behind them: three times as many, since as many as there are slots may be let in at one
/// moment and come to the ledger in any order.
const IN_LINE: usize = 3 * SLOTS;
/// Streams of one connection.
const STREAMS: usize = 128;

/// A line in front of a token that stands still.
struct Line {
    worker: Pid,
    asked: Vec<JoinHandle<Answer>>,
}

impl Line {
    /// As many requests as there are slots, and three times as many that wait for one.
    async fn form(house: &mut Appliance, member: &Member, key: &str) -> Self {
        member.ask(sign_p256(key, b"so that the key is known")).await.expect(200);
        let worker = house.daemon().token_worker().await;
        kill(worker, Signal::STOP);
        let mut line = Self { worker, asked: Vec::new() };
        while line.asked.len() < SLOTS + IN_LINE {
            line.join(house, member, key, STREAMS, None).await;
        }
        line
    }

    /// Puts requests at its end; returns once all of them have come in.
    async fn join(
        &mut self,
        house: &Appliance,
        member: &Member,
        key: &str,
        count: usize,
        priority: Option<&str>,
    ) -> std::ops::Range<usize> {
        let (first, connection) = (self.asked.len(), member.connect(Protocol::H2).await);
        for at in first..first + count {
            let ask =
                sign_p256(key, format!("in line {at}").as_bytes()).header("chancery-deadline-ms", "60000");
            let ask = priority.map_or(ask.clone(), |priority| ask.header("priority", priority));
            let connection = connection.clone();
            self.asked.push(tokio::spawn(async move { connection.send(ask).await.unwrap() }));
        }
        let all = self.asked.len();
        let came_in = || async { (in_flight(house).await >= all).then_some(()) };
        eventually("all of them came in", PATIENCE, came_in).await;
        // From coming in to standing in line is less than it takes to serve a read, and these come after them.
        for _ in 0..20 {
            member.ask(get("/v1/audit/checkpoint")).await.expect(200);
        }
        first..first + count
    }

    /// Lets the token go on; the entry of each request, in the order of asking.
    async fn served(self) -> Vec<u64> {
        kill(self.worker, Signal::CONT);
        let mut entries = Vec::new();
        for asked in self.asked {
            entries.push(asked.await.unwrap().expect(200).entry().unwrap());
        }
        entries
    }
}

/// Requests that are in the hands of the service that signs.
async fn in_flight(house: &Appliance) -> usize {
    let figures = house.operator().ask(get("/metrics")).await.expect(200).text();
    let figure = figures.lines().find(|line| line.contains("service=\"signing\",figure=\"in_flight\""));
    let number =
        figure.and_then(|line| line.rsplit(' ').next()).and_then(|number| number.parse::<f64>().ok());
    number.unwrap_or_default() as usize
}

/// How many of those that were in line before came before the last of these.
fn turns_before(entries: &[u64], these: &std::ops::Range<usize>) -> usize {
    let last = entries[these.clone()].iter().max().unwrap();
    let mut sorted = entries[..SLOTS + IN_LINE].to_vec();
    sorted.sort_unstable();
    // Those that had a slot when the line formed have nothing to do with it.
    sorted[SLOTS..].iter().filter(|entry| *entry < last).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_priority_lane_stays_fast_beside_a_flood() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let mut line = Line::form(&mut house, &member, &key).await;
    let urgent = line.join(&house, &member, &key, 4, Some("u=0")).await;
    let turns = turns_before(&line.served().await, &urgent);
    assert!(turns < IN_LINE / 2, "{turns} of {IN_LINE} in line came before four urgent ones");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_priority_lane_is_for_those_with_its_scope() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let (_, secret) = house.operator().acting_in(&member.workspace).issue("plain", &["sign"]).await;
    let plain = member.with_secret(&secret);
    let mut line = Line::form(&mut house, &member, &key).await;
    let pretender = line.join(&house, &plain, &key, 4, Some("u=0")).await;
    let turns = turns_before(&line.served().await, &pretender);
    assert!(turns > IN_LINE / 2, "only {turns} of {IN_LINE} in line came before four without the scope");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_big_workspace_does_not_starve_a_small_one() {
    let mut house = Appliance::start().await;
    let (big, small) = (house.member("big").await, house.member("small").await);
    let big_key = big.create_key("release", "p256").await;
    let small_key = small.create_key("release", "p256").await;
    small.ask(sign_p256(&small_key, b"so that the key is known")).await.expect(200);
    let mut line = Line::form(&mut house, &big, &big_key).await;
    let few = line.join(&house, &small, &small_key, 4, None).await;
    let turns = turns_before(&line.served().await, &few);
    assert!(turns < IN_LINE / 2, "{turns} of {IN_LINE} of the big one came before four of the small one");
}

/// The token stands still and its line is full: whatever waited for a signature would wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_and_health_answer_beside_a_flood() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let line = Line::form(&mut house, &member, &key).await;
    let connection = member.connect(Protocol::H1).await;
    for _ in 0..20 {
        connection.send(get("/v1/keys")).await.unwrap().expect(200);
        connection.send(get("/health/live")).await.unwrap().expect(204);
    }
    assert!(line.asked.iter().all(|asked| !asked.is_finished()), "a token that stands still has signed");
    line.served().await;
    assert!(house.operator().is_ready().await, "busy a moment ago, and called not ready");
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
    eventually("it may come back", GIVEN_UP, again).await;
}
