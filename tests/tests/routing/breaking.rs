//! Isolation: one upstream dead, hanging or throttling, and everything else as fast as ever; then the way back.
//! Who enters: many requests at once, to the sick and to the well.
//! What leaves: who waited, who was let through, and what health, figures and the command line say of it.

use std::time::Duration;

use promises::{GIVEN_UP, eventually, get, within};
use simulators::Upstream;
use simulators::upstream::{Behaviour, Speaks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::{Ground, before, ground};

async fn neighbours_are_served(ground: &Ground) {
    for path in ["/well", "/v1/keys"] {
        ground.member.ask(get(path)).await.expect(200);
    }
    assert_eq!(ground.house.operator().ask(get("/health/live")).await.status, 204);
}

/// As many requests to the sick one as there are places, with all the patience that there is.
fn ask_the_sick(ground: &Ground, requests: usize) -> JoinSet<promises::Answer> {
    let mut asking = JoinSet::new();
    for _ in 0..requests {
        let member = ground.member.clone();
        asking.spawn(async move { member.ask(get("/sick").header("chancery-deadline-ms", "60000")).await });
    }
    asking
}

async fn break_it(ground: &Ground, sick: &Upstream) {
    sick.behave(Behaviour::FailBefore(500));
    for _ in 0..5 {
        ground.member.ask(get("/sick")).await.expect(500);
    }
    let open = ground.member.ask(get("/sick")).await.refused(503, "upstream_open");
    let wait: u64 = open.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
}

#[tokio::test]
async fn neighbours_of_an_upstream_that_hangs_are_served_while_it_does() {
    let (sick, well) =
        (Upstream::plain(Speaks::Http1).await.unwrap(), Upstream::plain(Speaks::Http1).await.unwrap());
    let bounds = [("wait_ms_max", 60_000.into()), ("in_flight_max", 8.into()), ("queue_max", 8.into())];
    let ground = ground(vec![before("sick", &sick, &bounds), before("well", &well, &[])]).await;
    sick.behave(Behaviour::HangAfter);
    let mut asking = ask_the_sick(&ground, 16);
    // Of eight places, one workspace has six.
    eventually("the upstream hangs", GIVEN_UP, || async { (sick.arrived() >= 6).then_some(()) }).await;
    for _ in 0..5 {
        neighbours_are_served(&ground).await;
    }
    while let Some(ended) = asking.try_join_next() {
        assert_eq!(ended.unwrap().code(), "overloaded", "whoever found no place");
    }
    assert!(asking.len() >= 6, "the neighbours were served when it did not hang any more");
}

#[tokio::test]
async fn an_upstream_that_hangs_isolates_itself_and_is_sent_no_more_than_it_holds() {
    let (sick, well) =
        (Upstream::plain(Speaks::Http1).await.unwrap(), Upstream::plain(Speaks::Http1).await.unwrap());
    let bounds = [("wait_ms_max", 3000.into()), ("in_flight_max", 8.into()), ("queue_max", 8.into())];
    let ground = ground(vec![before("sick", &sick, &bounds), before("well", &well, &[])]).await;
    sick.behave(Behaviour::HangAfter);
    let asking = ask_the_sick(&ground, 40);
    let mut codes: Vec<String> = asking.join_all().await.iter().map(promises::Answer::code).collect();
    codes.sort();
    codes.dedup();
    assert!(
        codes.iter().all(|code| ["deadline_passed", "overloaded", "upstream_open"].contains(&code.as_str())),
        "{codes:?}"
    );
    assert!(codes.contains(&"overloaded".to_owned()), "the queue is bounded: {codes:?}");
    assert!(sick.arrived() <= 16, "{} were sent to an upstream that holds 8", sick.arrived());
    let line = sick_line(&ground).await;
    assert!(line["trips"].as_u64() >= Some(1), "it was never isolated: {line}");
    neighbours_are_served(&ground).await;
}

#[tokio::test]
async fn a_dead_upstream_is_left_alone_and_found_again_when_it_lives() {
    let (mut sick, well) =
        (Upstream::plain(Speaks::Http1).await.unwrap(), Upstream::plain(Speaks::Http1).await.unwrap());
    let ground = ground(vec![before("sick", &sick, &[]), before("well", &well, &[])]).await;
    ground.member.ask(get("/sick")).await.expect(200);
    sick.stop();
    for _ in 0..5 {
        ground.member.ask(get("/sick")).await.refused(502, "upstream_failed");
    }
    ground.member.ask(get("/sick")).await.refused(503, "upstream_open");
    neighbours_are_served(&ground).await;
    sick.resume().await.unwrap();
    let healed = || async { (ground.member.ask(get("/sick")).await.status == 200).then_some(()) };
    eventually("the upstream is found again", GIVEN_UP, healed).await;
}

#[tokio::test]
async fn of_a_hundred_at_once_one_probe_goes_to_an_upstream_that_is_being_tried_out() {
    let (sick, well) =
        (Upstream::plain(Speaks::Http1).await.unwrap(), Upstream::plain(Speaks::Http1).await.unwrap());
    let bounds = [("wait_ms_max", 60_000.into()), ("in_flight_max", 200.into())];
    let ground = ground(vec![before("sick", &sick, &bounds), before("well", &well, &[])]).await;
    break_it(&ground, &sick).await;
    let (before, _) = (sick.arrived(), sick.crowd());
    // The probe has no answer until all the others have theirs, so every one of them meets it.
    sick.behave(Behaviour::HangAfter);
    let ended = || async {
        let shown = ground.house.operator().ask(get("/v1/routes")).await.expect(200).json();
        let line = shown["routes"].as_array()?.iter().find(|line| line["service"] == "sick")?.clone();
        (line["breaker"] == "half_open").then_some(())
    };
    eventually("the pause is over", GIVEN_UP, ended).await;
    let connection = ground.member.connect(promises::Protocol::H2).await;
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let connection = connection.clone();
        let patient = get("/sick").header("chancery-deadline-ms", "60000");
        asking.spawn(async move { connection.send(patient).await.unwrap() });
    }
    for _ in 0..99 {
        let refused = within("a refusal", GIVEN_UP, asking.join_next()).await.unwrap().unwrap();
        refused.refused(503, "upstream_open");
    }
    eventually("the probe", GIVEN_UP, || async { (sick.arrived() > before).then_some(()) }).await;
    assert!(asking.try_join_next().is_none(), "the probe was refused as well");
    assert_eq!((sick.arrived() - before, sick.crowd()), (1, 1), "as the upstream counted them");
}

