//! The load of the benchmark: lean on purpose, as the clients share the processors with what they measure.
//! Who enters: an address, an identity, one ready-made body.
//! What leaves: how many were signed and how long each took; the answers' bodies are not looked into.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Any of the many things that can go wrong with a benchmark.
pub(crate) type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// What a client needs to connect: PEM texts and the address.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    pub(crate) ca: String,
    pub(crate) certificate: String,
    pub(crate) key: String,
    pub(crate) address: std::net::SocketAddr,
}

/// HTTP/1.1 with keep-alive, or h2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    H1,
    H2,
}

/// What to send, over how many connections, for how long.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) identity: Identity,
    pub(crate) api_key: String,
    pub(crate) path: String,
    pub(crate) body: String,
    pub(crate) protocol: Protocol,
    pub(crate) connections: usize,
    pub(crate) duration: Duration,
    /// Whether each request brings an `Idempotency-Key` of its own.
    pub(crate) keyed: bool,
    /// Each connection sends no more often than this; as fast as it is answered if absent.
    pub(crate) every: Option<Duration>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The time each signature took, sorted.
    pub(crate) latencies: Vec<Duration>,
    /// Answers other than 200, by status.
    pub(crate) refused: BTreeMap<u16, u64>,
    /// Requests that got no answer.
    pub(crate) broken: u64,
    /// From the first request to the last answer.
    pub(crate) elapsed: Duration,
}

/// A connection that sends one request after the other.
pub(crate) enum Sender {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

impl Outcome {
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64().max(1e-9)
    }

    /// The latency that so many in a hundred stayed below.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let at = self.latencies.len().saturating_sub(1) * percent / 100;
        self.latencies.get(at).copied().unwrap_or_default()
    }

    /// The same, if every request was signed: a figure that hides refusals is none.
    pub(crate) fn all_signed(self) -> Result<Self, Trouble> {
        if self.broken > 0 || !self.refused.is_empty() {
            let words = format!("not every request was signed: {} broken, {:?}", self.broken, self.refused);
            return Err(words.into());
        }
        Ok(self)
    }

    /// Another turn of the same load.
    pub(crate) fn add(&mut self, turn: Self) {
        self.elapsed += turn.elapsed;
        self.merge(turn);
        self.latencies.sort_unstable();
    }

    fn merge(&mut self, other: Self) {
        self.latencies.extend(other.latencies);
        self.broken += other.broken;
        for (status, count) in other.refused {
            *self.refused.entry(status).or_default() += count;
        }
    }
}

impl Sender {
    async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<u16, hyper::Error> {
        let response = match self {
            Self::H1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Self::H2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await?
            }
        };
        let status = response.status().as_u16();
        response.into_body().collect().await?;
        Ok(status)
    }
}

fn tls(identity: &Identity, protocol: Protocol) -> Result<TlsConnector, Trouble> {
    let mut roots = rustls::RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(identity.ca.as_bytes()) {
        roots.add(ca?)?;
    }
    let chain =
        CertificateDer::pem_slice_iter(identity.certificate.as_bytes()).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.alpn_protocols =
        vec![if protocol == Protocol::H1 { b"http/1.1".to_vec() } else { b"h2".to_vec() }];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Opens a connection from this address as far as TLS.
pub(crate) async fn connect_tls(
    identity: &Identity,
    protocol: Protocol,
    from: Ipv4Addr,
) -> Result<TlsStream<TcpStream>, Trouble> {
    let stream = connect_tcp(identity, from).await?;
    Ok(tls(identity, protocol)?.connect(ServerName::try_from("localhost")?, stream).await?)
}

/// Opens a connection from this address, and says nothing.
pub(crate) async fn connect_tcp(identity: &Identity, from: Ipv4Addr) -> Result<TcpStream, Trouble> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = socket.connect(identity.address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Opens one connection.
pub(crate) async fn connect(identity: &Identity, protocol: Protocol) -> Result<Sender, Trouble> {
    let io = TokioIo::new(connect_tls(identity, protocol, Ipv4Addr::LOCALHOST).await?);
    Ok(match protocol {
        Protocol::H1 => {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            Sender::H1(sender)
        }
        Protocol::H2 => {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Sender::H2(sender)
        }
    })
}

impl Load {
    /// Runs the load: every connection sends, waits for the answer, and sends again.
    pub(crate) async fn run(&self) -> Result<Outcome, Trouble> {
        let mut senders = Vec::with_capacity(self.connections);
        for _ in 0..self.connections {
            senders.push(connect(&self.identity, self.protocol).await?);
        }
        let load = Arc::new(self.clone());
        let begun = Instant::now();
        let mut going = JoinSet::new();
        for (at, sender) in senders.into_iter().enumerate() {
            // Paced clients begin one after the other, as real ones would.
            let share = u32::try_from(at).unwrap_or_default();
            let first =
                begun + self.every.unwrap_or_default() * share / u32::try_from(self.connections).unwrap_or(1);
            going.spawn(Arc::clone(&load).drive(at, sender, first, begun + self.duration));
        }
        let mut whole = Outcome::default();
        while let Some(part) = going.join_next().await {
            whole.merge(part?);
        }
        whole.elapsed = begun.elapsed();
        whole.latencies.sort_unstable();
        Ok(whole)
    }

    /// One client. A paced one counts from the moment its request was due, so that waiting for its turn counts too.
    async fn drive(self: Arc<Self>, at: usize, mut sender: Sender, first: Instant, end: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        let mut mine = self.keys(at);
        let mut due = first;
        while Instant::now() < end {
            let Ok(request) = self.request(mine.next()) else { return outcome };
            let mut begun = Instant::now();
            if let Some(every) = self.every {
                tokio::time::sleep_until(due.into()).await;
                begun = due;
                due += every;
            }
            match sender.send(request).await {
                Ok(200) => outcome.latencies.push(begun.elapsed()),
                Ok(status) => *outcome.refused.entry(status).or_default() += 1,
                Err(_) => {
                    outcome.broken += 1;
                    return outcome;
                }
            }
        }
        outcome
    }

    /// The keys of one connection, none twice in any run of any process; or none at all.
    fn keys(&self, at: usize) -> impl Iterator<Item = String> + use<> {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default().as_nanos();
        let keyed = self.keyed;
        (0_u64..).map_while(move |number| keyed.then(|| format!("{since:x}-{at}-{number}")))
    }

    fn request(&self, key: Option<String>) -> http::Result<Request<Full<Bytes>>> {
        let uri = match self.protocol {
            Protocol::H1 => self.path.clone(),
            Protocol::H2 => format!("https://localhost{}", self.path),
        };
        let request = Request::post(uri)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.api_key));
        match key {
            Some(key) => request.header("idempotency-key", key),
            None => request,
        }
        .body(Full::from(self.body.clone()))
    }
}
