//! The breaker held against an oracle: any order of calls, reports and hours, compared with what must never happen.
//! Who enters: generated histories.
//! What leaves: the shortest history that breaks a promise.

use proptest::prelude::*;

use super::*;

const POLICY: Policy = Policy {
    failures_max: 5,
    samples_min: 20,
    open_min: Duration::from_secs(1),
    open_max: Duration::from_secs(60),
    probe_wait: Duration::from_secs(10),
    ramp_max: 32,
};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn call(breaker: &mut Breaker, now: Duration, verdict: Verdict) -> bool {
    match breaker.ask(now) {
        Ok(ticket) => {
            breaker.report(now, ticket, verdict);
            true
        }
        Err(_) => false,
    }
}

fn tripped(now: Duration) -> Breaker {
    let mut breaker = Breaker::new(POLICY, 7);
    for _ in 0..5 {
        call(&mut breaker, now, Verdict::Failure);
    }
    assert_eq!(breaker.standing(now), Standing::Open);
    breaker
}

#[test]
fn five_hard_failures_in_a_row_trip_it_and_four_do_not() {
    let mut breaker = Breaker::new(POLICY, 7);
    for _ in 0..4 {
        call(&mut breaker, ms(0), Verdict::Failure);
    }
    call(&mut breaker, ms(0), Verdict::Success);
    for _ in 0..4 {
        call(&mut breaker, ms(0), Verdict::Failure);
    }
    assert_eq!(breaker.standing(ms(0)), Standing::Closed);
    call(&mut breaker, ms(0), Verdict::Failure);
    assert_eq!(breaker.standing(ms(0)), Standing::Open);
}

#[test]
fn less_than_half_of_twenty_within_ten_seconds_trips_it_and_nineteen_do_not() {
    let mut breaker = Breaker::new(POLICY, 7);
    // One good for every two bad, so never five in a row.
    for at in 0..18_u64 {
        let verdict = if at % 3 == 0 { Verdict::Success } else { Verdict::Failure };
        call(&mut breaker, ms(at * 100), verdict);
    }
    call(&mut breaker, ms(1800), Verdict::Success);
    assert_eq!(breaker.standing(ms(1800)), Standing::Closed, "19 samples");
    call(&mut breaker, ms(1900), Verdict::Failure);
    assert_eq!(breaker.standing(ms(1900)), Standing::Open);
}

#[test]
fn the_same_failures_over_a_longer_time_do_not_trip_it() {
    let mut breaker = Breaker::new(POLICY, 7);
    for at in 0..200_u64 {
        let verdict = if at % 3 == 0 { Verdict::Success } else { Verdict::Failure };
        call(&mut breaker, ms(at * 1000), verdict);
    }
    assert_eq!(breaker.standing(ms(200_000)), Standing::Closed);
}

#[test]
fn being_asked_for_less_counts_in_the_rate_only_but_fails_a_probe() {
    let mut breaker = Breaker::new(POLICY, 7);
    for _ in 0..19 {
        call(&mut breaker, ms(0), Verdict::Throttled);
    }
    assert_eq!(breaker.standing(ms(0)), Standing::Closed);
    call(&mut breaker, ms(0), Verdict::Throttled);
    assert_eq!(breaker.standing(ms(0)), Standing::Open);
    let later = ms(2000);
    let probe = breaker.ask(later).unwrap();
    breaker.report(later, probe, Verdict::Throttled);
    assert_eq!(breaker.standing(later), Standing::Open);
}

#[test]
fn pauses_double_stay_within_a_fifth_and_never_exceed_the_longest() {
    let (mut breaker, mut now) = (tripped(ms(0)), ms(0));
    for level in 0..12_u32 {
        let pause = breaker.pause(now).unwrap();
        let middle = (POLICY.open_min * (1 << level)).min(POLICY.open_max);
        assert!(
            pause >= middle * 4 / 5 && pause <= (middle * 6 / 5).min(POLICY.open_max),
            "{level}: {pause:?}"
        );
        now += pause;
        assert!(call(&mut breaker, now, Verdict::Failure), "the probe passes");
    }
}

#[test]
fn after_a_good_probe_two_then_four_then_eight_pass_at_once() {
    let (mut breaker, now) = (tripped(ms(0)), ms(5000));
    assert!(call(&mut breaker, now, Verdict::Success));
    for width in [2_usize, 4, 8, 16, 32] {
        assert_eq!(breaker.standing(now), Standing::Ramping);
        let tickets: Vec<_> = std::iter::from_fn(|| breaker.ask(now).ok()).collect();
        assert_eq!(tickets.len(), width);
        tickets.into_iter().for_each(|ticket| breaker.report(now, ticket, Verdict::Success));
    }
    assert_eq!(breaker.standing(now), Standing::Closed);
}

#[test]
fn the_back_off_starts_anew_only_after_two_clean_windows() {
    let reopened_after = |clean: Duration| {
        let (mut breaker, mut now) = (tripped(ms(0)), ms(5000));
        while breaker.standing(now) != Standing::Closed {
            call(&mut breaker, now, Verdict::Success);
        }
        now += clean;
        for _ in 0..5 {
            call(&mut breaker, now, Verdict::Failure);
        }
        breaker.pause(now).unwrap()
    };
    assert!(reopened_after(ms(19_000)) >= ms(1600), "the second level");
    assert!(reopened_after(ms(20_000)) <= ms(1200), "the first level");
}

