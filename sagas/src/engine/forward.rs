//! Going forward: record what came of a step, take every local step that follows, and prepare the one that is not local.
//! Who enters: a saga at its cursor, with the outcome of the step there if it has one.
//! What leaves: one commit that holds all of it, or the word of the first step that said no.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use audit::Told;
use serde::Deserialize;

use super::begin;
use super::turn::{Halt, Next, Turn, child_signal, micros, signal_place};
use crate::define::step::{Act, ChildCalls, FanCalls, Given, RemoteCalls, Role, Step, WaitCalls};
use crate::ids::Phase;
use crate::limits::ITEMS_MAX;
use crate::refusal::{Later, Reason, Refused, Ruling};
use crate::seal::Plain;
use crate::signal::Signal;
use crate::state::{Event, State};
use crate::store::{self, LogKind, SignalRow, Trouble};

/// What is known of the step at the cursor.
#[derive(Clone)]
pub(crate) enum Outcome {
    /// Nothing: it was not begun, or waits.
    None,
    /// The call was made, and this came of it.
    Applied(Plain),
    /// All items are done, with these outcomes.
    Gathered(Vec<Plain>),
}

/// How far one commit goes, and how far it came when it did not succeed.
pub(crate) struct Bounds<'b> {
    pub(crate) stop_at: usize,
    pub(crate) reached: &'b AtomicUsize,
}

impl Turn<'_, '_> {
    /// The whole of one commit forward.
    pub(crate) fn forward(&mut self, outcome: &Outcome, bounds: &Bounds<'_>) -> Result<(), Halt> {
        if self.live.row.state == State::Backoff {
            self.meet(Event::Woken)?;
        }
        bounds.reached.store(self.live.row.cursor, Ordering::Relaxed);
        self.record(outcome)?;
        self.live.row.wake_us = Some(self.now_us);
        while self.next == Next::Again {
            let place = self.live.row.cursor;
            bounds.reached.store(place, Ordering::Relaxed);
            let Some(act) = self.live.step().map(|step| step.act.clone()) else { return self.succeed() };
            // At the border between two steps; the driver turns round after this commit.
            let at_border = self.has_moved() || !self.live.row.doubt;
            if place >= bounds.stop_at || (at_border && self.is_to_turn(place)?) {
                break;
            }
            self.hold_while_clocks_disagree(place)?;
            match act {
                Act::Local(run) => {
                    let given = self.given(place)?;
                    let cx = self.live.context(place, Phase::Do, self.live.row.attempt + 1, self.now_us);
                    let (after, told) = run(self.tx, &cx, &given).map_err(|it| Halt::Refused(place, it))?;
                    self.tell(told);
                    self.done(after)?;
                }
                Act::Remote(calls) => self.order_call(place, &calls)?,
                Act::FanOut(calls) => self.lay_out(place, &calls)?,
                Act::Wait(calls) => self.wait(place, &calls)?,
                Act::Child(calls) => self.child(place, &calls)?,
            }
        }
        Ok(())
    }

    /// What a notice or a grace comes before is not done while it is unclear how much time has passed.
    fn hold_while_clocks_disagree(&self, place: usize) -> Result<(), Halt> {
        let def = &self.live.def;
        let protected = def.steps.iter().take(place).any(Step::is_protective);
        if place != def.pivot() || self.live.row.begun || !protected {
            return Ok(());
        }
        let Some(left) = self.live.time.unsettled_us() else { return Ok(()) };
        let why = "the machine's clocks disagreed a short while ago; what cannot be undone waits until they have agreed for an hour";
        Err(Halt::Refused(place, Refused::Later(Later::at(why, self.now_us.saturating_add(left)))))
    }

