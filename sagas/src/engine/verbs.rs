//! What people can do: cancel before the pivot; and when a saga is stuck, let it go on in one of six ways.
//! Who enters: an operator with a verb and a reason.
//! What leaves: a saga that moves again, or is let go of; an entry with actor and reason in either case.

use std::sync::atomic::AtomicUsize;

use audit::{SqlFault, Told, Tx, WriteRefused};
use serde_json::Value as Json;
use zeroize::Zeroizing;

use super::Engine;
use super::forward::{Bounds, Outcome};
use super::live::{Live, entry_by};
use super::turn::{Halt, Moved, Turn, micros};
use crate::catalog::Catalog;
use crate::context::Origin;
use crate::define::step::{Act, StepUndo};
use crate::ids::{Phase, SagaKey};
use crate::state::{Event, State};
use crate::store::{self, LogKind, Trouble};

/// What an operator can do with a stuck saga.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Try the step, or the undo, again.
    Retry,
    /// The step has happened; this is what it left behind, as its definition would have had it.
    SupplyResult(Json),
    /// Leave the stuck undo out, and undo the others.
    SkipUndo,
    /// Go forward after all, from the step whose undo is stuck.
    ResumeForward,
    /// Undo what was done; before the pivot only.
    Unwind,
    /// Let go: locks are released with a higher fence, and nothing more is done.
    Abandon,
}

/// Why a verb was refused.
#[derive(Debug, thiserror::Error)]
pub enum VerbRefused {
    /// Look at the list.
    #[error("there is no such workflow here")]
    NoSuchSaga,
    /// It is over.
    #[error("the workflow is {} and will not change", .0.as_str())]
    Over(State),
    /// It has passed the point of no return, or may have; it can only be led to its end.
    #[error("the workflow has passed its point of no return at `{pivot}`; it goes on until it is done")]
    PastPivot {
        /// The pivot's name.
        pivot: &'static str,
    },
    /// The verb is not for a saga in this state.
    #[error("`{verb}` is not for a workflow that is {}", .state.as_str())]
    NotNow {
        /// Which verb.
        verb: &'static str,
        /// Where it stands.
        state: State,
    },
    /// The evidence is not what the step leaves behind.
    #[error("the evidence does not fit the step: {0}")]
    BadEvidence(String),
    /// Say why; it is written down.
    #[error("a reason is needed")]
    NoReason,
    /// It cannot be opened at the moment, or this build lacks its definition.
    #[error("the workflow cannot be opened: {0}")]
    NotOpen(String),
    /// The database did not do it.
    #[error("the database did not run a statement")]
    Sql(#[from] SqlFault),
}

impl Verb {
    /// The word for it.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::SupplyResult(_) => "supply_result",
            Self::SkipUndo => "skip_undo",
            Self::ResumeForward => "resume_forward",
            Self::Unwind => "unwind",
            Self::Abandon => "abandon",
        }
    }

    fn action(&self) -> &'static str {
        match self {
            Self::Retry => "workflow.operator.retry",
            Self::SupplyResult(_) => "workflow.operator.supply_result",
            Self::SkipUndo => "workflow.operator.skip_undo",
            Self::ResumeForward => "workflow.operator.resume_forward",
            Self::Unwind => "workflow.operator.unwind",
            Self::Abandon => "workflow.operator.abandon",
        }
    }
}

/// A wish that a saga turns round, which has everything but its commit.
#[derive(Clone)]
pub struct Cancelling {
    key: SagaKey,
    by: Origin,
    reason: String,
    now_us: u64,
    catalog: Catalog,
}

impl Cancelling {
    /// Writes the wish down, in the caller's transaction. Tell the engine afterwards with [`Engine::nudge`].
    ///
    /// # Errors
    /// Why the saga will not turn round.
    pub fn commit(&self, tx: &mut Tx<'_>) -> Result<Told<()>, VerbRefused> {
        let row = store::saga(tx, &self.key)?.ok_or(VerbRefused::NoSuchSaga)?;
        let def = self.catalog.pinned(&row.workflow, row.version, &row.def_hash);
        let def = def.ok_or_else(|| VerbRefused::NotOpen("this build lacks its definition".to_owned()))?;
        match row.state {
            state if state.is_over() => return Err(VerbRefused::Over(state)),
            State::StuckForward | State::StuckUndo | State::Unwinding => {
                return Err(VerbRefused::NotNow { verb: "cancel", state: row.state });
            }
            _ if row.cursor > def.pivot() => return Err(past_pivot(def)),
            _ => {}
        }
        store::ask_to_cancel(tx, &self.key, self.now_us)?;
        let reason = self.reason.clone();
        let entry = entry_by(&row, &self.by, "workflow.cancel", |detail| detail.with("reason", reason));
        Ok(Told::new((), entry))
    }
}

