//! Driving one saga: look where it stands, do the one thing that follows, commit, look again.
//! Who enters: a saga that fell due, fresh from its start or from the ledger; running and recovery take the same way.
//! What leaves: the moment when it is due again, or nothing: it rests, waits for a call, or belongs to another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tracing::Instrument as _;

use super::Inner;
use super::commit::Stop;
use super::forward::{Bounds, Outcome};
use super::live::Live;
use super::outside::Found;
use super::turn::{Halt, Moved, Next};
use crate::define::step::{Act, Role};
use crate::lock::hold;
use crate::refusal::{Later, Reason, Refused};
use crate::state::{Event, State};
use crate::store::{self, Trouble};

/// Where an attempt that did not work is counted, so that each is counted once and the pauses grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Counted {
    /// With its order, in a commit that stands.
    InOrder,
    /// Not yet: what it did was undone with its transaction.
    NotYet,
}

impl Inner {
    /// Drives until nothing can be done now; says when it is due again.
    ///
    /// After whatever went wrong between two commits the row is read anew. A copy from before would not know of the order that
    /// one move committed before its call, nor that the call was made, and would make it again, or turn round behind a pivot.
    pub(crate) async fn drive(self: &Arc<Self>, mut live: Live) -> Option<u64> {
        let first = self.parts.limits.ledger_pause;
        let mut pause = first;
        loop {
            if self.is_closing() {
                return None;
            }
            match self.one_move(&live).instrument(self.span(&live)).await {
                Ok(moved) => {
                    pause = first;
                    live = moved.live;
                    match moved.next {
                        Next::Rest => return None,
                        Next::Park if live.row.wake_us.is_some_and(|wake| wake > self.now_us()) => {
                            return live.row.wake_us;
                        }
                        _ => {}
                    }
                }
                Err(Stop::NotNow | Stop::Stale) => {
                    let key = live.key().clone();
                    drop(live);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(first * 50);
                    live = match self.load_own(&key).await {
                        Ok(Some(live)) => live,
                        Ok(None) => return None,
                        Err(why) => return Some(self.unreadable(&key, &why)),
                    };
                }
                Err(_) => return None,
            }
        }
    }

    fn span(&self, live: &Live) -> tracing::Span {
        let step = live.step().map_or("", |step| step.name);
        let origin = &live.row.origin;
        // Named as a request's own span names them, so that one search finds both.
        tracing::info_span!("workflow", request_id = origin.request, trace_id = origin.trace_id(),
            saga = %live.key().id, workflow = live.def.name, step, attempt = live.row.attempt)
    }

    /// One move; if a step says no, the move that follows from its word.
    async fn one_move(self: &Arc<Self>, live: &Live) -> Result<Moved, Stop> {
        match self.next_move(live).await {
            Err(stop @ (Stop::LetGo | Stop::NotNow | Stop::Stale)) => Err(stop),
            Err(stop) => self.not_taken(live, stop).await,
            moved => moved,
        }
    }

    /// The one thing that follows from where it stands.
    async fn next_move(self: &Arc<Self>, live: &Live) -> Result<Moved, Stop> {
        let not_yet = live.row.wake_us.is_some_and(|wake| wake > self.now_us());
        match live.row.state {
            State::Pending => self.begin_or_give_up(live).await,
            State::Backoff | State::Unwinding if not_yet => Ok(Moved::still(live.clone(), Next::Park)),
            State::Running | State::Waiting | State::Backoff => match self.reason_to_turn(live) {
                Some(reason) => self.turn_round(live, reason).await,
                None if live.row.doubt => self.resolve(live).await,
                None => self.go_on(live, Outcome::None).await,
            },
            State::Unwinding => self.go_back(live, false).await,
            _ => Ok(Moved::still(live.clone(), Next::Rest)),
        }
    }

    async fn begin_or_give_up(self: &Arc<Self>, live: &Live) -> Result<Moved, Stop> {
        let moved = self.commit(live, |turn| {
            let claims = hold::read(turn.live.row.locks.as_deref());
            let key = turn.live.key().clone();
            let Some(blocker) = hold::blocked(turn.tx, &key, &claims)? else {
                hold::hold(turn.tx, &key, &claims, turn.now_us)?;
                turn.meet(Event::LocksGranted)?;
                turn.moved_to(0);
                turn.live.row.wake_us = Some(turn.now_us);
                let entry = turn.live.entry("workflow.locked", |detail| detail);
                turn.tell(audit::Told::new((), entry));
                return Ok(());
            };
            let late = turn.live.row.step_until_us.is_some_and(|until| until <= turn.now_us);
            if !(late || turn.live.row.cancel) {
                turn.park(turn.live.row.step_until_us);
                return Ok(());
            }
            let (code, words) = match turn.live.row.cancel {
                true => ("cancelled", "it was cancelled before it had its locks".to_owned()),
                false => {
                    ("locked", format!("`{}` was in use by {} for too long", blocker.lock, blocker.saga.id))
                }
            };
            turn.live.row.trouble = Some(Trouble { code: code.to_owned(), words: words.clone() });
            turn.end(Event::GaveUp, false)?;
            let entry = turn.live.entry("workflow.compensated", |detail| detail.with("reason", words));
            turn.tell(audit::Told::new((), entry));
            Ok(())
        });
        let moved = moved.await?.0;
        self.tell_locked(&moved.live);
        Ok(moved)
    }