    fn record(&mut self, outcome: &Outcome) -> Result<(), Halt> {
        let place = self.live.row.cursor;
        let act = self.live.step().map(|step| step.act.clone());
        let refused = |it| Halt::Refused(place, it);
        let (after, entries) = match (outcome, act) {
            (Outcome::None, _) => return Ok(()),
            (Outcome::Applied(after), Some(Act::Remote(calls))) => {
                let given = self.given(place)?;
                let cx = self.live.context(place, Phase::Do, self.live.row.attempt, self.now_us);
                let settled = calls.settle.as_ref().map(|settle| settle(self.tx, &cx, &given, after));
                (after.clone(), settled.transpose().map_err(refused)?.unwrap_or_default())
            }
            (Outcome::Applied(after), Some(_)) => (after.clone(), Vec::new()),
            (Outcome::Gathered(outs), Some(Act::FanOut(calls))) => {
                let given = self.given(place)?;
                let cx = self.live.context(place, Phase::Do, self.live.row.attempt, self.now_us);
                (calls.gather)(self.tx, &cx, &given, outs).map_err(refused)?
            }
            (Outcome::Gathered(_) | Outcome::Applied(_), _) => {
                return Err(Halt::Bug(format!("an outcome came for step {place}, which has none")));
            }
        };
        let untold = entries.is_empty();
        self.tell_all(entries);
        if untold {
            self.tell_step("workflow.step", place);
        }
        self.done(after)
    }

    /// A step was taken; what it left behind is kept, and the cursor moves on.
    fn done(&mut self, after: Plain) -> Result<(), Halt> {
        let place = self.live.row.cursor;
        if after.len() > crate::limits::STATE_BYTES_MAX {
            return Err(Halt::Refused(place, Refused::Bug(format!("step {place} leaves too large a state"))));
        }
        self.meet(Event::StepDone)?;
        if let Some(slot) = self.live.fold.get_mut(place) {
            *slot = Some(std::sync::Arc::new(after));
        }
        self.log(place, Phase::Do, LogKind::Done, None);
        self.moved_to(place + 1);
        self.live.row.trouble = None;
        Ok(())
    }

    fn succeed(&mut self) -> Result<(), Halt> {
        self.end(Event::Completed, false)?;
        let entry = self.live.entry("workflow.done", |detail| detail);
        self.tell(Told::new((), entry));
        Ok(())
    }

    fn order_call(&mut self, place: usize, calls: &RemoteCalls) -> Result<(), Halt> {
        self.live.row.attempt += 1;
        let given = self.given(place)?;
        let cx = self.live.context(place, Phase::Do, self.live.row.attempt, self.now_us);
        let order = match &calls.order {
            Some(order) => order(self.tx, &cx, &given).map_err(|it| Halt::Refused(place, it))?,
            None => {
                let attempt = self.live.row.attempt;
                let entry = self.live.entry("workflow.call", |detail| {
                    detail
                        .with("step", cx.step)
                        .with("effect", cx.effect.to_string())
                        .with("attempt", attempt)
                });
                Told::new((), entry).boxed()
            }
        };
        self.order(order);
        self.log(place, Phase::Do, LogKind::Intent, None);
        // If we stop after this commit, the next start finds the doubt and probes before it does anything else.
        self.begin();
        self.next = Next::Act;
        Ok(())
    }

    fn lay_out(&mut self, place: usize, calls: &FanCalls) -> Result<(), Halt> {
        let items =
            (calls.items)(&self.given(place)?).map_err(|why| Halt::Refused(place, Refused::Bug(why)))?;
        if items.len() > ITEMS_MAX {
            let why = format!("{} items are more than {ITEMS_MAX}", items.len());
            return Err(Halt::Refused(place, Refused::Bug(why)));
        }
        if !self.live.row.doubt {
            store::add_items(self.tx, self.live.key(), place, items.len())?;
            self.log(place, Phase::Do, LogKind::Intent, None);
            let count = items.len();
            let name = self.step_name(place);
            let entry =
                self.live.entry("workflow.fan_out", |detail| detail.with("step", name).with("items", count));
            self.tell(Told::new((), entry));
        }
        self.live.row.attempt += 1;
        self.begin();
        self.next = Next::Items;
        Ok(())
    }

