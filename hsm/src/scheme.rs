//! Kinds of key, hashes and signature schemes, and which goes with which.
//! Enters: names from configuration, API and database.
//! Leaves: values for which only sensible combinations pass.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A kind of asymmetric key that a token may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyKind {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// SEC 2 secp256k1, the curve of most chains.
    Secp256k1,
    /// Edwards 25519, pure.
    Ed25519,
    /// RSA with a modulus of 2048 bits.
    Rsa2048,
    /// RSA with a modulus of 3072 bits.
    Rsa3072,
    /// RSA with a modulus of 4096 bits.
    Rsa4096,
}

impl KeyKind {
    /// Every kind, in the order tables print them.
    pub const ALL: [Self; 7] =
        [Self::P256, Self::P384, Self::Secp256k1, Self::Ed25519, Self::Rsa2048, Self::Rsa3072, Self::Rsa4096];

    /// The name in configuration, API and ledger.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::P256 => "p256",
            Self::P384 => "p384",
            Self::Secp256k1 => "secp256k1",
            Self::Ed25519 => "ed25519",
            Self::Rsa2048 => "rsa-2048",
            Self::Rsa3072 => "rsa-3072",
            Self::Rsa4096 => "rsa-4096",
        }
    }

    /// The schemes a key of this kind may sign with; the first is the usual one.
    #[must_use]
    pub const fn schemes(self) -> &'static [Scheme] {
        match self {
            Self::P256 | Self::Secp256k1 => &[Scheme::EcdsaSha256],
            Self::P384 => &[Scheme::EcdsaSha384],
            Self::Ed25519 => &[Scheme::Ed25519],
            Self::Rsa2048 | Self::Rsa3072 | Self::Rsa4096 => &RSA_SCHEMES,
        }
    }

    /// Length in bytes of every signature by a key of this kind.
    #[must_use]
    pub const fn signature_len(self) -> usize {
        match self {
            Self::P256 | Self::Secp256k1 | Self::Ed25519 => 64,
            Self::P384 => 96,
            Self::Rsa2048 => 256,
            Self::Rsa3072 => 384,
            Self::Rsa4096 => 512,
        }
    }
}

const RSA_SCHEMES: [Scheme; 6] = [
    Scheme::RsaPkcs1(Hash::Sha256),
    Scheme::RsaPkcs1(Hash::Sha384),
    Scheme::RsaPkcs1(Hash::Sha512),
    Scheme::RsaPss(Hash::Sha256),
    Scheme::RsaPss(Hash::Sha384),
    Scheme::RsaPss(Hash::Sha512),
];

/// A hash function that a scheme may prescribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Hash {
    /// Length of a digest in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a digest is never empty")]
    pub const fn len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The digest of a message.
    #[must_use]
    pub fn digest(self, message: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        };
        digest::digest(algorithm, message).as_ref().to_vec()
    }
}

/// How a signature is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// ECDSA over SHA-256; the signature is r then s, each of the length of the group order.
    EcdsaSha256,
    /// ECDSA over SHA-384; the signature is r then s.
    EcdsaSha384,
    /// Pure Ed25519 (RFC 8032), over the message itself.
    Ed25519,
    /// RSASSA-PKCS1-v1_5.
    RsaPkcs1(Hash),
    /// RSASSA-PSS, MGF1 with the same hash, salt as long as the digest.
    RsaPss(Hash),
}

impl Scheme {
    /// Every scheme, in the order tables print them.
    pub const ALL: [Self; 9] = [
        Self::EcdsaSha256,
        Self::EcdsaSha384,
        Self::Ed25519,
        RSA_SCHEMES[0],
        RSA_SCHEMES[1],
        RSA_SCHEMES[2],
        RSA_SCHEMES[3],
        RSA_SCHEMES[4],
        RSA_SCHEMES[5],
    ];

    /// The name in configuration, API and ledger.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::EcdsaSha256 => "ecdsa-sha256",
            Self::EcdsaSha384 => "ecdsa-sha384",
            Self::Ed25519 => "ed25519",
            Self::RsaPkcs1(Hash::Sha256) => "rsa-pkcs1-sha256",
            Self::RsaPkcs1(Hash::Sha384) => "rsa-pkcs1-sha384",
            Self::RsaPkcs1(Hash::Sha512) => "rsa-pkcs1-sha512",
            Self::RsaPss(Hash::Sha256) => "rsa-pss-sha256",
            Self::RsaPss(Hash::Sha384) => "rsa-pss-sha384",
            Self::RsaPss(Hash::Sha512) => "rsa-pss-sha512",
        }
    }

    /// The hash applied before signing; `None` when the scheme signs the message itself.
    #[must_use]
    pub const fn hash(self) -> Option<Hash> {
        match self {
            Self::EcdsaSha256 => Some(Hash::Sha256),
            Self::EcdsaSha384 => Some(Hash::Sha384),
            Self::Ed25519 => None,
            Self::RsaPkcs1(hash) | Self::RsaPss(hash) => Some(hash),
        }
    }
}

/// A name that is none of those we know.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is no {noun}; one of these is: {known}")]
pub struct UnknownName {
    pub(crate) noun: &'static str,
    pub(crate) found: String,
    pub(crate) known: String,
}

macro_rules! named {
    ($type:ty, $noun:literal) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $type {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, UnknownName> {
                Self::ALL.into_iter().find(|one| one.name() == text).ok_or_else(|| UnknownName {
                    noun: $noun,
                    found: text.chars().take(64).collect(),
                    known: Self::ALL.map(Self::name).join(", "),
                })
            }
        }

        // People read the name; between daemon and worker one byte, the place in `ALL`, is enough.
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                if to.is_human_readable() {
                    return to.serialize_str(self.name());
                }
                let place = Self::ALL.iter().position(|one| one == self).unwrap_or_default();
                u8::try_from(place).map_err(serde::ser::Error::custom)?.serialize(to)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                if from.is_human_readable() {
                    return String::deserialize(from)?.parse().map_err(D::Error::custom);
                }
                let place = usize::from(u8::deserialize(from)?);
                Self::ALL.get(place).copied().ok_or_else(|| D::Error::custom(concat!("no such ", $noun)))
            }
        }
    };
}

named!(KeyKind, "key kind");
named!(Scheme, "signature scheme");
