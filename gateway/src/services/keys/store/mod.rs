//! What the keys service keeps: keys and their use counters; their versions with the pinned public halves; their backups.
//! Who enters: the commands, inside a ledger transaction or view.
//! What leaves: rows as types. No other service can run these statements.

mod backups;
mod versions;

use audit::{Row, Schema, SqlFault, Statement, Table, Tx, View, params};
use hsm::{Fingerprint, KeyKind};

pub use self::backups::BackupRow;
pub(super) use self::backups::{backup_key, backups, delete_backups, insert_backup};
pub use self::versions::{Examined, Made, VersionRow};
pub(super) use self::versions::{
    drop_blobs, forget_versions_after, make_version, order_version, replace_copies, to_examine, versions,
};
use super::state::KeyState;
use crate::ids::{Name, SigningKeyId, WorkspaceId};
use crate::moment::Moment;
use crate::services::columns::{moment, moment_or_none, typed};

const SERVICE: &str = "keys";

/// The service's tables and statements.
pub static SCHEMA: Schema = Schema {
    service: SERVICE,
    tables: &[
        Table { name: "keys", tenant: true },
        Table { name: "key_versions", tenant: true },
        Table { name: "key_backups", tenant: true },
    ],
    migrations: &[
        include_str!("../schema/0001.sql"),
        include_str!("../schema/0002.sql"),
        include_str!("../schema/0003.sql"),
        include_str!("../schema/0004.sql"),
    ],
    statements: &[
        &INSERT_KEY,
        &versions::INSERT,
        &versions::MAKE,
        &FORGET_KEY,
        &versions::FORGET_AFTER,
        &KEY_BY_ID,
        &KEY_BY_NAME,
        &KEYS,
        &versions::OF_KEY,
        &versions::TO_EXAMINE,
        &SET_STATE,
        &SET_LATEST,
        &COUNT_USES,
        &versions::REPLACE,
        &versions::DROP_BLOBS,
        &COUNTERS,
        &RAISE_USES,
        &SET_WORKFLOW,
        &SET_STATE_BEFORE,
        &STATE_BEFORE,
        &SET_INCOMING,
        &STANDING,
        &backups::INSERT,
        &backups::OF_KEY,
        &backups::KEY,
        &backups::DELETE,
    ],
};

static INSERT_KEY: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO keys (workspace, id, name, kind, state, latest, uses, created_us, workflow)
     VALUES (?1, ?2, ?3, ?4, 'creating', 1, 0, ?5, ?6) ON CONFLICT DO NOTHING",
);
// A key that never came to be leaves no record: nobody can have seen a public half of it.
static FORGET_KEY: Statement =
    Statement::tenant(SERVICE, "DELETE FROM keys WHERE workspace = ?1 AND id = ?2 AND state = 'creating'");
static KEY_BY_ID: Statement = Statement::tenant(
    SERVICE,
    "SELECT id, name, kind, state, latest, uses, destroy_after_us, created_us, workflow, incoming, fence FROM keys WHERE workspace = ?1 AND id = ?2",
);
static KEY_BY_NAME: Statement = Statement::tenant(
    SERVICE,
    "SELECT id, name, kind, state, latest, uses, destroy_after_us, created_us, workflow, incoming, fence FROM keys WHERE workspace = ?1 AND name = ?2",
);
static KEYS: Statement = Statement::tenant(
    SERVICE,
    "SELECT id, name, kind, state, latest, uses, destroy_after_us, created_us, workflow, incoming, fence FROM keys
     WHERE workspace = ?1 AND id > ?2 ORDER BY id LIMIT ?3",
);
static SET_STATE: Statement = Statement::tenant(
    SERVICE,
    "UPDATE keys SET state = ?4, destroy_after_us = ?5 WHERE workspace = ?1 AND id = ?2 AND state = ?3",
);
static SET_LATEST: Statement = Statement::tenant(
    SERVICE,
    "UPDATE keys SET latest = ?3, fence = fence + 1 WHERE workspace = ?1 AND id = ?2 AND latest < ?3 RETURNING fence",
);
static COUNT_USES: Statement = Statement::tenant(
    SERVICE,
    "UPDATE keys SET uses = uses + ?3 WHERE workspace = ?1 AND id = ?2 AND state = 'enabled' AND fence = ?4 RETURNING uses",
);
static COUNTERS: Statement = Statement::across_workspaces(
    SERVICE,
    "use counters are held against the ledger at start, over all workspaces",
    "SELECT workspace, id, uses FROM keys",
);
static RAISE_USES: Statement =
    Statement::tenant(SERVICE, "UPDATE keys SET uses = ?3 WHERE workspace = ?1 AND id = ?2 AND uses < ?3");