    /// Why a saga that could go on must not: only before its pivot.
    fn reason_to_turn(&self, live: &Live) -> Option<Reason> {
        if live.past_pivot() {
            return None;
        }
        if live.row.cancel {
            return Some(Reason::new("cancelled", "it was cancelled"));
        }
        let late = live.row.deadline_us.is_some_and(|deadline| deadline <= self.now_us());
        late.then(|| Reason::new("deadline", "it did not reach its pivot before its deadline"))
    }

    async fn turn_round(self: &Arc<Self>, live: &Live, reason: Reason) -> Result<Moved, Stop> {
        match live.step().map(|step| &step.act) {
            // What may have happened is found out first: an undo must not overtake its own effect.
            Some(Act::Remote(_) | Act::FanOut(_)) if live.row.doubt => match self.look(live).await {
                Found::Settled(outcome) => self.go_on(live, outcome).await,
                Found::Clear => self.unwind(&live.without_doubt(), reason).await,
                Found::Later(why, later) => self.doubtful(live, why, later).await,
                Found::Unfinished | Found::Doubtful => self.unwind(live, reason).await,
            },
            Some(Act::Child(_)) if live.row.state == State::Waiting => self.cancel_child(live).await,
            _ => self.unwind(live, reason).await,
        }
    }

    async fn unwind(self: &Arc<Self>, live: &Live, reason: Reason) -> Result<Moved, Stop> {
        Ok(self.commit(live, move |turn| turn.turn_round(&reason)).await?.0)
    }

    /// The child turns round first, if it still can; its end then comes as a signal.
    async fn cancel_child(self: &Arc<Self>, live: &Live) -> Result<Moved, Stop> {
        let moved = self.commit(live, |turn| {
            let place = turn.live.row.cursor;
            let child = crate::ids::SagaKey {
                scope: turn.live.key().scope.clone(),
                id: turn.live.key().id.child(place),
            };
            if store::ask_to_cancel(turn.tx, &child, turn.now_us)? {
                let entry =
                    turn.live.entry("workflow.cancel_child", |it| it.with("child", child.id.to_string()));
                turn.tell(audit::Told::new((), entry));
                turn.woken.push(child);
            }
            // The child's end may be here already.
            turn.forward(&Outcome::None, &Bounds { stop_at: place + 1, reached: &AtomicUsize::new(0) })?;
            if turn.next == Next::Park && turn.live.row.state == State::Waiting {
                turn.live.row.wake_us = Some(super::forward::FAR_US);
            }
            Ok(())
        });
        Ok(moved.await?.0)
    }

    /// A step was begun and its outcome is not known: find out, and only then go on.
    async fn resolve(self: &Arc<Self>, live: &Live) -> Result<Moved, Stop> {
        match self.look(live).await {
            Found::Settled(outcome) => self.go_on(live, outcome).await,
            Found::Clear => self.go_on(&live.without_doubt(), Outcome::None).await,
            Found::Later(why, later) => self.doubtful(live, why, later).await,
            Found::Unfinished | Found::Doubtful => self.go_on(live, Outcome::None).await,
        }
    }

    /// The outcome stays unknown: ask again later, and at the end of the budget ask a person.
    pub(crate) async fn doubtful(
        self: &Arc<Self>,
        live: &Live,
        why: String,
        later: Option<u64>,
    ) -> Result<Moved, Stop> {
        let budget = self.parts.limits.unknown_budget;
        let moved = self.commit(live, move |turn| {
            let trouble = Trouble { code: "unknown".to_owned(), words: why.clone() };
            let until = turn.live.row.budget_until_us.unwrap_or(turn.now_us + super::turn::micros(budget));
            turn.live.row.budget_until_us = Some(until);
            if turn.live.row.state == State::Backoff {
                turn.meet(Event::Woken)?;
            }
            if until <= turn.now_us {
                return turn.stuck(trouble);
            }
            turn.live.row.attempt += 1;
            turn.later(trouble, later)
        });
        Ok(moved.await?.0)
    }

