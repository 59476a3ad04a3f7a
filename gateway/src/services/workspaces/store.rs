//! What the workspaces service keeps: workspaces, their wrapped data keys and what finds the keys over them, their API keys.
//! Who enters: the commands, inside a ledger transaction or view.
//! What leaves: rows as types. No other service can run these statements.

use audit::{Row, Schema, SqlFault, Statement, Table, Tx, View, params};

use super::state::WorkspaceState;
use crate::api::Scopes;
use crate::ids::{ApiKeyId, Name, WorkspaceId};
use crate::moment::Moment;
use crate::services::columns::{moment, moment_or_none, typed};

const SERVICE: &str = "workspaces";

/// The service's tables and statements.
pub static SCHEMA: Schema = Schema {
    service: SERVICE,
    tables: &[Table { name: "workspaces", tenant: false }, Table { name: "api_keys", tenant: true }],
    migrations: &[include_str!("schema/0001.sql"), include_str!("schema/0002.sql")],
    statements: &[
        &RESERVE,
        &FORGET_UNFOUNDED,
        &LAY_DATA_KEY,
        &DROP_DATA_KEY,
        &WORKSPACES,
        &WORKSPACE,
        &MOVE_ON,
        &REMEMBER_STATE,
        &STATE_BEFORE,
        &REVOKE_API_KEYS,
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

/// The version of data keys that lie under a key of the token, and under the master key within.
pub const UNDER_KEK: i64 = 2;

static RESERVE: Statement = Statement::appliance(
    SERVICE,
    "INSERT INTO workspaces (id, name, state, data_key, data_key_version, created_us) VALUES (?1, ?2, 'creating', x'', 0, ?3)
     ON CONFLICT DO NOTHING",
);
// A workspace that never came to be leaves no record: nothing was ever stored in it.
static FORGET_UNFOUNDED: Statement =
    Statement::appliance(SERVICE, "DELETE FROM workspaces WHERE id = ?1 AND state = 'creating'");
static LAY_DATA_KEY: Statement = Statement::appliance(
    SERVICE,
    "UPDATE workspaces SET data_key = ?2, data_key_version = ?3, kek = ?4 WHERE id = ?1 AND state = 'creating'",
);
static DROP_DATA_KEY: Statement = Statement::appliance(
    SERVICE,
    "UPDATE workspaces SET data_key = x'', data_key_version = 0, kek = NULL WHERE id = ?1 AND state IN ('creating', 'closing')",
).erasing();
static WORKSPACES: Statement = Statement::appliance(
    SERVICE,
    "SELECT id, name, state, created_us FROM workspaces ORDER BY created_us, id",
);
static WORKSPACE: Statement =
    Statement::appliance(SERVICE, "SELECT id, name, state, created_us FROM workspaces WHERE id = ?1");
static MOVE_ON: Statement =
    Statement::appliance(SERVICE, "UPDATE workspaces SET state = ?3 WHERE id = ?1 AND state = ?2");
static REMEMBER_STATE: Statement =
    Statement::appliance(SERVICE, "UPDATE workspaces SET state_before = ?2 WHERE id = ?1");
static STATE_BEFORE: Statement = Statement::appliance(
    SERVICE,
    "SELECT state_before FROM workspaces WHERE id = ?1 AND state_before IS NOT NULL",
);
static SET_STATE: Statement = Statement::appliance(
    SERVICE,
    "UPDATE workspaces SET state = ?2 WHERE id = ?1 AND state <> ?2 AND state IN ('open', 'closed') RETURNING name",
);
static DATA_KEY: Statement =
    Statement::appliance(SERVICE, "SELECT data_key, data_key_version, kek FROM workspaces WHERE id = ?1");
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
static REVOKE_API_KEYS: Statement = Statement::tenant(
    SERVICE,
    "UPDATE api_keys SET state = 'revoked' WHERE workspace = ?1 AND state = 'active'",
);
static API_KEY_STANDS: Statement = Statement::tenant(
    SERVICE,
    "SELECT expires_us, scopes, legacy FROM api_keys WHERE workspace = ?1 AND id = ?2 AND state = 'active'",
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
    /// Where it stands.
    pub state: WorkspaceState,
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

/// A workspace's data key, as its row keeps it.
#[derive(Debug)]
pub struct DataKeyRow {
    /// Wrapped.
    pub wrapped: Vec<u8>,
    /// How it is wrapped: 1 under the master key, 2 under the workspace's own as well, 0 for none.
    pub version: i64,
    /// What finds the workspace's own key, sealed.
    pub kek: Option<Vec<u8>>,
}

/// Puts a workspace down as being founded; false where its name is taken.
pub(super) fn reserve(tx: &Tx<'_>, id: &WorkspaceId, name: &Name, now: Moment) -> Result<bool, SqlFault> {
    Ok(tx.run(&RESERVE, params![id.as_str(), name.as_str(), now.micros()])? == 1)
}

/// Forgets a workspace that never came to be.
pub(super) fn forget_unfounded(tx: &Tx<'_>, id: &WorkspaceId) -> Result<(), SqlFault> {
    tx.run(&FORGET_UNFOUNDED, params![id.as_str()]).map(drop)
}

/// Puts the data key down, and what finds the key it lies under.
pub(super) fn lay_data_key(
    tx: &Tx<'_>,
    id: &WorkspaceId,
    data_key: &[u8],
    kek: &[u8],
) -> Result<(), SqlFault> {
    tx.run(&LAY_DATA_KEY, params![id.as_str(), data_key, UNDER_KEK, kek]).map(drop)
}

/// Takes the data key away.
pub(super) fn drop_data_key(tx: &Tx<'_>, id: &WorkspaceId) -> Result<(), SqlFault> {
    tx.run(&DROP_DATA_KEY, params![id.as_str()]).map(drop)
}

pub(super) fn all(view: &View<'_>) -> Result<Vec<WorkspaceRow>, SqlFault> {
    view.all(&WORKSPACES, params![], workspace_row)
}

pub(super) fn workspace(view: &View<'_>, id: &WorkspaceId) -> Result<Option<WorkspaceRow>, SqlFault> {
    view.one(&WORKSPACE, params![id.as_str()], workspace_row)
}

pub(super) fn state(view: &View<'_>, id: &WorkspaceId) -> Result<Option<WorkspaceState>, SqlFault> {
    Ok(workspace(view, id)?.map(|row| row.state))
}

fn workspace_row(row: &Row<'_>) -> Result<WorkspaceRow, SqlFault> {
    Ok(WorkspaceRow {
        id: typed(row, 0)?,
        name: typed(row, 1)?,
        state: typed(row, 2)?,
        created: moment(row, 3)?,
    })
}

/// Changes the state if it is still what the caller saw.
pub(super) fn move_on(
    tx: &Tx<'_>,
    id: &WorkspaceId,
    from: WorkspaceState,
    to: WorkspaceState,
) -> Result<bool, SqlFault> {
    Ok(tx.run(&MOVE_ON, params![id.as_str(), from.text(), to.text()])? == 1)
}

/// Remembers where the workspace stood before it was frozen, or forgets it.
pub(super) fn remember_state(
    tx: &Tx<'_>,
    id: &WorkspaceId,
    state: Option<WorkspaceState>,
) -> Result<(), SqlFault> {
    tx.run(&REMEMBER_STATE, params![id.as_str(), state.map(WorkspaceState::text)]).map(drop)
}

/// Where the workspace stood before it was frozen.
pub(super) fn remembered_state(
    view: &View<'_>,
    id: &WorkspaceId,
) -> Result<Option<WorkspaceState>, SqlFault> {
    view.one(&STATE_BEFORE, params![id.as_str()], |row| typed(row, 0))
}

/// Changes the state; `None` if it was so already or there is no such workspace.
pub(super) fn set_state(tx: &Tx<'_>, id: &WorkspaceId, open: bool) -> Result<Option<Name>, SqlFault> {
    let state = if open { "open" } else { "closed" };
    tx.one(&SET_STATE, params![id.as_str(), state], |row| typed(row, 0))
}

pub(super) fn data_key(view: &View<'_>, id: &WorkspaceId) -> Result<Option<DataKeyRow>, SqlFault> {
    view.one(&DATA_KEY, params![id.as_str()], |row| {
        Ok(DataKeyRow { wrapped: row.blob(0)?, version: row.integer(1)?, kek: row.blob_or_null(2)? })
    })
}

/// Revokes every API key of the workspace; how many stood.
pub(super) fn revoke_api_keys(tx: &Tx<'_>, workspace: &WorkspaceId) -> Result<usize, SqlFault> {
    tx.within(workspace.on_ledger()).run(&REVOKE_API_KEYS, params![])
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

/// What an API key allows, if it is still good, as the database sees it in this very transaction. A list that gives nothing
/// is as good as no key.
///
/// # Errors
/// The database did not do it.
pub fn standing_api_key(
    view: &View<'_>,
    workspace: &WorkspaceId,
    id: &ApiKeyId,
    now: Moment,
) -> Result<Option<Scopes>, SqlFault> {
    let found = view.within(workspace.on_ledger()).one(&API_KEY_STANDS, params![id.as_str()], |row| {
        Ok((moment_or_none(row, 0)?, Scopes::from_stored(&row.text(1)?, row.flag(2)?)))
    })?;
    Ok(found.filter(|(end, _)| end.is_none_or(|end| end > now)).and_then(|(_, scopes)| scopes))
}

/// Whether a workspace's programs may act, as the database sees it in this very transaction.
///
/// # Errors
/// The database did not do it.
pub fn is_open(view: &View<'_>, id: &WorkspaceId) -> Result<bool, SqlFault> {
    Ok(state(view, id)?.is_some_and(WorkspaceState::is_open))
}

pub(super) fn set_last_used(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    id: &ApiKeyId,
    at: Moment,
) -> Result<(), SqlFault> {
    tx.within(workspace.on_ledger()).run(&SET_LAST_USED, params![id.as_str(), at.micros()]).map(drop)
}
