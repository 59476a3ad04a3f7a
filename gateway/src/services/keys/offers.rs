//! The workflows about keys that members may start by name.
//! Who enters: the wiring, at start.
//! What leaves: offers: a form for the input, and how it becomes a plan.

use std::sync::Arc;
use std::time::Duration;

use hsm::Custody;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use schemars::JsonSchema;
use serde::Deserialize;

use super::backup::BackupPlan;
use super::destruction::DestructionPlan;
use super::incoming::ImportPlan;
use super::making::NewKeyPlan;
use super::restoring::RestorePlan;
use super::rotation::RotationPlan;
use super::{Keys, KeysRefused, found, store, wire};
use crate::api::exchange::bounded;
use crate::api::{Code, Offer, Problem, Scope};
use crate::crypto::PinnedKey;
use crate::ids::{SigningKeyId, WorkspaceId};
use crate::limits::{DESTRUCTION_NOTICE_MAX, DESTRUCTION_NOTICE_MIN, REASON_BYTES_MAX, ROTATION_OVERLAP_MAX};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RotateForm {
    /// The key's id or name.
    key: String,
    /// Seconds between announcing the new version and signing with it.
    #[serde(default)]
    overlap_seconds: u64,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct DestroyForm {
    /// The key's id or name.
    key: String,
    /// Days of notice after the approvals.
    days: u32,
    /// Why, for those who approve.
    #[serde(default)]
    reason: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ImportForm {
    /// The key's name in the workspace.
    name: String,
    /// `p256`, `p384`, `secp256k1`, `ed25519`, `rsa-2048`, `rsa-3072` or `rsa-4096`.
    kind: String,
    /// The public key that has to come, PEM.
    public_key: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BackupForm {
    /// The key's id or name. Only a key made with `recoverable` can be backed up.
    key: String,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RestoreForm {
    /// The backup: the id of the workflow that made it.
    backup: String,
    /// Has to be `true` where the backup is of another version than the one that signs now: that version would sign again.
    #[serde(default)]
    older_version: bool,
}

/// What the keys service offers.
pub fn offers(keys: &Arc<Keys>) -> Vec<Offer> {
    let (making, rotating, destroying) = (keys.clone(), keys.clone(), keys.clone());
    let (importing, backing, restoring) = (keys.clone(), keys.clone(), keys.clone());
    let manage = Scope::KeysManage;
    vec![
        Offer::new(
            "key.backup",
            manage,
            "Back a recoverable key up, after approvals",
            move |workspace, form: BackupForm| {
                let keys = backing.clone();
                async move { keys.plan_backup(workspace, form).await }
            },
        ),
        Offer::new(
            "key.restore",
            manage,
            "Bring a key back from a backup, after approvals",
            move |workspace, form: RestoreForm| {
                let keys = restoring.clone();
                async move { keys.plan_restore(workspace, form).await }
            },
        ),
        Offer::new(
            "key.import",
            manage,
            "Take in a key that was made elsewhere",
            move |workspace, form: ImportForm| {
                let keys = importing.clone();
                async move { keys.plan_import(workspace, form) }
            },
        ),
        Offer::new(
            "key.generate",
            manage,
            "Make a key in the token",
            move |workspace, form: wire::CreateKey| {
                let keys = making.clone();
                async move { keys.plan_new(workspace, &form) }
            },
        ),
        Offer::new(
            "key.rotate",
            manage,
            "Make, announce and use a key's next version",
            move |workspace, form: RotateForm| {
                let keys = rotating.clone();
                async move { keys.plan_rotation(workspace, form).await }
            },
        ),
        Offer::new(
            "key.destroy",
            manage,
            "Destroy a key after approvals and notice",
            move |workspace, form: DestroyForm| {
                let keys = destroying.clone();
                async move { keys.plan_destruction(workspace, form).await }
            },
        ),
    ]
}

impl Keys {
    fn plan_new(&self, workspace: WorkspaceId, form: &wire::CreateKey) -> Result<NewKeyPlan, Problem> {
        let (name, kind) = form.parts()?;
        let key = SigningKeyId::new(&self.ground.dice);
        Ok(NewKeyPlan { workspace, key, name, kind, custody: form.custody(), policy: form.policy()? })
    }

    async fn plan_backup(&self, workspace: WorkspaceId, form: BackupForm) -> Result<BackupPlan, Problem> {
        let found = self.find(&workspace, &form.key).await?;
        if found.custody() != Custody::Recoverable {
            return Err(KeysRefused::NotRecoverable.into());
        }
        let (version, fingerprint) = found.latest().ok_or(KeysRefused::NoSuchVersion)?;
        Ok(BackupPlan { workspace, key: found.row.id, version, fingerprint })
    }

    async fn plan_restore(&self, workspace: WorkspaceId, form: RestoreForm) -> Result<RestorePlan, Problem> {
        let (of, backup) = (workspace.clone(), form.backup.clone());
        let (row, found) = self
            .ground
            .read::<_, KeysRefused>(move |view| {
                let key = store::backup_key(view, &of, &backup)?.ok_or(KeysRefused::NoSuchBackup)?;
                let row = store::backups(view, &of, &key)?.into_iter().find(|row| row.id == backup);
                Ok((row.ok_or(KeysRefused::NoSuchBackup)?, found(view, &of, key.as_str())?))
            })
            .await?;
        let version = row.version;
        let fingerprint = found.fingerprint(version).ok_or(KeysRefused::NoSuchVersion)?;
        let (latest, latest_fingerprint) = found.latest().ok_or(KeysRefused::NoSuchVersion)?;
        if fingerprint != latest_fingerprint && !form.older_version {
            let words = format!(
                "the backup is of version {version}, and version {latest} signs now; with `older_version` the older one signs again in its place"
            );
            return Err(Problem::new(Code::WrongState, words).at("/older_version"));
        }
        let key = found.row.id;
        let backup = form.backup;
        Ok(RestorePlan { workspace, key, backup, version, fingerprint, latest, latest_fingerprint })
    }

    fn plan_import(&self, workspace: WorkspaceId, form: ImportForm) -> Result<ImportPlan, Problem> {
        let (name, kind) = wire::named(&form.name, &form.kind)?;
        let not_a_key =
            || Problem::new(Code::Invalid, "not a public key of this kind in PEM").at("/public_key");
        let expected =
            SubjectPublicKeyInfoDer::from_pem_slice(form.public_key.as_bytes()).map_err(|_| not_a_key())?;
        let expected = expected.as_ref().to_vec();
        PinnedKey::new(kind, &expected).map_err(|_| not_a_key())?;
        let key = SigningKeyId::new(&self.ground.dice);
        Ok(ImportPlan { workspace, key, name, kind, expected })
    }

    async fn plan_rotation(&self, workspace: WorkspaceId, form: RotateForm) -> Result<RotationPlan, Problem> {
        if Duration::from_secs(form.overlap_seconds) > ROTATION_OVERLAP_MAX {
            return Err(KeysRefused::Overlap.into());
        }
        let found = self.find(&workspace, &form.key).await?;
        let custody = found.custody();
        Ok(RotationPlan { workspace, key: found.row.id, custody, overlap_seconds: form.overlap_seconds })
    }

    async fn plan_destruction(
        &self,
        workspace: WorkspaceId,
        form: DestroyForm,
    ) -> Result<DestructionPlan, Problem> {
        let notice = Duration::from_secs(u64::from(form.days) * 24 * 3600);
        if !(DESTRUCTION_NOTICE_MIN..=DESTRUCTION_NOTICE_MAX).contains(&notice) {
            return Err(KeysRefused::Notice.into());
        }
        let found = self.find(&workspace, &form.key).await?;
        let (version, fingerprint) = found.latest().ok_or(KeysRefused::NoSuchVersion)?;
        let reason = bounded(form.reason, REASON_BYTES_MAX, "/reason")?;
        let (key, notice_seconds) = (found.row.id, notice.as_secs());
        Ok(DestructionPlan { workspace, key, version, fingerprint, reason, notice_seconds })
    }
}
