//! Events through the real gate: pages, patience, cursors that do not fit, who sees what; and the paper that lists them.
//! Who enters: operators and programs with and without the scope.
//! What leaves: feeds, problems that say how to go on, the first topic that paper and code do not share.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::house::{Asker, Standing, house};
use gateway::topics;
use sagas::outbox::{self, LIFE};
use serde_json::{Value, json};

const PAPER: &str = "docs/events.md";

async fn read(asker: &Asker, query: &str) -> Value {
    let answer = asker.get(&format!("/v1/events{query}")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()
}

fn topics_of(page: &Value) -> Vec<&str> {
    page["events"].as_array().unwrap().iter().map(|event| event["topic"].as_str().unwrap()).collect()
}

async fn make_key(asker: &Asker, name: &str) {
    let made = asker.post("/v1/keys", json!({ "name": name, "kind": "p256" })).await;
    assert_eq!(made.status, 201, "{made:?}");
}

async fn acme(standing: &Standing) -> Asker {
    standing.program("acme", &["workflows:read", "keys:manage", "keys:read"]).await.asker
}

#[tokio::test]
async fn a_workspace_reads_what_happened_in_it_and_an_operator_what_happened_anywhere() {
    let standing = house().await;
    let (acme, other) = (acme(&standing).await, standing.program("other", &["workflows:read"]).await.asker);
    make_key(&acme, "one").await;
    let own = read(&acme, "").await;
    let done = |what| ["workflow.started", what, "workflow.succeeded"];
    assert_eq!(topics_of(&own), [done("workspace.created"), done("key.created")].concat());
    let made = &own["events"][4];
    assert_eq!((&made["facts"]["name"], &made["workflow"]), (&json!("one"), &json!("key.generate")));
    assert_eq!(topics_of(&read(&acme, "?topic=key").await), ["key.created"]);
    let run = made["workflow_id"].as_str().unwrap();
    assert_eq!(read(&acme, &format!("?workflow={run}")).await["events"].as_array().unwrap().len(), 3);
    assert_eq!(topics_of(&read(&other, "").await), done("workspace.created"));
    assert_eq!(standing.operator().ask("POST", "/v1/audit/export", None).await.status, 201);
    let everything = standing.operator().get("/v1/events-everywhere").await.json();
    let founded = [done("workspace.created"), done("workspace.created")].concat();
    assert_eq!(
        topics_of(&everything),
        [founded, [done("key.created"), done("audit.exported")].concat()].concat()
    );
    let exported = &everything["events"][10];
    assert!(exported.get("workspace").is_none(), "the whole export is the appliance's own doing: {exported}");
    // The entry is the first of the same transaction, in which the key was also attested.
    let entry = made["entry"].as_u64().unwrap();
    assert_eq!(made["number"].as_u64().unwrap() / 1000, entry);
    let told =
        standing.operator().get(&format!("/v1/audit/everything?after={}&limit=1", entry - 1)).await.json();
    let told = &told["entries"][0];
    assert_eq!(told["object"], format!("workflow/{run}"));
    assert!(["request_id", "workspace"].iter().all(|field| told[field] == made[field]), "{told}");
}

#[tokio::test]
async fn whoever_prefers_to_wait_is_answered_by_the_event_or_before_the_deadline() {
    let standing = house().await;
    let acme = acme(&standing).await;
    let next = read(&acme, "").await["next"].as_u64().unwrap();
    let patient = acme.with("prefer", "wait=30").with("chancery-deadline-ms", "60000");
    let waiting =
        tokio::spawn(async move { read(&patient, &format!("?after={next}&topic=key.created")).await });
    make_key(&acme, "one").await;
    let heard = waiting.await.unwrap();
    assert_eq!(topics_of(&heard), ["key.created"]);
    let after = read(&acme, "").await["next"].as_u64().unwrap();
    // A wait past the deadline would end as 504, and `read` wants 200.
    let hasty = acme.with("prefer", "wait=30").with("chancery-deadline-ms", "600");
    let nothing = read(&hasty, &format!("?after={after}")).await;
    assert_eq!((topics_of(&nothing).len(), nothing["next"].as_u64()), (0, Some(after)));
    // A house that stops lets everybody go: long before the minute that they would wait.
    let patient = acme.with("prefer", "wait=60").with("chancery-deadline-ms", "60000");
    let waiting = tokio::spawn(async move { read(&patient, &format!("?after={after}")).await });
    standing.house.register.stopping().cancel();
    let let_go = tokio::time::timeout(Duration::from_secs(40), waiting).await.expect("it is let go");
    assert_eq!(topics_of(&let_go.unwrap()), [""; 0]);
}

#[tokio::test]
async fn a_cursor_that_does_not_fit_is_told_so_and_how_to_go_on() {
    let standing = house().await;
    let acme = acme(&standing).await;
    make_key(&acme, "one").await;
    let first = read(&acme, "").await;
    let swept = first["next"].as_u64().unwrap();
    let sweep = |tx: &mut ::audit::Tx<'_>| outbox::sweep(tx, u64::MAX);
    assert!(standing.house.ground.ledger.write_unaudited("a test", sweep).await.unwrap().gone > 0);
    make_key(&acme, "two").await;
    let gone = acme.get("/v1/events?after=1").await;
    assert_eq!((gone.status, gone.code().as_str()), (410, "events_gone"), "{gone:?}");
    let kept = read(&acme, &format!("?after={swept}")).await;
    let words = gone.json()["detail"].as_str().unwrap().to_owned();
    let oldest = kept["events"][0]["number"].to_string();
    assert!(words.contains(&format!("after={swept}")) && words.contains(&oldest), "{words}");
    assert_eq!(read(&acme, "").await, kept, "without a cursor it begins with the oldest that is kept");
    let ahead = acme.get("/v1/events?after=9000000000000000").await;
    assert_eq!((ahead.status, ahead.code().as_str()), (422, "invalid"), "{ahead:?}");
    for bad in ["limit=0", "limit=501", "after=-1", "workflow=wf_1", "from=1"] {
        assert_eq!(acme.get(&format!("/v1/events?{bad}")).await.code(), "bad_request", "{bad}");
    }
    // What is younger than a month stays.
    standing.house.events.sweep(std::time::Duration::from_secs(30 * 24 * 3600)).await.unwrap();
    assert_eq!(read(&acme, "").await, kept);
    let figures = standing.operator().get("/metrics").await;
    assert!(String::from_utf8_lossy(&figures.body).contains(r#"part="events",figure="oldest_seconds""#));
}

#[test]
fn the_paper_lists_every_topic_with_its_facts_and_no_other() {
    let rows = common::table_rows(PAPER, |cell| cell.starts_with('`') && cell.contains('.'));
    let rows: BTreeMap<_, _> =
        rows.iter().map(|row| (row[0].trim_matches('`').to_owned(), row[1].clone())).collect();
    let facts = topics::ALL.iter().chain(&LIFE);
    let known: BTreeMap<_, _> =
        facts.map(|(topic, facts)| (topic.as_str().to_owned(), (*facts).to_owned())).collect();
    assert_eq!(rows, known);
    assert_eq!(known.len(), topics::ALL.len() + LIFE.len(), "a topic is named twice");
}

#[test]
fn every_topic_is_published_by_a_step() {
    let rooms: String = common::files("gateway/src", ".rs").iter().map(common::text).collect();
    let list = common::text("gateway/src/topics.rs");
    let names: Vec<_> =
        list.lines().filter_map(|line| line.trim().split_once(" = \"")).map(|(name, _)| name).collect();
    assert_eq!(names.len(), topics::ALL.len());
    for name in names {
        assert!(rooms.contains(&format!("topics::{name}")), "nobody publishes {name}");
    }
}
