//! The room behind the front door: what all clones of a ledger share, and the two queues to its threads.
//! Who enters: `Ledger`, wrapping closures into jobs; the writer, reporting what it committed.
//! What leaves: jobs on the queues, answers to their callers, and the standing that decides who may write.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::job::{Audited, Job, Pass, Settled, Unaudited};
use crate::ledger::{LedgerHealth, LedgerLimits, Standing};
use crate::outside::Clock;
use crate::readers::ReadJob;
use crate::refused::{Freeze, ReadRefused, WriteRefused};
use crate::told::{Recorded, Told};
use crate::tx::{Tx, View};

/// What all clones of a ledger share. With the last clone the doors go, and so the threads end.
pub(crate) struct Shared {
    core: Arc<Core>,
    doors: Mutex<Option<Doors>>,
    closed: Mutex<Vec<oneshot::Receiver<()>>>,
}

/// What the ledger's clones and its threads share.
pub(crate) struct Core {
    pub(crate) origin: String,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: LedgerLimits,
    pub(crate) figures: Figures,
    standing: Mutex<Standing>,
}

impl std::ops::Deref for Shared {
    type Target = Core;
    fn deref(&self) -> &Core {
        &self.core
    }
}

/// Counters that the writer keeps and health shows.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) entries: AtomicU64,
    pub(crate) anchored: AtomicU64,
    /// Monotonic microseconds plus one of the oldest entry not yet anchored; 0 when there is none.
    pub(crate) unanchored_since: AtomicU64,
    pub(crate) queued_writes: AtomicUsize,
    /// Callers on their way to a write, or back for the next.
    pub(crate) attending: Arc<AtomicUsize>,
    pub(crate) commits: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) undone_for_space: AtomicU64,
}

/// The two ways to the threads; taken away on close, and with them gone the threads end.
pub(crate) struct Doors {
    pub(crate) writes: SyncSender<Box<dyn Job>>,
    pub(crate) reads: SyncSender<ReadJob>,
}

impl Shared {
    pub(crate) fn new(core: Arc<Core>, doors: Doors) -> Self {
        Self { core, doors: Mutex::new(Some(doors)), closed: Mutex::new(Vec::new()) }
    }

