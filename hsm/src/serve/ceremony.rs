//! The rare acts, each handed to the power that a lane has for it.
//! Enters: a ceremony and a lane.
//! Leaves: its reply, or "unsupported" by name.

use crate::backend::{Backup, Fault, Import, Lane};
use crate::ceremony::Ceremony;
use crate::protocol::{Reply, Secret};

pub(super) fn perform(lane: &mut dyn Lane, ceremony: Ceremony) -> Result<Reply, Fault> {
    Ok(match ceremony {
        Ceremony::Presence { id } => Reply::Presence(lane.presence(id)?),
        Ceremony::DestroyHalf { id } => lane.destroy_half(id).map(|()| Reply::Done)?,
        Ceremony::CreateKek { id, label } => Reply::Kek(Some(lane.create_kek(id, &label)?)),
        Ceremony::FindKek { id } => Reply::Kek(lane.find_kek(id)?),
        Ceremony::WrapUnder { kek, secret, aad } => Reply::Bytes(lane.wrap_under(&kek, &secret.0, &aad)?),
        Ceremony::UnwrapUnder { kek, wrapped, aad } => {
            Reply::Secret(Secret(std::mem::take(&mut *lane.unwrap_under(&kek, &wrapped, &aad)?)))
        }
        Ceremony::DestroyKek { kek } => lane.destroy_kek(&kek).map(|()| Reply::Done)?,
        Ceremony::CreateImportKey { id, label } => {
            Reply::ImportKey(Some(importing(lane)?.create_import_key(id, &label)?))
        }
        Ceremony::FindImportKey { id } => Reply::ImportKey(importing(lane)?.find_import_key(id)?),
        Ceremony::Import { with, incoming } => Reply::NewKey(importing(lane)?.import_key(&with, &incoming)?),
        Ceremony::DestroyImportKey { key } => {
            importing(lane)?.destroy_import_key(&key).map(|()| Reply::Done)?
        }
        Ceremony::GenerateRecoverable { id, kind, label } => {
            Reply::NewKey(backing_up(lane)?.generate_recoverable(id, kind, &label)?)
        }
        Ceremony::CreateBackupKek { id, label } => {
            Reply::BackupKek(Some(backing_up(lane)?.create_backup_kek(id, &label)?))
        }
        Ceremony::FindBackupKek { id } => Reply::BackupKek(backing_up(lane)?.find_backup_kek(id)?),
        Ceremony::Export { key, under } => Reply::Bytes(backing_up(lane)?.wrap_export(&key, &under)?),
        Ceremony::Restore { under, incoming } => {
            Reply::NewKey(backing_up(lane)?.unwrap_restore(&under, &incoming)?)
        }
        Ceremony::DestroyBackupKek { kek } => {
            backing_up(lane)?.destroy_backup_kek(&kek).map(|()| Reply::Done)?
        }
        Ceremony::Attest { key, nonce } => {
            Reply::KeyAttestation(lane.attest().map(|power| power.certify_key(&key, nonce)).transpose()?)
        }
        Ceremony::Examine { key } => Reply::KeyFaults(lane.examine(&key)?),
        Ceremony::Takes { kind } => importing(lane)?.takes(kind).map(|()| Reply::Done)?,
    })
}

fn importing(lane: &mut dyn Lane) -> Result<&mut dyn Import, Fault> {
    lane.import().ok_or_else(|| Fault::Unsupported { what: "import of keys".to_owned() })
}

fn backing_up(lane: &mut dyn Lane) -> Result<&mut dyn Backup, Fault> {
    lane.backup().ok_or_else(|| Fault::Unsupported { what: "backup of keys".to_owned() })
}
