//! Following one request: by its id or its trace's, through the spans still in memory, the ledger, and whatever else tells.
//! Who enters: operators, with an id.
//! What leaves: the spans as a tree, and beside them each thing that was told of it, in the order of time.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use audit::{EntryFilter, EntryScope};
use schemars::JsonSchema;
use serde::Serialize;

use crate::api::{Code, Exchange, OperatorOnly, OperatorPermit, Problem, Reply, Route};
use crate::ids::RequestId;
use crate::moment::Moment;
use crate::services::audit::Audit;
use crate::traces::{Journey, Traces};

/// Something that was told of a request, outside its spans.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Told {
    /// When.
    pub time: Moment,
    /// Where it is told: `ledger`, and others as they come.
    pub source: &'static str,
    /// What, in one line.
    pub what: String,
    /// Where to look further, such as an entry's number.
    pub reference: String,
}

/// Whoever can tell something of a request.
pub trait TraceSource: Send + Sync {
    /// Everything it knows of a request.
    fn about<'a>(&'a self, by: &'a OperatorPermit, request: &'a str) -> Telling<'a>;
}

/// What a source says, on its way.
pub type Telling<'a> = Pin<Box<dyn Future<Output = Result<Vec<Told>, Problem>> + Send + 'a>>;

/// One span.
#[derive(Debug, Serialize, JsonSchema)]
pub struct SpanLine {
    /// Its name in the trace, hex.
    pub id: String,
    /// The span it is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// How deep it lies below the first.
    pub depth: usize,
    /// What was done.
    pub name: String,
    /// When it began, in microseconds after the request.
    pub began_us: u64,
    /// How long it took, in microseconds.
    pub took_us: u64,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// One request.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Followed {
    /// Its id.
    pub request_id: String,
    /// Its trace; absent once its spans have left the memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// When it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub began: Option<Moment>,
    /// Its spans, each below the one it is a part of.
    pub spans: Vec<SpanLine>,
    /// What was told of it.
    pub told: Vec<Told>,
}

/// The requests that an id stands for.
#[derive(Debug, Serialize, JsonSchema)]
pub struct FollowedList {
    /// One for a request's id; each that is remembered for a trace's.
    pub requests: Vec<Followed>,
}

/// Follows requests.
pub struct Following {
    traces: Traces,
    sources: Vec<Arc<dyn TraceSource>>,
}

const ENTRIES_MAX: u32 = 500;

impl Following {
    /// Over the journeys in memory and these sources.
    pub fn new(traces: Traces, sources: Vec<Arc<dyn TraceSource>>) -> Self {
        Self { traces, sources }
    }

    async fn follow(&self, by: &OperatorPermit, id: &str) -> Result<FollowedList, Problem> {
        let journeys = self.traces.of(id);
        let mut requests = Vec::new();
        for journey in &journeys {
            let told = self.told(by, journey.request.as_str()).await?;
            requests.push(Followed::new(journey, told));
        }
        // Its spans may have left the memory; what was told of it has not.
        if journeys.is_empty() && id.parse::<RequestId>().is_ok() {
            let told = self.told(by, id).await?;
            requests.extend((!told.is_empty()).then(|| Followed::forgotten(id, told)));
        }
        match requests.is_empty() {
            true => Err(Problem::new(
                Code::NotFound,
                "nothing is known of this id: a request's stands in its answer as Request-Id, and a trace is remembered for a while only",
            )),
            false => Ok(FollowedList { requests }),
        }
    }

    async fn told(&self, by: &OperatorPermit, request: &str) -> Result<Vec<Told>, Problem> {
        let mut told = Vec::new();
        for source in &self.sources {
            told.extend(source.about(by, request).await?);
        }
        told.sort_by_key(|one| one.time);
        Ok(told)
    }
}

impl Followed {
    fn new(journey: &Journey, told: Vec<Told>) -> Self {
        let mut spans = Vec::with_capacity(journey.spans.len());
        let first = journey
            .spans
            .iter()
            .filter(|span| !journey.spans.iter().any(|other| Some(other.id) == span.parent));
        let mut first: Vec<_> = first.collect();
        first.sort_by_key(|span| span.began);
        first.into_iter().for_each(|span| gather(journey, span, 0, &mut spans));
        Self {
            request_id: journey.request.to_string(),
            trace_id: Some(journey.context.trace_id()),
            began: Some(journey.began),
            spans,
            told,
        }
    }

    fn forgotten(request: &str, told: Vec<Told>) -> Self {
        Self { request_id: request.to_owned(), trace_id: None, began: None, spans: Vec::new(), told }
    }
}

/// A span and all below it, in the order in which they began.
fn gather(journey: &Journey, span: &crate::traces::trail::Span, depth: usize, lines: &mut Vec<SpanLine>) {
    let micros = |time: std::time::Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    lines.push(SpanLine {
        id: hex::encode(span.id),
        parent: span.parent.map(hex::encode),
        depth,
        name: span.name.to_string(),
        began_us: micros(span.began),
        took_us: micros(span.took),
        note: span.note.clone(),
    });
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
                Told { time: entry.time, source: "ledger", what, reference: entry.seq.to_string() }
            });
            Ok(told.collect())
        })
    }
}

/// The routes of following.
pub fn routes(following: &Arc<Following>) -> Vec<Route> {
    vec![
        Route::get("/v1/traces/{id}")
            .guard::<OperatorOnly>()
            .says("Follow a request by its id, or by its trace's, through spans and ledger")
            .gives::<FollowedList>(200)
            .to(Arc::clone(following), show),
    ]
}

async fn show(following: Arc<Following>, by: OperatorPermit, (): (), ex: Exchange) -> Result<Reply, Problem> {
    let id: String = ex.params.first().cloned().unwrap_or_default();
    Reply::json(200, &following.follow(&by, &id).await?)
}
