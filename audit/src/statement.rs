//! The room of SQL: every statement is fixed text, registered with the service that owns it.
//! Who enters: services, declaring tables, migrations and statements as statics, and values to bind.
//! What leaves: a `Schema` the ledger proves when it opens, and rows read column by column.

use std::borrow::Cow;

use crate::fault::SqlFault;

/// The column by which every tenant table says whose row it is; always bound to `?1`.
pub const WORKSPACE_COLUMN: &str = "workspace";

/// How far a statement may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// One workspace, which the runner itself binds as `?1`.
    Tenant,
    /// Only tables that belong to no tenant.
    Appliance,
    /// Every workspace at once, for the stated reason.
    AcrossWorkspaces(&'static str),
}

/// One SQL statement of one service: static text with `?1` placeholders, in the subset SQLite and
/// PostgreSQL share.
#[derive(Debug)]
pub struct Statement {
    pub(crate) service: &'static str,
    pub(crate) sql: &'static str,
    pub(crate) reach: Reach,
    pub(crate) erases: bool,
}

impl Statement {
    /// A statement about one workspace. `?1` is the workspace, bound by the runner; own parameters start at `?2`.
    pub const fn tenant(service: &'static str, sql: &'static str) -> Self {
        Self { service, sql, reach: Reach::Tenant, erases: false }
    }

    /// A statement that touches only tables that are not a tenant's.
    pub const fn appliance(service: &'static str, sql: &'static str) -> Self {
        Self { service, sql, reach: Reach::Appliance, erases: false }
    }

    /// An honest exception: a statement that reads or writes the rows of several workspaces, and why it must.
    pub const fn across_workspaces(service: &'static str, why: &'static str, sql: &'static str) -> Self {
        Self { service, sql, reach: Reach::AcrossWorkspaces(why), erases: false }
    }

    /// What it overwrites or deletes is to be gone from the files as well, the write-ahead log included, soon after the commit.
    #[must_use]
    pub const fn erasing(self) -> Self {
        Self { erases: true, ..self }
    }

    /// The service that owns it.
    pub const fn service(&self) -> &'static str {
        self.service
    }

    /// Its text.
    pub const fn sql(&self) -> &'static str {
        self.sql
    }

    /// How far it reaches.
    pub const fn reach(&self) -> Reach {
        self.reach
    }
}

/// A table of a service.
#[derive(Debug, Clone, Copy)]
pub struct Table {
    /// Its name, unique over all services.
    pub name: &'static str,
    /// Whether its rows belong to workspaces; then it has a `workspace` column, first in its primary key.
    pub tenant: bool,
}

/// What a service keeps: its tables, how they come to be, and every statement that may touch them.
#[derive(Debug)]
pub struct Schema {
    /// The service's name.
    pub service: &'static str,
    /// Its tables; no other service may name them.
    pub tables: &'static [Table],
    /// Scripts in order; each runs once, in one transaction. Never edit one that was released.
    pub migrations: &'static [&'static str],
    /// Every statement it may run.
    pub statements: &'static [&'static Statement],
}

/// A value to bind, in the types both engines know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// No value.
    Null,
    /// BIGINT.
    Integer(i64),
    /// TEXT.
    Text(Cow<'a, str>),
    /// BLOB.
    Blob(Cow<'a, [u8]>),
}

/// Values to bind, in order: `params![id, name]`. For a tenant statement they start at `?2`.
#[macro_export]
macro_rules! params {
    () => { &[] as &[$crate::Value<'_>] };
    ($($value:expr),+ $(,)?) => { &[$($crate::Value::from($value)),+] as &[$crate::Value<'_>] };
}

macro_rules! value_from {
    ($($from:ty, $it:ident => $to:expr;)+) => {$(
        impl<'a> From<$from> for Value<'a> {
            fn from($it: $from) -> Self { $to }
        }
    )+};
}

value_from! {
    i64, it => Value::Integer(it);
    i32, it => Value::Integer(it.into());
    u32, it => Value::Integer(it.into());
    u16, it => Value::Integer(it.into());
    u8, it => Value::Integer(it.into());
    bool, it => Value::Integer(it.into());
    &'a str, it => Value::Text(Cow::Borrowed(it));
    &'a String, it => Value::Text(Cow::Borrowed(it));
    String, it => Value::Text(Cow::Owned(it));
    Cow<'a, str>, it => Value::Text(it);
    &'a [u8], it => Value::Blob(Cow::Borrowed(it));
    &'a Vec<u8>, it => Value::Blob(Cow::Borrowed(it));
    Vec<u8>, it => Value::Blob(Cow::Owned(it));
}

impl<'a, const N: usize> From<&'a [u8; N]> for Value<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Value::Blob(Cow::Borrowed(bytes))
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Value<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Value::Null, Into::into)
    }
}

impl rusqlite::ToSql for Value<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        use rusqlite::types::{ToSqlOutput, ValueRef};
        Ok(ToSqlOutput::Borrowed(match self {
            Value::Null => ValueRef::Null,
            Value::Integer(number) => ValueRef::Integer(*number),
            Value::Text(text) => ValueRef::Text(text.as_bytes()),
            Value::Blob(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// One row of an answer; columns are counted from 0. It borrows from the statement, so nothing is copied
/// that is not asked for.
#[derive(Debug)]
pub struct Row<'r>(pub(crate) &'r rusqlite::Row<'r>);

impl Row<'_> {
    /// A BIGINT that is not null.
    pub fn integer(&self, column: usize) -> Result<i64, SqlFault> {
        self.column(column)
    }

    /// A BIGINT that may be null.
    pub fn integer_or_null(&self, column: usize) -> Result<Option<i64>, SqlFault> {
        self.column(column)
    }

    /// A TEXT that is not null.
    pub fn text(&self, column: usize) -> Result<String, SqlFault> {
        self.column(column)
    }

    /// A TEXT that may be null.
    pub fn text_or_null(&self, column: usize) -> Result<Option<String>, SqlFault> {
        self.column(column)
    }

    /// A BLOB that is not null.
    pub fn blob(&self, column: usize) -> Result<Vec<u8>, SqlFault> {
        self.column(column)
    }

    /// A BLOB that may be null.
    pub fn blob_or_null(&self, column: usize) -> Result<Option<Vec<u8>>, SqlFault> {
        self.column(column)
    }

    /// A BIGINT that says yes (1) or no (0).
    pub fn flag(&self, column: usize) -> Result<bool, SqlFault> {
        Ok(self.integer(column)? != 0)
    }

    fn column<T: rusqlite::types::FromSql>(&self, column: usize) -> Result<T, SqlFault> {
        self.0.get(column).map_err(|source| SqlFault::Column { column, source })
    }
}
