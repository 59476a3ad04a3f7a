//! A step that waits: for signals, for a moment, for both; always with a deadline.
//! Who enters: authors of definitions: until when, which signals, what each of them means, what the deadline means.
//! What leaves: a step whose rulings are made inside the transaction that takes the signal.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use audit::{Entry, Tx};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::step::{InTx, WaitCalls, reads_as, written};
use crate::context::StepContext;
use crate::refusal::{Reason, Refused, Ruling};
use crate::seal::Plain;
use crate::signal::Signal;

/// The beginning of a wait: until when?
pub struct Wait<I, B, R>(PhantomData<fn(I, B, R)>);

/// A wait that leaves `A` behind; signals and an opening can be added.
pub struct WaitStep<I, B, R, A> {
    pub(crate) calls: WaitCalls,
    types: PhantomData<fn(I, B, R, A)>,
}

impl<I, B, R> Wait<I, B, R>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
    R: Into<Reason> + Send + 'static,
{
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }

    /// It waits at most this long, counted from its opening; then `at_deadline` rules.
    pub fn until<A, U, F>(self, until: U, at_deadline: F) -> WaitStep<I, B, R, A>
    where
        A: Serialize + DeserializeOwned + Send + 'static,
        U: Fn(&I, &B) -> Duration + Send + Sync + 'static,
        F: Fn(&mut Tx<'_>, &StepContext, &I, &B) -> Result<Ruling<A, R>, Refused<R>> + Send + Sync + 'static,
    {
        let until = move |given: &super::step::Given| {
            let (input, before) = given.read::<I, B>()?;
            Ok(until(&input, &before))
        };
        let at_deadline = move |tx: &mut Tx<'_>, cx: &StepContext, given: &super::step::Given| {
            let (input, before) = given.read::<I, B>().map_err(Refused::Bug)?;
            folded(at_deadline(tx, cx, &input, &before))
        };
        let calls = WaitCalls {
            until: Arc::new(until),
            protective: false,
            signals: Vec::new(),
            open: None,
            on_signal: None,
            at_deadline: Arc::new(at_deadline),
            check: reads_as::<A>,
        };
        WaitStep { calls, types: PhantomData }
    }
}

impl<I, B, R, A> WaitStep<I, B, R, A> {
    /// Its time protects somebody, as a notice, a grace or a time lock does: only time counts that the appliance can prove
    /// has passed, so that a clock that is put forward shortens nothing.
    pub fn protective(mut self) -> Self {
        self.calls.protective = true;
        self
    }
}

impl<I, B> Wait<I, B, Reason>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
{
    /// It waits at most this long, counted from its opening; then the saga unwinds.
    pub fn at_most<A, U>(self, until: U) -> WaitStep<I, B, Reason, A>
    where
        A: Serialize + DeserializeOwned + Send + 'static,
        U: Fn(&I, &B) -> Duration + Send + Sync + 'static,
    {
        self.until(until, |_, cx, _, _| {
            let words = format!("nothing ended `{}` before its deadline", cx.step);
            Ok(Ruling::Refused(Reason::new("deadline", words), Vec::new()))
        })
    }
}

impl<I, B, R, A> WaitStep<I, B, R, A>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
    R: Into<Reason> + Send + 'static,
    A: Serialize + Send + 'static,
{
    /// Rows and entries of its beginning.
    pub fn open<F>(mut self, open: F) -> Self
    where
        F: Fn(&mut Tx<'_>, &StepContext, &I, &B) -> Result<Vec<Entry>, Refused<R>> + Send + Sync + 'static,
    {
        self.calls.open = Some(Arc::new(move |tx, cx, given| {
            let (input, before) = given.read::<I, B>().map_err(Refused::Bug)?;
            open(tx, cx, &input, &before).map_err(Refused::widen)
        }));
        self
    }

    /// The signals it listens to, and what each of them means.
    pub fn on<F>(mut self, signals: &[&'static str], on_signal: F) -> Self
    where
        F: Fn(&mut Tx<'_>, &StepContext, &I, &B, &Signal) -> Result<Ruling<A, R>, Refused<R>>
            + Send
            + Sync
            + 'static,
    {
        self.calls.signals = signals.to_vec();
        self.calls.on_signal = Some(Arc::new(move |tx, cx, given, signal| {
            let (input, before) = given.read::<I, B>().map_err(Refused::Bug)?;
            folded(on_signal(tx, cx, &input, &before, signal))
        }));
        self
    }
}

fn folded<A: Serialize, R: Into<Reason>>(ruling: Result<Ruling<A, R>, Refused<R>>) -> InTx<Ruling<Plain>> {
    Ok(match ruling.map_err(Refused::widen)? {
        Ruling::StillWaiting(entries) => Ruling::StillWaiting(entries),
        Ruling::WaitingAnew(time, entries) => Ruling::WaitingAnew(time, entries),
        Ruling::Passed(after, entries) => Ruling::Passed(written(&after).map_err(Refused::Bug)?, entries),
        Ruling::Refused(reason, entries) => Ruling::Refused(reason.into(), entries),
    })
}
