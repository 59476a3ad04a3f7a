//! Why the ledger took or gave nothing, in the words that every service shares.
//! Who enters: outcomes of reads and writes.
//! What leaves: the value, the service's own refusal, or one small set of reasons.

use std::sync::Arc;

use audit::{Freeze, ReadRefused, SqlFault, WriteRefused};
use sagas::idempotency::ClaimRefused;
use sagas::lock::lease::Fenced;

use crate::api::Problem;

/// Why the ledger took or gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum LedgerRefused {
    /// It does not agree with its hardware or itself.
    #[error("the ledger is frozen")]
    Frozen(Arc<Freeze>),
    /// Not yet verified since the start, or too much waits for an anchor: writes resume by themselves.
    #[error("the ledger does not take writes at the moment")]
    Waiting,
    /// Too much to do.
    #[error("the ledger is overloaded")]
    Overloaded,
    /// No space; nothing changed.
    #[error("no space is left for the ledger")]
    NoSpace,
    /// The disk failed; what is durable shows after a restart.
    #[error("the disk under the ledger failed")]
    Lost,
    /// The daemon is stopping.
    #[error("the ledger is closed")]
    Closed,
    /// Something the caller sent is too long for an entry.
    #[error("{field} is too long for an entry")]
    TooLong {
        /// Which field of the entry.
        field: &'static str,
        /// Bytes it may have.
        bytes_max: usize,
    },
    /// The API key behind the act was revoked, or has ended, since the guard saw it.
    #[error("the API key no longer stands")]
    ApiKeyWithdrawn,
    /// The client behind the act was revoked since the guard saw it.
    #[error("the client certificate no longer stands")]
    ClientWithdrawn,
    /// The workspace was closed since the guard saw it open.
    #[error("the workspace is closed")]
    WorkspaceClosed,
    /// Somebody else has leased the name since.
    #[error("the fence {carried} of `{name}` is not the latest")]
    Fenced {
        /// The lease's name.
        name: String,
        /// The fence that the request carried.
        carried: i64,
    },
    /// Another request with the same idempotency key has taken over; nothing of this one was done.
    #[error("the request's claim on its idempotency key no longer stands")]
    Claim(#[source] ClaimRefused),
    /// What was done could not be put into words, so it was not done.
    #[error("the outcome cannot be said")]
    Unsaid(Problem),
    /// A fault of ours.
    #[error("the ledger could not do it")]
    Fault(#[source] Option<SqlFault>),
}

impl From<SqlFault> for LedgerRefused {
    fn from(fault: SqlFault) -> Self {
        Self::Fault(Some(fault))
    }
}

impl From<Fenced> for LedgerRefused {
    fn from(fenced: Fenced) -> Self {
        match fenced {
            Fenced::Stale { name, carried } => Self::Fenced { name, carried },
            Fenced::Sql(fault) => fault.into(),
        }
    }
}

/// Lets a service's own refusal carry the ledger's.
#[macro_export]
macro_rules! refused_by_ledger {
    ($refused:ty) => {
        impl From<audit::SqlFault> for $refused {
            fn from(fault: audit::SqlFault) -> Self {
                Self::Ledger(fault.into())
            }
        }
    };
}

/// Unfolds the outcome of a read into the service's own refusal.
///
/// # Errors
/// What the closure said, or why the ledger gave nothing.
pub fn was_read<T, E: From<LedgerRefused>>(outcome: Result<T, ReadRefused<E>>) -> Result<T, E> {
    outcome.map_err(|refused| match refused {
        ReadRefused::Rejected(own) => own,
        ReadRefused::Overloaded => LedgerRefused::Overloaded.into(),
        ReadRefused::Failed(fault) => LedgerRefused::Fault(Some(fault)).into(),
        ReadRefused::Panicked => LedgerRefused::Fault(None).into(),
        ReadRefused::Closed => LedgerRefused::Closed.into(),
    })
}

/// Unfolds the outcome of a write into the service's own refusal.
///
/// # Errors
/// What the closure said, or why the ledger did not take it.
pub fn written<T, E: From<LedgerRefused>>(outcome: Result<T, WriteRefused<E>>) -> Result<T, E> {
    outcome.map_err(|refused| match refused {
        WriteRefused::Rejected(own) => own,
        WriteRefused::Unverified | WriteRefused::Unanchored { .. } => LedgerRefused::Waiting.into(),
        WriteRefused::Frozen(freeze) => LedgerRefused::Frozen(freeze).into(),
        WriteRefused::Overloaded => LedgerRefused::Overloaded.into(),
        WriteRefused::NoSpace => LedgerRefused::NoSpace.into(),
        WriteRefused::EntryTooLong { field, bytes_max, .. } => {
            LedgerRefused::TooLong { field, bytes_max }.into()
        }
        WriteRefused::NoRandomness | WriteRefused::Panicked => LedgerRefused::Fault(None).into(),
        WriteRefused::Lost => LedgerRefused::Lost.into(),
        WriteRefused::Closed => LedgerRefused::Closed.into(),
    })
}
