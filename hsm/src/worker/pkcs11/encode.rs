//! Bytes as the token has them, and bytes as the world wants them.
//! Enters: EC points and RSA numbers in the forms modules give them, digests to be signed.
//! Leaves: SubjectPublicKeyInfo DER; curve parameters; DigestInfo.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::signature::RsaPublicKeyComponents;
use cryptoki::object::{Attribute, KeyType};
use hsm::{Hash, KeyKind, PublicKey};

/// CKA_EC_PARAMS by which a curve is asked for, the usual form first.
pub(super) const fn curve_params(kind: KeyKind) -> &'static [&'static [u8]] {
    match kind {
        KeyKind::P256 => &[&[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]],
        KeyKind::P384 => &[&[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22]],
        KeyKind::Secp256k1 => &[&[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a]],
        // PKCS#11 3.0 allows the OID and the curve's name; modules differ in which they take.
        KeyKind::Ed25519 => &[&[0x06, 0x03, 0x2b, 0x65, 0x70], b"\x13\x0cedwards25519"],
        KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => &[],
    }
}

/// The kind of an elliptic key, by its CKA_EC_PARAMS.
pub(super) fn curve_of(params: &[u8]) -> Option<KeyKind> {
    KeyKind::ALL.into_iter().find(|kind| curve_params(*kind).contains(&params))
}

/// The public key behind CKA_EC_POINT. The standard wants an OCTET STRING; some modules give the bare point or a BIT STRING.
pub(super) fn ec_public(kind: KeyKind, ec_point: &[u8]) -> Option<PublicKey> {
    let (prefix, len) = spki_prefix(kind)?;
    let point = match ec_point {
        bare if bare.len() == len => bare,
        [0x04, short, point @ ..] if usize::from(*short) == len && point.len() == len => point,
        [0x03, short, 0, point @ ..] if usize::from(*short) == len + 1 && point.len() == len => point,
        _ => return None,
    };
    if kind != KeyKind::Ed25519 && point[0] != 0x04 {
        return None;
    }
    Some(PublicKey { kind, spki_der: [prefix, point].concat() })
}

/// The public key behind CKA_MODULUS and CKA_PUBLIC_EXPONENT.
pub(super) fn rsa_public(modulus: &[u8], exponent: &[u8]) -> Option<PublicKey> {
    let bare = |number: &[u8]| number.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
    let (n, e) = (bare(modulus), bare(exponent));
    let kind = match n.len() * 8 {
        2048 => KeyKind::Rsa2048,
        3072 => KeyKind::Rsa3072,
        4096 => KeyKind::Rsa4096,
        _ => return None,
    };
    let der = RsaPublicKeyComponents { n, e }.as_der().ok()?;
    Some(PublicKey { kind, spki_der: der.as_ref().to_vec() })
}

/// The type of a kind's objects.
pub(super) const fn key_type(kind: KeyKind) -> KeyType {
    match kind {
        KeyKind::P256 | KeyKind::P384 | KeyKind::Secp256k1 => KeyType::EC,
        KeyKind::Ed25519 => KeyType::EC_EDWARDS,
        KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => KeyType::RSA,
    }
}

/// What makes a public object of a public key that came from outside; `None` when it is no key of the kind it says.
pub(super) fn public_parts(public: &PublicKey) -> Option<Vec<Attribute>> {
    let Some((prefix, len)) = spki_prefix(public.kind) else {
        // The exponent everyone uses, and before it the modulus; built anew it must give the same bytes.
        let (head, exponent) = public.spki_der.split_last_chunk::<3>()?;
        let end = head.len().checked_sub(2)?;
        let modulus = head.get(end.checked_sub(public.kind.signature_len())?..end)?;
        let same = rsa_public(modulus, exponent).is_some_and(|read| read == *public);
        return same.then(|| {
            vec![Attribute::Modulus(modulus.to_vec()), Attribute::PublicExponent(exponent.to_vec())]
        });
    };
    let point = public.spki_der.strip_prefix(prefix).filter(|point| point.len() == len)?;
    let params = curve_params(public.kind).first()?.to_vec();
    let octet_string = [&[0x04, u8::try_from(len).ok()?], point].concat();
    Some(vec![Attribute::EcParams(params), Attribute::EcPoint(octet_string)])
}

