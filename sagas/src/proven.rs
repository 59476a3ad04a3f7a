//! Time that has provably passed: a clock that only counts what the machine's uptime shows, over restarts and reboots.
//!
//! The wall clock can be put forward by a time server, a flat battery or a hypervisor, and a notice must not end by that. So
//! whatever protects somebody is measured in *proven time*: it grows with the uptime of the running boot (`CLOCK_BOOTTIME`,
//! which counts suspended time too), stands still while the machine is off, and is written down as it goes. While the wall
//! clock and the uptime have drifted apart a short while ago, the clocks are *unsettled*, and nothing irreversible is begun.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use audit::{
    Boot, Clock, Detail, Entry, Ledger, Outcome, SqlFault, Statement, Told, Tx, View, WriteRefused, params,
};

use crate::store::{SERVICE, big, micros};

/// Between two records: so much proven time is lost at most when the machine loses its power.
const RECORD_EVERY: Duration = Duration::from_secs(60);
/// Wall clock and uptime differ by more than this after a step of either; disciplined clocks stay far below.
pub const CLOCK_DRIFT_MAX: Duration = Duration::from_secs(120);
/// So long both must agree again before anything irreversible is begun.
pub const CLOCK_SETTLES_IN: Duration = Duration::from_secs(3_600);
/// After a reboot a wait that protects lasts at least this long, or its whole length if that is shorter: people see the
/// appliance again before what was announced happens.
pub const AFTER_REBOOT_MIN: Duration = Duration::from_secs(3_600);

pub(crate) static READ: Statement = Statement::across_workspaces(
    SERVICE,
    "the appliance's own time",
    "SELECT boot, uptime_us, wall_us, proven_us, rebooted_us, settled_us FROM proven_time WHERE one = 1",
);
pub(crate) static WRITE: Statement = Statement::across_workspaces(
    SERVICE,
    "the appliance's own time",
    "INSERT INTO proven_time (one, boot, uptime_us, wall_us, proven_us, rebooted_us, settled_us)
     VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6)
     ON CONFLICT (one) DO UPDATE SET boot = ?1, uptime_us = ?2, wall_us = ?3, proven_us = ?4, rebooted_us = ?5,
        settled_us = ?6",
);

/// The clock of what protects. Cheap to ask.
pub struct ProvenTime {
    clock: Arc<dyn Clock>,
    ledger: Ledger,
    record: Mutex<Record>,
}

/// What was known at one moment; everything later is counted from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    boot: [u8; 16],
    uptime_us: u64,
    wall_us: u64,
    proven_us: u64,
    /// Proven time when this boot was first seen.
    rebooted_us: u64,
    /// Proven time from which on the clocks count as agreeing.
    settled_us: u64,
}

/// A step of the wall clock that the uptime does not bear out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Jump {
    from_us: u64,
    to_us: u64,
}

impl Record {
    /// The first one begins where the wall clock stands, so that proven time reads like a moment as long as the machine runs.
    fn first(boot: &Boot, wall_us: u64) -> Self {
        let uptime_us = whole_micros(boot.uptime);
        Self { boot: boot.id, uptime_us, wall_us, proven_us: wall_us, rebooted_us: wall_us, settled_us: 0 }
    }

    /// Proven time now. A boot that was not recorded yet has proven nothing.
    fn now_us(&self, boot: &Boot) -> u64 {
        let passed = whole_micros(boot.uptime).saturating_sub(self.uptime_us);
        self.proven_us + if boot.id == self.boot { passed } else { 0 }
    }

    /// The next record, and whether the wall clock jumped since this one.
    fn next(&self, boot: &Boot, wall_us: u64) -> (Self, Option<Jump>) {
        let proven_us = self.now_us(boot);
        let expected_us = self.wall_us.saturating_add(proven_us - self.proven_us);
        let same_boot = boot.id == self.boot;
        let drift_max = whole_micros(CLOCK_DRIFT_MAX);
        // While the machine was off, any time may have passed forward; none passes backward.
        let jumped = wall_us.saturating_add(drift_max) < expected_us
            || (same_boot && wall_us > expected_us.saturating_add(drift_max));
        let next = Self {
            boot: boot.id,
            uptime_us: whole_micros(boot.uptime),
            wall_us,
            proven_us,
            rebooted_us: if same_boot { self.rebooted_us } else { proven_us },
            settled_us: if jumped { proven_us + whole_micros(CLOCK_SETTLES_IN) } else { self.settled_us },
        };
        (next, jumped.then_some(Jump { from_us: expected_us, to_us: wall_us }))
    }
}

