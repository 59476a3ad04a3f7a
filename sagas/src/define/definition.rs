//! A finished definition: what the engine runs, and what makes a list of steps one.
//! Who enters: the builder, with everything its author said.
//! What leaves: a definition that can be asked for its name, its steps and its pivot; or what is missing, by name.

use std::sync::Arc;
use std::time::Duration;

use super::step::{Act, Role, Step, StepUndo};
use crate::limits::{STEPS_MAX, STEPS_MIN};
use crate::lock::Lock;

pub(crate) type LocksOf = dyn Fn(&[u8]) -> Result<Vec<Lock>, String> + Send + Sync;

/// A workflow: its steps, in order, with all they need.
#[derive(Clone)]
pub struct Definition {
    pub(crate) name: &'static str,
    pub(crate) version: u32,
    pub(crate) deadline: Option<Duration>,
    pub(crate) appliance_seal: bool,
    pub(crate) steps: Vec<Step>,
    pub(crate) locks: Option<Arc<LocksOf>>,
    pub(crate) check_input: fn(&[u8]) -> Result<(), String>,
}

/// Why a definition is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DefinitionRefused {
    /// Split it, or merge steps.
    #[error("`{name}` has {steps} steps; a workflow has {STEPS_MIN} to {STEPS_MAX}")]
    Steps {
        /// Which workflow.
        name: &'static str,
        /// How many it has.
        steps: usize,
    },
    /// Give each step its own name.
    #[error("`{name}` has two steps named `{step}`")]
    StepTwice {
        /// Which workflow.
        name: &'static str,
        /// Which step.
        step: &'static str,
    },
    /// A call that may take no time never succeeds, and a call without a bound hangs.
    #[error("step `{step}` of `{name}` allows its call no time")]
    NoTime {
        /// Which workflow.
        name: &'static str,
        /// Which step.
        step: &'static str,
    },
    /// Say why there is nothing to undo.
    #[error("step `{step}` of `{name}` has no undo and does not say why")]
    NoReason {
        /// Which workflow.
        name: &'static str,
        /// Which step.
        step: &'static str,
    },
    /// Count versions from 1.
    #[error("`{name}` has version 0")]
    Version {
        /// Which workflow.
        name: &'static str,
    },
}

impl Definition {
    /// Its name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Its version.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The names of its steps, in order.
    pub fn steps(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.steps.iter().map(|step| step.name)
    }

    /// The place of its pivot.
    pub fn pivot(&self) -> usize {
        self.steps.iter().position(|step| step.role == Role::Pivot).unwrap_or(self.steps.len())
    }

    pub(crate) fn listens_to(&self, signal: &str) -> bool {
        self.steps.iter().any(|step| matches!(&step.act, Act::Wait(calls) if calls.signals.contains(&signal)))
    }

    pub(super) fn checked(self) -> Result<Self, DefinitionRefused> {
        let name = self.name;
        if self.version == 0 {
            return Err(DefinitionRefused::Version { name });
        }
        if !(STEPS_MIN..=STEPS_MAX).contains(&self.steps.len()) {
            return Err(DefinitionRefused::Steps { name, steps: self.steps.len() });
        }
        for (place, Step { name: step, act, undo, .. }) in self.steps.iter().enumerate() {
            if self.steps.iter().take(place).any(|earlier| earlier.name == *step) {
                return Err(DefinitionRefused::StepTwice { name, step });
            }
            if act.within().is_some_and(|within| within.is_zero()) {
                return Err(DefinitionRefused::NoTime { name, step });
            }
            if matches!(undo, StepUndo::None(why) if why.trim().is_empty()) {
                return Err(DefinitionRefused::NoReason { name, step });
            }
        }
        Ok(self)
    }
}

impl std::fmt::Debug for Definition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.canonical())
    }
}
