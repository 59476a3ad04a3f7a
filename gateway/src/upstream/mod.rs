//! Upstreams: services behind the network, reached through the gateway as if they were rooms of the house.
//! Who enters: requests whose caller has proven that it may use this upstream, with a plain path.
//! What leaves: the upstream's answer without its hop's words; or a refusal that says whether anything may have happened.

pub mod answered;
mod attempt;
mod budget;
mod connector;
mod headers;
mod refusal;
mod rota;
mod sent;
pub mod settings;
mod share;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use self::answered::AnsweredBody;
use self::attempt::{Attempted, Failed, Order};
use self::connector::Connector;
pub use self::refusal::NotForwarded;
use self::sent::{Flow, Load, Sent, Untaken};
use self::settings::{Protocol, UpstreamConfig};
use self::share::{Share, Shares};
use crate::api::{Entrant, Origin, ToUpstream};
use crate::compartments::{Compartment, Compartments, Kind, Pass, Verdict};
use crate::dial::{Dialer, TrustRefused};
use crate::dice::Dice;
use crate::limits::{
    ATTEMPTS_MAX, BODY_WAIT_MAX, CONNECT_WAIT_MAX, HEADER_BYTES_MAX, HEADER_FIELDS_MAX, STREAM_WINDOW_BYTES,
    UPSTREAM_IDLE_MAX, UPSTREAM_PING_WAIT,
};
use crate::unsent::Counter;

/// One upstream, ready to be forwarded to.
pub struct Upstream {
    config: UpstreamConfig,
    compartment: Arc<Compartment>,
    shares: Shares,
    retries: AtomicU64,
    began: Instant,
}

/// What is forwarded.
pub struct Passage<'a> {
    /// The method.
    pub method: Method,
    /// The path, plain.
    pub path: &'a str,
    /// The query as it came.
    pub query: Option<&'a str>,
    /// The headers as they came.
    pub headers: &'a HeaderMap,
    /// Where the bytes of the answer are counted.
    pub unsent: &'a Counter,
    /// Where the request came from, and when its answer must be out.
    pub origin: &'a Origin,
    /// Our `tracestate` for the next hop, once its span is known.
    pub trace_state: &'a (dyn Fn([u8; 8]) -> String + Send + Sync),
}

/// Methods that are forwarded. CONNECT and TRACE turn a proxy against its own network.
pub const METHODS: [&str; 7] = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

impl Upstream {
    /// Makes an upstream ready. Nothing is dialled before the first request.
    ///
    /// # Errors
    /// Its certificates cannot be used.
    pub fn new(config: UpstreamConfig, all: &Compartments, dice: &Dice) -> Result<Arc<Self>, TrustRefused> {
        let (h2, alpn): (_, &[u8]) = match config.protocol {
            Protocol::Http1 => (false, b"http/1.1"),
            Protocol::H2 => (true, b"h2"),
        };
        let dialer = match config.endpoints.iter().any(|place| place.secure) {
            true => Dialer::secure(&config.trust_files(), alpn, CONNECT_WAIT_MAX)?,
            false => Dialer::plain(CONNECT_WAIT_MAX),
        };
        let compartment = all.keep_or_make(config.name.as_str(), Kind::Upstream, config.bounds(), dice);
        let (in_flight_max, endpoints) = (config.in_flight_max, config.endpoints.len());
        let make =
            move || Share::new(client(Connector::new(dialer.clone(), h2), h2, in_flight_max), endpoints);
        Ok(Arc::new(Self {
            compartment,
            shares: Shares::new(make),
            retries: AtomicU64::new(0),
            began: Instant::now(),
            config,
        }))
    }

    /// Its configuration.
    pub fn config(&self) -> &UpstreamConfig {
        &self.config
    }

    /// The guard before it.
    pub fn guard(&self) -> ToUpstream {
        ToUpstream::new(self.config.name)
    }

    /// Its compartment.
    pub fn compartment(&self) -> &Arc<Compartment> {
        &self.compartment
    }

