//! The monitoring listener: figures and health in plain HTTP, for scrapers and load balancers that bring no certificate. Off unless configured.
//! Who enters: whoever reaches the address; nobody is asked who they are.
//! What leaves: `/metrics`, `/health/live` and `/health/ready` without reasons; nothing else is answered, and nothing can be changed here.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::drain::Register;
use super::listen::pause_after;
use crate::limits::{HEADER_BYTES_MAX, HEADER_FIELDS_MAX, MONITORING_CONNECTIONS_MAX, MONITORING_WAIT_MAX};

/// What can be read here.
pub trait Figures: Send + Sync + 'static {
    /// The figures, in the text format of OpenMetrics.
    fn metrics(&self) -> String;
    /// Ready or not, as JSON without words for people.
    fn readiness(&self) -> (bool, Vec<u8>);
}

/// The monitoring listener, bound.
pub struct Monitoring {
    socket: TcpListener,
    figures: Arc<dyn Figures>,
    register: Register,
    places: Arc<Semaphore>,
}

impl Monitoring {
    /// Binds the address.
    ///
    /// # Errors
    /// The address is taken or not ours.
    pub async fn bind(
        address: SocketAddr,
        figures: Arc<dyn Figures>,
        register: Register,
    ) -> std::io::Result<Self> {
        let places = Arc::new(Semaphore::new(MONITORING_CONNECTIONS_MAX));
        Ok(Self { socket: TcpListener::bind(address).await?, figures, register, places })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts until the appliance is asked to stop.
    pub async fn run(self) {
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = self.register.stopping().cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => self.welcome(stream),
                Err(why) => pause_after(&why).await,
            }
        }
    }

    /// Beyond the bound a connection is closed unanswered: a scraper comes again.
    fn welcome(&self, stream: TcpStream) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else { return };
        let figures = Arc::clone(&self.figures);
        self.register.connection_tasks().spawn(async move {
            // One request and one answer for each connection, and a bound on all of it: no clock beside this one is needed.
            let _ = tokio::time::timeout(MONITORING_WAIT_MAX, attend(stream, figures)).await;
            drop(place);
        });
    }
}

async fn attend(stream: TcpStream, figures: Arc<dyn Figures>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let answer = answer(request.method(), request.uri().path(), figures.as_ref());
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADER_FIELDS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answer);
    if let Err(why) = served.await {
        tracing::debug!(%why, "a monitoring connection ended");
    }
}

fn answer(method: &Method, path: &str, figures: &dyn Figures) -> Response<Full<Bytes>> {
    if !["/metrics", "/health/live", "/health/ready"].contains(&path) {
        return said(StatusCode::NOT_FOUND, None);
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut refused = said(StatusCode::METHOD_NOT_ALLOWED, None);
        refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match path {
        "/metrics" => {
            let text = figures.metrics().into_bytes();
            said(StatusCode::OK, Some(("application/openmetrics-text; version=1.0.0; charset=utf-8", text)))
        }
        "/health/ready" => {
            let (ready, body) = figures.readiness();
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            said(status, Some(("application/json", body)))
        }
        _ => said(StatusCode::NO_CONTENT, None),
    }
}

fn said(status: StatusCode, body: Option<(&'static str, Vec<u8>)>) -> Response<Full<Bytes>> {
    let (media, bytes) = body.unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(bytes)));
    *response.status_mut() = status;
    if !media.is_empty() {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
