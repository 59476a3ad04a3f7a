//! Faults on request: a definition is wrapped so that a chosen step or undo fails in a chosen way, a chosen number of times.
//! Who enters: a definition and a plan. What leaves: the same definition, hash included, that fails as planned,
//! and a record of every fault that was really met: a test that never met its fault has proven nothing.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use audit::{SqlFault, Tx};

use crate::context::StepContext;
use crate::define::Definition;
use crate::define::step::{
    Act, ChildCalls, FanCalls, Given, Held, LocalRun, LocalUndo, RemoteCalls, RemoteUndo, Step, StepUndo,
    WaitCalls,
};
use crate::ids::{EffectId, Phase, SagaKey};
use crate::refusal::{Finding, Later, Reason, Refused, RemoteFault, Ruling};
use crate::seal::Plain;
use crate::store;

/// How a step or an undo goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum How {
    /// A rule says no before anything happened.
    Refuse,
    /// Not now: nothing happened.
    Later,
    /// The way is closed, as by an open breaker: nothing happened.
    Closed,
    /// The answer is lost, and nothing happened.
    LostBefore,
    /// It happened, and the answer is lost.
    LostAfter,
    /// It happened, and happens a second time.
    Twice,
    /// The code panics.
    Panic,
    /// The items of a fan-out cannot be laid out: the one way to stop before a pivot that cannot refuse.
    Unlayable,
}

/// One planned fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// At which step.
    pub step: usize,
    /// Forward or back.
    pub phase: Phase,
    /// In which way.
    pub how: How,
    /// How often.
    pub times: u32,
}

/// Lines of a log that are counted.
const LINES_MAX: usize = 10_000;

/// Faults to come, and those that came.
#[derive(Debug, Default)]
pub struct Plan {
    faults: Mutex<Vec<Fault>>,
    met: Mutex<Vec<(usize, Phase, How)>>,
    /// Probes to be answered `NotApplied` although it happened: the effect is then asked for a second time.
    blind: Mutex<Vec<usize>>,
    /// Effects that were made, and not looked for since: whoever makes one of them again has forgotten it.
    made: Mutex<HashSet<EffectId>>,
    forgotten: Mutex<Vec<&'static str>>,
    /// What was met inside a transaction. One that is rolled back and run again meets the same, and not what comes after.
    within: Mutex<HashMap<Occasion, Option<How>>>,
}

/// A closure's one occasion: whose, which step or undo of it, after how many lines of its log, with which signal.
type Occasion = (SagaKey, usize, Phase, usize, String);

impl Plan {
    /// Plans faults, and forgets all others.
    pub fn set(&self, faults: Vec<Fault>) {
        *self.faults.lock().unwrap_or_else(PoisonError::into_inner) = faults;
        self.met.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.blind.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.made.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.within.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// No more faults; what was met stays known.
    pub fn heal(&self) {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.within.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Every fault that was met, in order.
    pub fn met(&self) -> Vec<(usize, Phase, How)> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The steps whose effect was made a second time although nobody had looked for the first.
    pub fn forgotten(&self) -> Vec<&'static str> {
        self.forgotten.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn calling(&self, cx: &StepContext) {
        if self.made.lock().unwrap_or_else(PoisonError::into_inner).contains(&cx.effect) {
            self.forgotten.lock().unwrap_or_else(PoisonError::into_inner).push(cx.step);
        }
    }

    fn called(&self, effect: EffectId) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).insert(effect);
    }

    fn looked_for(&self, effect: EffectId) {
        self.made.lock().unwrap_or_else(PoisonError::into_inner).remove(&effect);
    }

    fn meet_within(&self, tx: &Tx<'_>, cx: &StepContext, signal: &str) -> Result<Option<How>, SqlFault> {
        let lines = store::log_page(tx, &cx.saga, 0, LINES_MAX)?.len();
        let occasion = (cx.saga.clone(), cx.place, cx.phase, lines, signal.to_owned());
        let mut within = self.within.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(*within.entry(occasion).or_insert_with(|| self.meet(cx.place, cx.phase)))
    }

    fn meet(&self, step: usize, phase: Phase) -> Option<How> {
        self.meet_if(step, phase, |how| how != How::Unlayable)
    }

