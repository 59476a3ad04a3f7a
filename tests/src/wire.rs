//! HTTP as clients speak it: one question, one answer, over TLS or the local socket, in HTTP/1.1 or h2.
//! Who enters: members and operators, with questions.
//! What leaves: answers taken apart; or the error with which a connection ended, for a refusal may have no words.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::identity::Identity;
use crate::inside::from_inside;

/// Where an appliance listens. Clones follow it through restarts, for the port may be another each time.
#[derive(Clone, Debug)]
pub struct Door {
    address: Arc<Mutex<SocketAddr>>,
}

/// How to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    H1,
    /// HTTP/2.
    H2,
}

/// A question.
#[derive(Clone, Debug)]
pub struct Ask {
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    bare: bool,
    body: Option<Bytes>,
}

/// An answer, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// An open connection.
#[derive(Clone)]
pub struct Connection {
    sender: Sender,
    credential: Option<String>,
}

#[derive(Clone)]
enum Sender {
    H1(Arc<tokio::sync::Mutex<http1::SendRequest<Full<Bytes>>>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

/// The name that the appliance's certificate carries.
pub const SERVER_NAME: &str = "localhost";
/// Longer than the longest patience of the daemon: whoever waits so long met a hang.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(75);

/// A question that reads.
pub fn get(path: impl Into<String>) -> Ask {
    Ask { method: Method::GET, path: path.into(), headers: Vec::new(), bare: false, body: None }
}

/// A question that changes something; `Value::Null` sends no body.
pub fn post(path: impl Into<String>, body: Value) -> Ask {
    let body = (!body.is_null()).then(|| Bytes::from(body.to_string()));
    Ask { method: Method::POST, path: path.into(), headers: Vec::new(), bare: false, body }
}

/// A question that takes something away.
pub fn delete(path: impl Into<String>) -> Ask {
    Ask { method: Method::DELETE, path: path.into(), headers: Vec::new(), bare: false, body: None }
}

/// A key that no request has had.
fn fresh_key() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Ask {
    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Asks with another method.
    ///
    /// # Panics
    /// It is no method.
    #[must_use]
    pub fn method(mut self, method: &str) -> Self {
        self.method = method.parse().expect("a method");
        self
    }

    /// Any bytes as the body, JSON or not.
    #[must_use]
    pub fn raw(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// Shows an API key.
    #[must_use]
    pub fn bearer(self, secret: &str) -> Self {
        self.header("authorization", &format!("Bearer {secret}"))
    }

    fn request(self, credential: Option<&str>, h2: bool) -> io::Result<Request<Full<Bytes>>> {
        let uri = if h2 { format!("https://{SERVER_NAME}{}", self.path) } else { self.path.clone() };
        let mut request = Request::builder().method(self.method.clone()).uri(uri);
        if !h2 {
            request = request.header(header::HOST, SERVER_NAME);
        }
        let has = |name: &str| self.headers.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
        if let Some(secret) = credential.filter(|_| !has("authorization")) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {secret}"));
        }
        if self.body.is_some() && !has("content-type") {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        // What makes or changes keys, or starts a workflow, wants a key; a test that cares brings its own.
        let wants_key = self.method == Method::POST
            && ["/v1/keys", "/v1/workflows"].iter().any(|place| self.path.starts_with(place))
            && !["/sign", "/verify"].iter().any(|verb| self.path.ends_with(verb));
        if wants_key && !self.bare && !has("idempotency-key") {
            request = request.header("idempotency-key", fresh_key());
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(self.body.unwrap_or_default())).map_err(io::Error::other)
    }
}

impl Answer {
    /// The body as JSON; null if it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The stable code of a problem; empty in an answer that is none.
    pub fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The entry that tells of what was done.
    pub fn entry(&self) -> Option<u64> {
        self.header("chancery-entry").and_then(|text| text.parse().ok())
    }

    /// The request's id.
    pub fn request_id(&self) -> String {
        self.header("request-id").unwrap_or_default().to_owned()
    }

    /// Insists on a status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// Insists that the body names no file, no library, no code of theirs and no value of ours.
    #[track_caller]
    pub fn tells_nothing_from_inside(&self) {
        let (text, found) = (self.text(), from_inside(&self.text()));
        assert!(found.is_empty(), "{found:?} stands in what a caller is told: {text}");
    }

    /// Insists on a problem: its status, its code, and that it says what to do.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Self {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{}", self.text());
        // While it starts, nobody but operators on the machine itself is answered, and they are told which file or device is missing.
        if code != "starting" {
            self.tells_nothing_from_inside();
        }
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let detail = self.json()["detail"].as_str().unwrap_or_default().to_owned();
        assert!(!detail.is_empty(), "a refusal without advice: {}", self.text());
        self
    }
}

impl Door {
    /// At an address.
    pub fn at(address: SocketAddr) -> Self {
        Self { address: Arc::new(Mutex::new(address)) }
    }

    /// Where it is now.
    pub fn address(&self) -> SocketAddr {
        *self.address.lock().expect("nobody panics holding an address")
    }

    /// It moved, in a restart.
    pub fn moved(&self, address: SocketAddr) {
        *self.address.lock().expect("nobody panics holding an address") = address;
    }

    /// As foreign programs want it.
    pub fn url(&self) -> String {
        format!("https://{SERVER_NAME}:{}", self.address().port())
    }

    /// A TLS stream, for those who speak HTTP badly on purpose.
    pub async fn tls(&self, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address()).await?;
        stream.set_nodelay(true)?;
        let name = SERVER_NAME.try_into().map_err(io::Error::other)?;
        TlsConnector::from(config).connect(name, stream).await
    }

    /// A connection that shows an identity and, with each request, an API key.
    pub async fn connect(
        &self,
        identity: &Identity,
        api_key: Option<&str>,
        protocol: Protocol,
    ) -> io::Result<Connection> {
        let stream = self.tls(identity.client_config(protocol)).await?;
        Connection::over(stream, protocol, api_key).await
    }
}

impl Connection {
    /// Over any stream.
    pub async fn over<S>(stream: S, protocol: Protocol, api_key: Option<&str>) -> io::Result<Self>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let io = TokioIo::new(stream);
        // The connection's own end is told to whoever waits for an answer.
        let sender = match protocol {
            Protocol::H1 => {
                let (sender, connection) = http1::handshake(io).await.map_err(io::Error::other)?;
                tokio::spawn(connection);
                Sender::H1(Arc::new(tokio::sync::Mutex::new(sender)))
            }
            Protocol::H2 => {
                let (sender, connection) =
                    http2::handshake(TokioExecutor::new(), io).await.map_err(io::Error::other)?;
                tokio::spawn(connection);
                Sender::H2(sender)
            }
        };
        Ok(Self { sender, credential: api_key.map(str::to_owned) })
    }

