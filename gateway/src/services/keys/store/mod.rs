//! What the keys service keeps: keys, their versions with the pinned public halves, and each key's use counter.
//! Who enters: the commands, inside a ledger transaction or view.
//! What leaves: rows as types. No other service can run these statements.

mod backups;

use audit::{Row, Schema, SqlFault, Statement, Table, Tx, View, params};
use hsm::{Fingerprint, KeyId, KeyKind};
use serde::{Deserialize, Serialize};

pub use self::backups::BackupRow;
pub(super) use self::backups::{backup_key, backups, delete_backups, insert_backup};
use super::making::Making;
use super::state::KeyState;
use crate::ids::{Name, SigningKeyId, WorkspaceId};
use crate::moment::Moment;
use crate::services::columns::{bytes, moment, moment_or_none, typed};

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
        &INSERT_VERSION,
        &MAKE_VERSION,
        &FORGET_KEY,
        &FORGET_VERSIONS,
        &KEY_BY_ID,
        &KEY_BY_NAME,
        &KEYS,
        &VERSIONS,
        &SET_STATE,
        &SET_LATEST,
        &COUNT_USES,
        &REPLACE_COPIES,
        &DROP_BLOBS,
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
static INSERT_VERSION: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO key_versions (workspace, key, version, state, token_key, created_us)
     VALUES (?1, ?2, ?3, 'ordered', ?4, ?5) ON CONFLICT DO NOTHING",
);
static MAKE_VERSION: Statement = Statement::tenant(
    SERVICE,
    "UPDATE key_versions SET state = 'made', fingerprint = ?4, spki = ?5, sealed_blob = ?6, provenance = ?7
     WHERE workspace = ?1 AND key = ?2 AND version = ?3 AND state = 'ordered'",
);
// A key that never came to be leaves no record: nobody can have seen a public half of it.
static FORGET_KEY: Statement =
    Statement::tenant(SERVICE, "DELETE FROM keys WHERE workspace = ?1 AND id = ?2 AND state = 'creating'");
static FORGET_VERSIONS: Statement =
    Statement::tenant(SERVICE, "DELETE FROM key_versions WHERE workspace = ?1 AND key = ?2 AND version > ?3");
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
static VERSIONS: Statement = Statement::tenant(
    SERVICE,
    "SELECT version, state, token_key, fingerprint, spki, sealed_blob, created_us, provenance FROM key_versions
     WHERE workspace = ?1 AND key = ?2 ORDER BY version",
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
static REPLACE_COPIES: Statement = Statement::tenant(
    SERVICE,
    "UPDATE key_versions SET state = 'replaced'
     WHERE workspace = ?1 AND key = ?2 AND fingerprint = ?3 AND version < ?4 AND state = 'made'",
);
static DROP_BLOBS: Statement = Statement::tenant(
    SERVICE,
    "UPDATE key_versions SET sealed_blob = NULL WHERE workspace = ?1 AND key = ?2",
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

/// A version row.
#[derive(Clone, Debug)]
pub struct VersionRow {
    /// Its number, from 1.
    pub version: i64,
    /// Its name in the token.
    pub token_key: KeyId,
    /// What the token made; `None` while on order or when nothing came of it.
    pub made: Option<Made>,
    /// A restored copy has taken its place.
    pub replaced: bool,
    /// When it was ordered.
    pub created: Moment,
}

/// What the token made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Made {
    /// SHA-256 of the public key.
    pub fingerprint: Fingerprint,
    /// The public key, SPKI DER.
    pub spki: Vec<u8>,
    /// What a TPM needs to load it, sealed under the workspace's data key.
    pub sealed_blob: Option<Vec<u8>>,
    /// What the token says of the key's origin, JSON.
    pub provenance: String,
}

/// Puts a key down; false where its name is taken.
pub(super) fn insert(tx: &Tx<'_>, workspace: &WorkspaceId, row: &KeyRow) -> Result<bool, SqlFault> {
    let (kind, created) = (row.kind.name(), row.created.micros());
    let params = params![row.id.as_str(), row.name.as_str(), kind, created, row.workflow.as_ref()];
    Ok(tx.within(workspace.on_ledger()).run(&INSERT_KEY, params)? == 1)
}

pub(super) fn order_version(
    tx: &Tx<'_>,
    making: &Making,
    token_key: &KeyId,
    now: Moment,
) -> Result<(), SqlFault> {
    let params = params![making.key.as_str(), making.version, &token_key.0, now.micros()];
    tx.within(making.workspace.on_ledger()).run(&INSERT_VERSION, params).map(drop)
}

/// Records what the token made; once more changes nothing.
pub(super) fn make_version(tx: &Tx<'_>, making: &Making, made: &Made) -> Result<(), SqlFault> {
    let blob = made.sealed_blob.as_ref();
    let params = params![
        making.key.as_str(),
        making.version,
        &made.fingerprint.0,
        &made.spki,
        blob,
        made.provenance.as_str()
    ];
    tx.within(making.workspace.on_ledger()).run(&MAKE_VERSION, params).map(drop)
}

/// Forgets a key that never came to be.
pub(super) fn forget_unmade(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
) -> Result<(), SqlFault> {
    let within = tx.within(workspace.on_ledger());
    if within.run(&FORGET_KEY, params![key.as_str()])? == 1 {
        within.run(&FORGET_VERSIONS, params![key.as_str(), 0])?;
    }
    Ok(())
}

/// Forgets versions that never came to sign.
pub(super) fn forget_versions_after(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
    latest: i64,
) -> Result<(), SqlFault> {
    tx.within(workspace.on_ledger()).run(&FORGET_VERSIONS, params![key.as_str(), latest]).map(drop)
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

/// Finds a key by id or by name: the two cannot be taken for one another, as names have no such ids.
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

pub(super) fn versions(
    view: &View<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
) -> Result<Vec<VersionRow>, SqlFault> {
    view.within(workspace.on_ledger()).all(&VERSIONS, params![key.as_str()], |row| {
        let state = row.text(1)?;
        let made = match state.as_str() {
            "made" | "replaced" => Some(Made {
                fingerprint: Fingerprint(bytes(row, 3)?),
                spki: row.blob(4)?,
                sealed_blob: row.blob_or_null(5)?,
                provenance: row.text(7)?,
            }),
            _ => None,
        };
        Ok(VersionRow {
            version: row.integer(0)?,
            token_key: KeyId(bytes(row, 2)?),
            made,
            replaced: state == "replaced",
            created: moment(row, 6)?,
        })
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
    let within = tx.within(workspace.on_ledger());
    within.run(&REPLACE_COPIES, params![id.as_str(), &copy_of.0, version])?;
    set_latest(tx, workspace, id, version)
}

/// Forgets what a TPM would need to load the key's versions.
pub(super) fn drop_blobs(tx: &Tx<'_>, workspace: &WorkspaceId, id: &SigningKeyId) -> Result<(), SqlFault> {
    tx.within(workspace.on_ledger()).run(&DROP_BLOBS, params![id.as_str()]).map(drop)
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