    pub(crate) async fn write<T, E, W>(&self, work: W) -> Result<Recorded<T>, WriteRefused<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
        W: FnMut(&mut Tx<'_>) -> Result<Told<T>, E> + Send + 'static,
    {
        self.write_with(Pass::Service, work).await
    }

    pub(crate) async fn write_with<T, E, W>(
        &self,
        pass: Pass,
        work: W,
    ) -> Result<Recorded<T>, WriteRefused<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
        W: FnMut(&mut Tx<'_>) -> Result<Told<T>, E> + Send + 'static,
    {
        let (answer, told) = oneshot::channel();
        self.enqueue(Box::new(Audited::new(pass, work, answer)))?;
        told.await.unwrap_or(Err(WriteRefused::Closed))
    }

    pub(crate) async fn write_unaudited<T, E, W>(
        &self,
        _why: &'static str,
        work: W,
    ) -> Result<T, WriteRefused<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
        W: FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    {
        self.write_unaudited_with(Pass::Service, work).await
    }

    pub(crate) async fn write_unaudited_with<T, E, W>(
        &self,
        pass: Pass,
        work: W,
    ) -> Result<T, WriteRefused<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
        W: FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    {
        let (answer, done) = oneshot::channel();
        self.enqueue(Box::new(Unaudited::new(pass, work, answer)))?;
        done.await.unwrap_or(Err(WriteRefused::Closed))
    }

    pub(crate) async fn read<T, E, W>(&self, work: W) -> Result<T, ReadRefused<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
        W: FnOnce(&View<'_>) -> Result<T, E> + Send + 'static,
    {
        let (answer, found) = oneshot::channel();
        let job = crate::readers::job(work, answer);
        let reads = self.doors().as_ref().map(|doors| doors.reads.clone());
        match reads.ok_or(ReadRefused::Closed)?.try_send(job) {
            Ok(()) => found.await.unwrap_or(Err(ReadRefused::Closed)),
            Err(TrySendError::Full(_)) => Err(ReadRefused::Overloaded),
            Err(TrySendError::Disconnected(_)) => Err(ReadRefused::Closed),
        }
    }

    fn enqueue<E>(&self, job: Box<dyn Job>) -> Result<(), WriteRefused<E>> {
        // Asked again by the writer just before it runs: this early answer only saves a place in the queue.
        self.admit(job.pass()).map_err(Settled::refused)?;
        let doors = self.doors();
        let Some(doors) = doors.as_ref() else { return Err(WriteRefused::Closed) };
        self.figures.queued_writes.fetch_add(1, Ordering::Relaxed);
        doors.writes.try_send(job).map_err(|refused| {
            self.figures.queued_writes.fetch_sub(1, Ordering::Relaxed);
            match refused {
                TrySendError::Full(_) => WriteRefused::Overloaded,
                TrySendError::Disconnected(_) => WriteRefused::Closed,
            }
        })
    }

    pub(crate) fn watch_end(&self, ended: oneshot::Receiver<()>) {
        unpoisoned(&self.closed).push(ended);
    }

    pub(crate) async fn close(&self) {
        // With its door gone a thread finishes what is queued and ends. The writer, which was started first, ends last:
        // only a connection that may write folds the write-ahead log into the file when it is the last to close.
        let doors = self.doors().take();
        let mut threads = std::mem::take(&mut *unpoisoned(&self.closed)).into_iter();
        let writer = threads.next();
        let writes = doors.map(|Doors { writes, reads }| {
            drop(reads);
            writes
        });
        for reader in threads {
            // A thread that ended drops its sender: that is the signal, not an error.
            let _ = reader.await;
        }
        drop(writes);
        if let Some(writer) = writer {
            let _ = writer.await;
        }
        *self.standing_now() = Standing::Closed;
    }

    fn doors(&self) -> MutexGuard<'_, Option<Doors>> {
        unpoisoned(&self.doors)
    }
}

impl Core {
    pub(crate) fn new(
        origin: String,
        clock: Arc<dyn Clock>,
        limits: LedgerLimits,
        standing: Standing,
        entries: u64,
    ) -> Self {
        let figures = Figures { entries: AtomicU64::new(entries), ..Figures::default() };
        Self { origin, clock, limits, figures, standing: Mutex::new(standing) }
    }

    /// Whether a job with this pass may run now.
    pub(crate) fn admit(&self, pass: Pass) -> Result<(), Settled> {
        match (&*self.standing_now(), pass) {
            (Standing::Open, Pass::Service) => self.admit_unanchored(),
            (Standing::Open | Standing::Unverified, Pass::Sealing) => Ok(()),
            (Standing::Unverified, Pass::Service) => Err(Settled::Unverified),
            (Standing::Frozen(freeze), _) => Err(Settled::Frozen(freeze.clone())),
            (Standing::Lost, _) => Err(Settled::Lost),
            (Standing::Closed, _) => Err(Settled::Closed),
        }
    }

    fn admit_unanchored(&self) -> Result<(), Settled> {
        let rows = self.unanchored_rows();
        if rows > self.limits.unanchored_rows_max || self.unanchored_for() > self.limits.unanchored_age_max {
            return Err(Settled::Unanchored(rows));
        }
        Ok(())
    }

    fn unanchored_rows(&self) -> u64 {
        let figures = &self.figures;
        figures.entries.load(Ordering::Relaxed).saturating_sub(figures.anchored.load(Ordering::Relaxed))
    }

    fn unanchored_for(&self) -> Duration {
        match self.figures.unanchored_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self.clock.monotonic().saturating_sub(Duration::from_micros(since - 1)),
        }
    }

    /// Told by the writer after each commit.
    pub(crate) fn committed(&self, entries: u64) {
        self.figures.commits.fetch_add(1, Ordering::Relaxed);
        self.figures.syncs.fetch_add(1, Ordering::Relaxed);
        if self.figures.entries.swap(entries, Ordering::Relaxed) < entries {
            // Only the first entry after an anchor starts the clock.
            let since = &self.figures.unanchored_since;
            let _ = since.compare_exchange(0, self.now_mark(), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Told by sealing: everything below `size` is under a confirmed checkpoint. `clean` when what lies beyond
    /// is only the entry that tells of the checkpoint itself.
    pub(crate) fn anchored(&self, size: u64, clean: bool) {
        let figures = &self.figures;
        let covered = if clean { figures.entries.load(Ordering::Relaxed) } else { size };
        figures.anchored.store(covered, Ordering::Relaxed);
        // What was written while the seal was made counts from now: younger than it is by one seal at most.
        let since = if self.unanchored_rows() > 0 { self.now_mark() } else { 0 };
        figures.unanchored_since.store(since, Ordering::Relaxed);
    }

    fn now_mark(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_micros()).unwrap_or(u64::MAX - 1) + 1
    }

    pub(crate) fn open_for_writes(&self) {
        let mut standing = self.standing_now();
        if *standing == Standing::Unverified {
            *standing = Standing::Open;
        }
    }

    pub(crate) fn freeze(&self, freeze: Freeze) {
        let mut standing = self.standing_now();
        if matches!(*standing, Standing::Open | Standing::Unverified) {
            *standing = Standing::Frozen(Arc::new(freeze));
        }
    }

    pub(crate) fn lose(&self) {
        *self.standing_now() = Standing::Lost;
    }

    pub(crate) fn health(&self) -> LedgerHealth {
        let figures = &self.figures;
        LedgerHealth {
            standing: self.standing_now().clone(),
            entries: figures.entries.load(Ordering::Relaxed),
            unanchored_rows: self.unanchored_rows(),
            unanchored_for: self.unanchored_for(),
            queued_writes: figures.queued_writes.load(Ordering::Relaxed),
            commits: figures.commits.load(Ordering::Relaxed),
            syncs: figures.syncs.load(Ordering::Relaxed),
            undone_for_space: figures.undone_for_space.load(Ordering::Relaxed),
        }
    }

    fn standing_now(&self) -> MutexGuard<'_, Standing> {
        unpoisoned(&self.standing)
    }
}

/// A lock whose holder panicked: the values under our locks are whole at every step, so go on.
pub(crate) fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
