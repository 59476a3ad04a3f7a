//! The writer: one thread, one connection, one commit for everything that arrived during the commit before.
//! Who enters: jobs from the queue, in order.
//! What leaves: durable transactions, then the answers; never an answer before its commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use crate::append::{Appender, NotAppended};
use crate::fault::SqlFault;
use crate::gather::Pace;
use crate::job::{Attempt, Job, Settled};
use crate::lock::Lock;
use crate::shared::{Core, WAL_PAGE_BYTES};
use crate::tx::{Session, Tx};

/// Pages in the write-ahead log before it is folded into the database: 16 MiB.
const WAL_PAGES_FOLD: u64 = 4_096;

/// Emptying the log costs two syncs and holds readers back, so under a load of erasures it is tried this often. The daemon's heartbeat commits more often.
const EMPTY_EVERY: Duration = Duration::from_secs(10);

/// The writer's own things, all on its thread.
pub(crate) struct Writer {
    pub(crate) session: Session,
    pub(crate) appender: Appender,
    pub(crate) core: Arc<Core>,
    pub(crate) pace: Pace,
    pub(crate) wal: Wal,
    pub(crate) _lock: Lock,
}

/// How many pages of the write-ahead log were there when it was folded last, and when new reads were held back last.
#[derive(Debug, Default)]
pub(crate) struct Wal {
    folded: u64,
    held_back: u64,
    /// Pages as they were before something in them was erased.
    holds_erased: bool,
    /// When it was emptied last, or should have been.
    tried: Option<Duration>,
}

impl Wal {
    /// What is to be done about a log of so many pages.
    fn due(&mut self, pages: u64, fold: u64, bound: u64) -> Fold {
        // It was begun anew since: what was done about it before does not count any more.
        if pages < self.folded {
            (self.folded, self.held_back) = (0, 0);
        }
        // A log that could not be begun anew is left to grow by a part before readers are asked again.
        if pages >= bound.max(self.held_back.saturating_add(self.held_back / 4)) {
            (self.folded, self.held_back) = (pages, pages);
            return Fold::WithoutReaders;
        }
        if pages >= self.folded.saturating_add(fold) {
            self.folded = pages;
            return Fold::BesideReaders;
        }
        Fold::NotYet
    }
}

/// What is to be done about the write-ahead log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fold {
    NotYet,
    /// Copy what can be copied into the database. The log begins anew by itself when no reader stands in it.
    BesideReaders,
    /// Readers have overlapped for so long that it did not: hold new ones back for a moment.
    WithoutReaders,
}

/// Why a transaction did not come to its commit.
enum Halt {
    /// A job that said no had changed something: undo everything, and run the batch again with care.
    Redo,
    /// The database did not go on.
    Fault(SqlFault),
}

impl From<SqlFault> for Halt {
    fn from(fault: SqlFault) -> Self {
        Self::Fault(fault)
    }
}

/// How jobs are kept apart within their common transaction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Care {
    /// Not at all: a job that says no has usually changed nothing, and savepoints cost a copy of every page.
    Light,
    /// A savepoint round each.
    Savepoints,
}

impl Writer {
    /// The writer's life: until the ledger takes the door away and the queue is empty.
    pub(crate) fn serve(mut self, queue: &Receiver<Box<dyn Job>>) {
        while let Ok(first) = queue.recv() {
            self.gather();
            let mut batch = vec![first];
            batch.extend(queue.try_iter().take(self.core.limits.batch_writes_max.saturating_sub(1)));
            let writes = batch.len();
            self.core.figures.queued_writes.fetch_sub(writes, Ordering::Relaxed);
            self.write(batch);
            self.pace.committed(writes, self.core.clock.monotonic());
            self.fold_wal(WAL_PAGES_FOLD);
            self.erase(EMPTY_EVERY);
        }
        (self.wal.folded, self.wal.held_back) = (0, 0);
        self.fold_wal(1);
        self.erase(Duration::ZERO);
    }

    /// What arrived during the last commit goes into this one; when many more are known to come, they are waited for.
    fn gather(&self) {
        let figures = &self.core.figures;
        let ready = figures.queued_writes.load(Ordering::Relaxed);
        if let Some(pause) = self.pace.pause(ready, figures.attending.load(Ordering::Relaxed)) {
            std::thread::sleep(pause);
        }
    }

