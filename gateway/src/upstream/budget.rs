//! The retry budget: of all requests to an upstream, one in five may be repeated, and no more.
//! Who enters: each request once, and each wish to repeat one.
//! What leaves: yes or no; when everything fails, repeating everything would only double the load.

/// The budget, in fifths of a retry.
#[derive(Clone, Debug)]
pub(super) struct Budget {
    fifths: u32,
}

/// A retry costs what five requests bring: 20 %.
const COST: u32 = 5;
/// What a quiet upstream has to begin with, so that its first failures may be repeated.
const AT_FIRST: u32 = 2 * COST;
/// Savings end here, or a quiet hour would pay for a storm.
const SAVED_MAX: u32 = 20 * COST;

impl Default for Budget {
    fn default() -> Self {
        Self { fifths: AT_FIRST }
    }
}

impl Budget {
    /// A request came.
    pub(super) fn earn(&mut self) {
        self.fifths = (self.fifths + 1).min(SAVED_MAX);
    }

    /// May one be repeated?
    pub(super) fn spend(&mut self) -> bool {
        match self.fifths.checked_sub(COST) {
            Some(left) => {
                self.fifths = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_thousand_requests_two_hundred_may_be_repeated() {
        let mut budget = Budget::default();
        let repeated = (0..1000).filter(|_| {
            budget.earn();
            budget.spend()
        });
        assert_eq!(repeated.count(), 202, "a fifth, and the two it began with");
    }

    #[test]
    fn a_quiet_time_does_not_pay_for_a_storm() {
        let mut budget = Budget::default();
        (0..100_000).for_each(|_| budget.earn());
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 20);
    }
}
