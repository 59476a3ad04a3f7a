//! The daemon's handle, asked for a rare act.
//! Enters: names chosen by the caller before anything exists, so that a lost answer can be looked for under them; deadlines.
//! Leaves: references to be stored, wrapped bytes, and keys that proved which public key they belong to.

use std::time::Instant;

use zeroize::Zeroizing;

use super::{BackupKek, Ceremony, ImportKey, Incoming, Kek, KeyAttestation};
use crate::error::{Refusal, TokenError};
use crate::key::{Custody, KeyFault, KeyId, KeyRef, NewKey, Presence, PublicKey};
use crate::protocol::{Call, Reply, Secret};
use crate::scheme::KeyKind;
use crate::token::{Answered, Token, done, misfit};

/// Every call that makes something may be sent again under the same id after an unknown outcome; every call that destroys may be sent twice.
impl Token {
    /// Makes a key as [`Token::generate`] does, in this custody. Tokens without backup answer `Unsupported` to a recoverable one.
    pub async fn generate_in(
        &self,
        id: KeyId,
        kind: KeyKind,
        custody: Custody,
        label: &str,
        deadline: Instant,
    ) -> Answered<NewKey> {
        match custody {
            Custody::NonExtractable => self.generate(id, kind, label, deadline).await,
            Custody::Recoverable => {
                let label = label.to_owned();
                self.ask_new_key(Ceremony::GenerateRecoverable { id, kind, label }, deadline).await
            }
        }
    }

    /// What the token holds under this name: nothing, remains of a call cut short, or a key. A TPM holds nothing.
    pub async fn presence(&self, id: KeyId, deadline: Instant) -> Answered<Presence> {
        match self.act(Ceremony::Presence { id }, deadline).await? {
            Reply::Presence(presence) => Ok(presence),
            other => Err(misfit(&other)),
        }
    }

    /// What is not as it should be about a key in the token; nothing, where all is well. A TPM holds no keys and answers `Unsupported`.
    pub async fn examine(&self, key: &KeyRef, deadline: Instant) -> Answered<Vec<KeyFault>> {
        match self.act(Ceremony::Examine { key: key.clone() }, deadline).await? {
            Reply::KeyFaults(faults) => Ok(faults),
            other => Err(misfit(&other)),
        }
    }

    /// Destroys remains of a call cut short; nothing there is success, a whole key is refused with [`crate::Refusal::KeyExists`].
    pub async fn destroy_half(&self, id: KeyId, deadline: Instant) -> Answered<()> {
        self.act(Ceremony::DestroyHalf { id }, deadline).await.and_then(done)
    }

    /// Makes a key-encryption key of this name, or finds it.
    pub async fn create_kek(&self, id: KeyId, label: &str, deadline: Instant) -> Answered<Kek> {
        let reply = self.act(Ceremony::CreateKek { id, label: label.to_owned() }, deadline).await?;
        match reply {
            Reply::Kek(Some(kek)) => Ok(kek),
            other => Err(misfit(&other)),
        }
    }

    /// The key-encryption key of this name, if the token holds it. A TPM holds none: `None` there says nothing.
    pub async fn find_kek(&self, id: KeyId, deadline: Instant) -> Answered<Option<Kek>> {
        match self.act(Ceremony::FindKek { id }, deadline).await? {
            Reply::Kek(found) => Ok(found),
            other => Err(misfit(&other)),
        }
    }

    /// Wraps a secret under a key-encryption key, bound to `aad`.
    pub async fn wrap_under(
        &self,
        kek: &Kek,
        secret: &[u8],
        aad: &[u8],
        deadline: Instant,
    ) -> Answered<Vec<u8>> {
        let (secret, aad) = (Secret(secret.to_vec()), aad.to_vec());
        self.ask_bytes(Ceremony::WrapUnder { kek: kek.clone(), secret, aad }, deadline).await
    }

    /// Opens what [`Token::wrap_under`] closed. `KeyMissing` once the key is destroyed, `SealBroken` for anything else that does not open.
    pub async fn unwrap_under(
        &self,
        kek: &Kek,
        wrapped: &[u8],
        aad: &[u8],
        deadline: Instant,
    ) -> Answered<Zeroizing<Vec<u8>>> {
        let (wrapped, aad) = (wrapped.to_vec(), aad.to_vec());
        match self.act(Ceremony::UnwrapUnder { kek: kek.clone(), wrapped, aad }, deadline).await? {
            Reply::Secret(mut secret) => Ok(Zeroizing::new(std::mem::take(&mut secret.0))),
            other => Err(misfit(&other)),
        }
    }

    /// Destroys a key-encryption key, and with it all that was wrapped under it. On a TPM this is the loss of [`Kek::blob`], which the
    /// caller brings about by deleting it.
    pub async fn destroy_kek(&self, kek: &Kek, deadline: Instant) -> Answered<()> {
        self.act(Ceremony::DestroyKek { kek: kek.clone() }, deadline).await.and_then(done)
    }

    /// Asks, before anyone wraps a key, whether the token takes this kind in. It answers by trying; `Unsupported` means no.
    pub async fn import_takes(&self, kind: KeyKind, deadline: Instant) -> Answered<()> {
        self.act(Ceremony::Takes { kind }, deadline).await.and_then(done)
    }

    /// Makes an import key of this name, or finds it.
    pub async fn create_import_key(&self, id: KeyId, label: &str, deadline: Instant) -> Answered<ImportKey> {
        let reply = self.act(Ceremony::CreateImportKey { id, label: label.to_owned() }, deadline).await?;
        match reply {
            Reply::ImportKey(Some(key)) => Ok(key),
            other => Err(misfit(&other)),
        }
    }

