//! The siege: everything that an attacker can do without rights, and another workspace with its own, while one client signs.
//! Who enters: `bench --siege SECONDS [ATTACK...]`; without a name, all of them at once.
//! What leaves: what the client lost, how long it waited before and during it, and the most memory that the daemon took.

use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use crate::appliance::{Appliance, body};
use crate::figures::rss_mib;
use crate::load::{self, Identity, Load, Outcome, Protocol, Trouble};

/// Where the attackers are.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// The client signs so often.
const EVERY: Duration = Duration::from_millis(20);
const QUIET_SECONDS: u64 = 10;
/// What the daemon may take at most.
const MEMORY_MAX_MIB: f64 = 512.0;

/// How often each attack began anew.
type Rounds = Arc<AtomicU64>;

/// What is done, and by how many at once.
#[derive(Clone, Copy)]
struct Attack {
    name: &'static str,
    at_once: usize,
    /// With a certificate that was revoked.
    revoked: bool,
    make: fn(Attacker) -> BoxFuture,
}

type BoxFuture = Pin<Box<dyn Future<Output = Result<(), Trouble>> + Send>>;

const ATTACKS: [Attack; 7] = [
    Attack {
        name: "revoked",
        at_once: 8,
        revoked: true,
        make: |attacker| Box::pin(unread_answers(attacker)),
    },
    Attack {
        name: "unread",
        at_once: 16,
        revoked: false,
        make: |attacker| Box::pin(unread_answers(attacker)),
    },
    Attack {
        name: "handshakes",
        at_once: 400,
        revoked: false,
        make: |attacker| Box::pin(silent_handshake(attacker)),
    },
    Attack {
        name: "silent",
        at_once: 200,
        revoked: false,
        make: |attacker| Box::pin(silent_connection(attacker)),
    },
    Attack {
        name: "events",
        at_once: 40,
        revoked: false,
        make: |attacker| Box::pin(waiting_requests(attacker)),
    },
    Attack {
        name: "approvals",
        at_once: 42,
        revoked: false,
        make: |attacker| Box::pin(waiting_signatures(attacker)),
    },
    Attack {
        name: "bodies",
        at_once: 16,
        revoked: false,
        make: |attacker| Box::pin(unfinished_bodies(attacker)),
    },
];

/// The name of the key whose signatures somebody else has to agree to.
const HELD: &str = "held";

/// One attacker: what it has.
#[derive(Clone)]
struct Attacker {
    identity: Identity,
    api_key: String,
    rounds: Rounds,
}

pub(crate) fn measure(words: &[String]) -> Result<(), Trouble> {
    let seconds = words.first().map_or(Ok(60), |word| word.parse())?;
    let chosen = words.get(1..).unwrap_or_default();
    let attacks: Vec<_> = ATTACKS
        .iter()
        .filter(|attack| chosen.is_empty() || chosen.iter().any(|name| name == attack.name))
        .collect();
    if attacks.len() < chosen.len() {
        return Err(format!("there are these attacks: {:?}", ATTACKS.map(|attack| attack.name)).into());
    }
    // As the kernel allows files to a service, not to a shell.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: limit.maximum, ..limit },
    )?;
    let appliance = Appliance::start()?;
    appliance.create_key("p256")?;
    // The attackers stand for other machines: they must not keep the client itself, nor the daemon, from the processor.
    let attackers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(|| {
            let _ = rustix::process::nice(19);
        })
        .enable_all()
        .build()?;
    let client = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    client.block_on(besiege(&appliance, seconds, &attacks, attackers.handle()))
}

