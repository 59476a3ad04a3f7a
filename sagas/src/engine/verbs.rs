//! What people can do when a saga is stuck: let it go on in one of six ways.
//! Who enters: an operator with a verb and a reason.
//! What leaves: a saga that moves again, or is let go of; an entry with actor and reason in either case.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use audit::{SqlFault, Told, Tx, WriteRefused};
use serde_json::Value as Json;
use zeroize::Zeroizing;

use super::Engine;
use super::forward::{Bounds, Outcome};
use super::live::{Live, entry_by};
use super::parts::Env;
use super::turn::{Halt, Moved, Turn, micros};
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

/// A verb that has everything but its commit.
pub struct Leading {
    env: Arc<Env>,
    live: Live,
    verb: Verb,
    by: Origin,
    reason: String,
    now_us: u64,
}

/// A saga that was led on, for the engine to hear of.
pub struct Led(Moved);

impl Leading {
    /// Carries the verb out, in the caller's transaction. Tell the engine afterwards with [`Engine::led`].
    ///
    /// # Errors
    /// Why this verb is not for the saga.
    pub fn commit(&self, tx: &mut Tx<'_>) -> Result<Told<Led>, VerbRefused> {
        let mut live = self.live.clone();
        live.row = store::saga(tx, live.key())?.ok_or(VerbRefused::NoSuchSaga)?;
        allowed(&self.verb, &live)?;
        // Claimed anew, so that whoever still drives it finds that it is no longer theirs.
        let claimed = store::claim_one(tx, live.key(), &self.env.owner)?;
        (live.row.epoch, live.row.revision) = claimed.ok_or(VerbRefused::NoSuchSaga)?;
        let name = live.def.steps.get(live.row.cursor).map_or("", |step| step.name);
        let entry = entry_by(&live.row, &self.by, self.verb.action(), |detail| {
            detail.with("reason", self.reason.clone()).with("step", name)
        });
        let mut turn = Turn::new(tx, &self.env, live, self.now_us);
        turn.tell(Told::new((), entry));
        turn.obey(&self.verb, &self.reason)?;
        let (moved, told) = turn.save()?;
        let told = told.ok_or_else(|| VerbRefused::NotOpen("it told nothing".to_owned()))?;
        Ok(told.leaving(Led(moved)))
    }
}

impl Engine {
    /// Prepares to help a stuck saga on, for a commit of one's own.
    ///
    /// # Errors
    /// Why this verb is not for it.
    pub async fn prepare_lead(
        &self,
        key: &SagaKey,
        verb: Verb,
        by: Origin,
        reason: &str,
    ) -> Result<Leading, VerbRefused> {
        let inner = self.inner();
        if reason.trim().is_empty() {
            return Err(VerbRefused::NoReason);
        }
        let live = match inner.load(key).await {
            Ok(Some(live)) => live,
            Ok(None) => return Err(self.not_loaded(key).await),
            Err(why) => return Err(VerbRefused::NotOpen(why)),
        };
        let (env, now_us) = (inner.env.clone(), inner.now_us());
        Ok(Leading { env, live, verb, by, reason: reason.to_owned(), now_us })
    }

    /// Goes on with a saga whose lead was committed, and says where it stands.
    pub fn led(&self, Led(moved): Led) -> State {
        let inner = self.inner();
        let state = moved.live.row.state;
        if !state.is_stuck() {
            inner.parts.observer.stuck(&moved.live.row.workflow, false);
        }
        inner.after_commit(&moved, Duration::ZERO);
        self.nudge(moved.live.key());
        state
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
        let leading = self.prepare_lead(key, verb, by, reason).await.map_err(WriteRefused::Rejected)?;
        let led = self.inner().parts.ledger.write(move |tx| leading.commit(tx)).await?;
        Ok(self.led(led.into_value()))
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
        // The pauses begin anew; what was begun stays begun.
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
        self.live.row.begun = !local;
        self.live.row.round += 1;
        self.live.row.deadline_us = None;
        self.live.row.trouble = None;
        Ok(())
    }
}

pub(super) fn past_pivot(def: &crate::Definition) -> VerbRefused {
    VerbRefused::PastPivot { pivot: def.steps.get(def.pivot()).map_or("", |step| step.name) }
}

impl From<Halt> for VerbRefused {
    fn from(halt: Halt) -> Self {
        match halt {
            Halt::Stale => Self::NotOpen("it moved on meanwhile; look again".to_owned()),
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
