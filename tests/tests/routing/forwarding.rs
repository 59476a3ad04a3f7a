//! What is forwarded and what is not: who may, over which protocol, with which bodies, and never by a shorter prefix.
//! Who enters: members and strangers, over HTTP/1.1 and HTTP/2.
//! What leaves: the answers of upstreams, as they were given.

use promises::{GIVEN_UP, Protocol, get, post, within};
use serde_json::{Value, json};
use simulators::Upstream;
use simulators::upstream::{Behaviour, Pki, Speaks};

use crate::{before, ground, table};

#[tokio::test]
async fn every_protocol_on_one_side_reaches_every_protocol_on_the_other() {
    for (speaks, protocol) in [(Speaks::Http1, "http1"), (Speaks::H2, "h2")] {
        let upstream = Upstream::plain(speaks).await.unwrap();
        let ground = ground(vec![before("a", &upstream, &[("protocol", protocol.into())])]).await;
        for ours in [Protocol::H1, Protocol::H2] {
            let connection = ground.member.connect(ours).await;
            let answer = connection.send(get("/a/x?y=1&z=%2F")).await.unwrap().expect(200);
            assert_eq!(answer.text(), "/a/x?y=1&z=%2F");
            let answer = connection.send(post("/a/save", json!({ "n": 1 }))).await.unwrap().expect(200);
            assert_eq!(answer.text(), "/a/save");
        }
        let bodies: Vec<_> = upstream.seen().into_iter().map(|seen| seen.body.len()).collect();
        assert_eq!(bodies, [0, 7, 0, 7]);
        assert_eq!(upstream.connections(), 1, "connections are used again");
    }
}

#[tokio::test]
async fn an_upstream_behind_mutual_tls_sees_our_certificate_and_a_false_one_is_not_spoken_to() {
    for (speaks, protocol) in [(Speaks::Http1, "http1"), (Speaks::H2, "h2")] {
        let (pki, other) = (Pki::new().unwrap(), Pki::new().unwrap());
        let (right, wrong) =
            (Upstream::secure(speaks, &pki).await.unwrap(), Upstream::secure(speaks, &other).await.unwrap());
        let directory = tempfile::tempdir().unwrap();
        let files = pki.client_files(directory.path()).unwrap();
        let path = |path: &std::path::Path| path.display().to_string();
        let tls = [
            ("protocol", protocol.into()),
            ("ca", path(&files.ca).into()),
            ("client_certificate", path(&files.certificate).into()),
            ("client_key", path(&files.key).into()),
        ];
        let ground = ground(vec![before("right", &right, &tls), before("wrong", &wrong, &tls)]).await;
        ground.member.ask(get("/right")).await.expect(200);
        let refused = ground.member.ask(get("/wrong")).await.refused(502, "upstream_failed");
        assert!(refused.text().contains("nothing was sent"), "{}", refused.text());
        assert_eq!(wrong.arrived(), 0);
    }
}

#[tokio::test]
async fn who_lacks_the_scope_is_refused_before_anything_is_sent() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let ground = ground(vec![before("a", &upstream, &[])]).await;
    let operator = ground.house.operator();
    let (_, other) =
        operator.acting_in(&ground.member.workspace).issue("other", &["upstream:b", "sign"]).await;
    ground.member.with_secret(&other).ask(post("/a", json!({}))).await.refused(403, "scope_missing");
    ground.member.with_secret("ck_none").ask(get("/a")).await.refused(401, "api_key_unknown");
    let nameless = ground.house.door().connect(&ground.member.identity, None, Protocol::H1).await.unwrap();
    nameless.send(get("/a")).await.unwrap().refused(401, "api_key_unknown");
    operator.ask(get("/a")).await.refused(400, "bad_request");
    assert_eq!(upstream.arrived(), 0);
    operator.acting_in(&ground.member.workspace).ask(get("/a")).await.expect(200);
}

#[tokio::test]
async fn the_longest_prefix_has_the_request_and_nothing_falls_through() {
    let (short, long) =
        (Upstream::plain(Speaks::Http1).await.unwrap(), Upstream::plain(Speaks::Http1).await.unwrap());
    let mut tables =
        vec![table("short", "/app", &[short.endpoint()]), table("long", "/app/deep", &[long.endpoint()])];
    tables[1].insert("wait_ms_max".into(), 500.into());
    let ground = ground(tables).await;
    ground.member.ask(get("/app/deep/x")).await.expect(200);
    ground.member.ask(get("/app/deepx")).await.expect(200);
    ground.member.ask(get("/appx")).await.refused(404, "not_found");
    assert_eq!((short.arrived(), long.arrived()), (1, 1));
    // Whatever becomes of the long one: its paths are its own.
    long.behave(Behaviour::FailBefore(500));
    for _ in 0..5 {
        ground.member.ask(get("/app/deep/x")).await.expect(500);
    }
    ground.member.ask(get("/app/deep/x")).await.refused(503, "upstream_open");
    ground.member.ask(get("/v1/keys/x/sign")).await.refused(405, "method_not_allowed");
    assert_eq!(short.arrived(), 1, "a shorter prefix was tried");
}

