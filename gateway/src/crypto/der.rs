//! ECDSA signatures in their two shapes: r and s side by side, and the DER that TLS and X.509 use.
//! Who enters: raw signatures from the token, DER signatures from callers.
//! What leaves: the other shape, strictly: one DER form only (X.690 section 10, RFC 3279 section 2.2.3).

use std::str::FromStr;

/// How a caller wants an ECDSA signature.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// `SEQUENCE { r INTEGER, s INTEGER }`, what openssl reads.
    #[default]
    Der,
    /// r and s, each as long as the curve's order: JWS, WebCrypto.
    Raw,
}

impl FromStr for Encoding {
    type Err = crate::malformed::Malformed;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "der" => Ok(Self::Der),
            "raw" => Ok(Self::Raw),
            _ => Err(crate::malformed::Malformed { expected: "signature encoding (`der` or `raw`)" }),
        }
    }
}

/// Bytes that are no ECDSA signature in the shape they should have.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an ECDSA signature in DER")]
pub struct NotASignature;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
/// Longest content of either integer and of the sequence that one length byte can say.
const SHORT_LENGTH_MAX: usize = 127;

/// Writes r and s as DER. The halves of every curve here fit in short lengths.
pub fn ecdsa_to_der(raw: &[u8]) -> Vec<u8> {
    let (r, s) = raw.split_at(raw.len() / 2);
    let mut content = integer(r);
    content.extend(integer(s));
    let mut der = vec![SEQUENCE];
    push_length(&mut der, content.len());
    der.extend(content);
    der
}

fn integer(bytes: &[u8]) -> Vec<u8> {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len().saturating_sub(1));
    let significant = &bytes[start..];
    let pad = significant.first().is_some_and(|byte| byte & 0x80 != 0);
    let mut out = vec![INTEGER];
    push_length(&mut out, significant.len() + usize::from(pad));
    out.extend(pad.then_some(0));
    out.extend_from_slice(significant);
    out
}

fn push_length(out: &mut Vec<u8>, length: usize) {
    debug_assert!(length <= SHORT_LENGTH_MAX, "P-384 needs 104 bytes at most");
    out.push(u8::try_from(length).unwrap_or(u8::MAX));
}

/// Reads DER into r and s of `half` bytes each.
///
/// # Errors
/// Anything but the one right encoding of two non-negative integers that fit.
pub fn ecdsa_from_der(der: &[u8], half: usize) -> Result<Vec<u8>, NotASignature> {
    let (content, rest) = element(der, SEQUENCE)?;
    let (r, tail) = element(content, INTEGER)?;
    let (s, end) = element(tail, INTEGER)?;
    if !rest.is_empty() || !end.is_empty() {
        return Err(NotASignature);
    }
    let mut raw = fixed(r, half)?;
    raw.extend(fixed(s, half)?);
    Ok(raw)
}

fn element(bytes: &[u8], tag: u8) -> Result<(&[u8], &[u8]), NotASignature> {
    let [found, length, rest @ ..] = bytes else { return Err(NotASignature) };
    let length = usize::from(*length);
    if *found != tag || length > SHORT_LENGTH_MAX || length > rest.len() {
        return Err(NotASignature);
    }
    Ok(rest.split_at(length))
}

fn fixed(integer: &[u8], half: usize) -> Result<Vec<u8>, NotASignature> {
    let significant = match integer {
        [] => return Err(NotASignature),
        [0, next, ..] if next & 0x80 == 0 => return Err(NotASignature),
        [0, rest @ ..] => rest,
        [first, ..] if first & 0x80 != 0 => return Err(NotASignature),
        whole => whole,
    };
    let pad = half.checked_sub(significant.len()).ok_or(NotASignature)?;
    Ok([vec![0; pad], significant.to_vec()].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_raw_signature_survives_the_way_to_der_and_back(raw in proptest::collection::vec(any::<u8>(), 64)) {
            prop_assert_eq!(ecdsa_from_der(&ecdsa_to_der(&raw), 32), Ok(raw));
        }

        #[test]
        fn what_reads_as_der_is_the_only_way_to_write_it(der in proptest::collection::vec(any::<u8>(), 0..80)) {
            if let Ok(raw) = ecdsa_from_der(&der, 32) {
                prop_assert_eq!(ecdsa_to_der(&raw), der);
            }
        }
    }

    #[test]
    fn loose_der_is_refused() {
        let good = ecdsa_to_der(&[[0x80; 32], [0x01; 32]].concat());
        assert!(ecdsa_from_der(&good, 32).is_ok());
        let mut trailing = good.clone();
        trailing.push(0);
        let mut negative = good.clone();
        negative[4] = 0x80;
        for bad in [&good[..good.len() - 1], &trailing, &negative, &[], &[0x30, 0x06, 2, 1, 0, 2, 2, 0, 1]] {
            assert_eq!(ecdsa_from_der(bad, 32), Err(NotASignature), "{bad:02x?}");
        }
    }
}
