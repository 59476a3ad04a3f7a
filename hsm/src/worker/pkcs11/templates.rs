//! What is asked of a token for a new key, and what must be read back of it.
//! Enters: a kind, a name, a label.
//! Leaves: templates that make a key sensitive and never extractable; the list that proves it.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType};
use cryptoki::types::Ulong;
use hsm::{KeyId, KeyKind};

use super::encode::curve_params;

/// Whether a generated key stays.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    InToken,
    InSession,
}

/// The templates of a signing key's two halves.
pub(super) fn pair_templates(
    id: KeyId,
    kind: KeyKind,
    params: Option<&[u8]>,
    label: &str,
    keep: Keep,
) -> (Vec<Attribute>, Vec<Attribute>) {
    let token = Attribute::Token(keep == Keep::InToken);
    let name = [Attribute::Id(id.0.to_vec()), Attribute::Label(label.as_bytes().to_vec())];
    let mut public = vec![token.clone(), Attribute::Private(false), Attribute::Verify(true)];
    public.extend(name.clone());
    match params {
        Some(params) => public.push(Attribute::EcParams(params.to_vec())),
        None => {
            let bits = Ulong::from(kind.signature_len() as u64 * 8);
            public.extend([Attribute::ModulusBits(bits), Attribute::PublicExponent(vec![1, 0, 1])]);
        }
    }
    let mut private = vec![
        token,
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ];
    private.extend(name);
    (public, private)
}

/// The mechanism that makes a kind, with the ways its curve may be named.
pub(super) const fn generator(kind: KeyKind) -> (Mechanism<'static>, &'static [&'static [u8]]) {
    let mechanism = match kind {
        KeyKind::P256 | KeyKind::P384 | KeyKind::Secp256k1 => Mechanism::EccKeyPairGen,
        KeyKind::Ed25519 => Mechanism::EccEdwardsKeyPairGen,
        KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => Mechanism::RsaPkcsKeyPairGen,
    };
    (mechanism, curve_params(kind))
}

/// What every secret key of ours has.
pub(super) fn secret_template(id: Vec<u8>, label: &str) -> Vec<Attribute> {
    vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::ValueLen(Ulong::from(32)),
        Attribute::Id(id),
        Attribute::Label(label.as_bytes().to_vec()),
    ]
}

/// The value of one of the flags we ask for.
pub(super) fn flag(attribute: &Attribute) -> Option<bool> {
    match attribute {
        Attribute::Token(value)
        | Attribute::Private(value)
        | Attribute::Sensitive(value)
        | Attribute::Extractable(value)
        | Attribute::AlwaysSensitive(value)
        | Attribute::NeverExtractable(value)
        | Attribute::Local(value)
        | Attribute::Sign(value)
        | Attribute::Decrypt(value)
        | Attribute::Unwrap(value) => Some(*value),
        _ => None,
    }
}

/// What is read back of every signing key.
pub(super) const SAFE_PRIVATE: [(AttributeType, bool); 10] = [
    (AttributeType::Token, true),
    (AttributeType::Private, true),
    (AttributeType::Sensitive, true),
    (AttributeType::Extractable, false),
    (AttributeType::AlwaysSensitive, true),
    (AttributeType::NeverExtractable, true),
    (AttributeType::Local, true),
    (AttributeType::Sign, true),
    (AttributeType::Decrypt, false),
    (AttributeType::Unwrap, false),
];

/// What is read back of every secret key.
pub(super) const SAFE_SECRET: [(AttributeType, bool); 6] = [
    (AttributeType::Token, true),
    (AttributeType::Sensitive, true),
    (AttributeType::Extractable, false),
    (AttributeType::AlwaysSensitive, true),
    (AttributeType::NeverExtractable, true),
    (AttributeType::Local, true),
];
