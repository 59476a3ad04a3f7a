//! A saga in memory: its row, its definition, and the states its steps left behind, opened.
//! Who enters: a row and its log, with the cipher of its scope.
//! What leaves: what each step works on, and the surroundings of each attempt.

use std::sync::Arc;

use audit::{Detail, Entry, Outcome};
use zeroize::Zeroizing;

use crate::context::{Origin, StepContext};
use crate::define::Definition;
use crate::define::step::{Given, Role, Step};
use crate::ids::{EffectId, Phase, SagaKey, Scope};
use crate::proven::ProvenTime;
use crate::seal::{Cipher, Plain, SealFault};
use crate::store::SagaRow;

/// A saga that this engine is driving.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) row: SagaRow,
    pub(crate) def: Arc<Definition>,
    pub(crate) cipher: Arc<dyn Cipher>,
    pub(crate) time: Arc<ProvenTime>,
    pub(crate) input: Arc<Plain>,
    /// What each step left behind.
    pub(crate) fold: Vec<Option<Arc<Plain>>>,
}

impl Live {
    pub(crate) fn key(&self) -> &SagaKey {
        &self.row.key
    }

    /// The step at the cursor, while it goes forward.
    pub(crate) fn step(&self) -> Option<&Step> {
        self.def.steps.get(self.row.cursor)
    }

    /// Whether the point of no return has been passed, or may have been: from its order on a pivot counts as passed, until it
    /// is certain that nothing of it happened.
    pub(crate) fn past_pivot(&self) -> bool {
        is_past_pivot(&self.row, &self.def)
    }

    /// The same after a definite no: no outcome is open any more. What an undoable step has begun is still to be undone; of a
    /// pivot nothing is.
    pub(crate) fn without_doubt(&self) -> Self {
        let mut live = self.clone();
        live.row.doubt = false;
        live.row.begun &= live.step().is_none_or(|step| step.role != Role::Pivot);
        live
    }

    /// What the step at `place` works on.
    pub(crate) fn given(&self, place: usize) -> Result<Given, String> {
        let before = match place.checked_sub(1) {
            // The state before the first step is `()`.
            None => Arc::new(Zeroizing::new(b"null".to_vec())),
            Some(earlier) => self
                .fold
                .get(earlier)
                .cloned()
                .flatten()
                .ok_or_else(|| format!("the state before step {place} is not kept"))?,
        };
        Ok(Given { input: self.input.clone(), before })
    }

    pub(crate) fn context(&self, place: usize, phase: Phase, attempt: u32, now_us: u64) -> StepContext {
        StepContext {
            saga: self.key().clone(),
            workflow: self.def.name,
            version: self.def.version,
            step: self.def.steps.get(place).map_or("", |step| step.name),
            place,
            phase,
            effect: EffectId::of(self.key().id, place, Phase::Do),
            item: None,
            attempt,
            now_us,
            proven_us: self.time.now_us(),
            begun: self.row.begun && place == self.def.pivot() && place == self.row.cursor,
            origin: self.row.origin.clone(),
        }
    }

    /// The engine's own words about this saga.
    pub(crate) fn entry(&self, action: &'static str, more: impl FnOnce(Detail) -> Detail) -> Entry {
        entry_of(&self.row, action, more)
    }

    pub(crate) fn seal(&self, place: &str, plain: &[u8]) -> Result<Vec<u8>, SealFault> {
        self.cipher.seal(&sealed_place(self.key(), place), plain)
    }

    pub(crate) fn open(&self, place: &str, sealed: &[u8]) -> Result<Plain, SealFault> {
        self.cipher.open(&sealed_place(self.key(), place), sealed)
    }
}

/// The engine's own words about a saga.
pub(crate) fn entry_of(row: &SagaRow, action: &'static str, more: impl FnOnce(Detail) -> Detail) -> Entry {
    entry_by(row, &row.origin, action, more)
}

/// The same about what somebody else did to it.
pub(crate) fn entry_by(
    row: &SagaRow,
    by: &Origin,
    action: &'static str,
    more: impl FnOnce(Detail) -> Detail,
) -> Entry {
    let entry = Entry::new(action)
        .actor(by.actor.clone())
        .request(&by.request)
        .object(format!("workflow/{}", row.key.id))
        .outcome(outcome(action))
        .detail(more(by.detail().with("workflow", row.workflow.clone()).with("version", row.version)));
    match &row.key.scope {
        Scope::Workspace(workspace) => entry.workspace(workspace),
        Scope::Appliance => entry,
    }
}

/// Whether a saga with this row has passed its pivot, or may have.
pub(crate) fn is_past_pivot(row: &SagaRow, def: &Definition) -> bool {
    let pivot = def.pivot();
    row.cursor > pivot || (row.cursor == pivot && row.begun)
}

/// Where a sealed column stands: what was sealed here opens nowhere else.
pub(crate) fn sealed_place(key: &SagaKey, place: &str) -> String {
    format!("saga/{}/{}/{place}", key.scope, key.id)
}

fn outcome(action: &str) -> Outcome {
    match action {
        "workflow.unwinding" => Outcome::Denied,
        "workflow.retry" | "workflow.stuck" => Outcome::Failed,
        _ => Outcome::Done,
    }
}