#[test]
fn a_report_from_before_it_opened_does_not_close_it() {
    let mut breaker = Breaker::new(POLICY, 7);
    let late = breaker.ask(ms(0)).unwrap();
    for _ in 0..5 {
        call(&mut breaker, ms(0), Verdict::Failure);
    }
    let probe = breaker.ask(ms(2000)).unwrap();
    breaker.report(ms(2000), late, Verdict::Success);
    assert_eq!(breaker.standing(ms(2000)), Standing::HalfOpen, "only the probe decides");
    breaker.report(ms(2000), probe, Verdict::Success);
    assert_eq!(breaker.standing(ms(2000)), Standing::Ramping);
}

/// One thing that happens.
#[derive(Clone, Debug)]
enum Event {
    Ask,
    Report { which: usize, verdict: Verdict },
    Wait { millis: u64 },
}

fn verdicts() -> impl Strategy<Value = Verdict> {
    prop_oneof![
        3 => Just(Verdict::Failure),
        2 => Just(Verdict::Success),
        1 => Just(Verdict::Throttled),
        1 => Just(Verdict::Neutral),
    ]
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => Just(Event::Ask),
        4 => (any::<usize>(), verdicts()).prop_map(|(which, verdict)| Event::Report { which, verdict }),
        1 => (0..3000_u64).prop_map(|millis| Event::Wait { millis }),
        1 => (0..70_000_u64).prop_map(|millis| Event::Wait { millis }),
    ];
    proptest::collection::vec(event, 0..400)
}

/// What is known without looking inside: when it must stay shut, and which probe is out.
#[derive(Default)]
struct Oracle {
    run: u32,
    shut_until: Duration,
    probe: Option<Duration>,
    out: Vec<(Ticket, Standing)>,
}

impl Oracle {
    fn asked(&mut self, now: Duration, before: Standing, answer: Result<Ticket, Duration>) {
        let Ok(ticket) = answer else { return };
        assert!(now >= self.shut_until, "passed while open");
        if before == Standing::HalfOpen {
            let given_up = self.probe.is_none_or(|since| now >= since + POLICY.probe_wait);
            assert!(given_up, "two probes at once");
            self.probe = Some(now);
        }
        assert_eq!(ticket.is_trial(), before != Standing::Closed);
        self.out.push((ticket, before));
    }

    fn reported(&mut self, breaker: &mut Breaker, now: Duration, which: usize, verdict: Verdict) {
        if self.out.is_empty() {
            return;
        }
        let (ticket, given) = self.out.swap_remove(which % self.out.len());
        let (before, era, current) = (breaker.standing(now), ticket.era, breaker.era);
        breaker.report(now, ticket, verdict);
        if era != current {
            assert_eq!(breaker.standing(now), before, "a report from another era changed something");
            return;
        }
        if given == Standing::HalfOpen {
            self.probe = None;
        }
        self.run = match verdict {
            Verdict::Success => 0,
            Verdict::Failure if before == Standing::Closed => self.run + 1,
            _ => self.run,
        };
        if before == Standing::Closed && self.run >= POLICY.failures_max {
            assert_eq!(breaker.standing(now), Standing::Open, "five in a row and still closed");
        }
        if before != Standing::Closed && matches!(verdict, Verdict::Failure | Verdict::Throttled) {
            assert_eq!(breaker.standing(now), Standing::Open, "a failed trial and not open");
        }
    }

    fn look(&mut self, breaker: &Breaker, now: Duration) {
        if let Some(pause) = breaker.pause(now) {
            assert!(pause <= POLICY.open_max, "a pause of {pause:?}");
            self.shut_until = self.shut_until.max(now + pause);
            (self.run, self.probe) = (0, None);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn never_two_probes_never_past_an_open_door_and_always_back_again(events in events(), seed: u64) {
        let (mut breaker, mut oracle, mut now) = (Breaker::new(POLICY, seed), Oracle::default(), Duration::ZERO);
        for event in events {
            match event {
                Event::Ask => {
                    let before = breaker.standing(now);
                    let answer = breaker.ask(now);
                    oracle.asked(now, before, answer);
                }
                Event::Report { which, verdict } => oracle.reported(&mut breaker, now, which, verdict),
                Event::Wait { millis } => now += ms(millis),
            }
            oracle.look(&breaker, now);
        }
        // Whatever happened, a service that answers again is let in again: the longest pause for each of two trials that
        // may still be out, then the ramp.
        for _ in 0..3 {
            now += POLICY.open_max.max(POLICY.probe_wait) + ms(1);
            call(&mut breaker, now, Verdict::Success);
        }
        let calls = (0..200).filter(|_| call(&mut breaker, now, Verdict::Success)).count();
        prop_assert!(calls >= 190, "only {calls} of 200 passed");
        prop_assert_eq!(breaker.standing(now), Standing::Closed);
    }
}
