//! Evidence as a ledger file: opened for reading, in one snapshot, without a trace left beside it.
//! Who enters: `Source`, with a path that holds a database.
//! What leaves: rows, anchors, and the end of the log as the file itself states it.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use crate::append::{Tip, load_tip_of, signed};
use crate::check::Finding;
use crate::export::{ANCHOR_AFTER, AnchorFacts, anchor_facts};
use crate::fault::SqlFault;
use crate::rows::{self, ROWS, Stopped};

use super::Evidence;
use super::source::Unreadable;

/// A ledger file, opened for reading.
pub struct Database {
    pub(crate) path: PathBuf,
    pub(crate) conn: Connection,
    pub(crate) origin: String,
}

impl Database {
    pub(crate) fn open(path: &Path) -> Result<Self, Unreadable> {
        let fault = |source: SqlFault| Unreadable::Database { path: path.to_owned(), source };
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        // A file that stands alone is read as it is, without leaving a trace beside it. With a write-ahead log
        // beside it, its newest entries are in there, and the engine must join the two.
        let alone = !Path::new(&wal).exists();
        let name = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
        let name = format!("file:{name}{}", if alone { "?immutable=1" } else { "?mode=ro" });
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(name, flags).map_err(|it| fault(it.into()))?;
        let origin = conn.query_row("SELECT origin FROM log WHERE one = 1", [], |row| row.get(0));
        let origin = origin.map_err(|it| fault(it.into()))?;
        // One snapshot for the whole visit, should the ledger be in use.
        conn.execute_batch("BEGIN").map_err(|it| fault(it.into()))?;
        Ok(Self { path: path.to_owned(), conn, origin })
    }

    pub(crate) fn fault(&self, source: SqlFault) -> Unreadable {
        Unreadable::Database { path: self.path.clone(), source }
    }

    pub(crate) fn stored_tip(&self) -> Result<Option<Tip>, Unreadable> {
        load_tip_of(&self.conn).map_err(|fault| self.fault(fault))
    }

    pub(crate) fn anchor_after(&self, k: u64) -> Result<Option<AnchorFacts>, Unreadable> {
        let fault = |fault: rusqlite::Error| self.fault(fault.into());
        let mut find = self.conn.prepare_cached(ANCHOR_AFTER).map_err(fault)?;
        find.raw_bind_parameter(1, signed(k)).map_err(fault)?;
        let mut rows = find.raw_query();
        let Some(row) = rows.next().map_err(fault)? else { return Ok(None) };
        anchor_facts(row).map(Some).map_err(|why| {
            Unreadable::Malformed(Finding::Seal(format!(
                "the row of the checkpoint after {k} is malformed: {why}"
            )))
        })
    }

    /// Hands every row from `first` on to `visit`.
    pub(crate) fn each<E>(
        &self,
        first: u64,
        mut visit: impl FnMut(Evidence<'_>) -> Result<(), E>,
    ) -> Result<Result<(), E>, Unreadable> {
        let mut all = self.conn.prepare(ROWS).map_err(|fault| self.fault(fault.into()))?;
        match rows::each(&mut all, first, |row| visit(Evidence::Row(row))) {
            Ok(()) => Ok(Ok(())),
            Err(Stopped::By(why)) => Ok(Err(why)),
            Err(Stopped::Malformed(finding)) => Err(Unreadable::Malformed(finding)),
            Err(Stopped::Fault(fault)) => Err(self.fault(fault)),
        }
    }
}
