//! From replies and problems to HTTP: the only place where an answer is written.
//! Who enters: what the gate got from a handler, and how the request is followed.
//! What leaves: a response with its request id, trace context, rate-limit figures and media type.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Either;

use super::gate::Arrived;
use super::rate::Allowance;
use super::trace::Followed;
use crate::api::problem::whole_seconds;
use crate::api::{Code, Problem, Reply};
use crate::unsent::Counted;
use crate::upstream::answered::AnsweredBody;

/// A response as hyper sends it: whole, or as it comes from an upstream.
pub type HttpResponse = Response<Either<Counted, AnsweredBody>>;

/// The header that names the request.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
/// The header that names the ledger entry of what was done.
pub const ENTRY: HeaderName = HeaderName::from_static("chancery-entry");
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
const TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACE_STATE: HeaderName = HeaderName::from_static("tracestate");
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Writes the answer to one request.
pub(super) fn respond(
    outcome: Result<Reply, Problem>,
    arrived: &Arrived<'_>,
    allowance: Option<Allowance>,
) -> HttpResponse {
    let mut response = match outcome {
        Ok(reply) => success(reply),
        Err(problem) => failure(problem, arrived.followed),
    };
    label(response.headers_mut(), arrived.followed, allowance);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let response = super::semantics::without_body_of_head(&arrived.head.method, response);
    response.map(|body| Either::Left(arrived.unsent.whole(body)))
}

/// Hands on an upstream's answer under our own request id and trace.
pub fn hand_on(
    mut response: Response<AnsweredBody>,
    followed: &Followed,
    allowance: Option<Allowance>,
) -> HttpResponse {
    label(response.headers_mut(), followed, allowance);
    response.map(Either::Right)
}

/// What every answer says: which request it answers, where the trace is, what is left of the allowance.
fn label(headers: &mut http::HeaderMap, followed: &Followed, allowance: Option<Allowance>) {
    put(headers, REQUEST_ID, followed.request.as_str());
    put(headers, TRACE_PARENT, &followed.trace.to_string());
    put(headers, TRACE_STATE, &followed.state.with_own(followed.trace.span()));
    if let Some(allowance) = allowance {
        put(headers, RATE_LIMIT, &format!("\"default\";r={};t={}", allowance.remaining, allowance.reset));
        put(headers, RATE_LIMIT_POLICY, &format!("\"default\";q={}", allowance.limit));
    }
}

/// Where it is said what a key is for (draft-ietf-httpapi-idempotency-key-header, section 2.7).
const ABOUT_KEYS: &str = "</v1/openapi.json>; rel=\"describedby\"";

/// Names the methods a path takes (RFC 9110 section 15.5.6).
pub fn allow(mut response: HttpResponse, methods: impl Iterator<Item = &'static str>) -> HttpResponse {
    put(response.headers_mut(), header::ALLOW, &methods.collect::<Vec<_>>().join(", "));
    response
}

fn success(reply: Reply) -> Response<Bytes> {
    let mut response = Response::new(reply.body);
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::OK);
    if !reply.media_type.is_empty() {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(reply.media_type));
    }
    if let Some(location) = &reply.location {
        put(response.headers_mut(), header::LOCATION, location);
    }
    if reply.replayed {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    }
    if let Some(entry) = reply.entry {
        response.headers_mut().insert(ENTRY, HeaderValue::from(entry));
    }
    response
}

fn failure(problem: Problem, followed: &Followed) -> Response<Bytes> {
    let status = StatusCode::from_u16(problem.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let (code, retry_after) = (problem.code, problem.retry_after);
    let document = serde_json::to_vec(&problem.document(followed.request.as_str())).unwrap_or_default();
    let mut response = Response::new(Bytes::from(document));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if let Some(wait) = retry_after {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
    }
    super::semantics::explain(code, headers);
    if matches!(code, Code::IdempotencyKeyMissing | Code::IdempotencyKeyReused | Code::RequestInProgress) {
        headers.insert(header::LINK, HeaderValue::from_static(ABOUT_KEYS));
    }
    response
}

/// Our own header texts are plain ASCII; one that is not is left out rather than allowed to break the answer.
fn put(headers: &mut http::HeaderMap, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        headers.insert(name, value);
    }
}
