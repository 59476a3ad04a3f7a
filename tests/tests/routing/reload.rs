//! Reloading: other upstreams at SIGHUP, without a restart, without a lost request, and never half of them.
//! Who enters: the service manager's signal, after the file was changed well or badly.
//! What leaves: the new table, or the old one and a line in the log.

use std::time::Duration;

use promises::{GIVEN_UP, eventually, get};
use rustix::process::Signal;
use simulators::Upstream;
use simulators::upstream::{Behaviour, Speaks};

use crate::{before, ground, table};

#[tokio::test]
async fn a_reload_brings_new_upstreams_takes_old_ones_away_and_loses_no_request() {
    let (old, new) =
        (Upstream::plain(Speaks::Http1).await.unwrap(), Upstream::plain(Speaks::Http1).await.unwrap());
    let mut ground = ground(vec![before("a", &old, &[])]).await;
    ground.member.ask(get("/a")).await.expect(200);
    old.behave(Behaviour::Slow(Duration::from_millis(500)));
    let member = ground.member.clone();
    let under_way = tokio::spawn(async move { member.ask(get("/a/late")).await });
    eventually("it is under way", GIVEN_UP, || async { (old.arrived() == 2).then_some(()) }).await;
    ground.house.set("upstream", vec![table("a", "/b", &[new.endpoint()])]);
    ground.house.daemon().signal(Signal::HUP);
    let moved = || async { (ground.member.ask(get("/b")).await.status == 200).then_some(()) };
    eventually("the new table", GIVEN_UP, moved).await;
    ground.member.ask(get("/a")).await.refused(404, "not_found");
    under_way.await.unwrap().expect(200);
    assert!(new.arrived() >= 1);
}

#[tokio::test]
async fn a_reload_with_a_defect_changes_nothing_and_says_so() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let mut ground = ground(vec![before("a", &upstream, &[])]).await;
    for bad in [
        vec![table("a", "/c", &[upstream.endpoint()]), table("b", "/c", &[upstream.endpoint()])],
        vec![table("a", "/v1/keys", &[upstream.endpoint()])],
        vec![table("a", "/c", &["http://10.0.0.1:1".to_owned()])],
    ] {
        let told = ground.house.log().matches("the present upstreams stay in use").count();
        ground.house.set("upstream", bad);
        ground.house.daemon().signal(Signal::HUP);
        let log = || async {
            (ground.house.log().matches("the present upstreams stay in use").count() > told).then_some(())
        };
        eventually("the refusal in the log", GIVEN_UP, log).await;
        ground.member.ask(get("/a")).await.expect(200);
        ground.member.ask(get("/c")).await.refused(404, "not_found");
        let checked = ground.house.cli(&["config", "check"]);
        assert_eq!(checked.status.code(), Some(4));
    }
}

#[tokio::test]
async fn an_isolated_upstream_stays_isolated_through_a_reload() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let mut ground = ground(vec![before("a", &upstream, &[])]).await;
    upstream.behave(Behaviour::FailBefore(500));
    for _ in 0..5 {
        ground.member.ask(get("/a")).await.expect(500);
    }
    let other = Upstream::plain(Speaks::Http1).await.unwrap();
    ground.house.set("upstream", vec![before("a", &upstream, &[]), before("b", &other, &[])]);
    ground.house.daemon().signal(Signal::HUP);
    let arrived = || async {
        let shown = ground.house.operator().ask(get("/v1/routes")).await.expect(200).text();
        shown.contains("\"/b\"").then_some(())
    };
    eventually("the new table", GIVEN_UP, arrived).await;
    let status = ground.house.operator().ask(get("/v1/status")).await.expect(200).json();
    let lines = status["services"].as_array().unwrap();
    let line = lines.iter().find(|line| line["service"] == "a").unwrap();
    assert_eq!(line["trips"], 1, "the reload forgot: {line}");
}

/// What is shown is what serves: a table that was refused leaves neither an empty place in status and health, nor a forgotten history.
#[tokio::test]
async fn a_refused_reload_leaves_status_and_history_as_they_were() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let mut ground = ground(vec![before("a", &upstream, &[])]).await;
    upstream.behave(Behaviour::FailBefore(500));
    for _ in 0..5 {
        ground.member.ask(get("/a")).await.expect(500);
    }
    let services = async |ground: &crate::Ground| {
        let status = ground.house.operator().ask(get("/v1/status")).await.expect(200).json();
        let lines = status["services"].as_array().unwrap().clone();
        lines.into_iter().map(|line| (line["service"].to_string(), line["trips"].clone())).collect::<Vec<_>>()
    };
    let shown = services(&ground).await;
    assert!(shown.contains(&("\"a\"".to_owned(), 1.into())), "{shown:?}");
    // Read and checked like any other file, and of no use once TLS is made of it.
    let no_ca = ground.house.path("no-ca.pem");
    std::fs::write(&no_ca, "no certificate").unwrap();
    let file = no_ca.display().to_string();
    let mut secure = table("b", "/b", &["https://127.0.0.1:1".to_owned()]);
    for key in ["ca", "client_certificate", "client_key"] {
        secure.insert(key.into(), file.clone().into());
    }
    let told = ground.house.log().matches("the present upstreams stay in use").count();
    ground.house.set("upstream", vec![before("a", &upstream, &[("in_flight_max", 7.into())]), secure]);
    ground.house.daemon().signal(Signal::HUP);
    let refused = || async {
        (ground.house.log().matches("the present upstreams stay in use").count() > told).then_some(())
    };
    eventually("the refusal in the log", GIVEN_UP, refused).await;
    assert_eq!(services(&ground).await, shown);
}

/// Status, breakers and metrics tell upstreams and services apart by name alone.
#[tokio::test]
async fn no_upstream_takes_the_name_of_a_service() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let mut ground = ground(vec![before("a", &upstream, &[])]).await;
    let status = ground.house.operator().ask(get("/v1/status")).await.expect(200).json();
    let lines = status["services"].as_array().unwrap().iter();
    let own: Vec<String> =
        lines.map(|line| line["service"].as_str().unwrap().to_owned()).filter(|name| name != "a").collect();
    assert!(own.len() > 8, "{own:?}");
    for name in own {
        ground.house.set("upstream", vec![table(&name, "/b", &[upstream.endpoint()])]);
        let checked = ground.house.cli(&["config", "check"]);
        let words = promises::programs::complained(&checked);
        assert_eq!(checked.status.code(), Some(4), "{name}: {words}");
        assert!(words.contains("a service of the appliance"), "{name}: {words}");
    }
}
