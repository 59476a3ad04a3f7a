//! The beginning: lock claims, the saga's row and its first entry, in one transaction that the caller may share.
//! Who enters: a request to start a workflow; a parent's step that starts a child.
//! What leaves: a `Start` that can be committed inside any write closure, as often as that runs.

use std::sync::Arc;
use std::time::Duration;

use audit::{Entry, SqlFault, Told, Tx};
use serde::Serialize;
use zeroize::Zeroizing;

use super::forward::FAR_US;
use super::live::{Live, entry_of, sealed_place};
use super::parts::Env;
use super::turn::{Halt, Turn, micros};
use crate::context::Origin;
use crate::define::Definition;
use crate::define::step::written;
use crate::ids::{SagaId, SagaKey, Scope};
use crate::limits::STATE_BYTES_MAX;
use crate::lock::{Blocker, Lock, hold, in_order};
use crate::outbox::{Life, NotPublished};
use crate::refusal::Refused;
use crate::seal::{Cipher, Plain, SealFault};
use crate::state::State;
use crate::store::{Parent, SagaRow};

/// What to do when another saga holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// Refuse, and say who holds it.
    Refuse,
    /// Wait in line, at most this long and never longer than the saga's own deadline.
    Queue(Duration),
}

/// A wish to start a workflow.
#[derive(Clone, Debug)]
pub struct StartRequest {
    pub(crate) workflow: String,
    pub(crate) scope: Scope,
    pub(crate) input: Plain,
    pub(crate) origin: Origin,
    pub(crate) on_conflict: OnConflict,
    pub(crate) deadline: Option<Duration>,
}

