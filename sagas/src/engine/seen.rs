//! How others see the work of a saga: what goes outside, from its beginning to its end, and what was taken in commits.
//! Who enters: calls, probes and undos on their way; commits in which a step ended.
//! What leaves: the same, told to the observer. Nothing of it decides anything.

use std::borrow::Cow;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use audit::SqlFault;
use tokio::sync::oneshot;

use super::Inner;
use super::live::Live;
use super::turn::{Moved, Turn};
use crate::context::StepContext;
use crate::define::step::{Act, StepUndo};
use crate::ids::Phase;
use crate::limits::ITEMS_SEEN_MAX;
use crate::refusal::{Finding, Reason, Refused, RemoteFault};
use crate::seal::Plain;
use crate::state::State;
use crate::store::{self, LogKind, LogLine};

/// What is done at a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    /// It is taken.
    Run,
    /// It is undone.
    Undo,
    /// Its effect is looked for.
    Probe,
    /// It waits for a signal or a moment.
    Wait,
    /// The saga waits for its locks, before its first step.
    Lock,
    /// The items of it that are not seen each on its own.
    Others,
}

/// Work that is watched; it says in a word how it ended.
pub type Watched = Pin<Box<dyn Future<Output = &'static str> + Send>>;

/// A deed that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Past {
    /// When it began, in microseconds since 1970; perhaps in a process before this one.
    pub began_us: u64,
    /// How long it took, until it was durable.
    pub took: Duration,
    /// How it ended: `done`, or the word for what was wrong.
    pub ended: Cow<'static, str>,
}

/// A step that ended in a commit.
pub(crate) struct Taken {
    deed: Deed,
    place: usize,
    phase: Phase,
    attempt: u32,
    began_us: u64,
    ended: Cow<'static, str>,
}

impl Deed {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Undo => "undo",
            Self::Probe => "probe",
            Self::Wait => "wait",
            Self::Lock => "lock",
            Self::Others => "others",
        }
    }
}

impl Turn<'_, '_> {
    /// What ended in this commit and was not seen while it was done, as a call outside is.
    pub(crate) fn taken(&self, lines: &[LogLine]) -> Result<Vec<Taken>, SqlFault> {
        let mut taken = Vec::new();
        for line in lines {
            if let Some((deed, began_us)) = self.deed_of(line)? {
                let trouble = line.trouble.as_ref().map(|trouble| Cow::from(trouble.code.clone()));
                let ended = trouble.unwrap_or(Cow::from("done"));
                let (place, phase, attempt) = (line.step, line.phase, line.attempt);
                taken.push(Taken { deed, place, phase, attempt, began_us, ended });
            }
        }
        Ok(taken)
    }

    fn deed_of(&self, line: &LogLine) -> Result<Option<(Deed, u64)>, SqlFault> {
        let Some(step) = self.live.def.steps.get(line.step) else { return Ok(None) };
        let goes_on = matches!(self.live.row.state, State::Running | State::Waiting | State::Backoff);
        let deed = match (line.phase, line.kind, &step.act, &step.undo) {
            (Phase::Do, LogKind::Done, Act::Local(_), _) => return Ok(Some((Deed::Run, self.now_us))),
            (Phase::Undo, LogKind::Done, _, StepUndo::Local(_)) => {
                return Ok(Some((Deed::Undo, self.now_us)));
            }
            // A try that did not work and is made again has not ended the step.
            (Phase::Do, LogKind::Failed, ..) if goes_on => return Ok(None),
            (Phase::Do, LogKind::Done | LogKind::Failed, Act::Wait(_), _) => Deed::Wait,
            (Phase::Do, LogKind::Done | LogKind::Failed, Act::FanOut(_) | Act::Child(_), _) => Deed::Run,
            _ => return Ok(None),
        };
        let begun = store::begun_us(self.tx, self.live.key(), line.step, self.live.row.round)?;
        Ok(begun.map(|began_us| (deed, began_us)))
    }
}

impl Inner {
    /// Tells of the steps that ended in a commit.
    pub(crate) fn tell_taken(&self, moved: &Moved, took: Duration) {
        let live = &moved.live;
        for taken in &moved.taken {
            let at = live.context(taken.place, taken.phase, taken.attempt, live.row.updated_us);
            let before = Duration::from_micros(live.row.updated_us.saturating_sub(taken.began_us));
            let past = Past { began_us: taken.began_us, took: before + took, ended: taken.ended.clone() };
            self.parts.observer.taken(taken.deed, &at, &past);
        }
    }

