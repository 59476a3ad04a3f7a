//! The front door of the ledger: write with an entry, write without one and say why, read, ask how it is.
//! Who enters: services with closures, `wiring` with options, the sealing task.
//! What leaves: `Recorded` values that are durable and on the chain, or a refusal that says what stands in the way.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::outside::{Clock, Random};
use crate::refused::{Freeze, OpenRefused, ReadRefused, WriteRefused};
use crate::statement::Schema;
use crate::told::{Recorded, Told};
use crate::tx::{Tx, View};

/// How to open a ledger.
#[derive(Clone)]
pub struct LedgerOptions {
    /// The database file; its directory must exist.
    pub path: PathBuf,
    /// The name of this log, a schemeless URL such as `vault.example.com/audit/0001`. Never used twice.
    pub origin: String,
    /// What the services keep.
    pub schemas: Vec<&'static Schema>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Salts.
    pub random: Arc<dyn Random>,
    /// Bounds.
    pub limits: LedgerLimits,
    /// Lets the ledger write without [`Sealing::recover`](crate::Sealing::recover) having vouched for it.
    /// For tests and tools that have no hardware; a service never sets it.
    pub dangerous_without_recovery: bool,
}

/// Bounds of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LedgerLimits {
    /// Reader threads, each with its own connection.
    pub readers: usize,
    /// Writes waiting; one more is refused as `Overloaded`.
    pub queue_writes_max: usize,
    /// Reads waiting; one more is refused as `Overloaded`.
    pub queue_reads_max: usize,
    /// Writes in one commit, so that none waits long behind others.
    pub batch_writes_max: usize,
    /// Entries not yet under a confirmed anchor before writes are refused.
    pub unanchored_rows_max: u64,
    /// Age of the oldest such entry before writes are refused.
    pub unanchored_age_max: Duration,
    /// Bytes of the write-ahead log beyond which new reads wait until it can be begun anew. Without that, reads that
    /// overlap for ever let it grow for ever, until the disk is full.
    pub wal_bytes_max: u64,
    /// How long reads under way may keep the log from being begun anew before it is left to grow a little further.
    pub wal_readers_wait_max: Duration,
}

impl Default for LedgerLimits {
    fn default() -> Self {
        Self {
            readers: 4,
            queue_writes_max: 8_192,
            queue_reads_max: 4_096,
            batch_writes_max: 512,
            unanchored_rows_max: u64::MAX,
            unanchored_age_max: Duration::MAX,
            // Four times what is folded without anybody noticing: met only while reads overlap.
            wal_bytes_max: 64 * 1_024 * 1_024,
            // Longer than a page of entries takes to read, shorter than a client notices.
            wal_readers_wait_max: Duration::from_millis(100),
        }
    }
}

/// Whether the ledger takes writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Not yet: recovery has not vouched for it.
    Unverified,
    /// Yes.
    Open,
    /// No: it does not agree with its hardware or itself. It still reads.
    Frozen(Arc<Freeze>),
    /// No: the disk failed. Restart.
    Lost,
    /// No: it is closing.
    Closed,
}

/// How the ledger is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerHealth {
    /// Whether it takes writes.
    pub standing: Standing,
    /// Entries in the log.
    pub entries: u64,
    /// Entries since the last confirmed checkpoint.
    pub unanchored_rows: u64,
    /// How long the oldest of them has waited, if any. Exact to within a second, and never too short.
    pub unanchored_for: Duration,
    /// Writes waiting.
    pub queued_writes: usize,
    /// Commits since the start.
    pub commits: u64,
    /// Times data was forced to disk since the start, checkpoints of the write-ahead log included.
    pub syncs: u64,
    /// Commits undone because no space was left.
    pub undone_for_space: u64,
    /// Bytes in the write-ahead log.
    pub wal_bytes: u64,
    /// Times the write-ahead log passed its bound and was begun anew after reads had been asked to wait.
    pub wal_restarts: u64,
    /// Whether new reads wait at this moment so that it can be.
    pub reads_held_back: bool,
}

