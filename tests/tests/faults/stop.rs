//! Stopping, starting again and changing the server's certificate, all under load.
//! Who enters: a load that retries once; SIGTERM and SIGHUP.
//! What leaves: no request lost, no connection refused for a moment longer than the restart takes, the last good face.

use std::time::Duration;

use promises::identity::server_files;
use promises::people::sign_p256;
use promises::{Appliance, Load, Protocol, eventually, evidence, get};
use rustix::process::Signal;

const PATIENCE: Duration = Duration::from_secs(10);

async fn a_stop_loses_nothing(protocol: Protocol, streams: usize) {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let load =
        Load { connections: 8, streams, protocol, retries: 1, ..Load::of(&member, &house.door(), &key) };
    let load = load.start();
    for _ in 0..4 {
        // Far more than there are lanes, so that whoever was interrupted by the last stop is done before the next.
        let before = load.signed();
        let working = || async { (load.signed() > before + 400).then_some(()) };
        eventually("the load works", PATIENCE, working).await;
        let ended = house.terminate().await;
        assert!(ended.success(), "{ended}:\n{}", house.log());
        house.serve().await;
    }
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "requests failed although they were sent again once: {:?}", tally.refused);
    let entries = house.operator().entries(&format!("action=key.sign&object={key}")).await.len();
    assert_eq!(entries, tally.signed.len(), "authorised signatures whose answer was lost in the drain");
    evidence::each_has_its_entry(&house, &key, &tally.signed).await;
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn a_stop_under_load_over_http_1_1_loses_no_request() {
    a_stop_loses_nothing(Protocol::H1, 1).await;
}

#[tokio::test]
async fn a_stop_under_load_over_h2_loses_no_request() {
    a_stop_loses_nothing(Protocol::H2, 8).await;
}

#[tokio::test]
async fn a_new_server_certificate_is_put_on_without_a_restart_and_a_bad_one_never() {
    let mut house = Appliance::start().await;
    let (certificate, key_file) = (house.path("server.pem"), house.path("server.key"));
    let put = |(chain, key, _): &(String, String, String)| {
        std::fs::write(&certificate, chain).unwrap();
        std::fs::write(&key_file, key).unwrap();
    };
    let (first, second) = (server_files("localhost"), server_files("localhost"));
    put(&first);
    let member = house.member("acme").await;
    house.terminate().await;
    house.set("api.server_certificate", certificate.display().to_string());
    house.set("api.server_key", key_file.display().to_string());
    house.serve().await;
    let trusting = |ca: &str| member.with_identity(&member.identity.trusting(ca));
    let (with_first, with_second) = (trusting(&first.2), trusting(&second.2));
    with_first.ask(get("/v1/keys")).await.expect(200);
    let open = with_first.connect(Protocol::H1).await;
    let reread = |house: &mut Appliance, words: &'static str| {
        let before = house.log().matches(words).count();
        house.daemon().signal(Signal::HUP);
        (words, before)
    };
    let noticed = async |house: &Appliance, (words, before): (&str, usize)| {
        let told = || async { (house.log().matches(words).count() > before).then_some(()) };
        eventually("the daemon says so", PATIENCE, told).await;
    };
    for broken in [
        ("".to_owned(), second.1.clone()),
        (second.0.clone(), first.1.clone()),
        ("x".repeat(9), "y".to_owned()),
    ] {
        put(&(broken.0, broken.1, String::new()));
        let mark = reread(&mut house, "stay in use");
        noticed(&house, mark).await;
        with_first.ask(get("/v1/keys")).await.expect(200);
    }
    put(&second);
    let mark = reread(&mut house, "read anew");
    noticed(&house, mark).await;
    with_second.ask(get("/v1/keys")).await.expect(200);
    assert!(with_first.try_ask(get("/v1/keys")).await.is_err(), "the old face is still shown");
    open.send(get("/v1/keys")).await.unwrap().expect(200);
}

#[tokio::test]
async fn certificates_reload_under_load_without_a_failed_request() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let load = Load { connections: 4, ..Load::of(&member, &house.door(), &key) }.start();
    for _ in 0..10 {
        let before = load.signed();
        house.daemon().signal(Signal::HUP);
        let working = || async { (load.signed() > before + 10).then_some(()) };
        eventually("the load works", PATIENCE, working).await;
        member.ask(sign_p256(&key, b"a new connection")).await.expect(200);
    }
    let tally = load.stop().await;
    assert_eq!(tally.failed, 0, "{:?}", tally.refused);
}
