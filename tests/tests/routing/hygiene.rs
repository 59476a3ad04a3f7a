//! What no caller and no upstream can slip through: headers that lie, paths with two readings, messages with two lengths.
//! Who enters: requests written by hand.
//! What leaves: refusals; and, where something was forwarded, exactly what should have been.

use std::time::Duration;

use promises::{Protocol, get, post, within};
use serde_json::json;
use simulators::Upstream;
use simulators::upstream::{Behaviour, Speaks};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Ground, before, ground};
use toml::Value;

async fn raw(ground: &Ground, text: &str) -> String {
    let text = text.replace("{secret}", &ground.member.secret);
    let mut stream =
        ground.house.door().tls(ground.member.identity.client_config(Protocol::H1)).await.unwrap();
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let mut piece = vec![0; 4096];
    loop {
        let read = within("an answer", Duration::from_secs(20), stream.read(&mut piece)).await;
        match read {
            Ok(0) | Err(_) => break,
            Ok(length) => answer.extend_from_slice(&piece[..length]),
        }
        if String::from_utf8_lossy(&answer).contains("\r\n\r\n") {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn an_upstream_learns_who_asks_from_us_and_from_nobody_else() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let ground = ground(vec![before("a", &upstream, &[])]).await;
    let lies = get("/a")
        .header("x-forwarded-for", "10.9.9.9")
        .header("x-forwarded-host", "evil.example")
        .header("forwarded", "for=10.9.9.9")
        .header("chancery-workspace", "ws_00000000000000000000")
        .header("chancery-client", "cl_00000000000000000000")
        .header("chancery_actor", "operator:0")
        .header("x-request-id", "mine")
        .header("connection", "x-secret")
        .header("x-secret", "1")
        .header("te", "trailers")
        .header("accept-language", "eo");
    let answer = ground.member.ask(lies).await.expect(200);
    let seen = upstream.seen().remove(0);
    let header =
        |name: &str| seen.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(header("chancery-workspace"), [ground.member.workspace.as_str()]);
    assert_eq!(header("chancery-client"), [ground.member.client.as_str()]);
    assert_eq!(header("chancery-actor"), [format!("{}/{}", ground.member.client, ground.member.api_key)]);
    assert_eq!(header("x-request-id"), [answer.request_id()]);
    assert_eq!(header("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(header("accept-language"), ["eo"]);
    for gone in
        ["authorization", "x-forwarded-host", "forwarded", "chancery_actor", "x-secret", "te", "connection"]
    {
        assert!(header(gone).is_empty(), "{gone} went through: {:?}", seen.headers);
    }
    let all = format!("{:?}", seen.headers);
    assert!(!all.contains(&ground.member.secret), "the API key went to the upstream");
}

/// By each of these some product believes who asks, from where, or for which path: gateways, meshes, clouds, dashboards. No list of
/// them is whole, so none of them may be what decides.
const BELIEVED: [&str; 62] = [
    "authorization",
    "cf-connecting-ip",
    "client-cert",
    "client-ip",
    "cookie",
    "fastly-client-ip",
    "forwarded",
    "from",
    "front-end-https",
    "impersonate-extra-scopes",
    "impersonate-group",
    "impersonate-uid",
    "impersonate-user",
    "origin",
    "proxy-authorization",
    "referer",
    "remote-user",
    "ssl-client-cert",
    "ssl-client-s-dn",
    "ssl-client-verify",
    "true-client-ip",
    "via",
    "x-amzn-oidc-data",
    "x-amzn-oidc-identity",
    "x-api-key",
    "x-arr-clientcert",
    "x-auth-request-user",
    "x-authenticated-user",
    "x-authenticated-userid",
    "x-azure-clientip",
    "x-client-cert",
    "x-cluster-client-ip",
    "x-consumer-username",
    "x-email",
    "x-envoy-external-address",
    "x-forwarded",
    "x-forwarded-client-cert",
    "x-forwarded-host",
    "x-goog-authenticated-user-email",
    "x-goog-iap-jwt-assertion",
    "x-groups",
    "x-host",
    "x-http-method-override",
    "x-ms-client-principal-name",
    "x-original-host",
    "x-original-method",
    "x-original-url",
    "x-originating-ip",
    "x-real-ip",
    "x-remote-user",
    "x-request-id",
    "x-roles",
    "x-scope-orgid",
    "x-spiffe-id",
    "x-tenant-id",
    "x-tls-client-cert",
    "x-token-subject",
    "x-user-email",
    "x-user-id",
    "x-vouch-user",
    "x-webauth-user",
    "x-workspace",
];

/// What it gets of ours, and what its HTTP needs.
const OURS: [&str; 10] = [
    "chancery-actor",
    "chancery-client",
    "chancery-deadline-ms",
    "chancery-workspace",
    "host",
    "traceparent",
    "tracestate",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-request-id",
];

#[tokio::test]
async fn an_upstream_gets_the_headers_that_are_known_and_those_it_is_to_have_and_no_other() {
    let (plain, asking) =
        (Upstream::plain(Speaks::Http1).await.unwrap(), Upstream::plain(Speaks::Http1).await.unwrap());
    let more: Value = vec!["cookie", "x-scope-orgid", "origin"].into();
    let ground = ground(vec![before("a", &plain, &[]), before("b", &asking, &[("headers", more)])]).await;
    let known = ["accept", "accept-language", "if-none-match", "range", "user-agent", "prefer"];
    // As many as one request may have.
    for lies in BELIEVED.chunks(30) {
        let ask = |path: &str| {
            // What identifies the member itself is set by the harness.
            let lies = lies.iter().filter(|name| **name != "authorization");
            let ask = lies.fold(get(path), |ask, name| ask.header(name, "somebody-else"));
            known.iter().fold(ask.header("x-never-heard-of", "1"), |ask, name| ask.header(name, "1"))
        };
        let asked: Vec<&str> =
            ["cookie", "x-scope-orgid", "origin"].into_iter().filter(|name| lies.contains(name)).collect();
        for (path, upstream, also) in [("/a", &plain, &[][..]), ("/b", &asking, &asked[..])] {
            ground.member.ask(ask(path)).await.expect(200);
            let seen = upstream.seen().pop().unwrap();
            let got: std::collections::BTreeSet<&str> =
                seen.headers.keys().map(http::HeaderName::as_str).collect();
            let expected = OURS.iter().chain(&known).chain(also).copied().collect();
            assert_eq!(got, expected, "{path}");
            for name in OURS {
                assert!(
                    seen.headers.get_all(name).iter().all(|value| value != "somebody-else"),
                    "{name} is the caller's"
                );
            }
        }
    }
}

#[tokio::test]
async fn an_upstream_cannot_speak_in_our_name() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let ground = ground(vec![before("a", &upstream, &[])]).await;
    upstream.behave(Behaviour::Saying(vec![
        ("chancery-entry", "7"),
        ("request-id", "req_00000000000000000000"),
        ("keep-alive", "timeout=1"),
        ("alt-svc", "h3=\":443\""),
        ("etag", "\"1\""),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
    ]));
    let answer = ground.member.ask(get("/a")).await.expect(200);
    assert!(answer.header("chancery-entry").is_none() && answer.header("alt-svc").is_none());
    assert!(answer.request_id().starts_with("req_") && answer.request_id() != "req_00000000000000000000");
    assert_eq!(answer.header("etag"), Some("\"1\""));
    assert_eq!(answer.headers.get_all("set-cookie").iter().count(), 2);
}

#[tokio::test]
async fn a_path_with_two_readings_is_refused_and_never_forwarded() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let ground = ground(vec![before("a", &upstream, &[])]).await;
    for path in [
        "/a/../v1/keys",
        "/a/%2e%2e/v1",
        "/a/.%2E/v1",
        "/a/..;/v1",
        "/a//b",
        "/a/b%2fc",
        "/a/b%2Fc",
        "/a/b%5Cc",
        "/a/b%00",
        "/a/b%0d%0aX-Y:1",
        "/a/%ff",
        "/a/x%2ejson",
        "/v1/../a",
        "/a/%zz",
    ] {
        for protocol in [Protocol::H1, Protocol::H2] {
            let connection = ground.member.connect(protocol).await;
            let answer = connection.send(get(path)).await.unwrap();
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (400, "bad_request"),
                "{path} over {protocol:?}"
            );
        }
    }
    assert_eq!(upstream.arrived(), 0);
}

#[tokio::test]
async fn a_message_with_two_lengths_is_refused_whichever_comes_first() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let ground = ground(vec![before("a", &upstream, &[])]).await;
    for lengths in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "tRANSFER-eNCODING: chunked\r\nX: y\r\ncONTENT-lENGTH:5",
    ] {
        let text = format!(
            "POST /a HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {{secret}}\r\n{lengths}\r\n\r\n0\r\n\r\nGET /a HTTP/1.1\r\n\r\n"
        );
        let answer = raw(&ground, &text).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{lengths}: {answer}");
    }
    let coded = "POST /a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {secret}\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
    assert!(
        raw(&ground, coded).await.starts_with("HTTP/1.1 400"),
        "a coding that the upstream would not be told of"
    );
    assert_eq!(upstream.arrived(), 0);
    let chunked = "POST /a HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {secret}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert!(raw(&ground, chunked).await.starts_with("HTTP/1.1 200"), "chunked alone is as it should be");
    assert_eq!(upstream.seen()[0].body, "abc");
}

