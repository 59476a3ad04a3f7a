//! Public keys as others read them: PEM (RFC 7468), JWK (RFC 7517, 7518, 8037, 8812), OpenSSH (RFC 4253, 5656, 8709).
//! Who enters: SPKI DER from a key record.
//! What leaves: text. A format that does not know a kind of key is left out.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hsm::KeyKind;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::pinned::ed25519_point;

/// A JSON Web Key.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
pub struct Jwk {
    /// Key type: `EC`, `OKP` or `RSA`.
    pub kty: &'static str,
    /// The curve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub crv: Option<&'static str>,
    /// The x coordinate, or the Ed25519 point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub x: Option<String>,
    /// The y coordinate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub y: Option<String>,
    /// The RSA modulus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<String>,
    /// The RSA exponent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub e: Option<String>,
}

enum Parts {
    Curve { x: Vec<u8>, y: Vec<u8> },
    Edwards(Vec<u8>),
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
}

/// DER under a label such as `PUBLIC KEY` or `CERTIFICATE`, 64 characters to the line.
pub fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect::<Vec<_>>().join("\n");
    format!("-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n")
}

/// The key as a JWK.
pub fn jwk(kind: KeyKind, spki_der: &[u8]) -> Option<Jwk> {
    let text = |bytes: Vec<u8>| Some(URL_SAFE_NO_PAD.encode(bytes));
    Some(match parts(kind, spki_der)? {
        Parts::Curve { x, y } => {
            Jwk { kty: "EC", crv: Some(curve(kind)?), x: text(x), y: text(y), ..Jwk::default() }
        }
        Parts::Edwards(point) => Jwk { kty: "OKP", crv: Some("Ed25519"), x: text(point), ..Jwk::default() },
        Parts::Rsa { modulus, exponent } => {
            Jwk { kty: "RSA", n: text(modulus), e: text(exponent), ..Jwk::default() }
        }
    })
}

fn curve(kind: KeyKind) -> Option<&'static str> {
    match kind {
        KeyKind::P256 => Some("P-256"),
        KeyKind::P384 => Some("P-384"),
        KeyKind::Secp256k1 => Some("secp256k1"),
        _ => None,
    }
}

/// The key as one line of an `authorized_keys` file; OpenSSH knows no secp256k1.
pub fn ssh(kind: KeyKind, spki_der: &[u8], comment: &str) -> Option<String> {
    let (name, blob) = match parts(kind, spki_der)? {
        Parts::Curve { x, y } => {
            let curve = match kind {
                KeyKind::P256 => "nistp256",
                KeyKind::P384 => "nistp384",
                _ => return None,
            };
            let name = format!("ecdsa-sha2-{curve}");
            let point = [vec![4], x, y].concat();
            let blob = [string(name.as_bytes()), string(curve.as_bytes()), string(&point)].concat();
            (name, blob)
        }
        Parts::Edwards(point) => {
            ("ssh-ed25519".to_owned(), [string(b"ssh-ed25519"), string(&point)].concat())
        }
        Parts::Rsa { modulus, exponent } => {
            ("ssh-rsa".to_owned(), [string(b"ssh-rsa"), mpint(&exponent), mpint(&modulus)].concat())
        }
    };
    Some(format!("{name} {} {comment}\n", STANDARD.encode(blob)))
}

fn parts(kind: KeyKind, spki_der: &[u8]) -> Option<Parts> {
    if kind == KeyKind::Ed25519 {
        return ed25519_point(spki_der).map(|point| Parts::Edwards(point.to_vec()));
    }
    let (_, spki) = SubjectPublicKeyInfo::from_der(spki_der).ok()?;
    match spki.parsed().ok()? {
        PublicKey::EC(point) => {
            let (first, xy) = point.data().split_first()?;
            let (x, y) = xy.split_at(xy.len() / 2);
            (*first == 4).then(|| Parts::Curve { x: x.to_vec(), y: y.to_vec() })
        }
        PublicKey::RSA(key) => {
            Some(Parts::Rsa { modulus: plain(key.modulus), exponent: plain(key.exponent) })
        }
        _ => None,
    }
}

/// Without the zero that DER puts before a high bit.
fn plain(integer: &[u8]) -> Vec<u8> {
    let start = integer.iter().position(|byte| *byte != 0).unwrap_or(0);
    integer[start..].to_vec()
}

fn string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), bytes].concat()
}

fn mpint(bytes: &[u8]) -> Vec<u8> {
    let pad = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    string(&[if pad { &[0][..] } else { &[] }, bytes].concat())
}
