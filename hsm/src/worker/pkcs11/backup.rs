//! Keys made recoverable: they leave the token wrapped under a backup key, and come back from there.
//! Enters: names, kinds, wrapped keys.
//! Leaves: wrapped keys; never a key in the clear, for wrapping and unwrapping happen inside the token.

use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType};
use hsm::backend::{Backup, Fault};
use hsm::ceremony::Incoming;
use hsm::{BackupKek, Custody, KeyId, KeyKind, KeyRef, NewKey, Origin, Refusal};

use super::Desk;
use super::fault;
use super::templates::Duty;

impl Backup for Desk {
    fn generate_recoverable(&mut self, id: KeyId, kind: KeyKind, label: &str) -> Result<NewKey, Fault> {
        self.make_key(id, kind, Custody::Recoverable, label)
    }

    fn create_backup_kek(&mut self, id: KeyId, label: &str) -> Result<BackupKek, Fault> {
        self.aes_or_new(id, label, Duty::Keys).map(|()| BackupKek { id })
    }

    fn find_backup_kek(&mut self, id: KeyId) -> Result<Option<BackupKek>, Fault> {
        Ok(self.find_aes(id, Duty::Keys)?.map(|_| BackupKek { id }))
    }

    fn wrap_export(&mut self, key: &KeyRef, under: &BackupKek) -> Result<Vec<u8>, Fault> {
        let kek = self.aes(under.id, Duty::Keys)?;
        let object = self.handle(key)?;
        let read = |error: Error| self.read_wrap_fault(&error);
        let extractable = self.session.get_attributes(object, &[AttributeType::Extractable]).map_err(read)?;
        if extractable != [Attribute::Extractable(true)] {
            return Err(Refusal::NotRecoverable.into());
        }
        self.session.wrap_key(&Mechanism::AesKeyWrapPad, kek, object).map_err(read)
    }

    fn unwrap_restore(&mut self, under: &BackupKek, incoming: &Incoming) -> Result<NewKey, Fault> {
        let kek = self.aes(under.id, Duty::Keys)?;
        let shared = self.shared.clone();
        let _alone = shared.objects();
        self.take_in(incoming, &incoming.wrapped, kek, Origin::Restored)
    }

    fn destroy_backup_kek(&mut self, kek: &BackupKek) -> Result<(), Fault> {
        self.destroy_aes(kek.id, Duty::Keys)
    }
}

impl Desk {
    fn read_wrap_fault(&self, error: &Error) -> Fault {
        match error {
            Error::Pkcs11(RvError::KeyUnextractable, _) => Refusal::NotRecoverable.into(),
            Error::Pkcs11(RvError::KeyNotWrappable | RvError::KeyHandleInvalid, _) => {
                Fault::Unsupported { what: fault::name(error) }
            }
            // Nothing leaves the token and nothing in it changes: a device that fails to wrap has only said no.
            other => match self.unmade(other) {
                Fault::Lost { why, .. } => Fault::Lost { why, harmless: true },
                fault => fault,
            },
        }
    }
}
