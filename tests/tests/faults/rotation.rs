//! The power goes while a new CA is being made: at every commit of it, and between them.
//! Who enters: strace, which kills the daemon at a durable call of the ledger's writer.
//! What leaves: one working CA or two, never half of one; a token that holds the keys of those and no others.

use std::collections::BTreeSet;
use std::time::Duration;

use promises::daemon::kill;
use promises::people::sign_p256;
use promises::programs::{succeeds, tool};
use promises::{Appliance, Ask, Member, eventually, evidence, get, post};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::syscalls::{STRACE_LOG, strace};

/// What the ledger may tell of a rotation when the power goes, by the last step that was written.
const STEPS: [&str; 3] = ["ca.order", "ca.draft", "ca.rotate"];
/// The heartbeats of the daemon take turns with the steps, so not every kill meets one.
const STRIKES_MAX: usize = 40;
/// A token that is back is noticed by the next look, and a call under way when it went may have to run out first.
const FOLLOWED_MAX: Duration = Duration::from_secs(40);
/// A commit is some ten writes; several strikes meet each.
const WRITES_BETWEEN_STRIKES: usize = 5;

/// Durable calls of the writer until the appliance is ready: the first that may belong to a rotation comes after.
async fn calls_at_start(house: &mut Appliance, call: &str) -> usize {
    house.serve_under(&strace(house, &format!("{call}:delay_enter=0"))).await;
    house.ready().await;
    let log = std::fs::read_to_string(house.path(STRACE_LOG)).unwrap();
    house.terminate().await;
    let calls = log.lines().filter(|line| line.contains(&format!("{call}("))).count();
    assert!(calls > 0, "strace saw nothing: a test without a crash proves nothing\n{log}");
    calls
}

/// Serves until the writer's call of this number, asking for something meanwhile; true if that was answered before.
async fn ask_until(house: &mut Appliance, call: &str, number: usize, ask: Ask) -> bool {
    let inject = format!("{call}:signal=KILL:when={number}");
    if house.try_serve_under(&strace(house, &inject)).await.is_err() {
        return false;
    }
    let answered = house.operator().try_ask(ask).await;
    house.daemon().signal_if_alive(Signal::KILL);
    house.ended().await;
    answered.is_ok_and(|answer| answer.status < 300)
}

/// The keys of CAs in the token, told by their labels.
fn ca_keys(house: &Appliance) -> usize {
    let hsm = house.hsm.as_ref().unwrap();
    let mut command = tool("pkcs11-tool", "opensc");
    command.env("SOFTHSM2_CONF", hsm.conf()).arg("--module").arg(hsm.module()).args(["--login", "--pin"]);
    command.arg(std::fs::read_to_string(hsm.pin_file()).unwrap());
    let listing = succeeds(command.args(["--list-objects", "--type", "privkey"]));
    listing.lines().filter(|line| line.contains("chancery appliance CA")).count()
}

/// The steps of the last rotation that the ledger tells of, and whether it was closed as not made.
async fn last_rotation(house: &Appliance, known: usize) -> (Vec<String>, usize) {
    let entries = house.operator().entries("").await;
    let told = entries.iter().filter_map(|entry| entry["action"].as_str());
    let told: Vec<_> = told.filter(|action| action.starts_with("ca.")).map(str::to_owned).collect();
    (told[known..].to_vec(), told.len())
}

/// Whoever worked before works, and somebody new does.
async fn works_for_old_and_new(house: &Appliance, old: &Member, key: &str, name: &str) {
    old.ask(sign_p256(key, b"after the power cut")).await.expect(200);
    let (_, new) = house.operator().acting_in(&old.workspace).enrol(name).await;
    old.with_identity(&new).ask(sign_p256(key, b"enrolled after the power cut")).await.expect(200);
}

