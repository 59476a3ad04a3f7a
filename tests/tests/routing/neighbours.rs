//! Two workspaces before one upstream: what one does to itself, the other does not notice.
//! Who enters: a workspace that does its worst, and one that asks now and then.
//! What leaves: who was isolated, whose time ran, and over whose connection an answer came.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use promises::{Member, get};
use simulators::Upstream;
use simulators::upstream::{Behaviour, Speaks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{Ground, before, ground, table};

/// Another workspace that may use the upstream.
async fn other(ground: &Ground, name: &str) -> Member {
    ground.house.member_with("globex", &[&format!("upstream:{name}")]).await
}

#[tokio::test]
async fn an_upstream_that_fails_for_one_workspace_is_isolated_for_no_other() {
    let sick = Upstream::plain(Speaks::Http1).await.unwrap();
    let ground = ground(vec![before("sick", &sick, &[])]).await;
    let good = other(&ground, "sick").await;
    good.ask(get("/sick")).await.expect(200);
    sick.behave(Behaviour::FailBefore(500));
    for _ in 0..5 {
        ground.member.ask(get("/sick")).await.expect(500);
    }
    ground.member.ask(get("/sick")).await.refused(503, "upstream_open");
    sick.behave(Behaviour::Well);
    good.ask(get("/sick")).await.expect(200);
    let shown = ground.house.operator().ask(get("/v1/status")).await.expect(200).json();
    let line = shown["services"].as_array().unwrap().iter().find(|line| line["service"] == "sick").unwrap();
    assert_eq!((&line["code"], &line["isolated_workspaces"]), (&"serves".into(), &1.into()), "{line}");
}

#[tokio::test]
async fn the_time_that_a_caller_takes_for_its_body_is_not_the_upstreams() {
    let slow = Upstream::plain(Speaks::Http1).await.unwrap();
    let wait = Duration::from_secs(1);
    let own_time = [("wait_ms_max", 1_000.into())];
    let ground = ground(vec![before("slow", &slow, &own_time)]).await;
    slow.behave(Behaviour::Slow(wait / 4));
    for _ in 0..6 {
        let config = ground.member.identity.client_config(promises::Protocol::H1);
        let mut caller = ground.house.door().tls(config).await.unwrap();
        let head = format!(
            "POST /slow HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {}\r\nContent-Length: 4\r\n\r\nabc",
            ground.member.secret
        );
        caller.write_all(head.as_bytes()).await.unwrap();
        // Its last byte comes when the upstream's time would be over, had it begun with the head.
        tokio::time::sleep(wait + Duration::from_millis(30)).await;
        caller.write_all(b"d").await.unwrap();
        let mut answer = vec![0; 2048];
        let length =
            promises::within("an answer", Duration::from_secs(20), caller.read(&mut answer)).await.unwrap();
        let text = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    }
    let shown = ground.house.operator().ask(get("/v1/status")).await.expect(200).json();
    let line = shown["services"].as_array().unwrap().iter().find(|line| line["service"] == "slow").unwrap();
    assert_eq!(line["trips"], 0, "{line}");
}

/// Answers each request with the number of the connection that it came over.
async fn numbering(listener: TcpListener) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer_all(stream, NEXT.fetch_add(1, Ordering::SeqCst)));
    }
}

async fn answer_all(mut stream: TcpStream, number: usize) {
    let (mut heard, mut piece) = (Vec::new(), [0; 4096]);
    while let Ok(length @ 1..) = stream.read(&mut piece).await {
        heard.extend_from_slice(&piece[..length]);
        if heard.ends_with(b"\r\n\r\n") {
            heard.clear();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{number:02}");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// What an upstream says too late, or twice, comes over the connection on which it was asked.
#[tokio::test]
async fn no_two_workspaces_share_a_connection_to_an_upstream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(numbering(listener));
    let ground = ground(vec![table("twice", "/twice", &[endpoint])]).await;
    let good = other(&ground, "twice").await;
    let mut over = [Vec::new(), Vec::new()];
    for _ in 0..5 {
        for (member, over) in [&ground.member, &good].into_iter().zip(&mut over) {
            over.push(member.ask(get("/twice")).await.expect(200).text());
        }
    }
    let [evil, good] = over;
    assert!(evil.iter().all(|number| !good.contains(number)), "{evil:?} and {good:?}");
    assert!(evil.windows(2).any(|two| two[0] == two[1]), "no connection is used again: {evil:?}");
}
