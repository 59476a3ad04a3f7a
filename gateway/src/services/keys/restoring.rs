//! Restoring a key from its backup: a new version that proves itself before it takes over from the copy before it.
//! Who enters: the steps of `key.restore`, inside their transactions and calls.
//! What leaves: a key that came back, under a fence that whoever holds the copy before it cannot pass; or nothing of it.

use std::sync::Arc;
use std::time::Instant;

use audit::{Told, Tx, View};
use hsm::{Custody, KeyId};
use sagas::{EffectId, Never, Refused, RemoteFault, StepContext};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::backup::{Wrapped, later, refused};
use super::making::{self, MadeVersion, Making};
use super::{Described, Keys, KeysRefused, faults, store};
use crate::api::Code;
use crate::ids::{SigningKeyId, WorkspaceId};
use crate::limits::TOKEN_GENERATE_WAIT_MAX;
use crate::services::subject::Subject;
use crate::topics;

/// The input of `key.restore`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestorePlan {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The key.
    pub key: SigningKeyId,
    /// The backup.
    pub backup: String,
    /// Which version it is of.
    pub version: i64,
    /// SHA-256 of the public key that it brings back.
    pub fingerprint: String,
    /// The version that signs when this is asked for, and that the copy takes the place of.
    pub latest: i64,
    /// SHA-256 of its public key.
    pub latest_fingerprint: String,
}

/// A backup that was fetched, and the version that it becomes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Fetched {
    /// What it becomes.
    pub making: Making,
    /// The backup.
    pub key: Wrapped,
}

/// A restored version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Restored {
    /// What it is.
    pub making: Making,
    /// What the token holds.
    pub version: MadeVersion,
    /// The public key it has to belong to.
    pub expected: Vec<u8>,
}

/// What approvers are shown of a restore.
///
/// # Errors
/// Another version signs by now than when this was asked for.
pub fn subject(view: &View<'_>, plan: &RestorePlan) -> Result<Subject, Refused> {
    let key = confirm(view, plan)?;
    let consequence = match plan.fingerprint == plan.latest_fingerprint {
        true => format!("a copy of {} comes back from the backup, and signs in its place", key.words()),
        false => format!(
            "the OLDER version {} of the key `{}` comes back from the backup and signs again; version {} is taken out of use",
            plan.version, key.name, plan.latest
        ),
    };
    let facts = json!({
        "backup": plan.backup, "fingerprint": plan.fingerprint, "is_older": plan.fingerprint != plan.latest_fingerprint,
        "key": key, "version": plan.version,
    });
    Ok(Subject::new(plan.key.as_str(), facts, consequence))
}

/// The version that the copy takes the place of is still the one that signs.
///
/// # Errors
/// It is not.
pub fn confirm(view: &View<'_>, plan: &RestorePlan) -> Result<Described, Refused> {
    let key = super::described_latest(view, &plan.workspace, &plan.key).map_err(super::rule)?;
    match key.version == plan.latest && key.fingerprint == plan.latest_fingerprint {
        true => Ok(key),
        false => Err(Refused::business(
            Code::WrongState,
            format!(
                "version {} signed when this was asked for, and {} signs by now; ask again",
                plan.latest,
                key.words()
            ),
        )),
    }
}

/// Takes a restore's version off the record again.
///
/// # Errors
/// The ledger did not do it.
pub fn forget(tx: &Tx<'_>, cx: &StepContext, plan: &RestorePlan) -> Result<Told<()>, Refused<Never>> {
    if let Some(row) = store::key(tx, &plan.workspace, plan.key.as_str())? {
        store::forget_versions_after(tx, &plan.workspace, &row.id, row.latest)?;
    }
    Ok(Told::new((), cx.entry("key.restore.undone", plan.key.as_str())))
}

