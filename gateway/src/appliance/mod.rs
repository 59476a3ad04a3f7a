//! The appliance itself: its own keys, its sealed master key, and the making of them.
//! Who enters: `init`, once; the wiring, at every start.
//! What leaves: the facts without which nothing can be unsealed or signed.

pub mod draft;
pub mod init;
pub mod master;
pub mod roots;
pub mod store;
pub mod succession;

use std::sync::Arc;

use audit::NoteKey;
use aws_lc_rs::digest::SHA256;
use hsm::{KeyKind, KeyRef, PublicKey, RootPin, Scheme, Token};
use serde::{Deserialize, Serialize};

use crate::crypto::PinnedKey;
use crate::hardware::SealKey;
use crate::signer::SigningKey;

/// One of the appliance's own keys, as recorded.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OwnKey {
    /// Where its token finds it.
    pub key: KeyRef,
    /// Its public half, SPKI DER.
    pub spki_der: Vec<u8>,
}

/// What was made at initialisation and never changes silently.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Facts {
    /// The CA's key.
    pub ca: OwnKey,
    /// The key that signs checkpoints, in the token.
    pub log: OwnKey,
    /// The second one, in the TPM beside the token.
    pub tpm_log: Option<OwnKey>,
    /// The wrapped master key.
    pub master: Vec<u8>,
    /// The root key of the keys' token. Appliances that were made before it was recorded get it at their next start.
    #[serde(default)]
    pub root: Option<RootPin>,
    /// The storage root of the TPM beside the token.
    #[serde(default)]
    pub tpm_root: Option<RootPin>,
    /// The attestation key of the TPM that holds the anchor, SPKI DER. No other's statements are taken.
    #[serde(default)]
    pub attestation_key: Option<Vec<u8>>,
}

/// The root keys that an appliance was made with, for the workers that open its tokens.
#[derive(Clone, Debug, Default)]
pub struct Roots {
    /// Of the keys' token.
    pub keys: Option<RootPin>,
    /// Of the TPM beside it.
    pub tpm: Option<RootPin>,
}

/// The tokens of this appliance.
#[derive(Clone)]
pub struct Tokens {
    /// Where the keys are.
    pub keys: Token,
    /// The TPM beside it, if there is one.
    pub tpm: Option<Token>,
    /// The keys' token is itself a TPM.
    pub keys_are_in_tpm: bool,
}

impl Tokens {
    /// The TPM that holds the anchor, if one does.
    pub fn anchoring_tpm(&self) -> Option<&Token> {
        self.tpm.as_ref().or_else(|| self.keys_are_in_tpm.then_some(&self.keys))
    }

    /// Each token there is, with its name in messages.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &Token)> {
        std::iter::once(("token", &self.keys)).chain(self.tpm.as_ref().map(|tpm| ("tpm", tpm)))
    }
}

/// A recorded key of the appliance cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("the record of the appliance's {which} key cannot be used")]
pub struct BadRecord {
    /// Which one.
    pub which: &'static str,
}

impl OwnKey {
    /// As the signer needs it.
    ///
    /// # Errors
    /// The recorded public key cannot be read.
    pub fn signing(&self, which: &'static str) -> Result<Arc<SigningKey>, BadRecord> {
        let pinned = PinnedKey::new(self.key.kind, &self.spki_der).map_err(|_| BadRecord { which })?;
        Ok(Arc::new(SigningKey { key: self.known(), pinned }))
    }

    /// Its name, with the public half by which the token recognises it.
    fn known(&self) -> KeyRef {
        self.key.clone().knowing(&self.spki_der)
    }

    /// Its public half.
    pub fn public(&self) -> PublicKey {
        PublicKey { kind: self.key.kind, spki_der: self.spki_der.clone() }
    }

    /// As a key of signed notes under the given name.
    ///
    /// # Errors
    /// The key's kind signs no notes.
    pub fn note_key(&self, name: &str, token: &Token) -> Result<(NoteKey, SealKey), BadRecord> {
        let bad = || BadRecord { which: "log" };
        let (kind, public, scheme) = match self.key.kind {
            KeyKind::Ed25519 => {
                let point = self.spki_der.get(self.spki_der.len().saturating_sub(32)..).unwrap_or_default();
                (audit::KeyKind::Ed25519, point.to_vec(), Scheme::Ed25519)
            }
            KeyKind::P256 => (audit::KeyKind::EcdsaP256, self.spki_der.clone(), Scheme::EcdsaSha256),
            _ => return Err(bad()),
        };
        let note = NoteKey::new(name, kind, public).map_err(|_| bad())?;
        Ok((note, SealKey { token: token.clone(), key: self.known(), scheme }))
    }
}

impl Facts {
    /// SHA-256 of the attestation key (SPKI DER), as people compare it.
    pub fn attested_by(&self) -> Option<String> {
        self.attestation_key.as_ref().map(|spki| hex::encode(aws_lc_rs::digest::digest(&SHA256, spki)))
    }

    /// The root keys, as far as they are recorded.
    pub fn roots(&self) -> Roots {
        Roots { keys: self.root.clone(), tpm: self.tpm_root.clone() }
    }

    /// The keys that seal the log of this name, with where they are.
    ///
    /// # Errors
    /// A record cannot be used, or the TPM it needs is not configured.
    pub fn note_keys(&self, origin: &str, tokens: &Tokens) -> Result<Vec<(NoteKey, SealKey)>, BadRecord> {
        let mut keys = vec![self.log.note_key(origin, &tokens.keys)?];
        if let Some(own) = &self.tpm_log {
            let tpm = tokens.tpm.as_ref().ok_or(BadRecord { which: "TPM log" })?;
            keys.push(own.note_key(&format!("{origin}/tpm"), tpm)?);
        }
        Ok(keys)
    }
}
