//! The rare acts on keys: a workspace's own key, import, backup, restore, a statement about a key. Sagas ask for them; signing never does.
//! Enters: names chosen by the caller before anything exists, so that a lost answer can be looked for under them.
//! Leaves: references to be stored, wrapped bytes, and keys that proved which public key they belong to.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::error::{Refusal, TokenError};
use crate::key::{Custody, KeyId, KeyRef, NewKey, Presence, PublicKey};
use crate::protocol::{Call, Reply, Secret};
use crate::scheme::KeyKind;
use crate::token::{Answered, Token, done, misfit};

/// A key-encryption key that cannot leave the token. Destroying it shreds all that was wrapped under it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kek {
    /// Its name in the token.
    pub id: KeyId,
    /// What a TPM needs to load it; empty for PKCS#11. On a TPM the destruction of the key *is* the loss of these bytes: keep them in one
    /// place, and count their copies.
    pub blob: Vec<u8>,
}

/// The key under which recoverable keys leave the token. It cannot leave itself, and wraps nothing but keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupKek {
    /// Its name in the token.
    pub id: KeyId,
}

/// An RSA key that opens keys made elsewhere, and does nothing else.
///
/// What it takes is the concatenation of two parts, the format of CKM_RSA_AES_KEY_WRAP: a fresh AES-256 key under RSA-OAEP (with
/// [`ImportKey::oaep`] as hash and as MGF1's hash, and an empty label), then the private key, PKCS#8 in DER, under AES key wrap with
/// padding (RFC 5649) by that AES key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportKey {
    /// Its name in the token.
    pub id: KeyId,
    /// Its public half: RSA with 3072 bits.
    pub public: PublicKey,
    /// The hash that the token takes for OAEP, found out by trying.
    pub oaep: Oaep,
}

/// The hash of RSA-OAEP. SHA-1 is no weakness here (OAEP does not rest on its collision resistance), but some tokens know nothing else and
/// others have given it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Oaep {
    /// SHA-256 for both.
    Sha256,
    /// SHA-1 for both.
    Sha1,
}

/// A private key on its way into the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incoming {
    /// The name it gets.
    pub id: KeyId,
    /// The public key it has to belong to.
    pub expected: PublicKey,
    /// The private key, wrapped.
    pub wrapped: Vec<u8>,
    /// Whether it may be backed up from here.
    pub custody: Custody,
    /// Label, for people.
    pub label: String,
}

/// A TPM's signed statement that a key lives in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyAttestation {
    /// TPMS_ATTEST of type CERTIFY, as signed. It names the key by the hash of `public_area` and carries the nonce.
    pub attest: Vec<u8>,
    /// ECDSA signature over it, DER.
    pub signature_der: Vec<u8>,
    /// The attestation key's SPKI DER.
    pub ak_spki_der: Vec<u8>,
    /// TPMT_PUBLIC of the key: its public half and its attributes (fixedTPM, fixedParent, sensitiveDataOrigin).
    pub public_area: Vec<u8>,
}

/// A rare act, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(
    missing_docs,
    reason = "each is documented where it is asked, on `Token`, and where it is done, in `backend`"
)]
pub enum Ceremony {
    Presence { id: KeyId },
    DestroyHalf { id: KeyId },
    CreateKek { id: KeyId, label: String },
    FindKek { id: KeyId },
    WrapUnder { kek: Kek, secret: Secret, aad: Vec<u8> },
    UnwrapUnder { kek: Kek, wrapped: Vec<u8>, aad: Vec<u8> },
    DestroyKek { kek: Kek },
    CreateImportKey { id: KeyId, label: String },
    FindImportKey { id: KeyId },
    Import { with: ImportKey, incoming: Incoming },
    DestroyImportKey { key: ImportKey },
    GenerateRecoverable { id: KeyId, kind: KeyKind, label: String },
    CreateBackupKek { id: KeyId, label: String },
    FindBackupKek { id: KeyId },
    Export { key: KeyRef, under: BackupKek },
    Restore { under: BackupKek, incoming: Incoming },
    DestroyBackupKek { kek: BackupKek },
    Attest { key: KeyRef, nonce: [u8; 32] },
}

impl Ceremony {
    /// True when the act, begun and lost, may have changed something. An export and a statement change nothing: each can be made again.
    #[must_use]
    pub const fn has_effect(&self) -> bool {
        !matches!(
            self,
            Self::Presence { .. }
                | Self::FindKek { .. }
                | Self::WrapUnder { .. }
                | Self::UnwrapUnder { .. }
                | Self::FindImportKey { .. }
                | Self::FindBackupKek { .. }
                | Self::Export { .. }
                | Self::Attest { .. }
        )
    }
}

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
