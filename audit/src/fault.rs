//! The room of database faults: what may go wrong inside a transaction, sorted by what the caller can do.
//! Who enters: an error of the engine, or a statement that may not run here.
//! What leaves: a `SqlFault` a service can match on, and the writer can judge the disk by.

use rusqlite::ErrorCode;

/// Why a statement gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum SqlFault {
    /// Register it in its service's `Schema`.
    #[error("this statement of `{service}` is in no registered schema: {sql}")]
    Unregistered {
        /// The service that it names as its owner.
        service: &'static str,
        /// Its text.
        sql: &'static str,
    },
    /// Run it through `within(&workspace)`.
    #[error("a tenant statement of `{service}` runs only within a workspace: {sql}")]
    NeedsWorkspace {
        /// The owner.
        service: &'static str,
        /// Its text.
        sql: &'static str,
    },
    /// Run it on the transaction itself, or make it a tenant statement.
    #[error("within a workspace only tenant statements run; this one of `{service}` is not: {sql}")]
    NotTenant {
        /// The owner.
        service: &'static str,
        /// Its text.
        sql: &'static str,
    },
    /// A row with this key exists already.
    #[error("a row with the same key exists already")]
    Duplicate(#[source] rusqlite::Error),
    /// A check, a foreign key, a not-null rule or a trigger said no.
    #[error("the database refused the row")]
    Refused(#[source] rusqlite::Error),
    /// More than one row where at most one was asked for.
    #[error("more than one row where at most one was expected")]
    Several,
    /// A column holds another type than the reader asked for.
    #[error("column {column} does not hold what the reader asked for")]
    Column {
        /// Counted from 0.
        column: usize,
        /// The engine's words.
        #[source]
        source: rusqlite::Error,
    },
    /// A column holds the right type, but not text or bytes of the form its service wrote.
    #[error("column {column} does not have the form its service gave it")]
    Malformed {
        /// Counted from 0.
        column: usize,
    },
    /// No space is left; the transaction was undone.
    #[error("no space is left for the ledger")]
    DiskFull(#[source] rusqlite::Error),
    /// Another program holds the file.
    #[error("another program holds the ledger file")]
    Busy(#[source] rusqlite::Error),
    /// The disk, or the file on it, failed.
    #[error("the disk under the ledger failed")]
    Disk(#[source] rusqlite::Error),
    /// Anything else the engine said.
    #[error("the database did not run the statement")]
    Engine(#[source] rusqlite::Error),
}

impl SqlFault {
    /// Whether a row with the same key stood in the way.
    pub fn is_duplicate(&self) -> bool {
        matches!(self, Self::Duplicate(_))
    }

    /// Whether there was no room on the disk. The engine says so of a write; where it cannot even make room for what it maps, it calls
    /// the disk failed.
    pub fn is_for_want_of_space(&self) -> bool {
        match self {
            Self::DiskFull(_) => true,
            Self::Disk(rusqlite::Error::SqliteFailure(inner, _)) => {
                inner.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE
            }
            _ => false,
        }
    }
}

impl From<rusqlite::Error> for SqlFault {
    fn from(error: rusqlite::Error) -> Self {
        const UNIQUE: [i32; 3] = [
            rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY,
            rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE,
            rusqlite::ffi::SQLITE_CONSTRAINT_ROWID,
        ];
        match error.sqlite_error() {
            Some(inner) => match inner.code {
                ErrorCode::ConstraintViolation if UNIQUE.contains(&inner.extended_code) => {
                    Self::Duplicate(error)
                }
                ErrorCode::ConstraintViolation => Self::Refused(error),
                ErrorCode::DiskFull => Self::DiskFull(error),
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Busy(error),
                ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::CannotOpen => Self::Disk(error),
                _ => Self::Engine(error),
            },
            None => Self::Engine(error),
        }
    }
}
