//! Backups of recoverable keys: wrapped under a key of the token made for this one backup, kept in files, tried out before they count.
//! Who enters: the steps of `key.backup` and `key.destroy`, inside their transactions and calls.
//! What leaves: a file that opens only in the token, or nothing of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use audit::{Entry, Told, Tx, View};
use hsm::{BackupKek, Custody, KeyId, KeyRef, PublicKey, TokenError};
use sagas::{EffectId, Never, Reason, Refused, RemoteFault, StepContext};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::store::{self, BackupRow};
use super::{Described, Keys, KeysRefused, faults};
use crate::api::Code;
use crate::ids::{SigningKeyId, WorkspaceId};
use crate::limits::{TOKEN_CALL_WAIT_MAX, TOKEN_GENERATE_WAIT_MAX};
use crate::services::subject::Subject;
use crate::topics;

/// The input of `key.backup`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackupPlan {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The key.
    pub key: SigningKeyId,
    /// The version that signs when this is asked for: this one is backed up, or none.
    pub version: i64,
    /// SHA-256 of its public key.
    pub fingerprint: String,
}

/// A key on its way out or back, wrapped. What a backup file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wrapped {
    /// Which version it is.
    pub version: i64,
    /// Under which key of the token it is wrapped.
    pub under: BackupKek,
    /// The public key it belongs to.
    pub public: PublicKey,
    /// The private key, wrapped.
    pub wrapped: Vec<u8>,
}

/// A backup that lies in its file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Offsite {
    /// Which version it is.
    pub version: i64,
    /// Under which key of the token it is wrapped.
    pub under: BackupKek,
    /// The file's name.
    pub file: String,
    /// SHA-256 of the file.
    pub digest: [u8; 32],
}

/// What approvers are shown of a backup.
///
/// # Errors
/// The key is gone, or another version signs by now.
pub fn subject(view: &View<'_>, plan: &BackupPlan) -> Result<Subject, Refused> {
    let key = confirm(view, plan)?;
    let consequence = format!(
        "the private key of {} leaves the token, wrapped under a key that the token keeps, and is written to the backup directory",
        key.words()
    );
    Ok(Subject::new(plan.key.as_str(), json!({ "key": key }), consequence))
}

/// The version that was agreed to is still the one that signs.
///
/// # Errors
/// It is not.
pub fn confirm(view: &View<'_>, plan: &BackupPlan) -> Result<Described, Refused> {
    let key = super::described_latest(view, &plan.workspace, &plan.key).map_err(super::rule)?;
    match key.version == plan.version && key.fingerprint == plan.fingerprint {
        true => Ok(key),
        false => Err(Refused::business(
            Code::WrongState,
            format!(
                "this was asked for version {} of the key, and {} signs by now; ask again",
                plan.version,
                key.words()
            ),
        )),
    }
}

/// Says that the agreed version leaves the token now, wrapped.
///
/// # Errors
/// Another version signs by now.
pub fn order(tx: &Tx<'_>, cx: &StepContext, plan: &BackupPlan) -> Result<Told<()>, Refused> {
    let key = confirm(tx, plan)?;
    let after = json!({ "version": key.version, "fingerprint": key.fingerprint, "attempt": cx.attempt });
    Ok(Told::new((), cx.entry_with("key.backup.begin", plan.key.as_str(), |detail| detail.after(after))))
}

/// Puts the backup on record.
///
/// # Errors
/// The ledger did not do it.
pub fn record(
    tx: &Tx<'_>,
    cx: &StepContext,
    plan: &BackupPlan,
    offsite: &Offsite,
) -> Result<Told<String>, Refused> {
    let id = cx.saga.id.to_string();
    let row = BackupRow {
        id: id.clone(),
        key: plan.key.clone(),
        version: offsite.version,
        under: offsite.under.id,
        file: offsite.file.clone(),
        digest: offsite.digest,
    };
    store::insert_backup(tx, &plan.workspace, &row, super::making::now(cx))?;
    let facts = json!({ "backup": id, "version": offsite.version });
    cx.publish(tx, topics::KEY_BACKED_UP, plan.key.as_str(), facts)?;
    let after = json!({ "backup": id, "version": offsite.version, "file": offsite.file,
        "sha256": hex::encode(offsite.digest), "backup_key": offsite.under.id.to_string() });
    Ok(Told::new(id, cx.entry_with("key.backup", plan.key.as_str(), |detail| detail.after(after))))
}

