//! One request's way through the boundary, from its head to its answer.
//! Who enters: a peer and an HTTP request whose head is complete.
//! What leaves: the response; on the way the request met limits, a plain path, its service, authentication and guard.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use audit::Clock;
use http::{HeaderMap, Request};
use hyper::body::Incoming;
use tracing::Instrument;

use super::authenticate::{Peer, real_address};
use super::bodies::Bodies;
use super::drain::Register;
use super::framing::TwoLengths;
use super::rate::{Allowance, Quota, RateLimiter};
use super::respond::{HttpResponse, respond};
use super::semantics;
use super::trace::{Followed, follow};
use super::turns::{Line, Turns};
use crate::again::Again;
use crate::api::exchange::Meter;
use crate::api::{Caller, ClientStanding, Code, Directory, Problem, Reply};
use crate::compartments::Owner;
use crate::dice::Dice;
use crate::ids::WorkspaceId;
use crate::limits::{BODIES_BYTES_MAX, JITTER_PARTS, RATE_KEYS_MAX, TARGET_BYTES_MAX};
use crate::metrics::Metrics;
use crate::moment::Moment;
use crate::paths::PlainPath;
use crate::routing::{Router, Target};
use crate::traces::Traces;
use crate::unsent::{Answers, Counter};

/// What the gate needs to know to let requests through.
pub struct GateParts {
    /// The services and their routes.
    pub router: Arc<Router>,
    /// Requests that are sent twice.
    pub again: Again,
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
    /// Where journeys are kept.
    pub traces: Traces,
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
    workspaces: Arc<RateLimiter<WorkspaceId>>,
    addresses: RateLimiter<IpAddr>,
    bodies: Bodies,
    answers: Answers,
    turns: Turns,
}

/// A request whose head has been read.
pub(super) struct Arrived<'a> {
    pub(super) peer: &'a Peer,
    pub(super) ip: Option<IpAddr>,
    pub(super) head: http::request::Parts,
    pub(super) followed: &'a Followed,
    /// Where the bytes of the answer are counted.
    pub(super) unsent: &'a Counter,
    pub(super) begun: Instant,
}

/// How figures name a route: its pattern, or an upstream's prefix.
pub(super) type Label = Cow<'static, str>;

impl Gate {
    /// A gate with empty rate buckets.
    pub fn new(parts: GateParts) -> Self {
        let workspaces = Arc::new(RateLimiter::new(parts.workspace_quota, RATE_KEYS_MAX));
        let addresses = RateLimiter::new(parts.address_quota, RATE_KEYS_MAX);
        Self {
            parts,
            workspaces,
            addresses,
            bodies: Bodies::new(BODIES_BYTES_MAX),
            answers: Answers::default(),
            turns: Turns::default(),
        }
    }

    /// Answers one request.
    pub async fn answer(&self, peer: &Peer, request: Request<Incoming>, unsent: &Counter) -> HttpResponse {
        let begun = Instant::now();
        let now = Moment::now(self.parts.clock.as_ref());
        let followed = follow(request.headers(), peer.trust(), now, &self.parts.dice, &self.parts.traces);
        let span = tracing::info_span!("request", request_id = %followed.request, trace_id = %followed.trace.trace_id());
        let method = request.method().clone();
        // In a box, because whoever waits for people or events is kept with all the layers round this.
        let work = Box::pin(self.answer_followed(peer, request, (&followed, unsent), begun));
        let (response, label) = followed.trail.follow(work).instrument(span.clone()).await;
        let took = begun.elapsed();
        let status = response.status().as_u16();
        followed.trail.answered(format!("{method} {label}"), status.to_string());
        span.in_scope(|| log_answer(&label, status, took));
        self.parts.metrics.answered(label, status, took);
        response
    }

    async fn answer_followed(
        &self,
        peer: &Peer,
        request: Request<Incoming>,
        (followed, unsent): (&Followed, &Counter),
        begun: Instant,
    ) -> (HttpResponse, Label) {
        let (head, body) = request.into_parts();
        let arrived = Arrived { peer, ip: self.address(peer, &head.headers), head, followed, unsent, begun };
        let refuse = |problem| (respond(Err(problem), &arrived, None), Label::from("none"));
        // Before anything else: whoever asks for paths that are not there empties the same bucket.
        if let Err(problem) = self.limit_address(arrived.ip, begun) {
            return refuse(problem);
        }
        if let Err(problem) = semantics::one_host(&arrived.head) {
            return refuse(problem);
        }
        if semantics::asks_of_the_server(&arrived.head) {
            return (
                semantics::options(respond(Ok(Reply::empty()), &arrived, None), &[]),
                Label::from("none"),
            );
        }
        let path = match one_reading(&arrived.head) {
            Ok(path) => path,
            Err(problem) => return refuse(problem),
        };
        match self.parts.router.find(path.as_str()) {
            None => refuse(no_such_path()),
            Some(Target::Room(room)) => self.serve_inside(&arrived, body, &room, path.as_str()).await,
            Some(Target::Upstream(upstream)) => {
                self.forward_outside(&arrived, body, &upstream, path.as_str()).await
            }
        }
    }