/// After a restart: insists on whole CAs only, and gives the last step that was written before the power went.
async fn is_whole(house: &Appliance, known: &mut usize) -> Option<&'static str> {
    let (steps, told) = last_rotation(house, *known).await;
    *known = told;
    let line = house.operator().authorities().await;
    let trusted = line.iter().filter(|one| one["state"] == json!("trusted")).count();
    match steps.last().map(String::as_str) {
        Some("ca.rotate") => assert_eq!(trusted, 2, "{steps:?}"),
        Some("ca.order_closed") | None => assert_eq!(trusted, 1, "{steps:?}"),
        _ => panic!("half a rotation is left: {steps:?}"),
    }
    assert_eq!(ca_keys(house), line.len(), "the token has a key without a CA, or lacks one: {steps:?}");
    STEPS.into_iter().rev().find(|step| steps.iter().any(|told| told == step))
}

/// Back to one CA for the next strike.
async fn retire_the_newest(house: &Appliance, known: &mut usize) {
    let line = house.operator().authorities().await;
    if line.iter().filter(|one| one["state"] == json!("trusted")).count() == 2 {
        let newest = line.last().unwrap()["fingerprint"].as_str().unwrap().to_owned();
        house.operator().retire_ca(&newest).await.expect(200);
        *known += 1;
    }
}

/// An appliance whose rotations are struck, one after the other.
struct Struck {
    house: Appliance,
    member: Member,
    key: String,
    keys: Vec<String>,
    known: usize,
}

impl Struck {
    async fn prepare() -> Self {
        let mut house = Appliance::start().await;
        let member = house.member("acme").await;
        let key = member.create_key("release", "p256").await;
        let keys = evidence::verifier_keys(&house).await;
        house.terminate().await;
        Self { house, member, key, keys, known: 0 }
    }

    /// Strikes one rotation, starts again, insists that all is whole and works, and goes back to one CA.
    /// The last step that was written, and whether the rotation was answered before the strike.
    async fn strike(&mut self, call: &str, number: usize) -> (Option<&'static str>, bool) {
        let rotate = post("/v1/authorities", Value::Null);
        let answered = ask_until(&mut self.house, call, number, rotate).await;
        self.house.serve().await;
        self.house.ready().await;
        let last = is_whole(&self.house, &mut self.known).await;
        works_for_old_and_new(&self.house, &self.member, &self.key, &format!("after-{call}-{number}")).await;
        retire_the_newest(&self.house, &mut self.known).await;
        self.house.terminate().await;
        (last, answered)
    }
}

#[tokio::test]
async fn a_power_cut_at_each_commit_of_a_rotation_leaves_one_ca_or_two_and_never_half_of_one() {
    let mut all = Struck::prepare().await;
    let base = calls_at_start(&mut all.house, "fdatasync").await;
    let (mut struck, mut beyond) = (BTreeSet::new(), 0);
    for _ in 0..STRIKES_MAX {
        let (last, answered) = all.strike("fdatasync", base + beyond).await;
        struck.extend(last.filter(|_| !answered));
        if struck.len() == STEPS.len() {
            break;
        }
        // Past its last commit the rotation is answered; then from the beginning, for what a heartbeat got instead.
        beyond = if answered { 0 } else { beyond + 1 };
    }
    assert_eq!(struck.len(), STEPS.len(), "not every commit was struck: {struck:?}");
    evidence::verifies_at_rest(&all.house, &all.keys);
}

#[tokio::test]
async fn a_power_cut_within_the_commits_of_a_rotation_leaves_one_ca_or_two_as_well() {
    let mut all = Struck::prepare().await;
    let base = calls_at_start(&mut all.house, "pwrite64").await;
    let mut struck = Vec::new();
    for strike in 0..STRIKES_MAX {
        let (last, answered) = all.strike("pwrite64", base + strike * WRITES_BETWEEN_STRIKES).await;
        if answered {
            break;
        }
        struck.push(last);
    }
    let unfinished = struck.iter().filter(|last| last.is_some_and(|step| step != "ca.rotate")).count();
    assert!(unfinished >= 2, "the power was never cut in the middle: {struck:?}");
    evidence::verifies_at_rest(&all.house, &all.keys);
}