    fn wait(&mut self, place: usize, calls: &WaitCalls) -> Result<(), Halt> {
        let given = self.given(place)?;
        // The doubt says that it was opened; a person who lets it be tried again does not open it twice.
        if !self.live.row.doubt {
            self.open_wait(place, calls, &given)?;
        }
        if self.live.row.state == State::Running {
            self.meet(Event::WaitOpened)?;
        }
        self.hear(place, calls, &given)?;
        if self.live.row.cursor != place || self.live.row.state != State::Waiting {
            return Ok(());
        }
        if self.is_wait_over() {
            let cx = self.live.context(place, Phase::Do, self.live.row.attempt, self.now_us);
            let ruling = (calls.at_deadline)(self.tx, &cx, &given).map_err(|it| Halt::Refused(place, it))?;
            if let Ruling::StillWaiting(_) | Ruling::WaitingAnew(..) = ruling {
                let why = format!("the deadline of `{}` ended nothing", cx.step);
                return Err(Halt::Refused(place, Refused::Bug(why)));
            }
            return self.rule(place, ruling);
        }
        // It waits as it should: what went wrong before is over.
        self.live.row.trouble = None;
        if let Some((from, until)) = self.live.row.proven {
            // Shown by the wall clock as it now stands, and looked at again then.
            let left = self.live.time.left_us(from, until);
            self.live.row.step_until_us = Some(self.now_us.saturating_add(left));
        }
        self.park(self.live.row.step_until_us);
        Ok(())
    }

    /// The step at the cursor is on record, and has no outcome yet.
    fn begin(&mut self) {
        self.live.row.doubt = true;
        self.live.row.begun = true;
    }

    /// The wait lasts so long from this commit on.
    fn wait_from_now(&mut self, time: Duration, protective: bool) {
        self.live.row.step_until_us = Some(self.now_us.saturating_add(micros(time)));
        let from = self.live.time.now_us();
        self.live.row.proven = protective.then(|| (from, from.saturating_add(micros(time))));
        self.opened = true;
    }

    fn is_wait_over(&self) -> bool {
        match self.live.row.proven {
            Some((from, until)) => self.live.time.left_us(from, until) == 0,
            None => self.live.row.step_until_us.is_some_and(|until| until <= self.now_us),
        }
    }

    fn open_wait(&mut self, place: usize, calls: &WaitCalls, given: &Given) -> Result<(), Halt> {
        self.live.row.attempt += 1;
        let cx = self.live.context(place, Phase::Do, self.live.row.attempt, self.now_us);
        let opened = calls.open.as_ref().map(|open| open(self.tx, &cx, given));
        let entries = opened.transpose().map_err(|it| Halt::Refused(place, it))?.unwrap_or_default();
        if entries.is_empty() {
            self.tell_step("workflow.wait", place);
        }
        self.tell_all(entries);
        let until = (calls.until)(given).map_err(|why| Halt::Refused(place, Refused::Bug(why)))?;
        self.wait_from_now(until, calls.protective);
        // Opened, it may have changed something: an unwinding undoes it too.
        self.begin();
        self.log(place, Phase::Do, LogKind::Intent, None);
        Ok(())
    }

    /// Hears every signal that has come in: in this very transaction, so that none can slip in between and be lost.
    fn hear(&mut self, place: usize, calls: &WaitCalls, given: &Given) -> Result<(), Halt> {
        let Some(on_signal) = &calls.on_signal else { return Ok(()) };
        for row in store::inbox(self.tx, self.live.key())? {
            if !calls.signals.contains(&row.name.as_str()) {
                continue;
            }
            // Whenever it is heard: what was said after the end of the wait does not count.
            if self.is_wait_over() && self.live.row.step_until_us.is_some_and(|until| until <= row.at_us) {
                store::consume(self.tx, self.live.key(), row.seq)?;
                self.tell_late(place, &row);
                continue;
            }
            let signal = self.opened(&row)?;
            let cx = self.live.context(place, Phase::Do, self.live.row.attempt, self.now_us);
            let ruling = on_signal(self.tx, &cx, given, &signal).map_err(|it| Halt::Refused(place, it))?;
            store::consume(self.tx, self.live.key(), row.seq)?;
            let over = !matches!(ruling, Ruling::StillWaiting(_) | Ruling::WaitingAnew(..));
            self.rule(place, ruling)?;
            if over {
                break;
            }
        }
        Ok(())
    }

    fn rule(&mut self, place: usize, ruling: Ruling<Plain>) -> Result<(), Halt> {
        match ruling {
            Ruling::StillWaiting(entries) => {
                self.tell_all(entries);
                Ok(())
            }
            Ruling::WaitingAnew(time, entries) => {
                self.tell_all(entries);
                self.wait_from_now(time, self.live.row.proven.is_some());
                Ok(())
            }
            Ruling::Passed(after, entries) => {
                if entries.is_empty() {
                    self.tell_step("workflow.step", place);
                }
                self.tell_all(entries);
                self.done(after)
            }
            Ruling::Refused(reason, entries) => {
                self.tell_all(entries);
                self.turn_round(&reason)?;
                self.next = Next::Park;
                self.live.row.wake_us = Some(self.now_us);
                Ok(())
            }
        }
    }