    fn meet_if(&self, step: usize, phase: Phase, fits: impl Fn(How) -> bool) -> Option<How> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = faults
            .iter_mut()
            .find(|it| it.step == step && it.phase == phase && it.times > 0 && fits(it.how))?;
        fault.times -= 1;
        let how = fault.how;
        self.met.lock().unwrap_or_else(PoisonError::into_inner).push((step, phase, how));
        if how == How::Twice && phase == Phase::Do {
            self.blind.lock().unwrap_or_else(PoisonError::into_inner).push(step);
        }
        Some(how)
    }

    fn is_blind(&self, step: usize) -> bool {
        let mut blind = self.blind.lock().unwrap_or_else(PoisonError::into_inner);
        match blind.iter().position(|it| *it == step) {
            Some(at) => {
                blind.remove(at);
                true
            }
            None => false,
        }
    }
}

/// The same definition, failing as planned.
pub fn wrap(mut definition: Definition, plan: &Arc<Plan>) -> Definition {
    for (place, step) in definition.steps.iter_mut().enumerate() {
        step.act = wrap_act(place, step, plan);
        step.undo = wrap_undo(place, step, plan);
    }
    definition
}

/// The code of an injected refusal: what a saga's end must show when that fault, and no other, turned it round.
pub const INJECTED: &str = "injected";

fn refused(how: How) -> Option<Refused<Reason>> {
    match how {
        How::Refuse => Some(Refused::business(INJECTED, "refused on request")),
        How::Later | How::LostBefore => Some(Refused::Later(Later::new("not now, on request"))),
        How::Closed => Some(Refused::Later(Later::at("closed, on request", 0))),
        How::LostAfter | How::Twice | How::Panic | How::Unlayable => None,
    }
}

fn fault(how: How) -> Option<RemoteFault> {
    match how {
        How::Refuse => Some(RemoteFault::business(INJECTED, "refused on request")),
        How::Later => Some(RemoteFault::later("not now, on request")),
        How::Closed => Some(RemoteFault::Later(Later::at("closed, on request", 0))),
        How::LostBefore => Some(RemoteFault::unknown("lost before, on request")),
        How::LostAfter | How::Twice | How::Panic | How::Unlayable => None,
    }
}

#[allow(clippy::panic, reason = "that is the fault")]
fn panic_if(how: Option<How>) {
    if how == Some(How::Panic) {
        panic!("on request");
    }
}

fn lost() -> Refused<Reason> {
    // Inside a transaction nothing can be lost after it happened: it is undone, and so it happens once.
    Refused::Later(Later::new("lost after, on request"))
}

fn wrap_act(place: usize, step: &Step, plan: &Arc<Plan>) -> Act {
    let plan = plan.clone();
    match step.act.clone() {
        Act::Local(run) => Act::Local(wrap_local(run, plan)),
        Act::Remote(calls) => Act::Remote(wrap_remote(place, calls, plan)),
        Act::FanOut(calls) => Act::FanOut(wrap_fan(place, calls, plan)),
        Act::Wait(calls) => Act::Wait(wrap_wait(calls, plan)),
        Act::Child(calls) => Act::Child(wrap_child(calls, plan)),
    }
}

/// A call whose effect is noted when it was made.
fn noted(
    plan: &Arc<Plan>,
    cx: &StepContext,
    call: Held<Result<Plain, RemoteFault>>,
) -> Held<Result<Plain, RemoteFault>> {
    plan.calling(cx);
    let (plan, effect) = (plan.clone(), cx.effect);
    Box::pin(async move {
        let answer = call.await;
        if answer.is_ok() {
            plan.called(effect);
        }
        answer
    })
}

/// A call that meets its fault, if one is planned: before it, after it, or instead of it.
fn meddled<T: Send + 'static>(
    met: Option<How>,
    call: impl FnOnce() -> Held<Result<T, RemoteFault>>,
) -> Held<Result<T, RemoteFault>> {
    if let Some(fault) = met.and_then(fault) {
        return Box::pin(async move { Err(fault) });
    }
    let called = call();
    Box::pin(async move {
        panic_if(met);
        let answer = called.await;
        if met.is_some() { Err(RemoteFault::unknown("lost after, on request")) } else { answer }
    })
}

