//! The one transition table: where a saga can stand, and what can happen to it there.
//! Who enters: running, recovery and operators' verbs, each with an event.
//! What leaves: the next state, or the refusal of an event that cannot happen here.

use std::fmt::Write as _;

/// Where a saga stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum State {
    /// It waits for its locks; nothing was done.
    Pending,
    /// A step is being taken.
    Running,
    /// A step waits for a signal, a moment or a child.
    Waiting,
    /// A step will be tried again.
    Backoff,
    /// Steps are being undone, the last first.
    Unwinding,
    /// All steps were taken.
    Succeeded,
    /// All steps that were taken are undone.
    Compensated,
    /// A step cannot be taken and must not be undone blindly. A person is needed; locks are kept.
    StuckForward,
    /// An undo does not succeed. A person is needed; locks are kept.
    StuckUndo,
    /// A person took it over, with a reason.
    Abandoned,
}

/// What happens to a saga.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Event {
    /// All its locks are its own.
    LocksGranted,
    /// It was cancelled, or its time ran out, before it had its locks.
    GaveUp,
    /// A step was taken.
    StepDone,
    /// A step began to wait.
    WaitOpened,
    /// A step did not work, and will be tried again.
    RetryLater,
    /// The pause before the next try is over.
    Woken,
    /// A rule, a deadline or a cancellation said no.
    Refused,
    /// The last step was taken.
    Completed,
    /// An undo was taken.
    UndoDone,
    /// Nothing is left to undo.
    AllUndone,
    /// Nothing more can be done without a person.
    Stuck,
    /// A person: try again.
    OperatorRetried,
    /// A person: the step is done, here is the evidence.
    OperatorSupplied,
    /// A person: leave this undo out.
    OperatorSkipped,
    /// A person: go forward after all.
    OperatorResumed,
    /// A person: undo what was done.
    OperatorUnwound,
    /// A person: let go.
    OperatorAbandoned,
}

/// This cannot happen here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a saga that is {} cannot meet {event:?}", state.as_str())]
pub struct IllegalEvent {
    /// Where it stands.
    pub state: State,
    /// What should have happened.
    pub event: Event,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::Pending,
        Self::Running,
        Self::Waiting,
        Self::Backoff,
        Self::Unwinding,
        Self::Succeeded,
        Self::Compensated,
        Self::StuckForward,
        Self::StuckUndo,
        Self::Abandoned,
    ];

    /// The whole life of a saga.
    pub fn after(self, event: Event) -> Result<Self, IllegalEvent> {
        use Event as E;
        use State as S;
        Ok(match (self, event) {
            (S::Pending, E::LocksGranted) => S::Running,
            (S::Pending, E::GaveUp) => S::Compensated,

            (S::Running | S::Waiting, E::StepDone) => S::Running,
            (S::Running | S::Waiting, E::WaitOpened) => S::Waiting,
            (S::Running, E::RetryLater) => S::Backoff,
            (S::Waiting, E::RetryLater) => S::Waiting,
            (S::Backoff, E::Woken) => S::Running,
            (S::Running, E::Completed) => S::Succeeded,
            (S::Running | S::Waiting | S::Backoff, E::Refused) => S::Unwinding,
            (S::Running | S::Waiting | S::Backoff, E::Stuck) => S::StuckForward,

            (S::Unwinding, E::UndoDone | E::RetryLater) => S::Unwinding,
            (S::Unwinding, E::AllUndone) => S::Compensated,
            (S::Unwinding, E::Stuck) => S::StuckUndo,

            (S::StuckForward, E::OperatorRetried | E::OperatorSupplied) => S::Running,
            (S::StuckForward, E::OperatorUnwound) => S::Unwinding,
            (S::StuckUndo, E::OperatorRetried | E::OperatorSkipped) => S::Unwinding,
            (S::StuckUndo, E::OperatorResumed) => S::Running,
            (S::StuckForward | S::StuckUndo, E::OperatorAbandoned) => S::Abandoned,

            (state, event) => return Err(IllegalEvent { state, event }),
        })
    }

    /// Whether nothing will ever happen to it again.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Succeeded | Self::Compensated | Self::Abandoned)
    }

    /// Whether it needs a person.
    pub fn is_stuck(self) -> bool {
        matches!(self, Self::StuckForward | Self::StuckUndo)
    }

    /// The word in rows, entries and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Backoff => "backoff",
            Self::Unwinding => "unwinding",
            Self::Succeeded => "succeeded",
            Self::Compensated => "compensated",
            Self::StuckForward => "stuck_forward",
            Self::StuckUndo => "stuck_undo",
            Self::Abandoned => "abandoned",
        }
    }

    /// The state with this word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }
}

impl Event {
    /// Every event.
    pub const ALL: [Self; 17] = [
        Self::LocksGranted,
        Self::GaveUp,
        Self::StepDone,
        Self::WaitOpened,
        Self::RetryLater,
        Self::Woken,
        Self::Refused,
        Self::Completed,
        Self::UndoDone,
        Self::AllUndone,
        Self::Stuck,
        Self::OperatorRetried,
        Self::OperatorSupplied,
        Self::OperatorSkipped,
        Self::OperatorResumed,
        Self::OperatorUnwound,
        Self::OperatorAbandoned,
    ];
}

/// The table as people read it, for the page that shows it: one line for each thing that can happen.
pub fn transition_table() -> String {
    let mut table = String::from("| state | event | next state |\n| --- | --- | --- |\n");
    for state in State::ALL {
        for event in Event::ALL {
            if let Ok(next) = state.after(event) {
                // Writing into a String does not fail.
                let _ = writeln!(table, "| {} | {event:?} | {} |", state.as_str(), next.as_str());
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_over_meets_nothing_and_what_is_stuck_meets_only_people() {
        for state in State::ALL {
            for event in Event::ALL {
                let legal = state.after(event).is_ok();
                let by_person = format!("{event:?}").starts_with("Operator");
                assert!(!(legal && state.is_over()), "{state:?} {event:?}");
                assert!(!legal || by_person == state.is_stuck(), "{state:?} {event:?}");
            }
        }
    }

    #[test]
    fn every_state_can_be_reached_and_every_event_can_happen() {
        let mut reached = vec![State::Pending];
        let mut happened = Vec::new();
        let mut at = 0;
        while let Some(state) = reached.get(at).copied() {
            for event in Event::ALL {
                if let Ok(next) = state.after(event) {
                    happened.push(event);
                    if !reached.contains(&next) {
                        reached.push(next);
                    }
                }
            }
            at += 1;
        }
        assert_eq!(reached.len(), State::ALL.len());
        assert!(Event::ALL.iter().all(|event| happened.contains(event)));
    }

    #[test]
    fn words_and_states_stand_for_each_other() {
        assert!(State::ALL.iter().all(|state| State::from_word(state.as_str()) == Some(*state)));
        assert_eq!(State::from_word("done"), None);
    }
}
