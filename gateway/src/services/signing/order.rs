//! Orders to sign on their way: asked for, prepared against the key, authorised, handed to the signer.
//! Who enters: commands from the wire; key cards.
//! What leaves: orders told with their entries, for the transaction that authorises them.

use std::sync::Arc;
use std::time::Instant;

use audit::{Entry, Tx};
use hsm::{Hash, KeyKind, Scheme, SignInput};
use serde_json::json;

use super::SigningRefused;
use crate::crypto::{Encoding, NotASignature, ecdsa_from_der};
use crate::ids::{Name, SigningKeyId, WorkspaceId};
use crate::services::ground::Telling;
use crate::services::keys::ring::KeyCard;
use crate::services::keys::{self, KeysRefused};
use crate::signer::{SignOrder, SigningKey};

/// What a member wants signed.
#[derive(Clone, Debug)]
pub struct SignCommand {
    /// The key's id or name.
    pub key: String,
    /// The version; the latest if absent.
    pub version: Option<i64>,
    /// The scheme.
    pub scheme: Scheme,
    /// The message or digest.
    pub input: SignInput,
    /// Free text for the entry.
    pub context: Option<String>,
}

/// What a member wants verified.
#[derive(Clone, Debug)]
pub struct VerifyCommand {
    /// Key, scheme and input.
    pub sign: SignCommand,
    /// The signature as it came.
    pub signature: Vec<u8>,
    /// The shape of an ECDSA signature.
    pub encoding: Encoding,
}

/// Which key and version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The key.
    pub key: SigningKeyId,
    /// Its name.
    pub name: Name,
    /// Its kind.
    pub kind: KeyKind,
    /// The version.
    pub version: i64,
    /// The key's fence when its card was made.
    pub fence: i64,
}

/// A command that fits its key.
#[derive(Clone, Debug)]
pub struct Prepared {
    /// Which key and version.
    pub target: Target,
    /// The version as the signer needs it.
    pub key: Arc<SigningKey>,
    /// The scheme.
    pub scheme: Scheme,
    /// The input; messages are hashed already where the scheme has a hash.
    pub input: SignInput,
    context: Option<String>,
}

/// An order with the facts that its entry will tell, not yet on the ledger.
#[derive(Clone, Debug)]
pub struct Unrecorded {
    /// Which key and version.
    pub target: Target,
    order: SignOrder,
    context: Option<String>,
}

impl SignCommand {
    /// Fits the command to a version that signs.
    ///
    /// # Errors
    /// As for [`prepare`](Self::prepare), or the version only verifies.
    pub fn prepare_to_sign(&self, card: &KeyCard) -> Result<Prepared, SigningRefused> {
        let prepared = self.prepare(card)?;
        match prepared.target.version {
            version if version < card.row.latest => Err(KeysRefused::OnlyVerifies { version }.into()),
            _ => Ok(prepared),
        }
    }

    /// Fits the command to its key.
    ///
    /// # Errors
    /// No such version, or scheme and input do not fit the key.
    pub fn prepare(&self, card: &KeyCard) -> Result<Prepared, SigningRefused> {
        let version = self.version.unwrap_or(card.row.latest);
        let key = card.versions.get(&version).ok_or(KeysRefused::NoSuchVersion)?;
        key.pinned.accepts(self.scheme, &self.input)?;
        let input = match (&self.input, self.scheme.hash()) {
            (SignInput::Message(message), Some(hash)) => SignInput::Digest(hash.digest(message)),
            (input, _) => input.clone(),
        };
        let row = &card.row;
        let (key_id, name) = (row.id.clone(), row.name.clone());
        let target = Target { key: key_id, name, kind: row.kind, version, fence: row.fence };
        let context = self.context.clone();
        Ok(Prepared { target, key: Arc::clone(key), scheme: self.scheme, input, context })
    }
}

impl VerifyCommand {
    /// The signature in the token's shape.
    ///
    /// # Errors
    /// It is not DER where DER was promised.
    pub fn raw_signature(&self, kind: KeyKind) -> Result<Vec<u8>, NotASignature> {
        match (kind, self.encoding) {
            (KeyKind::P256 | KeyKind::P384 | KeyKind::Secp256k1, Encoding::Der) => {
                ecdsa_from_der(&self.signature, kind.signature_len() / 2)
            }
            _ => Ok(self.signature.clone()),
        }
    }
}

impl Prepared {
    /// The order, not yet authorised.
    pub fn order(self, deadline: Instant) -> Unrecorded {
        let order =
            SignOrder { key: self.key, scheme: self.scheme, input: self.input, deadline, use_number: 0 };
        Unrecorded { target: self.target, order, context: self.context }
    }
}

impl Unrecorded {
    /// Counts this use of the key, under the fence that its card was made at.
    ///
    /// # Errors
    /// The key is not enabled, or a copy has taken over since.
    pub(super) fn count(&self, tx: &Tx<'_>, workspace: &WorkspaceId) -> Result<i64, KeysRefused> {
        keys::count_uses(tx, workspace, &self.target.key, 1, self.target.fence)
    }

    /// The scheme.
    pub(super) fn scheme(&self) -> Scheme {
        self.order.scheme
    }

    /// The order with its entry, for the transaction that counted this use of the key.
    pub(super) fn told(&self, telling: &Telling, use_number: i64) -> (SignOrder, Entry) {
        let order = SignOrder { use_number, ..self.order.clone() };
        (order, self.entry(telling, use_number))
    }

    /// What the ledger says of it: enough to recognise the signature later, whatever happens to this database.
    fn entry(&self, telling: &Telling, use_number: i64) -> Entry {
        let digest = match &self.order.input {
            SignInput::Digest(digest) => hex::encode(digest),
            SignInput::Message(message) => hex::encode(Hash::Sha256.digest(message)),
        };
        let after = json!({
            "scheme": self.order.scheme.name(),
            "version": self.target.version,
            "fingerprint": self.order.key.key.fingerprint.to_string(),
            "digest": digest,
            "use": use_number,
            "context": self.context,
        });
        telling.entry("key.sign", self.target.key.as_str(), |detail| detail.after(after))
    }
}
