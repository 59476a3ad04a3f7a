//! An upstream: a real HTTP server on this machine, in HTTP/1.1 or HTTP/2, with or without mutual TLS, that fails as told.
//! In come tests and benchmarks, which turn its knobs; requests from whoever is under test.
//! Out go answers, and a record of everything that was seen and of everything that took effect.

mod behaviour;
mod pki;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

pub use self::behaviour::Behaviour;
pub use self::pki::Pki;
use crate::error::{SimulatorError, While};

/// How it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, by prior knowledge or ALPN.
    H2,
}

/// A request as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method.
    pub method: Method,
    /// Path and query, as they were sent.
    pub target: String,
    /// The protocol's version.
    pub version: Version,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// A running upstream. Dropping it closes its port and its connections.
pub struct Upstream {
    address: SocketAddr,
    speaks: Speaks,
    tls: Option<TlsAcceptor>,
    record: Arc<Record>,
    running: Option<AbortHandle>,
}

/// What it was told and what it saw; outlives a stop.
#[derive(Default)]
struct Record {
    always: Mutex<Behaviour>,
    next: Mutex<VecDeque<Behaviour>>,
    seen: Mutex<Vec<Seen>>,
    arrived: AtomicUsize,
    effects: AtomicUsize,
    connections: AtomicUsize,
    here: AtomicUsize,
    crowd: AtomicUsize,
}

impl Upstream {
    /// Starts one without TLS, on a port of its own.
    pub async fn plain(speaks: Speaks) -> Result<Self, SimulatorError> {
        Self::start(speaks, None).await
    }

    /// Starts one that speaks TLS 1.3 only, and only with clients whose certificate the PKI issued.
    pub async fn secure(speaks: Speaks, pki: &Pki) -> Result<Self, SimulatorError> {
        Self::start(speaks, Some(pki.acceptor(speaks)?)).await
    }

    async fn start(speaks: Speaks, tls: Option<TlsAcceptor>) -> Result<Self, SimulatorError> {
        let address = ([127, 0, 0, 1], 0).into();
        let mut upstream = Self { address, speaks, tls, record: Arc::default(), running: None };
        upstream.resume().await?;
        Ok(upstream)
    }

    /// Its address, as a configuration names it.
    pub fn endpoint(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Closes its port and its connections: whoever comes is refused by the kernel.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
    }

    /// Opens its port again, the same as before.
    pub async fn resume(&mut self) -> Result<(), SimulatorError> {
        self.stop();
        let socket = bind_again(self.address).await.while_trying(format!("listen on {}", self.address))?;
        self.address = socket.local_addr().while_trying("learn its own address")?;
        let (record, speaks, tls) = (Arc::clone(&self.record), self.speaks, self.tls.clone());
        self.running = Some(tokio::spawn(accept(socket, record, speaks, tls)).abort_handle());
        Ok(())
    }

    /// How it behaves from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        *lock(&self.record.always) = behaviour;
    }

    /// How it behaves to the next requests, one each, before it goes on as before.
    pub fn behave_next(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        lock(&self.record.next).extend(behaviours);
    }

    /// Forgets how it was to behave to the next requests.
    pub fn behave_as_before(&self) {
        lock(&self.record.next).clear();
    }

    /// Everything it saw.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.record.seen).clone()
    }

    /// Requests whose head arrived.
    pub fn arrived(&self) -> usize {
        self.record.arrived.load(Ordering::SeqCst)
    }

    /// Requests that took effect, whatever was answered.
    pub fn effects(&self) -> usize {
        self.record.effects.load(Ordering::SeqCst)
    }

    /// Connections that were accepted.
    pub fn connections(&self) -> usize {
        self.record.connections.load(Ordering::SeqCst)
    }

    /// The most requests that were here at the same time, since this was last asked.
    pub fn crowd(&self) -> usize {
        self.record.crowd.swap(0, Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The task of a stopped one may still hold the port for a moment.
async fn bind_again(address: SocketAddr) -> io::Result<TcpListener> {
    const ATTEMPTS: usize = 200;
    for _ in 1..ATTEMPTS {
        if let Ok(socket) = TcpListener::bind(address).await {
            return Ok(socket);
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    TcpListener::bind(address).await
}

/// Connections live in this task's own set, so that aborting it ends them all.
async fn accept(socket: TcpListener, record: Arc<Record>, speaks: Speaks, tls: Option<TlsAcceptor>) {
    let mut open = JoinSet::new();
    while let Ok((stream, _)) = socket.accept().await {
        record.connections.fetch_add(1, Ordering::SeqCst);
        open.spawn(welcome(stream, Arc::clone(&record), speaks, tls.clone()));
        while open.try_join_next().is_some() {}
    }
}

/// Whoever fails the handshake is gone; the test sees that nothing was seen.
async fn welcome(stream: TcpStream, record: Arc<Record>, speaks: Speaks, tls: Option<TlsAcceptor>) {
    let _ = stream.set_nodelay(true);
    match tls {
        None => serve(stream, record, speaks).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                serve(stream, record, speaks).await;
            }
        }
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    record: Arc<Record>,
    speaks: Speaks,
) {
    let service = service_fn(move |request| answer(Arc::clone(&record), request));
    let io = TokioIo::new(stream);
    // How a connection ends is the caller's business.
    match speaks {
        Speaks::Http1 => drop(http1::Builder::new().serve_connection(io, service).await),
        Speaks::H2 => drop(http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await),
    }
}

async fn answer(
    record: Arc<Record>,
    request: Request<Incoming>,
) -> Result<behaviour::Answer, behaviour::Broken> {
    record.arrived.fetch_add(1, Ordering::SeqCst);
    let behaviour = lock(&record.next).pop_front().unwrap_or_else(|| lock(&record.always).clone());
    let _here = Here::come(&record);
    behaviour.before().await?;
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| behaviour::Broken)?.to_bytes();
    let seen = Seen {
        method: head.method,
        target: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        version: head.version,
        headers: head.headers,
        body,
    };
    lock(&record.seen).push(seen.clone());
    if behaviour.takes_effect() {
        record.effects.fetch_add(1, Ordering::SeqCst);
    }
    behaviour.after(&seen).await
}

/// A request that is here.
struct Here<'a>(&'a Record);

impl<'a> Here<'a> {
    fn come(record: &'a Record) -> Self {
        let here = record.here.fetch_add(1, Ordering::SeqCst) + 1;
        record.crowd.fetch_max(here, Ordering::SeqCst);
        Self(record)
    }
}

impl Drop for Here<'_> {
    fn drop(&mut self) {
        self.0.here.fetch_sub(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What cannot happen, as the body's error.
pub(crate) type Never = Infallible;