    /// Forward, as far as one commit goes. If a later step says no, what precedes it is committed without it.
    pub(crate) async fn go_on(self: &Arc<Self>, live: &Live, outcome: Outcome) -> Result<Moved, Stop> {
        let mut stop_at = usize::MAX;
        loop {
            if self.is_closing() {
                // The outcome at hand is recorded, and nothing after it is begun.
                stop_at = stop_at.min(live.row.cursor + 1);
            }
            let reached = Arc::new(AtomicUsize::new(live.row.cursor));
            let (seen, outcome) = (reached.clone(), outcome.clone());
            let work = move |turn: &mut super::turn::Turn<'_, '_>| {
                turn.forward(&outcome, &Bounds { stop_at, reached: &seen })
            };
            match self.commit(live, work).await {
                Ok((moved, order)) => return self.follow(moved, order).await,
                Err(Stop::Refused(place, _)) if place > live.row.cursor && stop_at != place => {
                    stop_at = place
                }
                Err(Stop::Panicked)
                    if reached.load(Ordering::Relaxed) > live.row.cursor && stop_at == usize::MAX =>
                {
                    stop_at = reached.load(Ordering::Relaxed);
                }
                Err(stop) => return Err(stop),
            }
        }
    }

    /// What was ordered in a commit is done right after it.
    async fn follow(
        self: &Arc<Self>,
        moved: Moved,
        order: Option<audit::Recorded<crate::define::step::Order>>,
    ) -> Result<Moved, Stop> {
        match (moved.next, order) {
            (Next::Act, Some(order)) => {
                let called = self.call(&moved.live, order).await;
                Box::pin(self.called(&moved.live, called)).await
            }
            (Next::Items, _) => Box::pin(self.all_items(&moved.live)).await,
            (Next::Undo, _) => Box::pin(self.undo_outside(&moved.live)).await,
            _ => Ok(moved),
        }
    }

    pub(crate) async fn go_back(self: &Arc<Self>, live: &Live, undone: bool) -> Result<Moved, Stop> {
        let (moved, order) = self.commit(live, move |turn| turn.backward(undone)).await?;
        self.follow(moved, order).await
    }

    /// A step or an undo did not work: later, back, or a person, by the class of its word alone.
    pub(crate) async fn not_taken(self: &Arc<Self>, live: &Live, stop: Stop) -> Result<Moved, Stop> {
        match stop {
            Stop::Refused(_, Refused::Later(Later { why, not_before_us })) => {
                self.try_later(live, why, not_before_us, Counted::NotYet).await
            }
            Stop::Refused(_, Refused::Business(reason)) => {
                let forward = live.step().is_none_or(|step| step.role == Role::Forward);
                if forward || live.row.state == State::Unwinding {
                    return self
                        .stuck(live, "bug", format!("a rule said no where none may: {}", reason.words))
                        .await;
                }
                self.unwind(live, reason).await
            }
            Stop::Refused(_, Refused::Bug(why)) | Stop::Bug(why) => self.stuck(live, "bug", why).await,
            Stop::Refused(_, Refused::Sql(fault)) => match fault {
                audit::SqlFault::DiskFull(_) | audit::SqlFault::Busy(_) => Err(Stop::NotNow),
                fault => self.stuck(live, "bug", fault_words(&fault)).await,
            },
            Stop::Panicked => self.stuck(live, "bug", "a closure of the step panicked".to_owned()).await,
            stop => Err(stop),
        }
    }

    pub(crate) async fn try_later(
        self: &Arc<Self>,
        live: &Live,
        why: String,
        not_before_us: Option<u64>,
        counted: Counted,
    ) -> Result<Moved, Stop> {
        let moved = self.commit(live, move |turn| {
            let trouble = Trouble { code: "later".to_owned(), words: why.clone() };
            if turn.live.row.state == State::Backoff {
                turn.meet(Event::Woken)?;
            }
            let unwinding = turn.live.row.state == State::Unwinding;
            if unwinding && turn.live.row.budget_until_us.is_some_and(|until| until <= turn.now_us) {
                return turn.stuck(trouble);
            }
            // A way known to be closed costs no attempt.
            let row = &mut turn.live.row;
            match (counted, not_before_us) {
                (Counted::InOrder, Some(_)) => row.attempt = row.attempt.saturating_sub(1).max(1),
                (Counted::NotYet, None) => row.attempt += 1,
                _ => {}
            }
            turn.later(trouble, not_before_us)
        });
        Ok(moved.await?.0)
    }

    pub(crate) async fn stuck(
        self: &Arc<Self>,
        live: &Live,
        code: &'static str,
        why: String,
    ) -> Result<Moved, Stop> {
        let moved = self
            .commit(live, move |turn| turn.stuck(Trouble { code: code.to_owned(), words: clipped(&why) }));
        Ok(moved.await?.0)
    }
}

/// A fault with its cause: what a person who must decide needs to read.
fn fault_words(fault: &audit::SqlFault) -> String {
    match std::error::Error::source(fault) {
        Some(cause) => format!("{fault}: {cause}"),
        None => fault.to_string(),
    }
}

/// As much of an error as is kept.
pub(crate) fn clipped(words: &str) -> String {
    let end =
        (0..=crate::limits::ERROR_BYTES_MAX.min(words.len())).rev().find(|at| words.is_char_boundary(*at));
    words[..end.unwrap_or_default()].to_owned()
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Self {
        Self::Bug(format!("{stop:?}"))
    }
}
