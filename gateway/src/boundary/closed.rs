//! The answers of a daemon whose ledger or hardware is not there yet: that it lives, that it is not ready, and why.
//! Who enters: operators at the local socket, while nothing else could answer them.
//! What leaves: health, a status, and 503 for everything else.

use std::convert::Infallible;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::api::{Code, Problem};
use crate::health::{Part, Readiness};
use crate::limits::{HEADER_BYTES_MAX, HEADER_FIELDS_MAX, HEADER_WAIT_MAX, STARTING_RETRY_AFTER};

/// What can be said while the house is closed.
#[derive(Clone, Debug)]
pub struct Closed {
    /// The log's name.
    pub origin: String,
    /// Why it is closed.
    pub why: String,
}

impl Closed {
    /// Answers one connection until its peer leaves. Each request is its only one, so that the next one meets whoever answers then.
    pub async fn serve(self, stream: UnixStream) {
        let answer = service_fn(move |request: Request<Incoming>| {
            let answer = self.answer(request.uri().path());
            async move { Ok::<_, Infallible>(answer) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_WAIT_MAX)
            .max_buf_size(HEADER_BYTES_MAX)
            .max_headers(HEADER_FIELDS_MAX)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), answer);
        if let Err(why) = served.await {
            tracing::debug!(%why, "connection ended");
        }
    }

    fn answer(&self, path: &str) -> Response<Full<Bytes>> {
        match path {
            "/health/live" => said(StatusCode::NO_CONTENT, "application/json", None),
            "/health/ready" => said(
                StatusCode::SERVICE_UNAVAILABLE,
                "application/json",
                serde_json::to_value(self.readiness()).ok(),
            ),
            "/v1/status" => said(StatusCode::OK, "application/json", Some(self.status())),
            _ => said(StatusCode::SERVICE_UNAVAILABLE, "application/problem+json", Some(self.problem())),
        }
    }

    fn readiness(&self) -> Readiness {
        let waiting = Part { part: "daemon", ready: false, code: "waiting", detail: Some(self.why.clone()) };
        Readiness { ready: false, parts: vec![waiting], services: Vec::new() }
    }

    fn status(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "origin": self.origin,
            "readiness": self.readiness(),
            "services": [],
            "ledger": "not open",
            "entries": 0,
            "unsealed_entries": 0,
        })
    }

    fn problem(&self) -> Value {
        let problem = Problem::new(Code::Starting, self.why.clone()).after(STARTING_RETRY_AFTER);
        // Nothing is recorded of such a request, so it has no id.
        serde_json::to_value(problem.document("none")).unwrap_or_default()
    }
}

fn said(status: StatusCode, media: &'static str, body: Option<Value>) -> Response<Full<Bytes>> {
    let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
    let mut response = Response::new(Full::new(bytes));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::RETRY_AFTER, HeaderValue::from(STARTING_RETRY_AFTER.as_secs()));
    response
}