async fn besiege(
    appliance: &Appliance,
    seconds: u64,
    attacks: &[&Attack],
    attackers: &Handle,
) -> Result<(), Trouble> {
    let quiet = sign(appliance, QUIET_SECONDS).await?.all_signed()?;
    let (identity, api_key) = appliance.found("evil", "sign,verify,keys:manage,workflows:read")?;
    let (revoked, rounds) = (appliance.revoked("revoked")?, Rounds::default());
    let evil = Attacker { identity, api_key, rounds: Arc::clone(&rounds) };
    let thief = Attacker { identity: revoked, ..evil.clone() };
    attackers
        .spawn({
            let evil = evil.clone();
            async move { evil.make_held_key().await }
        })
        .await??;
    let mut begun = JoinSet::new();
    for attack in attacks {
        let attacker = if attack.revoked { &thief } else { &evil };
        (0..attack.at_once)
            .for_each(|_| drop(begun.spawn_on(again_and_again(attacker.clone(), attack.make), attackers)));
    }
    let memory = tokio::spawn(peak(appliance.daemon, Duration::from_secs(seconds)));
    let during = sign(appliance, seconds).await?;
    let peak = memory.await??;
    begun.abort_all();
    let (lost, signed) = (during.broken + during.refused.values().sum::<u64>(), during.latencies.len());
    let millis = |outcome: &Outcome, percent| outcome.percentile(percent).as_secs_f64() * 1e3;
    println!(
        "siege of {seconds} s, {} attacks begun: {signed} signed, {lost} lost {:?}; p50 {:.1} ms (quiet {:.1}), p99 {:.1} ms (quiet {:.1}); \
         at most {peak:.0} MiB",
        rounds.load(Ordering::Relaxed),
        during.refused,
        millis(&during, 50),
        millis(&quiet, 50),
        millis(&during, 99),
        millis(&quiet, 99),
    );
    match lost == 0 && peak < MEMORY_MAX_MIB {
        true => Ok(()),
        false => Err(format!("the siege cost {lost} requests and {peak:.0} MiB").into()),
    }
}

/// The client that is to lose nothing: one connection, at its own pace, and another connection when that one has ended in good order.
async fn sign(appliance: &Appliance, seconds: u64) -> Result<Outcome, Trouble> {
    let load = Load {
        identity: appliance.identity.clone(),
        api_key: appliance.api_key.clone(),
        path: "/v1/keys/bench-p256/sign".to_owned(),
        body: body("ecdsa-sha256"),
        protocol: Protocol::H1,
        connections: 1,
        duration: Duration::from_secs(1),
        keyed: false,
        every: Some(EVERY),
    };
    let mut whole = Outcome::default();
    // A new connection each second: whoever keeps the door shut is seen.
    for _ in 0..seconds {
        match load.run().await {
            Ok(turn) => whole.add(turn),
            Err(_) => whole.broken += 1,
        }
    }
    Ok(whole)
}

