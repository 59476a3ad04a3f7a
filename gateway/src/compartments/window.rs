//! A sliding window of ten seconds: how many calls went well and how many did not, counted exactly.
//! Who enters: the breaker, with the time and an outcome.
//! What leaves: the counts of the last ten seconds; older ones expire by themselves.

use std::time::Duration;

/// How far the window looks back.
pub const WINDOW: Duration = Duration::from_secs(BUCKETS as u64);
const BUCKETS: usize = 10;

/// Ten buckets of a second each.
#[derive(Clone, Debug, Default)]
pub struct Window {
    buckets: [Bucket; BUCKETS],
}

/// What happened within one second.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    second: u64,
    counts: Counts,
}

/// Calls that went well, and calls that did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Went well.
    pub good: u64,
    /// Did not.
    pub bad: u64,
}

impl Counts {
    /// All of them.
    pub fn total(self) -> u64 {
        self.good + self.bad
    }
}

impl Window {
    /// Notes an outcome.
    pub fn note(&mut self, now: Duration, good: bool) {
        let second = now.as_secs();
        let bucket = &mut self.buckets[index(second)];
        if bucket.second != second {
            *bucket = Bucket { second, counts: Counts::default() };
        }
        match good {
            true => bucket.counts.good += 1,
            false => bucket.counts.bad += 1,
        }
    }

    /// The counts of the last ten seconds, the present one included.
    pub fn counts(&self, now: Duration) -> Counts {
        let oldest = (now.as_secs() + 1).saturating_sub(BUCKETS as u64);
        let young = self.buckets.iter().filter(|bucket| (oldest..=now.as_secs()).contains(&bucket.second));
        young.fold(Counts::default(), |sum, bucket| Counts {
            good: sum.good + bucket.counts.good,
            bad: sum.bad + bucket.counts.bad,
        })
    }
}

fn index(second: u64) -> usize {
    usize::try_from(second % BUCKETS as u64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_is_older_than_ten_seconds_counts_no_more() {
        let mut window = Window::default();
        window.note(at(3), false);
        window.note(at(5), true);
        assert_eq!(window.counts(at(12)), Counts { good: 1, bad: 1 });
        assert_eq!(window.counts(at(13)), Counts { good: 1, bad: 0 });
        assert_eq!(window.counts(at(15)), Counts::default());
    }

    #[test]
    fn a_bucket_used_again_forgets_its_last_second() {
        let mut window = Window::default();
        window.note(at(1), false);
        window.note(at(11), true);
        assert_eq!(window.counts(at(11)), Counts { good: 1, bad: 0 });
    }
}
