//! `chancery key import`: the whole import in one command, from announcing the key to the end of its workflow.
//! Who enters: a private key in PEM, not encrypted, and the name it is to have.
//! What leaves: the key in the token; in the clear it never leaves this process, and what was read of it is wiped.

use std::path::Path;
use std::time::Duration;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::key_wrap::{AES_256, AesKek, KeyWrapPadded};
use aws_lc_rs::rsa::{
    OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey,
};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256K1_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING,
    EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::local::Ask;
use super::{Common, Failure, code, show};
use crate::crypto;
use crate::dice::Dice;

/// Making an RSA key takes a software token seconds, and others less.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
const LOOKS_MAX: u32 = 1500;

/// A private key that was read, with what is public of it.
struct Outside {
    pkcs8: Zeroizing<Vec<u8>>,
    kind: &'static str,
    spki: Vec<u8>,
}

pub(super) fn import(common: &Common, name: &str, file: &Path) -> Result<(), Failure> {
    let outside = Outside::read(file)?;
    let form =
        json!({ "name": name, "kind": outside.kind, "public_key": crypto::pem("PUBLIC KEY", &outside.spki) });
    let started = Ask::post("/v1/workflows/key.import", Some(form)).send(common)?;
    let run = started["id"].as_str().unwrap_or_default().to_owned();
    let incoming = awaited(common, &run, || {
        let key = Ask::get(format!("/v1/keys/{name}")).send(common).unwrap_or_default();
        key["incoming"]["pem"].is_string().then(|| key["incoming"].clone())
    })?;
    let wrapped = outside.wrapped_for(&incoming)?;
    let body = json!({ "wrapped": STANDARD.encode(wrapped) });
    Ask::post(format!("/v1/workflows/{run}/blob"), Some(body)).send(common)?;
    awaited(common, &run, || None::<()>)
        .or_else(|why| if why.word == "succeeded" { Ok(()) } else { Err(why) })?;
    let key = Ask::get(format!("/v1/keys/{name}")).send(common)?;
    show::fields(common.json, &key, &["id", "name", "kind", "state", "latest_version"]);
    if !common.json {
        eprintln!(
            "{} can go on signing outside for whoever has it: destroy it, and every copy.",
            file.display()
        );
    }
    Ok(())
}

/// Looks again and again until something is there, or the workflow is over: `succeeded` is then the failure's word.
fn awaited<T>(common: &Common, run: &str, mut found: impl FnMut() -> Option<T>) -> Result<T, Failure> {
    for _ in 0..LOOKS_MAX {
        if let Some(found) = found() {
            return Ok(found);
        }
        let shown = Ask::get(format!("/v1/workflows/{run}")).send(common)?;
        match shown["state"].as_str().unwrap_or_default() {
            "succeeded" => return Err(Failure::new(code::REFUSED, "succeeded", "the import is over")),
            state @ ("compensated" | "abandoned" | "stuck_forward" | "stuck_undo") => {
                let words = format!("the import ended ({state}): {}", show::plain(&shown["error"]));
                return Err(Failure::new(code::REFUSED, "import_refused", words));
            }
            _ => std::thread::sleep(LOOK_AGAIN),
        }
    }
    let words = format!("the import takes too long; `chancery saga show {run}` says where it stands");
    Err(Failure::new(code::REFUSED, "too_late", words))
}

impl Outside {
    fn read(file: &Path) -> Result<Self, Failure> {
        let usage = |words: String| Failure::new(code::USAGE, "usage", words);
        let der = PrivatePkcs8KeyDer::from_pem_file(file).map_err(|why| {
            usage(format!(
                "{}: no private key in PKCS#8 PEM without a passphrase ({why}); \
                 `openssl pkcs8 -topk8 -nocrypt -in OLD -out NEW` makes one",
                file.display()
            ))
        })?;
        let pkcs8 = Zeroizing::new(der.secret_pkcs8_der().to_vec());
        let (kind, spki) = public_half(&pkcs8).ok_or_else(|| {
            usage(format!(
                "{}: none of the kinds p256, p384, secp256k1, ed25519, rsa-2048, rsa-3072 and rsa-4096",
                file.display()
            ))
        })?;
        Ok(Self { pkcs8, kind, spki })
    }

    /// An AES key wrapped by RSA-OAEP for the token, and the key wrapped by that (RFC 5649), one behind the other.
    fn wrapped_for(&self, incoming: &Value) -> Result<Vec<u8>, Failure> {
        let failed = |what: &str| {
            Failure::new(code::FAILED, "not_wrapped", format!("{what} failed; nothing was sent"))
        };
        let pem = incoming["pem"].as_str().unwrap_or_default();
        let spki = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| failed("reading the wrapping key"))?;
        let public = PublicEncryptingKey::from_der(&spki).map_err(|_| failed("reading the wrapping key"))?;
        let oaep = OaepPublicEncryptingKey::new(public).map_err(|_| failed("reading the wrapping key"))?;
        let algorithm = match incoming["oaep"].as_str() {
            Some("sha256") => &OAEP_SHA256_MGF1SHA256,
            Some("sha1") => &OAEP_SHA1_MGF1SHA1,
            _ => return Err(failed("finding the hash of OAEP")),
        };
        let aes: Zeroizing<[u8; 32]> = Zeroizing::new(Dice::system().throw());
        let mut first = vec![0; oaep.ciphertext_size()];
        let first = oaep
            .encrypt(algorithm, aes.as_slice(), &mut first, None)
            .map_err(|_| failed("wrapping"))?
            .to_vec();
        let kek = AesKek::new(&AES_256, aes.as_slice()).map_err(|_| failed("wrapping"))?;
        let mut second = vec![0; self.pkcs8.len() + 16];
        let second = kek.wrap_with_padding(&self.pkcs8, &mut second).map_err(|_| failed("wrapping"))?;
        Ok([first.as_slice(), second].concat())
    }
}

fn public_half(pkcs8: &[u8]) -> Option<(&'static str, Vec<u8>)> {
    for (kind, algorithm) in [
        ("p256", &ECDSA_P256_SHA256_ASN1_SIGNING),
        ("p384", &ECDSA_P384_SHA384_ASN1_SIGNING),
        ("secp256k1", &ECDSA_P256K1_SHA256_ASN1_SIGNING),
    ] {
        if let Ok(pair) = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8) {
            return Some((kind, pair.public_key().as_der().ok()?.as_ref().to_vec()));
        }
    }
    if let Ok(pair) = Ed25519KeyPair::from_pkcs8(pkcs8) {
        return Some(("ed25519", pair.public_key().as_der().ok()?.as_ref().to_vec()));
    }
    let pair = RsaKeyPair::from_pkcs8(pkcs8).ok()?;
    let kind = match pair.public_modulus_len() {
        256 => "rsa-2048",
        384 => "rsa-3072",
        512 => "rsa-4096",
        _ => return None,
    };
    Some((kind, pair.public_key().as_der().ok()?.as_ref().to_vec()))
}
