//! What the workspaces service keeps: workspaces, their wrapped data keys, their API keys.
//! Who enters: the commands, inside a ledger transaction or view.
//! What leaves: rows as types. No other service can run these statements.

use audit::{Schema, SqlFault, Statement, Table, Tx, View, params};

use crate::api::Scopes;
use crate::ids::{ApiKeyId, Name, WorkspaceId};
use crate::moment::Moment;
use crate::services::columns::{moment, moment_or_none, typed};

const SERVICE: &str = "workspaces";

/// The service's tables and statements.
pub static SCHEMA: Schema = Schema {
    service: SERVICE,
    tables: &[Table { name: "workspaces", tenant: false }, Table { name: "api_keys", tenant: true }],
    migrations: &[include_str!("schema/0001.sql")],
    statements: &[
        &INSERT_WORKSPACE,
        &WORKSPACES,
        &SET_STATE,
        &DATA_KEY,
        &INSERT_API_KEY,
        &API_KEYS,
        &ALL_API_KEYS,
        &REVOKE_API_KEY,
        &API_KEY_STANDS,
        &SET_LAST_USED,
    ],
};

static INSERT_WORKSPACE: Statement = Statement::appliance(
    SERVICE,
    "INSERT INTO workspaces (id, name, state, data_key, data_key_version, created_us) VALUES (?1, ?2, 'open', ?3, 1, ?4)",
);
static WORKSPACES: Statement = Statement::appliance(
    SERVICE,
    "SELECT id, name, state, created_us FROM workspaces ORDER BY created_us, id",
);
static SET_STATE: Statement = Statement::appliance(
    SERVICE,
    "UPDATE workspaces SET state = ?2 WHERE id = ?1 AND state <> ?2 RETURNING name",
);
static DATA_KEY: Statement =
    Statement::appliance(SERVICE, "SELECT data_key, data_key_version FROM workspaces WHERE id = ?1");
static INSERT_API_KEY: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO api_keys (workspace, id, name, hash, scopes, legacy, state, created_us, expires_us)
     VALUES (?1, ?2, ?3, ?4, ?5, 0, 'active', ?6, ?7)",
);
static API_KEYS: Statement = Statement::tenant(
    SERVICE,
    "SELECT id, name, scopes, legacy, state, created_us, expires_us, last_used_us FROM api_keys
     WHERE workspace = ?1 ORDER BY id",
);
static ALL_API_KEYS: Statement = Statement::across_workspaces(
    SERVICE,
    "the roster is filled once at start, before any caller is known",
    "SELECT workspace, id, hash, scopes, legacy, expires_us FROM api_keys WHERE state = 'active'",
);
static REVOKE_API_KEY: Statement = Statement::tenant(
    SERVICE,
    "UPDATE api_keys SET state = 'revoked' WHERE workspace = ?1 AND id = ?2 AND state = 'active' RETURNING name",
);
static API_KEY_STANDS: Statement = Statement::tenant(
    SERVICE,
    "SELECT expires_us FROM api_keys WHERE workspace = ?1 AND id = ?2 AND state = 'active'",
);
static SET_LAST_USED: Statement =
    Statement::tenant(SERVICE, "UPDATE api_keys SET last_used_us = ?3 WHERE workspace = ?1 AND id = ?2");

/// A workspace row.
#[derive(Clone, Debug)]
pub struct WorkspaceRow {
    /// Its id.
    pub id: WorkspaceId,
    /// Its name.
    pub name: Name,
    /// Open for business, or closed.
    pub open: bool,
    /// When it was made.
    pub created: Moment,
}

/// An API key row, without its hash.
#[derive(Clone, Debug)]
pub struct ApiKeyRow {
    /// Its id.
    pub id: ApiKeyId,
    /// Its name.
    pub name: Name,
    /// What it allows; `None` where the stored list gives nothing.
    pub scopes: Option<Scopes>,
    /// Not revoked.
    pub active: bool,
    /// When it was made.
    pub created: Moment,
    /// When it ends.
    pub expires: Option<Moment>,
    /// When it was last shown, to within half a minute.
    pub last_used: Option<Moment>,
}

