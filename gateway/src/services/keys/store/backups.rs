//! Backups of keys as the ledger knows them: which file, which digest, which version.
//! Who enters: the backup and restore workflows, inside a ledger transaction or view.
//! What leaves: rows as types.

use audit::{SqlFault, Statement, Tx, View, params};
use hsm::KeyId;

use super::SERVICE;
use crate::ids::{SigningKeyId, WorkspaceId};
use crate::moment::Moment;
use crate::services::columns::{bytes, typed};

pub(super) static INSERT: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO key_backups (workspace, id, key, version, backup_key, file, digest, created_us)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
);
pub(super) static OF_KEY: Statement = Statement::tenant(
    SERVICE,
    "SELECT id, key, version, backup_key, file, digest FROM key_backups WHERE workspace = ?1 AND key = ?2 ORDER BY id",
);
pub(super) static KEY: Statement =
    Statement::tenant(SERVICE, "SELECT key FROM key_backups WHERE workspace = ?1 AND id = ?2");
pub(super) static DELETE: Statement =
    Statement::tenant(SERVICE, "DELETE FROM key_backups WHERE workspace = ?1 AND key = ?2");

/// A backup row.
#[derive(Clone, Debug)]
pub struct BackupRow {
    /// Its id: that of the workflow which made it.
    pub id: String,
    /// Of which key.
    pub key: SigningKeyId,
    /// Of which version.
    pub version: i64,
    /// The key of the token under which it is wrapped.
    pub under: KeyId,
    /// The file it lies in.
    pub file: String,
    /// SHA-256 of the file.
    pub digest: [u8; 32],
}

/// Puts a backup on record.
pub(in crate::services::keys) fn insert_backup(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    row: &BackupRow,
    now: Moment,
) -> Result<(), SqlFault> {
    let (under, file, digest) = (&row.under.0, row.file.as_str(), &row.digest);
    let params = params![row.id.as_str(), row.key.as_str(), row.version, under, file, digest, now.micros()];
    tx.within(workspace.on_ledger()).run(&INSERT, params).map(drop)
}

/// The backups of a key.
pub(in crate::services::keys) fn backups(
    view: &View<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
) -> Result<Vec<BackupRow>, SqlFault> {
    view.within(workspace.on_ledger()).all(&OF_KEY, params![key.as_str()], |row| {
        Ok(BackupRow {
            id: row.text(0)?,
            key: typed(row, 1)?,
            version: row.integer(2)?,
            under: KeyId(bytes(row, 3)?),
            file: row.text(4)?,
            digest: bytes(row, 5)?,
        })
    })
}

/// Whose backup it is.
pub(in crate::services::keys) fn backup_key(
    view: &View<'_>,
    workspace: &WorkspaceId,
    backup: &str,
) -> Result<Option<SigningKeyId>, SqlFault> {
    view.within(workspace.on_ledger()).one(&KEY, params![backup], |row| typed(row, 0))
}

/// Strikes the backups of a key off the record.
pub(in crate::services::keys) fn delete_backups(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
) -> Result<(), SqlFault> {
    tx.within(workspace.on_ledger()).run(&DELETE, params![key.as_str()]).map(drop)
}
