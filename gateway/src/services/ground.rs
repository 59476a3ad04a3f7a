//! What every service stands on: ledger, clock, dice; and the words common to every entry.
//! Who enters: commands that read, write or tell.
//! What leaves: recorded values, or one small set of reasons why the ledger did not take or give.

use std::sync::Arc;

use audit::{
    Clock, Detail, Entry, Freeze, Ledger, ReadRefused, Recorded, SqlFault, Told, Tx, View, WriteRefused,
};

use crate::api::{Actor, Origin};
use crate::dice::Dice;
use crate::ids::WorkspaceId;
use crate::moment::Moment;
use crate::traces::spanned;

/// The ground of a service; cheap to clone.
#[derive(Clone)]
pub struct Ground {
    /// The ledger.
    pub ledger: Ledger,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Ids and secrets.
    pub dice: Dice,
}

impl Ground {
    /// Now.
    pub fn now(&self) -> Moment {
        Moment::now(self.clock.as_ref())
    }

    /// Changes rows and tells of it, in one transaction.
    ///
    /// # Errors
    /// What the closure said, or why the ledger did not take it.
    pub async fn write<T, E>(
        &self,
        work: impl FnMut(&mut Tx<'_>) -> Result<Told<T>, E> + Send + 'static,
    ) -> Result<Recorded<T>, E>
    where
        T: Send + 'static,
        E: From<LedgerRefused> + Send + 'static,
    {
        written(spanned("ledger.write", self.ledger.write(work)).await)
    }

    /// Looks at rows.
    ///
    /// # Errors
    /// What the closure said, or why the ledger gave nothing.
    pub async fn read<T, E>(
        &self,
        work: impl FnOnce(&View<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<LedgerRefused> + Send + 'static,
    {
        spanned("ledger.read", self.ledger.read(work)).await.map_err(|refused| match refused {
            ReadRefused::Rejected(own) => own,
            ReadRefused::Overloaded => LedgerRefused::Overloaded.into(),
            ReadRefused::Failed(fault) => LedgerRefused::Fault(Some(fault)).into(),
            ReadRefused::Panicked => LedgerRefused::Fault(None).into(),
            ReadRefused::Closed => LedgerRefused::Closed.into(),
        })
    }
}

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
    /// A fault of ours.
    #[error("the ledger could not do it")]
    Fault(#[source] Option<SqlFault>),
}

impl From<SqlFault> for LedgerRefused {
    fn from(fault: SqlFault) -> Self {
        Self::Fault(Some(fault))
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

/// Where an act came from, as its entry tells it: everything but what was done.
#[derive(Clone, Debug)]
pub struct Telling {
    actor: Actor,
    workspace: Option<WorkspaceId>,
    request: String,
    ip: Option<String>,
    user_agent: String,
}

impl Telling {
    /// For an act that a request asked for.
    pub fn of(actor: &Actor, workspace: Option<&WorkspaceId>, origin: &Origin) -> Self {
        Self {
            actor: actor.clone(),
            workspace: workspace.cloned(),
            request: origin.request.to_string(),
            ip: origin.ip.map(|ip| ip.to_string()),
            user_agent: origin.user_agent.clone(),
        }
    }

    /// For an act of the appliance itself.
    pub fn own(workspace: Option<&WorkspaceId>) -> Self {
        Self {
            actor: Actor::appliance(),
            workspace: workspace.cloned(),
            request: String::new(),
            ip: None,
            user_agent: String::new(),
        }
    }

    /// An entry about `object`, with `detail` filled in by the command.
    pub fn entry(
        &self,
        action: &'static str,
        object: impl Into<String>,
        detail: impl FnOnce(Detail) -> Detail,
    ) -> Entry {
        let mut facts = Detail::new();
        if let Some(ip) = &self.ip {
            facts = facts.ip(ip);
        }
        if !self.user_agent.is_empty() {
            facts = facts.user_agent(&self.user_agent);
        }
        let entry =
            Entry::new(action).actor(self.actor.as_str().to_owned()).object(object).request(&self.request);
        let entry = match &self.workspace {
            Some(workspace) => entry.workspace(workspace.on_ledger()),
            None => entry,
        };
        entry.detail(detail(facts))
    }
}
