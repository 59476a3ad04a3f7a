//! Signatures judged by two strangers: aws-lc and the openssl program.
//! Enters: a public key, a scheme, a message, a signature.
//! Leaves: a panic unless both accept it, and both reject it for another message.

use std::fs;
use std::path::Path;
use std::process::Command;

use aws_lc_rs::signature::{self, ParsedPublicKey, VerificationAlgorithm};
use hsm::{Hash, KeyKind, PublicKey, Scheme};

/// Both verifiers accept this signature, and neither takes it for another message.
pub fn assert_verifies(public: &PublicKey, scheme: Scheme, message: &[u8], made: &[u8]) {
    let other = [message, b"!"].concat();
    assert!(
        aws_lc_accepts(public, scheme, message, made),
        "aws-lc rejects a {scheme} signature by {}",
        public.kind
    );
    assert!(
        !aws_lc_accepts(public, scheme, &other, made),
        "aws-lc takes a {scheme} signature for another message"
    );
    assert!(
        openssl_accepts(public, scheme, message, made),
        "openssl rejects a {scheme} signature by {}",
        public.kind
    );
    assert!(
        !openssl_accepts(public, scheme, &other, made),
        "openssl takes a {scheme} signature for another message"
    );
}

/// What aws-lc says.
pub fn aws_lc_accepts(public: &PublicKey, scheme: Scheme, message: &[u8], made: &[u8]) -> bool {
    let algorithm: &'static dyn VerificationAlgorithm = match (public.kind, scheme) {
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
        (kind, scheme) => panic!("a {kind} key does not sign {scheme}"),
    };
    let Ok(key) = ParsedPublicKey::new(algorithm_key(algorithm), &public.spki_der) else {
        panic!("aws-lc does not read the public key of {}", public.kind);
    };
    key.verify_sig(message, made).is_ok()
}

const fn algorithm_key(algorithm: &'static dyn VerificationAlgorithm) -> &'static dyn VerificationAlgorithm {
    algorithm
}

/// What the openssl program says.
pub fn openssl_accepts(public: &PublicKey, scheme: Scheme, message: &[u8], made: &[u8]) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("key.der"), &public.spki_der).unwrap();
    fs::write(at("message"), message).unwrap();
    let in_der = matches!(scheme, Scheme::EcdsaSha256 | Scheme::EcdsaSha384);
    fs::write(at("signature"), if in_der { ecdsa_der(made) } else { made.to_vec() }).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-rawin"]);
    openssl
        .arg("-inkey")
        .arg(at("key.der"))
        .arg("-in")
        .arg(at("message"))
        .arg("-sigfile")
        .arg(at("signature"));
    if let Some(hash) = scheme.hash() {
        openssl.args(["-digest", digest_name(hash)]);
    }
    if let Scheme::RsaPss(_) = scheme {
        openssl.args(["-pkeyopt", "rsa_padding_mode:pss", "-pkeyopt", "rsa_pss_saltlen:digest"]);
    }
    run(openssl, dir.path())
}

fn run(mut openssl: Command, dir: &Path) -> bool {
    match openssl.current_dir(dir).output() {
        Ok(done) => done.status.success(),
        Err(fault) => panic!("openssl does not run ({fault}); install the package openssl"),
    }
}

const fn digest_name(hash: Hash) -> &'static str {
    match hash {
        Hash::Sha256 => "sha256",
        Hash::Sha384 => "sha384",
        Hash::Sha512 => "sha512",
    }
}

/// r then s, as the SEQUENCE of two INTEGERs that openssl reads.
fn ecdsa_der(raw: &[u8]) -> Vec<u8> {
    let (r, s) = raw.split_at(raw.len() / 2);
    let body = [integer(r), integer(s)].concat();
    [&[0x30, u8::try_from(body.len()).unwrap()], body.as_slice()].concat()
}

fn integer(number: &[u8]) -> Vec<u8> {
    let mut bare: Vec<u8> = number.iter().copied().skip_while(|byte| *byte == 0).collect();
    if bare.first().is_none_or(|first| first & 0x80 != 0) {
        bare.insert(0, 0);
    }
    [&[0x02, u8::try_from(bare.len()).unwrap()], bare.as_slice()].concat()
}
