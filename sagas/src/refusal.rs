//! The words with which a step says that it did not, or may not have, done its work.
//! Who enters: steps and undos of definitions.
//! What leaves: four classes that decide alone between retry, probe, unwinding and a call for a person.

use std::borrow::Cow;
use std::convert::Infallible;
use std::time::Duration;

use audit::{Entry, SqlFault};

/// What can never be said. A step after the pivot has it where others have [`Reason`]: it cannot refuse.
pub type Never = Infallible;

/// Why a rule said no: a stable code for programs, words for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{words}")]
pub struct Reason {
    /// Such as `policy_denied`.
    pub code: Cow<'static, str>,
    /// What happened and what can be done about it. Never a secret: it is kept and shown.
    pub words: String,
}

impl Reason {
    /// A reason.
    pub fn new(code: impl Into<Cow<'static, str>>, words: impl Into<String>) -> Self {
        Self { code: code.into(), words: words.into() }
    }
}

impl From<Never> for Reason {
    fn from(never: Never) -> Self {
        match never {}
    }
}

/// It can be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Later {
    /// What stands in the way.
    pub why: String,
    /// When the way is known to be closed until then, in microseconds since 1970: waiting for it burns no attempt.
    pub not_before_us: Option<u64>,
}

impl Later {
    /// Try again after a pause that grows.
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), not_before_us: None }
    }

    /// Try again at a known moment, as when a breaker is open.
    pub fn at(why: impl Into<String>, not_before_us: u64) -> Self {
        Self { why: why.into(), not_before_us: Some(not_before_us) }
    }
}

/// Why a closure inside a transaction did nothing. What it had changed is undone.
#[derive(Debug, thiserror::Error)]
pub enum Refused<B = Reason> {
    /// A rule says no. Before the pivot this unwinds the saga.
    #[error("refused by a rule")]
    Business(B),
    /// Not now.
    #[error("not now: {}", .0.why)]
    Later(Later),
    /// The database did not run a statement.
    #[error("the database did not run a statement")]
    Sql(#[from] SqlFault),
    /// Something that cannot be. The saga stops and asks for a person.
    #[error("a defect: {0}")]
    Bug(String),
}

impl Refused<Reason> {
    /// A rule says no.
    pub fn business(code: impl Into<Cow<'static, str>>, words: impl Into<String>) -> Self {
        Self::Business(Reason::new(code, words))
    }

    /// The same in a word.
    pub(crate) fn word(&self) -> Cow<'static, str> {
        match self {
            Self::Business(reason) => reason.code.clone(),
            Self::Later(_) => "later".into(),
            Self::Sql(_) | Self::Bug(_) => "bug".into(),
        }
    }
}

impl<B: Into<Reason>> Refused<B> {
    /// The same, where reasons are possible.
    pub fn widen(self) -> Refused<Reason> {
        match self {
            Self::Business(reason) => Refused::Business(reason.into()),
            Self::Later(later) => Refused::Later(later),
            Self::Sql(fault) => Refused::Sql(fault),
            Self::Bug(what) => Refused::Bug(what),
        }
    }
}

/// How a call to the outside went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RemoteFault<B = Reason> {
    /// It certainly did not happen, and can be tried again.
    #[error("not now: {}", .0.why)]
    Later(Later),
    /// It may have happened. The engine probes before it does anything else.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// It certainly did not happen, because a rule says no.
    #[error("refused by a rule")]
    Business(B),
    /// Something that cannot be.
    #[error("a defect: {0}")]
    Bug(String),
}

impl RemoteFault<Reason> {
    /// A rule says no.
    pub fn business(code: impl Into<Cow<'static, str>>, words: impl Into<String>) -> Self {
        Self::Business(Reason::new(code, words))
    }
}

impl<B> RemoteFault<B> {
    /// It certainly did not happen; try again.
    pub fn later(why: impl Into<String>) -> Self {
        Self::Later(Later::new(why))
    }

    /// It may have happened.
    pub fn unknown(why: impl Into<String>) -> Self {
        Self::Unknown(why.into())
    }

    /// The same in a word.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Later(_) => "later",
            Self::Unknown(_) => "unknown",
            Self::Business(_) => "refused",
            Self::Bug(_) => "bug",
        }
    }
}

impl<B: Into<Reason>> RemoteFault<B> {
    /// The same, where reasons are possible.
    pub fn widen(self) -> RemoteFault<Reason> {
        match self {
            Self::Later(later) => RemoteFault::Later(later),
            Self::Unknown(why) => RemoteFault::Unknown(why),
            Self::Business(reason) => RemoteFault::Business(reason.into()),
            Self::Bug(what) => RemoteFault::Bug(what),
        }
    }
}

/// What looking for an effect by its id found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe<T> {
    /// It happened, and this came of it.
    Applied(T),
    /// It certainly did not happen, and nothing is on its way that would make it happen.
    NotApplied,
    /// Nobody can say at the moment.
    Unknown(String),
}

/// The right to say that a pivot's call changed nothing. Each call of a pivot is given one, before its first effect, and
/// nothing else makes one: a failure of some later part of the call cannot be passed off as a failure of the whole by a
/// conversion, a `?` or a loop. Drop it with the first effect.
#[derive(Debug)]
#[must_use = "drop it where the first effect is made"]
pub struct Untouched(());