#[tokio::test]
async fn a_failed_probe_is_not_repeated_and_isolates_again() {
    let (sick, well) =
        (Upstream::plain(Speaks::Http1).await.unwrap(), Upstream::plain(Speaks::Http1).await.unwrap());
    let ground = ground(vec![before("sick", &sick, &[]), before("well", &well, &[])]).await;
    break_it(&ground, &sick).await;
    sick.behave(Behaviour::FailBefore(503));
    let before = sick.arrived();
    let probed = || async {
        (ground.member.ask(get("/sick")).await.status == 503 && sick.arrived() > before).then_some(())
    };
    eventually("the probe", GIVEN_UP, probed).await;
    assert_eq!(sick.arrived(), before + 1, "a read would be repeated on any other day");
    let line = sick_line(&ground).await;
    assert_eq!(line["trips"], 2, "{line}");
    assert!(line["retry_in_ms"].as_u64().is_none_or(|pause| pause <= 2400), "the second pause: {line}");
}

async fn sick_line(ground: &Ground) -> serde_json::Value {
    let status = ground.house.operator().ask(get("/v1/status")).await.expect(200).json();
    let lines = status["services"].as_array().unwrap();
    lines.iter().find(|line| line["service"] == "sick").cloned().unwrap()
}

#[tokio::test]
async fn health_figures_and_command_line_say_which_service_is_isolated() {
    let (sick, well) =
        (Upstream::plain(Speaks::Http1).await.unwrap(), Upstream::plain(Speaks::Http1).await.unwrap());
    let ground = ground(vec![before("sick", &sick, &[]), before("well", &well, &[])]).await;
    ground.house.ready().await;
    break_it(&ground, &sick).await;
    let line = sick_line(&ground).await;
    assert_eq!(
        (&line["code"], &line["kind"], &line["trips"]),
        (&"isolated".into(), &"upstream".into(), &1.into())
    );
    let health = ground.house.operator().ask(get("/health/ready")).await.expect(200).json();
    let named: Vec<_> = health["services"].as_array().unwrap().iter().map(|line| &line["service"]).collect();
    assert_eq!(named, ["sick"], "the appliance itself stays ready");
    let figure = || async {
        let figures = ground.house.operator().ask(get("/metrics")).await.expect(200).text();
        figures.contains("chancery_service{service=\"sick\",figure=\"trips\"} 1").then_some(())
    };
    eventually("the figure", GIVEN_UP, figure).await;
    let said = String::from_utf8(ground.house.cli(&["status"]).stdout).unwrap();
    let line =
        said.lines().find(|line| line.starts_with("sick")).unwrap_or_else(|| panic!("{said}")).to_owned();
    assert!(line.contains("upstream"), "{line}");
    let explained = ground.house.cli(&["--json", "route", "explain", "/sick/x", "--method", "POST"]);
    let explained: serde_json::Value = serde_json::from_slice(&explained.stdout).unwrap();
    assert_eq!((&explained["service"], &explained["guard"]), (&"sick".into(), &"scope upstream:sick".into()));
    assert!(["open", "half_open"].contains(&explained["breaker"].as_str().unwrap()), "{explained}");
    let listed = String::from_utf8(ground.house.cli(&["route", "list"]).stdout).unwrap();
    assert!(listed.contains("/v1/keys/{key}/sign") && listed.contains("/sick"), "{listed}");
}

