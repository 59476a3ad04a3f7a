//! The life of a saga as others follow it: one event for each change of its state, none for each attempt.
//! Who enters: the engine, with a saga as it was before a commit and as it is after it.
//! What leaves: at most one event, in that very commit.

use audit::Tx;
use serde_json::{Value as Json, json};

use super::Topic;
use super::publish::{News, NotPublished};
use crate::define::Definition;
use crate::define::step::Act;
use crate::engine::clipped;
use crate::state::State;
use crate::store::SagaRow;

const QUEUED: Topic = Topic::new("workflow.queued");
const STARTED: Topic = Topic::new("workflow.started");
const WAITING: Topic = Topic::new("workflow.waiting");
const STUCK: Topic = Topic::new("workflow.stuck");
const RESUMED: Topic = Topic::new("workflow.resumed");
const UNWINDING: Topic = Topic::new("workflow.unwinding");
const SUCCEEDED: Topic = Topic::new("workflow.succeeded");
const COMPENSATED: Topic = Topic::new("workflow.compensated");
const ABANDONED: Topic = Topic::new("workflow.abandoned");

/// Every topic of a workflow's life, with what it says.
pub const LIFE: [(Topic, &str); 9] = [
    (QUEUED, "it stands in line for its locks"),
    (STARTED, "it has its locks and goes on"),
    (WAITING, "a step waits: for signals, for a moment, for a workflow of its own"),
    (STUCK, "a person is needed, for this reason"),
    (RESUMED, "a person has let it go on"),
    (UNWINDING, "it has turned round, for this reason, and undoes what it did"),
    (SUCCEEDED, "it is done"),
    (COMPENSATED, "it is undone, for this reason"),
    (ABANDONED, "a person has let it go as it is, for this reason"),
];

/// A saga after a commit, with what is needed of it before.
pub(crate) struct Life<'a> {
    pub(crate) row: &'a SagaRow,
    pub(crate) def: &'a Definition,
    /// None when it is being put down.
    pub(crate) before: Option<State>,
    /// A wait was opened, or its time began anew, in this commit.
    pub(crate) opened: bool,
    pub(crate) now_us: u64,
}

impl Life<'_> {
    /// Publishes the change, if there is one.
    pub(crate) fn publish(&self, tx: &Tx<'_>) -> Result<(), NotPublished> {
        let Some(topic) = self.topic() else { return Ok(()) };
        let subject = format!("workflow/{}", self.row.key.id);
        let news = News {
            topic,
            subject: &subject,
            body: self.facts(topic),
            saga: &self.row.key,
            workflow: &self.row.workflow,
            origin: &self.row.origin,
            act: None,
            withdraws: None,
            now_us: self.now_us,
        };
        news.publish(tx)
    }

    fn topic(&self) -> Option<Topic> {
        Some(match (self.before, self.row.state) {
            (None, State::Pending) => QUEUED,
            (None | Some(State::Pending), State::Running) => STARTED,
            // Granted its locks it goes on in a commit of its own, so no other state follows at once.
            (_, State::Waiting) if self.opened => WAITING,
            (Some(before), now) if before == now => return None,
            (_, State::StuckForward | State::StuckUndo) => STUCK,
            (Some(State::StuckForward | State::StuckUndo), State::Running)
            | (Some(State::StuckUndo), State::Unwinding) => RESUMED,
            (_, State::Unwinding) => UNWINDING,
            (_, State::Succeeded) => SUCCEEDED,
            (_, State::Compensated) => COMPENSATED,
            (_, State::Abandoned) => ABANDONED,
            (_, State::Pending | State::Running | State::Waiting | State::Backoff) => return None,
        })
    }

    fn facts(&self, topic: Topic) -> Json {
        let row = self.row;
        let step = self.def.steps.get(row.cursor);
        let (code, why) = match &row.trouble {
            Some(trouble) => (Some(trouble.code.as_str()), Some(clipped(&trouble.words))),
            None => (None, None),
        };
        match topic {
            QUEUED | STARTED => {
                let parent = row.parent.as_ref().map(|parent| parent.key.id.to_string());
                json!({ "version": row.version, "actor": row.origin.actor, "parent": parent })
            }
            WAITING => {
                let (what, signals) = match step.map(|step| &step.act) {
                    Some(Act::Wait(calls)) if calls.signals.is_empty() => ("time", None),
                    Some(Act::Wait(calls)) => ("signal", Some(&calls.signals)),
                    _ => ("workflow", None),
                };
                let name = step.map(|step| step.name);
                json!({ "step": name, "for": what, "signals": signals, "until_us": row.step_until_us })
            }
            STUCK => {
                let undoing = row.state == State::StuckUndo;
                let place = row.cursor.saturating_sub(usize::from(undoing));
                let name = self.def.steps.get(place).map(|step| step.name);
                json!({ "step": name, "phase": if undoing { "undo" } else { "do" }, "code": code, "why": why })
            }
            RESUMED => json!({ "state": row.state.as_str() }),
            SUCCEEDED => json!({}),
            _ => json!({ "code": code, "why": why }),
        }
    }
}
