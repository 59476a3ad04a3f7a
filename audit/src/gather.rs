//! How long the writer waits for company: not at all for a lone write, a moment when many are known to be on their way.
//! Who enters: the writer, with what it has in hand and how many callers attend.
//! What leaves: a pause, never longer than [`PAUSE_MAX`]; and the pace at which writes have been coming.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// The longest pause: a quarter of what a crowd that needs one waits for its token anyway.
const PAUSE_MAX: Duration = Duration::from_millis(6);
/// A shorter one costs more in waking up than it saves in syncs.
const PAUSE_MIN: Duration = Duration::from_micros(60);
/// A commit is worth this part of the callers that attend; the others are elsewhere on their way.
const PART_GATHERED: usize = 4;
/// The pace is smoothed over about this many commits.
const PACE_COMMITS: u32 = 8;

/// Said by a caller while it is on its way to a write or back for the next; see [`Ledger::attend`](crate::Ledger::attend).
#[derive(Debug)]
pub struct Attendance {
    attending: Arc<AtomicUsize>,
}

impl Attendance {
    pub(crate) fn begin(attending: &Arc<AtomicUsize>) -> Self {
        attending.fetch_add(1, Ordering::Relaxed);
        Self { attending: Arc::clone(attending) }
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        self.attending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The pace of writes, measured by the writer between its commits.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    last: Option<Duration>,
    per_write: Duration,
}

impl Pace {
    /// A commit of `writes` ended at `now`.
    pub(crate) fn committed(&mut self, writes: usize, now: Duration) {
        let writes = u32::try_from(writes.max(1)).unwrap_or(u32::MAX);
        if let Some(last) = self.last.replace(now) {
            // After a quiet hour the first commit says nothing about the pace of a crowd.
            let latest = (now.saturating_sub(last) / writes).min(PAUSE_MAX);
            self.per_write = (self.per_write * (PACE_COMMITS - 1) + latest) / PACE_COMMITS;
        }
    }

    /// How long to wait until a worthy part of `attending` callers stands in the queue, of which `ready` do already.
    pub(crate) fn pause(&self, ready: usize, attending: usize) -> Option<Duration> {
        let missing = (attending / PART_GATHERED).saturating_sub(ready);
        let missing = u32::try_from(missing).unwrap_or(u32::MAX);
        Some(self.per_write.saturating_mul(missing).min(PAUSE_MAX)).filter(|pause| *pause >= PAUSE_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_a_pace_of(per_write: Duration) -> Pace {
        let mut pace = Pace::default();
        (0..100).for_each(|n| pace.committed(10, per_write * 10 * n));
        pace
    }

    #[test]
    fn a_lone_write_never_waits() {
        let pace = at_a_pace_of(Duration::from_micros(200));
        for attending in 0..=7 {
            assert_eq!(pace.pause(1, attending), None, "{attending} attending");
        }
    }

    #[test]
    fn a_crowd_is_waited_for_as_long_as_its_pace_says() {
        let pace = at_a_pace_of(Duration::from_micros(100));
        let pause = pace.pause(4, 64).unwrap();
        assert!((Duration::from_micros(1_100)..=Duration::from_micros(1_200)).contains(&pause), "{pause:?}");
        assert_eq!(pace.pause(16, 64), None, "enough are there");
    }

    #[test]
    fn no_pause_is_longer_than_its_bound() {
        let pace = at_a_pace_of(Duration::from_secs(5));
        assert_eq!(pace.pause(1, 10_000), Some(PAUSE_MAX));
    }

    #[test]
    fn whoever_leaves_is_not_waited_for() {
        let attending = Arc::new(AtomicUsize::new(0));
        let (here, there) = (Attendance::begin(&attending), Attendance::begin(&attending));
        assert_eq!(attending.load(Ordering::Relaxed), 2);
        drop((here, there));
        assert_eq!(attending.load(Ordering::Relaxed), 0);
    }
}
