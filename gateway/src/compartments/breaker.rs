//! The breaker of one service: a state machine over a clock that its caller brings, with no lock and no waiting.
//! Who enters: calls that ask whether they may pass, and later report how it went.
//! What leaves: a ticket, or how long to stay away. While open nothing passes; half open, one probe does.

use std::time::Duration;

use super::window::{WINDOW, Window};

/// When a breaker trips, and how it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Hard failures in a row that trip it.
    pub failures_max: u32,
    /// Calls in the window before their rate counts at all.
    pub samples_min: u64,
    /// The first pause; each further one is twice as long.
    pub open_min: Duration,
    /// The longest pause.
    pub open_max: Duration,
    /// A probe that has not come back by then has failed.
    pub probe_wait: Duration,
    /// After a good probe 2, 4, 8 ... calls may be under way at once; beyond this width all may.
    pub ramp_max: u32,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            failures_max: 5,
            samples_min: 20,
            open_min: Duration::from_secs(1),
            open_max: Duration::from_secs(60),
            probe_wait: Duration::from_secs(10),
            ramp_max: 32,
        }
    }
}

/// How a call went, as far as its service is to blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It answered.
    Success,
    /// A hard failure: no connection, no answer in time, a reset, a 500, 502, 503 or 504, a panic.
    Failure,
    /// It asked for less: counts in the rate and fails a probe, but is no hard failure.
    Throttled,
    /// Says nothing of the service: the client went away, our own limit refused, or nobody reported.
    Neutral,
}

/// Where the breaker stands, for people and dashboards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Everything passes.
    Closed,
    /// Nothing passes.
    Open,
    /// One probe may pass.
    HalfOpen,
    /// A growing number may pass.
    Ramping,
}

impl Standing {
    /// A stable word for programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Ramping => "ramping",
        }
    }
}

/// Leave to pass, good for one report in the era in which it was given.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket {
    era: u64,
    trial: bool,
}

impl Ticket {
    /// It was given while the service is being tried out: such a call is not repeated.
    pub fn is_trial(&self) -> bool {
        self.trial
    }
}

/// The breaker.
#[derive(Clone, Debug)]
pub struct Breaker {
    policy: Policy,
    state: State,
    /// Changes with each transition, so that a late report does not speak to another state than it was given in.
    era: u64,
    run: u32,
    window: Window,
    level: u32,
    clean_since: Duration,
    chance: u64,
    trips: u64,
}

#[derive(Clone, Debug)]
enum State {
    Closed,
    Open {
        until: Duration,
    },
    HalfOpen {
        probing_since: Option<Duration>,
    },
    /// `heard`: when a trial last began or came back.
    Ramping {
        width: u32,
        under_way: u32,
        good: u32,
        heard: Duration,
    },
}

/// The back-off starts anew after so many windows without a failure.
const CLEAN_WINDOWS: u32 = 2;
/// Beyond this doubling every pause is the longest anyway.
const LEVEL_MAX: u32 = 16;

impl Breaker {
    /// A closed breaker. `seed` decides how its pauses are spread.
    pub fn new(policy: Policy, seed: u64) -> Self {
        Self {
            policy,
            state: State::Closed,
            era: 0,
            run: 0,
            window: Window::default(),
            level: 0,
            clean_since: Duration::ZERO,
            chance: seed | 1,
            trips: 0,
        }
    }

    /// May a call pass?
    ///
    /// # Errors
    /// No; and how long to stay away.
    pub fn ask(&mut self, now: Duration) -> Result<Ticket, Duration> {
        match &mut self.state {
            State::Closed => Ok(Ticket { era: self.era, trial: false }),
            State::Open { until } if now < *until => Err(*until - now),
            State::Open { .. } => {
                self.turn(State::HalfOpen { probing_since: Some(now) });
                Ok(Ticket { era: self.era, trial: true })
            }
            State::HalfOpen { probing_since: Some(since) } if now >= *since + self.policy.probe_wait => {
                self.trip(now);
                Err(self.pause(now).unwrap_or(self.policy.open_min))
            }
            State::HalfOpen { probing_since: Some(_) } => Err(self.policy.open_min),
            State::HalfOpen { probing_since } => {
                *probing_since = Some(now);
                // A probe that ended without a verdict has no more say once another is under way.
                self.era += 1;
                Ok(Ticket { era: self.era, trial: true })
            }
            State::Ramping { width, under_way, heard, .. } if *under_way < *width => {
                *under_way += 1;
                *heard = now;
                Ok(Ticket { era: self.era, trial: true })
            }
            // All trials hang: that is an answer too.
            State::Ramping { heard, .. } if now >= *heard + self.policy.probe_wait => {
                self.trip(now);
                Err(self.pause(now).unwrap_or(self.policy.open_min))
            }
            State::Ramping { .. } => Err(self.policy.open_min),
        }
    }

