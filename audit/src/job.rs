//! The room where a closure becomes a job: something the writer can try, undo, try again and answer.
//! Who enters: `write` and `write_unaudited`, each with a closure and the place where its answer is awaited.
//! What leaves: entries to append, and exactly one answer per caller.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::entry::Entry;
use crate::refused::{Freeze, WriteRefused};
use crate::told::{Recorded, Told};
use crate::tx::Tx;

/// Who may write while the ledger is not open to everyone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pass {
    /// A service: only into an open ledger.
    Service,
    /// The sealing task, which must write before the ledger can be opened, and to end being overdue.
    Sealing,
}

/// How one attempt of a job went; its effects are still in the open transaction.
#[allow(
    clippy::large_enum_variant,
    reason = "it lives for a moment on the writer's stack; a box would be an allocation a write"
)]
pub(crate) enum Attempt {
    /// It changed something and tells of it.
    Told(Entry, Vec<Entry>),
    /// It changed something that needs no telling.
    Untold,
    /// It said no; undo its effects.
    Rejected,
    /// It panicked; undo its effects.
    Panicked,
}

/// How the transaction ended for one job.
#[derive(Debug, Clone)]
pub(crate) enum Settled {
    /// Durable; its first entry has this number.
    Committed(u64),
    Unverified,
    Frozen(Arc<Freeze>),
    Unanchored(u64),
    NoSpace,
    Overloaded,
    EntryTooLong {
        field: &'static str,
        bytes: usize,
        bytes_max: usize,
    },
    NoRandomness,
    Lost,
    Closed,
}

impl Settled {
    pub(crate) fn refused<E>(self) -> WriteRefused<E> {
        match self {
            Self::Unverified => WriteRefused::Unverified,
            Self::Frozen(freeze) => WriteRefused::Frozen(freeze),
            Self::Unanchored(rows) => WriteRefused::Unanchored { rows },
            Self::NoSpace => WriteRefused::NoSpace,
            Self::Overloaded => WriteRefused::Overloaded,
            Self::EntryTooLong { field, bytes, bytes_max } => {
                WriteRefused::EntryTooLong { field, bytes, bytes_max }
            }
            Self::NoRandomness => WriteRefused::NoRandomness,
            Self::Closed => WriteRefused::Closed,
            // A commit is never a refusal; should one be read as such, the honest answer is "unknown".
            Self::Lost | Self::Committed(_) => WriteRefused::Lost,
        }
    }
}

/// One write on its way through the writer.
pub(crate) trait Job: Send {
    fn pass(&self) -> Pass;
    fn attempt(&mut self, tx: &mut Tx<'_>) -> Attempt;
    fn settle(self: Box<Self>, settled: Settled);
}

type Place<T, E> = oneshot::Sender<Result<T, WriteRefused<E>>>;

enum Left<T, E> {
    Nothing,
    Value(T),
    Rejected(E),
    Panicked,
}

impl<T, E> Left<T, E> {
    fn settle(self, settled: Settled) -> Result<(T, u64), WriteRefused<E>> {
        match (settled, self) {
            (Settled::Committed(seq), Left::Value(value)) => Ok((value, seq)),
            // What it saw when it said no may have been the work of jobs before it in the same transaction, so
            // even a "no" is only true once that transaction is durable.
            (Settled::Committed(_), Left::Rejected(why)) => Err(WriteRefused::Rejected(why)),
            (Settled::Committed(_), Left::Panicked) => Err(WriteRefused::Panicked),
            (settled, _) => Err(settled.refused()),
        }
    }
}

/// A write that tells.
pub(crate) struct Audited<T, E, W> {
    pass: Pass,
    work: W,
    left: Left<T, E>,
    answer: Place<Recorded<T>, E>,
}

impl<T, E, W> Audited<T, E, W> {
    pub(crate) fn new(pass: Pass, work: W, answer: Place<Recorded<T>, E>) -> Self {
        Self { pass, work, left: Left::Nothing, answer }
    }
}

impl<T, E, W> Job for Audited<T, E, W>
where
    T: Send,
    E: Send,
    W: FnMut(&mut Tx<'_>) -> Result<Told<T>, E> + Send,
{
    fn pass(&self) -> Pass {
        self.pass
    }

    fn attempt(&mut self, tx: &mut Tx<'_>) -> Attempt {
        let (left, attempt) = match catch_unwind(AssertUnwindSafe(|| (self.work)(tx))) {
            Ok(Ok(Told { value, first, rest })) => (Left::Value(value), Attempt::Told(first, rest)),
            Ok(Err(why)) => (Left::Rejected(why), Attempt::Rejected),
            Err(_) => (Left::Panicked, Attempt::Panicked),
        };
        self.left = left;
        attempt
    }

    fn settle(self: Box<Self>, settled: Settled) {
        let result = self.left.settle(settled).map(|(value, seq)| Recorded::committed(value, seq));
        // A caller that went away changes nothing: the write stands.
        let _ = self.answer.send(result);
    }
}

/// A write that does not tell.
pub(crate) struct Unaudited<T, E, W> {
    pass: Pass,
    work: W,
    left: Left<T, E>,
    answer: Place<T, E>,
}

impl<T, E, W> Unaudited<T, E, W> {
    pub(crate) fn new(pass: Pass, work: W, answer: Place<T, E>) -> Self {
        Self { pass, work, left: Left::Nothing, answer }
    }
}

impl<T, E, W> Job for Unaudited<T, E, W>
where
    T: Send,
    E: Send,
    W: FnMut(&mut Tx<'_>) -> Result<T, E> + Send,
{
    fn pass(&self) -> Pass {
        self.pass
    }

    fn attempt(&mut self, tx: &mut Tx<'_>) -> Attempt {
        let (left, attempt) = match catch_unwind(AssertUnwindSafe(|| (self.work)(tx.untold()))) {
            Ok(Ok(value)) => (Left::Value(value), Attempt::Untold),
            Ok(Err(why)) => (Left::Rejected(why), Attempt::Rejected),
            Err(_) => (Left::Panicked, Attempt::Panicked),
        };
        self.left = left;
        attempt
    }

    fn settle(self: Box<Self>, settled: Settled) {
        let _ = self.answer.send(self.left.settle(settled).map(|(value, _)| value));
    }
}
