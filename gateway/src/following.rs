//! Following one request: by its id or its trace's, through the spans and log lines in memory, the ledger, and workflows.
//! Who enters: operators, with an id.
//! What leaves: one story in the order of time, whoever tells each line of it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use audit::{EntryFilter, EntryScope};
use sagas::{HistoryLine, LogKind, Phase};
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::{Code, Exchange, OperatorOnly, OperatorPermit, Problem, Reply, Route};
use crate::ids::RequestId;
use crate::moment::Moment;
use crate::runs::Runs;
use crate::services::audit::Audit;
use crate::traces::trail::Span;
use crate::traces::{Journey, Lines, Traces};

/// One line of a request's story.
#[derive(Debug, Serialize, JsonSchema)]
pub struct StoryLine {
    /// When it was told; of a span, when it began.
    pub time: Moment,
    /// The same in microseconds after the story's first line.
    pub at_us: u64,
    /// Who tells it: `span`, `log`, `ledger` or `workflow`.
    pub source: &'static str,
    /// What, in one line.
    pub what: String,
    /// How it ended; of spans only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
    /// How long it took, in microseconds; of spans only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub took_us: Option<u64>,
    /// How deep a span lies below its first.
    pub depth: usize,
    /// Where to look further: a span's name in the trace, an entry's number, a workflow's id, a part of the code.
    pub reference: String,
    /// The span that this one is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
}

/// One request.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Followed {
    /// Its id.
    pub request_id: String,
    /// Its trace; absent once its spans have left the memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// What is known of it, in the order of time.
    pub story: Vec<StoryLine>,
}

/// The requests that an id stands for.
#[derive(Debug, Serialize, JsonSchema)]
pub struct FollowedList {
    /// One for a request's id; each that is remembered for a trace's.
    pub requests: Vec<Followed>,
}

/// Whoever keeps something of a request that a restart does not wipe.
pub trait TraceSource: Send + Sync {
    /// Everything it knows of a request.
    fn about<'a>(&'a self, by: &'a OperatorPermit, request: &'a str) -> Telling<'a>;
}

/// What a source says, on its way.
pub type Telling<'a> = Pin<Box<dyn Future<Output = Result<Vec<StoryLine>, Problem>> + Send + 'a>>;

/// Follows requests.
pub struct Following {
    traces: Traces,
    lines: Lines,
    sources: Vec<Arc<dyn TraceSource>>,
}

const ENTRIES_MAX: u32 = 500;

impl Following {
    /// Over the journeys and log lines in memory, and these sources.
    pub fn new(traces: Traces, lines: Lines, sources: Vec<Arc<dyn TraceSource>>) -> Self {
        Self { traces, lines, sources }
    }

    async fn follow(&self, by: &OperatorPermit, id: &str) -> Result<FollowedList, Problem> {
        let mut requests = Vec::new();
        for request in self.requests(id) {
            let followed = self.one(by, request).await?;
            requests.extend((!followed.story.is_empty()).then_some(followed));
        }
        match requests.is_empty() {
            true => Err(Problem::new(
                Code::NotFound,
                "nothing is known of this id: a request's stands in its answer as Request-Id, and a trace is remembered for a while only",
            )),
            false => Ok(FollowedList { requests }),
        }
    }

    /// The request itself, or those that are remembered of a trace.
    fn requests(&self, id: &str) -> Vec<String> {
        if id.parse::<RequestId>().is_ok() {
            return vec![id.to_owned()];
        }
        let journeys = self.traces.of(id).into_iter().map(|journey| journey.request.to_string());
        let mut requests: Vec<_> =
            journeys.chain(self.lines.of(id).into_iter().map(|line| line.request)).collect();
        // An id begins with its time, so this is the order in which they came.
        requests.sort();
        requests.dedup();
        requests
    }

    async fn one(&self, by: &OperatorPermit, request: String) -> Result<Followed, Problem> {
        let journeys = self.traces.of(&request);
        let trace_id = journeys.first().map(|journey| journey.context.trace_id());
        let mut story: Vec<_> = journeys.iter().flat_map(|journey| spans_of(journey)).collect();
        for source in &self.sources {
            story.extend(source.about(by, &request).await?);
        }
        story.extend(
            self.lines
                .of(&request)
                .into_iter()
                .map(|line| StoryLine::told(line.time, "log", line.what, line.target)),
        );
        // What shares a moment stays as it was told: a span before the parts of it.
        story.sort_by_key(|line| line.time);
        let began = story.first().map_or(0, |line| line.time.micros());
        for line in &mut story {
            line.at_us = u64::try_from(line.time.micros() - began).unwrap_or_default();
        }
        Ok(Followed { request_id: request, trace_id, story })
    }
}

