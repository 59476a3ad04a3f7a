//! The life of a key: every state, every event, one table.
//! Who enters: commands and recovery, with an event.
//! What leaves: the next state, or that the event is impossible now.

use std::fmt;
use std::str::FromStr;

use crate::malformed::Malformed;

/// Where a key stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// Its first version is on order in the token.
    Creating,
    /// Signs.
    Enabled,
    /// Does not sign until it is enabled again.
    Disabled,
    /// Will be destroyed; until then it can be kept.
    DestructionPending,
    /// Its destruction in the token has begun and will be finished.
    Destroying,
    /// Gone from the token. The record and its public keys stay.
    Destroyed,
    /// The token did not make it.
    Failed,
}

/// What can happen to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyEvent {
    /// The token made the first version.
    Made,
    /// The token did not make it.
    NotMade,
    /// An operator or member took it out of use.
    Disable,
    /// Back into use.
    Enable,
    /// Its destruction was scheduled.
    ScheduleDestruction,
    /// The scheduled destruction was called off, and certainly nothing was destroyed: the key stands as it stood before.
    CalledOff(KeyState),
    /// The notice is over.
    NoticeOver,
    /// The token has destroyed all versions.
    Gone,
}

/// The event cannot happen in this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not possible while the key is {state}")]
pub struct WrongState {
    /// The state.
    pub state: KeyState,
}

impl KeyState {
    /// Every state.
    pub const ALL: [Self; 7] = [
        Self::Creating,
        Self::Enabled,
        Self::Disabled,
        Self::DestructionPending,
        Self::Destroying,
        Self::Destroyed,
        Self::Failed,
    ];

    /// The state after an event.
    ///
    /// # Errors
    /// The event is impossible now.
    pub fn after(self, event: KeyEvent) -> Result<Self, WrongState> {
        Ok(match (self, event) {
            (Self::Creating, KeyEvent::Made) => Self::Enabled,
            (Self::Creating, KeyEvent::NotMade) => Self::Failed,
            (Self::Enabled, KeyEvent::Disable) => Self::Disabled,
            (Self::Disabled, KeyEvent::Enable) => Self::Enabled,
            (Self::Enabled | Self::Disabled, KeyEvent::ScheduleDestruction) => Self::DestructionPending,
            // Whoever may call a destruction off may also enable a key: it comes back as it was, disabled only if it was so.
            (
                Self::DestructionPending | Self::Destroying,
                KeyEvent::CalledOff(was @ (Self::Enabled | Self::Disabled)),
            ) => was,
            (Self::DestructionPending, KeyEvent::NoticeOver) => Self::Destroying,
            (Self::Destroying, KeyEvent::Gone) => Self::Destroyed,
            (state, _) => return Err(WrongState { state }),
        })
    }

    /// As stored and shown.
    pub fn text(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Enabled => "enabled",
            Self::Disabled => "disabled",
            Self::DestructionPending => "destruction_pending",
            Self::Destroying => "destroying",
            Self::Destroyed => "destroyed",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl FromStr for KeyState {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        Self::ALL.into_iter().find(|state| state.text() == text).ok_or(Malformed { expected: "key state" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destroyed_or_failed_key_never_comes_back() {
        use KeyEvent::*;
        let called_off = CalledOff(KeyState::Enabled);
        for event in [Made, NotMade, Disable, Enable, ScheduleDestruction, called_off, NoticeOver, Gone] {
            assert!(KeyState::Destroyed.after(event).is_err());
            assert!(KeyState::Failed.after(event).is_err());
        }
    }

    #[test]
    fn a_key_called_back_from_destruction_stands_as_it_stood_before() {
        for was in [KeyState::Enabled, KeyState::Disabled] {
            let pending = was.after(KeyEvent::ScheduleDestruction).unwrap();
            assert_eq!(pending.after(KeyEvent::CalledOff(was)), Ok(was));
            let ordered = pending.after(KeyEvent::NoticeOver).unwrap();
            assert_eq!(ordered.after(KeyEvent::CalledOff(was)), Ok(was));
        }
        for never in [KeyState::Creating, KeyState::Destroyed, KeyState::Failed] {
            assert!(KeyState::DestructionPending.after(KeyEvent::CalledOff(never)).is_err());
        }
    }

    #[test]
    fn every_state_reads_back_from_its_text() {
        for state in KeyState::ALL {
            assert_eq!(state.text().parse(), Ok(state));
        }
    }
}
