//! The writer: one thread, one connection, one commit for everything that arrived during the commit before.
//! Who enters: jobs from the queue, in order.
//! What leaves: durable transactions, then the answers; never an answer before its commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;

use crate::append::{Appender, NotAppended};
use crate::fault::SqlFault;
use crate::job::{Attempt, Job, Settled};
use crate::lock::Lock;
use crate::shared::Core;
use crate::tx::{Session, Tx};

/// Pages in the write-ahead log before it is folded into the database: 16 MiB.
const WAL_PAGES_FOLD: u64 = 4_096;

/// The writer's own things, all on its thread.
pub(crate) struct Writer {
    pub(crate) session: Session,
    pub(crate) appender: Appender,
    pub(crate) core: Arc<Core>,
    /// Pages in the write-ahead log, told by the engine after each commit.
    pub(crate) wal_pages: Arc<std::sync::atomic::AtomicU64>,
    pub(crate) _lock: Lock,
}

/// A job that ran inside the open transaction, and what it is told if the commit succeeds.
type Ran = (Box<dyn Job>, Settled);

impl Writer {
    /// The writer's life: until the ledger takes the door away and the queue is empty.
    pub(crate) fn serve(mut self, queue: &Receiver<Box<dyn Job>>) {
        while let Ok(first) = queue.recv() {
            let mut batch = vec![first];
            // What arrived during the last commit, and no waiting for more.
            batch.extend(queue.try_iter().take(self.core.limits.batch_writes_max.saturating_sub(1)));
            self.core.figures.queued_writes.fetch_sub(batch.len(), Ordering::Relaxed);
            self.write(batch);
            self.fold_wal(WAL_PAGES_FOLD);
        }
        self.fold_wal(1);
    }

    fn write(&mut self, batch: Vec<Box<dyn Job>>) {
        let batch = self.admitted(batch);
        if batch.is_empty() {
            return;
        }
        let mut ran = Vec::with_capacity(batch.len());
        match self.run(batch, &mut ran).and_then(|()| self.commit()) {
            Ok(()) => {
                self.appender.commit();
                self.core.committed(self.appender.size());
                ran.into_iter().for_each(|(job, settled)| job.settle(settled));
            }
            Err(fault) => {
                let settled = self.undo(&fault);
                ran.into_iter().for_each(|(job, _)| job.settle(settled.clone()));
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

    /// Runs every job of the batch; on a fault all of them stand in `ran`, so that each is answered.
    fn run(&mut self, batch: Vec<Box<dyn Job>>, ran: &mut Vec<Ran>) -> Result<(), SqlFault> {
        let mut outcome = self.execute("BEGIN IMMEDIATE");
        for mut job in batch {
            let settled = match &outcome {
                Ok(()) => self.run_one(job.as_mut()),
                Err(_) => Ok(Settled::Lost),
            };
            let settled = settled.unwrap_or_else(|fault| {
                outcome = Err(fault);
                Settled::Lost
            });
            ran.push((job, settled));
        }
        outcome
    }

    fn run_one(&mut self, job: &mut dyn Job) -> Result<Settled, SqlFault> {
        self.execute("SAVEPOINT job")?;
        let attempt = job.attempt(&mut Tx::new(&self.session));
        // Some faults make the engine undo the whole transaction by itself, and a closure may swallow the fault.
        if self.session.conn.is_autocommit() {
            return Err(SqlFault::from(rusqlite::Error::SqliteFailure(
                rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL),
                None,
            )));
        }
        let settled = match attempt {
            Attempt::Told(first, rest) => match self.appender.append(&self.session, &first, &rest) {
                Ok(seq) => Ok(Settled::Committed(seq)),
                Err(NotAppended::Job(refused)) => Err(refused),
                Err(NotAppended::Fault(fault)) => return Err(fault),
            },
            Attempt::Untold => Ok(Settled::Committed(0)),
            Attempt::Rejected | Attempt::Panicked => Err(Settled::Committed(0)),
        };
        if settled.is_err() {
            self.execute("ROLLBACK TO job")?;
        }
        self.execute("RELEASE job")?;
        Ok(settled.unwrap_or_else(|undone| undone))
    }

    fn commit(&mut self) -> Result<(), SqlFault> {
        self.appender.save_tip(&self.session)?;
        self.execute("COMMIT")
    }

    /// After a failed transaction: either it is undone and the file is as before, or nobody knows.
    fn undo(&mut self, fault: &SqlFault) -> Settled {
        let undone = self.session.conn.is_autocommit() || self.execute("ROLLBACK").is_ok();
        // Only a write that found no space is known to have left nothing behind. After a failed fsync the kernel
        // may have dropped the pages and report success next time, so a second try would vouch for data that is
        // gone: stop, and let the next start look at what is on disk.
        if undone && matches!(fault, SqlFault::DiskFull(_)) {
            self.appender.undo();
            self.core.figures.undone_for_space.fetch_add(1, Ordering::Relaxed);
            return Settled::NoSpace;
        }
        self.core.lose();
        Settled::Lost
    }

    /// Folds the write-ahead log into the database when it has grown. Done by hand, because the engine's own
    /// automatic checkpoint swallows the very errors we must stop for.
    fn fold_wal(&mut self, pages_min: u64) {
        if self.wal_pages.load(Ordering::Relaxed) < pages_min {
            return;
        }
        match self.session.fold_wal() {
            Ok(()) => {
                self.core.figures.syncs.fetch_add(2, Ordering::Relaxed);
                self.wal_pages.store(0, Ordering::Relaxed);
            }
            // The log keeps growing until there is space; its entries are durable where they are.
            Err(SqlFault::DiskFull(_)) => {}
            Err(_) => self.core.lose(),
        }
    }

    fn execute(&self, sql: &'static str) -> Result<(), SqlFault> {
        self.session.own(sql)?.raw_execute()?;
        Ok(())
    }
}
