//! What every service stands on: ledger, clock, dice; and the words common to every entry.
//! Who enters: commands that read, write or tell.
//! What leaves: recorded values, or one small set of reasons why the ledger did not take or give.

use std::sync::Arc;
use std::time::Instant;

use audit::{
    Clock, Detail, Entry, Freeze, Ledger, ReadRefused, Recorded, SqlFault, Told, Tx, View, WriteRefused,
};

use sagas::{SagaKey, Scope, StartRequest};
use serde::Serialize;

use crate::api::{Actor, Once, Origin};
use crate::dice::Dice;
use crate::ids::WorkspaceId;
use crate::moment::Moment;
use crate::runner::{Ran, RunRefused, Runner, ended};
use crate::traces::{here, spanned};

/// The ground of a service; cheap to clone.
#[derive(Clone)]
pub struct Ground {
    /// The ledger.
    pub ledger: Ledger,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Ids and secrets.
    pub dice: Dice,
    /// Where workflows run.
    pub runner: Runner,
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
        was_read(spanned("ledger.read", self.ledger.read(work)).await)
    }

    /// Starts a workflow. `check` runs in the transaction of the start, and may refuse it.
    ///
    /// # Errors
    /// What the check said, or why the workflow was not started.
    pub async fn launch<E>(
        &self,
        wish: Wish,
        mut check: impl FnMut(&mut Tx<'_>) -> Result<(), E> + Send + 'static,
    ) -> Result<SagaKey, E>
    where
        E: From<LedgerRefused> + From<RunRefused> + Send + 'static,
    {
        let engine = self.runner.engine()?;
        let Wish { request, once } = wish;
        let start = engine.prepare(request).await.map_err(RunRefused::Start)?;
        let key = start.key().clone();
        // If we stop after this, the next start of the engine finds the row and goes on.
        self.write::<_, E>(move |tx| {
            check(tx)?;
            let started = start.commit(tx).map_err(RunRefused::Start)?;
            if let Some(once) = &once {
                once.attach(tx, start.key()).map_err(RunRefused::Claim)?;
            }
            Ok(started)
        })
        .await?;
        engine.nudge(&key);
        Ok(key)
    }

    /// Waits for a workflow's end, as long as its caller has patience.
    ///
    /// # Errors
    /// It ended without success, or the ledger gave nothing.
    pub async fn outcome<T, E>(&self, key: &SagaKey, until: Instant) -> Result<Ran<T>, E>
    where
        T: serde::de::DeserializeOwned,
        E: From<LedgerRefused> + From<RunRefused> + From<SqlFault>,
    {
        let engine = self.runner.engine()?;
        let patience = until.saturating_duration_since(Instant::now());
        let end = was_read::<_, E>(engine.wait(key, patience).await.map_err(|refused| refused.map(E::from)))?;
        Ok(ended(end)?)
    }

    /// Asks a workflow to turn round.
    ///
    /// # Errors
    /// It is over or past its pivot, or the ledger did not take it.
    pub async fn cancel<E>(&self, key: &SagaKey, by: sagas::Origin, reason: &str) -> Result<(), E>
    where
        E: From<LedgerRefused> + From<RunRefused>,
    {
        let asked = self.runner.engine()?.cancel(key, by, reason).await;
        written(asked.map_err(|refused| refused.map(|verb| E::from(RunRefused::Verb(verb)))))
    }
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
    once: Option<Arc<Once>>,
}

/// A wish to start a workflow, with the claim of the request that brought it.
pub struct Wish {
    request: StartRequest,
    once: Option<Arc<Once>>,
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
            once: origin.once.clone(),
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
            once: None,
        }
    }

    /// A wish to start a workflow on behalf of whoever asked.
    ///
    /// # Errors
    /// The input does not serialise, which is a fault of ours.
    pub fn wish(&self, workflow: &'static str, input: &impl Serialize) -> Result<Wish, RunRefused> {
        let scope = match &self.workspace {
            Some(workspace) => Scope::Workspace(workspace.on_ledger().clone()),
            None => Scope::Appliance,
        };
        let request = StartRequest::new(workflow, scope, input).map_err(RunRefused::Start)?;
        Ok(Wish { request: request.origin(self.origin()), once: self.once.clone() })
    }

    /// Who asked, from where and in which trace, as workflows keep it.
    pub fn origin(&self) -> sagas::Origin {
        sagas::Origin {
            actor: self.actor.as_str().to_owned(),
            request: self.request.clone(),
            traceparent: here().map(|here| here.context().to_string()),
            ip: self.ip.clone(),
            user_agent: self.user_agent.clone(),
        }
    }

    /// The same act, told in a workspace that it concerns.
    #[must_use]
    pub fn within(&self, workspace: &WorkspaceId) -> Self {
        Self { workspace: Some(workspace.clone()), ..self.clone() }
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
