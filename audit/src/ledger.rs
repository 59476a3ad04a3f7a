//! The front door of the ledger: write with an entry, write without one and say why, read, ask how it is.
//! Who enters: services with closures, `wiring` with options, the sealing task.
//! What leaves: `Recorded` values that are durable and on the chain, or a refusal that says what stands in the way.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::fault::SqlFault;
use crate::outside::{Clock, Random};
use crate::registry::SchemaRefused;
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
        }
    }
}

/// Why a ledger was not opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenRefused {
    /// Another process holds it.
    #[error("the ledger {path} is in use by process {pid}; stop that one first")]
    InUse {
        /// The file.
        path: PathBuf,
        /// The process that holds it, or 0 where it did not say.
        pid: u32,
    },
    /// The file belongs to another log.
    #[error(
        "the ledger {path} belongs to `{found}`, but the configuration says `{expected}`; point to the right file, or correct the origin"
    )]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The configured origin.
        expected: String,
        /// The origin inside.
        found: String,
    },
    /// The origin cannot be a log's name.
    #[error("`{0}` cannot name a log: use a URL without scheme, spaces or `+`")]
    BadOrigin(String),
    /// Two services disagree.
    #[error("the schemas do not fit together")]
    Schema(#[from] SchemaRefused),
    /// A statement or migration does what its service may not.
    #[error("`{service}` may not run this, or it is not valid: {sql}")]
    Statement {
        /// The service.
        service: &'static str,
        /// The text.
        sql: &'static str,
        /// The engine's words.
        #[source]
        source: SqlFault,
    },
    /// A released migration was edited, or is gone.
    #[error(
        "migration {step} of `{service}` is not the one this ledger was made with; install the version that wrote it, or a later one"
    )]
    MigrationChanged {
        /// The service.
        service: &'static str,
        /// Which, from 1.
        step: usize,
    },
    /// The file cannot be opened or read.
    #[error("the ledger {path} cannot be opened")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The database inside cannot be read.
    #[error("the ledger {path} cannot be read")]
    Database {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: SqlFault,
    },
}

/// Why a write did not happen.
#[derive(Debug, thiserror::Error)]
pub enum WriteRefused<E> {
    /// The closure itself said no; nothing changed.
    #[error("the write was not permitted")]
    Rejected(E),
    /// Recovery has not yet vouched for the ledger; try again shortly.
    #[error("the ledger has not been verified since the start")]
    Unverified,
    /// The ledger does not agree with its hardware or with itself.
    #[error("the ledger is frozen: {0}")]
    Frozen(Arc<Freeze>),
    /// Too much was written since the last anchor, and the hardware does not answer.
    #[error("{rows} entries wait for an anchor; writes resume when the hardware answers")]
    Unanchored {
        /// How many.
        rows: u64,
    },
    /// The queue is full; nothing changed, try again later.
    #[error("the ledger is overloaded")]
    Overloaded,
    /// No space is left; nothing changed. Writes resume when there is space again.
    #[error("no space is left for the ledger")]
    NoSpace,
    /// An entry is longer than may be kept; nothing changed.
    #[error("{field} of an entry has {bytes} bytes, more than {bytes_max}")]
    EntryTooLong {
        /// Which field.
        field: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        bytes_max: usize,
    },
    /// The machine gave no randomness for the salt; nothing changed.
    #[error("the machine gives no randomness")]
    NoRandomness,
    /// The closure panicked; nothing changed.
    #[error("the write panicked")]
    Panicked,
    /// The disk failed. Whether the change is durable shows after a restart, not before.
    #[error("the disk under the ledger failed; restart to find out what is durable")]
    Lost,
    /// The ledger is closing.
    #[error("the ledger is closed")]
    Closed,
}

impl<E> WriteRefused<E> {
    /// The same, with the closure's own no in other words.
    pub fn map<F>(self, words: impl FnOnce(E) -> F) -> WriteRefused<F> {
        match self {
            Self::Rejected(why) => WriteRefused::Rejected(words(why)),
            Self::Unverified => WriteRefused::Unverified,
            Self::Frozen(freeze) => WriteRefused::Frozen(freeze),
            Self::Unanchored { rows } => WriteRefused::Unanchored { rows },
            Self::Overloaded => WriteRefused::Overloaded,
            Self::NoSpace => WriteRefused::NoSpace,
            Self::EntryTooLong { field, bytes, bytes_max } => {
                WriteRefused::EntryTooLong { field, bytes, bytes_max }
            }
            Self::NoRandomness => WriteRefused::NoRandomness,
            Self::Panicked => WriteRefused::Panicked,
            Self::Lost => WriteRefused::Lost,
            Self::Closed => WriteRefused::Closed,
        }
    }
}

impl<E> ReadRefused<E> {
    /// The same, with the closure's own no in other words.
    pub fn map<F>(self, words: impl FnOnce(E) -> F) -> ReadRefused<F> {
        match self {
            Self::Rejected(why) => ReadRefused::Rejected(words(why)),
            Self::Overloaded => ReadRefused::Overloaded,
            Self::Failed(fault) => ReadRefused::Failed(fault),
            Self::Panicked => ReadRefused::Panicked,
            Self::Closed => ReadRefused::Closed,
        }
    }
}

/// Why a read gave nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReadRefused<E> {
    /// The closure itself said no.
    #[error("the read was not permitted")]
    Rejected(E),
    /// The queue is full; try again later.
    #[error("the ledger is overloaded")]
    Overloaded,
    /// The database could not begin to read.
    #[error("the ledger cannot be read")]
    Failed(#[source] SqlFault),
    /// The closure panicked.
    #[error("the read panicked")]
    Panicked,
    /// The ledger is closing.
    #[error("the ledger is closed")]
    Closed,
}

/// What does not agree, in words for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freeze {
    /// Which check.
    pub what: String,
    /// What should be.
    pub expected: String,
    /// What is.
    pub found: String,
    /// What to do.
    pub advice: String,
}

impl std::fmt::Display for Freeze {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: expected {}, found {}; {}", self.what, self.expected, self.found, self.advice)
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
    /// Since when, if any.
    pub unanchored_for: Duration,
    /// Writes waiting.
    pub queued_writes: usize,
    /// Commits since the start.
    pub commits: u64,
    /// Times data was forced to disk since the start, checkpoints of the write-ahead log included.
    pub syncs: u64,
    /// Commits undone because no space was left.
    pub undone_for_space: u64,
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