    /// Endpoints that are left out at the moment, and requests repeated since it was made ready.
    pub fn figures(&self) -> (usize, u64) {
        (self.shares.endpoints_out(self.began.elapsed()), self.retries.load(Ordering::Relaxed))
    }

    /// Forwards a request, for a caller who has proven that it may. With a guard's evidence:
    /// ```
    /// use gateway::api::Entrant;
    /// use gateway::upstream::{Passage, Upstream};
    /// async fn forward(up: &Upstream, by: &Entrant, passage: Passage<'_>, body: hyper::body::Incoming) {
    ///     let _ = up.forward(by, passage, body).await;
    /// }
    /// ```
    /// With the mere word of the caller there is nothing to call this with:
    /// ```compile_fail
    /// use gateway::api::Caller;
    /// use gateway::upstream::{Passage, Upstream};
    /// async fn forward(up: &Upstream, by: &Caller, passage: Passage<'_>, body: hyper::body::Incoming) {
    ///     let _ = up.forward(by, passage, body).await;
    /// }
    /// ```
    ///
    /// # Errors
    /// There is no answer to hand on; the refusal says whether anything may have happened.
    pub async fn forward(
        &self,
        entrant: &Entrant,
        passage: Passage<'_>,
        body: Incoming,
    ) -> Result<Response<AnsweredBody>, NotForwarded> {
        if entrant.upstream() != self.config.name {
            return Err(NotForwarded::Misled);
        }
        let owner = Some(entrant.workspace().clone());
        let mut pass = self.compartment.enter(&owner, passage.origin.deadline).await?;
        let share = self.shares.of(entrant.workspace());
        let order = self.order(entrant, passage, &pass, body).await?;
        share.budget().earn();
        match self.attempts(&order, &share).await {
            Ok(Attempted { status, headers, body }) => {
                let verdict = verdict_on(status);
                if matches!(verdict, Verdict::Failure | Verdict::Throttled) {
                    pass.verdict(verdict);
                }
                let mut response =
                    Response::new(body.hand_on(pass, verdict, order.until(), order.passage.unsent));
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                Ok(response)
            }
            Err(failed) => {
                pass.verdict(failed.verdict(&order));
                Err(failed.refusal(&order))
            }
        }
    }

