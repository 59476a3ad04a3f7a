//! The ledger: every change commits together with the entry that tells of it, on a chain and in a tree that
//! even the owner of the machine cannot quietly change.
//!
//! Who enters: services, with closures and entries; hardware, behind [`Sealer`] and [`Anchor`]; auditors, with
//! exported files. What leaves: [`Recorded`] values, receipts, exports, and verdicts about them.

mod append;
mod attest;
mod check;
mod checkpoint;
#[cfg(any(test, feature = "double"))]
pub mod double;
mod entry;
pub mod export;
mod extent;
mod fault;
mod gate;
mod gather;
mod hardware;
mod job;
pub mod leaf;
mod ledger;
mod lock;
pub mod merkle;
pub mod note;
mod open;
mod outside;
mod paths;
mod proving;
mod query;
mod readers;
mod receipt;
mod refused;
mod registry;
mod rows;
mod schema;
mod sealing;
mod shared;
mod statement;
#[cfg(any(test, feature = "double"))]
pub mod testing;
mod told;
mod tx;
pub mod verify;
mod writer;

pub use attest::{AttestationRefused, NvStatement, check_attestation};
pub use check::Finding;
pub use checkpoint::{Checkpoint, CheckpointRefused, NotACheckpoint, Proof, ProofRefused};
pub use entry::{Detail, Entry, NotAWorkspace, Outcome, Workspace};
pub use fault::SqlFault;
pub use gather::Attendance;
pub use hardware::{Anchor, Answer, Attestation, HardwareFault, Reading, Sealer, Step, Tier};
pub use ledger::{Ledger, LedgerHealth, LedgerLimits, LedgerOptions, Standing};
pub use note::{KeyKind, NotAKey, Note, NoteKey, NoteRefused};
pub use outside::{Boot, Clock, MachineClock, MachineRandom, NoRandomness, Random};
pub use proving::{NoProof, StoredCheckpoint};
pub use query::{EntryFilter, EntryOrder, EntryScope, StoredEntry};
pub use receipt::{Receipt, ReceiptRefused};
pub use refused::{Freeze, OpenRefused, ReadRefused, WriteRefused};
pub use registry::SchemaRefused;
pub use sealing::verdict::{Mark, Memory, UNWRITTEN, Verdict, extend, judge, step_digest};
pub use sealing::{RecoverRefused, Recovered, SealRefused, Sealing};
pub use statement::{Reach, Row, Schema, Statement, Table, Value, WORKSPACE_COLUMN};
pub use told::{Each, Recorded, Told};
pub use tx::{Tx, View, Within, WithinTx};
