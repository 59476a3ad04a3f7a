//! A load: many connections that ask for signatures as fast as they are answered, and keep a journal of their own.
//! Who enters: tests and benchmarks, with where, who, which key, how many and how long.
//! What leaves: a tally of every signature handed out, every refusal by code, and how long each answer took.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::task::{JoinHandle, JoinSet};

use crate::identity::Identity;
use crate::people::Member;
use crate::wire::{Answer, Ask, Connection, Door, Protocol, post};

/// When a load ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so long.
    Over(Duration),
    /// After so many requests.
    Sent(u64),
    /// When it is told to.
    Told,
}

/// A load to be put on an appliance.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where.
    pub door: Door,
    /// Shown in the handshake.
    pub identity: Identity,
    /// Shown with each request.
    pub secret: String,
    /// The key's id or name.
    pub key: String,
    /// The scheme.
    pub scheme: String,
    /// Connections, each with its own handshake.
    pub connections: usize,
    /// Requests under way at once on each connection; more than one needs h2.
    pub streams: usize,
    /// How to speak.
    pub protocol: Protocol,
    /// When to end.
    pub until: Until,
    /// How often a request is sent again that got no signature. Finding the door shut is not sending: the load waits for it.
    pub retries: u32,
    /// More headers.
    pub headers: Vec<(String, String)>,
}

/// A signature as it was handed out.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The request's id.
    pub request: String,
    /// What was signed, as the ledger names it.
    pub digest: String,
    /// The entry that authorised it.
    pub entry: u64,
    /// The key's use counter.
    pub use_number: u64,
}

/// What came of a load.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Every signature handed out.
    pub signed: Vec<Signed>,
    /// Refusals and broken connections, by code, retries included.
    pub refused: BTreeMap<String, u64>,
    /// Requests that got no signature, with all their retries.
    pub failed: u64,
    /// How long each signature took.
    pub latencies: Vec<Duration>,
    /// 503 answers that did not say when to come back.
    pub without_retry_after: u64,
    /// How long all of it took.
    pub took: Duration,
}

/// A load under way.
pub struct Running {
    state: Arc<Progress>,
    task: JoinHandle<Tally>,
}

#[derive(Default)]
struct Progress {
    stop: AtomicBool,
    sent: AtomicU64,
    signed: AtomicU64,
}

/// How long the load waits for a door that is shut.
const DOOR_SHUT_MAX: Duration = Duration::from_secs(15);
/// Before a request is sent again; a client in a hurry, but not a spinning one.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

impl Load {
    /// A member's load on one of its keys, until it is told to end.
    pub fn of(member: &Member, door: &Door, key: &str) -> Self {
        Self {
            door: door.clone(),
            identity: member.identity.clone(),
            secret: member.secret.clone(),
            key: key.to_owned(),
            scheme: "ecdsa-sha256".to_owned(),
            connections: 4,
            streams: 1,
            protocol: Protocol::H1,
            until: Until::Told,
            retries: 0,
            headers: Vec::new(),
        }
    }

    /// Starts it.
    pub fn start(self) -> Running {
        let state = Arc::new(Progress::default());
        let task = tokio::spawn(self.run(Arc::clone(&state)));
        Running { state, task }
    }

    /// Runs it to its end.
    pub async fn finish(self) -> Tally {
        self.start().finish().await
    }

    async fn run(self, state: Arc<Progress>) -> Tally {
        let begun = Instant::now();
        let load = Arc::new(self);
        let mut lanes = JoinSet::new();
        for _ in 0..load.connections {
            let wire =
                Wire { load: Arc::clone(&load), state: Arc::clone(&state), connection: Arc::default() };
            for _ in 0..load.streams {
                lanes.spawn(lane(Arc::clone(&load), wire.clone(), Arc::clone(&state), begun));
            }
        }
        let mut tally = Tally::default();
        while let Some(lane) = lanes.join_next().await {
            tally.add(lane.expect("a lane of the load"));
        }
        tally.took = begun.elapsed();
        tally
    }

    fn is_over(&self, state: &Progress, begun: Instant) -> bool {
        let sent = state.sent.fetch_add(1, Ordering::Relaxed);
        state.is_told()
            || match self.until {
                Until::Over(length) => begun.elapsed() >= length,
                Until::Sent(count) => sent >= count,
                Until::Told => false,
            }
    }

    /// A question that nobody asked before, and what the ledger will call its content.
    fn order(&self, number: u64) -> (Ask, String) {
        let message = format!("{} {number} {:?}", self.key, Instant::now());
        let digest = match self.scheme.rsplit('-').next() {
            Some("sha384") => Sha384::digest(&message).to_vec(),
            Some("sha512") => Sha512::digest(&message).to_vec(),
            _ => Sha256::digest(&message).to_vec(),
        };
        let body = match self.scheme.as_str() {
            "ed25519" => json!({ "scheme": self.scheme, "message": STANDARD.encode(&message) }),
            _ => json!({ "scheme": self.scheme, "digest": STANDARD.encode(&digest) }),
        };
        let ask = post(format!("/v1/keys/{}/sign", self.key), body);
        let ask = self.headers.iter().fold(ask, |ask, (name, value)| ask.header(name, value));
        (ask, hex::encode(digest))
    }
}

