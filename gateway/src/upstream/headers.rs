//! The headers of a forwarded request and of its answer: what a hop says to a hop stays here, and who asks is said by us.
//! Who enters: headers as they came, from either side.
//! What leaves: what may go on, with our own words about caller, deadline and trace in place of anybody else's.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::api::{Entrant, Origin};

/// What a hop says to the next hop and to nobody behind it (RFC 9110 section 7.6.1), and what frames a message.
const HOP_BY_HOP: [&str; 13] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "alt-svc",
    "content-length",
];

/// What is asked for, under which condition, and how the answer should be.
const PASSES: [&str; 26] = [
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "cache-control",
    "content-digest",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-location",
    "content-range",
    "content-type",
    "date",
    "idempotency-key",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "pragma",
    "prefer",
    "priority",
    "range",
    "repr-digest",
    "user-agent",
    "want-content-digest",
];

/// By these a caller could pass for somebody else, or the path for another; only we may say such things.
const OURS_TO_SAY: [&str; 20] = [
    "authorization",
    "expect",
    "forwarded",
    "host",
    "true-client-ip",
    "cf-connecting-ip",
    "client-cert",
    "client-cert-chain",
    "front-end-https",
    "traceparent",
    "tracestate",
    "via",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-real-ip",
    "x-request-id",
    "x-rewrite-url",
    "x-user",
];
const OURS_TO_BEGIN: [&str; 8] =
    ["x-forwarded-", "chancery-", "x-chancery-", "x-client-", "x-ssl-", "x-auth-", "x-remote-", "remote-"];

/// The time a caller gave, or what is left of it.
const DEADLINE: HeaderName = HeaderName::from_static("chancery-deadline-ms");
const WORKSPACE: HeaderName = HeaderName::from_static("chancery-workspace");
const CLIENT: HeaderName = HeaderName::from_static("chancery-client");
const ACTOR: HeaderName = HeaderName::from_static("chancery-actor");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");

/// What is said of a request in each of its attempts.
pub(super) struct Said<'a> {
    pub(super) entrant: &'a Entrant,
    pub(super) origin: &'a Origin,
    pub(super) trace: Option<(String, String)>,
    pub(super) left: Duration,
}

/// Of the caller's headers those that say what is asked for and how the answer should be, and those that this upstream is to have as well.
/// Every product has its own headers by which it believes who asks, so what is not known to be harmless stays here.
pub(super) fn of_request(came: &HeaderMap, also: &[String]) -> HeaderMap {
    let named = named_by_connection(came);
    let mut kept = HeaderMap::with_capacity(came.len() + 9);
    for (name, value) in came {
        let text = name.as_str();
        let known = PASSES.contains(&text) || also.iter().any(|other| other == text);
        if known && !is_ours(text) && !named.iter().any(|other| other == text) {
            kept.append(name.clone(), value.clone());
        }
    }
    join_cookies(&mut kept);
    kept
}

/// No configuration lets these through: of the hop, ours to say, or with an underscore, which becomes a dash in many a gateway
/// interface and so a header that we had taken out.
pub(super) fn is_ours(name: &str) -> bool {
    HOP_BY_HOP.contains(&name)
        || OURS_TO_SAY.contains(&name)
        || OURS_TO_BEGIN.iter().any(|start| name.starts_with(start))
        || name.contains('_')
}

/// The answer's headers without those of the hop, and without words that only we say.
pub(super) fn of_answer(came: &HeaderMap, to_head: bool) -> HeaderMap {
    let named = named_by_connection(came);
    let mut kept = HeaderMap::with_capacity(came.len() + 4);
    // An answer to HEAD has no body of its own that the length could be taken from.
    if let Some(length) = came.get(header::CONTENT_LENGTH).filter(|_| to_head) {
        kept.insert(header::CONTENT_LENGTH, length.clone());
    }
    for (name, value) in came {
        let text = name.as_str();
        let ours = text.starts_with("chancery-")
            || matches!(text, "request-id" | "traceparent" | "tracestate" | "ratelimit" | "ratelimit-policy");
        if !ours && !HOP_BY_HOP.contains(&text) && !named.iter().any(|other| other == text) {
            kept.append(name.clone(), value.clone());
        }
    }
    kept
}

