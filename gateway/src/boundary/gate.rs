//! One request's way through the boundary, from its head to its answer.
//! Who enters: a peer and an HTTP request whose head is complete.
//! What leaves: the response; on the way the request met limits, route, authentication, guard and body, in that order.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use audit::Clock;
use bytes::Bytes;
use http::{HeaderMap, Request};
use hyper::body::Incoming;
use tracing::Instrument;

use super::authenticate::{Peer, authenticate, real_address};
use super::body;
use super::drain::Register;
use super::rate::{Allowance, Quota, RateLimiter};
use super::respond::{HttpResponse, allow, respond};
use super::trace::{Followed, follow};
use super::tree::{Found, RouteTree};
use crate::api::route::Answering;
use crate::api::{Caller, Code, Directory, Effect, Exchange, Method, Origin, Problem, Reply, Route, Scope};
use crate::dice::Dice;
use crate::ids::WorkspaceId;
use crate::limits::{
    RATE_KEYS_MAX, REQUEST_WAIT_DEFAULT, REQUEST_WAIT_MAX, TARGET_BYTES_MAX, USER_AGENT_BYTES_MAX,
};
use crate::metrics::Metrics;
use crate::moment::Moment;

/// What the gate needs to know to let requests through.
pub struct GateParts {
    /// The routes of this listener.
    pub tree: RouteTree,
    /// Who is who.
    pub directory: Arc<dyn Directory>,
    /// Running handlers are counted here.
    pub register: Register,
    /// Where ids come from.
    pub dice: Dice,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Counters and clocks.
    pub metrics: Metrics,
    /// Requests a workspace may send.
    pub workspace_quota: Quota,
    /// Requests an address may send before anyone has said who they are.
    pub address_quota: Quota,
    /// Proxies whose `X-Forwarded-For` counts.
    pub trusted_proxies: Vec<IpAddr>,
}

/// The gate of one listener.
pub struct Gate {
    parts: GateParts,
    workspaces: RateLimiter<WorkspaceId>,
    addresses: RateLimiter<IpAddr>,
}

/// A request whose head has been read.
struct Arrived<'a> {
    peer: &'a Peer,
    ip: Option<IpAddr>,
    head: http::request::Parts,
    followed: &'a Followed,
    begun: Instant,
}

/// A client's own patience, in milliseconds.
const DEADLINE_HEADER: &str = "chancery-deadline-ms";

impl Gate {
    /// A gate with empty rate buckets.
    pub fn new(parts: GateParts) -> Self {
        let workspaces = RateLimiter::new(parts.workspace_quota, RATE_KEYS_MAX);
        let addresses = RateLimiter::new(parts.address_quota, RATE_KEYS_MAX);
        Self { parts, workspaces, addresses }
    }

    /// Answers one request.
    pub async fn answer(&self, peer: &Peer, request: Request<Incoming>) -> HttpResponse {
        let begun = Instant::now();
        let now = Moment::now(self.parts.clock.as_ref());
        let followed = follow(request.headers(), now, &self.parts.dice);
        let span = tracing::info_span!("request", request_id = %followed.request, trace_id = %followed.trace.trace_id());
        let (response, pattern) =
            self.answer_followed(peer, request, &followed, begun).instrument(span.clone()).await;
        let took = begun.elapsed();
        let status = response.status().as_u16();
        self.parts.metrics.answered(pattern, status, took);
        span.in_scope(|| log_answer(pattern, status, took));
        response
    }

    async fn answer_followed(
        &self,
        peer: &Peer,
        request: Request<Incoming>,
        followed: &Followed,
        begun: Instant,
    ) -> (HttpResponse, &'static str) {
        let (head, body) = request.into_parts();
        let arrived = Arrived { peer, ip: self.address(peer, &head.headers), head, followed, begun };
        // Before anything else: whoever asks for paths that are not there empties the same bucket.
        if let Err(problem) = self.limit_address(arrived.ip, begun) {
            return (respond(Err(problem), followed, None), "none");
        }
        let (route, params) = match self.parts.tree.find(&arrived.head.method, arrived.head.uri.path()) {
            Found::Route(route, params) => (route, params),
            Found::Nothing => return (respond(Err(no_such_path()), followed, None), "none"),
            Found::OtherMethods(methods) => return (refuse_method(&methods, followed), "none"),
        };
        let mut allowance = None;
        let outcome = self.carry_out(&arrived, body, route, params, &mut allowance).await;
        (respond(outcome, followed, allowance), route.pattern)
    }

