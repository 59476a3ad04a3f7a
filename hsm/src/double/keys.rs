//! The double's keys: software, throw-away, of every kind.
//! Enters: a kind, later digests and messages.
//! Leaves: signatures of the very form hardware gives.

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RsaEncoding,
};
use zeroize::Zeroizing;

use crate::backend::Fault;
use crate::error::Refusal;
use crate::key::{Custody, Origin, PublicKey};
use crate::scheme::{Hash, KeyKind, Scheme};

/// A key pair in memory.
pub(super) struct SoftKey {
    pub(super) public: PublicKey,
    pub(super) origin: Origin,
    pub(super) custody: Custody,
    pair: Pair,
}

enum Pair {
    Ecdsa(Box<EcdsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
    Rsa(Box<RsaKeyPair>),
}

impl SoftKey {
    pub(super) fn generate(kind: KeyKind, custody: Custody) -> Result<Self, Fault> {
        let made = match kind {
            KeyKind::P256 => ecdsa(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            KeyKind::P384 => ecdsa(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            KeyKind::Secp256k1 => ecdsa(&signature::ECDSA_P256K1_SHA256_FIXED_SIGNING),
            KeyKind::Ed25519 => ed25519(),
            KeyKind::Rsa2048 => rsa(KeySize::Rsa2048),
            KeyKind::Rsa3072 => rsa(KeySize::Rsa3072),
            KeyKind::Rsa4096 => rsa(KeySize::Rsa4096),
        };
        let (pair, spki_der) = made.map_err(|Unspecified| broken("a key was not made"))?;
        Ok(Self { public: PublicKey { kind, spki_der }, origin: Origin::Generated, custody, pair })
    }

    /// A key from outside; `None` when these bytes are no key of this kind.
    pub(super) fn from_pkcs8(kind: KeyKind, der: &[u8], origin: Origin, custody: Custody) -> Option<Self> {
        let read = |algorithm| EcdsaKeyPair::from_pkcs8(algorithm, der).ok();
        let pair = match kind {
            KeyKind::P256 => Pair::Ecdsa(Box::new(read(&signature::ECDSA_P256_SHA256_FIXED_SIGNING)?)),
            KeyKind::P384 => Pair::Ecdsa(Box::new(read(&signature::ECDSA_P384_SHA384_FIXED_SIGNING)?)),
            KeyKind::Secp256k1 => Pair::Ecdsa(Box::new(read(&signature::ECDSA_P256K1_SHA256_FIXED_SIGNING)?)),
            KeyKind::Ed25519 => {
                Pair::Ed25519(Box::new(Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok()?))
            }
            KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => {
                let pair = RsaKeyPair::from_pkcs8(der).ok()?;
                Pair::Rsa(Box::new(
                    Some(pair).filter(|pair| pair.public_modulus_len() == kind.signature_len())?,
                ))
            }
        };
        let spki_der = match &pair {
            Pair::Ecdsa(pair) => spki(pair.public_key()),
            Pair::Ed25519(pair) => spki(pair.public_key()),
            Pair::Rsa(pair) => spki(pair.public_key()),
        };
        Some(Self { public: PublicKey { kind, spki_der: spki_der.ok()? }, origin, custody, pair })
    }

    pub(super) fn to_pkcs8(&self) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let der = match &self.pair {
            Pair::Ecdsa(pair) => pair.to_pkcs8v1().map(|der| der.as_ref().to_vec()),
            Pair::Ed25519(pair) => pair.to_pkcs8v1().map(|der| der.as_ref().to_vec()),
            Pair::Rsa(pair) => {
                let der: Result<Pkcs8V1Der<'_>, Unspecified> = pair.as_der();
                der.map(|der| der.as_ref().to_vec())
            }
        };
        der.map(Zeroizing::new).map_err(|Unspecified| broken("a key was not written"))
    }

    pub(super) fn sign(&self, scheme: Scheme, input: &[u8]) -> Result<Vec<u8>, Fault> {
        let signed = match (&self.pair, scheme) {
            (Pair::Ecdsa(pair), Scheme::EcdsaSha256) => sign_ecdsa(pair, Hash::Sha256, input),
            (Pair::Ecdsa(pair), Scheme::EcdsaSha384) => sign_ecdsa(pair, Hash::Sha384, input),
            (Pair::Ed25519(pair), Scheme::Ed25519) => Ok(pair.sign(input).as_ref().to_vec()),
            (Pair::Rsa(pair), Scheme::RsaPkcs1(hash)) => sign_rsa(pair, pkcs1(hash), hash, input),
            (Pair::Rsa(pair), Scheme::RsaPss(hash)) => sign_rsa(pair, pss(hash), hash, input),
            _ => return Err(Refusal::BadInput("the scheme is of another kind of key".to_owned()).into()),
        };
        signed.map_err(|Unspecified| broken("a signature was not made"))
    }
}

type Made = Result<(Pair, Vec<u8>), Unspecified>;

fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm) -> Made {
    let pair = EcdsaKeyPair::generate(algorithm)?;
    let der = spki(pair.public_key())?;
    Ok((Pair::Ecdsa(Box::new(pair)), der))
}

fn ed25519() -> Made {
    let pair = Ed25519KeyPair::generate()?;
    let der = spki(pair.public_key())?;
    Ok((Pair::Ed25519(Box::new(pair)), der))
}

fn rsa(size: KeySize) -> Made {
    let pair = RsaKeyPair::generate(size)?;
    let der = spki(pair.public_key())?;
    Ok((Pair::Rsa(Box::new(pair)), der))
}

fn spki<'a>(public: &impl AsDer<PublicKeyX509Der<'a>>) -> Result<Vec<u8>, Unspecified> {
    public.as_der().map(|der| der.as_ref().to_vec())
}

