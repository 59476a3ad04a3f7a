//! When the ledger is sealed: at intervals, after many entries, before an export, and sooner when somebody asks; and when all
//! of it is looked at: after the start, every hour, and before an export.
//! Who enters: the clock, the ledger's growth, requests for receipts, operators.
//! What leaves: checkpoints, or a frozen ledger; a wear budget keeps a TPM's memory from being written to death.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use audit::export::ExportRefused;
use audit::{Freeze, Ledger, RecoverRefused, SealRefused, Sealing, Standing, StoredCheckpoint, Tier};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// When to seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cadence {
    /// At least this often, if anything is new.
    pub interval: Duration,
    /// As soon as so many entries are new.
    pub rows: u64,
}

/// The keeper of the seal; cheap to clone.
#[derive(Clone)]
pub struct Keeper {
    inner: Arc<Inner>,
}

struct Inner {
    sealing: Sealing,
    ledger: Ledger,
    cadence: Cadence,
    hurry: Notify,
    /// Seals sooner than the interval, where the anchor wears out.
    extra: Option<Mutex<Budget>>,
    refused: AtomicU64,
    /// Why the last seal did not come about; none if it did.
    last_refusal: Mutex<Option<String>>,
    examinations: AtomicU64,
    /// Two looks at everything at once would only read the same rows twice.
    examining: tokio::sync::Mutex<()>,
}

/// A handful of early seals, coming back slowly.
struct Budget {
    left: u32,
    counted: Instant,
}

