//! Bodies and headers that are not what the routes take: a folder of them, each named after the answer it earns.
//! Who enters: files `<what is wrong>.<status>.<code>`, and a few that are too large to keep.
//! What leaves: that very answer, and a daemon that signs the next good request.

use std::path::Path;

use promises::people::sign_p256;
use promises::{Appliance, Protocol, get, post};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bad_input/bodies");
const BODY_BYTES_MAX: usize = 1 << 20;

#[tokio::test]
async fn every_hostile_body_earns_the_answer_in_its_name() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let mut files: Vec<_> = std::fs::read_dir(FOLDER).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 20, "the folder of hostile bodies has been emptied");
    for protocol in [Protocol::H1, Protocol::H2] {
        let connection = member.connect(protocol).await;
        for file in &files {
            let (status, code) = expected(file);
            let ask = post(format!("/v1/keys/{key}/sign"), json!({})).raw(std::fs::read(file).unwrap());
            let answer = connection.send(ask).await.unwrap_or_else(|why| panic!("{}: {why}", file.display()));
            let got = (answer.status, answer.code());
            assert_eq!(got, (status, code), "{} over {protocol:?}: {}", file.display(), answer.text());
        }
        connection.send(sign_p256(&key, b"still here")).await.unwrap().expect(200);
    }
}

fn expected(file: &Path) -> (u16, String) {
    let name = file.file_name().unwrap().to_str().unwrap();
    let mut parts = name.rsplitn(3, '.');
    let (code, status) = (parts.next().unwrap(), parts.next().unwrap());
    (status.parse().unwrap(), code.to_owned())
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_in_words_that_arrive() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let path = "/v1/keys/any/sign";
    for protocol in [Protocol::H1, Protocol::H2] {
        let large = post(path, json!({})).raw(vec![b' '; BODY_BYTES_MAX + 1]);
        // A server that refuses early may cut the connection while the client still writes.
        match member.connect(protocol).await.send(large).await {
            Ok(answer) => drop(answer.refused(413, "body_too_large")),
            Err(why) => panic!("over {protocol:?} the refusal was lost: {why}"),
        }
        let fits = post(path, json!({})).raw(vec![b' '; BODY_BYTES_MAX]);
        member.connect(protocol).await.send(fits).await.unwrap().refused(400, "bad_body");
    }
}

#[tokio::test]
async fn a_body_that_does_not_say_its_length_is_refused_once_it_is_over_the_limit() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let mut stream = house.door().tls(member.identity.client_config(Protocol::H1)).await.unwrap();
    let head = format!(
        "POST /v1/keys HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
         Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
        member.secret
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = [b"10000\r\n".as_slice(), &[b' '; 0x10000], b"\r\n"].concat();
    for _ in 0..=BODY_BYTES_MAX / 0x10000 {
        stream.write_all(&chunk).await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // The end may come without a close_notify; the words count.
    let _ = stream.read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(text.starts_with("HTTP/1.1 413") && text.contains("body_too_large"), "{text}");
}

#[tokio::test]
async fn a_body_that_is_not_declared_as_json_is_refused() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let ask = |media| post("/v1/keys", json!({ "name": "a", "kind": "p256" })).header("content-type", media);
    for media in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
        member.ask(ask(media)).await.refused(415, "not_json");
    }
    member.ask(ask("application/json; charset=utf-8")).await.expect(201);
}

#[tokio::test]
async fn a_body_where_none_is_taken_is_refused() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let answer = member.ask(post(format!("/v1/keys/{key}/rotate"), json!({ "version": 9 }))).await;
    answer.refused(400, "bad_body");
}

#[tokio::test]
async fn oversized_headers_are_refused_and_the_next_client_is_served() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    for protocol in [Protocol::H1, Protocol::H2] {
        let ask = get("/v1/keys").header("x-padding", &"x".repeat(64 << 10));
        if let Ok(answer) = member.connect(protocol).await.send(ask).await {
            assert_eq!(answer.status, 431, "over {protocol:?}: {}", answer.text());
        }
        member.connect(protocol).await.send(get("/v1/keys")).await.unwrap().expect(200);
    }
}

#[tokio::test]
async fn too_many_headers_are_refused_and_the_next_client_is_served() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    for protocol in [Protocol::H1, Protocol::H2] {
        let ask = (0..2000).fold(get("/v1/keys"), |ask, at| ask.header(&format!("x-{at}"), "1"));
        if let Ok(answer) = member.connect(protocol).await.send(ask).await {
            assert_eq!(answer.status, 431, "over {protocol:?}: {}", answer.text());
        }
        member.connect(protocol).await.send(get("/v1/keys")).await.unwrap().expect(200);
    }
}

#[tokio::test]
async fn a_target_too_long_an_unknown_path_and_a_wrong_method_are_told_apart() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    member.ask(get(format!("/v1/keys?after={}", "a".repeat(4000)))).await.refused(414, "target_too_long");
    member.ask(get("/v1/nothing-here")).await.refused(404, "not_found");
    member.ask(get("/v1/keys/../keys")).await.refused(400, "bad_request");
    let refused = member.ask(promises::delete("/v1/keys")).await.refused(405, "method_not_allowed");
    assert_eq!(refused.header("allow"), Some("GET, HEAD, OPTIONS, POST"));
    member.ask(get("/v1/keys?color=red")).await.refused(400, "bad_request");
    member.ask(get("/v1/keys?limit=0")).await.refused(400, "bad_request");
    member.ask(get("/v1/keys").header("chancery-deadline-ms", "soon")).await.refused(400, "bad_request");
}