    /// What is the same in every attempt.
    async fn order<'a>(
        &self,
        entrant: &'a Entrant,
        passage: Passage<'a>,
        pass: &Pass,
        body: Incoming,
    ) -> Result<Order<'a>, NotForwarded> {
        let wait = pass.probe_wait().unwrap_or(Duration::MAX / 4).min(self.config.wait());
        let body_until = (Instant::now() + BODY_WAIT_MAX).min(passage.origin.deadline);
        let repeatable = !pass.is_trial() && self.is_repeatable(&passage);
        let taken = tokio::time::timeout_at(
            body_until.into(),
            Load::take(body, self.config.body_bytes_max, repeatable),
        );
        let load = match taken.await {
            Ok(Ok(load)) => load,
            Ok(Err(Untaken::TooLong)) => {
                return Err(NotForwarded::TooLong { bytes_max: self.config.body_bytes_max });
            }
            Ok(Err(Untaken::CallerLeft)) => return Err(NotForwarded::BodyBroken),
            Err(_) => return Err(NotForwarded::BodyStalled),
        };
        let bytes_max = self.config.body_bytes_max;
        let headers = headers::of_request(passage.headers, &self.config.headers);
        let is_trial = pass.is_trial();
        Ok(Order { entrant, passage, headers, load, body_until, wait, repeatable, is_trial, bytes_max })
    }

    /// One attempt after the other, each elsewhere if there is an elsewhere, until one is good or no other is allowed.
    async fn attempts(&self, order: &Order<'_>, share: &Share) -> Result<Attempted, Failed> {
        let mut tried = Vec::new();
        loop {
            let at = share.rota().pick(self.began.elapsed(), &tried);
            tried.push(at);
            let outcome = self.attempt(order, share, &self.config.endpoints[at]).await;
            if let Some(good) = speaks_of_the_endpoint(&outcome, order) {
                share.rota().report(self.began.elapsed(), at, good);
            }
            if !self.may_repeat(&outcome, order, share, tried.len()) {
                return outcome;
            }
            self.retries.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What was never sent may always be sent elsewhere; what was sent only if it does no harm twice, within the budget.
    /// A service that is being tried out is tried once.
    fn may_repeat(
        &self,
        outcome: &Result<Attempted, Failed>,
        order: &Order<'_>,
        share: &Share,
        attempts: usize,
    ) -> bool {
        let more = attempts < ATTEMPTS_MAX as usize && !order.is_trial && Instant::now() < order.until();
        match outcome {
            Err(Failed::Unsent(_)) => {
                more && order.load.is_here() && attempts < self.config.endpoints.len().max(2)
            }
            Err(Failed::Broken(_)) => {
                more && order.repeatable && order.load.is_here() && share.budget().spend()
            }
            Ok(attempted) if is_passing_trouble(attempted.status) => {
                more && order.repeatable && order.load.is_here() && share.budget().spend()
            }
            Ok(_) | Err(Failed::Late) => false,
        }
    }

    /// Reading twice does no harm; writing twice only where the upstream knows the second for the first.
    fn is_repeatable(&self, passage: &Passage<'_>) -> bool {
        matches!(passage.method, Method::GET | Method::HEAD)
            || (self.config.idempotent && passage.headers.contains_key("idempotency-key"))
    }
}

fn client(connector: Connector, h2: bool, in_flight_max: usize) -> Client<Connector, Sent> {
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(UPSTREAM_IDLE_MAX)
        .pool_max_idle_per_host(in_flight_max)
        .http1_max_buf_size(HEADER_BYTES_MAX)
        .http1_max_headers(HEADER_FIELDS_MAX)
        .http2_only(h2)
        .http2_max_header_list_size(HEADER_BYTES_MAX as u32)
        .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(STREAM_WINDOW_BYTES)
        .http2_keep_alive_interval(UPSTREAM_PING_WAIT)
        .http2_keep_alive_timeout(UPSTREAM_PING_WAIT)
        // A pooled connection that closed before it took anything is replaced; nothing was sent on it.
        .retry_canceled_requests(true)
        .build(connector)
}

/// What a status says of the upstream. A refusal that a caller earned says nothing.
fn verdict_on(status: StatusCode) -> Verdict {
    match status.as_u16() {
        500 | 502..=504 => Verdict::Failure,
        429 => Verdict::Throttled,
        400..=499 => Verdict::Neutral,
        _ => Verdict::Success,
    }
}

fn is_passing_trouble(status: StatusCode) -> bool {
    matches!(status.as_u16(), 502..=504)
}

/// Good, bad, or nothing: our own limits and impatient callers say nothing of an endpoint.
fn speaks_of_the_endpoint(outcome: &Result<Attempted, Failed>, order: &Order<'_>) -> Option<bool> {
    let verdict = match outcome {
        Ok(attempted) => verdict_on(attempted.status),
        Err(failed) => failed.verdict(order),
    };
    match verdict {
        Verdict::Success => Some(true),
        Verdict::Failure => Some(false),
        Verdict::Throttled | Verdict::Neutral => None,
    }
}

impl Failed {
    fn verdict(&self, order: &Order<'_>) -> Verdict {
        match (self, order.load.flow()) {
            (_, Flow::CallerLeft | Flow::TooLong) => Verdict::Neutral,
            // The caller did not end its body in time, or gave it less time than it may have.
            (Self::Late, _) if !order.had_its_time() => Verdict::Neutral,
            _ => Verdict::Failure,
        }
    }

    fn refusal(self, order: &Order<'_>) -> NotForwarded {
        match (self, order.load.flow()) {
            (_, Flow::TooLong) => NotForwarded::TooLong { bytes_max: order.bytes_max },
            (_, Flow::CallerLeft) => NotForwarded::BodyBroken,
            (Self::Late, flow) if flow != Flow::Ended => NotForwarded::BodyStalled,
            (Self::Late, _) => NotForwarded::Late,
            (Self::Unsent(why), _) => NotForwarded::Unreachable(why),
            (Self::Broken(why), _) => NotForwarded::Broken(why),
        }
    }
}
