//! The double's rare acts: key-encryption keys, import, backup, with the very bytes that hardware takes and gives.
//! Enters: calls, each past the scripted faults.
//! Leaves: keys and wrapped keys, in memory.

use std::collections::btree_map::Entry;
use std::sync::Arc;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use zeroize::Zeroizing;

use super::keys::{SoftKey, broken, random};
use super::lane::{DoubleLane, check, open, seal};
use super::{Held, SERIAL};
use crate::backend::{Backup, Fault, Import, Keks};
use crate::ceremony::{BackupKek, ImportKey, Incoming, Kek, Oaep};
use crate::error::Refusal;
use crate::key::{Custody, KeyId, KeyRef, NewKey, Origin, Provenance, PublicKey};
use crate::scheme::KeyKind;

/// An import key in memory.
pub(super) struct SoftUnwrapper {
    public: PublicKey,
    opener: OaepPrivateDecryptingKey,
}

impl Keks for DoubleLane {
    fn create_kek(&mut self, id: KeyId, _label: &str) -> Result<Kek, Fault> {
        self.strike(|held| {
            if let Entry::Vacant(free) = held.keks.entry(id) {
                free.insert(random()?);
            }
            Ok(Kek { id, blob: Vec::new() })
        })
    }

    fn find_kek(&mut self, id: KeyId) -> Result<Option<Kek>, Fault> {
        self.strike(|held| Ok(held.keks.get(&id).map(|_| Kek { id, blob: Vec::new() })))
    }

    fn wrap_under(&mut self, kek: &Kek, secret: &[u8], aad: &[u8]) -> Result<Vec<u8>, Fault> {
        self.strike(|held| seal(known(held.keks.get(&kek.id), kek.id)?, secret, aad))
    }

    fn unwrap_under(&mut self, kek: &Kek, wrapped: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        self.strike(|held| open(known(held.keks.get(&kek.id), kek.id)?, wrapped, aad))
    }

    fn destroy_kek(&mut self, kek: &Kek) -> Result<(), Fault> {
        self.strike(|held| {
            if held.backup_keks.contains_key(&kek.id) {
                return Err(Refusal::Other("the key of this name is a backup key".to_owned()).into());
            }
            held.keks.remove(&kek.id);
            Ok(())
        })
    }
}

impl Import for DoubleLane {
    fn takes(&mut self, _kind: KeyKind) -> Result<(), Fault> {
        self.strike(|_| Ok(()))
    }

    fn create_import_key(&mut self, id: KeyId, _label: &str) -> Result<ImportKey, Fault> {
        self.strike(|held| {
            if let Entry::Vacant(free) = held.import_keys.entry(id) {
                free.insert(Arc::new(SoftUnwrapper::generate()?));
            }
            known(held.import_keys.get(&id), id).map(|key| key.named(id))
        })
    }

    fn find_import_key(&mut self, id: KeyId) -> Result<Option<ImportKey>, Fault> {
        self.strike(|held| Ok(held.import_keys.get(&id).map(|key| key.named(id))))
    }

    fn import_key(&mut self, with: &ImportKey, incoming: &Incoming) -> Result<NewKey, Fault> {
        self.strike(|held| {
            let unwrapper = known(held.import_keys.get(&with.id), with.id)?.clone();
            let (key, wrapped) = unwrapper.open(&incoming.wrapped).ok_or(Refusal::ImportBroken)?;
            take_in(held, incoming, &key, wrapped, Origin::Imported)
        })
    }

    fn destroy_import_key(&mut self, key: &ImportKey) -> Result<(), Fault> {
        self.strike(|held| {
            held.import_keys.remove(&key.id);
            Ok(())
        })
    }
}

impl Backup for DoubleLane {
    fn generate_recoverable(&mut self, id: KeyId, kind: KeyKind, _label: &str) -> Result<NewKey, Fault> {
        self.strike(|held| make(held, id, kind, Custody::Recoverable))
    }

    fn create_backup_kek(&mut self, id: KeyId, _label: &str) -> Result<BackupKek, Fault> {
        self.strike(|held| {
            if let Entry::Vacant(free) = held.backup_keks.entry(id) {
                free.insert(random()?);
            }
            Ok(BackupKek { id })
        })
    }

    fn find_backup_kek(&mut self, id: KeyId) -> Result<Option<BackupKek>, Fault> {
        self.strike(|held| Ok(held.backup_keks.get(&id).map(|_| BackupKek { id })))
    }

    fn wrap_export(&mut self, key: &KeyRef, under: &BackupKek) -> Result<Vec<u8>, Fault> {
        self.strike(|held| {
            let kek = *known(held.backup_keks.get(&under.id), under.id)?;
            let found = known(held.keys.get(&key.id), key.id)?;
            check(key, found)?;
            if found.custody != Custody::Recoverable {
                return Err(Refusal::NotRecoverable.into());
            }
            let plain = found.to_pkcs8()?;
            let mut wrapped = vec![0; plain.len() + 16];
            let wrapped = aes(&kek)?.wrap_with_padding(&plain, &mut wrapped).map(|wrapped| wrapped.to_vec());
            wrapped.map_err(|_| broken("a key was not wrapped"))
        })
    }

