//! What is asked of a token for a new key, and what must be read back of it.
//! Enters: a kind, a name, a label.
//! Leaves: templates that make a key sensitive and never extractable; the list that proves it.

use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType};
use cryptoki::types::Ulong;
use hsm::{Custody, KeyId, KeyKind, Origin};

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
    custody: Custody,
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
    let mut private = vec![token];
    private.extend(private_duties(custody));
    private.extend(name);
    (public, private)
}

/// What a signing key's private half may do, however it comes into the token.
pub(super) fn private_duties(custody: Custody) -> [Attribute; 7] {
    [
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(custody == Custody::Recoverable),
        Attribute::Sign(true),
        Attribute::Decrypt(false),
        Attribute::Unwrap(false),
        Attribute::Derive(false),
    ]
}

/// The templates of an import key's two halves: RSA that unwraps and does nothing else.
pub(super) fn import_templates(id: KeyId, label: &str) -> (Vec<Attribute>, Vec<Attribute>) {
    let name = [Attribute::Id(id.0.to_vec()), Attribute::Label(label.as_bytes().to_vec())];
    let mut public = vec![
        Attribute::Token(true),
        Attribute::Private(false),
        Attribute::Verify(false),
        Attribute::Encrypt(false),
        Attribute::Wrap(true),
        Attribute::ModulusBits(Ulong::from(IMPORT_KEY_BITS)),
        Attribute::PublicExponent(vec![1, 0, 1]),
    ];
    let mut private = vec![
        Attribute::Token(true),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(false),
        Attribute::Decrypt(false),
        Attribute::Unwrap(true),
        Attribute::Derive(false),
    ];
    public.extend(name.clone());
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
        Attribute::Derive(false),
        Attribute::ValueLen(Ulong::from(32)),
        Attribute::Id(id),
        Attribute::Label(label.as_bytes().to_vec()),
    ]
}

/// What an AES key of ours is for; never two things at once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Duty {
    /// Closes and opens secrets.
    Secrets,
    /// Wraps and unwraps other keys, which then never pass through this process.
    Keys,
}

impl Duty {
    /// The flags by which it is made.
    pub(super) fn attributes(self) -> [Attribute; 4] {
        let secrets = self == Self::Secrets;
        [
            Attribute::Encrypt(secrets),
            Attribute::Decrypt(secrets),
            Attribute::Wrap(!secrets),
            Attribute::Unwrap(!secrets),
        ]
    }

    /// The same, as they are read back.
    pub(super) const fn flags(self) -> [(AttributeType, bool); 4] {
        let secrets = matches!(self, Self::Secrets);
        [
            (AttributeType::Encrypt, secrets),
            (AttributeType::Decrypt, secrets),
            (AttributeType::Wrap, !secrets),
            (AttributeType::Unwrap, !secrets),
        ]
    }
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
        | Attribute::Encrypt(value)
        | Attribute::Wrap(value)
        | Attribute::Unwrap(value)
        | Attribute::Derive(value) => Some(*value),
        _ => None,
    }
}

/// What is read back of every signing key, as it was born and is kept. That a key was always sensitive and never extractable says that it
/// was made in the token: one that came in was neither. `CKA_LOCAL` says it once more, and devices exist that say no of every key; it is
/// read beside these, told, and decides nothing.
pub(super) fn safe_private(origin: Origin, custody: Custody) -> [(AttributeType, bool); 10] {
    let (ours, stays) = (origin == Origin::Generated, custody == Custody::NonExtractable);
    [
        (AttributeType::Token, true),
        (AttributeType::Private, true),
        (AttributeType::Sensitive, true),
        (AttributeType::Extractable, !stays),
        (AttributeType::AlwaysSensitive, ours),
        (AttributeType::NeverExtractable, ours && stays),
        (AttributeType::Sign, true),
        (AttributeType::Decrypt, false),
        (AttributeType::Unwrap, false),
        (AttributeType::Derive, false),
    ]
}

/// What is read back of every import key.
pub(super) const SAFE_IMPORT: [(AttributeType, bool); 10] = [
    (AttributeType::Token, true),
    (AttributeType::Private, true),
    (AttributeType::Sensitive, true),
    (AttributeType::Extractable, false),
    (AttributeType::AlwaysSensitive, true),
    (AttributeType::NeverExtractable, true),
    (AttributeType::Sign, false),
    (AttributeType::Decrypt, false),
    (AttributeType::Unwrap, true),
    (AttributeType::Derive, false),
];

/// Strong enough for every kind of key that comes in, and made within a second or two.
const IMPORT_KEY_BITS: u64 = 3072;

/// What is read back of a secret key that was just made, beside the rest; keys from before were not asked for it.
pub(super) const SAFE_NEW_SECRET: [(AttributeType, bool); 1] = [(AttributeType::Derive, false)];

/// What is read back of every secret key.
pub(super) const SAFE_SECRET: [(AttributeType, bool); 6] = [
    (AttributeType::Token, true),
    (AttributeType::Private, true),
    (AttributeType::Sensitive, true),
    (AttributeType::Extractable, false),
    (AttributeType::AlwaysSensitive, true),
    (AttributeType::NeverExtractable, true),
];