/// DigestInfo (RFC 8017, 9.2): what CKM_RSA_PKCS pads and signs.
pub(super) fn digest_info(hash: Hash, digest: &[u8]) -> Vec<u8> {
    let (algorithm, len) = match hash {
        Hash::Sha256 => (0x01, 0x20),
        Hash::Sha384 => (0x02, 0x30),
        Hash::Sha512 => (0x03, 0x40),
    };
    let head =
        [0x30, len + 17, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, algorithm];
    [&head, [0x05, 0x00, 0x04, len].as_slice(), digest].concat()
}

/// Everything of a SubjectPublicKeyInfo that comes before the point, and the point's length.
fn spki_prefix(kind: KeyKind) -> Option<(&'static [u8], usize)> {
    match kind {
        KeyKind::P256 => Some((
            b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00",
            65,
        )),
        KeyKind::P384 => {
            Some((b"\x30\x76\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22\x03\x62\x00", 97))
        }
        KeyKind::Secp256k1 => {
            Some((b"\x30\x56\x30\x10\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x0a\x03\x42\x00", 65))
        }
        KeyKind::Ed25519 => Some((b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00", 32)),
        KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => None,
    }
}

#[cfg(test)]
mod tests {
    use hsm::{Hash, KeyKind};

    use super::{curve_of, curve_params, digest_info, ec_public, rsa_public};

    #[test]
    fn a_point_is_read_in_each_form_that_modules_give_it() {
        for (kind, first, len) in [
            (KeyKind::P256, 4, 65),
            (KeyKind::P384, 4, 97),
            (KeyKind::Secp256k1, 4, 65),
            (KeyKind::Ed25519, 0x55, 32_u8),
        ] {
            let mut bare = vec![0x77; usize::from(len)];
            bare[0] = first;
            let octet_string = [&[0x04, len], bare.as_slice()].concat();
            let bit_string = [&[0x03, len + 1, 0], bare.as_slice()].concat();
            let expected = ec_public(kind, &bare).unwrap();
            assert!(expected.spki_der.ends_with(&bare));
            assert_eq!(ec_public(kind, &octet_string), Some(expected.clone()), "{kind}");
            assert_eq!(ec_public(kind, &bit_string), Some(expected), "{kind}");
        }
    }

    #[test]
    fn a_point_of_wrong_length_or_compressed_is_no_key() {
        for len in [0, 1, 32, 33, 64, 66, 67, 68, 200] {
            assert_eq!(ec_public(KeyKind::P256, &vec![2; len]), None, "{len} bytes");
        }
        assert_eq!(
            ec_public(KeyKind::P256, &[2; 65]),
            None,
            "the first byte says uncompressed, or it is no point"
        );
        assert_eq!(ec_public(KeyKind::Rsa2048, &[4; 65]), None);
    }

    #[test]
    fn an_ed25519_key_that_looks_like_an_octet_string_is_not_cut() {
        // A bare point that happens to begin like `04 1e`.
        let mut bare = [9; 32];
        bare[..2].copy_from_slice(&[0x04, 0x1e]);
        assert!(ec_public(KeyKind::Ed25519, &bare).unwrap().spki_der.ends_with(&bare));
    }

    #[test]
    fn leading_zeros_of_a_modulus_do_not_change_the_key() {
        let mut modulus = vec![0xff; 256];
        let key = rsa_public(&modulus, &[1, 0, 1]).unwrap();
        assert_eq!(key.kind, KeyKind::Rsa2048);
        modulus.insert(0, 0);
        assert_eq!(rsa_public(&modulus, &[0, 1, 0, 1]), Some(key));
        assert_eq!(rsa_public(&[0xff; 128], &[1, 0, 1]), None, "RSA-1024 is no kind of ours");
    }

    #[test]
    fn every_name_of_a_curve_leads_back_to_it() {
        for kind in KeyKind::ALL {
            for name in curve_params(kind) {
                assert_eq!(curve_of(name), Some(kind));
            }
        }
        assert_eq!(curve_of(b""), None);
    }

    #[test]
    fn digest_info_is_what_rfc_8017_prints() {
        let sha256 = digest_info(Hash::Sha256, &[0xaa; 32]);
        assert_eq!(hex::encode(&sha256[..19]), "3031300d060960864801650304020105000420");
        let sha384 = digest_info(Hash::Sha384, &[0xaa; 48]);
        assert_eq!(hex::encode(&sha384[..19]), "3041300d060960864801650304020205000430");
        let sha512 = digest_info(Hash::Sha512, &[0xaa; 64]);
        assert_eq!(hex::encode(&sha512[..19]), "3051300d060960864801650304020305000440");
    }
}