/// The restored copy takes over: it signs from now on, under a fence that whoever still holds the copy before it cannot pass;
/// that one only verifies.
///
/// # Errors
/// The key was destroyed, or another version took over meanwhile.
pub fn activate(
    tx: &Tx<'_>,
    cx: &StepContext,
    plan: &RestorePlan,
    restored: &Restored,
) -> Result<Told<SigningKeyId>, Refused> {
    confirm(tx, plan)?;
    let making = &restored.making;
    let gone = || Refused::business(Code::NotFound, "the key is gone");
    let row = store::key(tx, &making.workspace, making.key.as_str())?.ok_or_else(gone)?;
    let copy_of = &restored.version.made.fingerprint;
    let fence = store::take_over(tx, &making.workspace, &making.key, making.version, copy_of)?;
    let facts = json!({ "version": making.version, "fingerprint": copy_of.to_string() });
    cx.publish(tx, topics::KEY_RESTORED, making.key.as_str(), facts)?;
    let (before, after) = (
        json!({ "latest_version": row.latest, "fence": row.fence }),
        json!({ "latest_version": making.version, "fence": fence, "fingerprint": copy_of.to_string() }),
    );
    let entry =
        cx.entry_with("key.restore", making.key.as_str(), |detail| detail.before(before).after(after));
    Ok(Told::new(making.key.clone(), entry))
}

impl Keys {
    /// Reads a backup, checks that it is the one on record, and says which version it becomes.
    ///
    /// # Errors
    /// There is none, it is not the one that was written, or the key can take no version more.
    pub async fn fetch(self: Arc<Self>, plan: RestorePlan) -> Result<Fetched, RemoteFault> {
        let (workspace, key, backup) = (plan.workspace.clone(), plan.key.clone(), plan.backup.clone());
        let row = self.ground.read::<_, KeysRefused>(move |view| {
            Ok(store::backups(view, &workspace, &key)?.into_iter().find(|row| row.id == backup))
        });
        let row =
            row.await.map_err(later)?.ok_or_else(|| refused(Code::NotFound, "no such backup of this key"))?;
        let key = self.read_offsite(&row.file, &row.digest)?;
        let found = self.find(&plan.workspace, plan.key.as_str()).await.map_err(later)?;
        let brought = key.public.fingerprint().to_string();
        if row.version != plan.version || brought != plan.fingerprint {
            return Err(refused(Code::WrongState, "the backup is not the one that was agreed to; ask again"));
        }
        let version = making::next_version(found.row.latest).map_err(RemoteFault::Business)?;
        let making = Making {
            workspace: plan.workspace,
            key: found.row.id,
            name: found.row.name,
            kind: found.row.kind,
            custody: Custody::Recoverable,
            version,
        };
        Ok(Fetched { making, key })
    }

    /// Has the token take the backup back as the next version.
    ///
    /// # Errors
    /// The token's, sorted by what may be done next.
    pub async fn restore(
        self: Arc<Self>,
        effect: EffectId,
        fetched: Fetched,
    ) -> Result<Restored, RemoteFault> {
        let Fetched { making, key } = fetched;
        let label = format!("chancery {} {} v{}, restored", making.workspace, making.name, making.version);
        let (id, deadline) = (KeyId(effect.short()), Instant::now() + TOKEN_GENERATE_WAIT_MAX);
        let new = self.token.unwrap_restore(
            &key.under,
            id,
            &key.public,
            &key.wrapped,
            making.custody,
            &label,
            deadline,
        );
        let version = self.kept(&making, new.await.map_err(faults::token)?).await?;
        Ok(Restored { making, version, expected: key.public.spki_der })
    }

    /// Has the restored key sign what it cannot have signed before.
    ///
    /// # Errors
    /// The token is away, or the key is not the expected one.
    pub async fn prove_restored(
        self: Arc<Self>,
        cx: StepContext,
        restored: Restored,
    ) -> Result<Restored, RemoteFault> {
        self.prove_possession(&cx, &restored.making, &restored.version, &restored.expected).await?;
        Ok(restored)
    }
}
