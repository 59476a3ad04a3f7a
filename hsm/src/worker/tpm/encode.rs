//! Encodings that the world outside the TPM expects: SPKI for public keys, DER or fixed length for signatures.
//! In come public areas and signatures as the TPM states them.
//! Out go bytes.

use hsm::backend::Fault;
use hsm::{KeyKind, PublicKey, Refusal};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::structures::{EccPoint, Public, Signature};
use tss_esapi_sys::TPMT_SIGNATURE;

use super::templates::unreadable;

/// SubjectPublicKeyInfo up to the point, for an uncompressed point on P-256 and P-384 (RFC 5480).
const P256_PREFIX: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200";
const P384_PREFIX: &str = "3076301006072a8648ce3d020106052b81040022036200";
/// SubjectPublicKeyInfo up to the modulus, for 2048 bits and the exponent 65537 (RFC 8017), and what follows it.
const RSA_2048_PREFIX: &str = "30820122300d06092a864886f70d01010105000382010f003082010a0282010100";
const RSA_2048_SUFFIX: [u8; 5] = [0x02, 0x03, 0x01, 0x00, 0x01];

/// A public key in the form everyone reads.
pub(super) fn public_key(public: &Public) -> Result<PublicKey, Fault> {
    let (kind, spki_der) = match public {
        Public::Ecc { parameters, unique, .. } if parameters.ecc_curve() == EccCurve::NistP256 => {
            (KeyKind::P256, point(P256_PREFIX, unique, 32)?)
        }
        Public::Ecc { parameters, unique, .. } if parameters.ecc_curve() == EccCurve::NistP384 => {
            (KeyKind::P384, point(P384_PREFIX, unique, 48)?)
        }
        Public::Rsa { unique, .. } if unique.value().len() == 256 => {
            let mut der = known_hex(RSA_2048_PREFIX);
            der.extend(unique.value());
            der.extend(RSA_2048_SUFFIX);
            (KeyKind::Rsa2048, der)
        }
        _ => {
            return Err(
                Refusal::Other("the TPM holds a key of a kind that is not used here".to_owned()).into()
            );
        }
    };
    Ok(PublicKey { kind, spki_der })
}

/// A signature as this product passes it on: r then s at full length, or RSA's bytes.
pub(super) fn fixed_length(signature: TPMT_SIGNATURE, len: usize) -> Result<Vec<u8>, Fault> {
    match Signature::try_from(signature).map_err(unreadable)? {
        Signature::EcDsa(ecdsa) => {
            let mut bytes = padded(ecdsa.signature_r().value(), len / 2)?;
            bytes.extend(padded(ecdsa.signature_s().value(), len / 2)?);
            Ok(bytes)
        }
        Signature::RsaSsa(rsa) | Signature::RsaPss(rsa) => padded(rsa.signature().value(), len),
        _ => Err(Refusal::Other("the TPM signed with another scheme than asked for".to_owned()).into()),
    }
}

/// An ECDSA signature over P-256 as DER, the form in which attestations are checked by other tools.
pub(super) fn der(signature: TPMT_SIGNATURE) -> Result<Vec<u8>, Fault> {
    let fixed = fixed_length(signature, 64)?;
    let (r, s) = fixed.split_at(32);
    let body = [integer(r), integer(s)].concat();
    // Both numbers are at most 33 bytes long, so every length fits one byte.
    Ok([vec![0x30, body.len() as u8], body].concat())
}

fn integer(magnitude: &[u8]) -> Vec<u8> {
    let zeros = magnitude.iter().take_while(|byte| **byte == 0).count();
    let digits = &magnitude[zeros.min(magnitude.len() - 1)..];
    let sign = if digits[0] & 0x80 != 0 { &[0][..] } else { &[] };
    [&[0x02, (sign.len() + digits.len()) as u8], sign, digits].concat()
}

fn point(prefix: &str, point: &EccPoint, len: usize) -> Result<Vec<u8>, Fault> {
    let mut der = known_hex(prefix);
    der.push(0x04);
    der.extend(padded(point.x().value(), len)?);
    der.extend(padded(point.y().value(), len)?);
    Ok(der)
}

/// Some TPMs leave leading zeros out.
fn padded(bytes: &[u8], len: usize) -> Result<Vec<u8>, Fault> {
    let missing = len.checked_sub(bytes.len());
    let missing =
        missing.ok_or_else(|| Refusal::Other(format!("the TPM answered with more than {len} bytes")))?;
    Ok([vec![0; missing], bytes.to_vec()].concat())
}

/// Decodes one of the constants above; a test sees that each decodes.
fn known_hex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_is_hexadecimal() {
        assert!([P256_PREFIX, P384_PREFIX, RSA_2048_PREFIX].iter().all(|text| !known_hex(text).is_empty()));
    }

    #[test]
    fn numbers_are_written_as_der_wants_them() {
        assert_eq!(integer(&[0, 0, 1]), [2, 1, 1]);
        assert_eq!(integer(&[0x80]), [2, 2, 0, 0x80]);
        assert_eq!(integer(&[0, 0]), [2, 1, 0]);
    }

    #[test]
    fn a_number_that_lost_its_leading_zeros_gets_them_back() {
        assert_eq!(padded(&[7], 3), Ok(vec![0, 0, 7]));
        assert!(padded(&[7; 4], 3).is_err());
    }
}