    /// The import key of this name, if the token holds it.
    pub async fn find_import_key(&self, id: KeyId, deadline: Instant) -> Answered<Option<ImportKey>> {
        match self.act(Ceremony::FindImportKey { id }, deadline).await? {
            Reply::ImportKey(found) => Ok(found),
            other => Err(misfit(&other)),
        }
    }

    /// Brings a key in, wrapped as [`ImportKey`] says. It stays only if it signs what `expected` verifies; otherwise it is destroyed and
    /// refused with [`crate::Refusal::WrongImport`].
    pub async fn import_key(
        &self,
        with: &ImportKey,
        id: KeyId,
        expected: &PublicKey,
        wrapped: &[u8],
        label: &str,
        deadline: Instant,
    ) -> Answered<NewKey> {
        let incoming = incoming(id, expected, wrapped, Custody::NonExtractable, label)?;
        self.ask_new_key(Ceremony::Import { with: with.clone(), incoming }, deadline).await
    }

    /// Destroys an import key. One that is gone already is success.
    pub async fn destroy_import_key(&self, key: &ImportKey, deadline: Instant) -> Answered<()> {
        self.act(Ceremony::DestroyImportKey { key: key.clone() }, deadline).await.and_then(done)
    }

    /// Makes a backup key of this name, or finds it.
    pub async fn create_backup_kek(&self, id: KeyId, label: &str, deadline: Instant) -> Answered<BackupKek> {
        let reply = self.act(Ceremony::CreateBackupKek { id, label: label.to_owned() }, deadline).await?;
        match reply {
            Reply::BackupKek(Some(kek)) => Ok(kek),
            other => Err(misfit(&other)),
        }
    }

    /// The backup key of this name, if the token holds it.
    pub async fn find_backup_kek(&self, id: KeyId, deadline: Instant) -> Answered<Option<BackupKek>> {
        match self.act(Ceremony::FindBackupKek { id }, deadline).await? {
            Reply::BackupKek(found) => Ok(found),
            other => Err(misfit(&other)),
        }
    }

    /// A recoverable key, wrapped under a backup key. One that was made never to leave is refused with
    /// [`crate::Refusal::NotRecoverable`].
    pub async fn wrap_export(&self, key: &KeyRef, under: &BackupKek, deadline: Instant) -> Answered<Vec<u8>> {
        self.ask_bytes(Ceremony::Export { key: key.clone(), under: under.clone() }, deadline).await
    }

    /// Takes back what [`Token::wrap_export`] gave, under any free name. It stays only if it signs what `expected` verifies.
    #[allow(
        clippy::too_many_arguments,
        reason = "what a restore is: under what, as what, whose, what, how kept"
    )]
    pub async fn unwrap_restore(
        &self,
        under: &BackupKek,
        id: KeyId,
        expected: &PublicKey,
        wrapped: &[u8],
        custody: Custody,
        label: &str,
        deadline: Instant,
    ) -> Answered<NewKey> {
        let incoming = incoming(id, expected, wrapped, custody, label)?;
        self.ask_new_key(Ceremony::Restore { under: under.clone(), incoming }, deadline).await
    }

    /// Destroys a backup key, and with it every backup under it. One that is gone already is success.
    pub async fn destroy_backup_kek(&self, kek: &BackupKek, deadline: Instant) -> Answered<()> {
        self.act(Ceremony::DestroyBackupKek { kek: kek.clone() }, deadline).await.and_then(done)
    }

    /// A signed statement that this key lives in this device, bound to `nonce`; `None` from tokens that make none: what a PKCS#11 token
    /// says of a key is its [`crate::Provenance`].
    pub async fn attest(
        &self,
        key: &KeyRef,
        nonce: [u8; 32],
        deadline: Instant,
    ) -> Answered<Option<KeyAttestation>> {
        match self.act(Ceremony::Attest { key: key.clone(), nonce }, deadline).await? {
            Reply::KeyAttestation(statement) => Ok(statement),
            other => Err(misfit(&other)),
        }
    }

    async fn ask_new_key(&self, ceremony: Ceremony, deadline: Instant) -> Answered<NewKey> {
        match self.act(ceremony, deadline).await? {
            Reply::NewKey(made) => Ok(made),
            other => Err(misfit(&other)),
        }
    }

    async fn ask_bytes(&self, ceremony: Ceremony, deadline: Instant) -> Answered<Vec<u8>> {
        match self.act(ceremony, deadline).await? {
            Reply::Bytes(bytes) => Ok(bytes),
            other => Err(misfit(&other)),
        }
    }

    async fn act(&self, ceremony: Ceremony, deadline: Instant) -> Result<Reply, TokenError> {
        self.ask(Call::Ceremony(Box::new(ceremony)), deadline).await
    }
}

fn incoming(
    id: KeyId,
    expected: &PublicKey,
    wrapped: &[u8],
    custody: Custody,
    label: &str,
) -> Answered<Incoming> {
    if wrapped.len() > WRAPPED_KEY_BYTES_MAX {
        let why = format!("a wrapped key has at most {WRAPPED_KEY_BYTES_MAX} bytes");
        return Err(TokenError::Refused(Refusal::BadInput(why)));
    }
    let (expected, wrapped, label) = (expected.clone(), wrapped.to_vec(), label.to_owned());
    Ok(Incoming { id, expected, wrapped, custody, label })
}

/// An RSA-4096 key in PKCS#8, wrapped, behind the block of a 4096-bit import key, takes less than half of it.
const WRAPPED_KEY_BYTES_MAX: usize = 8 << 10;