static SET_WORKFLOW: Statement = Statement::tenant(
    SERVICE,
    "UPDATE keys SET workflow = ?3 WHERE workspace = ?1 AND id = ?2 AND (workflow IS NULL OR ?3 IS NULL)",
);

static SET_STATE_BEFORE: Statement =
    Statement::tenant(SERVICE, "UPDATE keys SET state_before = ?3 WHERE workspace = ?1 AND id = ?2");
static STATE_BEFORE: Statement =
    Statement::tenant(SERVICE, "SELECT state_before FROM keys WHERE workspace = ?1 AND id = ?2");

static SET_INCOMING: Statement =
    Statement::tenant(SERVICE, "UPDATE keys SET incoming = ?3 WHERE workspace = ?1 AND id = ?2");

static STANDING: Statement = Statement::tenant(
    SERVICE,
    "SELECT COUNT(*) FROM keys WHERE workspace = ?1 AND state NOT IN ('destroyed', 'failed')",
);

/// A key row.
#[derive(Clone, Debug)]
pub struct KeyRow {
    /// Its id.
    pub id: SigningKeyId,
    /// Its name.
    pub name: Name,
    /// Its kind.
    pub kind: KeyKind,
    /// Where it stands.
    pub state: KeyState,
    /// The version that signs where the caller does not say.
    pub latest: i64,
    /// Signatures authorised with it, ever, over all versions.
    pub uses: i64,
    /// When its destruction falls due.
    pub destroy_after: Option<Moment>,
    /// When it was made.
    pub created: Moment,
    /// The workflow that is changing it.
    pub workflow: Option<String>,
    /// For what it has to be wrapped, while it is waited for; JSON.
    pub incoming: Option<String>,
    /// Grows when a copy takes over. Whoever looked at the key under a lower one does not sign with it any more.
    pub fence: i64,
}

/// Puts a key down; false where its name is taken.
pub(super) fn insert(tx: &Tx<'_>, workspace: &WorkspaceId, row: &KeyRow) -> Result<bool, SqlFault> {
    let (kind, created) = (row.kind.name(), row.created.micros());
    let params = params![row.id.as_str(), row.name.as_str(), kind, created, row.workflow.as_ref()];
    Ok(tx.within(workspace.on_ledger()).run(&INSERT_KEY, params)? == 1)
}

/// Forgets a key that never came to be.
pub(super) fn forget_unmade(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
) -> Result<(), SqlFault> {
    match tx.within(workspace.on_ledger()).run(&FORGET_KEY, params![key.as_str()])? {
        1 => forget_versions_after(tx, workspace, key, 0),
        _ => Ok(()),
    }
}

/// Lets a later version sign, and no earlier one any more: whoever holds the key under a lower fence than the one given back
/// is late.
pub(super) fn set_latest(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
    latest: i64,
) -> Result<Option<i64>, SqlFault> {
    let params = params![key.as_str(), latest];
    tx.within(workspace.on_ledger()).one(&SET_LATEST, params, |row| row.integer(0))
}

/// Says which workflow is changing the key, or that none is any more; false where another one is.
pub(super) fn set_workflow(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
    workflow: Option<&str>,
) -> Result<bool, SqlFault> {
    Ok(tx.within(workspace.on_ledger()).run(&SET_WORKFLOW, params![key.as_str(), workflow])? == 1)
}

/// Finds a key by id or by name. What is an id is never taken for a name, even where one of that form stands from before.
pub(super) fn key(
    view: &View<'_>,
    workspace: &WorkspaceId,
    selector: &str,
) -> Result<Option<KeyRow>, SqlFault> {
    let within = view.within(workspace.on_ledger());
    match within.one(&KEY_BY_ID, params![selector], key_row)? {
        Some(row) => Ok(Some(row)),
        None => within.one(&KEY_BY_NAME, params![selector], key_row),
    }
}

