//! What an engine is made of, and what its commits need to know.
//! Who enters: the wiring, with everything that has a name elsewhere.
//! What leaves: parts for the engine; an environment for its transactions.

use std::sync::Arc;
use std::time::Duration;

use audit::{Clock, Ledger, Random};

use super::seen::{Deed, Past, Watched};
use super::turn::micros;
use crate::catalog::Catalog;
use crate::context::StepContext;
use crate::ids::{SagaKey, Scope};
use crate::limits::SagaLimits;
use crate::proven::ProvenTime;
use crate::seal::Seal;
use crate::state::State;

/// Everything an engine stands on.
#[derive(Clone)]
pub struct EngineParts {
    /// Where sagas are kept, with the rows of their effects; opened with [`crate::SCHEMA`].
    pub ledger: Ledger,
    /// What can be run.
    pub catalog: Catalog,
    /// Encryption at rest.
    pub seal: Arc<dyn Seal>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Ids.
    pub random: Arc<dyn Random>,
    /// Bounds.
    pub limits: SagaLimits,
    /// Who counts.
    pub observer: Arc<dyn Observer>,
}

/// Hears what happens, for figures and traces. It is called between two steps and must not wait.
pub trait Observer: Send + Sync {
    /// A saga was started.
    fn started(&self, _workflow: &str) {}
    /// A saga came to its end.
    fn ended(&self, _workflow: &str, _state: State, _after: Duration) {}
    /// A saga needs a person (`true`), or no longer does.
    fn stuck(&self, _workflow: &str, _stuck: bool) {}
    /// One commit of a saga, and how long it took from wanting it to having it durable.
    fn committed(&self, _saga: &SagaKey, _workflow: &str, _took: Duration) {}
    /// One call outside, and how long it took.
    fn called(&self, _workflow: &str, _step: &str, _took: Duration) {}
    /// A call, a probe or an undo is about to go outside. Whoever wants to see what is done inside it wraps it.
    fn watch(&self, _deed: Deed, _at: &StepContext, work: Watched) -> Watched {
        work
    }
    /// A step that is taken in commits has ended: a local one, a wait, a child, all items of a fan-out.
    fn taken(&self, _deed: Deed, _at: &StepContext, _past: &Past) {}
    /// A saga whose definition this build does not have, or has otherwise: it waits, untouched.
    fn parked(&self, _saga: &SagaKey, _workflow: &str, _version: u32) {}
}

/// Hears nothing.
#[derive(Debug, Default)]
pub struct Deaf;

impl Observer for Deaf {}

/// What a transaction of the engine needs to know.
pub(crate) struct Env {
    pub(crate) catalog: Catalog,
    pub(crate) limits: SagaLimits,
    pub(crate) owner: [u8; 16],
    pub(crate) time: Arc<ProvenTime>,
}

impl Env {
    /// The pause before the next try: doubling, bounded, and apart by up to a fifth, so that a crowd does not march.
    pub(crate) fn pause(&self, key: &SagaKey, attempt: u32) -> u64 {
        let first = micros(self.limits.retry_first).max(1);
        let doubled = first.saturating_mul(1 << attempt.saturating_sub(1).min(30));
        let pause = doubled.min(micros(self.limits.retry_longest));
        let byte = key.id.bytes()[6 + (attempt as usize % 10)];
        pause / 5 * 4 + pause / 5 * 2 * u64::from(byte) / 255
    }
}

/// Which scope's cipher seals a saga.
pub(crate) fn sealing_scope(scope: &Scope, by_appliance: bool) -> Option<&audit::Workspace> {
    if by_appliance { None } else { scope.workspace() }
}
