//! One commit of a saga in the making: a copy of it, changed step by step, then saved over the row it came from.
//! Who enters: the rooms of going forward and going back, inside one transaction.
//! What leaves: the saga as it now is, what comes next, and entries that tell all of it.

use std::sync::Arc;

use audit::{Entry, SqlFault, Told, Tx};

use super::live::Live;
use super::parts::Env;
use super::seen::Taken;
use crate::define::step::Order;
use crate::ids::{Phase, SagaKey};
use crate::lock::hold;
use crate::outbox::{Life, NotPublished};
use crate::refusal::{Reason, Refused};
use crate::seal::SealFault;
use crate::state::{Event, IllegalEvent, State};
use crate::store::{self, LogKind, LogLine, Saved, SignalRow, Trouble};

/// Why a commit of a saga did not come about. What it had changed is undone.
#[derive(Debug)]
pub(crate) enum Halt {
    /// The row is not what this copy of it was made from: another engine has the saga, or it has moved on since.
    Stale,
    /// The step at this place said no.
    Refused(usize, Refused<Reason>),
    Sql(SqlFault),
    Bug(String),
}

impl From<SqlFault> for Halt {
    fn from(fault: SqlFault) -> Self {
        Self::Sql(fault)
    }
}

impl From<IllegalEvent> for Halt {
    fn from(illegal: IllegalEvent) -> Self {
        Self::Bug(illegal.to_string())
    }
}

impl From<NotPublished> for Halt {
    fn from(not: NotPublished) -> Self {
        match not {
            NotPublished::Sql(fault) => Self::Sql(fault),
            not => Self::Bug(not.to_string()),
        }
    }
}

impl From<SealFault> for Halt {
    fn from(fault: SealFault) -> Self {
        Self::Bug(fault.to_string())
    }
}

/// What the driver does after a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Look again: there is more to do.
    Again,
    /// Make the call that was ordered.
    Act,
    /// Make the calls of the fan-out's items.
    Items,
    /// Undo outside what was announced.
    Undo,
    /// Nothing until the row's moment comes, or someone calls.
    Park,
    /// It is over, or a person is needed.
    Rest,
}

/// What a commit brought about.
pub(crate) struct Moved {
    pub(crate) live: Live,
    pub(crate) next: Next,
    /// Other sagas that can go on now.
    pub(crate) woken: Vec<SagaKey>,
    /// What ended in it, for those who watch.
    pub(crate) taken: Vec<Taken>,
}

impl Moved {
    /// Nothing was committed, or nothing but a start.
    pub(crate) fn still(live: Live, next: Next) -> Self {
        Self { live, next, woken: Vec::new(), taken: Vec::new() }
    }
}

/// A commit in the making.
pub(crate) struct Turn<'a, 't> {
    pub(crate) tx: &'a mut Tx<'t>,
    pub(crate) env: &'a Arc<Env>,
    pub(crate) live: Live,
    pub(crate) now_us: u64,
    pub(crate) next: Next,
    pub(crate) woken: Vec<SagaKey>,
    cursor_before: usize,
    state_before: State,
    /// A wait was opened, or its time began anew.
    pub(crate) opened: bool,
    log: Vec<LogLine>,
    told: Option<Told<()>>,
    order: Option<Told<Order>>,
}

impl<'a, 't> Turn<'a, 't> {
    pub(crate) fn new(tx: &'a mut Tx<'t>, env: &'a Arc<Env>, live: Live, now_us: u64) -> Self {
        let (cursor_before, state_before) = (live.row.cursor, live.row.state);
        Self {
            tx,
            env,
            live,
            now_us,
            next: Next::Again,
            woken: Vec::new(),
            cursor_before,
            state_before,
            opened: false,
            log: Vec::new(),
            told: None,
            order: None,
        }
    }

    pub(crate) fn meet(&mut self, event: Event) -> Result<(), IllegalEvent> {
        self.live.row.state = self.live.row.state.after(event)?;
        Ok(())
    }

    pub(crate) fn has_moved(&self) -> bool {
        self.live.row.cursor != self.cursor_before
    }