    fn write(&mut self, batch: Vec<Box<dyn Job>>) {
        let mut batch = self.admitted(batch);
        if batch.is_empty() {
            return;
        }
        let mut outcome = self.transact(&mut batch, Care::Light);
        if matches!(outcome, Err(Halt::Redo)) {
            self.appender.undo();
            outcome = match self.execute("ROLLBACK") {
                Ok(()) => self.transact(&mut batch, Care::Savepoints),
                Err(fault) => Err(fault.into()),
            };
        }
        match outcome {
            Ok(settled) => {
                self.appender.commit();
                self.core.committed(self.appender.size());
                batch.into_iter().zip(settled).for_each(|(job, settled)| job.settle(settled));
            }
            Err(halt) => {
                let settled = self.undo(&halt);
                batch.into_iter().for_each(|job| job.settle(settled.clone()));
            }
        }
    }

    fn admitted(&self, batch: Vec<Box<dyn Job>>) -> Vec<Box<dyn Job>> {
        let ask = |job: Box<dyn Job>| match self.core.admit(job.pass()) {
            Ok(()) => Some(job),
            Err(refused) => {
                job.settle(refused);
                None
            }
        };
        batch.into_iter().filter_map(ask).collect()
    }

    /// Runs every job and commits; what each is to be told stands in the same order as the jobs.
    fn transact(&mut self, batch: &mut [Box<dyn Job>], care: Care) -> Result<Vec<Settled>, Halt> {
        self.execute("BEGIN IMMEDIATE")?;
        let settled =
            batch.iter_mut().map(|job| self.run_one(job.as_mut(), care)).collect::<Result<Vec<_>, _>>()?;
        self.commit()?;
        Ok(settled)
    }

    fn run_one(&mut self, job: &mut dyn Job, care: Care) -> Result<Settled, Halt> {
        if care == Care::Savepoints {
            self.execute("SAVEPOINT job")?;
        }
        let changes = self.session.conn.total_changes();
        let attempt = job.attempt(&mut Tx::new(&self.session, self.appender.size()));
        // Some faults make the engine undo the whole transaction by itself, and a closure may swallow the fault.
        if self.session.conn.is_autocommit() {
            return Err(Halt::Fault(undone_by_engine()));
        }
        let (settled, undo) = match attempt {
            Attempt::Told(first, rest) => match self.appender.append(&self.session, &first, &rest) {
                Ok(seq) => (Settled::Committed(seq), false),
                Err(NotAppended::Job(refused)) => (refused, true),
                Err(NotAppended::Fault(fault)) => return Err(fault.into()),
            },
            Attempt::Untold => (Settled::Committed(0), false),
            Attempt::Rejected | Attempt::Panicked => (Settled::Committed(0), true),
        };
        match care {
            Care::Light if undo && self.session.conn.total_changes() != changes => return Err(Halt::Redo),
            Care::Light => {}
            Care::Savepoints => {
                if undo {
                    self.execute("ROLLBACK TO job")?;
                }
                self.execute("RELEASE job")?;
            }
        }
        Ok(settled)
    }

    fn commit(&mut self) -> Result<(), SqlFault> {
        self.appender.save_tip(&self.session)?;
        self.execute("COMMIT")
    }

    /// After a failed transaction: either it is undone and the file is as before, or nobody knows.
    fn undo(&mut self, halt: &Halt) -> Settled {
        let undone = self.session.conn.is_autocommit() || self.execute("ROLLBACK").is_ok();
        // Only a write that found no space is known to have left nothing behind. After a failed fsync the kernel
        // may have dropped the pages and report success next time, so a second try would vouch for data that is
        // gone: stop, and let the next start look at what is on disk.
        match halt {
            Halt::Fault(SqlFault::DiskFull(_)) if undone => {
                self.appender.undo();
                self.core.figures.undone_for_space.fetch_add(1, Ordering::Relaxed);
                Settled::NoSpace
            }
            // Another program, such as a copying tool, holds the file: it was never begun, or is undone.
            Halt::Fault(SqlFault::Busy(_)) if undone => {
                self.appender.undo();
                Settled::Overloaded
            }
            _ => {
                self.core.lose();
                Settled::Lost
            }
        }
    }

