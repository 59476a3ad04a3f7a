//! The room behind the front door: what all clones of a ledger share, and the two queues to its threads.
//! Who enters: `Ledger`, wrapping closures into jobs; the writer, reporting what it committed.
//! What leaves: jobs on the queues, answers to their callers, and the standing that decides who may write.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use crate::extent::{Extent, Unsealed};
use crate::gate::SnapshotGate;
use crate::job::{Audited, Job, Pass, Settled, Unaudited};
use crate::ledger::{LedgerHealth, LedgerLimits, Standing};
use crate::outside::Clock;
use crate::readers::ReadJob;
use crate::refused::{Freeze, ReadRefused, WriteRefused};
use crate::told::{Recorded, Told};
use crate::tx::{Tx, View};

/// A page of the database with its frame header, as it stands in the write-ahead log.
pub(crate) const WAL_PAGE_BYTES: u64 = 4_096 + 24;

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
    pub(crate) snapshots: SnapshotGate,
    extent: Mutex<Extent>,
    froze: Notify,
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
    pub(crate) queued_writes: AtomicUsize,
    /// Callers on their way to a write, or back for the next.
    pub(crate) attending: Arc<AtomicUsize>,
    pub(crate) commits: AtomicU64,
    pub(crate) syncs: AtomicU64,
    pub(crate) undone_for_space: AtomicU64,
    /// Pages in the write-ahead log, told by the engine after each commit.
    pub(crate) wal_pages: Arc<AtomicU64>,
    /// Times a write-ahead log beyond its bound was begun anew after its readers had been asked to wait.
    pub(crate) wal_restarts: AtomicU64,
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
        let extent = Mutex::new(Extent::opened(entries, clock.monotonic()));
        let (figures, snapshots) = (Figures::default(), SnapshotGate::default());
        let (froze, standing) = (Notify::new(), Mutex::new(standing));
        Self { origin, clock, limits, figures, snapshots, extent, froze, standing }
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
        let Unsealed { rows, age } = self.unsealed();
        if rows > self.limits.unanchored_rows_max || age > self.limits.unanchored_age_max {
            return Err(Settled::Unanchored(rows));
        }
        Ok(())
    }

    fn unsealed(&self) -> Unsealed {
        let now = self.clock.monotonic();
        unpoisoned(&self.extent).unsealed(now)
    }

    /// Told by the writer after each commit.
    pub(crate) fn committed(&self, entries: u64) {
        self.figures.commits.fetch_add(1, Ordering::Relaxed);
        self.figures.syncs.fetch_add(1, Ordering::Relaxed);
        let now = self.clock.monotonic();
        unpoisoned(&self.extent).committed(entries, now);
    }

    /// Told by sealing: the first `size` entries need no further checkpoint. They are under a confirmed one, or are the
    /// one entry right behind it that tells of it. What else lies beyond waits for the next, in whichever commit it came.
    pub(crate) fn sealed(&self, size: u64) {
        unpoisoned(&self.extent).sealed(size);
    }

    pub(crate) fn open_for_writes(&self) {
        let mut standing = self.standing_now();
        if *standing == Standing::Unverified {
            *standing = Standing::Open;
        }
    }

    pub(crate) fn freeze(&self, freeze: Freeze) {
        {
            let mut standing = self.standing_now();
            if !matches!(*standing, Standing::Open | Standing::Unverified) {
                return;
            }
            *standing = Standing::Frozen(Arc::new(freeze));
        }
        self.froze.notify_waiters();
    }

    pub(crate) async fn frozen(&self) -> Arc<Freeze> {
        loop {
            // Made before the look, so that a freeze between the two wakes it.
            let woken = self.froze.notified();
            if let Standing::Frozen(freeze) = &*self.standing_now() {
                return freeze.clone();
            }
            woken.await;
        }
    }

    pub(crate) fn lose(&self) {
        *self.standing_now() = Standing::Lost;
    }

    pub(crate) fn health(&self) -> LedgerHealth {
        let figures = &self.figures;
        let now = self.clock.monotonic();
        let (entries, unsealed) = {
            let extent = unpoisoned(&self.extent);
            (extent.size(), extent.unsealed(now))
        };
        LedgerHealth {
            standing: self.standing_now().clone(),
            entries,
            unanchored_rows: unsealed.rows,
            unanchored_for: unsealed.age,
            queued_writes: figures.queued_writes.load(Ordering::Relaxed),
            commits: figures.commits.load(Ordering::Relaxed),
            syncs: figures.syncs.load(Ordering::Relaxed),
            undone_for_space: figures.undone_for_space.load(Ordering::Relaxed),
            wal_bytes: figures.wal_pages.load(Ordering::Relaxed).saturating_mul(WAL_PAGE_BYTES),
            wal_restarts: figures.wal_restarts.load(Ordering::Relaxed),
            reads_held_back: self.snapshots.holds_back(),
        }
    }

    /// Why nothing is sealed: only an open ledger may be spoken for.
    pub(crate) fn refuses_seals(&self) -> Option<Settled> {
        match &*self.standing_now() {
            Standing::Open => None,
            Standing::Unverified => Some(Settled::Unverified),
            Standing::Frozen(freeze) => Some(Settled::Frozen(freeze.clone())),
            Standing::Lost => Some(Settled::Lost),
            Standing::Closed => Some(Settled::Closed),
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