/// Strikes a destroyed key's backups off the record.
///
/// # Errors
/// The ledger did not do it.
pub fn strike(
    tx: &Tx<'_>,
    cx: &StepContext,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
    deleted: usize,
) -> Result<Vec<Entry>, Refused<Never>> {
    store::delete_backups(tx, workspace, key)?;
    let after = json!({ "backups_deleted": deleted });
    Ok(vec![cx.entry_with("key.destroy.backups", key.as_str(), |detail| detail.after(after))])
}

impl Keys {
    /// Makes a backup key for this one backup, and has the token wrap the agreed version under it.
    ///
    /// # Errors
    /// The key was made never to leave, or the token's.
    pub async fn wrap_for_backup(
        self: Arc<Self>,
        effect: EffectId,
        plan: BackupPlan,
    ) -> Result<Wrapped, RemoteFault> {
        let found = self.find(&plan.workspace, plan.key.as_str()).await.map_err(later)?;
        if found.custody() != Custody::Recoverable {
            return Err(refused(Code::NotRecoverable, "the key was made never to leave the token"));
        }
        let version = found.versions.iter().find(|version| version.version == plan.version);
        let Some((version, made)) = version.and_then(|it| Some((it, it.made.as_ref()?))) else {
            return Err(refused(Code::WrongState, "the key has no version to back up"));
        };
        if made.fingerprint.to_string() != plan.fingerprint {
            return Err(refused(
                Code::WrongState,
                "the version is not the one that was agreed to; ask again",
            ));
        }
        let (id, kind, fingerprint) = (version.token_key, found.row.kind, made.fingerprint);
        let key = KeyRef { id, kind, fingerprint, blob: Vec::new() }.knowing(&made.spki);
        let deadline = Instant::now() + TOKEN_CALL_WAIT_MAX;
        let label = format!("chancery {} backup of {}", plan.workspace, found.row.name);
        let token = self.token.of(plan.workspace.as_str());
        let under = token.create_backup_kek(KeyId(effect.short()), &label, deadline).await;
        let under = under.map_err(faults::token)?;
        let wrapped = token.wrap_export(&key, &under, deadline).await.map_err(faults::token)?;
        let public = PublicKey { kind, spki_der: made.spki.clone() };
        Ok(Wrapped { version: version.version, under, public, wrapped })
    }

    /// Destroys the backup key of an effect, and with it whatever was wrapped under it.
    ///
    /// # Errors
    /// The token is away: tried again.
    pub async fn unmake_backup_key(
        self: Arc<Self>,
        workspace: WorkspaceId,
        effect: EffectId,
    ) -> Result<(), RemoteFault<Never>> {
        self.destroy_backup_key(&workspace, KeyId(effect.short()))
            .await
            .map_err(|error| RemoteFault::unknown(faults::words(&error)))
    }

