//! The room inside a transaction: `Tx` reads and writes, `View` reads, both only through registered statements.
//! Who enters: the closure of a service, while the writer or a reader thread holds the connection for it.
//! What leaves: rows, counts, faults; no commit, no connection, no free text.

use std::cell::Cell;
use std::ops::Deref;
use std::sync::Arc;

use rusqlite::{CachedStatement, Connection};

use crate::entry::Workspace;
use crate::fault::SqlFault;
use crate::registry::{Behalf, Owner, Registry};
use crate::statement::{Row, Statement, Value};

/// One connection with its guard.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) conn: Connection,
    pub(crate) registry: Arc<Registry>,
    pub(crate) behalf: Behalf,
    /// A statement that erases has changed something since this was looked at last.
    pub(crate) erased: Cell<bool>,
}

/// A consistent look at the ledger and the tables: reading only.
#[derive(Debug)]
pub struct View<'c> {
    pub(crate) session: &'c Session,
}

/// An open transaction. It has no commit: the writer commits, together with the entry the closure returns.
///
/// ```compile_fail
/// fn slip(tx: &mut audit::Tx<'_>) { tx.commit(); }
/// ```
#[derive(Debug)]
pub struct Tx<'c> {
    view: View<'c>,
    entry: Option<u64>,
}

/// A view held to one workspace: it runs tenant statements only, and binds `?1` itself.
#[derive(Debug)]
pub struct Within<'c> {
    session: &'c Session,
    workspace: &'c Workspace,
}

/// A transaction held to one workspace.
#[derive(Debug)]
pub struct WithinTx<'c> {
    within: Within<'c>,
}

impl<'c> Deref for Tx<'c> {
    type Target = View<'c>;
    fn deref(&self) -> &View<'c> {
        &self.view
    }
}

impl<'c> Deref for WithinTx<'c> {
    type Target = Within<'c>;
    fn deref(&self) -> &Within<'c> {
        &self.within
    }
}

impl<'c> Tx<'c> {
    pub(crate) fn new(session: &'c Session, entry: u64) -> Self {
        Self { view: View { session }, entry: Some(entry) }
    }

    /// The closure will tell of nothing.
    pub(crate) fn untold(&mut self) -> &mut Self {
        self.entry = None;
        self
    }

    /// The number that the first entry of this closure will have when it commits; none where nothing is told. Should the
    /// closure run again, the number may be another.
    pub fn entry(&self) -> Option<u64> {
        self.entry
    }

