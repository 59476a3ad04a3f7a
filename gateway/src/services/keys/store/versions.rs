//! The versions of a key: ordered, made, replaced by a restored copy, forgotten.
//! Who enters: the commands and workflows of keys, inside a ledger transaction or view.
//! What leaves: rows as types, with the pinned public halves.

use audit::{SqlFault, Statement, Tx, View, params};
use hsm::{Fingerprint, KeyId, KeyRef};
use serde::{Deserialize, Serialize};

use super::super::making::Making;
use super::SERVICE;
use crate::ids::{Name, SigningKeyId, WorkspaceId};
use crate::moment::Moment;
use crate::services::columns::{bytes, moment, typed};

pub(super) static INSERT: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO key_versions (workspace, key, version, state, token_key, created_us)
     VALUES (?1, ?2, ?3, 'ordered', ?4, ?5) ON CONFLICT DO NOTHING",
);
pub(super) static MAKE: Statement = Statement::tenant(
    SERVICE,
    "UPDATE key_versions SET state = 'made', fingerprint = ?4, spki = ?5, sealed_blob = ?6, provenance = ?7
     WHERE workspace = ?1 AND key = ?2 AND version = ?3 AND state = 'ordered'",
);
pub(super) static FORGET_AFTER: Statement =
    Statement::tenant(SERVICE, "DELETE FROM key_versions WHERE workspace = ?1 AND key = ?2 AND version > ?3");
pub(super) static OF_KEY: Statement = Statement::tenant(
    SERVICE,
    "SELECT version, state, token_key, fingerprint, spki, sealed_blob, created_us, provenance FROM key_versions
     WHERE workspace = ?1 AND key = ?2 ORDER BY version",
);
pub(super) static REPLACE: Statement = Statement::tenant(
    SERVICE,
    "UPDATE key_versions SET state = 'replaced'
     WHERE workspace = ?1 AND key = ?2 AND fingerprint = ?3 AND version < ?4 AND state = 'made'",
);
pub(super) static DROP_BLOBS: Statement = Statement::tenant(
    SERVICE,
    "UPDATE key_versions SET sealed_blob = NULL WHERE workspace = ?1 AND key = ?2",
)
.erasing();

// What signs, or will: older versions only verify, for which the token is not needed. Where a TPM loads it from a blob, it keeps nothing.
pub(super) static TO_EXAMINE: Statement = Statement::across_workspaces(
    SERVICE,
    "what the token holds is compared with what is recorded, over all workspaces",
    "SELECT v.workspace, v.key, v.version, k.name, k.kind, v.token_key, v.fingerprint, v.spki
     FROM key_versions v JOIN keys k ON k.workspace = v.workspace AND k.id = v.key
     WHERE (v.workspace, v.key, v.version) > (?1, ?2, ?3) AND v.state = 'made' AND v.sealed_blob IS NULL
       AND v.version >= k.latest AND k.state IN ('enabled', 'disabled', 'destruction_pending')
     ORDER BY v.workspace, v.key, v.version LIMIT ?4",
);

/// A version of a key whose place in the token is looked at.
#[derive(Clone, Debug)]
pub struct Examined {
    /// Whose it is.
    pub workspace: WorkspaceId,
    /// The key.
    pub key: SigningKeyId,
    /// Which version.
    pub version: i64,
    /// The key's name.
    pub name: Name,
    /// How the token finds it.
    pub token_key: KeyRef,
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

pub(in crate::services::keys) fn order_version(
    tx: &Tx<'_>,
    making: &Making,
    token_key: &KeyId,
    now: Moment,
) -> Result<(), SqlFault> {
    let params = params![making.key.as_str(), making.version, &token_key.0, now.micros()];
    tx.within(making.workspace.on_ledger()).run(&INSERT, params).map(drop)
}

/// Records what the token made; once more changes nothing.
pub(in crate::services::keys) fn make_version(
    tx: &Tx<'_>,
    making: &Making,
    made: &Made,
) -> Result<(), SqlFault> {
    let blob = made.sealed_blob.as_ref();
    let params = params![
        making.key.as_str(),
        making.version,
        &made.fingerprint.0,
        &made.spki,
        blob,
        made.provenance.as_str()
    ];
    tx.within(making.workspace.on_ledger()).run(&MAKE, params).map(drop)
}

/// Forgets versions that never came to sign.
pub(in crate::services::keys) fn forget_versions_after(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
    latest: i64,
) -> Result<(), SqlFault> {
    tx.within(workspace.on_ledger()).run(&FORGET_AFTER, params![key.as_str(), latest]).map(drop)
}

pub(in crate::services::keys) fn versions(
    view: &View<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
) -> Result<Vec<VersionRow>, SqlFault> {
    view.within(workspace.on_ledger()).all(&OF_KEY, params![key.as_str()], |row| {
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

/// The next versions, in the order of their names, that sign or will.
pub(in crate::services::keys) fn to_examine(
    view: &View<'_>,
    after: Option<&Examined>,
    limit: usize,
) -> Result<Vec<Examined>, SqlFault> {
    let (workspace, key, version) =
        after.map_or(("", "", 0), |last| (last.workspace.as_str(), last.key.as_str(), last.version));
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    view.all(&TO_EXAMINE, params![workspace, key, version, limit], |row| {
        let (id, kind, fingerprint) = (KeyId(bytes(row, 5)?), typed(row, 4)?, Fingerprint(bytes(row, 6)?));
        Ok(Examined {
            workspace: typed(row, 0)?,
            key: typed(row, 1)?,
            version: row.integer(2)?,
            name: typed(row, 3)?,
            token_key: KeyRef { id, kind, fingerprint, blob: row.blob(7)? },
        })
    })
}

/// Forgets what a TPM would need to load the key's versions.
pub(in crate::services::keys) fn drop_blobs(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    id: &SigningKeyId,
) -> Result<(), SqlFault> {
    tx.within(workspace.on_ledger()).run(&DROP_BLOBS, params![id.as_str()]).map(drop)
}

/// Marks the versions before this one that hold the same key.
pub(in crate::services::keys) fn replace_copies(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
    version: i64,
    copy_of: &Fingerprint,
) -> Result<(), SqlFault> {
    let params = params![key.as_str(), &copy_of.0, version];
    tx.within(workspace.on_ledger()).run(&REPLACE, params).map(drop)
}