    async fn destroy_backup_key(&self, workspace: &WorkspaceId, id: KeyId) -> Result<(), TokenError> {
        let deadline = Instant::now() + TOKEN_CALL_WAIT_MAX;
        let token = self.token.of(workspace.as_str());
        match token.find_backup_kek(id, deadline).await {
            Ok(Some(kek)) => token.destroy_backup_kek(&kek, deadline).await,
            Ok(None) | Err(TokenError::Unsupported { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes a backup's file durably, under the effect's name. Twice is once.
    ///
    /// # Errors
    /// The disk did not do it: tried again.
    pub async fn store_offsite(
        self: Arc<Self>,
        effect: EffectId,
        key: Wrapped,
    ) -> Result<Offsite, RemoteFault> {
        let file = file_of(effect);
        let bytes = serde_json::to_vec(&key).map_err(|why| RemoteFault::Bug(why.to_string()))?;
        write_durably(&self.backups, &file, &bytes).map_err(later)?;
        let digest = Sha256::digest(&bytes).into();
        Ok(Offsite { version: key.version, under: key.under, file, digest })
    }

    /// Deletes the file of an effect; none there is as good as deleted.
    ///
    /// # Errors
    /// The disk did not do it: tried again.
    pub async fn delete_offsite(self: Arc<Self>, effect: EffectId) -> Result<(), RemoteFault<Never>> {
        let gone = delete_durably(&self.backups, &file_of(effect));
        gone.map_err(|why| RemoteFault::later(why.to_string()))
    }

    /// Has the token take the backup back under a name of its own, which proves it, and destroys that copy again.
    ///
    /// # Errors
    /// The file is not what was written, or does not open: the backup is none.
    pub async fn try_out(
        self: Arc<Self>,
        effect: EffectId,
        workspace: WorkspaceId,
        offsite: Offsite,
    ) -> Result<Offsite, RemoteFault> {
        let key = self.read_offsite(&offsite.file, &offsite.digest)?;
        let deadline = Instant::now() + TOKEN_GENERATE_WAIT_MAX;
        let (id, label) = (KeyId(effect.short()), "chancery trial of a backup");
        let token = self.token.of(workspace.as_str());
        let copy = token.unwrap_restore(
            &key.under,
            id,
            &key.public,
            &key.wrapped,
            Custody::Recoverable,
            label,
            deadline,
        );
        let copy = copy.await.map_err(faults::token)?;
        let gone = token.destroy(&copy.key, deadline).await;
        gone.map_err(|error| RemoteFault::unknown(faults::words(&error)))?;
        Ok(offsite)
    }

    /// Deletes every backup of a key, and the keys they are wrapped under: copies elsewhere are then worth nothing.
    ///
    /// # Errors
    /// Token or disk did not do it: tried again.
    pub async fn delete_backups(
        self: Arc<Self>,
        workspace: WorkspaceId,
        key: SigningKeyId,
    ) -> Result<usize, RemoteFault<Never>> {
        let of = workspace.clone();
        let rows = self.ground.read::<_, KeysRefused>(move |view| Ok(store::backups(view, &of, &key)?));
        let rows = rows.await.map_err(|why| RemoteFault::later(why.to_string()))?;
        for row in &rows {
            let gone = self.destroy_backup_key(&workspace, row.under).await;
            gone.map_err(|error| RemoteFault::later(faults::words(&error)))?;
            delete_durably(&self.backups, &row.file).map_err(|why| RemoteFault::later(why.to_string()))?;
        }
        Ok(rows.len())
    }

    pub(super) fn read_offsite(&self, file: &str, digest: &[u8; 32]) -> Result<Wrapped, RemoteFault> {
        let bytes = match fs::read(self.backups.join(file)) {
            Ok(bytes) => bytes,
            Err(why) => {
                tracing::warn!(%why, file, "a backup cannot be read");
                let words = format!("the backup {file} cannot be read; the operator finds in the log why");
                return Err(refused(Code::NotFound, &words));
            }
        };
        if <[u8; 32]>::from(Sha256::digest(&bytes)) != *digest {
            return Err(refused(
                Code::WrongState,
                "the backup is not the one that was written; fetch another copy of it",
            ));
        }
        serde_json::from_slice(&bytes).map_err(|why| RemoteFault::Bug(why.to_string()))
    }
}

pub(super) fn later(why: impl std::fmt::Display) -> RemoteFault {
    RemoteFault::later(why.to_string())
}

pub(super) fn refused(code: Code, words: &str) -> RemoteFault {
    RemoteFault::Business(Reason::new(code, words))
}

fn file_of(effect: EffectId) -> String {
    format!("{}.backup", hex::encode(effect.short()))
}

/// Into a file beside it, synced, renamed over it, and the directory synced: the name never stands for half a file.
fn write_durably(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let beside = directory.join(format!(".{name}"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, directory.join(name))?;
    File::open(directory)?.sync_all()
}

fn delete_durably(directory: &Path, name: &str) -> io::Result<()> {
    for name in [name.to_owned(), format!(".{name}")] {
        match fs::remove_file(directory.join(name)) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            _ => {}
        }
    }
    match File::open(directory) {
        Ok(directory) => directory.sync_all(),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(why) => Err(why),
    }
}