impl Untouched {
    pub(crate) fn new() -> Self {
        Self(())
    }

    /// Nothing was changed, in no part of the pivot; the call can be made again, and until then the run may turn back.
    pub fn later<B>(self, why: impl Into<String>) -> PivotFault<B> {
        PivotFault(RemoteFault::later(why))
    }

    /// Nothing was changed, in no part of the pivot, because a rule says no; the run turns back.
    pub fn refused<B>(self, reason: B) -> PivotFault<B> {
        PivotFault(RemoteFault::Business(reason))
    }
}

/// How the call of a pivot went wrong. "Nothing happened" is said with [`Untouched`] alone; everything else is unknown, and
/// then the run never turns back: the pivot is probed and called again until it is done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PivotFault<B = Reason>(RemoteFault<B>);

impl<B> PivotFault<B> {
    /// A part of it, or all of it, may have happened.
    pub fn unknown(why: impl Into<String>) -> Self {
        Self(RemoteFault::Unknown(why.into()))
    }

    /// Something that cannot be. A person is needed.
    pub fn bug(why: impl Into<String>) -> Self {
        Self(RemoteFault::Bug(why.into()))
    }

    pub(crate) fn into_fault(self) -> RemoteFault<B> {
        self.0
    }
}

/// What a probe found of one part of a pivot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// As it was before the pivot, and nothing is on its way that would change it.
    Untouched,
    /// Begun and not finished; calling again finishes it.
    Partial,
    /// Done.
    Done,
    /// Nobody can say at the moment.
    Unclear(String),
}

/// What looking for the effect of a pivot found. It is made from its parts, all of them, so that "not applied" is said of the
/// whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PivotProbe<T>(Finding<T>);

impl<T> PivotProbe<T> {
    /// Judges a pivot by all its parts; `outcome` is what it leaves behind if all of them are done. A pivot without parts has
    /// nothing left to do.
    pub fn of_parts(parts: impl IntoIterator<Item = Part>, outcome: T) -> Self {
        let (mut untouched, mut done, mut partial) = (0_usize, 0_usize, false);
        for part in parts {
            match part {
                Part::Untouched => untouched += 1,
                Part::Done => done += 1,
                Part::Partial => partial = true,
                Part::Unclear(why) => return Self(Finding::Unknown(why)),
            }
        }
        Self(match (untouched, done, partial) {
            (0, _, false) => Finding::Applied(outcome),
            (_, 0, false) => Finding::NotApplied,
            _ => Finding::Unfinished(format!("{done} of {} parts are done", done + untouched)),
        })
    }

    /// Judges a pivot that is one effect and has no parts: what was found of it, or `None` if it certainly did not happen.
    pub fn of_one_effect(found: Option<T>) -> Self {
        Self(found.map_or(Finding::NotApplied, Finding::Applied))
    }

    /// The effect cannot be looked for, and one whose outcome was lost counts as none: `because` says why that is true of
    /// everything that matters outside.
    pub fn lost_is_undone(because: &'static str) -> Self {
        debug_assert!(!because.is_empty(), "a reason is needed");
        Self(Finding::NotApplied)
    }

    /// Nobody can say at the moment.
    pub fn unknown(why: impl Into<String>) -> Self {
        Self(Finding::Unknown(why.into()))
    }

    pub(crate) fn into_finding(self) -> Finding<T> {
        self.0
    }
}

/// What the engine learns from a probe, of a pivot or of any other call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Finding<T> {
    /// It happened, with this outcome.
    Applied(T),
    /// It certainly did not happen.
    NotApplied,
    /// A part of it happened: calling again finishes it, and nothing turns back.
    Unfinished(String),
    /// Nobody can say at the moment.
    Unknown(String),
}

impl<T> Finding<T> {
    pub(crate) fn try_map<U>(self, map: impl FnOnce(T) -> Result<U, String>) -> Finding<U> {
        match self {
            Self::Applied(value) => match map(value) {
                Ok(value) => Finding::Applied(value),
                Err(why) => Finding::Unknown(why),
            },
            Self::NotApplied => Finding::NotApplied,
            Self::Unfinished(why) => Finding::Unfinished(why),
            Self::Unknown(why) => Finding::Unknown(why),
        }
    }
}

impl<T> From<Probe<T>> for Finding<T> {
    fn from(probe: Probe<T>) -> Self {
        match probe {
            Probe::Applied(value) => Self::Applied(value),
            Probe::NotApplied => Self::NotApplied,
            Probe::Unknown(why) => Self::Unknown(why),
        }
    }
}

/// What a wait says to a signal, or to its deadline.
#[derive(Debug)]
pub enum Ruling<T, B = Reason> {
    /// Not enough yet; what changed is told.
    StillWaiting(Vec<Entry>),
    /// Its first part is over, and it waits so long from now on; what changed is told. Only a signal can say so.
    WaitingAnew(Duration, Vec<Entry>),
    /// It is over, and this is the new state.
    Passed(T, Vec<Entry>),
    /// A rule says no, and the saga unwinds; what changed, such as a veto, stands and is told.
    Refused(B, Vec<Entry>),
}
