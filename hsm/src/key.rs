//! What a key is: its name in the token, its public half and where it was born.
//! Enters: names and bytes from configuration, database and token, parsed once.
//! Leaves: values the rest of the crate trusts without looking again.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};

use crate::scheme::{KeyKind, UnknownName};

/// A key's name in the token (CKA_ID), chosen by the caller before the key exists. Printed and read as hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyId(pub [u8; 16]);

/// SHA-256 of a public key's SPKI DER: what pins a key, whatever handle or name it goes by. Printed and read as hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fingerprint(pub [u8; 32]);

macro_rules! hex_bytes {
    ($type:ident, $noun:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($type), "({})"), hex::encode(self.0))
            }
        }

        impl FromStr for $type {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, UnknownName> {
                let mut bytes = Self(Default::default());
                match hex::decode_to_slice(text, &mut bytes.0) {
                    Ok(()) => Ok(bytes),
                    Err(_) => Err(UnknownName {
                        noun: $noun,
                        found: text.chars().take(80).collect(),
                        known: format!("{} hex digits", bytes.0.len() * 2),
                    }),
                }
            }
        }
    };
}

hex_bytes!(KeyId, "key id");
hex_bytes!(Fingerprint, "fingerprint");

/// The public half of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// What kind of key it is.
    pub kind: KeyKind,
    /// SubjectPublicKeyInfo, DER.
    pub spki_der: Vec<u8>,
}

impl PublicKey {
    /// The hash that pins this key.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest::digest(&digest::SHA256, &self.spki_der).as_ref());
        Fingerprint(bytes)
    }
}

/// All that is needed to use a key again, after any restart: stored by the caller, checked by the worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRef {
    /// Its name in the token.
    pub id: KeyId,
    /// What kind of key it is.
    pub kind: KeyKind,
    /// The hash of its public half; another key behind the same name is refused.
    pub fingerprint: Fingerprint,
    /// What a TPM needs to load the key, wrapped under its storage root. For PKCS#11 the public half as it was recorded, SPKI DER, by which
    /// the private one is recognised whatever public objects stand beside it; where it is empty, those decide.
    pub blob: Vec<u8>,
}

impl KeyRef {
    /// The same key, with its recorded public half where there is nothing a TPM would need.
    #[must_use]
    pub fn knowing(mut self, spki_der: &[u8]) -> Self {
        if self.blob.is_empty() {
            self.blob = spki_der.to_vec();
        }
        self
    }

    /// The recorded public half, if the reference carries it.
    #[must_use]
    pub fn public(&self) -> Option<PublicKey> {
        let public = PublicKey { kind: self.kind, spki_der: self.blob.clone() };
        (public.fingerprint() == self.fingerprint).then_some(public)
    }
}

/// An HMAC-SHA256 key that lives in the token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HmacKeyRef {
    /// Its name in the token.
    pub id: KeyId,
    /// HMAC of [`HmacKeyRef::CHECK_TEXT`] under the key: its stand-in for a public half.
    pub check: Fingerprint,
    /// What a TPM needs to load the key; empty for PKCS#11.
    pub blob: Vec<u8>,
}

impl HmacKeyRef {
    /// What is authenticated once to recognise the key later. Callers never let users choose a whole message equal to it.
    pub const CHECK_TEXT: &'static [u8] = b"chancery.hsm.hmac-check.v1";
}

/// The token's own root key, under which [`crate::Token::wrap`] works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootKey {
    /// Its name: CKA_ID in PKCS#11, the hash of the storage root's public area in a TPM.
    pub id: Vec<u8>,
    /// True when this call made it.
    pub created: bool,
    /// What it is recognised by, whatever else bears its name.
    pub check: Vec<u8>,
}

impl RootKey {
    /// What is recorded of it, to be told to every later worker.
    #[must_use]
    pub fn pin(&self) -> RootPin {
        RootPin { id: self.id.clone(), check: self.check.clone() }
    }
}

/// Whose a root key and an anchor in a token are: each appliance draws its own, so that several share one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RootTag(pub [u8; 6]);

