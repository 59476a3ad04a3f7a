//! Bells: whoever listens to something is woken when it may have changed, and leaves nothing behind when they go.
//! Who enters: listeners, before they look; the engine, after each commit.
//! What leaves: a ring for everybody who listened when it was rung.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Bells by what they ring for.
pub(crate) struct Bells<K: Eq + Hash>(Mutex<HashMap<K, Arc<Notify>>>);

/// Someone who listens.
pub(crate) struct Listener<'b, K: Eq + Hash> {
    bells: &'b Bells<K>,
    key: K,
    bell: Arc<Notify>,
}

impl<K: Eq + Hash> Default for Bells<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Eq + Hash + Clone> Bells<K> {
    /// Whoever holds this hears of every ring from now on.
    pub(crate) fn listen(&self, key: &K) -> Listener<'_, K> {
        let mut bells = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bell = bells.entry(key.clone()).or_default().clone();
        Listener { bells: self, key: key.clone(), bell }
    }

    /// Wakes everybody who listens.
    pub(crate) fn ring(&self, key: &K) {
        if let Some(bell) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key) {
            bell.notify_waiters();
        }
    }

    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl<K: Eq + Hash> Listener<'_, K> {
    /// The next ring after this call, also one that comes before it is awaited.
    pub(crate) fn next(&self) -> Notified<'_> {
        self.bell.notified()
    }
}

impl<K: Eq + Hash> Drop for Listener<'_, K> {
    fn drop(&mut self) {
        let mut bells = self.bells.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The bells' own and this one: nobody else listens, and nobody can begin to while the lock is held.
        if Arc::strong_count(&self.bell) == 2 {
            bells.remove(&self.key);
        }
    }
}