    /// Folds the write-ahead log into the database when it has grown. Done by hand, because the engine's own
    /// automatic checkpoint swallows the very errors we must stop for.
    fn fold_wal(&mut self, pages_min: u64) {
        let (core, session) = (&self.core, &self.session);
        let pages = core.figures.wal_pages.load(Ordering::Relaxed);
        let folded = match self.wal.due(pages, pages_min, core.limits.wal_bytes_max.div_ceil(WAL_PAGE_BYTES))
        {
            Fold::NotYet => return,
            Fold::BesideReaders => session.fold_wal(),
            Fold::WithoutReaders => match core.snapshots.quiet(core.limits.wal_readers_wait_max) {
                // Folded whole while nobody reads it: whoever reads next reads the database alone, and so the next
                // commit finds the log free and writes it from its beginning.
                Some(_quiet) => {
                    core.figures.wal_restarts.fetch_add(1, Ordering::Relaxed);
                    session.fold_wal()
                }
                None => session.fold_wal(),
            },
        };
        match folded {
            Ok(()) => {
                core.figures.syncs.fetch_add(2, Ordering::Relaxed);
            }
            // The log keeps growing until there is space, or room; its entries are durable where they are.
            Err(SqlFault::DiskFull(_) | SqlFault::Busy(_)) => {}
            Err(_) => core.lose(),
        }
    }

    /// What was erased is gone from the database's pages, for deleted content is overwritten there. The log still holds pages from before:
    /// it is copied and emptied, as soon as nobody reads it.
    fn erase(&mut self, pause: Duration) {
        self.wal.holds_erased |= self.session.erased.take();
        let now = self.core.clock.monotonic();
        let lately = self.wal.tried.is_some_and(|then| now.saturating_sub(then) < pause);
        if !self.wal.holds_erased || lately {
            return;
        }
        // Whatever comes of it: readers that overlap without end must not hold up each commit.
        self.wal.tried = Some(now);
        let Some(_quiet) = self.core.snapshots.quiet(self.core.limits.wal_readers_wait_max) else { return };
        match self.session.empty_wal() {
            Ok(true) => {
                self.wal = Wal { tried: Some(now), ..Wal::default() };
                self.core.figures.wal_pages.store(0, Ordering::Relaxed);
                self.core.figures.syncs.fetch_add(2, Ordering::Relaxed);
            }
            // It is tried again after the pause.
            Ok(false) | Err(SqlFault::DiskFull(_) | SqlFault::Busy(_)) => {}
            Err(_) => self.core.lose(),
        }
    }

    fn execute(&self, sql: &'static str) -> Result<(), SqlFault> {
        self.session.own(sql)?.raw_execute()?;
        Ok(())
    }
}

fn undone_by_engine() -> SqlFault {
    // Of the faults that do this, a full disk is the one a closure meets; the others show again at once.
    let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
    rusqlite::Error::SqliteFailure(full, None).into()
}

#[cfg(test)]
mod tests {
    use super::{Fold, Wal};

    #[test]
    fn readers_are_asked_again_only_when_the_log_has_grown_by_a_quarter() {
        let mut wal = Wal::default();
        let mut at = |pages| wal.due(pages, 10, 100);
        assert_eq!(
            (at(9), at(10), at(10), at(19)),
            (Fold::NotYet, Fold::BesideReaders, Fold::NotYet, Fold::NotYet)
        );
        assert_eq!(at(100), Fold::WithoutReaders);
        // They did not give way: the log is as long as it was, and grows on.
        assert_eq!(
            (at(100), at(109), at(110), at(124)),
            (Fold::NotYet, Fold::NotYet, Fold::BesideReaders, Fold::BesideReaders)
        );
        assert_eq!(at(125), Fold::WithoutReaders);
        // It was begun anew.
        assert_eq!((at(3), at(10), at(100)), (Fold::NotYet, Fold::BesideReaders, Fold::WithoutReaders));
    }
}
