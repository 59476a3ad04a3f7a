//! Two workspaces on one appliance: whatever one of them waits for, the other is served.
//! Who enters: a workspace that has as many requests wait as it can, and one that asks now and then.
//! What leaves: what was refused, and to whom.

use std::time::Duration;

use promises::people::sign_p256;
use promises::wire::Ask;
use promises::{Appliance, Connection, Member, Protocol, eventually, get};

/// More than all waiters of a service are, in connections of as many streams as one may have.
const CONNECTIONS: usize = 34;
const STREAMS: usize = 128;
const PATIENCE: Duration = Duration::from_secs(60);

async fn newest(member: &Member) -> u64 {
    member.ask(get("/v1/events?limit=500")).await.expect(200).json()["next"].as_u64().expect("a cursor")
}

fn wait_for_the_next(after: u64) -> Ask {
    let ask = get(format!("/v1/events?after={after}"));
    ask.header("prefer", "wait=50").header("chancery-deadline-ms", "60000")
}

async fn events_line(house: &Appliance) -> serde_json::Value {
    let shown = house.operator().ask(get("/v1/status")).await.expect(200).json();
    let services = shown["services"].as_array().expect("services").clone();
    services.into_iter().find(|line| line["service"] == "events").expect("events")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_one_workspace_waits_for_another_is_served() {
    let house = Appliance::start().await;
    let (greedy, good) = (house.member("acme").await, house.member("globex").await);
    let key = good.create_key("release", "p256").await;
    let mut waiting = tokio::task::JoinSet::new();
    let after = newest(&greedy).await;
    let mut connections: Vec<Connection> = Vec::new();
    for _ in 0..CONNECTIONS {
        let connection = greedy.connect(Protocol::H2).await;
        for _ in 0..STREAMS {
            let connection = connection.clone();
            waiting.spawn(async move { connection.send(wait_for_the_next(after)).await });
        }
        connections.push(connection);
    }
    // All that it may have wait, and the first that may not.
    let full = || async { (events_line(&house).await["refused"].as_u64()? > 0).then_some(()) };
    eventually("one workspace has all waiters that it may have", PATIENCE, full).await;
    let line = events_line(&house).await;
    let held = line["in_flight"].as_u64().unwrap();
    assert!((2_000..3_000).contains(&held), "two thirds of the waiters, not {line}");
    // The others wait, read and sign, and what it waits for keeps it from nothing else.
    let since = newest(&good).await;
    let heard =
        good.ask(get(format!("/v1/events?after={since}")).header("prefer", "wait=1")).await.expect(200);
    assert_eq!(heard.json()["events"], serde_json::json!([]));
    good.ask(sign_p256(&key, b"beside it")).await.expect(200);
    greedy.ask(get("/v1/events?limit=1")).await.expect(200);
    assert_eq!(line["trips"], 0, "{line}");
    drop(connections);
    waiting.abort_all();
}
