//! The rare acts on keys: a workspace's own key, import, backup, restore, a statement about a key. Sagas ask for them; signing never does.
//! Enters: what sagas ask for, and what travels to the worker in one frame.
//! Leaves: references to be stored, wrapped bytes, statements.

mod ask;

use serde::{Deserialize, Serialize};

use crate::key::{Custody, KeyId, KeyRef, PublicKey};
use crate::protocol::Secret;
use crate::scheme::KeyKind;

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
    Takes { kind: KeyKind },
    Examine { key: KeyRef },
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
                | Self::Takes { .. }
                | Self::Examine { .. }
        )
    }
}