impl Engine {
    /// Prepares to ask a saga to turn round, for a commit of one's own.
    pub fn prepare_cancel(&self, key: &SagaKey, by: Origin, reason: &str) -> Cancelling {
        let (now_us, catalog) = (self.inner().now_us(), self.inner().parts.catalog.clone());
        Cancelling { key: key.clone(), by, reason: reason.to_owned(), now_us, catalog }
    }

    /// Asks a saga to turn round. It does so at the next step's border, if its pivot lies ahead.
    ///
    /// # Errors
    /// Why it will not, or why the ledger did not take it.
    pub async fn cancel(
        &self,
        key: &SagaKey,
        by: Origin,
        reason: &str,
    ) -> Result<(), WriteRefused<VerbRefused>> {
        let cancelling = self.prepare_cancel(key, by, reason);
        self.inner().parts.ledger.write(move |tx| cancelling.commit(tx)).await?;
        self.nudge(key);
        Ok(())
    }

    /// Helps a stuck saga on.
    ///
    /// # Errors
    /// Why this verb is not for it, or why the ledger did not take it.
    pub async fn operate(
        &self,
        key: &SagaKey,
        verb: Verb,
        by: Origin,
        reason: &str,
    ) -> Result<State, WriteRefused<VerbRefused>> {
        let inner = self.inner();
        if reason.trim().is_empty() {
            return Err(WriteRefused::Rejected(VerbRefused::NoReason));
        }
        let live = match inner.load(key).await {
            Ok(Some(live)) => live,
            Ok(None) => return Err(WriteRefused::Rejected(self.not_loaded(key).await)),
            Err(why) => return Err(WriteRefused::Rejected(VerbRefused::NotOpen(why))),
        };
        let (env, now_us, reason) = (inner.env.clone(), inner.now_us(), reason.to_owned());
        let written = inner.parts.ledger.write(move |tx| {
            let mut live = live.clone();
            live.row = store::saga(tx, live.key())?.ok_or(VerbRefused::NoSuchSaga)?;
            allowed(&verb, &live)?;
            // Claimed anew, so that whoever still drives it finds that it is no longer theirs.
            live.row.epoch = store::claim_one(tx, live.key(), &env.owner)?.ok_or(VerbRefused::NoSuchSaga)?;
            let name = live.def.steps.get(live.row.cursor).map_or("", |step| step.name);
            let entry = entry_by(&live.row, &by, verb.action(), |detail| {
                detail.with("reason", reason.clone()).with("step", name)
            });
            let mut turn = Turn::new(tx, &env, live, now_us);
            turn.tell(Told::new((), entry));
            turn.obey(&verb, &reason)?;
            let (moved, told) = turn.save()?;
            let told = told.ok_or_else(|| VerbRefused::NotOpen("it told nothing".to_owned()))?;
            Ok::<Told<(Moved, ())>, VerbRefused>(told.discard().beside(moved))
        });
        let moved = written.await?.into_value().0;
        if !moved.live.row.state.is_stuck() {
            inner.parts.observer.stuck(&moved.live.row.workflow, false);
        }
        inner.after_commit(&moved, std::time::Duration::ZERO);
        self.nudge(key);
        Ok(moved.live.row.state)
    }

    async fn not_loaded(&self, key: &SagaKey) -> VerbRefused {
        let wanted = key.clone();
        match self.inner().parts.ledger.read(move |view| store::saga(view, &wanted)).await {
            Ok(Some(row)) if row.state.is_over() => VerbRefused::Over(row.state),
            Ok(Some(_)) => VerbRefused::NotOpen("this build lacks its definition".to_owned()),
            _ => VerbRefused::NoSuchSaga,
        }
    }
}

/// Whether a verb is for a saga that stands like this.
fn allowed(verb: &Verb, live: &Live) -> Result<(), VerbRefused> {
    let state = live.row.state;
    if state.is_over() {
        return Err(VerbRefused::Over(state));
    }
    let fits = match verb {
        Verb::Retry | Verb::Abandon => state.is_stuck(),
        Verb::SupplyResult(_) | Verb::Unwind => state == State::StuckForward,
        Verb::SkipUndo | Verb::ResumeForward => state == State::StuckUndo,
    };
    if !fits {
        return Err(VerbRefused::NotNow { verb: verb.as_str(), state });
    }
    match verb {
        Verb::Unwind if live.past_pivot() => Err(past_pivot(&live.def)),
        // A cancelled one would only turn round again.
        Verb::ResumeForward if live.row.cancel => Err(VerbRefused::NotNow { verb: verb.as_str(), state }),
        Verb::SupplyResult(evidence) => {
            let check = live.step().map(|step| step.act.check());
            let check = check.ok_or_else(|| VerbRefused::BadEvidence("there is no step".to_owned()))?;
            check(evidence.to_string().as_bytes()).map_err(VerbRefused::BadEvidence)
        }
        _ => Ok(()),
    }
}

