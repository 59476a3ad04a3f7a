//! Following one request: from the caller's trace through the house to the upstream, the ledger, a collector and back.
//! Who enters: requests with a trace of their own.
//! What leaves: the same trace on the other side; one story of spans, log lines, entries and workflows' steps.

use promises::plan::Hardware;
use promises::runs::{until, vote, waiting_for_approval};
use promises::{GIVEN_UP, Plan, SCOPES, eventually, get, post};
use serde_json::{Value, json};
use simulators::Upstream;
use simulators::upstream::{Behaviour, Speaks};

use crate::{before, ground};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The lines of one teller, each as deep as it lies.
fn told_by(source: &str, followed: &Value) -> Vec<String> {
    let story = followed["requests"][0]["story"].as_array().unwrap();
    let words = |line: &Value| {
        let depth = usize::try_from(line["depth"].as_u64().unwrap()).unwrap();
        format!("{}{}", ">".repeat(depth), line["what"].as_str().unwrap())
    };
    story.iter().filter(|line| line["source"] == source).map(words).collect()
}

fn span_names(followed: &Value) -> Vec<String> {
    told_by("span", followed)
}

fn is_in_the_order_of_time(followed: &Value) -> bool {
    let story = followed["requests"][0]["story"].as_array().unwrap();
    story.is_sorted_by_key(|line| line["at_us"].as_u64().unwrap())
}

#[tokio::test]
async fn a_trace_goes_on_through_us_to_the_upstream_one_span_for_each_attempt() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let ground = ground(vec![before("a", &upstream, &[])]).await;
    ground.member.ask(get("/a")).await.expect(200);
    upstream.behave_next([Behaviour::ResetAfter]);
    let asked = get("/a").header("traceparent", PARENT).header("tracestate", "vendor=1");
    let answer = ground.member.ask(asked).await.expect(200);
    let seen = upstream.seen();
    let header = |at: usize, name: &str| seen[at].headers[name].to_str().unwrap().to_owned();
    let (first, second) = (header(1, "traceparent"), header(2, "traceparent"));
    for parent in [&first, &second] {
        assert!(parent.starts_with(&format!("00-{TRACE}-")), "{parent}");
    }
    assert_ne!(first, second, "each attempt is a span of its own");
    let span = second.split('-').nth(2).unwrap();
    assert_eq!(header(2, "tracestate"), format!("chancery={span},vendor=1"));
    assert!(!header(0, "traceparent").contains(TRACE), "without one a trace begins here");
    let followed =
        ground.house.operator().ask(get(format!("/v1/traces/{}", answer.request_id()))).await.expect(200);
    assert_eq!(span_names(&followed.json()), ["GET /a", ">upstream a", ">upstream a"]);
    let by_trace = ground.house.operator().ask(get(format!("/v1/traces/{TRACE}"))).await.expect(200).json();
    assert_eq!(by_trace["requests"][0]["request_id"], answer.request_id());
}

#[tokio::test]
async fn a_signature_is_followed_through_service_ledger_and_token_and_to_its_entry() {
    let house = Plan::with(Hardware::Token).start().await;
    let member = house.member_with("acme", &SCOPES).await;
    let key = member.create_key("release", "p256").await;
    let answer = member.ask(promises::people::sign_p256(&key, b"x")).await.expect(200);
    let said = house.cli(&["--json", "trace", &answer.request_id()]);
    let followed: Value =
        serde_json::from_slice(&said.stdout).unwrap_or_else(|why| panic!("{why}: {said:?}"));
    let names = span_names(&followed);
    assert_eq!(names.first().map(String::as_str), Some("POST /v1/keys/{key}/sign"), "{names:?}");
    for part in [">signing", ">>ledger.write", ">>token.sign"] {
        assert!(names.iter().any(|name| name == part), "{part} is missing in {names:?}");
    }
    let story = followed["requests"][0]["story"].as_array().unwrap();
    let entry = story.iter().find(|line| line["source"] == "ledger").unwrap();
    assert_eq!(entry["reference"], answer.entry().unwrap().to_string());
    assert!(is_in_the_order_of_time(&followed), "{followed}");
    let words = String::from_utf8(house.cli(&["trace", &answer.request_id()]).stdout).unwrap();
    assert!(words.contains("token.sign") && words.contains("key.sign") && words.contains(" ms"), "{words}");
    house.operator().ask(get("/v1/traces/req_00000000000000000000")).await.refused(404, "not_found");
}

#[tokio::test]
async fn after_a_restart_a_request_is_still_known_by_its_entries() {
    let mut house = Plan::with(Hardware::Token).start().await;
    let made = house.operator().ask(post("/v1/workspaces", json!({ "name": "acme" }))).await.expect(201);
    house.terminate().await;
    house.serve().await;
    let followed =
        house.operator().ask(get(format!("/v1/traces/{}", made.request_id()))).await.expect(200).json();
    assert_eq!(span_names(&followed), [""; 0]);
    assert!(!told_by("ledger", &followed).is_empty(), "{followed}");
}

