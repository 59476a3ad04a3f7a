//! The JSON of events.
//! Who enters: queries, parsed once.
//! What leaves: events with their numbers, and the cursor for the next question.

use sagas::outbox::{Page, Published, Wanted};
use sagas::{SagaId, Scope};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::api::{Code, Problem};
use crate::limits::{PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX};
use crate::moment::Moment;

/// Which events.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EventsQuery {
    /// The `next` of the answer before; from the oldest that is kept if absent.
    #[serde(default)]
    pub after: Option<u64>,
    /// Of this topic only, such as `key.rotated`, or of all that begin with these words, such as `key`.
    #[serde(default)]
    pub topic: Option<String>,
    /// Of this workflow run only.
    #[serde(default)]
    pub workflow: Option<String>,
    /// Items on the page, at most 500; 100 if absent.
    #[serde(default)]
    pub limit: Option<usize>,
}

/// An event: something that has happened, and never changes.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Event")]
pub struct EventAnswer {
    /// Its number. It grows in the order of commits, with gaps, and is never given twice.
    pub number: u64,
    /// The ledger entry that it was written with.
    pub entry: u64,
    /// Whose it is; absent for the appliance's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// What it is about: docs/events.md lists the topics.
    pub topic: String,
    /// What it happened to, named as entries name their object.
    pub subject: String,
    /// The facts.
    pub facts: Value,
    /// The workflow in which it happened.
    pub workflow: String,
    /// And which run of it.
    pub workflow_id: String,
    /// The number of the event that this one takes back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub withdraws: Option<u64>,
    /// The request behind the workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// And its trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// When. Order is by number.
    pub time: Moment,
}

/// A page of events.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EventList {
    /// The events, in the order of their commits.
    pub events: Vec<EventAnswer>,
    /// The `after` of the next question, also when there was nothing: what was looked at is not looked at again.
    pub next: u64,
}

impl EventsQuery {
    /// As the outbox is asked.
    ///
    /// # Errors
    /// A limit or id that cannot be.
    pub fn wanted(self, scope: Option<Scope>) -> Result<Wanted, Problem> {
        let bad = |what: &str| Problem::new(Code::BadRequest, what.to_owned());
        let saga = self.workflow.map(|id| id.parse::<SagaId>().map_err(|why| bad(&why.to_string())));
        let rows_max = match self.limit.unwrap_or(PAGE_ITEMS_DEFAULT) {
            limit @ 1..=PAGE_ITEMS_MAX => limit,
            _ => return Err(bad(&format!("limit is 1 to {PAGE_ITEMS_MAX}"))),
        };
        let topic = self.topic.unwrap_or_default();
        Ok(Wanted { scope, after: self.after, topic, saga: saga.transpose()?, rows_max })
    }
}

impl From<Page> for EventList {
    fn from(page: Page) -> Self {
        Self { events: page.events.into_iter().map(EventAnswer::from).collect(), next: page.next }
    }
}

impl From<Published> for EventAnswer {
    fn from(event: Published) -> Self {
        Self {
            entry: event.entry(),
            number: event.number,
            workspace: event.scope.workspace().map(ToString::to_string),
            topic: event.topic,
            subject: event.subject,
            facts: event.body,
            workflow: event.workflow,
            workflow_id: event.saga.to_string(),
            withdraws: event.withdraws,
            request_id: Some(event.request).filter(|id| !id.is_empty()),
            trace_id: event.trace,
            time: Moment::from_micros(i64::try_from(event.at_us).unwrap_or(i64::MAX)),
        }
    }
}