/// The ledger. Cheap to clone; all clones are the same ledger.
#[derive(Clone)]
pub struct Ledger {
    pub(crate) shared: Arc<crate::shared::Shared>,
}

impl Ledger {
    /// Opens or makes the ledger file, brings its tables up to date, and proves every registered statement.
    pub fn open(options: LedgerOptions) -> Result<Self, OpenRefused> {
        crate::open::open(options)
    }

    /// Runs `work` in a transaction and commits its change together with the entries it tells. The closure may
    /// run more than once before it is committed once. Dropping the future does not stop the write.
    ///
    /// ```no_run
    /// # use audit::{Entry, Ledger, SqlFault, Statement, Told, params};
    /// static TURN: Statement = Statement::appliance("dials", "UPDATE dial SET turned = 1");
    /// # async fn turn(ledger: Ledger) {
    /// let turned = ledger.write(|tx| {
    ///     let rows = tx.run(&TURN, params![])?;
    ///     Ok::<_, SqlFault>(Told::new(rows, Entry::new("dial.turn").actor("user:alice")))
    /// });
    /// # let _ = turned.await; }
    /// ```
    ///
    /// The same change without its entry does not compile:
    ///
    /// ```compile_fail
    /// # use audit::{Entry, Ledger, SqlFault, Statement, Told, params};
    /// static TURN: Statement = Statement::appliance("dials", "UPDATE dial SET turned = 1");
    /// # async fn turn(ledger: Ledger) {
    /// let turned = ledger.write(|tx| {
    ///     let rows = tx.run(&TURN, params![])?;
    ///     Ok::<_, SqlFault>(rows)
    /// });
    /// # let _ = turned.await; }
    /// ```
    ///
    /// Nor does a change in a view that only reads:
    ///
    /// ```compile_fail
    /// # use audit::{Ledger, SqlFault, Statement, params};
    /// static TURN: Statement = Statement::appliance("dials", "UPDATE dial SET turned = 1");
    /// # async fn turn(ledger: Ledger) {
    /// let turned = ledger.read(|view| view.run(&TURN, params![]));
    /// # let _ = turned.await; }
    /// ```
    pub async fn write<T, E>(
        &self,
        work: impl FnMut(&mut Tx<'_>) -> Result<Told<T>, E> + Send + 'static,
    ) -> Result<Recorded<T>, WriteRefused<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        self.shared.write(work).await
    }

    /// Runs `work` in a transaction without an entry. `why` is for the reviewer who greps for it.
    pub async fn write_unaudited<T, E>(
        &self,
        why: &'static str,
        work: impl FnMut(&mut Tx<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, WriteRefused<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        self.shared.write_unaudited(why, work).await
    }

    /// Runs `work` on a consistent view. Works in every standing except closed.
    pub async fn read<T, E>(
        &self,
        work: impl FnOnce(&View<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, ReadRefused<E>>
    where
        T: Send + 'static,
        E: Send + 'static,
    {
        self.shared.read(work).await
    }

    /// Says that the caller is about to write, or will soon be back to: while several attend, the writer lets some
    /// of them join a commit instead of paying for one each.
    pub fn attend(&self) -> crate::Attendance {
        crate::Attendance::begin(&self.shared.figures.attending)
    }

    /// How the ledger is.
    pub fn health(&self) -> LedgerHealth {
        self.shared.health()
    }

    /// Waits until the ledger is frozen, and says why. One that is not never ends this wait.
    pub async fn frozen(&self) -> Arc<Freeze> {
        self.shared.frozen().await
    }

    /// The name of this log.
    pub fn origin(&self) -> &str {
        &self.shared.origin
    }

    /// Refuses new work, finishes what is queued, and lets go of the file.
    pub async fn close(self) {
        self.shared.close().await;
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("origin", &self.shared.origin).finish_non_exhaustive()
    }
}
