//! What a step is told besides its input: which saga, which step, which effect, on whose behalf, at what time.
//! Who enters: the engine, for each attempt at a step.
//! What leaves: entries that already say who, where, by which request and for which workflow.

use std::sync::Arc;

use audit::{Detail, Entry};

use crate::ids::{EffectId, Phase, SagaKey, Scope};

/// The surroundings of one attempt at one step.
#[derive(Clone, Debug)]
pub struct StepContext {
    /// The saga.
    pub saga: SagaKey,
    /// The workflow's name.
    pub workflow: &'static str,
    /// Its version.
    pub version: u32,
    /// The step's name.
    pub step: &'static str,
    /// Its place, from 0.
    pub place: usize,
    /// Forward, or back.
    pub phase: Phase,
    /// The name of the step's effect, the same at every attempt, forward and back: what an undo looks for.
    pub effect: EffectId,
    /// Which item of a fan-out.
    pub item: Option<usize>,
    /// Attempts so far, this one included.
    pub attempt: u32,
    /// Microseconds since 1970.
    pub now_us: u64,
    /// Where proven time stands, in microseconds ([`ProvenTime`](crate::ProvenTime)): for what must not end early because somebody
    /// put the clock forward.
    pub proven_us: u64,
    /// Whether the step is a pivot whose call may have taken effect: then it is finished, and its order refuses nothing any more.
    pub begun: bool,
    /// Who started the saga, and by what.
    pub origin: Arc<Origin>,
}

/// Who started a saga, and by what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Such as `user:alice`.
    pub actor: String,
    /// The request's id, or empty.
    pub request: String,
    /// The W3C trace that the start belonged to.
    pub traceparent: Option<String>,
    /// The address the request came from.
    pub ip: Option<String>,
    /// The program that says it sent the request, or empty.
    pub user_agent: String,
}

impl Origin {
    /// The id of the trace, as logs name it (Trace Context, section 3.2.2.3).
    pub fn trace_id(&self) -> Option<&str> {
        self.traceparent.as_ref()?.split('-').nth(1)
    }

    /// An entry's detail that begins with where the request came from.
    pub fn detail(&self) -> Detail {
        let mut detail = Detail::new();
        if let Some(ip) = &self.ip {
            detail = detail.ip(ip);
        }
        if !self.user_agent.is_empty() {
            detail = detail.user_agent(&self.user_agent);
        }
        detail
    }
}

impl StepContext {
    /// The name of this very act: forward the step's effect, back that of the undo itself, for an undo that is an
    /// effect of its own, such as a refund.
    pub fn act(&self) -> EffectId {
        let act = EffectId::of(self.saga.id, self.place, self.phase);
        self.item.map_or(act, |item| act.item(item))
    }

    /// The effect of one item of this step's fan-out: what its undo looks for.
    pub fn item_effect(&self, item: usize) -> EffectId {
        self.effect.item(item)
    }

    /// An entry about `object`, with everything filled in but what was done.
    pub fn entry(&self, action: &'static str, object: impl Into<String>) -> Entry {
        self.entry_with(action, object, |detail| detail)
    }

    /// The same, with more to say.
    pub fn entry_with(
        &self,
        action: &'static str,
        object: impl Into<String>,
        more: impl FnOnce(Detail) -> Detail,
    ) -> Entry {
        let detail = self
            .origin
            .detail()
            .with("workflow", self.workflow)
            .with("workflow_id", self.saga.id.to_string())
            .with("step", self.step);
        let entry = Entry::new(action)
            .actor(self.origin.actor.clone())
            .request(&self.origin.request)
            .object(object)
            .detail(more(detail));
        match &self.saga.scope {
            Scope::Workspace(workspace) => entry.workspace(workspace),
            Scope::Appliance => entry,
        }
    }
}