impl Turn<'_, '_> {
    fn obey(&mut self, verb: &Verb, reason: &str) -> Result<(), VerbRefused> {
        self.live.row.wake_us = Some(self.now_us);
        self.live.row.budget_until_us = None;
        match verb {
            Verb::Retry => self.retry(),
            Verb::SupplyResult(evidence) => self.supply(evidence),
            Verb::SkipUndo => self.skip(),
            Verb::ResumeForward => self.resume(),
            Verb::Unwind => {
                self.begin_undo(Event::OperatorUnwound)?;
                self.live.row.trouble =
                    Some(Trouble { code: "operator".to_owned(), words: format!("an operator: {reason}") });
                Ok(())
            }
            Verb::Abandon => {
                self.live.row.trouble =
                    Some(Trouble { code: "abandoned".to_owned(), words: format!("an operator: {reason}") });
                self.end(Event::OperatorAbandoned, true)
            }
        }
        .map_err(VerbRefused::from)
    }

    fn retry(&mut self) -> Result<(), Halt> {
        self.meet(Event::OperatorRetried)?;
        self.live.row.attempt = 0;
        if self.live.row.state == State::Unwinding {
            self.live.row.budget_until_us = Some(self.now_us + micros(self.env.limits.undo_budget));
        }
        Ok(())
    }

    fn supply(&mut self, evidence: &Json) -> Result<(), Halt> {
        let place = self.live.row.cursor;
        self.meet(Event::OperatorSupplied)?;
        let after = Zeroizing::new(evidence.to_string().into_bytes());
        let bounds = Bounds { stop_at: place + 1, reached: &AtomicUsize::new(place) };
        self.forward(&Outcome::Applied(after), &bounds)
    }

    fn skip(&mut self) -> Result<(), Halt> {
        let place = self.live.row.cursor.saturating_sub(1);
        self.meet(Event::OperatorSkipped)?;
        self.log(place, Phase::Undo, LogKind::Skipped, None);
        self.moved_to(place);
        self.live.row.budget_until_us = Some(self.now_us + micros(self.env.limits.undo_budget));
        Ok(())
    }

    /// The step whose undo is stuck is looked at again: a call is probed, a local step is still done. Later steps that
    /// were undone already cannot be done again under the same effect, so then there is no way forward.
    fn resume(&mut self) -> Result<(), Halt> {
        let place = self.live.row.cursor.saturating_sub(1);
        let lines = store::log_page(self.tx, self.live.key(), 0, usize::from(u16::MAX))?;
        let turned = lines.iter().rposition(|line| line.phase == Phase::Do).unwrap_or_default();
        let undone = |line: &store::LogRow| {
            let undo = self.live.def.steps.get(line.step).map(|step| &step.undo);
            let real = !matches!(undo, Some(StepUndo::None(_)) | None);
            line.phase == Phase::Undo
                && line.step > place
                && real
                && matches!(line.kind, LogKind::Done | LogKind::Skipped)
        };
        if lines.iter().skip(turned).any(undone) {
            return Err(Halt::Bug("later steps are undone already; there is no way forward".to_owned()));
        }
        self.meet(Event::OperatorResumed)?;
        let local = self.live.def.steps.get(place).is_some_and(|step| matches!(step.act, Act::Local(_)));
        self.moved_to(if local { place + 1 } else { place });
        self.live.row.doubt = !local;
        self.live.row.round += 1;
        self.live.row.deadline_us = None;
        self.live.row.trouble = None;
        Ok(())
    }
}

fn past_pivot(def: &crate::Definition) -> VerbRefused {
    VerbRefused::PastPivot { pivot: def.steps.get(def.pivot()).map_or("", |step| step.name) }
}

impl From<Halt> for VerbRefused {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Zombie => Self::NotOpen("it moved on meanwhile; look again".to_owned()),
            Halt::Sql(fault) => Self::Sql(fault),
            Halt::Bug(why) => Self::NotOpen(why),
            Halt::Refused(_, refused) => Self::NotOpen(refused.to_string()),
        }
    }
}

impl From<crate::IllegalEvent> for VerbRefused {
    fn from(illegal: crate::IllegalEvent) -> Self {
        Self::NotOpen(illegal.to_string())
    }
}