impl Progress {
    fn is_told(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

impl Running {
    /// Waits for its end, or tells it to end as soon as something else has happened.
    pub async fn finish_or(self, event: impl Future) -> Tally {
        let Self { state, mut task } = self;
        tokio::select! {
            tally = &mut task => return tally.expect("the load"),
            _ = event => state.stop.store(true, Ordering::Relaxed),
        }
        task.await.expect("the load")
    }

    /// Signatures handed out so far.
    pub fn signed(&self) -> u64 {
        self.state.signed.load(Ordering::Relaxed)
    }

    /// Tells it to end, and gives the tally.
    pub async fn stop(self) -> Tally {
        self.state.stop.store(true, Ordering::Relaxed);
        self.finish().await
    }

    /// Waits for its end.
    pub async fn finish(self) -> Tally {
        self.task.await.expect("the load")
    }
}

impl Tally {
    /// Signatures per second.
    pub fn rate(&self) -> f64 {
        self.signed.len() as f64 / self.took.as_secs_f64().max(f64::EPSILON)
    }

    /// The latency that so many per cent of the signatures kept.
    pub fn percentile(&self, per_cent: f64) -> Duration {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        let at = (sorted.len() as f64 * per_cent / 100.0).ceil() as usize;
        sorted.get(at.saturating_sub(1)).copied().unwrap_or_default()
    }

    fn add(&mut self, other: Self) {
        self.signed.extend(other.signed);
        self.latencies.extend(other.latencies);
        self.failed += other.failed;
        self.without_retry_after += other.without_retry_after;
        for (code, count) in other.refused {
            *self.refused.entry(code).or_default() += count;
        }
    }

    fn refuse(&mut self, code: &str) {
        *self.refused.entry(code.to_owned()).or_default() += 1;
    }
}

/// A connection that is opened again when it broke, shared by its streams.
#[derive(Clone)]
struct Wire {
    load: Arc<Load>,
    state: Arc<Progress>,
    connection: Arc<tokio::sync::Mutex<Option<Connection>>>,
}

impl Wire {
    /// A daemon that is being started again answers soon; nobody has been asked anything until then.
    async fn connect(&self) -> std::io::Result<Connection> {
        let Load { door, identity, secret, protocol, .. } = &*self.load;
        let begun = Instant::now();
        loop {
            match door.connect(identity, Some(secret), *protocol).await {
                Err(_) if begun.elapsed() < DOOR_SHUT_MAX && !self.state.is_told() => {
                    tokio::time::sleep(Duration::from_millis(20)).await
                }
                other => return other,
            }
        }
    }

    async fn send(&self, ask: Ask) -> std::io::Result<Answer> {
        let connection = {
            let mut held = self.connection.lock().await;
            match held.as_ref() {
                Some(connection) => connection.clone(),
                None => held.insert(self.connect().await?).clone(),
            }
        };
        let answer = connection.send(ask).await;
        if answer.is_err() {
            *self.connection.lock().await = None;
        }
        answer
    }
}

async fn lane(load: Arc<Load>, wire: Wire, state: Arc<Progress>, begun: Instant) -> Tally {
    let mut tally = Tally::default();
    while !load.is_over(&state, begun) {
        let (ask, digest) = load.order(state.sent.load(Ordering::Relaxed));
        let started = Instant::now();
        let mut answered = one(&wire, ask.clone(), &digest, &mut tally).await;
        for _ in 0..load.retries {
            if answered.is_some() {
                break;
            }
            tokio::time::sleep(RETRY_PAUSE).await;
            answered = one(&wire, ask.clone(), &digest, &mut tally).await;
        }
        match answered {
            Some(signed) => {
                tally.latencies.push(started.elapsed());
                tally.signed.push(signed);
                state.signed.fetch_add(1, Ordering::Relaxed);
            }
            None => {
                tally.failed += 1;
                // Whoever was turned away comes back later; without this a refused load is a spinning one.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    tally
}

async fn one(wire: &Wire, ask: Ask, digest: &str, tally: &mut Tally) -> Option<Signed> {
    let answer = match wire.send(ask).await {
        Ok(answer) => answer,
        Err(why) => {
            tally.refuse(if why.kind() == std::io::ErrorKind::TimedOut { "no_answer" } else { "broken" });
            return None;
        }
    };
    if answer.status != 200 {
        tally.refuse(&answer.code());
        tally.without_retry_after +=
            u64::from(answer.status == 503 && answer.header("retry-after").is_none());
        return None;
    }
    let (body, request) = (answer.json(), answer.request_id());
    let (entry, use_number) = (body["entry"].as_u64()?, body["use"].as_u64()?);
    Some(Signed { request, digest: digest.to_owned(), entry, use_number })
}
