//! Calls outside: made with a bound on their time, their panics caught, their outcomes put into one of five words.
//! Who enters: a saga whose order is recorded, whose outcome is in doubt, or whose undo was announced.
//! What leaves: an outcome to commit, a definite no, or an unknown that is probed before anything else happens.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use audit::Recorded;
use tracing::Instrument as _;

use super::Inner;
use super::commit::Stop;
use super::drive::Counted;
use super::forward::Outcome;
use super::live::Live;
use super::seen::{Deed, found_word, word};
use super::turn::Moved;
use crate::define::step::{Act, Order, StepUndo};
use crate::ids::Phase;
use crate::refusal::{Finding, Later, Refused, RemoteFault};
use crate::seal::Plain;

/// What looking at a step in doubt found.
pub(crate) enum Found {
    /// It happened, with this outcome.
    Settled(Outcome),
    /// It certainly did not happen.
    Clear,
    /// A part of it happened: calling again finishes it.
    Unfinished,
    /// Nobody can say now.
    Later(String, Option<u64>),
    /// There is nothing to look at: the step itself goes on from its rows.
    Doubtful,
}

impl Inner {
    /// Makes the call that was ordered.
    pub(crate) async fn call(&self, live: &Live, order: Recorded<Order>) -> Result<Plain, RemoteFault> {
        let place = live.row.cursor;
        let Some(Act::Remote(calls)) = live.step().map(|step| step.act.clone()) else {
            return Err(RemoteFault::Bug(format!("step {place} orders no call")));
        };
        let given = live.given(place).map_err(RemoteFault::Bug)?;
        let cx = live.context(place, Phase::Do, live.row.attempt, self.now_us());
        let call = self.watched(Deed::Run, &cx.clone(), word, (calls.act)(cx, given, order));
        self.bounded(live, calls.within, call).await
    }

    /// What came of the call.
    pub(crate) async fn called(
        self: &Arc<Self>,
        live: &Live,
        called: Result<Plain, RemoteFault>,
    ) -> Result<Moved, Stop> {
        let place = live.row.cursor;
        match called {
            Ok(after) => match self.go_on(live, Outcome::Applied(after)).await {
                // The outcome is not recorded, and the row says that it is open: it is read anew, and the next thing is a probe.
                Err(stop @ (Stop::LetGo | Stop::NotNow | Stop::Stale)) => Err(stop),
                Err(stop) => self.not_taken(live, stop).await,
                moved => moved,
            },
            Err(RemoteFault::Unknown(why)) => match self.look(live).await {
                Found::Later(_, later) => self.doubtful(live, why, later).await,
                Found::Settled(outcome) => self.go_on(live, outcome).await,
                Found::Unfinished => self.try_later(live, why, None, Counted::InOrder).await,
                Found::Clear | Found::Doubtful => {
                    self.try_later(&live.without_doubt(), why, None, Counted::InOrder).await
                }
            },
            Err(RemoteFault::Later(Later { why, not_before_us })) => {
                self.try_later(&live.without_doubt(), why, not_before_us, Counted::InOrder).await
            }
            Err(RemoteFault::Business(reason)) => {
                let stop = Stop::Refused(place, Refused::Business(reason));
                self.not_taken(&live.without_doubt(), stop).await
            }
            Err(RemoteFault::Bug(why)) => self.stuck(live, "bug", why).await,
        }
    }

    /// Looks for the effect of the step at the cursor.
    pub(crate) async fn look(&self, live: &Live) -> Found {
        let place = live.row.cursor;
        let Some(Act::Remote(calls)) = live.step().map(|step| step.act.clone()) else {
            return Found::Doubtful;
        };
        let given = match live.given(place) {
            Ok(given) => given,
            Err(why) => return Found::Later(why, None),
        };
        let cx = live.context(place, Phase::Do, live.row.attempt, self.now_us());
        let probe = (calls.probe)(cx.clone(), given);
        let probe = self.watched(Deed::Probe, &cx, found_word, async move { Ok(probe.await) });
        match self.bounded(live, calls.within, probe).await {
            Ok(Finding::Applied(after)) => Found::Settled(Outcome::Applied(after)),
            Ok(Finding::NotApplied) => Found::Clear,
            Ok(Finding::Unfinished(_)) => Found::Unfinished,
            Ok(Finding::Unknown(why)) => Found::Later(why, None),
            Err(RemoteFault::Later(Later { why, not_before_us })) => Found::Later(why, not_before_us),
            Err(fault) => Found::Later(fault.to_string(), None),
        }
    }

    /// Undoes outside what was announced.
    pub(crate) async fn undo_outside(self: &Arc<Self>, live: &Live) -> Result<Moved, Stop> {
        let place = live.row.cursor.saturating_sub(1);
        let Some(StepUndo::Remote { within, run }) = live.def.steps.get(place).map(|step| step.undo.clone())
        else {
            return self.stuck(live, "bug", format!("step {place} has no undo outside")).await;
        };
        let undone = match live.given(place) {
            Ok(given) => {
                let cx = live.context(place, Phase::Undo, live.row.attempt, self.now_us());
                let undo = self.watched(Deed::Undo, &cx.clone(), word, run(cx, given));
                self.bounded(live, within, undo).await
            }
            Err(why) => Err(RemoteFault::Bug(why)),
        };
        match undone {
            Ok(()) => self.go_back(live, true).await,
            Err(RemoteFault::Later(Later { why, not_before_us })) => {
                self.try_later(live, why, not_before_us, Counted::InOrder).await
            }
            // It may be undone already: the undo finds that out itself when it runs again.
            Err(RemoteFault::Unknown(why)) => self.try_later(live, why, None, Counted::InOrder).await,
            Err(RemoteFault::Business(reason)) => self.stuck(live, "bug", reason.words).await,
            Err(RemoteFault::Bug(why)) => self.stuck(live, "bug", why).await,
        }
    }

    /// One call: at most so long, and a panic is a word like any other.
    pub(crate) async fn bounded<T: Send + 'static>(
        &self,
        live: &Live,
        within: Duration,
        call: impl Future<Output = Result<T, RemoteFault>> + Send + 'static,
    ) -> Result<T, RemoteFault> {
        let began = self.parts.clock.monotonic();
        // On a task of its own: a panic there ends the task and not this saga's driver.
        let task = tokio::spawn(tokio::time::timeout(within, call).in_current_span());
        let outcome = match task.await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_elapsed)) => Err(RemoteFault::Unknown(format!("no answer within {within:?}"))),
            Err(why) if why.is_panic() => Err(RemoteFault::Bug("the call panicked".to_owned())),
            Err(_) => Err(RemoteFault::Unknown("the call was stopped".to_owned())),
        };
        let step = live.step().map_or("", |step| step.name);
        let took = self.parts.clock.monotonic().saturating_sub(began);
        self.parts.observer.called(&live.row.workflow, step, took);
        outcome
    }
}