    fn unwrap_restore(&mut self, under: &BackupKek, incoming: &Incoming) -> Result<NewKey, Fault> {
        self.strike(|held| {
            let kek = *known(held.backup_keks.get(&under.id), under.id)?;
            take_in(held, incoming, &kek, &incoming.wrapped, Origin::Restored)
        })
    }

    fn destroy_backup_kek(&mut self, kek: &BackupKek) -> Result<(), Fault> {
        self.strike(|held| {
            held.backup_keks.remove(&kek.id);
            Ok(())
        })
    }
}

/// Makes a pair, or finds the one of this name.
pub(super) fn make(held: &mut Held, id: KeyId, kind: KeyKind, custody: Custody) -> Result<NewKey, Fault> {
    if let Some(key) = held.keys.get(&id) {
        let same = (key.public.kind, key.origin, key.custody) == (kind, Origin::Generated, custody);
        return if same { Ok(told(id, key)) } else { Err(Refusal::KeyExists { id }.into()) };
    }
    held.halves.remove(&id);
    let key = Arc::new(SoftKey::generate(kind, custody)?);
    held.keys.insert(id, key.clone());
    Ok(told(id, &key))
}

fn take_in(
    held: &mut Held,
    incoming: &Incoming,
    kek: &[u8],
    wrapped: &[u8],
    origin: Origin,
) -> Result<NewKey, Fault> {
    let id = incoming.id;
    if let Some(key) = held.keys.get(&id) {
        let same = key.public == incoming.expected && (key.origin, key.custody) == (origin, incoming.custody);
        return if same { Ok(told(id, key)) } else { Err(Refusal::KeyExists { id }.into()) };
    }
    let mut plain = Zeroizing::new(vec![0; wrapped.len() + 8]);
    let opened = aes(kek)?.unwrap_with_padding(wrapped, &mut plain).map_err(|_| Refusal::ImportBroken)?;
    let key = SoftKey::from_pkcs8(incoming.expected.kind, opened, origin, incoming.custody);
    // A pair in memory carries its public half along; comparing it is what signing proves elsewhere.
    let key = key.filter(|key| key.public == incoming.expected).ok_or(Refusal::WrongImport)?;
    held.halves.remove(&id);
    let key = Arc::new(key);
    held.keys.insert(id, key.clone());
    Ok(told(id, &key))
}

fn told(id: KeyId, key: &SoftKey) -> NewKey {
    let (ours, stays) = (key.origin == Origin::Generated, key.custody == Custody::NonExtractable);
    let (public, kind) = (key.public.clone(), key.public.kind);
    NewKey {
        key: KeyRef { id, kind, fingerprint: public.fingerprint(), blob: Vec::new() },
        public,
        provenance: Provenance {
            local: ours,
            never_extractable: ours && stays,
            always_sensitive: ours,
            token_serial: SERIAL.to_owned(),
            origin: key.origin,
            custody: key.custody,
        },
    }
}

impl SoftUnwrapper {
    fn generate() -> Result<Self, Fault> {
        let lame = |_| broken("an import key was not made");
        let key = PrivateDecryptingKey::generate(KeySize::Rsa3072).map_err(lame)?;
        let der: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(lame)?;
        let public = PublicKey { kind: KeyKind::Rsa3072, spki_der: der.as_ref().to_vec() };
        Ok(Self { public, opener: OaepPrivateDecryptingKey::new(key).map_err(lame)? })
    }

    fn named(&self, id: KeyId) -> ImportKey {
        ImportKey { id, public: self.public.clone(), oaep: Oaep::Sha256 }
    }

    /// The AES key of the first part, and the second part.
    fn open<'a>(&self, wrapped: &'a [u8]) -> Option<(Zeroizing<Vec<u8>>, &'a [u8])> {
        let (first, rest) = wrapped.split_at_checked(self.opener.key_size_bytes())?;
        let mut room = Zeroizing::new(vec![0; self.opener.min_output_size()]);
        let key = self.opener.decrypt(&OAEP_SHA256_MGF1SHA256, first, &mut room, None).ok()?.to_vec();
        Some((Zeroizing::new(key), rest))
    }
}

fn aes(key: &[u8]) -> Result<AesKek, Fault> {
    AesKek::new(&AES_256, key).map_err(|_| Refusal::ImportBroken.into())
}

fn known<T>(found: Option<&T>, id: KeyId) -> Result<&T, Fault> {
    found.ok_or(Fault::KeyMissing { id })
}