impl StoryLine {
    fn told(time: Moment, source: &'static str, what: String, reference: String) -> Self {
        Self { time, at_us: 0, source, what, ended: None, took_us: None, depth: 0, reference, parent: None }
    }

    fn span(journey: &Journey, span: &Span, depth: usize) -> Self {
        let what = span.name.to_string();
        Self {
            ended: span.note.clone(),
            took_us: Some(micros(span.took)),
            depth,
            parent: span.parent.map(hex::encode),
            ..Self::told(journey.began.plus(span.began), "span", what, hex::encode(span.id))
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A journey's spans, each after the one that it is a part of.
fn spans_of(journey: &Journey) -> Vec<StoryLine> {
    let inside = |parent| journey.spans.iter().any(|other| Some(other.id) == parent);
    let mut first: Vec<_> = journey.spans.iter().filter(|span| !inside(span.parent)).collect();
    first.sort_by_key(|span| span.began);
    let mut lines = Vec::with_capacity(journey.spans.len());
    first.into_iter().for_each(|span| gather(journey, span, 0, &mut lines));
    lines
}

/// A span and all below it, in the order in which they began.
fn gather(journey: &Journey, span: &Span, depth: usize, lines: &mut Vec<StoryLine>) {
    lines.push(StoryLine::span(journey, span, depth));
    let mut below: Vec<_> = journey.spans.iter().filter(|other| other.parent == Some(span.id)).collect();
    below.sort_by_key(|other| other.began);
    below.into_iter().for_each(|other| gather(journey, other, depth + 1, lines));
}

/// The ledger tells of a request by its entries.
impl TraceSource for Audit {
    fn about<'a>(&'a self, by: &'a OperatorPermit, request: &'a str) -> Telling<'a> {
        Box::pin(async move {
            let filter = EntryFilter {
                scope: EntryScope::Everything,
                request_id: Some(request.to_owned()),
                limit: ENTRIES_MAX,
                ..EntryFilter::default()
            };
            let entries = self.everything(by, filter).await?;
            let told = entries.into_iter().map(|entry| {
                let entry = crate::services::audit::wire::EntryAnswer::from(entry);
                let what = format!("{} {} by {}: {}", entry.action, entry.object, entry.actor, entry.outcome);
                StoryLine::told(entry.time, "ledger", what, entry.seq.to_string())
            });
            Ok(told.collect())
        })
    }
}

/// Workflows tell of the request that started them by their logs.
impl TraceSource for Runs {
    fn about<'a>(&'a self, by: &'a OperatorPermit, request: &'a str) -> Telling<'a> {
        Box::pin(async move {
            let told = self.history(by, request).await?.into_iter().map(|line| {
                let at = i64::try_from(line.line.at_us).unwrap_or(i64::MAX);
                let reference = line.saga.id.to_string();
                StoryLine::told(Moment::from_micros(at), "workflow", words(&line), reference)
            });
            Ok(told.collect())
        })
    }
}

fn words(line: &HistoryLine) -> String {
    let HistoryLine { workflow, step, line, .. } = line;
    let step = step.map_or_else(|| format!("step {}", line.step), str::to_owned);
    let phase = if line.phase == Phase::Undo { "undo of " } else { "" };
    let what = match line.kind {
        LogKind::Intent => "begun",
        LogKind::Done => "done",
        LogKind::Failed => "not done",
        LogKind::Skipped => "left out",
    };
    let why = line.error.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    format!("{workflow} {phase}{step} {what}{why}")
}

/// The routes of following.
pub fn routes(following: &Arc<Following>) -> Vec<Route> {
    vec![
        Route::get("/v1/traces/{id}")
            .guard::<OperatorOnly>()
            .says("Follow a request by its id, or by its trace's, through spans, log, ledger and workflows")
            .gives::<FollowedList>(200)
            .to(Arc::clone(following), show),
    ]
}

async fn show(following: Arc<Following>, by: OperatorPermit, (): (), ex: Exchange) -> Result<Reply, Problem> {
    let id: String = ex.params.first().cloned().unwrap_or_default();
    Reply::json(200, &following.follow(&by, &id).await?)
}