    fn child(&mut self, place: usize, calls: &ChildCalls) -> Result<(), Halt> {
        let given = self.given(place)?;
        if !self.live.row.doubt {
            let input = (calls.input)(&given).map_err(|why| Halt::Refused(place, Refused::Bug(why)))?;
            self.live.row.attempt += 1;
            let started = begin::child(self, place, calls.workflow, &input)?;
            self.tell(started.1);
            self.woken.push(started.0);
            self.begin();
            self.opened = true;
            self.log(place, Phase::Do, LogKind::Intent, None);
        }
        if self.live.row.state == State::Running {
            self.meet(Event::WaitOpened)?;
        }
        let name = child_signal(place);
        let Some(row) = store::inbox(self.tx, self.live.key())?.into_iter().find(|row| row.name == name)
        else {
            self.park(None);
            return Ok(());
        };
        let signal = self.opened(&row)?;
        store::consume(self.tx, self.live.key(), row.seq)?;
        let end: ChildEnd = signal.payload().map_err(|why| Halt::Refused(place, Refused::Bug(why)))?;
        if end.state == State::Succeeded.as_str() {
            let cx = self.live.context(place, Phase::Do, self.live.row.attempt, self.now_us);
            let result = end.result.to_string();
            let (after, entries) = (calls.finish)(self.tx, &cx, &given, result.as_bytes())
                .map_err(|it| Halt::Refused(place, it))?;
            return self.rule(place, Ruling::Passed(after, entries));
        }
        let why = end.error.unwrap_or_else(|| end.state.clone());
        let reason = Reason::new("child_failed", format!("`{}` ended {}: {why}", calls.workflow, end.state));
        match self.live.step().map(|step| step.role) {
            // What has passed its pivot cannot turn round because of a child; a person decides.
            Some(Role::Forward) => {
                self.stuck(Trouble { code: reason.code.into_owned(), words: reason.words })
            }
            // The child has undone itself: nothing of this step is left to undo.
            _ => {
                self.live.row.doubt = false;
                self.rule(place, Ruling::Refused(reason, Vec::new()))
            }
        }
    }

    /// Until its moment, or the saga's deadline while that counts, or a call.
    pub(crate) fn park(&mut self, until_us: Option<u64>) {
        let row = &self.live.row;
        let deadline = row.deadline_us.filter(|_| row.cursor <= self.live.def.pivot());
        let soonest = until_us.into_iter().chain(deadline).min().unwrap_or(FAR_US);
        self.live.row.wake_us = Some(soonest.max(self.now_us));
        self.next = Next::Park;
    }

    fn opened(&self, row: &SignalRow) -> Result<Signal, Halt> {
        let payload = match &row.payload_sealed {
            Some(sealed) => self.live.open(&signal_place(&row.name, &row.dedupe), sealed)?,
            None => Plain::default(),
        };
        let SignalRow { name, dedupe, actor, at_us, .. } = row.clone();
        Ok(Signal { name, dedupe, actor, at_us, payload })
    }

    pub(crate) fn given(&self, place: usize) -> Result<Given, Halt> {
        self.live.given(place).map_err(Halt::Bug)
    }

    fn tell_late(&mut self, place: usize, row: &SignalRow) {
        let (name, signal, by) = (self.step_name(place), row.name.clone(), row.actor.clone());
        let entry = self.live.entry("workflow.signal_late", |detail| {
            detail.with("step", name).with("signal", signal).with("sent_by", by)
        });
        self.tell(Told::new((), entry));
    }

    fn tell_step(&mut self, action: &'static str, place: usize) {
        let name = self.step_name(place);
        let entry = self.live.entry(action, |detail| detail.with("step", name));
        self.tell(Told::new((), entry));
    }
}

/// A moment that does not come: it lives, and nothing is due.
pub(crate) const FAR_US: u64 = i64::MAX as u64;

/// How a child tells its parent of its end.
#[derive(Deserialize)]
struct ChildEnd {
    state: String,
    error: Option<String>,
    result: serde_json::Value,
}
