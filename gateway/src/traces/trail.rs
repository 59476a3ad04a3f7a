//! The trail of one request, or of one step of the workflow that it started: its spans, opened and closed as the work goes
//! through the house.
//! Who enters: the gate or a step, which begins it; whoever does a part of the work and names it.
//! What leaves: a journey, complete when the last of its work is over, whoever hung up in between.

use std::borrow::Cow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::futures::TaskLocalFuture;

use super::context::{SpanId, TraceContext};
use super::kept::Traces;
use crate::ids::RequestId;
use crate::limits::SPANS_MAX;
use crate::moment::Moment;

/// A part of the work that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its name within the trace.
    pub id: SpanId,
    /// The span it is a part of; for the first, the caller's.
    pub parent: Option<SpanId>,
    /// What was done.
    pub name: Cow<'static, str>,
    /// When it began, counted from the request's beginning.
    pub began: Duration,
    /// How long it took.
    pub took: Duration,
    /// How it ended, where that is worth a word.
    pub note: Option<String>,
}

/// One request's way through the house.
#[derive(Clone, Debug)]
pub struct Journey {
    /// The request.
    pub request: RequestId,
    /// Its place in the trace: the span is our first one.
    pub context: TraceContext,
    /// A trace that the caller named and we did not continue.
    pub link: Option<TraceContext>,
    /// When it began.
    pub began: Moment,
    /// Its spans, in the order in which they ended.
    pub spans: Vec<Span>,
}

/// How a request's trail begins.
pub struct Beginning {
    /// The request.
    pub request: RequestId,
    /// Our place in the trace.
    pub context: TraceContext,
    /// The caller's span, if its trace goes on here.
    pub parent: Option<SpanId>,
    /// A trace that the caller named and we did not continue.
    pub link: Option<TraceContext>,
    /// The time.
    pub at: Moment,
}

/// The trail under way. When its last holder lets go, the journey is kept.
pub struct Trail {
    beginning: Beginning,
    begun: Instant,
    spans: Mutex<Vec<Span>>,
    next: AtomicU64,
    traces: Traces,
}

/// Where the work is: in which trail, below which span.
#[derive(Clone)]
pub struct Here {
    trail: Arc<Trail>,
    span: SpanId,
}

tokio::task_local! {
    // The place goes with the task, as the log's span does: it is told to nobody and decides nothing.
    static HERE: Here;
}

/// An odd number far from any other: spans of one request step by it, so that a span costs no randomness.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// How a span ended whose work was dropped.
const ABANDONED: &str = "abandoned";

impl Trail {
    /// Begins a trail.
    pub fn begin(traces: &Traces, beginning: Beginning) -> Arc<Self> {
        let next = AtomicU64::new(u64::from_be_bytes(beginning.context.span()));
        let spans = Mutex::new(Vec::with_capacity(4));
        Arc::new(Self { beginning, begun: Instant::now(), spans, next, traces: traces.clone() })
    }

    /// Does work on this trail.
    pub fn follow<F: Future>(self: &Arc<Self>, work: F) -> TaskLocalFuture<Here, F> {
        HERE.scope(Here { trail: Arc::clone(self), span: self.beginning.context.span() }, work)
    }

    /// Does the whole of the trail's work in its first span; it says in a word how it ended. Cut short, it was abandoned.
    pub async fn whole<F>(self: Arc<Self>, name: String, work: F) -> &'static str
    where
        F: Future<Output = &'static str>,
    {
        let mut first = First { trail: &self, name, ended: ABANDONED };
        first.ended = self.follow(work).await;
        first.ended
    }

    /// Keeps the journey of work that is over, seen from its end.
    pub fn over(traces: &Traces, beginning: Beginning, name: String, took: Duration, ended: String) {
        let Beginning { request, context, parent, link, at } = beginning;
        let first = Span {
            id: context.span(),
            parent,
            name: name.into(),
            began: Duration::ZERO,
            took,
            note: Some(ended),
        };
        traces.keep(Journey { request, context, link, began: at, spans: vec![first] });
    }

    /// Closes the first span: the request has its answer.
    pub fn answered(&self, name: impl Into<Cow<'static, str>>, note: String) {
        self.push(Span {
            id: self.beginning.context.span(),
            parent: self.beginning.parent,
            name: name.into(),
            began: Duration::ZERO,
            took: self.begun.elapsed(),
            note: Some(note),
        });
    }

    fn push(&self, span: Span) {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        if spans.len() < SPANS_MAX {
            spans.push(span);
        }
    }

    fn new_span(&self) -> SpanId {
        let id = self.next.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
        // Zero would mean "no span"; of two to the 64 this is one.
        id.max(1).to_be_bytes()
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        let Beginning { request, context, link, at, .. } = &self.beginning;
        let spans = std::mem::take(self.spans.get_mut().unwrap_or_else(PoisonError::into_inner));
        let (request, context, link, began) = (request.clone(), *context, *link, *at);
        self.traces.keep(Journey { request, context, link, began, spans });
    }
}

/// The first span of work that is done as a whole.
struct First<'a> {
    trail: &'a Trail,
    name: String,
    ended: &'static str,
}

impl Drop for First<'_> {
    fn drop(&mut self) {
        self.trail.answered(std::mem::take(&mut self.name), self.ended.to_owned());
    }
}

/// Where the present work is; nowhere, if no request asked for it.
pub fn here() -> Option<Here> {
    HERE.try_with(Here::clone).ok()
}

/// Does a part of the work under a name. Outside a request it only does the work.
pub async fn spanned<F: Future>(name: impl Into<Cow<'static, str>>, work: F) -> F::Output {
    match here() {
        None => work.await,
        Some(here) => {
            let mut open = here.open(name);
            let done = HERE.scope(open.here(), work).await;
            open.end(None);
            done
        }
    }
}

impl Here {
    /// Our place in the trace, as whatever goes on later is told.
    pub fn context(&self) -> TraceContext {
        self.trail.beginning.context.at(self.span)
    }

    /// Opens a span below this one.
    pub fn open(&self, name: impl Into<Cow<'static, str>>) -> Open {
        let (id, now) = (self.trail.new_span(), Instant::now());
        Open { here: self.clone(), id, name: name.into(), begun: now, ended: false }
    }

    /// Does work below this span, in another task.
    pub fn follow<F: Future>(self, work: F) -> TaskLocalFuture<Self, F> {
        HERE.scope(self, work)
    }
}

/// A span under way. Dropped without an end, it was abandoned, and says so.
pub struct Open {
    here: Here,
    id: SpanId,
    name: Cow<'static, str>,
    begun: Instant,
    ended: bool,
}

impl Open {
    /// Our place in the trace, as the next hop is told.
    pub fn context(&self) -> TraceContext {
        self.here().context()
    }

    /// Where work below this span is.
    pub fn here(&self) -> Here {
        Here { trail: Arc::clone(&self.here.trail), span: self.id }
    }

    /// It is over.
    pub fn end(&mut self, note: Option<String>) {
        if self.ended {
            return;
        }
        self.ended = true;
        self.here.trail.push(Span {
            id: self.id,
            parent: Some(self.here.span),
            name: std::mem::take(&mut self.name),
            began: self.begun.saturating_duration_since(self.here.trail.begun),
            took: self.begun.elapsed(),
            note,
        });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.end(Some(ABANDONED.to_owned()));
    }
}