    /// Over a local socket.
    pub async fn local(socket: &Path) -> io::Result<Self> {
        Self::over(UnixStream::connect(socket).await?, Protocol::H1, None).await
    }

    /// Asks exactly this, without a key that the ask does not bring itself.
    ///
    /// # Errors
    /// The connection ended without an answer.
    pub async fn send_bare(&self, mut ask: Ask) -> io::Result<Answer> {
        ask.bare = true;
        self.send(ask).await
    }

    /// Asks, and waits for the whole answer.
    ///
    /// # Errors
    /// The connection ended without one.
    pub async fn send(&self, ask: Ask) -> io::Result<Answer> {
        let credential = self.credential.as_deref();
        let (method, path) = (ask.method.clone(), ask.path.clone());
        let exchange = async {
            let response = match &self.sender {
                Sender::H1(sender) => {
                    let mut sender = sender.lock().await;
                    sender.ready().await.map_err(io::Error::other)?;
                    sender.send_request(ask.request(credential, false)?).await
                }
                Sender::H2(sender) => {
                    let mut sender = sender.clone();
                    sender.ready().await.map_err(io::Error::other)?;
                    sender.send_request(ask.request(credential, true)?).await
                }
            };
            let (head, body) = response.map_err(io::Error::other)?.into_parts();
            let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
            let answer = Answer { status: head.status.as_u16(), headers: head.headers, body };
            crate::described::hold(method.as_str(), &path, &answer);
            Ok(answer)
        };
        let answered = tokio::time::timeout(ANSWER_WAIT_MAX, exchange).await;
        answered.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer, not even a refusal"))?
    }
}

impl Protocol {
    /// Its name in the handshake.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::H1 => b"http/1.1",
            Self::H2 => b"h2",
        }
    }
}