fn wrap_remote(place: usize, mut calls: RemoteCalls, plan: Arc<Plan>) -> RemoteCalls {
    let (act, probe, acting) = (calls.act, calls.probe, plan.clone());
    calls.act = Arc::new(move |cx, given: Given, order| -> Held<_> {
        meddled(acting.meet(place, Phase::Do), || noted(&acting, &cx.clone(), act(cx, given, order)))
    });
    calls.probe = Arc::new(move |cx, given: Given| -> Held<_> {
        plan.looked_for(cx.effect);
        if plan.is_blind(place) { Box::pin(async { Finding::NotApplied }) } else { probe(cx, given) }
    });
    calls
}

fn wrap_fan(place: usize, mut calls: FanCalls, plan: Arc<Plan>) -> FanCalls {
    let (items, laying) = (calls.items, plan.clone());
    calls.items =
        Arc::new(move |given| match laying.meet_if(place, Phase::Do, |how| how == How::Unlayable) {
            Some(_) => Err("the items cannot be laid out, on request".to_owned()),
            None => items(given),
        });
    let (act, probe, acting) = (calls.act, calls.probe, plan.clone());
    calls.act = Arc::new(move |cx, given: Given, item, order| -> Held<_> {
        meddled(acting.meet(place, Phase::Do), || noted(&acting, &cx.clone(), act(cx, given, item, order)))
    });
    calls.probe = Arc::new(move |cx, given: Given, item| -> Held<_> {
        plan.looked_for(cx.effect);
        if plan.is_blind(place) { Box::pin(async { Finding::NotApplied }) } else { probe(cx, given, item) }
    });
    calls
}

fn wrap_wait(mut calls: WaitCalls, plan: Arc<Plan>) -> WaitCalls {
    let Some(on_signal) = calls.on_signal.take() else { return calls };
    calls.on_signal = Some(Arc::new(move |tx, cx, given, signal| {
        let met = plan.meet_within(tx, cx, &signal.dedupe)?;
        if met == Some(How::Refuse) {
            return Ok(Ruling::Refused(Reason::new(INJECTED, "refused on request"), Vec::new()));
        }
        if let Some(refused) = met.and_then(refused) {
            return Err(refused);
        }
        panic_if(met);
        let ruling = on_signal(tx, cx, given, signal)?;
        if met.is_some() { Err(lost()) } else { Ok(ruling) }
    }));
    calls
}

fn wrap_child(mut calls: ChildCalls, plan: Arc<Plan>) -> ChildCalls {
    let finish = calls.finish;
    calls.finish = Arc::new(move |tx, cx, given, result| {
        let met = plan.meet_within(tx, cx, "")?;
        if let Some(refused) = met.and_then(refused) {
            return Err(refused);
        }
        panic_if(met);
        let finished = finish(tx, cx, given, result)?;
        if met.is_some() { Err(lost()) } else { Ok(finished) }
    });
    calls
}

fn wrap_local(run: Arc<LocalRun>, plan: Arc<Plan>) -> Arc<LocalRun> {
    Arc::new(move |tx, cx, given| {
        let met = plan.meet_within(tx, cx, "")?;
        if let Some(refused) = met.and_then(refused) {
            return Err(refused);
        }
        panic_if(met);
        let done = run(tx, cx, given)?;
        if met.is_some() { Err(lost()) } else { Ok(done) }
    })
}

fn wrap_undo(place: usize, step: &Step, plan: &Arc<Plan>) -> StepUndo {
    let plan = plan.clone();
    match step.undo.clone() {
        StepUndo::Local(undo) => {
            let wrapped: Arc<LocalUndo> = Arc::new(move |tx, cx, given| {
                let met = plan.meet_within(tx, cx, "")?;
                if let Some(refused) = met.and_then(refused) {
                    return Err(refused);
                }
                panic_if(met);
                let undone = undo(tx, cx, given)?;
                if met == Some(How::Twice) {
                    // Here, and only here, twice in one transaction: an undo must bear it.
                    return undo(tx, cx, given).map(|again| undone.absorb(again));
                }
                if met.is_some() { Err(lost()) } else { Ok(undone) }
            });
            StepUndo::Local(wrapped)
        }
        StepUndo::Remote { within, run } => {
            let wrapped: Arc<RemoteUndo> = Arc::new(move |cx, given: Given| -> Held<_> {
                meddled(plan.meet(place, Phase::Undo), || run(cx, given))
            });
            StepUndo::Remote { within, run: wrapped }
        }
        other => other,
    }
}