    /// Tells of the step that a commit began with and that said no, so that nothing was committed. One further on said no to
    /// the others' commit only, and is asked again by itself.
    pub(crate) fn tell_refused(
        &self,
        live: &Live,
        place: usize,
        refused: &Refused<Reason>,
        (began_us, took): (u64, Duration),
    ) {
        let (deed, phase) = match live.row.state {
            State::Unwinding => (Deed::Undo, Phase::Undo),
            _ if place == live.row.cursor => (Deed::Run, Phase::Do),
            _ => return,
        };
        let at = live.context(place, phase, live.row.attempt, began_us);
        self.parts.observer.taken(deed, &at, &Past { began_us, took, ended: refused.word() });
    }

    /// Tells how long a saga waited for its locks, whether it got them or gave up.
    pub(crate) fn tell_locked(&self, live: &Live) {
        let row = &live.row;
        let ended = match row.state {
            State::Pending => return,
            State::Compensated => row.trouble.as_ref().map(|trouble| trouble.code.clone()),
            _ => None,
        };
        let ended = ended.map_or(Cow::from("granted"), Cow::from);
        let took = Duration::from_micros(row.updated_us.saturating_sub(row.created_us));
        let at = live.context(0, Phase::Do, 0, row.updated_us);
        self.parts.observer.taken(Deed::Lock, &at, &Past { began_us: row.created_us, took, ended });
    }

    /// Tells of the items beyond those that are seen each on its own, by their number.
    pub(crate) fn tell_others(&self, live: &Live, others: usize, (began_us, took): (u64, Duration)) {
        if others > 0 {
            let at = live.context(live.row.cursor, Phase::Do, live.row.attempt, began_us);
            let ended = Cow::from(format!("{others} more items"));
            self.parts.observer.taken(Deed::Others, &at, &Past { began_us, took, ended });
        }
    }

    /// Lets the observer watch a call about an item, if it is one of those that are seen each on its own.
    pub(crate) fn watched_item<T: Send + 'static>(
        &self,
        deed: Deed,
        at: &StepContext,
        word: fn(&Result<T, RemoteFault>) -> &'static str,
        call: impl Future<Output = Result<T, RemoteFault>> + Send + 'static,
    ) -> Pin<Box<dyn Future<Output = Result<T, RemoteFault>> + Send>> {
        match at.item {
            Some(item) if item >= ITEMS_SEEN_MAX => Box::pin(call),
            _ => Box::pin(self.watched(deed, at, word, call)),
        }
    }

    /// Lets the observer watch a call from its beginning to its end.
    pub(crate) fn watched<T: Send + 'static>(
        &self,
        deed: Deed,
        at: &StepContext,
        word: fn(&Result<T, RemoteFault>) -> &'static str,
        call: impl Future<Output = Result<T, RemoteFault>> + Send + 'static,
    ) -> impl Future<Output = Result<T, RemoteFault>> + Send + 'static {
        let (tell, told) = oneshot::channel();
        let work = self.parts.observer.watch(
            deed,
            at,
            Box::pin(async move {
                let outcome = call.await;
                let word = word(&outcome);
                // Nobody waits any more: the outcome is found by a probe.
                let _ = tell.send(outcome);
                word
            }),
        );
        async move {
            work.await;
            told.await.unwrap_or_else(|_| Err(RemoteFault::Unknown("the call was dropped".to_owned())))
        }
    }
}

/// What a look at an effect found, in a word.
pub(crate) fn found_word(found: &Result<Finding<Plain>, RemoteFault>) -> &'static str {
    match found {
        Ok(Finding::Applied(_)) => "applied",
        Ok(Finding::NotApplied) => "not applied",
        Ok(Finding::Unfinished(_)) => "unfinished",
        Ok(Finding::Unknown(_)) => "unknown",
        Err(fault) => fault.word(),
    }
}

/// How a call ended, in a word.
pub(crate) fn word<T>(outcome: &Result<T, RemoteFault>) -> &'static str {
    outcome.as_ref().map_or_else(RemoteFault::word, |_| "done")
}
