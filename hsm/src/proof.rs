//! A signature judged in software, by the public key it should belong to.
//! Enters: a public key, a scheme, a message, a signature.
//! Leaves: yes or no.

use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};

use crate::key::PublicKey;
use crate::scheme::{Hash, KeyKind, Scheme};

impl PublicKey {
    /// True when this key's private half signed `message`. Signatures have the form that [`crate::Token::sign`] gives them.
    #[must_use]
    pub fn verifies(&self, scheme: Scheme, message: &[u8], made: &[u8]) -> bool {
        let algorithm: &'static dyn VerificationAlgorithm = match (self.kind, scheme) {
            (KeyKind::P256, Scheme::EcdsaSha256) => &signature::ECDSA_P256_SHA256_FIXED,
            (KeyKind::Secp256k1, Scheme::EcdsaSha256) => &signature::ECDSA_P256K1_SHA256_FIXED,
            (KeyKind::P384, Scheme::EcdsaSha384) => &signature::ECDSA_P384_SHA384_FIXED,
            (KeyKind::Ed25519, Scheme::Ed25519) => &signature::ED25519,
            (_, Scheme::RsaPkcs1(Hash::Sha256)) => &signature::RSA_PKCS1_2048_8192_SHA256,
            (_, Scheme::RsaPkcs1(Hash::Sha384)) => &signature::RSA_PKCS1_2048_8192_SHA384,
            (_, Scheme::RsaPkcs1(Hash::Sha512)) => &signature::RSA_PKCS1_2048_8192_SHA512,
            (_, Scheme::RsaPss(Hash::Sha256)) => &signature::RSA_PSS_2048_8192_SHA256,
            (_, Scheme::RsaPss(Hash::Sha384)) => &signature::RSA_PSS_2048_8192_SHA384,
            (_, Scheme::RsaPss(Hash::Sha512)) => &signature::RSA_PSS_2048_8192_SHA512,
            _ => return false,
        };
        let key = ParsedPublicKey::new(algorithm, &self.spki_der);
        key.is_ok_and(|key| key.verify_sig(message, made).is_ok())
    }
}