fn sign_ecdsa(pair: &EcdsaKeyPair, hash: Hash, input: &[u8]) -> Result<Vec<u8>, Unspecified> {
    Ok(pair.sign_digest(&import(hash, input)?)?.as_ref().to_vec())
}

fn sign_rsa(
    pair: &RsaKeyPair,
    encoding: &'static dyn RsaEncoding,
    hash: Hash,
    input: &[u8],
) -> Result<Vec<u8>, Unspecified> {
    let mut made = vec![0; pair.public_modulus_len()];
    pair.sign_digest(encoding, &import(hash, input)?, &mut made)?;
    Ok(made)
}

fn import(hash: Hash, input: &[u8]) -> Result<Digest, Unspecified> {
    let algorithm = match hash {
        Hash::Sha256 => &digest::SHA256,
        Hash::Sha384 => &digest::SHA384,
        Hash::Sha512 => &digest::SHA512,
    };
    Digest::import_less_safe(input, algorithm)
}

fn pkcs1(hash: Hash) -> &'static dyn RsaEncoding {
    match hash {
        Hash::Sha256 => &signature::RSA_PKCS1_SHA256,
        Hash::Sha384 => &signature::RSA_PKCS1_SHA384,
        Hash::Sha512 => &signature::RSA_PKCS1_SHA512,
    }
}

fn pss(hash: Hash) -> &'static dyn RsaEncoding {
    match hash {
        Hash::Sha256 => &signature::RSA_PSS_SHA256,
        Hash::Sha384 => &signature::RSA_PSS_SHA384,
        Hash::Sha512 => &signature::RSA_PSS_SHA512,
    }
}

pub(super) fn random<const N: usize>() -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::SecureRandom::fill(&SystemRandom::new(), &mut bytes)
        .map_err(|Unspecified| broken("no randomness"))?;
    Ok(bytes)
}

pub(super) fn broken(why: &str) -> Fault {
    Fault::Lost { why: why.to_owned(), harmless: true }
}