pub(super) fn keys(
    view: &View<'_>,
    workspace: &WorkspaceId,
    after: &str,
    limit: usize,
) -> Result<Vec<KeyRow>, SqlFault> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    view.within(workspace.on_ledger()).all(&KEYS, params![after, limit], key_row)
}

fn key_row(row: &Row<'_>) -> Result<KeyRow, SqlFault> {
    Ok(KeyRow {
        id: typed(row, 0)?,
        name: typed(row, 1)?,
        kind: typed(row, 2)?,
        state: typed(row, 3)?,
        latest: row.integer(4)?,
        uses: row.integer(5)?,
        destroy_after: moment_or_none(row, 6)?,
        created: moment(row, 7)?,
        workflow: row.text_or_null(8)?,
        incoming: row.text_or_null(9)?,
        fence: row.integer(10)?,
    })
}

/// Changes the state if it is still what the caller saw.
pub(super) fn set_state(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    id: &SigningKeyId,
    from: KeyState,
    to: KeyState,
    destroy_after: Option<Moment>,
) -> Result<bool, SqlFault> {
    let params = params![id.as_str(), from.text(), to.text(), destroy_after.map(Moment::micros)];
    Ok(tx.within(workspace.on_ledger()).run(&SET_STATE, params)? == 1)
}

/// Counts uses of an enabled key under its present fence; the counter after them, or `None` if it is not so.
pub(super) fn count_uses(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    id: &SigningKeyId,
    uses: i64,
    fence: i64,
) -> Result<Option<i64>, SqlFault> {
    let params = params![id.as_str(), uses, fence];
    tx.within(workspace.on_ledger()).one(&COUNT_USES, params, |row| row.integer(0))
}

/// Lets a copy of earlier versions take over, as [`set_latest`], and marks those that it is a copy of.
pub(super) fn take_over(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    id: &SigningKeyId,
    version: i64,
    copy_of: &Fingerprint,
) -> Result<Option<i64>, SqlFault> {
    replace_copies(tx, workspace, id, version, copy_of)?;
    set_latest(tx, workspace, id, version)
}

/// Every key with its use counter.
pub(super) fn counters(view: &View<'_>) -> Result<Vec<(WorkspaceId, SigningKeyId, i64)>, SqlFault> {
    view.all(&COUNTERS, params![], |row| Ok((typed(row, 0)?, typed(row, 1)?, row.integer(2)?)))
}

/// Lets a counter go on from a higher number.
pub(super) fn raise_uses(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    id: &SigningKeyId,
    uses: i64,
) -> Result<(), SqlFault> {
    tx.within(workspace.on_ledger()).run(&RAISE_USES, params![id.as_str(), uses]).map(drop)
}

/// Remembers where the key stood before its destruction was scheduled, or forgets it.
pub(super) fn remember_state(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
    state: Option<KeyState>,
) -> Result<(), SqlFault> {
    let state = state.map(KeyState::text);
    tx.within(workspace.on_ledger()).run(&SET_STATE_BEFORE, params![key.as_str(), state]).map(drop)
}

/// Where the key stood before its destruction was scheduled.
pub(super) fn remembered_state(
    view: &View<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
) -> Result<Option<KeyState>, SqlFault> {
    let found = view.within(workspace.on_ledger()).one(&STATE_BEFORE, params![key.as_str()], |row| {
        Ok(match row.text_or_null(0)? {
            Some(_) => Some(typed(row, 0)?),
            None => None,
        })
    });
    Ok(found?.flatten())
}

/// Shows for what an incoming key has to be wrapped, or no longer does.
pub(super) fn set_incoming(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
    incoming: Option<&str>,
) -> Result<(), SqlFault> {
    tx.within(workspace.on_ledger()).run(&SET_INCOMING, params![key.as_str(), incoming]).map(drop)
}

/// How many keys of a workspace are not yet destroyed.
pub(super) fn standing(view: &View<'_>, workspace: &WorkspaceId) -> Result<i64, SqlFault> {
    let counted = view.within(workspace.on_ledger()).one(&STANDING, params![], |row| row.integer(0));
    Ok(counted?.unwrap_or_default())
}