    /// Runs a statement that is not a tenant's; says how many rows it changed.
    pub fn run(&self, statement: &Statement, params: &[Value<'_>]) -> Result<usize, SqlFault> {
        self.view.session.run(statement, None, params)
    }

    /// Holds what follows to one workspace.
    pub fn within<'t>(&'t self, workspace: &'t Workspace) -> WithinTx<'t> {
        WithinTx { within: self.view.within(workspace) }
    }
}

impl View<'_> {
    /// The one row a statement that is not a tenant's finds, or none.
    pub fn one<T>(
        &self,
        statement: &Statement,
        params: &[Value<'_>],
        read: impl FnOnce(&Row<'_>) -> Result<T, SqlFault>,
    ) -> Result<Option<T>, SqlFault> {
        self.session.one(statement, None, params, read)
    }

    /// All rows a statement that is not a tenant's finds.
    pub fn all<T>(
        &self,
        statement: &Statement,
        params: &[Value<'_>],
        read: impl FnMut(&Row<'_>) -> Result<T, SqlFault>,
    ) -> Result<Vec<T>, SqlFault> {
        self.session.all(statement, None, params, read)
    }

    /// Holds what follows to one workspace.
    pub fn within<'t>(&'t self, workspace: &'t Workspace) -> Within<'t> {
        Within { session: self.session, workspace }
    }
}

impl Within<'_> {
    /// The one row of this workspace, or none.
    pub fn one<T>(
        &self,
        statement: &Statement,
        params: &[Value<'_>],
        read: impl FnOnce(&Row<'_>) -> Result<T, SqlFault>,
    ) -> Result<Option<T>, SqlFault> {
        self.session.one(statement, Some(self.workspace), params, read)
    }

    /// All rows of this workspace that the statement finds.
    pub fn all<T>(
        &self,
        statement: &Statement,
        params: &[Value<'_>],
        read: impl FnMut(&Row<'_>) -> Result<T, SqlFault>,
    ) -> Result<Vec<T>, SqlFault> {
        self.session.all(statement, Some(self.workspace), params, read)
    }
}

impl WithinTx<'_> {
    /// Runs a tenant statement; says how many rows of this workspace it changed.
    pub fn run(&self, statement: &Statement, params: &[Value<'_>]) -> Result<usize, SqlFault> {
        self.within.session.run(statement, Some(self.within.workspace), params)
    }
}

impl Session {
    fn run(
        &self,
        statement: &Statement,
        ws: Option<&Workspace>,
        params: &[Value<'_>],
    ) -> Result<usize, SqlFault> {
        let mut prepared = self.prepare(statement, ws, params)?;
        let changed = prepared.raw_execute()?;
        if statement.erases && changed > 0 {
            self.erased.set(true);
        }
        Ok(changed)
    }

    fn one<T>(
        &self,
        statement: &Statement,
        ws: Option<&Workspace>,
        params: &[Value<'_>],
        read: impl FnOnce(&Row<'_>) -> Result<T, SqlFault>,
    ) -> Result<Option<T>, SqlFault> {
        let mut prepared = self.prepare(statement, ws, params)?;
        let mut rows = prepared.raw_query();
        let Some(row) = rows.next()? else { return Ok(None) };
        let found = read(&Row(row))?;
        // Stepping on also runs a RETURNING statement to its end.
        if rows.next()?.is_some() {
            return Err(SqlFault::Several);
        }
        Ok(Some(found))
    }

    fn all<T>(
        &self,
        statement: &Statement,
        ws: Option<&Workspace>,
        params: &[Value<'_>],
        mut read: impl FnMut(&Row<'_>) -> Result<T, SqlFault>,
    ) -> Result<Vec<T>, SqlFault> {
        let mut prepared = self.prepare(statement, ws, params)?;
        let mut rows = prepared.raw_query();
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            found.push(read(&Row(row))?);
        }
        Ok(found)
    }

    fn prepare(
        &self,
        statement: &Statement,
        workspace: Option<&Workspace>,
        params: &[Value<'_>],
    ) -> Result<CachedStatement<'_>, SqlFault> {
        let owner = self.registry.admit(statement, workspace.is_some())?;
        // Set for each run, not only the first: the engine compiles a cached statement anew when the schema changed.
        self.behalf.of(owner);
        let mut prepared = self.conn.prepare_cached(statement.sql)?;
        let first = match workspace {
            Some(workspace) => {
                prepared.raw_bind_parameter(1, workspace.as_str())?;
                2
            }
            None => 1,
        };
        let (expected, given) = (prepared.parameter_count(), params.len() + first - 1);
        if expected != given {
            return Err(rusqlite::Error::InvalidParameterCount(given, expected).into());
        }
        for (at, value) in params.iter().enumerate() {
            prepared.raw_bind_parameter(first + at, value)?;
        }
        Ok(prepared)
    }

    /// The ledger's own statements: not registered one by one, but never made from anything that came in.
    pub(crate) fn own(&self, sql: &'static str) -> Result<CachedStatement<'_>, SqlFault> {
        self.behalf.of(Owner::LEDGER);
        Ok(self.conn.prepare_cached(sql)?)
    }

    /// Copies committed pages from the write-ahead log into the database, and says so if the disk does not let it.
    pub(crate) fn fold_wal(&self) -> Result<(), SqlFault> {
        let mut fold = self.own("PRAGMA wal_checkpoint(PASSIVE)")?;
        let mut rows = fold.raw_query();
        while rows.next()?.is_some() {}
        Ok(())
    }

    /// The same, and leaves nothing in the log's file. False when somebody still reads it.
    pub(crate) fn empty_wal(&self) -> Result<bool, SqlFault> {
        let mut fold = self.own("PRAGMA wal_checkpoint(TRUNCATE)")?;
        let mut rows = fold.raw_query();
        let mut busy = true;
        while let Some(row) = rows.next()? {
            busy = row.get::<_, i64>(0)? != 0;
        }
        Ok(!busy)
    }
}
