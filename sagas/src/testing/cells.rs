//! What must be proven of a definition, cell by cell, and the book of what was.
//! Who enters: a definition; each cell as it is proven.
//! What leaves: the cells that are missing; none, or the proof is none.

use std::collections::BTreeSet;

use super::inject::How;
use crate::define::Definition;
use crate::define::step::{Act, Role, StepUndo};

/// One thing to prove of one step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    /// The step goes wrong in this way.
    Do(&'static str, How),
    /// The undo goes wrong in this way, three times, and then works.
    Undo(&'static str, How),
    /// The undo never works: stuck, locks kept; then a person retries.
    UndoForEver(&'static str),
    /// The undo never works: stuck; then a person skips it.
    UndoSkipped(&'static str),
    /// The saga is cancelled while this step waits.
    CancelAt(&'static str),
    /// The wait's deadline passes.
    DeadlineAt(&'static str),
    /// The process dies after each commit on the way forward.
    CrashForward,
    /// The process dies after each commit on the way back from this step.
    CrashBack(&'static str),
    /// The ledger refuses each write of the way forward in turn, once.
    LedgerRefuses,
    /// The same, and the deadline passes in that moment.
    LedgerRefusesTooLong,
    /// The ledger refuses each write of the way back from this step in turn, once.
    LedgerRefusesBack(&'static str),
}

/// Every cell of a definition.
pub fn expected_cells(definition: &Definition) -> BTreeSet<Cell> {
    let mut cells = BTreeSet::from([Cell::CrashForward, Cell::LedgerRefuses]);
    if definition.deadline.is_some() {
        cells.insert(Cell::LedgerRefusesTooLong);
    }
    for step in &definition.steps {
        let forward = step.role == Role::Forward;
        let fan_pivot = step.role == Role::Pivot && matches!(step.act, Act::FanOut(_));
        let refusable = !forward && !fan_pivot && !matches!(step.act, Act::Child(_));
        let deaf = matches!(&step.act, Act::Wait(calls) if calls.on_signal.is_none());
        if !deaf {
            let always = [How::Later, How::Closed, How::LostAfter, How::Panic];
            cells.extend(always.map(|how| Cell::Do(step.name, how)));
        }
        if refusable && !deaf {
            cells.extend([
                Cell::Do(step.name, How::Refuse),
                Cell::CrashBack(step.name),
                Cell::LedgerRefusesBack(step.name),
            ]);
        }
        if matches!(step.act, Act::Remote(_) | Act::FanOut(_)) {
            cells.extend([How::LostBefore, How::Twice].map(|how| Cell::Do(step.name, how)));
        }
        if matches!(step.act, Act::Wait(_)) {
            cells.insert(Cell::DeadlineAt(step.name));
            if !forward {
                cells.insert(Cell::CancelAt(step.name));
            }
        }
        if matches!(step.undo, StepUndo::Local(_) | StepUndo::Remote { .. }) {
            cells.extend([How::Later, How::LostAfter, How::Twice].map(|how| Cell::Undo(step.name, how)));
            cells.extend([Cell::UndoForEver(step.name), Cell::UndoSkipped(step.name)]);
        }
    }
    cells
}

/// The book of proven cells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    proven: BTreeSet<Cell>,
}

impl Coverage {
    pub(super) fn proven(&mut self, cell: Cell) {
        self.proven.insert(cell);
    }

    /// How many cells were proven.
    pub fn count(&self) -> usize {
        self.proven.len()
    }

    /// The cells that a definition needs and that were not proven.
    pub fn missing(&self, definition: &Definition) -> Vec<Cell> {
        expected_cells(definition).difference(&self.proven).cloned().collect()
    }
}