/// Early seals a TPM is given in one go, and then about 200 a day.
const EXTRA_BURST: u32 = 40;
const EXTRA_EVERY: Duration = Duration::from_secs(432);
/// How often the whole ledger is looked at. A look takes about a second per million entries, so an hour costs even the
/// largest ledger little, and what was changed in the file is served for no longer than that.
const EXAMINE_EVERY: Duration = Duration::from_secs(3_600);
/// How often growth is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Keeper {
    /// A keeper over a sealing whose recovery has been done.
    pub fn new(sealing: Sealing, ledger: Ledger, cadence: Cadence) -> Self {
        let wears_out = sealing.tier() == Some(Tier::TpmNv);
        let extra = wears_out.then(|| Mutex::new(Budget { left: EXTRA_BURST, counted: Instant::now() }));
        let inner = Inner {
            sealing,
            ledger,
            cadence,
            hurry: Notify::new(),
            extra,
            refused: AtomicU64::new(0),
            last_refusal: Mutex::default(),
            examinations: AtomicU64::new(0),
            examining: tokio::sync::Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Seals now, whatever the budget: for exports and operators.
    ///
    /// # Errors
    /// Hardware or ledger did not do their part.
    pub async fn seal(&self) -> Result<StoredCheckpoint, SealRefused> {
        let sealed = self.inner.sealing.seal().await;
        *self.inner.last_refusal.lock().unwrap_or_else(PoisonError::into_inner) =
            sealed.as_ref().err().map(|why| with_causes(why));
        sealed
    }

    /// Why the last seal did not come about; none if it did, or if there was none yet.
    pub fn last_refusal(&self) -> Option<String> {
        self.inner.last_refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks for a seal soon, and says when there should be one.
    pub fn hurry(&self) -> Duration {
        if self.inner.may_seal_early() {
            self.inner.hurry.notify_one();
            return LOOK_EVERY;
        }
        self.inner.cadence.interval
    }

    /// Which anchor stands behind the checkpoints.
    pub fn tier(&self) -> Option<Tier> {
        self.inner.sealing.tier()
    }

    /// Looks at the whole log: every entry, checkpoint, step and statement. What does not agree freezes the ledger.
    ///
    /// # Errors
    /// The ledger is frozen now, or could not be read.
    pub async fn examine_everything(&self) -> Result<(), RecoverRefused> {
        let _alone = self.inner.examining.lock().await;
        let examined = self.inner.sealing.examine_everything().await;
        match &examined {
            Ok(()) => drop(self.inner.examinations.fetch_add(1, Ordering::Relaxed)),
            Err(RecoverRefused::Frozen(freeze)) => {
                tracing::error!(%freeze, "the ledger does not verify; it is frozen");
            }
            Err(why) => tracing::warn!(%why, "the ledger could not be looked at as a whole"),
        }
        examined
    }

    /// Looks at the whole log now, and then every hour, until the house stops.
    pub async fn keep_examining(self, stopping: CancellationToken) {
        self.examine_every(EXAMINE_EVERY, stopping).await;
    }

    async fn examine_every(self, every: Duration, stopping: CancellationToken) {
        loop {
            let look = async {
                // What failed has been told; a frozen ledger stays frozen, and any other is looked at again.
                let _ = self.examine_everything().await;
                tokio::time::sleep(every).await;
            };
            tokio::select! {
                () = stopping.cancelled() => return,
                () = look => {}
            }
        }
    }

    /// Looks at everything that came to an end well since the start.
    pub fn examinations(&self) -> u64 {
        self.inner.examinations.load(Ordering::Relaxed)
    }

    /// Freezes the ledger if an export did not come about because of what it found in it, and says why.
    pub fn freeze_for(&self, refused: &ExportRefused) -> Option<Freeze> {
        let freeze = self.inner.sealing.freeze_for(refused)?;
        tracing::error!(%freeze, "an export met something that was changed; the ledger is frozen");
        Some(freeze)
    }

    /// Seals until the house stops.
    pub async fn run(self, stopping: CancellationToken) {
        let mut last = Instant::now();
        loop {
            let asked = tokio::select! {
                () = stopping.cancelled() => return,
                () = self.inner.hurry.notified() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let health = self.inner.ledger.health();
            if matches!(health.standing, Standing::Frozen(_)) {
                // Said once, when it froze. Nothing is sealed until a person has found out which history is the right one.
                continue;
            }
            let waiting = health.unanchored_rows;
            let due = self.inner.is_due(last.elapsed(), waiting);
            if asked || (due && waiting > 0) {
                last = Instant::now();
                self.seal_and_log().await;
            }
        }
    }

    /// Seals that did not come about since the start.
    pub fn refused(&self) -> u64 {
        self.inner.refused.load(Ordering::Relaxed)
    }

    async fn seal_and_log(&self) {
        match self.seal().await {
            Ok(checkpoint) => tracing::info!(k = checkpoint.k, size = checkpoint.size, "sealed"),
            Err(why) => {
                self.inner.refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(why = with_causes(&why), "not sealed; what was begun is finished next time");
            }
        }
    }
}

impl Inner {
    /// Whether it is time to seal: at the interval, and before it for many entries as long as the anchor can bear it.
    fn is_due(&self, since: Duration, waiting: u64) -> bool {
        since >= self.cadence.interval || (waiting >= self.cadence.rows && self.may_seal_early())
    }

    /// Whether one more seal before its time is within what the anchor can bear, however it came about.
    fn may_seal_early(&self) -> bool {
        let spend = |budget: &Mutex<Budget>| {
            budget.lock().unwrap_or_else(PoisonError::into_inner).spend(Instant::now())
        };
        self.extra.as_ref().is_none_or(spend)
    }
}

/// An error with everything that it came from: the device's own word stands at the end.
fn with_causes(why: &dyn std::error::Error) -> String {
    std::iter::successors(why.source(), |cause| cause.source())
        .fold(why.to_string(), |text, cause| format!("{text}: {cause}"))
}

impl Budget {
    fn spend(&mut self, now: Instant) -> bool {
        let back = now.saturating_duration_since(self.counted).as_secs() / EXTRA_EVERY.as_secs();
        let back = u32::try_from(back).unwrap_or(u32::MAX);
        self.counted += EXTRA_EVERY * back;
        self.left = self.left.saturating_add(back).min(EXTRA_BURST);
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use audit::double::{MemoryAnchor, MemorySealer};
    use audit::{Entry, LedgerLimits, LedgerOptions, MachineClock, MachineRandom, SqlFault, Told};

    use super::*;

    const ORIGIN: &str = "test.example/audit/0001";

    /// A keeper over a ledger with some sealed history.
    async fn keeper(directory: &std::path::Path) -> Keeper {
        let ledger = Ledger::open(LedgerOptions {
            path: directory.join("ledger.db"),
            origin: ORIGIN.to_owned(),
            schemas: Vec::new(),
            clock: Arc::new(MachineClock::new()),
            random: Arc::new(MachineRandom),
            limits: LedgerLimits::default(),
            dangerous_without_recovery: false,
        });
        let ledger = ledger.unwrap();
        let anchor = Arc::new(MemoryAnchor::new(Tier::TpmNv));
        let sealing = Sealing::new(ledger.clone(), Arc::new(MemorySealer::new(ORIGIN)), Some(anchor));
        sealing.recover().await.unwrap();
        for _ in 0..4 {
            let told = |_: &mut audit::Tx<'_>| Ok::<_, SqlFault>(Told::new((), Entry::new("note.add")));
            ledger.write(told).await.unwrap();
        }
        let cadence = Cadence { interval: Duration::from_secs(60), rows: 1_000 };
        let keeper = Keeper::new(sealing, ledger, cadence);
        keeper.seal().await.unwrap();
        keeper
    }

    #[tokio::test]
    async fn what_is_changed_under_a_running_appliance_is_found_by_the_next_look() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = keeper(directory.path()).await;
        let stopping = CancellationToken::new();
        let examining =
            tokio::spawn(keeper.clone().examine_every(Duration::from_millis(1), stopping.clone()));
        while keeper.examinations() < 3 {
            tokio::task::yield_now().await;
        }
        let database = rusqlite::Connection::open(directory.path().join("ledger.db")).unwrap();
        let edit = "DROP TRIGGER entry_is_fixed; UPDATE entry SET actor = 'forged' WHERE seq = 1";
        database.execute_batch(edit).unwrap();
        let freeze = keeper.inner.ledger.frozen().await;
        assert!(freeze.found.contains("entry 1: column `actor` says `forged`"), "{freeze}");
        stopping.cancel();
        examining.await.unwrap();
    }

    #[tokio::test]
    async fn however_many_entries_come_the_anchor_is_written_no_more_often_than_it_can_bear() {
        let directory = tempfile::tempdir().unwrap();
        let keeper = keeper(directory.path()).await;
        let busy = |_: &u32| keeper.inner.is_due(Duration::ZERO, 1_000_000);
        let early = (0..10_000).filter(busy).count();
        assert_eq!(early, EXTRA_BURST as usize);
        assert!(
            keeper.inner.is_due(Duration::from_secs(60), 1_000_000),
            "the interval costs nothing of the budget"
        );
    }

    #[test]
    fn a_day_of_asking_writes_no_more_than_the_wear_budget() {
        let begin = Instant::now();
        let mut budget = Budget { left: EXTRA_BURST, counted: begin };
        let seconds = 0..24 * 3600;
        let spent = seconds.filter(|second| budget.spend(begin + Duration::from_secs(*second))).count();
        assert!((200..=EXTRA_BURST as usize + 200).contains(&spent), "{spent}");
    }
}
