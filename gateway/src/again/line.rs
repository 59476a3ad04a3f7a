//! Who of this process is at work on which key: one request, and the others stand behind it.
//! Who enters: requests with a key, before they look at what the ledger says of it.
//! What leaves: a place, given back when the request has ended, however it ended.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use sagas::idempotency::{Claim, Key, Whose};

/// All keys that are being worked on; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Line(Arc<Mutex<HashSet<(Whose, Key)>>>);

/// The place of the request that works.
pub(super) struct Place {
    line: Line,
    of: (Whose, Key),
}

impl Line {
    /// The place for this key, if it is free.
    pub(super) fn enter(&self, claim: &Claim) -> Option<Place> {
        let of = (claim.whose().clone(), claim.key().clone());
        let free = self.keys(|keys| keys.insert(of.clone()));
        free.then(|| Place { line: self.clone(), of })
    }

    fn keys<T>(&self, with: impl FnOnce(&mut HashSet<(Whose, Key)>) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.line.keys(|keys| keys.remove(&self.of));
    }
}