    /// Takes a ticket back with what came of it. A ticket from another era changes nothing.
    pub fn report(&mut self, now: Duration, ticket: Ticket, verdict: Verdict) {
        if ticket.era != self.era {
            return;
        }
        match &mut self.state {
            State::Closed => self.count(now, verdict),
            State::HalfOpen { probing_since } => match verdict {
                Verdict::Success => {
                    self.turn(State::Ramping { width: 2, under_way: 0, good: 0, heard: now });
                }
                Verdict::Neutral => *probing_since = None,
                Verdict::Failure | Verdict::Throttled => self.trip(now),
            },
            State::Ramping { under_way, heard, .. } => {
                *under_way = under_way.saturating_sub(1);
                *heard = now;
                match verdict {
                    Verdict::Success => self.widen(now),
                    Verdict::Neutral => {}
                    Verdict::Failure | Verdict::Throttled => self.trip(now),
                }
            }
            // Opening began a new era, so no ticket reports here.
            State::Open { .. } => {}
        }
    }

    /// Where it stands. An open breaker whose pause is over waits for a probe, and says so.
    pub fn standing(&self, now: Duration) -> Standing {
        match &self.state {
            State::Closed => Standing::Closed,
            State::Open { until } if now < *until => Standing::Open,
            State::Open { .. } | State::HalfOpen { .. } => Standing::HalfOpen,
            State::Ramping { .. } => Standing::Ramping,
        }
    }

    /// How long nothing will pass, if that is known.
    pub fn pause(&self, now: Duration) -> Option<Duration> {
        match &self.state {
            State::Open { until } => until.checked_sub(now).filter(|left| !left.is_zero()),
            _ => None,
        }
    }

    /// How often it has tripped.
    pub fn trips(&self) -> u64 {
        self.trips
    }

    fn count(&mut self, now: Duration, verdict: Verdict) {
        match verdict {
            Verdict::Neutral => return,
            Verdict::Success => self.run = 0,
            Verdict::Failure => self.run += 1,
            Verdict::Throttled => {}
        }
        let good = verdict == Verdict::Success;
        if now.saturating_sub(self.clean_since) >= WINDOW * CLEAN_WINDOWS {
            self.level = 0;
        }
        if !good {
            self.clean_since = now;
        }
        self.window.note(now, good);
        let counts = self.window.counts(now);
        let mostly_bad = counts.total() >= self.policy.samples_min && counts.good * 2 < counts.total();
        if !good && (self.run >= self.policy.failures_max || mostly_bad) {
            self.trip(now);
        }
    }

    /// Twice as many at once, each time as many have come back well; beyond the widest it is closed again.
    fn widen(&mut self, now: Duration) {
        let State::Ramping { width, good, .. } = &mut self.state else { return };
        *good += 1;
        if *good < *width {
            return;
        }
        *good = 0;
        *width *= 2;
        if *width > self.policy.ramp_max {
            self.run = 0;
            self.window = Window::default();
            self.clean_since = now;
            self.turn(State::Closed);
        }
    }

    fn trip(&mut self, now: Duration) {
        let doubled = self.policy.open_min.saturating_mul(1 << self.level.min(LEVEL_MAX));
        let pause = self.spread(doubled.min(self.policy.open_max)).min(self.policy.open_max);
        self.level = (self.level + 1).min(LEVEL_MAX);
        self.trips += 1;
        self.turn(State::Open { until: now + pause });
    }

    /// A fifth more or less, so that many gateways do not come back in step.
    fn spread(&mut self, pause: Duration) -> Duration {
        // xorshift64: chance enough to keep breakers out of step, and the same again for the same seed.
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        let percent = 80 + u32::try_from(self.chance % 41).unwrap_or_default();
        pause * percent / 100
    }

    fn turn(&mut self, state: State) {
        self.era += 1;
        self.state = state;
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