#[tokio::test]
async fn callers_that_send_slowly_or_hang_up_blame_nobody_and_leave_their_places() {
    let (sick, well) =
        (Upstream::plain(Speaks::Http1).await.unwrap(), Upstream::plain(Speaks::Http1).await.unwrap());
    let bounds = [("wait_ms_max", 400.into()), ("in_flight_max", 4.into()), ("queue_max", 0.into())];
    let ground = ground(vec![before("sick", &sick, &bounds), before("well", &well, &[])]).await;
    // Bodies that are announced and never come: as many at once as one workspace has places, and once more as many.
    let slow = async || {
        let config = ground.member.identity.client_config(promises::Protocol::H1);
        let mut slow = ground.house.door().tls(config).await.unwrap();
        let head = format!(
            "POST /sick HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Length: 100\r\n\r\nabc",
            ground.member.secret
        );
        slow.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 2048];
        let length =
            promises::within("an answer", Duration::from_secs(20), slow.read(&mut answer)).await.unwrap();
        let text = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    };
    for _ in 0..2 {
        tokio::join!(slow(), slow(), slow());
    }
    sick.behave(Behaviour::HangAfter);
    for _ in 0..8 {
        let connection = ground.member.connect(promises::Protocol::H2).await;
        let arrived = sick.arrived();
        let asking = tokio::spawn(async move { connection.send(get("/sick")).await });
        let here = || async { (sick.arrived() > arrived).then_some(()) };
        eventually("it is under way", GIVEN_UP, here).await;
        asking.abort();
    }
    let free = || async { (sick_line(&ground).await["in_flight"] == 0).then_some(()) };
    eventually("the places are free", GIVEN_UP, free).await;
    sick.behave(Behaviour::Well);
    ground.member.ask(get("/sick")).await.expect(200);
    assert_eq!(sick_line(&ground).await["trips"], 0);
}

#[tokio::test]
async fn a_caller_that_stops_reading_keeps_no_place_and_blames_nobody() {
    let (sick, well) =
        (Upstream::plain(Speaks::Http1).await.unwrap(), Upstream::plain(Speaks::Http1).await.unwrap());
    let bounds = [("wait_ms_max", 1500.into()), ("in_flight_max", 1.into()), ("queue_max", 0.into())];
    let ground = ground(vec![before("sick", &sick, &bounds), before("well", &well, &[])]).await;
    // More than the kernel's buffers hold on both sides.
    sick.behave(Behaviour::Long(60 << 20));
    let config = ground.member.identity.client_config(promises::Protocol::H1);
    let mut lazy = ground.house.door().tls(config).await.unwrap();
    let head =
        format!("GET /sick HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n", ground.member.secret);
    lazy.write_all(head.as_bytes()).await.unwrap();
    let mut beginning = vec![0; 1024];
    promises::within("the answer's beginning", Duration::from_secs(20), lazy.read(&mut beginning))
        .await
        .unwrap();
    assert!(beginning.starts_with(b"HTTP/1.1 200"));
    ground.member.ask(get("/sick")).await.refused(503, "overloaded");
    let free = || async { (sick_line(&ground).await["in_flight"] == 0).then_some(()) };
    eventually("the place is free again", GIVEN_UP, free).await;
    assert_eq!(sick_line(&ground).await["trips"], 0);
    sick.behave(Behaviour::Well);
    ground.member.ask(get("/sick")).await.expect(200);
    drop(lazy);
}
