//! Who holds a snapshot, and a moment without any: the write-ahead log begins anew only while no reader stands in it.
//! Who enters: readers, before they open a snapshot; the writer, when the log has grown.
//! What leaves: snapshots that are counted, and a moment in which there is none.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use crate::shared::unpoisoned;

/// Counts the snapshots that are open, and holds new ones back while the writer asks for a moment without any.
#[derive(Debug, Default)]
pub(crate) struct SnapshotGate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    open: usize,
    held_back: bool,
}

/// An open snapshot.
#[derive(Debug)]
pub(crate) struct Snapshot<'g>(&'g SnapshotGate);

/// A moment without snapshots; new ones wait for its end.
#[derive(Debug)]
pub(crate) struct Quiet<'g>(&'g SnapshotGate);

impl SnapshotGate {
    /// Waits while the writer asks for quiet, then counts a snapshot.
    pub(crate) fn enter(&self) -> Snapshot<'_> {
        let mut state = unpoisoned(&self.state);
        while state.held_back {
            state = self.changed.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        state.open += 1;
        Snapshot(self)
    }

    /// Whether new snapshots wait.
    pub(crate) fn holds_back(&self) -> bool {
        unpoisoned(&self.state).held_back
    }

    /// Holds new snapshots back until those that are open have ended; none when that takes longer than `patience`.
    pub(crate) fn quiet(&self, patience: Duration) -> Option<Quiet<'_>> {
        let mut state = unpoisoned(&self.state);
        state.held_back = true;
        // From here on the drop of this value lets them in again, whichever way this function is left.
        let quiet = Quiet(self);
        let waited = self.changed.wait_timeout_while(state, patience, |state| state.open > 0);
        state = waited.unwrap_or_else(std::sync::PoisonError::into_inner).0;
        let empty = state.open == 0;
        drop(state);
        empty.then_some(quiet)
    }
}

impl Drop for Snapshot<'_> {
    fn drop(&mut self) {
        unpoisoned(&self.0.state).open -= 1;
        self.0.changed.notify_all();
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        unpoisoned(&self.0.state).held_back = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail loudly")]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

    #[test]
    fn quiet_comes_when_the_last_snapshot_ends_and_new_ones_wait_for_its_end() {
        let gate = SnapshotGate::default();
        let (told, heard) = mpsc::channel();
        let first = gate.enter();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let quiet = gate.quiet(FOREVER).unwrap();
                told.send("quiet").unwrap();
                drop(quiet);
            });
            while !gate.holds_back() {
                std::thread::yield_now();
            }
            let told = told.clone();
            let gate = &gate;
            scope.spawn(move || {
                let _second = gate.enter();
                told.send("second").unwrap();
            });
            drop(first);
            writer.join().unwrap();
        });
        assert_eq!(heard.try_iter().collect::<Vec<_>>(), ["quiet", "second"]);
        assert_eq!(unpoisoned(&gate.state).open, 0);
    }

    #[test]
    fn a_snapshot_that_does_not_end_is_not_waited_for_and_others_go_on() {
        let gate = SnapshotGate::default();
        let _long = gate.enter();
        assert!(!gate.holds_back());
        assert!(gate.quiet(Duration::ZERO).is_none());
        assert!(!gate.holds_back(), "the writer has given up");
        let _other = gate.enter();
    }
}
