//! A public key that was recorded when its key was made, ready to verify against.
//! Who enters: SPKI DER from a key record; signatures from the token or from a caller.
//! What leaves: yes or no. Every signature that leaves the house has had a yes here.

use aws_lc_rs::digest::{self, Digest};
use aws_lc_rs::signature::{self as lc, ParsedPublicKey, VerificationAlgorithm};
use hsm::{Hash, KeyKind, Scheme, SignInput};

/// The recorded public key cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the recorded public key of a {kind} key cannot be read")]
pub struct Unusable {
    kind: KeyKind,
}

/// Why a signature did not verify.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyRefused {
    /// The key cannot make such signatures.
    #[error("a {kind} key does not sign with {scheme}")]
    Scheme {
        /// The key's kind.
        kind: KeyKind,
        /// The scheme asked for.
        scheme: Scheme,
    },
    /// The digest is not as long as the scheme's hash.
    #[error("the digest has {found} bytes, {scheme} takes {expected}")]
    DigestLength {
        /// The scheme.
        scheme: Scheme,
        /// Bytes the hash has.
        expected: usize,
        /// Bytes that came.
        found: usize,
    },
    /// The signature is not this key's signature of this.
    #[error("the signature does not verify")]
    Signature,
}

/// A recorded public key, parsed once for each scheme it can be used with.
pub struct PinnedKey {
    kind: KeyKind,
    by_scheme: Vec<(Scheme, ParsedPublicKey)>,
}

impl PinnedKey {
    /// Parses the key.
    ///
    /// # Errors
    /// The bytes are no key of that kind.
    pub fn new(kind: KeyKind, spki_der: &[u8]) -> Result<Self, Unusable> {
        let material = if kind == KeyKind::Ed25519 { ed25519_point(spki_der) } else { Some(spki_der) };
        let material = material.ok_or(Unusable { kind })?;
        let parse = |scheme: &Scheme| {
            let parsed =
                ParsedPublicKey::new(algorithm(kind, *scheme), material).map_err(|_| Unusable { kind })?;
            Ok((*scheme, parsed))
        };
        let by_scheme = kind.schemes().iter().map(parse).collect::<Result<_, _>>()?;
        Ok(Self { kind, by_scheme })
    }

    /// The key's kind.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Is this an input that the key can sign with the scheme?
    ///
    /// # Errors
    /// The wrong scheme for the key, or a digest of the wrong length.
    pub fn accepts(&self, scheme: Scheme, input: &SignInput) -> Result<(), VerifyRefused> {
        if !self.kind.schemes().contains(&scheme) {
            return Err(VerifyRefused::Scheme { kind: self.kind, scheme });
        }
        match (input, scheme.hash()) {
            (SignInput::Message(_), _) => Ok(()),
            (SignInput::Digest(bytes), Some(hash)) if bytes.len() == hash.len() => Ok(()),
            (SignInput::Digest(bytes), hash) => Err(VerifyRefused::DigestLength {
                scheme,
                expected: hash.map_or(0, Hash::len),
                found: bytes.len(),
            }),
        }
    }

    /// Verifies a signature in the token's shape: r and s side by side, 64 bytes of Ed25519, or an RSA block.
    ///
    /// # Errors
    /// It is not this key's signature of the input.
    pub fn verify(&self, scheme: Scheme, input: &SignInput, raw: &[u8]) -> Result<(), VerifyRefused> {
        self.accepts(scheme, input)?;
        let key = self.by_scheme.iter().find(|(known, _)| *known == scheme).map(|(_, key)| key);
        let key = key.ok_or(VerifyRefused::Scheme { kind: self.kind, scheme })?;
        let verdict = match (input, scheme.hash()) {
            (SignInput::Digest(bytes), Some(hash)) => Digest::import_less_safe(bytes, digest_of(hash))
                .and_then(|digest| key.verify_digest_sig(&digest, raw)),
            (SignInput::Message(bytes) | SignInput::Digest(bytes), _) => key.verify_sig(bytes, raw),
        };
        verdict.map_err(|_| VerifyRefused::Signature)
    }
}