/// Strikes the retirement of a second CA that has one client. Whether it was retired, and answered before the strike.
async fn strike_retirement(all: &mut Struck, call: &str, number: usize) -> (bool, bool) {
    all.house.serve().await;
    let operator = all.house.operator();
    let second = operator.rotate_ca().await;
    let name = format!("of-{call}-{number}");
    let (client, identity) = operator.acting_in(&all.member.workspace).enrol(&name).await;
    let theirs = all.member.with_identity(&identity);
    all.house.terminate().await;
    let retire = post(format!("/v1/authorities/{second}/retire"), Value::Null);
    let answered = ask_until(&mut all.house, call, number, retire).await;
    all.house.serve().await;
    let line = operator.authorities().await;
    let retired = line.last().unwrap()["state"] == json!("retired");
    let revoked = operator.entries(&format!("action=client.revoke&object={client}")).await;
    assert_eq!(revoked.len(), usize::from(retired), "client and CA do not go together: {line:?}");
    match theirs.try_ask(get("/v1/keys")).await {
        Ok(answer) => assert!(!retired && answer.status == 200, "{}", answer.text()),
        Err(why) => assert!(retired, "{why}"),
    }
    all.member.ask(sign_p256(&all.key, b"of the other CA")).await.expect(200);
    if !retired {
        operator.retire_ca(&second).await.expect(200);
    }
    all.house.terminate().await;
    (retired, answered)
}

#[tokio::test]
async fn a_power_cut_during_a_retirement_leaves_the_ca_with_all_its_clients_or_without_any() {
    let mut all = Struck::prepare().await;
    // Through all the writes up to those of the commit: the last strike before it is done meets it in the middle.
    let base = calls_at_start(&mut all.house, "pwrite64").await;
    let mut before = 0;
    while !strike_retirement(&mut all, "pwrite64", base + before * WRITES_BETWEEN_STRIKES).await.0 {
        before += 1;
        assert!(before < STRIKES_MAX, "the retirement was never done");
    }
    assert!(before >= 2, "it was done before the power was ever cut");
    // Killed when it makes sure of it, the commit is there, and nobody was told.
    let base = calls_at_start(&mut all.house, "fdatasync").await;
    let mut strikes = 0;
    while strike_retirement(&mut all, "fdatasync", base + strikes).await != (true, false) {
        strikes += 1;
        assert!(strikes < STRIKES_MAX, "the power was never cut between commit and answer");
    }
    evidence::verifies_at_rest(&all.house, &all.keys);
}

#[tokio::test]
async fn a_retirement_while_the_token_is_away_counts_at_once_and_the_face_follows_when_it_is_back() {
    let mut house = Appliance::start().await;
    let old = house.member("acme").await;
    let operator = house.operator();
    let first = operator.authorities().await[0]["fingerprint"].as_str().unwrap().to_owned();
    operator.rotate_ca().await;
    let (_, new) = operator.acting_in(&old.workspace).enrol("second").await;
    house.hsm.as_ref().unwrap().unplug().unwrap();
    kill(house.daemon().token_worker().await, Signal::KILL);
    operator.retire_ca(&first).await.expect(200);
    let trusting_both = old.with_identity(&old.identity.trusting(&new.ca));
    assert!(trusting_both.try_ask(get("/v1/keys")).await.is_err(), "a client of the retired CA is let in");
    house.hsm.as_ref().unwrap().plug_in().unwrap();
    let newest = operator.ask(get("/v1/ca")).await.expect(200).text();
    let new = old.with_identity(&new.trusting(&newest));
    let follows = || async { new.try_ask(get("/v1/keys")).await.ok().map(|answer| answer.expect(200)) };
    eventually("the server shows a certificate of the new CA", FOLLOWED_MAX, follows).await;
    assert!(trusting_both.try_ask(get("/v1/keys")).await.is_err(), "a client of the retired CA is let in");
    evidence::verifies(&mut house).await;
}
