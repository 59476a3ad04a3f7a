//! HTTP as its RFCs have it: methods, hosts, codings, the headers that tell a client what to do better, and JSON with one reading.

use promises::people::{sign_message, sign_p256};
use promises::{Answer, Appliance, Member, Protocol, get, post};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What comes back to exactly these bytes, up to the end of the connection.
async fn raw(house: &Appliance, member: &Member, text: &str) -> String {
    let mut stream = house.door().tls(member.identity.client_config(Protocol::H1)).await.unwrap();
    stream.write_all(text.replace("KEY", &member.secret).as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_request_names_one_host_and_names_it_once() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    for (hosts, version, status) in [
        ("Host: localhost\r\n", "1.1", "204"),
        ("host: localhost:8443\r\n", "1.1", "204"),
        ("Host: [::1]:8443\r\n", "1.1", "204"),
        ("", "1.1", "400"),
        ("", "1.0", "204"),
        ("Host: localhost\r\nHost: localhost\r\n", "1.1", "400"),
        ("Host: localhost\r\nHost: other.example\r\n", "1.1", "400"),
        ("Host: a b\r\n", "1.1", "400"),
        ("Host: user@localhost\r\n", "1.1", "400"),
        ("Host: \r\n", "1.1", "400"),
    ] {
        let text = format!("GET /health/live HTTP/{version}\r\n{hosts}Connection: close\r\n\r\n");
        let answer = raw(&house, &member, &text).await;
        let first = answer.lines().next().unwrap_or_default();
        assert!(
            first.contains(&format!(" {status} ")) || first.ends_with(status),
            "{hosts:?} {version}: {answer}"
        );
    }
    // In h2 the authority says it, and a Host beside it must agree.
    let connection = member.connect(Protocol::H2).await;
    connection.send(get("/health/live")).await.unwrap().expect(204);
    connection.send(get("/health/live").header("host", "localhost")).await.unwrap().expect(204);
    connection
        .send(get("/health/live").header("host", "other.example"))
        .await
        .unwrap()
        .refused(400, "bad_request");
}

#[tokio::test]
async fn whatever_is_read_can_be_asked_for_its_head_and_every_path_for_its_methods() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    for protocol in [Protocol::H1, Protocol::H2] {
        let connection = member.connect(protocol).await;
        for path in ["/v1/keys", "/v1/ca", "/v1/openapi.json", "/v1/keys/none", "/v1/keys/release"] {
            let whole = connection.send(get(path)).await.unwrap();
            let head = connection.send(get(path).method("HEAD")).await.unwrap();
            assert_eq!((head.status, head.body.len()), (whole.status, 0), "{path}");
            assert_eq!(head.header("content-type"), whole.header("content-type"), "{path}");
            let told = head.header("content-length").and_then(|text| text.parse::<usize>().ok());
            assert!(
                told.is_some_and(|told| whole.status >= 400 || told == whole.body.len()),
                "{path}: {told:?}, {}",
                whole.body.len()
            );
        }
        // The connection is whole afterwards: a body behind a head would be taken for the next answer.
        connection.send(sign_p256(&key, b"still here")).await.unwrap().expect(200);
        for (path, allowed) in [
            ("/v1/keys", "GET, HEAD, OPTIONS, POST"),
            ("/v1/keys/release", "GET, HEAD, OPTIONS"),
            ("/v1/keys/release/sign", "OPTIONS, POST"),
            ("/v1/clients/x", "DELETE, OPTIONS"),
        ] {
            let answer = connection.send(get(path).method("OPTIONS")).await.unwrap().expect(204);
            assert_eq!(answer.header("allow"), Some(allowed), "{path}");
            for method in ["PUT", "PATCH", "BREW"] {
                let answer = connection
                    .send(get(path).method(method))
                    .await
                    .unwrap()
                    .refused(405, "method_not_allowed");
                assert_eq!(answer.header("allow"), Some(allowed), "{method} {path}");
            }
        }
        connection.send(get("/v1/nothing").method("OPTIONS")).await.unwrap().refused(404, "not_found");
    }
    let answer =
        raw(&house, &member, "OPTIONS * HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 204") && answer.to_lowercase().contains("allow: "), "{answer}");
}

fn with(ask: promises::Ask, name: &str, value: &str) -> promises::Ask {
    ask.header(name, value)
}

#[tokio::test]
async fn a_refusal_carries_the_header_that_says_what_would_be_taken() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let sign = || sign_message(&key, "ecdsa-sha256", b"x");
    let says = |answer: Answer, name: &str, value: &str| {
        assert!(answer.header(name).is_some_and(|found| found.starts_with(value)), "{name}: {answer:?}");
    };
    for coding in ["gzip", "br", "identity, gzip"] {
        let answer =
            member.ask(with(sign(), "content-encoding", coding)).await.refused(415, "coding_unsupported");
        says(answer, "accept-encoding", "identity");
    }
    member.ask(with(sign(), "content-encoding", "identity")).await.expect(200);
    for media_type in
        ["text/plain", "application/json; charset=iso-8859-1", "application/json;charset=\"utf-16\""]
    {
        let answer = member.ask(with(sign(), "content-type", media_type)).await.refused(415, "not_json");
        says(answer, "accept", "application/json");
    }
    for media_type in
        ["application/json; charset=utf-8", "Application/JSON;charset=\"UTF-8\"", "application/json"]
    {
        member.ask(with(sign(), "content-type", media_type)).await.expect(200);
    }
    let stranger = member.with_secret("ck_nobody");
    says(stranger.ask(sign()).await.refused(401, "api_key_unknown"), "www-authenticate", "Bearer");
    let nobody = house.door().connect(&member.identity, None, Protocol::H1).await.unwrap();
    says(nobody.send(sign()).await.unwrap().refused(401, "api_key_unknown"), "www-authenticate", "Bearer");
    // One blank or several between scheme and secret.
    let blanks = format!("Bearer   {}", member.secret);
    nobody.send(with(sign(), "authorization", &blanks)).await.unwrap().expect(200);
}

