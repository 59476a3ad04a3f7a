//! The names of sagas and of their effects, and whose they are.
//! Who enters: randomness and time for a new saga; a saga, a step and a phase for an effect.
//! What leaves: ids that sort by time, and effect ids that are the same at every attempt.

use std::fmt;
use std::sync::LazyLock;

use audit::Workspace;
use sha2::{Digest, Sha256};

/// Whose a saga, lock or key is: a workspace's, or the appliance's own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// The appliance itself; only operators see it.
    Appliance,
    /// One workspace.
    Workspace(Workspace),
}

/// The rows of the appliance stand under a name that no workspace can have chosen: workspace ids hold no brackets.
static APPLIANCE: LazyLock<Option<Workspace>> = LazyLock::new(|| Workspace::new("(appliance)").ok());

impl Scope {
    /// The workspace, if it is one's.
    pub fn workspace(&self) -> Option<&Workspace> {
        match self {
            Self::Appliance => None,
            Self::Workspace(workspace) => Some(workspace),
        }
    }

    /// Under which name its rows stand.
    pub(crate) fn rows(&self) -> &Workspace {
        match (self, &*APPLIANCE) {
            (Self::Workspace(workspace), _) => workspace,
            (Self::Appliance, Some(own)) => own,
            (Self::Appliance, None) => unreachable!("the name is a valid workspace id"),
        }
    }

    pub(crate) fn of_rows(name: &str) -> Result<Self, audit::NotAWorkspace> {
        let workspace = Workspace::new(name)?;
        Ok(if Some(&workspace) == APPLIANCE.as_ref() { Self::Appliance } else { Self::Workspace(workspace) })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.rows().as_str())
    }
}

/// A saga, by its id: six bytes of time, then ten that nobody can guess.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SagaId(pub(crate) [u8; 16]);

/// The text is not `wf_` and 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a workflow id is `wf_` and 32 hexadecimal digits")]
pub struct NotASaga;

impl SagaId {
    pub(crate) fn new(now_us: u64, dice: [u8; 10]) -> Self {
        let mut id = [0; 16];
        id[..6].copy_from_slice(&(now_us / 1_000).to_be_bytes()[2..]);
        id[6..].copy_from_slice(&dice);
        Self(id)
    }

    /// The child that a step starts: the same at every attempt, and beside its parent in every list.
    pub(crate) fn child(&self, step: usize) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"saga child");
        hash.update(self.0);
        hash.update((step as u64).to_be_bytes());
        let mut id = self.0;
        id[6..].copy_from_slice(&hash.finalize()[..10]);
        Self(id)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for SagaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wf_")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SagaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for SagaId {
    type Err = NotASaga;

    fn from_str(text: &str) -> Result<Self, NotASaga> {
        let digits = text.strip_prefix("wf_").filter(|it| it.len() == 32 && it.is_ascii()).ok_or(NotASaga)?;
        let mut id = [0; 16];
        for (at, byte) in id.iter_mut().enumerate() {
            let pair = digits.get(at * 2..at * 2 + 2).ok_or(NotASaga)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NotASaga)?;
        }
        // `from_str_radix` takes a sign and upper case; a name has one form only.
        if Self(id).to_string() == text { Ok(Self(id)) } else { Err(NotASaga) }
    }
}

/// One saga of one scope: what every statement about it is held to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SagaKey {
    /// Whose it is.
    pub scope: Scope,
    /// Which.
    pub id: SagaId,
}

/// In which direction a step is being taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    /// Forward.
    Do,
    /// Back.
    Undo,
}

impl Phase {
    /// The word in rows and entries.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Do => "do",
            Self::Undo => "undo",
        }
    }
}

/// The name of one effect outside: the same at every attempt, so that whoever carries it out can tell a repetition.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EffectId([u8; 32]);

impl EffectId {
    pub(crate) fn of(saga: SagaId, step: usize, phase: Phase) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"saga effect");
        hash.update(saga.0);
        hash.update((step as u64).to_be_bytes());
        hash.update(phase.as_str());
        Self(hash.finalize().into())
    }

    /// The effect for one item of a fan-out.
    pub(crate) fn item(&self, item: usize) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update((item as u64).to_be_bytes());
        Self(hash.finalize().into())
    }

    /// All 32 bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first 16 bytes: a `CKA_ID`, a serial number, an object's name.
    pub fn short(&self) -> [u8; 16] {
        let mut short = [0; 16];
        short.copy_from_slice(&self.0[..16]);
        short
    }
}

impl fmt::Display for EffectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.short().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for EffectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_written_form() {
        let id = SagaId::new(1_700_000_000_000_000, [0xab; 10]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse::<SagaId>(), Err(NotASaga));
        assert_eq!("wf_+1".parse::<SagaId>(), Err(NotASaga));
        assert_eq!(format!("wf_{}", "é".repeat(16)).parse::<SagaId>(), Err(NotASaga));
    }

    #[test]
    fn later_sagas_sort_after_earlier_ones_and_children_beside_their_parent() {
        let (early, late) = (SagaId::new(1_000_000, [0xff; 10]), SagaId::new(2_000_000, [0; 10]));
        assert!(early < late);
        assert!(early.child(3) < late && early.child(3) != early.child(4));
    }

    #[test]
    fn an_effect_is_named_by_saga_step_phase_and_item_alone() {
        let saga = SagaId::new(1, [1; 10]);
        let effect = EffectId::of(saga, 1, Phase::Do);
        assert_eq!(effect, EffectId::of(saga, 1, Phase::Do));
        let others = [
            EffectId::of(saga, 2, Phase::Do),
            EffectId::of(saga, 1, Phase::Undo),
            EffectId::of(saga.child(1), 1, Phase::Do),
            effect.item(0),
            effect.item(1),
        ];
        assert!(others.iter().all(|other| *other != effect));
    }
}