/// A row for the roster.
#[derive(Debug)]
pub struct RosterRow {
    /// The key's workspace.
    pub workspace: WorkspaceId,
    /// Its id.
    pub id: ApiKeyId,
    /// The SHA-256 of its text.
    pub hash: [u8; 32],
    /// What it allows.
    pub scopes: Option<Scopes>,
    /// When it ends.
    pub expires: Option<Moment>,
}

pub(super) fn insert(
    tx: &Tx<'_>,
    id: &WorkspaceId,
    name: &Name,
    data_key: &[u8],
    now: Moment,
) -> Result<(), SqlFault> {
    tx.run(&INSERT_WORKSPACE, params![id.as_str(), name.as_str(), data_key, now.micros()]).map(drop)
}

pub(super) fn all(view: &View<'_>) -> Result<Vec<WorkspaceRow>, SqlFault> {
    view.all(&WORKSPACES, params![], |row| {
        Ok(WorkspaceRow {
            id: typed(row, 0)?,
            name: typed(row, 1)?,
            open: row.text(2)? == "open",
            created: moment(row, 3)?,
        })
    })
}

/// Changes the state; `None` if it was so already or there is no such workspace.
pub(super) fn set_state(tx: &Tx<'_>, id: &WorkspaceId, open: bool) -> Result<Option<Name>, SqlFault> {
    let state = if open { "open" } else { "closed" };
    tx.one(&SET_STATE, params![id.as_str(), state], |row| typed(row, 0))
}

pub(super) fn data_key(view: &View<'_>, id: &WorkspaceId) -> Result<Option<(Vec<u8>, i64)>, SqlFault> {
    view.one(&DATA_KEY, params![id.as_str()], |row| Ok((row.blob(0)?, row.integer(1)?)))
}

pub(super) fn insert_api_key(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    key: &ApiKeyRow,
    hash: &[u8; 32],
) -> Result<(), SqlFault> {
    let scopes = key.scopes.as_ref().map(Scopes::stored).unwrap_or_default();
    let expires = key.expires.map(Moment::micros);
    let params = params![key.id.as_str(), key.name.as_str(), hash, scopes, key.created.micros(), expires];
    tx.within(workspace.on_ledger()).run(&INSERT_API_KEY, params).map(drop)
}

pub(super) fn api_keys(view: &View<'_>, workspace: &WorkspaceId) -> Result<Vec<ApiKeyRow>, SqlFault> {
    view.within(workspace.on_ledger()).all(&API_KEYS, params![], |row| {
        Ok(ApiKeyRow {
            id: typed(row, 0)?,
            name: typed(row, 1)?,
            scopes: Scopes::from_stored(&row.text(2)?, row.flag(3)?),
            active: row.text(4)? == "active",
            created: moment(row, 5)?,
            expires: moment_or_none(row, 6)?,
            last_used: moment_or_none(row, 7)?,
        })
    })
}

pub(super) fn roster(view: &View<'_>) -> Result<Vec<RosterRow>, SqlFault> {
    view.all(&ALL_API_KEYS, params![], |row| {
        let hash = row.blob(2)?.try_into().map_err(|_| SqlFault::Malformed { column: 2 })?;
        let scopes = Scopes::from_stored(&row.text(3)?, row.flag(4)?);
        Ok(RosterRow {
            workspace: typed(row, 0)?,
            id: typed(row, 1)?,
            hash,
            scopes,
            expires: moment_or_none(row, 5)?,
        })
    })
}

pub(super) fn revoke_api_key(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    id: &ApiKeyId,
) -> Result<Option<Name>, SqlFault> {
    tx.within(workspace.on_ledger()).one(&REVOKE_API_KEY, params![id.as_str()], |row| typed(row, 0))
}

/// Is the API key still good, as the database sees it in this very transaction?
pub(super) fn api_key_stands(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    id: &ApiKeyId,
    now: Moment,
) -> Result<bool, SqlFault> {
    let expires = tx
        .within(workspace.on_ledger())
        .one(&API_KEY_STANDS, params![id.as_str()], |row| moment_or_none(row, 0))?;
    Ok(expires.is_some_and(|end| end.is_none_or(|end| end > now)))
}

pub(super) fn set_last_used(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    id: &ApiKeyId,
    at: Moment,
) -> Result<(), SqlFault> {
    tx.within(workspace.on_ledger()).run(&SET_LAST_USED, params![id.as_str(), at.micros()]).map(drop)
}