    /// Whether it must turn round before this step: it was called off, or its time is over. The row is asked, since either may
    /// have come while a call was under way whose outcome this commit brings home.
    pub(crate) fn is_to_turn(&mut self, place: usize) -> Result<bool, SqlFault> {
        if place > self.live.def.pivot() {
            return Ok(false);
        }
        self.live.row.cancel = self.live.row.cancel || store::is_cancelled(self.tx, self.live.key())?;
        Ok(self.live.row.cancel || self.live.row.deadline_us.is_some_and(|deadline| deadline <= self.now_us))
    }

    pub(crate) fn tell(&mut self, told: Told<()>) {
        self.told = Some(match self.told.take() {
            Some(earlier) => earlier.absorb(told),
            None => told,
        });
    }

    pub(crate) fn tell_all(&mut self, entries: Vec<Entry>) {
        entries.into_iter().for_each(|entry| self.tell(Told::new((), entry)));
    }

    /// The order whose evidence the coming call needs; its entry leads the commit.
    pub(crate) fn order(&mut self, order: Told<Order>) {
        self.order = Some(order);
    }

    pub(crate) fn log(&mut self, step: usize, phase: Phase, kind: LogKind, trouble: Option<Trouble>) {
        let attempt = self.live.row.attempt;
        self.log.push(LogLine { step, phase, kind, attempt, out_sealed: None, trouble });
    }

    /// A fresh start for whatever stands at the cursor now.
    pub(crate) fn moved_to(&mut self, cursor: usize) {
        let row = &mut self.live.row;
        row.cursor = cursor;
        row.attempt = 0;
        row.doubt = false;
        row.begun = false;
        row.step_until_us = None;
        row.proven = None;
        row.budget_until_us = None;
    }

    /// The step at the cursor does not work now and is tried again: after a pause that grows, or at a known moment.
    pub(crate) fn later(&mut self, trouble: Trouble, not_before_us: Option<u64>) -> Result<(), Halt> {
        self.meet(Event::RetryLater)?;
        let unwinding = self.live.row.state == State::Unwinding;
        let phase = if unwinding { Phase::Undo } else { Phase::Do };
        let step = self.live.row.cursor - usize::from(unwinding);
        self.log(step, phase, LogKind::Failed, Some(trouble.clone()));
        let row = &mut self.live.row;
        let pause = self.env.pause(&row.key, row.attempt);
        row.wake_us = Some(not_before_us.map_or(self.now_us + pause, |at| at.max(self.now_us)));
        // While it unwinds, the reason for that stays: it is what the end will be told with.
        if !unwinding {
            row.trouble = Some(trouble.clone());
        }
        // Each is in the log; the ledger hears of the first, second, fourth, eighth: an outage must not flood it.
        if row.attempt.is_power_of_two() && not_before_us.is_none() {
            let attempt = row.attempt;
            let name = self.step_name(step);
            let entry = self.live.entry("workflow.retry", |detail| {
                detail
                    .with("step", name)
                    .with("phase", phase.as_str())
                    .with("attempt", attempt)
                    .with("error", trouble.words)
            });
            self.tell(Told::new((), entry));
        }
        self.next = Next::Park;
        Ok(())
    }

    /// Nothing more without a person.
    pub(crate) fn stuck(&mut self, trouble: Trouble) -> Result<(), Halt> {
        let unwinding = self.live.row.state == State::Unwinding;
        self.meet(Event::Stuck)?;
        let phase = if unwinding { Phase::Undo } else { Phase::Do };
        let step = self.live.row.cursor - usize::from(unwinding);
        self.log(step, phase, LogKind::Failed, Some(trouble.clone()));
        let name = self.step_name(step);
        let entry = self.live.entry("workflow.stuck", |detail| {
            detail
                .with("step", name)
                .with("phase", phase.as_str())
                .with("code", trouble.code.clone())
                .with("error", trouble.words.clone())
        });
        self.tell(Told::new((), entry));
        self.live.row.wake_us = None;
        let reason = self.live.row.trouble.take().filter(|_| unwinding);
        self.live.row.trouble = Some(match reason {
            Some(reason) => Trouble {
                code: trouble.code,
                words: format!("{}; it unwinds because: {}", trouble.words, reason.words),
            },
            None => trouble,
        });
        self.next = Next::Rest;
        Ok(())
    }

