//! Compartments: each service has its own, so that one that fails or hangs takes no other down with it.
//! Who enters: the wiring, with a service's name and bounds; whoever asks how they all stand.
//! What leaves: compartments that keep their history through a reload, and how each of them stands.

pub mod breaker;
mod breakers;
mod compartment;
mod pass;
mod places;
pub mod window;

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

pub use self::breaker::Verdict;
pub use self::compartment::{Bounds, Compartment, Kept, Kind, Seen};
pub use self::pass::{Pass, Word};
pub use self::places::Owner;
use crate::dice::Dice;

/// All compartments of the house, by the names of their services; cheap to clone.
#[derive(Clone, Default)]
pub struct Compartments {
    all: Arc<RwLock<BTreeMap<String, Arc<Compartment>>>>,
}

impl Compartments {
    /// The compartment of this name, if it has these bounds; else a new one in its place. What a reload leaves as it
    /// was keeps its history.
    pub fn keep_or_make(&self, name: &str, kind: Kind, bounds: Bounds, dice: &Dice) -> Arc<Compartment> {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        match all.get(name) {
            Some(known) if known.bounds() == bounds && known.kind() == kind => Arc::clone(known),
            _ => {
                let made = Compartment::new(name, kind, bounds, dice);
                all.insert(name.to_owned(), Arc::clone(&made));
                made
            }
        }
    }

    /// A copy to make a reload ready in; what is made there counts only once it is adopted.
    #[must_use]
    pub fn staged(&self) -> Self {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner).clone();
        Self { all: Arc::new(RwLock::new(all)) }
    }

    /// Takes over what was made ready in a copy.
    pub fn adopt(&self, staged: &Self) {
        let ready = staged.all.read().unwrap_or_else(PoisonError::into_inner).clone();
        *self.all.write().unwrap_or_else(PoisonError::into_inner) = ready;
    }

    /// Forgets the upstreams that are no longer configured.
    pub fn forget_upstreams_but(&self, names: &[&str]) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.retain(|name, compartment| {
            compartment.kind() == Kind::InProcess || names.contains(&name.as_str())
        });
    }

    /// How each stands, by name.
    pub fn seen(&self) -> Vec<Seen> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.values().map(|compartment| compartment.seen()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::breaker::Policy;
    use super::*;

    fn bounds(in_flight_max: usize, queue_max: usize) -> Bounds {
        Bounds { in_flight_max, queue_max, breaker: Some(Policy::default()) }
    }

    #[test]
    fn what_is_staged_counts_only_once_it_is_adopted() {
        let (all, dice) = (Compartments::default(), Dice::system());
        let first = all.keep_or_make("a", Kind::Upstream, bounds(1, 1), &dice);
        let staged = all.staged();
        let second = staged.keep_or_make("a", Kind::Upstream, bounds(2, 1), &dice);
        staged.keep_or_make("b", Kind::Upstream, bounds(1, 1), &dice);
        assert_eq!(all.seen().len(), 1);
        assert!(Arc::ptr_eq(&first, &all.keep_or_make("a", Kind::Upstream, bounds(1, 1), &dice)));
        all.adopt(&staged);
        assert!(Arc::ptr_eq(&second, &all.keep_or_make("a", Kind::Upstream, bounds(2, 1), &dice)));
        assert_eq!(all.seen().len(), 2);
    }

    #[test]
    fn a_reload_keeps_the_history_of_what_it_leaves_as_it_was() {
        let (all, dice) = (Compartments::default(), Dice::system());
        let first = all.keep_or_make("a", Kind::Upstream, bounds(1, 1), &dice);
        assert!(Arc::ptr_eq(&first, &all.keep_or_make("a", Kind::Upstream, bounds(1, 1), &dice)));
        assert!(!Arc::ptr_eq(&first, &all.keep_or_make("a", Kind::Upstream, bounds(2, 1), &dice)));
        all.keep_or_make("signing", Kind::InProcess, bounds(1, 1), &dice);
        all.forget_upstreams_but(&[]);
        assert_eq!(all.seen().iter().map(|seen| seen.name.as_str()).collect::<Vec<_>>(), ["signing"]);
    }
}