/// No array passes for an object, at no depth: it would be a second way to say one thing.
#[tokio::test]
async fn only_an_object_is_taken_where_one_is_described() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let before = member.ask(get("/v1/keys/release")).await.expect(200).json()["uses"].clone();
    for (path, body) in [
        (format!("/v1/keys/{key}/sign"), json!(["ecdsa-sha256", "eA=="])),
        ("/v1/keys".to_owned(), json!(["arrkey", "p256"])),
        ("/v1/api-keys".to_owned(), json!(["arr", ["sign"], null])),
        ("/v1/sign-batch".to_owned(), json!({ "items": [[key, "ecdsa-sha256", "eA=="]] })),
        ("/v1/keys".to_owned(), json!({ "name": "p", "kind": "p256", "policy": [true] })),
        ("/v1/workflows/key.generate".to_owned(), json!(["by-array", "p256"])),
        ("/v1/workflows/key.rotate".to_owned(), json!([key])),
    ] {
        let answer = member.ask(post(path.clone(), body.clone())).await.refused(400, "bad_body");
        let words = answer.json()["detail"].as_str().unwrap().to_owned();
        assert!(words.contains("object") || words.contains("table"), "{path} {body}: {words}");
    }
    assert_eq!(member.ask(get("/v1/keys/release")).await.expect(200).json()["uses"], before);
}

/// Of two fields with one name one reader takes the first and another the last: what was approved would not be what is done.
#[tokio::test]
async fn no_name_stands_twice_in_any_body_at_any_depth() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    member.create_key("release", "p256").await;
    for (path, body) in [
        ("/v1/workflows/key.generate", r#"{"name":"one","name":"two","kind":"p256"}"#),
        ("/v1/workflows/key.generate", r#"{"name":"one","kind":"p256","n\u0061me":"two"}"#),
        ("/v1/workflows/key.rotate", r#"{"key":"release","key":"release"}"#),
        (
            "/v1/workflows/signing.policy_change",
            r#"{"scope":"release","policy":{"direct":false,"approvals":1,"approvals":0}}"#,
        ),
        ("/v1/keys", r#"{"name":"one","kind":"p256","policy":{"direct":true,"direct":false}}"#),
        (
            "/v1/sign-batch",
            r#"{"items":[{"key":"release","key":"release","scheme":"ecdsa-sha256","message":"eA=="}]}"#,
        ),
    ] {
        let answer = member.ask(post(path, Value::Null).raw(body)).await.refused(400, "bad_body").json();
        let told = answer["detail"].as_str().unwrap();
        assert!(told.contains("stands twice"), "{body}: {told}");
    }
    let names = member.ask(get("/v1/keys")).await.expect(200).json();
    assert_eq!(names["keys"].as_array().unwrap().len(), 1, "{names}");
}

/// What is wrong is said in the words of JSON, with a pointer; none of the library's words get out.
#[tokio::test]
async fn a_bad_body_is_told_with_its_place_and_in_plain_words() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    for (body, words, pointer) in [
        ("{\"name\":7,\"kind\":\"p256\"}", "must be text", Some("/name")),
        (
            "{\"name\":\"a\",\"kind\":\"p256\",\"recoverable\":\"yes\"}",
            "must be true or false",
            Some("/recoverable"),
        ),
        ("{\"kind\":\"p256\"}", "`name` is missing", None),
        ("{\"name\":\"a\",\"kind\":\"p256\",\"tags\":[]}", "`tags` is unknown", Some("/tags")),
        ("{\"name\":\"a\",\"name\":\"b\"}", "`name` stands twice", None),
        ("{\"name\":\"a\"", "ends in the middle", None),
        ("nope", "no JSON", None),
        ("\u{feff}{\"name\":\"a\",\"kind\":\"p256\"}", "byte order mark", None),
    ] {
        let answer =
            member.ask(post("/v1/keys", Value::Null).raw(body)).await.refused(400, "bad_body").json();
        let told = answer["detail"].as_str().unwrap();
        assert!(told.contains(words), "{body}: {told}");
        assert_eq!(answer["pointer"].as_str(), pointer, "{body}: {answer}");
        for foreign in ["line ", "column", "expected", "ident", "struct", "variant"] {
            assert!(!told.contains(foreign), "{body}: {told}");
        }
    }
    for query in ["limit=x", "limits=1", "limit=1&limit=2"] {
        let answer = member.ask(get(format!("/v1/keys?{query}"))).await.refused(400, "bad_request").json();
        let told = answer["detail"].as_str().unwrap();
        assert!(!told.contains("expected") && !told.contains("column"), "{query}: {told}");
    }
}
