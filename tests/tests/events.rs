//! Events of the real daemon: in order, once, with their entry, to whom they belong; for those who wait, and those who were away.
//! Who enters: members and operators of temporary appliances, and the command line that follows.
//! What leaves: feeds that agree with the runs, the ledger and each other, whatever was killed in between.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use promises::runs::in_state;
use promises::{Appliance, Member, Operator, SCOPES, evidence, get, post};
use serde_json::{Value, json};

/// Longer than anything here takes, and a bound for what hangs.
const PATIENCE: Duration = Duration::from_secs(60);

fn number(event: &Value) -> u64 {
    event["number"].as_u64().expect("a number")
}

fn topics(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["topic"].as_str().expect("a topic")).collect()
}

/// Everything in a feed, page after page.
async fn all(operator: &Operator, path: &str) -> Vec<Value> {
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = operator.ask(get(format!("{path}?limit=7{after}"))).await.expect(200).json();
        let events = page["events"].as_array().expect("events").clone();
        if events.is_empty() {
            return found;
        }
        found.extend(events);
        after = format!("&after={}", page["next"]);
    }
}

/// The next events of a topic after a cursor, waited for.
async fn next(member: &Member, after: u64, topic: Option<&str>) -> Vec<Value> {
    let topic = topic.map(|topic| format!("&topic={topic}")).unwrap_or_default();
    let ask = get(format!("/v1/events?after={after}{topic}"));
    let ask = ask.header("prefer", "wait=50").header("chancery-deadline-ms", "60000");
    member.ask(ask).await.expect(200).json()["events"].as_array().expect("events").clone()
}

async fn newest(member: &Member) -> u64 {
    let page = member.ask(get("/v1/events?limit=500")).await.expect(200).json();
    page["next"].as_u64().expect("a cursor")
}

/// Each event stands after the one before, and with an entry of the same workspace and request.
async fn stands_on_the_ledger(operator: &Operator, events: &[Value]) {
    assert!(events.windows(2).all(|two| number(&two[0]) < number(&two[1])));
    let entries = operator.entries("").await;
    for event in events {
        assert_eq!(event["entry"], number(event) / 1000);
        let entry = entries.iter().find(|entry| entry["seq"] == event["entry"]);
        let entry = entry.unwrap_or_else(|| panic!("{event} has no entry"));
        for field in ["workspace", "request_id"] {
            assert_eq!(entry[field], event[field], "{event} stands with {entry}");
        }
    }
}