    async fn carry_out(
        &self,
        arrived: &Arrived<'_>,
        body: Incoming,
        route: &Route,
        params: Vec<String>,
        allowance: &mut Option<Allowance>,
    ) -> Result<Reply, Problem> {
        let headers = &arrived.head.headers;
        limit_target(&arrived.head)?;
        let caller = authenticate(arrived.peer, headers, self.parts.directory.as_ref());
        *allowance = self.limit_workspace(caller.as_ref().ok(), arrived.begun)?;
        let passed = route.pass(caller.as_ref())?;
        let origin = arrived.origin(caller.as_ref().ok())?;
        let query = arrived.head.uri.query().unwrap_or_default().to_owned();
        let (deadline, wants_text, wait) = (origin.deadline, wants_text(headers), wait_preferred(headers));
        let bytes =
            if route.method == Method::Get { Bytes::new() } else { body::read(headers, body).await? };
        let parsing = Instant::now();
        let answering = passed(&bytes, Exchange { origin, params, query, wants_text, wait })?;
        self.parts.metrics.spent("parse", parsing.elapsed());
        self.run(route.effect, answering, deadline).await
    }

    /// What may change something runs to its end even if the client has gone; what only reads stops with it.
    /// A panic is this request's fault alone.
    async fn run(&self, effect: Effect, answering: Answering, deadline: Instant) -> Result<Reply, Problem> {
        let span = tracing::Span::current();
        let task = self.parts.register.handlers().spawn(answering.instrument(span));
        let abort = (effect == Effect::Reads).then(|| AbortOnDrop(task.abort_handle()));
        // The handler watches its own deadline; this one is for a handler that does not.
        let outcome = tokio::time::timeout_at((deadline + Duration::from_millis(250)).into(), task).await;
        drop(abort);
        match outcome {
            Ok(Ok(reply)) => reply,
            Ok(Err(panicked)) => Err(Problem::internal(&panicked)),
            Err(_) if effect == Effect::Reads => Err(too_late("ask again")),
            Err(_) => {
                Err(too_late("it is still being carried out; look at the ledger before sending it again"))
            }
        }
    }

    fn address(&self, peer: &Peer, headers: &HeaderMap) -> Option<IpAddr> {
        match peer {
            Peer::Local { .. } => None,
            Peer::Remote { address, .. } => {
                Some(real_address(address.ip(), headers, &self.parts.trusted_proxies))
            }
        }
    }

    fn limit_address(&self, ip: Option<IpAddr>, now: Instant) -> Result<(), Problem> {
        let Some(ip) = ip else { return Ok(()) };
        self.addresses.take(&bucket_of(ip), now).map(drop).map_err(rate_limited)
    }

    fn limit_workspace(&self, caller: Option<&Caller>, now: Instant) -> Result<Option<Allowance>, Problem> {
        let workspace = match caller {
            Some(Caller::Program(program)) => &program.client.workspace,
            Some(Caller::Client(client)) => &client.workspace,
            _ => return Ok(None),
        };
        self.workspaces.take(workspace, now).map(Some).map_err(rate_limited)
    }
}

/// What went well stands on the ledger or changed nothing; the log is for what did not.
fn log_answer(route: &str, status: u16, took: Duration) {
    let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    match status {
        ..400 => tracing::debug!(route, status, took_us, "answered"),
        _ => tracing::info!(route, status, took_us, "refused"),
    }
}

/// Stops a reading handler when its client has gone.
struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An IPv6 host commands a whole /64, so that is what shares a bucket.
fn bucket_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

