//! Figures and health for programs that bring no certificate, on a listener that gives these and nothing else.

use promises::people::sign_p256;
use promises::{Appliance, GIVEN_UP, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

async fn watched() -> Appliance {
    let mut house = Appliance::start().await;
    house.set("monitoring.listen", "127.0.0.1:0");
    house.terminate().await;
    house.serve().await;
    house.ready().await;
    house
}

/// Where it listens, as the log says.
fn address(house: &Appliance) -> String {
    let log = house.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut told =
        lines.filter(|line| line["message"].as_str().is_some_and(|it| it.contains("without a certificate")));
    told.next_back().expect("the log names the address")["address"].as_str().unwrap().to_owned()
}

async fn ask(address: &str, text: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

async fn get(address: &str, path: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await
}

#[tokio::test]
async fn scrapers_and_load_balancers_are_served_without_a_certificate() {
    let mut house = watched().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    member.ask(sign_p256(&key, b"counted")).await.expect(200);
    let at = address(&house);
    assert!(get(&at, "/health/live").await.starts_with("HTTP/1.1 204"));
    let ready = get(&at, "/health/ready").await;
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains("\"ready\":true"), "{ready}");
    let metrics = get(&at, "/metrics").await;
    assert!(
        metrics.contains("application/openmetrics-text") && metrics.trim_end().ends_with("# EOF"),
        "{metrics}"
    );
    let by_operator = house.operator().ask(promises::get("/metrics")).await.expect(200).text();
    let names = |text: &str| {
        let lines = text.lines().filter_map(|line| line.strip_prefix("# TYPE ").map(str::to_owned));
        lines.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(names(&metrics), names(&by_operator));
    // Nobody's names are in it.
    for secret in [&member.workspace, &member.client, &member.api_key, &key, "acme", "release"] {
        assert!(!metrics.contains(secret), "{secret} stands in the figures");
    }
    // What is not ready is told without its reasons.
    promises::daemon::kill(house.daemon().workers()[0], rustix::process::Signal::STOP);
    let unready = || async {
        let answer = get(&at, "/health/ready").await;
        answer.starts_with("HTTP/1.1 503").then_some(answer)
    };
    let answer = eventually("the listener says so", GIVEN_UP, unready).await.0;
    assert!(answer.contains("\"ready\":false") && !answer.contains("\"detail\""), "{answer}");
    promises::daemon::kill(house.daemon().workers()[0], rustix::process::Signal::CONT);
}

#[tokio::test]
async fn nothing_else_is_there_and_nothing_can_be_changed() {
    let house = watched().await;
    let at = address(&house);
    for path in
        ["/", "/v1/keys", "/v1/status", "/v1/ca", "/metrics/", "//metrics", "/health", "/v1/token/reseal"]
    {
        assert!(get(&at, path).await.starts_with("HTTP/1.1 404"), "{path}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        let answer =
            ask(&at, &format!("{method} /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")).await;
        assert!(
            answer.starts_with("HTTP/1.1 405") && answer.to_lowercase().contains("allow: get, head"),
            "{answer}"
        );
    }
    let head = ask(&at, "HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    // An answer is the connection's only one: what comes behind it in the same breath is not looked at.
    let two =
        ask(&at, "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\nGET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            .await;
    assert_eq!(two.matches("HTTP/1.1").count(), 1, "{two}");
}

#[tokio::test]
async fn without_an_address_nobody_listens() {
    let house = Appliance::start().await;
    assert!(!house.log().contains("without a certificate"));
}

/// Whoever holds connections open keeps the next scrape waiting no longer than their time, and the API not at all.
#[tokio::test]
async fn silent_connections_hold_their_places_for_a_bounded_time() {
    let house = watched().await;
    let member = house.member("acme").await;
    let at = address(&house);
    let mut silent = Vec::new();
    for _ in 0..40 {
        silent.push(TcpStream::connect(&at).await.unwrap());
    }
    member.ask(promises::get("/v1/keys")).await.expect(200);
    let served = || async { get(&at, "/health/live").await.starts_with("HTTP/1.1 204").then_some(()) };
    eventually("a place is free again", GIVEN_UP, served).await;
    drop(silent);
}
