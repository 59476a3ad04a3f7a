//! The door for time and randomness: the ledger asks for both here and finds them nowhere else.
//! Who enters: `wiring` with the machine's own, a test with its own.
//! What leaves: microseconds for leaves, a duration that never runs back for deadlines, salts.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// The time as told, and time that only passes.
pub trait Clock: Send + Sync {
    /// Microseconds since 1970, as the machine believes. It may jump; order never depends on it.
    fn unix_us(&self) -> u64;
    /// Time since some fixed moment; it never goes back.
    fn monotonic(&self) -> Duration;
    /// Which boot of the machine this is, and how long it has been up.
    fn boot(&self) -> Boot;
}

/// One boot of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Names this boot and no other; the same for every process of it.
    pub id: [u8; 16],
    /// Since its start, suspended time included; nobody can set it.
    pub uptime: Duration,
}

/// A source of salts.
pub trait Random: Send + Sync {
    /// Fills the whole slice, or says that it could not.
    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoRandomness>;
}

/// The machine gives no randomness: nothing can be recorded.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("the machine gives no randomness")]
pub struct NoRandomness;

/// The machine's own clock.
#[derive(Debug)]
pub struct MachineClock {
    start: Instant,
    boot_id: [u8; 16],
}

impl MachineClock {
    /// Starts counting now.
    #[allow(clippy::new_without_default, reason = "starting a clock is an act, not a default")]
    pub fn new() -> Self {
        Self { start: Instant::now(), boot_id: boot_id() }
    }
}

impl Clock for MachineClock {
    fn unix_us(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn boot(&self) -> Boot {
        // A machine without this clock proves nothing, so whatever is protected waits for ever there.
        let uptime = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
        Boot { id: self.boot_id, uptime }
    }
}

/// The kernel's name for this boot. Where it cannot be read, each process counts as a boot of its own: then no time is taken
/// as proven that passed between two of them.
fn boot_id() -> [u8; 16] {
    let read = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
    let named = read.and_then(|text| hex::decode(text.trim().replace('-', "")).ok()?.try_into().ok());
    named.unwrap_or_else(|| {
        let mut id = [0; 16];
        // Without randomness the ledger takes no entry, so nothing rests on this.
        let _ = aws_lc_rs::rand::fill(&mut id);
        id
    })
}

/// The machine's own randomness.
#[derive(Debug, Default)]
pub struct MachineRandom;

impl Random for MachineRandom {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        aws_lc_rs::rand::fill(bytes).map_err(|_| NoRandomness)
    }
}