impl ProvenTime {
    /// Goes on counting where the last run left off.
    ///
    /// # Errors
    /// The ledger cannot be read or does not take the record.
    pub(crate) async fn open(
        clock: Arc<dyn Clock>,
        ledger: Ledger,
    ) -> Result<Arc<Self>, WriteRefused<SqlFault>> {
        let record = Record::first(&clock.boot(), clock.unix_us());
        let time = Arc::new(Self { clock, ledger, record: Mutex::new(record) });
        let last = time.ledger.read(|view: &View<'_>| read(view)).await.map_err(|refused| match refused {
            audit::ReadRefused::Rejected(fault) => WriteRefused::Rejected(fault),
            audit::ReadRefused::Overloaded => WriteRefused::Overloaded,
            _ => WriteRefused::Closed,
        })?;
        if let Some(last) = last {
            time.put(last);
        }
        time.observe(true).await?;
        Ok(time)
    }

    /// Where proven time stands, in microseconds: it began with the wall clock of the appliance's first start, and only grows by what
    /// has provably passed.
    pub fn now_us(&self) -> u64 {
        self.get().now_us(&self.clock.boot())
    }

    /// How much of a wait is left that began at `from_us` and ends at `until_us`, both in proven time.
    pub fn left_us(&self, from_us: u64, until_us: u64) -> u64 {
        let record = self.get();
        let shortest = (until_us - from_us.min(until_us)).min(whole_micros(AFTER_REBOOT_MIN));
        let until_us = match from_us < record.rebooted_us {
            true => until_us.max(record.rebooted_us + shortest),
            false => until_us,
        };
        until_us.saturating_sub(record.now_us(&self.clock.boot()))
    }

    /// How long it takes until the clocks count as agreeing again, if they do not now.
    pub fn unsettled_us(&self) -> Option<u64> {
        let left = self.get().settled_us.saturating_sub(self.now_us());
        // A step that nobody has recorded yet counts already.
        let (_, jump) = self.get().next(&self.clock.boot(), self.clock.unix_us());
        match jump {
            Some(_) => Some(whole_micros(CLOCK_SETTLES_IN)),
            None => (left > 0).then_some(left),
        }
    }

    /// Looks at both clocks; writes down what has passed from time to time, and at once when the wall clock jumped, which is
    /// told. Says whether it jumped.
    pub(crate) async fn observe(&self, at_once: bool) -> Result<bool, WriteRefused<SqlFault>> {
        let last = self.get();
        let (next, jump) = last.next(&self.clock.boot(), self.clock.unix_us());
        let Some(jump) = jump else {
            let due = next.proven_us.saturating_sub(last.proven_us) >= whole_micros(RECORD_EVERY);
            if at_once || due || next.boot != last.boot {
                let why = "how much time has provably passed, as of now";
                self.ledger.write_unaudited(why, move |tx| write(tx, &next)).await?;
                self.put(next);
            }
            return Ok(false);
        };
        tracing::error!(
            from_us = jump.from_us,
            to_us = jump.to_us,
            "the wall clock jumped; notices go on by the machine's uptime, and nothing irreversible is begun for an hour"
        );
        self.ledger
            .write(move |tx| {
                write(tx, &next)?;
                Ok::<_, SqlFault>(Told::new((), jumped(&jump)))
            })
            .await?;
        self.put(next);
        Ok(true)
    }

    fn get(&self) -> Record {
        *self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, record: Record) {
        *self.record.lock().unwrap_or_else(PoisonError::into_inner) = record;
    }
}

impl std::fmt::Debug for ProvenTime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProvenTime").field("record", &self.get()).finish_non_exhaustive()
    }
}

fn jumped(jump: &Jump) -> Entry {
    let seconds = |us: u64| i64::try_from(us / 1_000_000).unwrap_or(i64::MAX);
    let detail = Detail::default().with("jumped_by_seconds", seconds(jump.to_us) - seconds(jump.from_us));
    Entry::new("clock.jumped")
        .actor("system:clock")
        .object("appliance")
        .outcome(Outcome::Failed)
        .detail(detail)
}

fn read(view: &View<'_>) -> Result<Option<Record>, SqlFault> {
    view.one(&READ, params![], |row| {
        Ok(Record {
            boot: crate::store::bytes_or_bug(row, 0)?,
            uptime_us: micros(row, 1)?,
            wall_us: micros(row, 2)?,
            proven_us: micros(row, 3)?,
            rebooted_us: micros(row, 4)?,
            settled_us: micros(row, 5)?,
        })
    })
}

fn write(tx: &Tx<'_>, record: &Record) -> Result<(), SqlFault> {
    let Record { boot, uptime_us, wall_us, proven_us, rebooted_us, settled_us } = record;
    let numbers = [uptime_us, wall_us, proven_us, rebooted_us, settled_us].map(|number| big(*number));
    tx.run(&WRITE, params![boot, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]]).map(drop)
}

fn whole_micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    fn boot(id: u8, seconds: u64) -> Boot {
        Boot { id: [id; 16], uptime: Duration::from_secs(seconds) }
    }

    fn start() -> Record {
        Record::first(&boot(1, 100), 1_000 * SECOND)
    }

    #[test]
    fn only_uptime_counts_whatever_the_wall_clock_says() {
        let later = boot(1, 160);
        for wall in [0, 1_060 * SECOND, 9_000_000 * SECOND] {
            assert_eq!(start().next(&later, wall).0.proven_us, 1_060 * SECOND);
        }
    }

    #[test]
    fn a_step_of_the_wall_clock_unsettles_for_an_hour_in_either_direction() {
        for (wall, jumps) in [(1_060, false), (1_180, false), (1_181, true), (940, false), (939, true)] {
            let (next, jump) = start().next(&boot(1, 160), wall * SECOND);
            assert_eq!(jump.is_some(), jumps, "{wall}");
            assert_eq!(next.settled_us, if jumps { 4_660 * SECOND } else { 0 }, "{wall}");
        }
    }

    #[test]
    fn a_reboot_proves_nothing_of_the_time_before_it_and_may_only_go_forward() {
        let (next, jump) = start().next(&boot(2, 30), 900_000 * SECOND);
        assert_eq!((next.proven_us, next.rebooted_us, jump), (1_000 * SECOND, 1_000 * SECOND, None));
        let (next, jump) = next.next(&boot(3, 10), 5 * SECOND);
        assert!(jump.is_some());
        assert_eq!(next.proven_us, 1_000 * SECOND);
        assert_eq!(next.next(&boot(3, 70), 65 * SECOND).0.proven_us, 1_060 * SECOND);
        // Also where the new boot has run for longer than the old one had when it was recorded.
        let (next, _) = start().next(&boot(2, 9_000), 900_000 * SECOND);
        assert_eq!(next.proven_us, 1_000 * SECOND);
    }
}