impl RootTag {
    /// That of appliances from before there was a choice.
    pub const UNNAMED: Self = Self(*b"root-v");
}

/// The root key that an appliance was made with, as recorded. A worker that is told of it takes no other for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootPin {
    /// Its name.
    pub id: Vec<u8>,
    /// What it is recognised by: a text that it closed and that no other key opens, in PKCS#11; its TPM name, in a TPM.
    pub check: Vec<u8>,
}

/// What the token says about how a key was born, read back after it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Generated inside the token, not imported.
    pub local: bool,
    /// Was extractable at no moment of its life.
    pub never_extractable: bool,
    /// Was sensitive at every moment of its life.
    pub always_sensitive: bool,
    /// The token it was made in.
    pub token_serial: String,
    /// Where its private half comes from. Records from before there was a choice mean "generated".
    #[serde(default)]
    pub origin: Origin,
    /// Whether it may leave the token, wrapped. Records from before there was a choice mean "never".
    #[serde(default)]
    pub custody: Custody,
}

/// Whether a key may ever leave its token. Chosen when the key is made; no later call changes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Custody {
    /// In no form at all.
    #[default]
    NonExtractable,
    /// Wrapped under a backup key that is itself in the token and cannot leave, and in no other form.
    Recoverable,
}

/// Where the private half of a key comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// Made in this token.
    #[default]
    Generated,
    /// Made elsewhere and brought in under an import key: whoever made it may have kept it.
    Imported,
    /// Came back from a backup.
    Restored,
}

/// What the token holds under a key's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Presence {
    /// Nothing.
    Absent,
    /// One half of a pair, left by a call that was cut short. It signs nothing.
    Half,
    /// Both halves.
    Whole(PublicKey),
}

/// What is not as it should be about a key in its token. Seen without using the key for anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyFault {
    /// No private object bears its name.
    PrivateMissing,
    /// Private objects bear its name, and none belongs to the recorded public key.
    PrivateMismatch,
    /// Several private objects bear its name; the one that belongs to the recorded public key signs.
    PrivateDoubled,
    /// No public object bears its name; the recorded public key serves in its place.
    PublicMissing,
    /// A public object of its name is another key than the recorded one.
    PublicMismatch,
    /// Several public objects of its name are the recorded key.
    PublicDoubled,
}

impl KeyFault {
    /// True when the key signs nothing until a person has repaired it.
    #[must_use]
    pub const fn prevents_use(self) -> bool {
        matches!(self, Self::PrivateMissing | Self::PrivateMismatch)
    }

    /// The name in documents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PrivateMissing => "private_missing",
            Self::PrivateMismatch => "private_mismatch",
            Self::PrivateDoubled => "private_doubled",
            Self::PublicMissing => "public_missing",
            Self::PublicMismatch => "public_mismatch",
            Self::PublicDoubled => "public_doubled",
        }
    }

    /// What it means and what to do, for people.
    #[must_use]
    pub const fn advice(self) -> &'static str {
        match self {
            Self::PrivateMissing => {
                "the token holds no private key under its id, so it signs nothing: plug in the right token, restore the token, or restore a backup of the key"
            }
            Self::PrivateMismatch => {
                "the private key under its id belongs to another public key than the recorded one, so nothing is signed with it: restore the token, or a backup of the key"
            }
            Self::PrivateDoubled => {
                "several private keys have its id; the one that belongs to the recorded public key signs, remove the others"
            }
            Self::PublicMissing => "no public key has its id; the recorded one is used in its place",
            Self::PublicMismatch => {
                "a public key that is not the recorded one has its id; it counts for nothing, remove it"
            }
            Self::PublicDoubled => "its public key is there more than once, which changes nothing",
        }
    }
}

/// A key that has just been made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewKey {
    /// Store this to use the key.
    pub key: KeyRef,
    /// Its public half.
    pub public: PublicKey,
    /// How it was born.
    pub provenance: Provenance,
}

/// What is to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SignInput {
    /// The message; hashed before it leaves the daemon where the scheme has a hash.
    Message(Vec<u8>),
    /// Its digest by the scheme's hash. Ed25519 takes none.
    Digest(Vec<u8>),
}