async fn peak(daemon: u32, time: Duration) -> Result<f64, Trouble> {
    let (end, mut peak) = (Instant::now() + time, 0.0_f64);
    while Instant::now() < end {
        peak = peak.max(rss_mib(daemon)?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(peak)
}

async fn again_and_again(attacker: Attacker, attack: fn(Attacker) -> BoxFuture) {
    loop {
        attacker.rounds.fetch_add(1, Ordering::Relaxed);
        // That it was cut is what the daemon is there for.
        let _ = attack(attacker.clone()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A window of nothing, and 128 times the longest answer that everybody may ask for.
async fn unread_answers(attacker: Attacker) -> Result<(), Trouble> {
    let mut stream = load::connect_tls(&attacker.identity, Protocol::H2, ELSEWHERE).await?;
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE = 0 (RFC 9113 section 6.5.2).
    said.extend(frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]));
    for number in 0..128 {
        let mut head = vec![0x82, 0x87];
        for (name, value) in [(0x41, "localhost"), (0x44, "/v1/openapi.json")] {
            head.push(name);
            head.push(u8::try_from(value.len())?);
            head.extend(value.as_bytes());
        }
        said.extend(frame(1, 0x5, number * 2 + 1, &head));
    }
    stream.write_all(&said).await?;
    let mut heard = [0; 9];
    loop {
        stream.read_exact(&mut heard).await?;
        let length = u32::from_be_bytes([0, heard[0], heard[1], heard[2]]);
        let mut payload = vec![0; usize::try_from(length)?];
        stream.read_exact(&mut payload).await?;
        match (heard[3], heard[4]) {
            (4, 0) => stream.write_all(&frame(4, 1, 0, &[])).await?,
            (6, 0) => stream.write_all(&frame(6, 1, 0, &payload)).await?,
            _ => {}
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// TCP, and not a byte.
async fn silent_handshake(attacker: Attacker) -> Result<(), Trouble> {
    let mut stream = load::connect_tcp(&attacker.identity, ELSEWHERE).await?;
    stream.read_u8().await?;
    Ok(())
}

/// TLS, and not a byte.
async fn silent_connection(attacker: Attacker) -> Result<(), Trouble> {
    let mut stream = load::connect_tls(&attacker.identity, Protocol::H1, ELSEWHERE).await?;
    stream.read_u8().await?;
    Ok(())
}

/// 128 requests that wait for events that never come, and end together.
async fn waiting_requests(attacker: Attacker) -> Result<(), Trouble> {
    on_all_streams(&attacker, |attacker| {
        let request = attacker.request(Method::GET, "/v1/events?after=9000000000000000");
        request
            .header("prefer", "wait=60")
            .header("chancery-deadline-ms", "60000")
            .body(Empty::<Bytes>::new())
    })
    .await
}

/// 128 signatures that wait for an agreement that never comes.
async fn waiting_signatures(attacker: Attacker) -> Result<(), Trouble> {
    on_all_streams(&attacker, |attacker| {
        let nonce = attacker.rounds.fetch_add(1, Ordering::Relaxed);
        let request = attacker.request(Method::POST, &format!("/v1/keys/{HELD}/signatures"));
        let request = request.header("prefer", "wait=60").header("chancery-deadline-ms", "60000");
        let mut asked: serde_json::Value = serde_json::from_str(&body("ecdsa-sha256")).unwrap_or_default();
        asked["nonce"] = format!("siege-{nonce}").into();
        asked["intent"] = "transfer".into();
        let request = request.header("idempotency-key", format!("siege-{nonce}"));
        request.body(Full::new(Bytes::from(asked.to_string())))
    })
    .await
}

/// Bodies of a MiB each but for the last byte, on all streams of a connection.
async fn unfinished_bodies(attacker: Attacker) -> Result<(), Trouble> {
    on_all_streams(&attacker, |attacker| {
        attacker.request(Method::POST, "/v1/keys/k1/verify").body(Unfinished { left: (1 << 20) - 1 })
    })
    .await
}

impl Attacker {
    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("https://localhost{path}"))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.api_key))
            .header(header::CONTENT_TYPE, "application/json")
    }

    /// A key whose every signature somebody else has to agree to.
    async fn make_held_key(&self) -> Result<(), Trouble> {
        let asked =
            serde_json::json!({"name": HELD, "kind": "p256", "policy": {"direct": false, "approvals": 1}});
        let request = self.request(Method::POST, "/v1/keys").header("idempotency-key", HELD);
        let request = request
            .header("chancery-deadline-ms", "60000")
            .body(Full::new(Bytes::from(asked.to_string())))?;
        let answer = self.connect().await?.send_request(request).await?;
        let status = answer.status();
        let text = String::from_utf8_lossy(&answer.into_body().collect().await?.to_bytes()).into_owned();
        status
            .is_success()
            .then_some(())
            .ok_or_else(|| format!("no key to wait with: {status} {text}").into())
    }

    async fn connect<B>(&self) -> Result<http2::SendRequest<B>, Trouble>
    where
        B: hyper::body::Body<Data: Send, Error: Into<Trouble>> + Send + Unpin + 'static,
    {
        let io = TokioIo::new(load::connect_tls(&self.identity, Protocol::H2, ELSEWHERE).await?);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// The same on every stream that a connection has, until all are answered.
async fn on_all_streams<B>(
    attacker: &Attacker,
    request: impl Fn(&Attacker) -> http::Result<Request<B>>,
) -> Result<(), Trouble>
where
    B: hyper::body::Body<Data: Send, Error: Into<Trouble>> + Send + Unpin + 'static,
{
    let sender = attacker.connect().await?;
    let mut asked = JoinSet::new();
    for _ in 0..128 {
        let (request, mut sender) = (request(attacker)?, sender.clone());
        asked.spawn(async move { sender.send_request(request).await?.into_body().collect().await });
    }
    while asked.join_next().await.is_some() {}
    Ok(())
}

/// So many bytes, and then no end.
struct Unfinished {
    left: usize,
}

impl hyper::body::Body for Unfinished {
    type Data = bytes::Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<bytes::Bytes>, Self::Error>>> {
        static PIECE: [u8; 16 << 10] = [b' '; 16 << 10];
        let piece = self.left.min(PIECE.len());
        if piece == 0 {
            return std::task::Poll::Pending;
        }
        self.left -= piece;
        std::task::Poll::Ready(Some(Ok(hyper::body::Frame::data(bytes::Bytes::from_static(&PIECE[..piece])))))
    }
}
