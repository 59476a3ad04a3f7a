//! A definition's text and its hash: what a row pins, so that an edited definition is noticed.
//! Who enters: a definition.
//! What leaves: canonical text, one line per step, and its SHA-256.

use std::fmt::Write as _;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::Definition;
use super::step::{Act, Role, Step, StepUndo};

impl Definition {
    /// Name, version, and for each step its kind, role, undo and bounds. What the closures do is not in it: a change
    /// of meaning needs a new version as much as a change of shape, and only its author can see it.
    pub fn canonical(&self) -> String {
        let mut text = format!("{}@{} deadline={}", self.name, self.version, span(self.deadline));
        text.push_str(if self.appliance_seal { " sealed=appliance\n" } else { " sealed=scope\n" });
        for (place, step) in self.steps.iter().enumerate() {
            // Writing into a String does not fail.
            let _ = writeln!(text, "{place} {}", line(step));
        }
        text
    }

    /// SHA-256 of the canonical text.
    pub fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.canonical()).into()
    }
}

fn line(step: &Step) -> String {
    let role = match (step.role, &step.undo) {
        (Role::Pivot, _) => "pivot".to_owned(),
        (Role::Forward, _) | (Role::Undoable, StepUndo::Never) => "fwd".to_owned(),
        (Role::Undoable, StepUndo::None(_)) => "undo=none".to_owned(),
        (Role::Undoable, StepUndo::Local(_)) => "undo=local".to_owned(),
        (Role::Undoable, StepUndo::Remote { within, .. }) => format!("undo=remote({})", span(Some(*within))),
    };
    let bounds = match &step.act {
        Act::Local(_) => String::new(),
        Act::Remote(calls) => {
            let order = if calls.order.is_some() { " ordered" } else { "" };
            let settle = if calls.settle.is_some() { " settled" } else { "" };
            format!(" within={}{order}{settle}", span(Some(calls.within)))
        }
        Act::Wait(calls) => format!(" on={}", calls.signals.join(",")),
        Act::FanOut(calls) => format!(" within={}", span(Some(calls.within))),
        Act::Child(calls) => format!(" workflow={}", calls.workflow),
    };
    format!("{} {} {role}{bounds}", step.act.kind(), step.name)
}

fn span(duration: Option<Duration>) -> String {
    duration.map_or_else(|| "none".to_owned(), |it| format!("{}ms", it.as_millis()))
}