#[tokio::test]
async fn what_was_announced_and_called_off_is_taken_back_and_stays_readable() {
    let mut house = Appliance::start().await;
    let acme = house.member("acme").await;
    let key = acme.create_key("release", "p256").await;
    let since = newest(&acme).await;
    let rotate = post(format!("/v1/keys/{key}/rotate?overlap_seconds=86400"), Value::Null);
    let member = acme.clone();
    let asking = tokio::spawn(async move { member.ask(rotate).await });
    let announced = next(&acme, since, Some("key")).await;
    assert_eq!(topics(&announced), ["key.next_version_announced"]);
    let run = announced[0]["workflow_id"].as_str().unwrap().to_owned();
    let cancel = post(format!("/v1/workflows/{run}/cancel"), json!({ "reason": "too early" }));
    acme.ask(cancel).await.expect(202);
    asking.await.unwrap().refused(409, "workflow_failed");
    let withdrawn = next(&acme, number(&announced[0]), Some("key")).await;
    assert_eq!(topics(&withdrawn), ["key.next_version_withdrawn"]);
    assert_eq!(withdrawn[0]["withdraws"], announced[0]["number"]);
    let operator = house.operator().acting_in(&acme.workspace);
    in_state(&operator, &run, "compensated").await;
    let told = all(&operator, "/v1/events").await;
    let of_run: Vec<_> = told.iter().filter(|event| event["workflow_id"] == run.as_str()).cloned().collect();
    let life = ["started", "waiting", "unwinding", "compensated"].map(|it| format!("workflow.{it}"));
    let [started, waiting, unwinding, compensated] = life.each_ref().map(String::as_str);
    let (announced, withdrawn) = ("key.next_version_announced", "key.next_version_withdrawn");
    assert_eq!(topics(&of_run), [started, announced, waiting, unwinding, withdrawn, compensated]);
    assert_eq!(
        (&of_run[2]["facts"]["for"], &of_run[3]["facts"]["code"]),
        (&json!("time"), &json!("cancelled"))
    );
    stands_on_the_ledger(&operator, &told).await;
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn a_workspace_hears_of_its_own_alone_and_only_with_the_scope() {
    let house = Appliance::start().await;
    let (acme, other) = (house.member("acme").await, house.member("other").await);
    let since = newest(&other).await;
    let ask = get(format!("/v1/events?after={since}")).header("prefer", "wait=3");
    let (waiting, _) = tokio::join!(other.ask(ask), acme.create_key("release", "p256"));
    let heard = waiting.expect(200).json();
    assert_eq!((heard["events"].as_array().unwrap().len(), heard["next"].as_u64()), (0, Some(since)));
    let everywhere = house.operator().ask(get("/v1/events-everywhere?topic=key")).await.expect(200).json();
    assert_eq!(everywhere["events"][0]["workspace"], acme.workspace.as_str());
    other.ask(get("/v1/events-everywhere")).await.refused(403, "operator_only");
    let scopes: Vec<_> = SCOPES.into_iter().filter(|scope| *scope != "workflows:read").collect();
    let (_, secret) = house.operator().acting_in(&acme.workspace).issue("blind", &scopes).await;
    acme.with_secret(&secret).ask(get("/v1/events")).await.refused(403, "scope_missing");
}

/// `chancery events --follow` as a program would read it.
struct Follower {
    child: Child,
    lines: mpsc::Receiver<Value>,
}

impl Follower {
    fn of(house: &Appliance, workspace: &str) -> Self {
        let mut command = house.command(&["-w", workspace, "events", "--follow", "--json"]);
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the command line");
        let (tell, lines) = mpsc::channel();
        let out = BufReader::new(child.stdout.take().expect("its output"));
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                // Who has seen enough has gone.
                let _ = tell.send(serde_json::from_str(&line).expect("an event"));
            }
        });
        Self { child, lines }
    }

    /// Every event up to the one that creates a key of this name.
    fn until_key(&self, name: &str) -> Vec<Value> {
        let mut heard = Vec::new();
        loop {
            let event = self.lines.recv_timeout(PATIENCE).expect("the next event");
            heard.push(event);
            let last = &heard[heard.len() - 1];
            if last["topic"] == "key.created" && last["facts"]["name"] == name {
                return heard;
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_outlives_a_restart_and_a_kill_and_misses_nothing_and_hears_nothing_twice() {
    let mut house = Appliance::start().await;
    let acme = house.member("acme").await;
    let follower = Follower::of(&house, &acme.workspace);
    let mut heard = Vec::new();
    let hear = |name: &'static str| tokio::task::block_in_place(|| follower.until_key(name));
    acme.create_key("one", "p256").await;
    heard.extend(hear("one"));
    house.terminate().await;
    let log = house.log();
    let drained = log.lines().rfind(|line| line.contains("drained")).expect("a line about the drain");
    assert!(drained.contains("true"), "whoever waits for an event held the house up: {drained}");
    house.serve().await;
    acme.create_key("two", "p256").await;
    heard.extend(hear("two"));
    house.kill().await;
    house.serve().await;
    acme.create_key("three", "p256").await;
    heard.extend(hear("three"));
    let kept = all(&house.operator().acting_in(&acme.workspace), "/v1/events").await;
    assert_eq!(heard[..], kept[..heard.len()], "the feed and what was heard of it");
}

/// What others must have been told of a run that has ended like this.
fn tells_once(run: &Value, events: &[Value]) {
    let id = run["id"].as_str().expect("an id");
    let told: Vec<_> = events.iter().filter(|event| event["workflow_id"] == id).cloned().collect();
    let mut count = BTreeMap::new();
    topics(&told).into_iter().for_each(|topic| *count.entry(topic.to_owned()).or_insert(0) += 1);
    let ended = format!("workflow.{}", run["state"].as_str().expect("a state"));
    assert_eq!((count.get("workflow.started"), count.get(&ended)), (Some(&1), Some(&1)), "{run}: {told:?}");
    let made = i32::from(run["workflow"] == "key.generate" && run["state"] == "succeeded");
    assert_eq!(count.get("key.created").copied().unwrap_or_default(), made, "{run}: {told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_killed_at_any_moment_has_told_of_each_run_once_and_of_nothing_without_its_entry() {
    let mut house = Appliance::start().await;
    let acme = house.member("acme").await;
    let operator = house.operator().acting_in(&acme.workspace);
    for (round, heard_max) in [1_usize, 4, 9, 15].into_iter().enumerate() {
        let mut after = newest(&acme).await;
        let asking: Vec<_> = (0..6)
            .map(|key| {
                let (acme, name) = (acme.clone(), format!("key-{round}-{key}"));
                let ask = post("/v1/workflows/key.generate", json!({ "name": name, "kind": "p256" }));
                tokio::spawn(async move { acme.try_ask(ask).await })
            })
            .collect();
        // The blow falls when so much was heard: in the middle of what is being done for the others.
        let mut heard = 0;
        while heard < heard_max {
            let events = next(&acme, after, None).await;
            heard += events.len();
            after = events.last().map_or(after, number);
        }
        house.kill().await;
        for one in asking {
            // Whoever was cut off looks at the runs.
            drop(one.await);
        }
        house.serve().await;
        house.ready().await;
        // What was heard before the kill is still there: nothing is told that could be lost.
        let kept = all(&operator, "/v1/events").await;
        assert!(kept.iter().any(|event| number(event) == after));
    }
    let runs = operator.ask(get("/v1/workflows?limit=500")).await.expect(200).json();
    let mut ended = Vec::new();
    for run in runs["workflows"].as_array().expect("runs") {
        let id = run["id"].as_str().expect("an id");
        let over =
            |run: &Value| ["succeeded", "compensated"].contains(&run["state"].as_str().unwrap_or_default());
        ended.push(promises::runs::until(&operator, id, "the run's end", over).await);
    }
    let events = all(&operator, "/v1/events").await;
    ended.iter().for_each(|run| tells_once(run, &events));
    assert!(ended.len() > 10, "only {} runs were begun", ended.len());
    stands_on_the_ledger(&operator, &events).await;
    evidence::verifies(&mut house).await;
}
