//! What RFC 9110, 9112 and 9113 ask of every server, whatever it serves.
//! Who enters: the head of a request; a response on its way out.
//! What leaves: refusals of what has two readings; the headers and the silence that clients rely on.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, Version, header};

use super::respond::{HttpResponse, allow};
use crate::api::{Code, Method, Problem};

/// One host, named once (RFC 9112 section 3.2; RFC 9113 section 8.3.1).
///
/// # Errors
/// There is none, or more than one, or one that is none.
pub(super) fn one_host(head: &http::request::Parts) -> Result<(), Problem> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    let refuse = |words: &str| Err(Problem::new(Code::BadRequest, words.to_owned()));
    if second.is_some() {
        return refuse("the request has two Host headers; send one");
    }
    let Some(host) = first else {
        let named_otherwise = head.uri.authority().is_some() || head.version < Version::HTTP_11;
        return match named_otherwise {
            true => Ok(()),
            false => refuse("the request has no Host header; HTTP/1.1 asks for one"),
        };
    };
    let is_one =
        host.to_str().is_ok_and(|text| text.parse::<http::uri::Authority>().is_ok() && !text.contains('@'));
    if !is_one {
        return refuse("the Host header names no host");
    }
    match (head.version, head.uri.authority()) {
        (Version::HTTP_2, Some(authority)) if host.as_bytes() != authority.as_str().as_bytes() => {
            refuse("Host and :authority name two hosts")
        }
        _ => Ok(()),
    }
}

/// `OPTIONS *` asks about the server as a whole (RFC 9110 section 9.3.7).
pub(super) fn asks_of_the_server(head: &http::request::Parts) -> bool {
    head.method == http::Method::OPTIONS && head.uri.path() == "*"
}

/// Names the methods of a path. Whatever is read can be asked for its head alone, and every path for its methods.
pub(super) fn options(response: HttpResponse, methods: &[Method]) -> HttpResponse {
    let mut names: Vec<&'static str> = methods.iter().map(|method| method.text()).collect();
    if methods.is_empty() {
        names.extend(["DELETE", "GET", "POST"]);
    }
    if names.contains(&"GET") {
        names.push("HEAD");
    }
    names.push("OPTIONS");
    names.sort_unstable();
    allow(response, names.into_iter())
}

/// The head of an answer is the one that GET would have, its length included, and nothing follows it (RFC 9110 section 9.3.2).
pub(super) fn without_body_of_head(method: &http::Method, response: Response<Bytes>) -> Response<Bytes> {
    if method != http::Method::HEAD {
        return response;
    }
    let (mut head, body) = response.into_parts();
    if head.status != http::StatusCode::NO_CONTENT {
        head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    Response::from_parts(head, Bytes::new())
}

/// A body comes as it is: no coding (RFC 9110 section 8.4), and in the one charset that JSON has (RFC 8259 section 8.1).
///
/// # Errors
/// It is coded, or says that it is in another charset.
pub(super) fn uncoded(headers: &HeaderMap) -> Result<(), Problem> {
    let codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut codings =
        codings.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    if codings.any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity")) {
        return Err(Problem::new(Code::CodingUnsupported, "send the body without a Content-Encoding"));
    }
    let media_type =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let charset = media_type.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    });
    match charset {
        Some(charset) if !charset.eq_ignore_ascii_case("utf-8") && !charset.eq_ignore_ascii_case("utf8") => {
            Err(Problem::new(Code::NotJson, "JSON is UTF-8; send it so, and leave the charset out"))
        }
        _ => Ok(()),
    }
}

/// Headers by which a client can do better next time (RFC 9110 sections 11.6.1, 12.5.3 and 15.5.16; RFC 6750 section 3).
pub(super) fn explain(code: Code, headers: &mut HeaderMap) {
    let (name, value) = match code {
        Code::ApiKeyUnknown => (header::WWW_AUTHENTICATE, "Bearer realm=\"chancery\""),
        Code::ApiKeyExpired => {
            (header::WWW_AUTHENTICATE, "Bearer realm=\"chancery\", error=\"invalid_token\"")
        }
        Code::CodingUnsupported => (header::ACCEPT_ENCODING, "identity"),
        Code::NotJson => (header::ACCEPT, "application/json"),
        _ => return,
    };
    headers.insert(name, HeaderValue::from_static(value));
}