impl std::fmt::Debug for PinnedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PinnedKey({})", self.kind)
    }
}

fn algorithm(kind: KeyKind, scheme: Scheme) -> &'static dyn VerificationAlgorithm {
    match (kind, scheme) {
        (KeyKind::P384, _) => &lc::ECDSA_P384_SHA384_FIXED,
        (KeyKind::Secp256k1, _) => &lc::ECDSA_P256K1_SHA256_FIXED,
        (_, Scheme::EcdsaSha256 | Scheme::EcdsaSha384) => &lc::ECDSA_P256_SHA256_FIXED,
        (_, Scheme::Ed25519) => &lc::ED25519,
        (_, Scheme::RsaPkcs1(Hash::Sha256)) => &lc::RSA_PKCS1_2048_8192_SHA256,
        (_, Scheme::RsaPkcs1(Hash::Sha384)) => &lc::RSA_PKCS1_2048_8192_SHA384,
        (_, Scheme::RsaPkcs1(Hash::Sha512)) => &lc::RSA_PKCS1_2048_8192_SHA512,
        (_, Scheme::RsaPss(Hash::Sha256)) => &lc::RSA_PSS_2048_8192_SHA256,
        (_, Scheme::RsaPss(Hash::Sha384)) => &lc::RSA_PSS_2048_8192_SHA384,
        (_, Scheme::RsaPss(Hash::Sha512)) => &lc::RSA_PSS_2048_8192_SHA512,
    }
}

fn digest_of(hash: Hash) -> &'static digest::Algorithm {
    match hash {
        Hash::Sha256 => &digest::SHA256,
        Hash::Sha384 => &digest::SHA384,
        Hash::Sha512 => &digest::SHA512,
    }
}

/// SPKI of Ed25519 is a fixed prefix and the 32 bytes of the point (RFC 8410 section 4).
const ED25519_SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

pub(super) fn ed25519_point(spki_der: &[u8]) -> Option<&[u8]> {
    spki_der.strip_prefix(&ED25519_SPKI_PREFIX).filter(|point| point.len() == 32)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};

    use super::*;

    fn p256() -> (EcdsaKeyPair, PinnedKey) {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let spki = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(
            pair.public_key(),
        )
        .unwrap();
        let pinned = PinnedKey::new(KeyKind::P256, spki.as_ref()).unwrap();
        (pair, pinned)
    }

    #[test]
    fn a_signature_verifies_over_the_message_and_over_its_digest() {
        let (pair, pinned) = p256();
        let signature = pair.sign(&SystemRandom::new(), b"text").unwrap();
        let digest = Hash::Sha256.digest(b"text");
        assert_eq!(
            pinned.verify(Scheme::EcdsaSha256, &SignInput::Message(b"text".to_vec()), signature.as_ref()),
            Ok(())
        );
        assert_eq!(
            pinned.verify(Scheme::EcdsaSha256, &SignInput::Digest(digest), signature.as_ref()),
            Ok(())
        );
    }

    #[test]
    fn one_flipped_bit_anywhere_is_refused() {
        let (pair, pinned) = p256();
        let signature = pair.sign(&SystemRandom::new(), b"text").unwrap();
        for at in 0..64 {
            let mut bad = signature.as_ref().to_vec();
            bad[at] ^= 1;
            let input = SignInput::Message(b"text".to_vec());
            assert_eq!(pinned.verify(Scheme::EcdsaSha256, &input, &bad), Err(VerifyRefused::Signature));
        }
    }

    #[test]
    fn wrong_scheme_and_wrong_digest_length_are_told_apart() {
        let (_, pinned) = p256();
        let short = SignInput::Digest(vec![0; 20]);
        assert!(matches!(pinned.accepts(Scheme::Ed25519, &short), Err(VerifyRefused::Scheme { .. })));
        assert!(matches!(
            pinned.accepts(Scheme::EcdsaSha256, &short),
            Err(VerifyRefused::DigestLength { expected: 32, found: 20, .. })
        ));
    }
}
