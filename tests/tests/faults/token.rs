//! The token's worker killed, stopped and crashed in the middle of the work; the token pulled out and put back.
//! Who enters: a load with a journal, and a hand on the worker's process.
//! What leaves: 503 with Retry-After while it lasts, health after it, the same daemon all along.

use promises::daemon::kill;
use promises::load::Tally;
use promises::people::sign_p256;
use promises::{Appliance, GIVEN_UP, Load, Protocol, eventually, evidence, get, within};
use rustix::process::{Signal, kill_process};

/// Codes by which a member is told that the token is away; nothing else may come of it.
const AWAY: [&str; 3] = ["token_unavailable", "outcome_unknown", "overloaded"];

fn refused_only_as_away(tally: &Tally) {
    let other: Vec<_> = tally.refused.iter().filter(|(code, _)| !AWAY.contains(&code.as_str())).collect();
    assert!(other.is_empty(), "refused with {other:?}");
    assert_eq!(tally.without_retry_after, 0, "a 503 did not say when to come back: {:?}", tally.refused);
}

async fn heals_from(signal: Signal, times: usize) {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let pid = house.daemon().pid();
    let load = Load { connections: 8, ..Load::of(&member, &house.door(), &key) }.start();
    for _ in 0..times {
        let before = load.signed();
        let working = || async { (load.signed() > before + 20).then_some(()) };
        eventually("the load works", GIVEN_UP, working).await;
        let worker = house.daemon().token_worker().await;
        kill(worker, signal);
        let door = house.daemon();
        let replaced = || async {
            let now = door.workers().first().copied()?;
            if now == worker {
                // The runtime's stack guard lets the first SIGSEGV from outside pass, and leaves the next to the system.
                let _ = kill_process(worker, signal);
            }
            (now != worker).then_some(())
        };
        eventually("another worker", GIVEN_UP, replaced).await;
        let after = load.signed();
        let signing = || async { (load.signed() > after).then_some(()) };
        eventually("signatures again", GIVEN_UP, signing).await;
    }
    let tally = load.stop().await;
    assert_eq!(house.daemon().pid(), pid);
    assert!(house.daemon().has_ended().is_none(), "the daemon ended");
    refused_only_as_away(&tally);
    house.ready_within(GIVEN_UP).await;
    evidence::each_has_its_entry(&house, &key, &tally.signed).await;
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn a_worker_killed_under_load_is_replaced_and_no_signature_lacks_its_entry() {
    heals_from(Signal::KILL, 5).await;
}

#[tokio::test]
async fn a_worker_that_crashes_in_the_module_is_replaced_and_no_signature_lacks_its_entry() {
    heals_from(Signal::SEGV, 5).await;
}

#[tokio::test]
async fn a_hung_worker_costs_nobody_more_than_their_deadline() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let connection = member.connect(Protocol::H2).await;
    connection.send(sign_p256(&key, b"before")).await.unwrap().expect(200);
    kill(house.daemon().token_worker().await, Signal::STOP);
    // Nobody but the daemon lets the worker go: what answers is the deadline, and what heals is that the daemon noticed.
    let hasty = connection.send(sign_p256(&key, b"during").header("chancery-deadline-ms", "1500"));
    let answer = within("the deadline's answer", GIVEN_UP, hasty).await.unwrap();
    assert!(matches!(answer.status, 503 | 504), "{}", answer.text());
    let signs =
        || async { (connection.send(sign_p256(&key, b"after")).await.unwrap().status == 200).then_some(()) };
    eventually("signatures again", GIVEN_UP, signs).await;
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn the_entry_is_on_the_ledger_before_the_key_is_touched() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let worker = house.daemon().token_worker().await;
    kill(worker, Signal::STOP);
    let asking = {
        let member = member.clone();
        let ask = sign_p256(&key, b"held back");
        tokio::spawn(async move { member.ask(ask).await })
    };
    let operator = house.operator();
    let recorded = || async { operator.entries(&format!("action=key.sign&object={key}")).await.pop() };
    let (entry, _) = eventually("the entry", GIVEN_UP, recorded).await;
    assert!(!asking.is_finished(), "a stopped token signed");
    assert_eq!(entry["detail"]["after"]["digest"], evidence::recorded_digest(b"held back").as_str());
    kill(worker, Signal::CONT);
    let answer = asking.await.unwrap().expect(200);
    assert_eq!(answer.entry(), entry["seq"].as_u64());
    assert_eq!(answer.request_id(), entry["request_id"].as_str().unwrap());
}

#[tokio::test]
async fn a_token_pulled_out_is_told_with_503_and_signs_again_once_it_is_back() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let pid = house.daemon().pid();
    member.ask(sign_p256(&key, b"before")).await.expect(200);
    house.hsm.as_ref().unwrap().unplug().unwrap();
    // The device is gone, and with it whatever the module had open on it.
    kill(house.daemon().token_worker().await, Signal::KILL);
    let away = || async {
        let answer = member.ask(sign_p256(&key, b"during")).await;
        (answer.code() == "token_unavailable").then_some(answer)
    };
    let (refused, _) = eventually("the token is told as away", GIVEN_UP, away).await;
    assert!(refused.refused(503, "token_unavailable").header("retry-after").is_some());
    member.ask(get("/v1/keys")).await.expect(200);
    let operator = house.operator();
    let unready = || async { (!operator.is_ready().await).then_some(()) };
    eventually("readiness says so", GIVEN_UP, unready).await;
    house.hsm.as_ref().unwrap().plug_in().unwrap();
    let signs = || async { (member.ask(sign_p256(&key, b"after")).await.status == 200).then_some(()) };
    eventually("signatures again", GIVEN_UP, signs).await;
    house.ready_within(GIVEN_UP).await;
    assert_eq!(house.daemon().pid(), pid);
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn another_token_with_the_same_label_is_not_taken_for_ours() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    house.hsm.as_mut().unwrap().replace().unwrap();
    kill(house.daemon().token_worker().await, Signal::KILL);
    let away = || async { (member.ask(sign_p256(&key, b"no")).await.status == 503).then_some(()) };
    eventually("the stranger is refused", GIVEN_UP, away).await;
    for _ in 0..10 {
        member.ask(sign_p256(&key, b"no")).await.refused(503, "token_unavailable");
    }
}
