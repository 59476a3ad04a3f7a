//! Locks: those a saga holds from its start to its end, and those a client leases for a while.
//! Who enters: definitions naming what they need; clients through the API.
//! What leaves: fences that only grow, and refusals that say who holds what since when.

pub(crate) mod hold;
pub mod lease;

use crate::ids::{SagaKey, Scope};
use crate::limits::LOCK_NAME_BYTES_MAX;

/// One lock that a saga needs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lock {
    pub(crate) appliance: bool,
    pub(crate) name: String,
    pub(crate) exclusive: bool,
}

impl Lock {
    /// For one saga alone. The name belongs to the saga's scope.
    pub fn exclusive(name: impl Into<String>) -> Self {
        Self { appliance: false, name: name.into(), exclusive: true }
    }

    /// For any number of sagas that all say `shared`.
    pub fn shared(name: impl Into<String>) -> Self {
        Self { appliance: false, name: name.into(), exclusive: false }
    }

    /// The name belongs to the appliance, whatever the saga's scope: a slug, a token's partition.
    pub fn across(mut self) -> Self {
        self.appliance = true;
        self
    }

    pub(crate) fn scope(&self, saga: &Scope) -> Scope {
        if self.appliance { Scope::Appliance } else { saga.clone() }
    }
}

/// Sorted, each name once (the stronger claim wins): so that any two sagas meet their locks in one order.
pub(crate) fn in_order(mut locks: Vec<Lock>) -> Result<Vec<Lock>, String> {
    if let Some(bad) = locks.iter().find(|it| it.name.is_empty() || it.name.len() > LOCK_NAME_BYTES_MAX) {
        return Err(format!("a lock's name has 1 to {LOCK_NAME_BYTES_MAX} bytes, `{}` does not", bad.name));
    }
    locks.sort_by(|one, other| {
        (one.appliance, &one.name, !one.exclusive).cmp(&(other.appliance, &other.name, !other.exclusive))
    });
    locks.dedup_by(|later, first| later.appliance == first.appliance && later.name == first.name);
    Ok(locks)
}

/// Who stands in the way of a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// Which lock.
    pub lock: String,
    /// Who holds it, or waits for it before us.
    pub saga: SagaKey,
    /// Whether it holds it already.
    pub held: bool,
    /// Since when, in microseconds since 1970.
    pub since_us: u64,
}

/// A lock as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldLock {
    /// Who holds it, or waits for it.
    pub saga: SagaKey,
    /// Whose name it is.
    pub scope: Scope,
    /// Its name.
    pub name: String,
    /// For one alone.
    pub exclusive: bool,
    /// Held; else waited for.
    pub held: bool,
    /// Since when, in microseconds since 1970.
    pub since_us: u64,
    /// The fence of this claim.
    pub fence: i64,
}
