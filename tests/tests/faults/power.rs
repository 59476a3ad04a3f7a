//! The power goes, again and again, at moments nobody chose.
//! Who enters: a load whose journal lies outside, and SIGKILL.
//! What leaves: every acknowledged signature with exactly one entry, a log that verifies, and readiness again.

use promises::appliance::READY_MAX;
use promises::load::Signed;
use promises::{Appliance, Load, eventually, evidence};

/// By the rule of three, n clean rounds say that fewer than 3/n of all power cuts lose something (95 %).
const ROUNDS: usize = 6;
const ROUNDS_OF_TORTURE: usize = 200;

fn rounds() -> usize {
    match std::env::var("CHANCERY_TORTURE").as_deref() {
        Ok("all") => ROUNDS_OF_TORTURE,
        _ => ROUNDS,
    }
}

#[tokio::test]
async fn no_power_cut_under_load_loses_an_acknowledged_signature() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let keys = evidence::verifier_keys(&house).await;
    let mut journal: Vec<Signed> = Vec::new();
    for round in 0..rounds() {
        let load = Load { connections: 16, ..Load::of(&member, &house.door(), &key) }.start();
        // The number of signatures is what the round waits for, so that the moment differs in each.
        let enough = 20 + 37 * (round as u64 % 7);
        let working = || async { (load.signed() >= enough).then_some(()) };
        eventually("the load works", READY_MAX, working).await;
        house.kill().await;
        let stopping = tokio::spawn(load.stop());
        house.serve().await;
        house.ready().await;
        let tally = stopping.await.unwrap();
        let unknown: Vec<_> = tally.refused.keys().filter(|code| *code != "broken").collect();
        assert!(unknown.is_empty(), "round {round}: {:?}", tally.refused);
        journal.extend(tally.signed);
        evidence::each_has_its_entry(&house, &key, &journal).await;
    }
    assert!(journal.len() > 20 * rounds(), "{} signatures are no load", journal.len());
    house.kill().await;
    evidence::verifies_at_rest(&house, &keys);
}