/// Why nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum StartRefused {
    /// Look at the list of workflows.
    #[error("there is no workflow `{0}`")]
    NoSuchWorkflow(String),
    /// Send the input that the workflow describes.
    #[error("the input is not one of `{workflow}`: {why}")]
    BadInput {
        /// Which workflow.
        workflow: String,
        /// What is wrong with it.
        why: String,
    },
    /// Wait for the other one, or queue behind it.
    #[error("`{}` is in use by {}", .0.lock, .0.saga.id)]
    Locked(Blocker),
    /// The key for inputs is not at hand; try again.
    #[error("the input cannot be sealed at the moment")]
    Seal(#[source] SealFault),
    /// The machine gives no randomness for an id.
    #[error("the machine gives no randomness")]
    NoRandomness,
    /// Others could not be told of it: a fault of ours.
    #[error("the start was not published")]
    NotPublished(#[source] NotPublished),
    /// The database did not do it.
    #[error("the database did not run a statement")]
    Sql(#[from] SqlFault),
}

impl From<NotPublished> for StartRefused {
    fn from(not: NotPublished) -> Self {
        match not {
            NotPublished::Sql(fault) => Self::Sql(fault),
            not => Self::NotPublished(not),
        }
    }
}

impl StartRequest {
    /// This workflow, in this scope, with this input.
    ///
    /// # Errors
    /// Why the input does not serialise.
    pub fn new(
        workflow: impl Into<String>,
        scope: Scope,
        input: &impl Serialize,
    ) -> Result<Self, StartRefused> {
        let workflow = workflow.into();
        match written(input) {
            Ok(input) => Ok(Self {
                workflow,
                scope,
                input,
                origin: Origin::default(),
                on_conflict: OnConflict::Refuse,
                deadline: None,
            }),
            Err(why) => Err(StartRefused::BadInput { workflow, why }),
        }
    }

    /// On whose behalf, by which request, in which trace.
    pub fn origin(mut self, origin: Origin) -> Self {
        self.origin = origin;
        self
    }

    /// What to do when a lock is taken; to refuse, when nothing is said.
    pub fn on_conflict(mut self, on_conflict: OnConflict) -> Self {
        self.on_conflict = on_conflict;
        self
    }

    /// Another deadline than the definition's.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

/// A start that has everything but its commit.
#[derive(Clone)]
pub struct Start {
    pub(crate) live: Live,
    pub(crate) locks: Vec<Lock>,
    pub(crate) on_conflict: OnConflict,
    pub(crate) env: Arc<Env>,
}

/// A saga that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Which.
    pub key: SagaKey,
    /// Running, or pending while it waits for locks.
    pub state: State,
}

/// What makes a start besides the wish.
pub(crate) struct Making {
    pub(crate) def: Arc<Definition>,
    pub(crate) def_hash: [u8; 32],
    pub(crate) cipher: Arc<dyn Cipher>,
    pub(crate) id: SagaId,
    pub(crate) parent: Option<Parent>,
    pub(crate) now_us: u64,
}

impl Start {
    /// Checks and seals what can be checked and sealed outside a transaction.
    pub(crate) fn new(request: StartRequest, making: Making, env: Arc<Env>) -> Result<Self, StartRefused> {
        let Making { def, def_hash, cipher, id, parent, now_us } = making;
        let bad = |why: String| StartRefused::BadInput { workflow: request.workflow.clone(), why };
        if request.input.len() > STATE_BYTES_MAX {
            return Err(bad(format!("it is longer than {STATE_BYTES_MAX} bytes")));
        }
        (def.check_input)(&request.input).map_err(bad)?;
        let locks = def.locks.as_ref().map(|locks| locks(&request.input)).transpose().map_err(bad)?;
        let locks = in_order(locks.unwrap_or_default()).map_err(bad)?;
        let key = SagaKey { scope: request.scope, id };
        let sealed = cipher.seal(&sealed_place(&key, "input"), &request.input).map_err(StartRefused::Seal)?;
        let deadline = request.deadline.or(def.deadline);
        let row = SagaRow {
            key,
            workflow: def.name.to_owned(),
            version: def.version,
            def_hash,
            state: State::Pending,
            cursor: 0,
            round: 0,
            epoch: 1,
            revision: 0,
            wake_us: Some(now_us),
            deadline_us: deadline.map(|it| now_us + micros(it)),
            step_until_us: None,
            budget_until_us: None,
            attempt: 0,
            doubt: false,
            begun: false,
            proven: None,
            cancel: false,
            input_sealed: Some(sealed),
            result_sealed: None,
            result_until_us: None,
            locks: None,
            parent,
            origin: Arc::new(request.origin),
            trouble: None,
            created_us: now_us,
            updated_us: now_us,
        };
        let fold = vec![None; def.steps.len()];
        let time = env.time.clone();
        let live = Live { row, def, cipher, time, input: Arc::new(request.input), fold };
        Ok(Self { live, locks, on_conflict: request.on_conflict, env })
    }

    /// The saga that will be started; known before it is.
    pub fn key(&self) -> &SagaKey {
        &self.live.row.key
    }

    /// Claims the locks and puts the saga down, in the caller's transaction. When that has committed, tell the engine
    /// with [`Engine::begun`](crate::Engine::begun); should the process die before, the next start finds the row.
    ///
    /// # Errors
    /// Who holds a lock, or what the database said.
    pub fn commit(&self, tx: &mut Tx<'_>) -> Result<Told<Started>, StartRefused> {
        let (live, entry) = self.put_down(tx)?;
        Ok(Told::new(Started { key: live.row.key, state: live.row.state }, entry))
    }

    /// The same, with the saga as it was put down.
    pub(crate) fn put_down(&self, tx: &Tx<'_>) -> Result<(Live, Entry), StartRefused> {
        let mut live = self.live.clone();
        let now_us = live.row.created_us;
        let claimed = hold::claim(tx, self.key(), &self.locks, now_us)?;
        live.row.locks = hold::written(&claimed.claims);
        match (claimed.blocker, self.on_conflict) {
            (None, _) => live.row.state = State::Running,
            (Some(blocker), OnConflict::Refuse) => return Err(StartRefused::Locked(blocker)),
            (Some(_), OnConflict::Queue(patience)) => {
                let until = now_us.saturating_add(micros(patience)).min(FAR_US);
                live.row.wake_us = Some(live.row.deadline_us.map_or(until, |deadline| deadline.min(until)));
                live.row.step_until_us = live.row.wake_us;
            }
        }
        live.row.insert(tx, &self.env.owner)?;
        Life { row: &live.row, def: &live.def, before: None, opened: false, now_us }.publish(tx)?;
        let state = live.row.state;
        let entry = entry_of(&live.row, "workflow.start", |detail| detail.with("state", state.as_str()));
        Ok((live, entry))
    }
}

/// Starts a child in the transaction of its parent's step.
pub(crate) fn child(
    turn: &Turn<'_, '_>,
    place: usize,
    workflow: &str,
    input: &[u8],
) -> Result<(SagaKey, Told<()>), Halt> {
    let bug = |why: String| Halt::Refused(place, Refused::Bug(why));
    let def =
        turn.env.catalog.newest(workflow).ok_or_else(|| bug(format!("there is no workflow `{workflow}`")))?;
    let parent = turn.live.key().clone();
    let making = Making {
        def: def.clone(),
        def_hash: turn.env.catalog.hash(def),
        cipher: turn.live.cipher.clone(),
        id: parent.id.child(place),
        parent: Some(Parent { key: parent.clone(), step: place }),
        now_us: turn.now_us,
    };
    let request = StartRequest {
        workflow: workflow.to_owned(),
        scope: parent.scope,
        input: Zeroizing::new(input.to_vec()),
        origin: (*turn.live.row.origin).clone(),
        on_conflict: OnConflict::Queue(Duration::from_secs(u64::from(u32::MAX))),
        deadline: None,
    };
    let start = Start::new(request, making, turn.env.clone()).map_err(|why| bug(why.to_string()))?;
    let (live, entry) = start.put_down(turn.tx).map_err(|why| match why {
        StartRefused::Sql(fault) => Halt::Sql(fault),
        why => bug(why.to_string()),
    })?;
    Ok((live.row.key, Told::new((), entry)))
}
