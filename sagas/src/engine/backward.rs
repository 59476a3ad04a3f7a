//! Going back: turn round, then undo one step after the other, the last first, until nothing is left.
//! Who enters: a saga that a rule, a deadline, a cancellation or a person turned round.
//! What leaves: one commit per undo; a saga that is compensated, or stuck in words.

use audit::Told;

use super::turn::{Halt, Next, Turn, micros};
use crate::define::step::{Role, StepUndo};
use crate::ids::Phase;
use crate::refusal::Reason;
use crate::state::Event;
use crate::store::{LogKind, Trouble};

impl Turn<'_, '_> {
    /// Turns round at the cursor.
    pub(crate) fn turn_round(&mut self, reason: &Reason) -> Result<(), Halt> {
        let place = self.live.row.cursor;
        let trouble = Trouble { code: reason.code.to_string(), words: reason.words.clone() };
        self.log(place, Phase::Do, LogKind::Failed, Some(trouble.clone()));
        let name = self.step_name(place);
        let entry = self.live.entry("workflow.unwinding", |detail| {
            detail.with("step", name).with("code", trouble.code.clone()).with("reason", trouble.words.clone())
        });
        self.tell(Told::new((), entry));
        self.begin_undo(Event::Refused)?;
        self.live.row.trouble = Some(trouble);
        Ok(())
    }

    /// From forward to back, for whatever reason. A step that was begun is undone with the others, whether it happened
    /// or not: its order may have left rows, and an undo does nothing where there is nothing.
    pub(crate) fn begin_undo(&mut self, event: Event) -> Result<(), Halt> {
        let begun = self
            .live
            .step()
            .is_some_and(|step| step.role == Role::Undoable && !step.is_local() && self.live.row.begun);
        self.meet(event)?;
        self.moved_to(self.live.row.cursor + usize::from(begun));
        self.live.row.budget_until_us = Some(self.now_us + micros(self.env.limits.undo_budget));
        self.live.row.wake_us = Some(self.now_us);
        Ok(())
    }

    /// The whole of one commit back: what was undone outside, then what needs no undo, then one undo more.
    pub(crate) fn backward(&mut self, undone_outside: bool) -> Result<(), Halt> {
        self.live.row.wake_us = Some(self.now_us);
        let mut undone = false;
        if undone_outside {
            let place = self.live.row.cursor.saturating_sub(1);
            let name = self.step_name(place);
            let entry = self.live.entry("workflow.undone", |detail| detail.with("step", name));
            self.tell(Told::new((), entry));
            self.undone(place, LogKind::Done)?;
            undone = true;
        }
        loop {
            let Some(place) = self.live.row.cursor.checked_sub(1) else { return self.compensated() };
            match self.live.def.steps.get(place).map(|step| step.undo.clone()) {
                Some(StepUndo::None(_) | StepUndo::Never) | None => self.undone(place, LogKind::Skipped)?,
                Some(_) if undone => return Ok(()),
                Some(StepUndo::Local(undo)) => {
                    self.live.row.attempt += 1;
                    let given = self.given(place)?;
                    let cx = self.live.context(place, Phase::Undo, self.live.row.attempt, self.now_us);
                    let told = undo(self.tx, &cx, &given).map_err(|it| Halt::Refused(place, it))?;
                    self.tell(told);
                    self.undone(place, LogKind::Done)?;
                    undone = true;
                }
                Some(StepUndo::Remote { .. }) => return self.announce(place),
            }
        }
    }

    fn announce(&mut self, place: usize) -> Result<(), Halt> {
        self.live.row.attempt += 1;
        let (name, attempt) = (self.step_name(place), self.live.row.attempt);
        self.log(place, Phase::Undo, LogKind::Intent, None);
        let entry =
            self.live.entry("workflow.undo", |detail| detail.with("step", name).with("attempt", attempt));
        self.tell(Told::new((), entry));
        self.next = Next::Undo;
        Ok(())
    }

    fn undone(&mut self, place: usize, kind: LogKind) -> Result<(), Halt> {
        self.meet(Event::UndoDone)?;
        self.log(place, Phase::Undo, kind, None);
        self.moved_to(place);
        // The budget is for each undo, not for all of them together.
        self.live.row.budget_until_us = Some(self.now_us + micros(self.env.limits.undo_budget));
        Ok(())
    }

    fn compensated(&mut self) -> Result<(), Halt> {
        self.end(Event::AllUndone, false)?;
        let reason = self.live.row.trouble.as_ref().map(|it| it.words.clone());
        let entry = self.live.entry("workflow.compensated", |detail| detail.with("reason", reason));
        self.tell(Told::new((), entry));
        Ok(())
    }
}