    pub(super) fn directory(&self) -> &dyn Directory {
        self.parts.directory.as_ref()
    }

    /// Who is who, for handshakes.
    pub fn directory_handle(&self) -> Arc<dyn Directory> {
        Arc::clone(&self.parts.directory)
    }

    pub(super) fn again(&self) -> &Again {
        &self.parts.again
    }

    pub(super) fn register(&self) -> &Register {
        &self.parts.register
    }

    /// Where the answers of a new connection are counted.
    pub fn answers(&self) -> &Answers {
        &self.answers
    }

    /// Where the requests of a peer stand in line.
    pub(super) fn line(&self, peer: &Peer) -> Line {
        let owner = match peer {
            Peer::Local { .. } => None,
            Peer::Remote { certificate, .. } => match self.parts.directory.client(certificate) {
                ClientStanding::Enrolled(client) => Some(client.workspace),
                ClientStanding::Expired | ClientStanding::Revoked | ClientStanding::Unknown => None,
            },
        };
        self.turns.line(&owner)
    }

    pub(super) fn bodies(&self) -> &Bodies {
        &self.bodies
    }

    /// A little less by chance, so that what began together does not end together.
    pub(super) fn jittered(&self, duration: Duration) -> Duration {
        let chance = u32::from(u16::from_le_bytes(self.parts.dice.throw()));
        duration - duration / JITTER_PARTS * chance / u32::from(u16::MAX)
    }

    pub(super) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.parts.clock)
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.parts.metrics
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

    pub(super) fn limit_workspace(
        &self,
        caller: Option<&Caller>,
        now: Instant,
    ) -> Result<Option<Allowance>, Problem> {
        let Some(workspace) = owner_of(caller) else { return Ok(None) };
        self.workspaces.take(&workspace, now).map(Some).map_err(rate_limited)
    }
}

impl Gate {
    /// Counts what a request of this workspace asks for beyond being one.
    pub(super) fn meter(&self, owner: &Owner) -> Meter {
        let (limiter, owner) = (Arc::clone(&self.workspaces), owner.clone());
        Meter::new(move |requests| match &owner {
            Some(workspace) => {
                limiter.take_many(workspace, Instant::now(), requests).map(drop).map_err(rate_limited)
            }
            None => Ok(()),
        })
    }
}

/// The workspace at whose expense a request is carried out; nobody's for operators.
pub(super) fn owner_of(caller: Option<&Caller>) -> Owner {
    match caller {
        Some(Caller::Program(program)) => Some(program.client.workspace.clone()),
        Some(Caller::Client(client)) => Some(client.workspace.clone()),
        _ => None,
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

/// An IPv6 host commands a whole /64, so that is what shares a bucket.
pub(super) fn bucket_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(six) => {
            let [a, b, c, d, ..] = six.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// The path as everybody behind us will read it. What could be read in two ways is refused: two lengths on one message, a
/// coding of the transfer that the next hop would not be told of, a path with two readings.
fn one_reading(head: &http::request::Parts) -> Result<PlainPath<'_>, Problem> {
    if head.extensions.get::<TwoLengths>().is_some() {
        return Err(Problem::new(
            Code::BadRequest,
            "the request has two lengths; send Content-Length or Transfer-Encoding, not both",
        ));
    }
    let mut codings = head.headers.get_all(http::header::TRANSFER_ENCODING).iter();
    if codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err(Problem::new(
            Code::BadRequest,
            "send the body with Transfer-Encoding: chunked and no other coding",
        ));
    }
    PlainPath::of(head.uri.path()).map_err(|why| Problem::new(Code::BadRequest, why.to_string()))
}

pub(super) fn limit_target(head: &http::request::Parts) -> Result<(), Problem> {
    let length = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    if length <= TARGET_BYTES_MAX {
        return Ok(());
    }
    Err(Problem::new(Code::TargetTooLong, format!("at most {TARGET_BYTES_MAX} bytes of path and query")))
}

fn rate_limited(wait: Duration) -> Problem {
    Problem::new(Code::RateLimited, "slow down, and ask again after the time in Retry-After").after(wait)
}

pub(super) fn no_such_path() -> Problem {
    Problem::new(Code::NotFound, "the API is described at /v1/openapi.json")
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
}