    /// The end: locks are given back, secrets wiped, the parent is told.
    pub(crate) fn end(&mut self, event: Event, fenced: bool) -> Result<(), Halt> {
        self.meet(event)?;
        let key = self.live.key().clone();
        let claims = hold::read(self.live.row.locks.take().as_deref());
        self.woken.extend(hold::release(self.tx, &key, &claims, self.now_us, fenced)?);
        if self.live.row.state == State::Succeeded {
            let result = self.live.fold.last().cloned().flatten();
            let sealed = result.map(|plain| self.live.seal("result", &plain)).transpose()?;
            self.live.row.result_sealed = sealed;
            self.live.row.result_until_us = Some(self.now_us + micros(self.env.limits.result_kept));
        }
        self.live.row.input_sealed = None;
        self.live.row.wake_us = None;
        self.tell_parent()?;
        self.next = Next::Rest;
        Ok(())
    }

    fn tell_parent(&mut self) -> Result<(), Halt> {
        let Some(parent) = self.live.row.parent.clone() else { return Ok(()) };
        let (state, words) =
            (self.live.row.state, self.live.row.trouble.as_ref().map(|it| it.words.as_str()));
        let result = self.live.fold.last().cloned().flatten();
        let result = match (state, &result) {
            (State::Succeeded, Some(plain)) => serde_json::from_slice(plain).unwrap_or_default(),
            _ => serde_json::Value::Null,
        };
        let end =
            serde_json::json!({ "state": state.as_str(), "error": words, "result": result }).to_string();
        let name = child_signal(parent.step);
        let place = super::live::sealed_place(&parent.key, &signal_place(&name, "end"));
        let row = SignalRow {
            seq: 0,
            name,
            dedupe: "end".to_owned(),
            actor: self.live.row.origin.actor.clone(),
            payload_sealed: Some(self.live.cipher.seal(&place, end.as_bytes())?),
            at_us: self.now_us,
        };
        store::add_signal(self.tx, &parent.key, &row)?;
        if store::wake(self.tx, &parent.key, self.now_us)? {
            self.woken.push(parent.key);
        }
        Ok(())
    }

    /// Writes log and row, and binds what is told together. `None` told: the commit was bookkeeping only.
    pub(crate) fn save(mut self) -> Result<(Moved, Option<Told<Order>>), Halt> {
        self.live.row.updated_us = self.now_us;
        let over = self.live.row.state.is_over();
        let mut lines = std::mem::take(&mut self.log);
        for line in &mut lines {
            let plain = self.live.fold.get(line.step).cloned().flatten();
            if let (LogKind::Done, Phase::Do, Some(plain), false) = (line.kind, line.phase, plain, over) {
                line.out_sealed = Some(self.live.seal(&out_place(line.step), &plain)?);
            }
            let row = &self.live.row;
            store::append(self.tx, &row.key, line, row.round, row.epoch, self.now_us)?;
        }
        let taken = self.taken(&lines)?;
        if over {
            store::wipe(self.tx, self.live.key(), true, true)?;
        }
        self.publish_life()?;
        // Nothing hit: whatever this copy believes is history.
        if self.live.row.save(self.tx)? == Saved::MovedOn {
            return Err(Halt::Stale);
        }
        let told = match (self.order.take(), self.told.take()) {
            (Some(order), Some(told)) => Some(order.absorb(told)),
            (Some(order), None) => Some(order),
            (None, told) => told.map(Told::boxed),
        };
        Ok((Moved { live: self.live, next: self.next, woken: self.woken, taken }, told))
    }

    /// Others hear of a change of state in the commit that makes it.
    fn publish_life(&self) -> Result<(), NotPublished> {
        let Live { row, def, .. } = &self.live;
        let before = Some(self.state_before);
        Life { row, def, before, opened: self.opened, now_us: self.now_us }.publish(self.tx)
    }

    pub(crate) fn step_name(&self, step: usize) -> &'static str {
        self.live.def.steps.get(step).map_or("", |it| it.name)
    }
}

pub(crate) fn micros(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 4)
}

pub(crate) fn out_place(step: usize) -> String {
    format!("out/{step}")
}

pub(crate) fn signal_place(name: &str, dedupe: &str) -> String {
    format!("signal/{name}/{dedupe}")
}

/// The signal by which a child tells its end; no outsider can send one, since `#` begins no signal's name.
pub(crate) fn child_signal(step: usize) -> String {
    format!("#child/{step}")
}
