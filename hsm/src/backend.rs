//! The joint between the worker's loop and a kind of token: what PKCS#11, TPM and double each implement.
//! Enters: checked calls, one at a time per lane, never two on one lane.
//! Leaves: results, or a [`Fault`] that says whether the device is still to be trusted.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::anchor::{AnchorAttestation, AnchorReading, AnchorStep, Quote};
use crate::ceremony::{BackupKek, ImportKey, Incoming, Kek, KeyAttestation};
use crate::error::Refusal;
use crate::key::{
    Fingerprint, HmacKeyRef, KeyFault, KeyId, KeyRef, NewKey, Presence, PublicKey, RootKey, RootTag,
};
use crate::probe::Probe;
use crate::scheme::{KeyKind, Scheme};

/// A connected token: opened, logged in, probed.
pub trait Backend: Send {
    /// What it is and can do.
    fn probe(&self) -> Probe;

    /// One lane per worker thread, each with its own session. A TPM gives one.
    ///
    /// # Errors
    /// When the device gives no further session; the worker then does not start.
    fn lanes(&mut self) -> Result<Vec<Box<dyn Lane>>, Fault>;

    /// Leaves the device in order. Called once, after every lane has ended; the process exits right after.
    fn close(self: Box<Self>);
}

/// One session of a token, owned by one thread.
pub trait Lane: Keys + Seal + Keks + Anchor + Send {
    /// Signed statements, where the token makes them.
    fn attest(&mut self) -> Option<&mut dyn Attest>;

    /// Successors of the root key, where the token can hold more than one.
    fn rotate(&mut self) -> Option<&mut dyn Rotate> {
        None
    }

    /// Keys made elsewhere, where the token takes them.
    fn import(&mut self) -> Option<&mut dyn Import> {
        None
    }

    /// Keys that may be backed up, where the token wraps them.
    fn backup(&mut self) -> Option<&mut dyn Backup> {
        None
    }
}

/// Keys: made, found, used, destroyed.
pub trait Keys {
    /// Makes a key that cannot leave, reads its attributes back, destroys it again if they are loose. Asked again under the same id, a
    /// token that keeps its keys answers with the key it made then, destroys a half-made pair first, and refuses a key of another kind
    /// or custody with [`Refusal::KeyExists`].
    fn generate(&mut self, id: KeyId, kind: KeyKind, label: &str) -> Result<NewKey, Fault>;

    /// The public half of the key of this name. A back-end that keeps no keys (TPM) answers `None`.
    fn find(&mut self, id: KeyId) -> Result<Option<PublicKey>, Fault>;

    /// What is held under this name, half-made pairs included.
    fn presence(&mut self, id: KeyId) -> Result<Presence, Fault>;

    /// What is not as it should be about a key, found without using it for anybody. A back-end that keeps no keys (TPM) cannot say.
    fn examine(&mut self, _key: &KeyRef) -> Result<Vec<KeyFault>, Fault> {
        Err(Fault::Unsupported { what: "examination of keys".to_owned() })
    }

    /// Destroys what is left of a pair that was never finished; a whole key is refused with [`Refusal::KeyExists`].
    fn destroy_half(&mut self, id: KeyId) -> Result<(), Fault>;

    /// Signs `input`: the digest where the scheme has a hash (its length is checked already), the message for Ed25519.
    /// ECDSA gives r then s at full length. Handles are cached after the key's fingerprint was checked once.
    fn sign(&mut self, key: &KeyRef, scheme: Scheme, input: &[u8]) -> Result<Vec<u8>, Fault>;

    /// Destroys both halves; a key that is not there is success.
    fn destroy(&mut self, key: &KeyRef) -> Result<(), Fault>;

    /// Makes an HMAC-SHA256 key that cannot leave, or finds the one of this name.
    fn generate_hmac_key(&mut self, id: KeyId, label: &str) -> Result<HmacKeyRef, Fault>;

    /// Authenticates data.
    fn hmac_sha256(&mut self, key: &HmacKeyRef, data: &[u8]) -> Result<[u8; 32], Fault>;

    /// Destroys it; a key that is not there is success.
    fn destroy_hmac_key(&mut self, key: &HmacKeyRef) -> Result<(), Fault>;

    /// Random bytes from the device.
    fn random(&mut self, len: usize) -> Result<Vec<u8>, Fault>;
}

/// Secrets wrapped under a root that cannot leave the token.
pub trait Seal {
    /// Finds the root key, or makes it once.
    fn ensure_root(&mut self) -> Result<RootKey, Fault>;

    /// Makes the root key of a new appliance, or finds the one that a lost call made, and tries with it all that the appliance will rest
    /// on: what it closes opens again, and the anchor is kept.
    fn make_root(&mut self, tag: RootTag) -> Result<RootKey, Fault>;

    /// Destroys what [`Seal::make_root`] made, and the anchor of that appliance; what is gone is success.
    fn unmake_root(&mut self, tag: RootTag) -> Result<(), Fault>;

    /// Wraps a secret, bound to `aad`.
    fn wrap(&mut self, secret: &[u8], aad: &[u8]) -> Result<Vec<u8>, Fault>;

    /// Opens what [`Seal::wrap`] closed, with the same `aad`; otherwise [`Refusal::SealBroken`] or [`Refusal::StateChanged`].
    fn unwrap(&mut self, wrapped: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault>;
}

/// Key-encryption keys by name: one per workspace, so that destroying it destroys what it closed.
pub trait Keks {
    /// Makes one, or finds the one of this name.
    fn create_kek(&mut self, id: KeyId, label: &str) -> Result<Kek, Fault>;