#[tokio::test]
async fn what_the_log_says_of_a_request_stands_in_its_story_and_nothing_secret_does() {
    let house = Plan::with(Hardware::Token).start().await;
    let member = house.member_with("acme", &SCOPES).await;
    let asked = promises::people::sign_p256("none", b"x").header("traceparent", PARENT);
    let id = member.ask(asked).await.refused(404, "not_found").request_id();
    let followed = house.operator().ask(get(format!("/v1/traces/{id}"))).await.expect(200);
    let lines = told_by("log", &followed.json());
    let [line] = &lines[..] else { panic!("{lines:?}") };
    assert!(line.starts_with("INFO refused") && line.contains("status=404"), "{line}");
    assert!(house.log().contains(&id), "the log has the line as well");
    let by_trace = house.operator().ask(get(format!("/v1/traces/{TRACE}"))).await.expect(200).json();
    assert_eq!(told_by("log", &by_trace), lines);
    assert!(!followed.text().contains(&member.secret), "{}", followed.text());
    let words = String::from_utf8(house.cli(&["trace", &id]).stdout).unwrap();
    assert!(words.contains("log       INFO refused"), "{words}");
}

#[tokio::test]
async fn what_the_log_says_of_a_workflow_names_the_request_that_started_it() {
    let house = Plan::with(Hardware::Token).start().await;
    let member = house.member_with("acme", &SCOPES).await;
    let made = member.ask(post("/v1/keys", json!({ "name": "release", "kind": "p256" }))).await.expect(201);
    let followed = house.operator().ask(get(format!("/v1/traces/{}", made.request_id()))).await.expect(200);
    let lines = told_by("log", &followed.json());
    let of_this = |line: &&String| {
        line.starts_with("INFO a workflow ended") && line.contains(r#"workflow="key.generate""#)
    };
    assert_eq!(lines.iter().filter(of_this).count(), 1, "{lines:?}");
}

#[tokio::test]
async fn a_workflow_stays_in_the_story_and_the_trace_of_its_request_across_a_kill() {
    let mut house = Plan::with(Hardware::Token).start().await;
    let acme = house.member_with("acme", &SCOPES).await;
    let key = acme.create_key("old", "p256").await;
    let destroy = post(format!("/v1/keys/{key}/schedule-destruction"), json!({ "days": 1, "reason": "old" }));
    let asked = acme.ask(destroy.header("traceparent", PARENT)).await.expect(202);
    let run = asked.json()["workflow"].as_str().unwrap().to_owned();
    let operator = house.operator().acting_in(&acme.workspace);
    let seen = waiting_for_approval(&operator, &run).await;
    let before = house.operator().ask(get(format!("/v1/traces/{TRACE}"))).await.expect(200).json();
    assert_eq!(before["requests"][0]["request_id"], asked.request_id());
    house.kill().await;
    house.serve().await;
    house.ready().await;
    for name in ["bob", "carol"] {
        let (_, identity) = operator.enrol(name).await;
        let (_, secret) = operator.issue(name, &SCOPES).await;
        vote(&acme.with_secret(&secret).with_identity(&identity), &seen, "approve").await.expect(200);
    }
    until(&operator, &run, "the notice", |run| run["step"] == "keys.await_cooling").await;
    let followed = house.operator().ask(get(format!("/v1/traces/{TRACE}"))).await.expect(200).json();
    assert_eq!(followed["requests"][0]["request_id"], asked.request_id(), "found by the trace it began with");
    let wait = "wait key.destroy signing.await_approvals".to_owned();
    assert!(span_names(&followed).contains(&wait), "{followed}");
    let steps = told_by("workflow", &followed);
    for step in ["key.destroy signing.await_approvals begun", "key.destroy signing.await_approvals done"] {
        assert!(steps.iter().any(|line| line == step), "{step} is missing in {steps:?}");
    }
    assert!(told_by("ledger", &followed).iter().any(|line| line.starts_with("workflow.")), "{followed}");
    assert!(is_in_the_order_of_time(&followed), "{followed}");
    let below = |names: &[String], what: &str| names.iter().any(|name| name.contains(what));
    assert!(below(&span_names(&before), "POST /v1/keys/{key}/schedule-destruction"), "{before}");
}

#[tokio::test]
async fn recorded_traces_reach_a_collector_and_one_that_is_away_costs_no_request() {
    let mut collector = Upstream::plain(Speaks::Http1).await.unwrap();
    let house = Plan::with(Hardware::Token)
        .set("traces.otlp", format!("{}/v1/traces", collector.endpoint()))
        .start()
        .await;
    let asked = get("/v1/workspaces").header("traceparent", PARENT);
    house.operator().ask(asked).await.expect(200);
    let exported = || async {
        collector.seen().into_iter().find_map(|seen| {
            let message: Value = serde_json::from_slice(&seen.body).ok()?;
            let spans = message["resourceSpans"][0]["scopeSpans"][0]["spans"].as_array()?.clone();
            spans
                .into_iter()
                .find(|span| span["traceId"] == TRACE && span["parentSpanId"] == "00f067aa0ba902b7")
        })
    };
    let (span, _) = eventually("the span", GIVEN_UP, exported).await;
    assert_eq!((&span["name"], &span["kind"]), (&"GET /v1/workspaces".into(), &2.into()));
    assert!(collector.seen().iter().all(|seen| seen.target == "/v1/traces"));
    collector.stop();
    for _ in 0..20 {
        house.operator().ask(get("/v1/workspaces").header("traceparent", PARENT)).await.expect(200);
    }
}