#[tokio::test]
async fn a_slash_at_the_end_changes_nothing() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let ground = ground(vec![before("a", &upstream, &[])]).await;
    for path in ["/a", "/a/", "/%61/"] {
        assert_eq!(ground.member.ask(get(path)).await.expect(200).text(), "/a", "{path}");
    }
    ground.member.ask(get("/v1/keys/")).await.expect(200);
}

#[tokio::test]
async fn long_answers_come_through_whole_and_those_over_the_bound_do_not_pass_for_whole() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    upstream.behave(Behaviour::Long(3 << 20));
    let tight = before("tight", &upstream, &[("answer_bytes_max", (1 << 20).into())]);
    let ground = ground(vec![before("a", &upstream, &[]), tight]).await;
    for protocol in [Protocol::H1, Protocol::H2] {
        let connection = ground.member.connect(protocol).await;
        assert_eq!(connection.send(get("/a")).await.unwrap().expect(200).body.len(), 3 << 20);
        let cut = ground.member.connect(protocol).await.send(get("/tight")).await;
        assert!(cut.is_err(), "a cut answer looked whole: {cut:?}");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_or_hangs_in_its_middle_does_not_pass_for_whole() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let ground = ground(vec![before("a", &upstream, &[("wait_ms_max", 1000.into())])]).await;
    for behaviour in [Behaviour::BreakInAnswer, Behaviour::HangInAnswer] {
        upstream.behave(behaviour.clone());
        for protocol in [Protocol::H1, Protocol::H2] {
            let cut = ground.member.connect(protocol).await.send(get("/a")).await;
            assert!(cut.is_err(), "{behaviour:?} over {protocol:?} looked whole: {cut:?}");
        }
    }
}

#[tokio::test]
async fn a_body_over_the_bound_is_refused_and_its_upstream_not_blamed() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let ground = ground(vec![before("a", &upstream, &[("body_bytes_max", 1000.into())])]).await;
    for _ in 0..8 {
        let long = post("/a", Value::Null).raw(vec![b'x'; 1001]);
        ground.member.ask(long).await.refused(413, "body_too_large");
    }
    assert_eq!(upstream.effects(), 0);
    ground.member.ask(post("/a", Value::Null).raw(vec![b'x'; 1000])).await.expect(200);
}

#[tokio::test]
async fn what_is_left_of_the_deadline_is_passed_on_and_an_impatient_caller_blames_nobody() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let (brief, long) = ([("wait_ms_max", 4000.into())], [("wait_ms_max", 60_000.into())]);
    let ground = ground(vec![before("a", &upstream, &brief), before("slow", &upstream, &long)]).await;
    let left = |at: usize| {
        let seen = upstream.seen()[at].headers["chancery-deadline-ms"].to_str().unwrap().parse::<u64>();
        seen.unwrap()
    };
    ground.member.ask(get("/a").header("chancery-deadline-ms", "2000")).await.expect(200);
    ground.member.ask(get("/a")).await.expect(200);
    assert!((1..=2000).contains(&left(0)), "{}", left(0));
    assert!((2001..=4000).contains(&left(1)), "the upstream's own time: {}", left(1));
    // The upstream hangs for ever and may take a minute: nothing but the caller's own deadline answers.
    upstream.behave(Behaviour::HangAfter);
    for _ in 0..8 {
        let hasty = ground.member.ask(get("/slow").header("chancery-deadline-ms", "100"));
        within("the deadline's answer", GIVEN_UP, hasty).await.refused(504, "deadline_passed");
    }
    upstream.behave(Behaviour::Well);
    ground.member.ask(get("/slow")).await.expect(200);
}

#[tokio::test]
async fn methods_that_turn_a_proxy_against_its_network_are_not_forwarded() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let ground = ground(vec![before("a", &upstream, &[])]).await;
    let trace = ground.member.ask(get("/a").method("TRACE")).await.refused(405, "method_not_allowed");
    assert_eq!(trace.header("allow"), Some("DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"));
    for method in ["PUT", "PATCH", "DELETE", "OPTIONS"] {
        ground.member.ask(get("/a").method(method)).await.expect(200);
    }
    assert_eq!(upstream.arrived(), 4);
    let head = ground.member.ask(get("/a").method("HEAD")).await.expect(200);
    assert_eq!(
        (head.header("content-length"), head.body.len()),
        (Some("2"), 0),
        "the length of what GET would give"
    );
}

#[tokio::test]
async fn long_bodies_go_through_whole_whatever_is_spoken_on_either_side() {
    for (speaks, protocol) in [(Speaks::Http1, "http1"), (Speaks::H2, "h2")] {
        let upstream = Upstream::plain(speaks).await.unwrap();
        let bounds = [("protocol", protocol.into()), ("body_bytes_max", (8 << 20).into())];
        let ground = ground(vec![before("a", &upstream, &bounds)]).await;
        let body: Vec<u8> = (0..5_u32 << 18).flat_map(u32::to_le_bytes).collect();
        for ours in [Protocol::H1, Protocol::H2] {
            let connection = ground.member.connect(ours).await;
            connection.send(post("/a", Value::Null).raw(body.clone())).await.unwrap().expect(200);
        }
        assert!(upstream.seen().iter().all(|seen| seen.body == body), "a body was changed on its way");
        assert_eq!(upstream.effects(), 2);
    }
}