    /// The one of this name. A back-end that keeps no keys (TPM) answers `None`.
    fn find_kek(&mut self, id: KeyId) -> Result<Option<Kek>, Fault>;

    /// Wraps a secret under it, bound to `aad`.
    fn wrap_under(&mut self, kek: &Kek, secret: &[u8], aad: &[u8]) -> Result<Vec<u8>, Fault>;

    /// Opens what [`Keks::wrap_under`] closed; [`Fault::KeyMissing`] once the key is destroyed.
    fn unwrap_under(&mut self, kek: &Kek, wrapped: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault>;

    /// Destroys it; one that is gone is success. Whatever else stands under the name is refused: nobody is told that a key is gone while
    /// it may be there in another guise.
    fn destroy_kek(&mut self, kek: &Kek) -> Result<(), Fault>;
}

/// Keys made elsewhere, wrapped so that they open in this token only.
pub trait Import {
    /// Tries whether keys of this kind can be taken in, so that nobody wraps one in vain; [`Fault::Unsupported`] if not.
    fn takes(&mut self, kind: KeyKind) -> Result<(), Fault>;

    /// Makes an RSA pair that unwraps and does nothing else, or finds the one of this name.
    fn create_import_key(&mut self, id: KeyId, label: &str) -> Result<ImportKey, Fault>;

    /// The one of this name.
    fn find_import_key(&mut self, id: KeyId) -> Result<Option<ImportKey>, Fault>;

    /// Unwraps a private key into the token, sensitive and not extractable, and has it prove that it belongs to the announced public
    /// key; destroyed and refused with [`Refusal::WrongImport`] if it does not. Asked again, it answers with the key it took then.
    fn import_key(&mut self, with: &ImportKey, incoming: &Incoming) -> Result<NewKey, Fault>;

    /// Destroys it; one that is gone is success.
    fn destroy_import_key(&mut self, key: &ImportKey) -> Result<(), Fault>;
}

/// Keys that leave the token wrapped under a backup key, and come back.
pub trait Backup {
    /// As [`Keys::generate`], but the key may be wrapped under a backup key.
    fn generate_recoverable(&mut self, id: KeyId, kind: KeyKind, label: &str) -> Result<NewKey, Fault>;

    /// Makes a key that wraps keys and does nothing else, and cannot leave; or finds the one of this name.
    fn create_backup_kek(&mut self, id: KeyId, label: &str) -> Result<BackupKek, Fault>;

    /// The one of this name.
    fn find_backup_kek(&mut self, id: KeyId) -> Result<Option<BackupKek>, Fault>;

    /// The private half, wrapped. A key that was made never to leave is [`Refusal::NotRecoverable`].
    fn wrap_export(&mut self, key: &KeyRef, under: &BackupKek) -> Result<Vec<u8>, Fault>;

    /// Takes back what [`Backup::wrap_export`] gave, with the same proof as [`Import::import_key`].
    fn unwrap_restore(&mut self, under: &BackupKek, incoming: &Incoming) -> Result<NewKey, Fault>;

    /// Destroys it, and with it every backup under it; one that is gone is success.
    fn destroy_backup_kek(&mut self, kek: &BackupKek) -> Result<(), Fault>;
}

/// Root keys that follow one another: what an old one closed opens until it is destroyed.
pub trait Rotate {
    /// The successor of this root, made unless it is there already; from now on [`Seal::wrap`] uses the newest.
    fn succeed_root(&mut self, id: &[u8]) -> Result<RootKey, Fault>;

    /// Destroys an old root; the newest is refused, one that is gone is success.
    fn destroy_root(&mut self, id: &[u8]) -> Result<(), Fault>;
}

/// The ledger's head, remembered by the token.
pub trait Anchor {
    /// What the token remembers.
    fn read(&mut self) -> Result<AnchorReading, Fault>;

    /// One step forward. A step that is already taken is success; any other starting point is [`Refusal::AnchorElsewhere`].
    fn advance(&mut self, step: &AnchorStep) -> Result<(), Fault>;
}

/// Signed statements: only a TPM makes them.
pub trait Attest {
    /// Certifies the anchor's content.
    fn certify_anchor(&mut self, qualifying: [u8; 32]) -> Result<AnchorAttestation, Fault>;

    /// Increments the counter and returns its new value.
    fn count(&mut self) -> Result<u64, Fault>;

    /// Quotes the measured state.
    fn quote(&mut self, nonce: [u8; 32]) -> Result<Quote, Fault>;

    /// Certifies that a key lives in this device, and what it is allowed to do.
    fn certify_key(&mut self, key: &KeyRef, nonce: [u8; 32]) -> Result<KeyAttestation, Fault>;
}

/// Why a lane gave no result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// Says no; the device is well.
    Refused(Refusal),
    /// Its turn came after its deadline; it was not begun. Only the serving loop says so.
    Expired,
    /// No key of this name.
    KeyMissing {
        /// The name looked up.
        id: KeyId,
    },
    /// Another key behind the right name.
    WrongKey {
        /// The name looked up.
        id: KeyId,
        /// On record.
        expected: Fingerprint,
        /// Found.
        found: Fingerprint,
    },
    /// The device cannot do this at all.
    Unsupported {
        /// What was asked.
        what: String,
    },
    /// The device did nothing, but cannot be trusted any further: the worker answers this call and exits.
    Lost {
        /// For the log, in our own words or by the standard's name.
        why: String,
        /// True when the call certainly had no effect.
        harmless: bool,
    },
}

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}