impl Arrived<'_> {
    /// Where the request came from, as its handler and its entry will know it.
    fn origin(&self, caller: Option<&Caller>) -> Result<Origin, Problem> {
        let headers = &self.head.headers;
        let wait = patience(headers)?;
        let urgent = matches!(caller, Some(Caller::Program(program)) if program.scopes.include(Scope::Priority))
            && headers.get("priority").is_some_and(|value| is_urgent(value.as_bytes()));
        let user_agent = headers.get(http::header::USER_AGENT);
        let user_agent = user_agent.map(|value| printable(value.as_bytes())).unwrap_or_default();
        let request = self.followed.request.clone();
        Ok(Origin { request, ip: self.ip, user_agent, deadline: self.begun + wait, urgent })
    }
}

fn patience(headers: &HeaderMap) -> Result<Duration, Problem> {
    let Some(value) = headers.get(DEADLINE_HEADER) else { return Ok(REQUEST_WAIT_DEFAULT) };
    let millis = value.to_str().ok().and_then(|text| text.parse::<u64>().ok()).filter(|millis| *millis > 0);
    let millis = millis.ok_or_else(|| {
        Problem::new(Code::BadRequest, "Chancery-Deadline-Ms is a whole number of milliseconds above zero")
    })?;
    Ok(Duration::from_millis(millis).min(REQUEST_WAIT_MAX))
}

/// RFC 9218: urgency 0 to 2 is more urgent than the default of 3.
fn is_urgent(value: &[u8]) -> bool {
    value.windows(3).any(|part| matches!(part, b"u=0" | b"u=1" | b"u=2"))
}

fn printable(bytes: &[u8]) -> String {
    let kept = bytes.iter().take(USER_AGENT_BYTES_MAX);
    kept.map(|byte| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '?' }).collect()
}

fn wants_text(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|text| text.starts_with("text/plain"))
}

/// RFC 7240 section 4.3: a preference that cannot be read is no error, and is left aside.
fn wait_preferred(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all("prefer").into_iter().filter_map(|value| value.to_str().ok());
    let mut words = preferences.flat_map(|text| text.split(',')).map(str::trim);
    let seconds = words.find_map(|word| word.strip_prefix("wait=")?.parse::<u64>().ok())?;
    Some(Duration::from_secs(seconds).min(REQUEST_WAIT_MAX))
}

fn limit_target(head: &http::request::Parts) -> Result<(), Problem> {
    let length = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if length <= TARGET_BYTES_MAX {
        return Ok(());
    }
    Err(Problem::new(Code::TargetTooLong, format!("at most {TARGET_BYTES_MAX} bytes of path and query")))
}

fn rate_limited(wait: Duration) -> Problem {
    Problem::new(Code::RateLimited, "slow down, and ask again after the time in Retry-After").after(wait)
}

fn too_late(advice: &str) -> Problem {
    Problem::new(Code::DeadlinePassed, format!("no answer in time; {advice}"))
}

fn no_such_path() -> Problem {
    Problem::new(Code::NotFound, "the API is described at /v1/openapi.json")
}

fn refuse_method(methods: &[Method], followed: &Followed) -> HttpResponse {
    let problem = Problem::new(Code::MethodNotAllowed, "the Allow header names the methods of this path");
    allow(respond(Err(problem), followed, None), methods)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_of_one_ipv6_network_share_a_bucket() {
        let bucket = |text: &str| bucket_of(text.parse().unwrap());
        assert_eq!(bucket("2001:db8:1:2::1"), bucket("2001:db8:1:2:ffff::9"));
        assert_ne!(bucket("2001:db8:1:2::1"), bucket("2001:db8:1:3::1"));
    }

    #[test]
    fn a_user_agent_cannot_bring_control_characters_into_the_log() {
        assert_eq!(printable(b"curl/8\x1b[31m\n"), "curl/8?[31m?");
    }

    #[test]
    fn a_deadline_is_bounded_and_zero_is_refused() {
        let headers =
            |text: &str| HeaderMap::from_iter([(DEADLINE_HEADER.parse().unwrap(), text.parse().unwrap())]);
        assert_eq!(patience(&headers("99999999")).unwrap(), REQUEST_WAIT_MAX);
        for text in ["0", "-1", "1.5", "soon"] {
            assert!(patience(&headers(text)).is_err(), "{text}");
        }
    }
}