#[tokio::test]
async fn the_authority_of_an_absolute_target_leads_nowhere_else() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let ground = ground(vec![before("a", &upstream, &[])]).await;
    let absolute =
        "GET http://evil.example/a HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer {secret}\r\n\r\n";
    assert!(raw(&ground, absolute).await.starts_with("HTTP/1.1 200"));
    let seen = upstream.seen().remove(0);
    assert_eq!(seen.target, "/a");
    assert!(
        upstream.endpoint().ends_with(seen.headers["host"].to_str().unwrap()),
        "{:?}",
        seen.headers["host"]
    );
    let options = async |target: &str| {
        let text =
            format!("OPTIONS {target} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {{secret}}\r\n\r\n");
        raw(&ground, &text).await
    };
    assert!(options("http://evil.example/a/../b").await.starts_with("HTTP/1.1 400"));
    // Of the server as a whole (RFC 9110 section 9.3.7) the gateway speaks itself.
    assert!(options("*").await.starts_with("HTTP/1.1 204"), "{}", options("*").await);
    assert_eq!(upstream.arrived(), 1);
}

#[tokio::test]
async fn nothing_of_an_h2_request_becomes_a_line_of_its_own_in_h1() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let ground = ground(vec![before("a", &upstream, &[("headers", vec!["cookie"].into())])]).await;
    let connection = ground.member.connect(Protocol::H2).await;
    let sent = post("/a", json!({})).header("cookie", "a=1").header("cookie", "b=2");
    connection.send(sent).await.unwrap().expect(200);
    let seen = upstream.seen().remove(0);
    assert_eq!(seen.headers.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    assert_eq!(seen.headers.get_all("content-length").iter().count(), 1);
    assert!(!seen.headers.contains_key("transfer-encoding") && seen.body == "{}");
}

#[tokio::test]
async fn a_wish_to_change_the_protocol_goes_no_further() {
    let upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let ground = ground(vec![before("a", &upstream, &[])]).await;
    let upgrade = "GET /a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {secret}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    assert!(raw(&ground, upgrade).await.starts_with("HTTP/1.1 200"));
    let seen = upstream.seen().remove(0);
    assert!(
        !seen.headers.contains_key("upgrade") && !seen.headers.contains_key("http2-settings"),
        "{seen:?}"
    );
}
