//! Following one request: from the caller's trace through the house to the upstream, the ledger, a collector and back.
//! Who enters: requests with a trace of their own.
//! What leaves: the same trace on the other side; a tree of spans, and the entries beside it.

use std::time::Duration;

use promises::plan::Hardware;
use promises::{Plan, SCOPES, eventually, get, post};
use serde_json::{Value, json};
use simulators::Upstream;
use simulators::upstream::{Behaviour, Speaks};

use crate::{before, ground};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn span_names(followed: &Value) -> Vec<String> {
    let spans = followed["requests"][0]["spans"].as_array().unwrap();
    spans
        .iter()
        .map(|span| {
            format!(
                "{}{}",
                ">".repeat(span["depth"].as_u64().unwrap() as usize),
                span["name"].as_str().unwrap()
            )
        })
        .collect()
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
    let told = &followed["requests"][0]["told"];
    assert_eq!(told[0]["source"], "ledger");
    assert_eq!(told[0]["reference"], answer.entry().unwrap().to_string());
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
    assert_eq!(followed["requests"][0]["spans"], json!([]));
    assert!(followed["requests"][0]["told"].as_array().is_some_and(|told| !told.is_empty()), "{followed}");
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
    let (span, _) = eventually("the span", Duration::from_secs(10), exported).await;
    assert_eq!((&span["name"], &span["kind"]), (&"GET /v1/workspaces".into(), &2.into()));
    assert!(collector.seen().iter().all(|seen| seen.target == "/v1/traces"));
    collector.stop();
    for _ in 0..20 {
        house.operator().ask(get("/v1/workspaces").header("traceparent", PARENT)).await.expect(200);
    }
}
