//! The rota of an upstream's endpoints: whose turn it is, and who is left out for a while because it keeps failing.
//! Who enters: attempts, which ask for an endpoint and later say how it did.
//! What leaves: an endpoint; there is always one, for the last is never left out.

use std::time::Duration;

/// The endpoints by number, over a clock that the caller brings.
#[derive(Clone, Debug)]
pub(super) struct Rota {
    turns: Vec<Turn>,
    next: usize,
}

#[derive(Clone, Debug, Default)]
struct Turn {
    failures: u32,
    times_out: u32,
    out_until: Option<Duration>,
}

/// Failures in a row that leave an endpoint out.
const FAILURES_MAX: u32 = 5;
/// The first time out; each further one is longer by as much.
const OUT_MIN: Duration = Duration::from_secs(30);
const OUT_MAX: Duration = Duration::from_secs(300);

impl Rota {
    /// All in.
    pub(super) fn new(endpoints: usize) -> Self {
        Self { turns: vec![Turn::default(); endpoints.max(1)], next: 0 }
    }

    /// Whose turn it is, if possible none of `tried`.
    pub(super) fn pick(&mut self, now: Duration, tried: &[usize]) -> usize {
        let count = self.turns.len();
        let order: Vec<usize> = (0..count).map(|step| (self.next + step) % count).collect();
        let is_in = |at: &&usize| self.turns[**at].is_in(now);
        let fresh = order.iter().filter(is_in).find(|at| !tried.contains(at));
        let picked = fresh.or_else(|| order.iter().find(is_in)).copied().unwrap_or(self.next % count);
        self.next = (picked + 1) % count;
        picked
    }

    /// How an endpoint did. Five failures in a row leave it out, unless it is the last.
    pub(super) fn report(&mut self, now: Duration, at: usize, good: bool) {
        let others_in = self.turns.iter().enumerate().any(|(other, turn)| other != at && turn.is_in(now));
        let Some(turn) = self.turns.get_mut(at) else { return };
        if good {
            (turn.failures, turn.out_until) = (0, None);
            turn.times_out = turn.times_out.saturating_sub(1);
            return;
        }
        turn.failures = turn.failures.saturating_add(1);
        if turn.failures >= FAILURES_MAX && others_in && turn.is_in(now) {
            turn.times_out += 1;
            turn.out_until = Some(now + (OUT_MIN * turn.times_out).min(OUT_MAX));
            turn.failures = 0;
        }
    }

    /// Endpoints that are left out now.
    pub(super) fn out(&self, now: Duration) -> usize {
        self.turns.iter().filter(|turn| !turn.is_in(now)).count()
    }
}

impl Turn {
    fn is_in(&self, now: Duration) -> bool {
        self.out_until.is_none_or(|until| now >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::ZERO;

    fn fail(rota: &mut Rota, at: usize, now: Duration) {
        (0..FAILURES_MAX).for_each(|_| rota.report(now, at, false));
    }

    fn picks(rota: &mut Rota, now: Duration) -> Vec<usize> {
        (0..6).map(|_| rota.pick(now, &[])).collect()
    }

    #[test]
    fn they_take_turns() {
        assert_eq!(picks(&mut Rota::new(3), START), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn one_that_keeps_failing_is_left_out_and_comes_back() {
        let mut rota = Rota::new(2);
        fail(&mut rota, 0, START);
        assert_eq!(picks(&mut rota, START), [1; 6]);
        assert_eq!(rota.out(START), 1);
        assert!(picks(&mut rota, OUT_MIN).contains(&0), "after half a minute it is tried again");
        fail(&mut rota, 0, OUT_MIN);
        assert_eq!(rota.out(OUT_MIN * 2), 1, "the second time it is left out for longer");
        assert_eq!(rota.out(OUT_MIN * 3), 0);
    }

    #[test]
    fn the_last_one_is_never_left_out() {
        let mut rota = Rota::new(2);
        fail(&mut rota, 0, START);
        fail(&mut rota, 1, START);
        assert_eq!(picks(&mut rota, START), [1; 6]);
        let mut single = Rota::new(1);
        fail(&mut single, 0, START);
        assert_eq!(single.pick(START, &[0]), 0);
    }

    #[test]
    fn a_success_in_between_starts_the_count_anew() {
        let mut rota = Rota::new(2);
        for _ in 0..3 {
            (0..4).for_each(|_| rota.report(START, 0, false));
            rota.report(START, 0, true);
        }
        assert_eq!(rota.out(START), 0);
    }

    #[test]
    fn a_second_attempt_goes_elsewhere_if_there_is_an_elsewhere() {
        let mut rota = Rota::new(3);
        let first = rota.pick(START, &[]);
        assert_ne!(rota.pick(START, &[first]), first);
        fail(&mut rota, 1, START);
        fail(&mut rota, 2, START);
        assert_eq!(rota.pick(START, &[0]), 0);
    }
}
