//! Who stands in line in this process: each hears when it is its turn to look; the rows say whether it is.
//! Who enters: waiters with their tickets; releases.
//! What leaves: one call, to the first in line.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::ids::Scope;

type Line = BTreeMap<i64, Arc<Notify>>;

#[derive(Default)]
pub(super) struct Queue(Mutex<HashMap<(Scope, String), Line>>);

impl Queue {
    pub(super) fn listen(&self, scope: &Scope, name: &str, ticket: i64) -> Arc<Notify> {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.entry((scope.clone(), name.to_owned())).or_default().entry(ticket).or_default().clone()
    }

    pub(super) fn leave(&self, scope: &Scope, name: &str, ticket: Option<i64>) {
        let Some(ticket) = ticket else { return };
        let key = (scope.clone(), name.to_owned());
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get_mut(&key) {
            line.remove(&ticket);
            if line.is_empty() {
                lines.remove(&key);
            }
        }
    }

    /// A call that comes before the first listens again is kept for it.
    pub(super) fn call_first(&self, scope: &Scope, name: &str) {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, first)) =
            lines.get(&(scope.clone(), name.to_owned())).and_then(BTreeMap::first_key_value)
        {
            first.notify_one();
        }
    }
}