/// Says who asks, how long there is, and where the trace is.
pub(super) fn say(headers: &mut HeaderMap, said: &Said<'_>) {
    put(headers, WORKSPACE, said.entrant.workspace().as_str());
    put(headers, ACTOR, &said.entrant.actor().to_string());
    if let Some(client) = said.entrant.client() {
        put(headers, CLIENT, client.as_str());
    }
    if let Some(ip) = said.origin.ip {
        put(headers, FORWARDED_FOR, &ip.to_string());
        put(headers, FORWARDED_PROTO, "https");
    }
    put(headers, REQUEST_ID, said.origin.request.as_str());
    put(headers, DEADLINE, &said.left.as_millis().max(1).to_string());
    if let Some((parent, state)) = &said.trace {
        put(headers, TRACE_PARENT, parent);
        put(headers, TRACE_STATE, state);
    }
}

/// `Connection` may name further headers of the hop.
fn named_by_connection(headers: &HeaderMap) -> Vec<String> {
    let lines = headers.get_all(header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect()
}

/// HTTP/2 may send cookies in pieces; HTTP/1.1 knows one line (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let pieces: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if pieces.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&pieces.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// Our own texts are plain ASCII; one that is not is left out.
fn put(headers: &mut HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        headers.keys().map(HeaderName::as_str).collect()
    }

    #[test]
    fn nothing_goes_on_by_which_a_caller_passes_for_another() {
        let came = headers(&[
            ("authorization", "Bearer ck_secret"),
            ("x-forwarded-for", "10.0.0.1"),
            ("X-Forwarded-Host", "evil"),
            ("forwarded", "for=10.0.0.1"),
            ("chancery-workspace", "ws_other"),
            ("chancery_workspace", "ws_other"),
            ("x-real-ip", "10.0.0.1"),
            ("remote-user", "root"),
            ("x-original-url", "/admin"),
            ("accept", "text/html"),
        ]);
        assert_eq!(names(&of_request(&came, &[])), ["accept"]);
        // Not even where a configuration that was never checked names them.
        let all: Vec<String> = came.keys().map(ToString::to_string).collect();
        assert_eq!(names(&of_request(&came, &all)), ["accept"]);
    }

    #[test]
    fn what_a_hop_says_to_a_hop_goes_no_further_even_if_connection_names_it() {
        let came = headers(&[
            ("connection", "close, X-Secret-Hop"),
            ("x-secret-hop", "1"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("transfer-encoding", "chunked"),
            ("content-length", "5"),
            ("content-type", "text/plain"),
        ]);
        assert_eq!(names(&of_request(&came, &[])), ["content-type"]);
        assert_eq!(names(&of_answer(&came, false)), ["content-type"]);
        assert_eq!(names(&of_answer(&came, true)), ["content-length", "content-type"]);
    }

    #[test]
    fn cookies_that_came_in_pieces_go_on_in_one() {
        let came = headers(&[("cookie", "a=1"), ("cookie", "b=2")]);
        assert!(of_request(&came, &[]).is_empty(), "cookies go to whoever is to have them");
        let joined = of_request(&came, &["cookie".to_owned()]);
        assert_eq!(joined.get_all("cookie").iter().collect::<Vec<_>>(), ["a=1; b=2"]);
    }

    #[test]
    fn an_upstream_cannot_speak_with_our_words() {
        let came =
            headers(&[("chancery-entry", "7"), ("request-id", "x"), ("traceparent", "x"), ("etag", "1")]);
        assert_eq!(names(&of_answer(&came, false)), ["etag"]);
    }
}
