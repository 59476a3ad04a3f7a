//! One attempt at an upstream's endpoint: a request written for it, one answer or one way to fail.
//! Who enters: an order, the same for each attempt, and the endpoint whose turn it is.
//! What leaves: status, headers and body; or how far it came, which decides whether it may be repeated.

use std::time::{Duration, Instant};

use http::{HeaderMap, Method, Request, StatusCode, Uri};

use super::answered::{self, Taken};
use super::headers::{self, Said};
use super::sent::{Load, Sent};
use super::share::Share;
use super::{Passage, Upstream};
use crate::api::Entrant;
use crate::dial::Place;
use crate::traces::{self, trail::Open};

/// What is the same in every attempt.
pub(super) struct Order<'a> {
    pub(super) entrant: &'a Entrant,
    pub(super) passage: Passage<'a>,
    pub(super) headers: HeaderMap,
    pub(super) load: Load,
    /// When the caller must have sent its body.
    pub(super) body_until: Instant,
    /// The upstream's own time, from the end of the body to the last byte of the answer.
    pub(super) wait: Duration,
    pub(super) repeatable: bool,
    pub(super) is_trial: bool,
    pub(super) bytes_max: u64,
}

impl Order<'_> {
    /// When the last byte of the answer must be here, as far as that is known.
    pub(super) fn until(&self) -> Instant {
        match self.load.ended() {
            Some(ended) => (ended + self.wait).min(self.passage.origin.deadline),
            None => self.body_until,
        }
    }

    /// The upstream had all of its time, and it was the upstream's to use.
    pub(super) fn had_its_time(&self) -> bool {
        self.load.ended().is_some_and(|ended| ended + self.wait <= Instant::now())
    }

    /// Comes when the time is over: first the caller's for its body, then the upstream's for its answer.
    async fn over(&self) {
        loop {
            let until = self.until();
            tokio::select! {
                () = tokio::time::sleep_until(until.into()) => {}
                () = self.load.comes_to_its_end() => {}
            }
            if Instant::now() >= self.until() {
                return;
            }
        }
    }
}

/// An answer's beginning, and as much of its body as was taken in.
pub(super) struct Attempted {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Taken,
}

/// How far a failed attempt came.
#[derive(Debug)]
pub(super) enum Failed {
    /// Nothing was sent.
    Unsent(String),
    /// Something was sent, and no whole answer came.
    Broken(String),
    /// The time is over.
    Late,
}

impl Upstream {
    /// Makes one attempt, and tells of it in the trace.
    pub(super) async fn attempt(
        &self,
        order: &Order<'_>,
        share: &Share,
        place: &Place,
    ) -> Result<Attempted, Failed> {
        let mut span = traces::here().map(|here| here.open(format!("upstream {}", self.config.name)));
        let request = self.request(order, place, span.as_ref())?;
        let outcome = tokio::select! {
            outcome = self.exchange(share, request) => outcome,
            () = order.over() => Err(Failed::Late),
        };
        if let Some(span) = &mut span {
            span.end(Some(match &outcome {
                Ok(attempted) => attempted.status.as_str().to_owned(),
                Err(Failed::Unsent(_)) => "not sent".to_owned(),
                Err(Failed::Broken(_)) => "broken".to_owned(),
                Err(Failed::Late) => "late".to_owned(),
            }));
        }
        outcome
    }

    async fn exchange(&self, share: &Share, request: Request<Sent>) -> Result<Attempted, Failed> {
        let to_head = request.method() == Method::HEAD;
        let answer = share.client.request(request).await.map_err(|why| match why.is_connect() {
            true => Failed::Unsent(chain(&why)),
            false => Failed::Broken(chain(&why)),
        })?;
        let (head, body) = answer.into_parts();
        if head.status.is_informational() {
            return Err(Failed::Broken("it wants to change the protocol".to_owned()));
        }
        let taken = answered::take(body, self.config.answer_bytes_max).await;
        let body = taken.map_err(|why| Failed::Broken(why.to_string()))?;
        Ok(Attempted { status: head.status, headers: headers::of_answer(&head.headers, to_head), body })
    }

    fn request(
        &self,
        order: &Order<'_>,
        place: &Place,
        span: Option<&Open>,
    ) -> Result<Request<Sent>, Failed> {
        let Order { passage, .. } = order;
        let mut headers = order.headers.clone();
        let trace = span.map(|span| {
            let context = span.context();
            (context.to_string(), (passage.trace_state)(context.span()))
        });
        let left = order.until().saturating_duration_since(Instant::now());
        headers::say(&mut headers, &Said { entrant: order.entrant, origin: passage.origin, trace, left });
        // The path that was matched is the path that is sent.
        let target = match passage.query {
            Some(query) => format!("{place}{}?{query}", passage.path),
            None => format!("{place}{}", passage.path),
        };
        let uri: Uri = target.parse().map_err(|why| Failed::Unsent(format!("no address: {why}")))?;
        let mut request = Request::new(order.load.send());
        *request.method_mut() = passage.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// An error with its causes, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
