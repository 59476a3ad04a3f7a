//! The breakers of one service, one for each workspace: who brings a service to fail for itself isolates it for nobody else.
//! Who enters: calls that ask whether they may pass, each with whose it is, and reports of how they went.
//! What leaves: tickets, pauses, and how the service stands as a whole.

use std::collections::HashMap;
use std::time::Duration;

use super::breaker::{Breaker, Policy, Standing, Ticket, Verdict};
use super::places::Owner;

/// All breakers of a service.
pub(super) struct Breakers {
    policy: Policy,
    seed: u64,
    by_owner: HashMap<Owner, Known>,
    trips: u64,
}

struct Known {
    breaker: Breaker,
    used: Duration,
}

/// How a service stands for those who have called it lately.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stands {
    pub(super) standing: Standing,
    /// While open for everybody: how much longer.
    pub(super) pause: Option<Duration>,
    /// Workspaces for which it is isolated or being tried out.
    pub(super) isolated: usize,
    pub(super) trips: u64,
}

/// Breakers kept at once; beyond it those go that were closed for longest.
const KNOWN_MAX: usize = 1_024;
/// Whoever has not called for this long says nothing of how the service stands.
const LATELY: Duration = Duration::from_secs(120);

impl Breakers {
    pub(super) fn new(policy: Policy, seed: u64) -> Self {
        Self { policy, seed, by_owner: HashMap::new(), trips: 0 }
    }

    /// How long the owner has to stay away, if it has to.
    pub(super) fn pause(&self, owner: &Owner, now: Duration) -> Option<Duration> {
        self.by_owner.get(owner).and_then(|known| known.breaker.pause(now))
    }

    /// May a call of this owner pass?
    pub(super) fn ask(&mut self, owner: &Owner, now: Duration) -> Result<Ticket, Duration> {
        self.known(owner, now).ask(now)
    }

    /// Takes a ticket back; says whether the service is isolated for its owner from now on.
    pub(super) fn report(&mut self, owner: &Owner, now: Duration, ticket: Ticket, verdict: Verdict) -> bool {
        // Whoever was forgotten meanwhile had a closed breaker, and begins with another.
        let Some(known) = self.by_owner.get_mut(owner) else { return false };
        let before = known.breaker.trips();
        known.breaker.report(now, ticket, verdict);
        known.used = now;
        let tripped = known.breaker.trips() - before;
        self.trips += tripped;
        tripped > 0
    }

    /// How the service stands: isolated only if it is so for everybody who called it lately.
    pub(super) fn stands(&self, now: Duration) -> Stands {
        let lately = self.by_owner.values().filter(|known| known.used + LATELY > now);
        let standings: Vec<_> =
            lately.map(|known| (known.breaker.standing(now), known.breaker.pause(now))).collect();
        let isolated = standings.iter().filter(|(standing, _)| *standing != Standing::Closed).count();
        let best = standings.into_iter().min_by_key(|(standing, pause)| (rank(*standing), *pause));
        let (standing, pause) = best.unwrap_or((Standing::Closed, None));
        Stands { standing, pause, isolated, trips: self.trips }
    }

    fn known(&mut self, owner: &Owner, now: Duration) -> &mut Breaker {
        if self.by_owner.len() >= KNOWN_MAX && !self.by_owner.contains_key(owner) {
            self.forget(now);
        }
        let (policy, seed) = (self.policy, self.seed);
        // Pauses of two workspaces end apart, though both began with the service's trouble.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let fresh = || Known { breaker: Breaker::new(policy, seed), used: now };
        let known = self.by_owner.entry(owner.clone()).or_insert_with(fresh);
        known.used = now;
        &mut known.breaker
    }

    /// The older half goes, and what is closed goes before what is not.
    fn forget(&mut self, now: Duration) {
        let mut ages: Vec<_> = self.by_owner.values().map(|known| known.age(now)).collect();
        ages.sort_unstable();
        let middle = ages[ages.len() / 2];
        self.by_owner.retain(|_, known| known.age(now) > middle);
    }
}

impl Known {
    fn age(&self, now: Duration) -> (bool, Duration) {
        (self.breaker.standing(now) != Standing::Closed, self.used)
    }
}

fn rank(standing: Standing) -> u8 {
    match standing {
        Standing::Closed => 0,
        Standing::Ramping => 1,
        Standing::HalfOpen => 2,
        Standing::Open => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;
    use crate::ids::WorkspaceId;

    fn somebody() -> Owner {
        Some(WorkspaceId::new(&Dice::system()).unwrap())
    }

    fn fail(breakers: &mut Breakers, owner: &Owner, now: Duration) {
        while let Ok(ticket) = breakers.ask(owner, now) {
            breakers.report(owner, now, ticket, Verdict::Failure);
        }
    }

    #[test]
    fn one_that_fails_isolates_the_service_for_itself_alone() {
        let (mut breakers, now) = (Breakers::new(Policy::default(), 7), Duration::from_secs(1));
        let (evil, good) = (somebody(), somebody());
        let ticket = breakers.ask(&good, now).unwrap();
        breakers.report(&good, now, ticket, Verdict::Success);
        fail(&mut breakers, &evil, now);
        assert!(breakers.pause(&evil, now).is_some());
        assert!(breakers.ask(&good, now).is_ok());
        let stands = breakers.stands(now);
        assert_eq!((stands.standing, stands.isolated, stands.trips), (Standing::Closed, 1, 1));
        fail(&mut breakers, &good, now);
        let stands = breakers.stands(now);
        assert_eq!((stands.standing, stands.isolated, stands.trips), (Standing::Open, 2, 2));
        assert!(stands.pause.is_some());
    }

    #[test]
    fn who_has_not_called_lately_says_nothing_of_the_service() {
        let mut breakers = Breakers::new(Policy::default(), 7);
        let (evil, good) = (somebody(), somebody());
        breakers.ask(&good, Duration::ZERO).unwrap();
        fail(&mut breakers, &evil, LATELY);
        assert_eq!(breakers.stands(LATELY).standing, Standing::Open);
    }

    #[test]
    fn there_are_never_more_than_are_remembered_and_who_is_isolated_stays_so() {
        let (mut breakers, now) = (Breakers::new(Policy::default(), 7), Duration::from_secs(1));
        let evil = somebody();
        fail(&mut breakers, &evil, now);
        for _ in 0..KNOWN_MAX * 3 {
            breakers.ask(&somebody(), now).unwrap();
            assert!(breakers.by_owner.len() <= KNOWN_MAX);
        }
        assert!(breakers.pause(&evil, now).is_some(), "a crowd of newcomers ends its pause");
    }
}
