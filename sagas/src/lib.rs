//! Sagas: what takes more than one commit and is still done wholly or not at all; with the locks and the idempotency
//! keys that it needs.
//!
//! Who enters: definitions of workflows, starts, signals, people with verbs; a ledger, a seal, a clock, randomness.
//! What leaves: sagas at their end, each commit told on the ledger; or stuck, visible, with words that help.

mod catalog;
mod context;
pub mod define;
mod engine;
mod history;
pub mod idempotency;
mod ids;
pub mod limits;
pub mod lock;
pub mod outbox;
mod picture;
mod proven;
mod refusal;
mod seal;
mod signal;
mod state;
mod store;
#[cfg(any(test, feature = "double"))]
pub mod testing;
mod view;

pub use catalog::{Catalog, CatalogRefused};
pub use context::{Origin, StepContext};
pub use define::{Builder, Definition, DefinitionRefused, Undo, Wait, WaitStep, Workflow, pinned};
pub use engine::{
    Cancelling, Deaf, Deed, End, Engine, EngineParts, EngineRefused, Leading, Led, Observer, OnConflict,
    Past, SignalRefused, SignalRequest, Signalled, Start, StartRefused, StartRequest, Started, Verb,
    VerbRefused, Watched,
};
pub use history::HistoryLine;
pub use ids::{EffectId, NotASaga, Phase, SagaId, SagaKey, Scope};
pub use limits::SagaLimits;
pub use lock::{Blocker, HeldLock, Lock};
pub use picture::picture;
pub use proven::{AFTER_REBOOT_MIN, CLOCK_DRIFT_MAX, CLOCK_SETTLES_IN, ProvenTime};
pub use refusal::{
    Later, Never, Part, PivotFault, PivotProbe, Probe, Reason, Refused, RemoteFault, Ruling, Untouched,
};
pub use seal::{Cipher, CipherAnswer, Plain, Seal, SealFault};
pub use signal::Signal;
pub use state::{Event, IllegalEvent, State, transition_table};
pub use store::{LogKind, LogRow, SCHEMA};
pub use view::{Detail, Filter, StepView, Summary};
