//! How far the log has come, and how far it is sealed: two numbers, and since when the oldest entry between them waits.
//! Who enters: the writer with each commit, sealing with each seal.
//! What leaves: how many entries are not sealed, and for how long; the bound of both is the ledger's.

use std::collections::VecDeque;
use std::time::Duration;

/// Marks closer together than this are one: an age is exact to within it, and never too small.
const MARK_EVERY: Duration = Duration::from_secs(1);
/// Marks kept at most; beyond them every second one goes, and its entries count as old as those before them.
const MARKS_MAX: usize = 1_024;

/// Everything that is said about sealed and unsealed entries comes from this value, under one lock: two counters read
/// one after the other would tell of a moment that never was.
#[derive(Debug, Default)]
pub(crate) struct Extent {
    size: u64,
    sealed: u64,
    /// Of the unsealed entries, oldest first: from which entry on, since when.
    marks: VecDeque<(u64, Duration)>,
}

/// What is not sealed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unsealed {
    pub(crate) rows: u64,
    pub(crate) age: Duration,
}

impl Extent {
    /// Of a log that was just opened: nothing is known to be sealed, and the age of what it holds counts from now,
    /// because the monotonic clock does not outlive a process.
    pub(crate) fn opened(size: u64, now: Duration) -> Self {
        let mut extent = Self::default();
        extent.committed(size, now);
        extent
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// A commit brought the log to `size` entries.
    pub(crate) fn committed(&mut self, size: u64, now: Duration) {
        if size <= self.size {
            return;
        }
        let first = std::mem::replace(&mut self.size, size);
        let joins = self.marks.back().is_some_and(|(_, since)| now.saturating_sub(*since) < MARK_EVERY);
        if joins {
            return;
        }
        if self.marks.len() == MARKS_MAX {
            let mut nth = 0_usize;
            self.marks.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
        }
        self.marks.push_back((first, now));
    }

    /// The first `size` entries need no further checkpoint. What lies beyond keeps the time at which it came.
    pub(crate) fn sealed(&mut self, size: u64) {
        self.sealed = self.sealed.max(size);
        // A mark stands for all entries up to the next one: it goes when the next begins within what is sealed.
        while self.marks.get(1).map_or(self.size, |(next, _)| *next) <= self.sealed {
            if self.marks.pop_front().is_none() {
                break;
            }
        }
    }

    pub(crate) fn unsealed(&self, now: Duration) -> Unsealed {
        let rows = self.size.saturating_sub(self.sealed);
        let since = self.marks.front().map(|(_, since)| *since).filter(|_| rows > 0);
        Unsealed { rows, age: since.map_or(Duration::ZERO, |since| now.saturating_sub(since)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_lies_beyond_a_seal_keeps_its_age() {
        let mut extent = Extent::opened(0, at(0));
        extent.committed(3, at(10));
        extent.committed(5, at(20));
        assert_eq!(extent.unsealed(at(25)), Unsealed { rows: 5, age: at(15) });
        extent.sealed(3);
        assert_eq!(extent.unsealed(at(25)), Unsealed { rows: 2, age: at(5) });
        extent.sealed(4);
        assert_eq!(extent.unsealed(at(26)), Unsealed { rows: 1, age: at(6) });
        extent.sealed(5);
        assert_eq!(extent.unsealed(at(30)), Unsealed { rows: 0, age: at(0) });
        extent.committed(6, at(40));
        assert_eq!(extent.unsealed(at(41)), Unsealed { rows: 1, age: at(1) });
        assert_eq!(extent.size(), 6);
    }

    #[test]
    fn commits_of_one_second_share_a_mark() {
        let mut extent = Extent::opened(0, at(0));
        (1..=50).for_each(|size| extent.committed(size, at(10) + Duration::from_millis(size)));
        assert_eq!(extent.marks.len(), 1);
        extent.committed(51, at(11) + Duration::from_millis(1));
        assert_eq!(extent.marks.len(), 2, "a second later begins another");
    }

    #[test]
    fn what_a_seal_covered_before_its_commit_was_noted_is_not_waited_for() {
        let mut extent = Extent::opened(5, at(0));
        extent.sealed(7);
        extent.committed(6, at(40));
        assert_eq!(extent.unsealed(at(50)), Unsealed { rows: 0, age: at(0) });
    }

    #[test]
    fn a_late_word_of_an_older_seal_takes_nothing_back() {
        let mut extent = Extent::opened(8, at(0));
        extent.sealed(8);
        extent.sealed(2);
        assert_eq!(extent.unsealed(at(9)).rows, 0);
    }

    /// Against a list with the time of each entry: never younger than the truth, and older by less than a second,
    /// or by the distance of two marks where there are very many.
    #[test]
    fn an_age_is_never_less_than_the_truth_and_the_marks_stay_few() {
        let (mut extent, mut times, mut now) = (Extent::opened(0, at(0)), Vec::new(), 0);
        for step in 0..5_000_u64 {
            now += 137 + step % 7 * 301;
            let time = Duration::from_millis(now);
            times.extend(std::iter::repeat_n(time, (1 + step % 3) as usize));
            extent.committed(times.len() as u64, time);
            if step % 11 == 0 && step < 2_000 {
                extent.sealed(times.len() as u64 - step % 4);
            }
            let sealed = extent.sealed as usize;
            let truth = times.get(sealed).map_or(Duration::ZERO, |since| time - *since);
            let told = extent.unsealed(time).age;
            assert!(told >= truth && told < truth + MARK_EVERY, "step {step}: {told:?} for {truth:?}");
            assert!(extent.marks.len() <= MARKS_MAX);
        }
    }
}
