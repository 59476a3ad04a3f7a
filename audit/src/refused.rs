//! Why a ledger was not opened, took nothing or gave nothing; and what stands against it when it does not agree with its
//! hardware.
//! Who enters: whoever opens, writes or reads.
//! What leaves: reasons that say what to do.

use std::path::PathBuf;
use std::sync::Arc;

use crate::fault::SqlFault;
use crate::registry::SchemaRefused;

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
