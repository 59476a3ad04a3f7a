//! The spans of workflows: what is done at a step stands in the trace of the request that started the workflow, below it.
//! Who enters: the engine, with what it is about to do and what it has done, in this process or since one before it.
//! What leaves: a journey for each, kept and exported as a request's is.

use std::sync::Arc;

use audit::Clock;
use sagas::{Deed, Past, StepContext, Watched};

use crate::dice::Dice;
use crate::moment::Moment;
use crate::traces::{Beginning, TraceContext, Traces, Trail};

/// Makes the spans.
pub struct Spans {
    traces: Traces,
    clock: Arc<dyn Clock>,
    dice: Dice,
}

impl Spans {
    /// Into these traces.
    pub fn new(traces: Traces, clock: Arc<dyn Clock>, dice: Dice) -> Self {
        Self { traces, clock, dice }
    }

    /// Goes with work outside; what the house does for it lies below its span.
    pub(super) fn watch(&self, deed: Deed, at: &StepContext, work: Watched) -> Watched {
        match self.beginning(at, Moment::now(self.clock.as_ref())) {
            Some(beginning) => Box::pin(Trail::begin(&self.traces, beginning).whole(name(deed, at), work)),
            None => work,
        }
    }

    /// Tells of what was taken in commits.
    pub(super) fn taken(&self, deed: Deed, at: &StepContext, past: &Past) {
        let began = Moment::from_micros(i64::try_from(past.began_us).unwrap_or(i64::MAX));
        if let Some(beginning) = self.beginning(at, began) {
            Trail::over(&self.traces, beginning, name(deed, at), past.took, past.ended.to_string());
        }
    }

    /// The trace goes on from the workflow's row, so a restart in between does not break it. What the appliance does of
    /// its own accord has no request to be followed by.
    fn beginning(&self, at: &StepContext, began: Moment) -> Option<Beginning> {
        let request = at.origin.request.parse().ok()?;
        let parent = at.origin.traceparent.as_deref().and_then(TraceContext::parse);
        let context = parent.map_or_else(|| TraceContext::begin(&self.dice), |it| it.next(&self.dice));
        let parent = parent.map(|parent| parent.span());
        Some(Beginning { request, context, parent, link: None, at: began })
    }
}

/// Such as `run signing.batch keys.hsm_sign_items, item 3, try 2`. Items count from 1, as people do.
fn name(deed: Deed, at: &StepContext) -> String {
    let mut name = match deed {
        // They are for the whole of it, before its first step.
        Deed::Lock => format!("lock {}", at.workflow),
        _ => format!("{} {} {}", deed.as_str(), at.workflow, at.step),
    };
    if let Some(item) = at.item {
        name.push_str(&format!(", item {}", item + 1));
    }
    if at.attempt > 1 {
        name.push_str(&format!(", try {}", at.attempt));
    }
    name
}
