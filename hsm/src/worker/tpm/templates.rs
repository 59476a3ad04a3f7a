//! What our objects in the TPM are: one public template for each kind.
//! In come key kinds and policies.
//! Out go templates, and the judgement whether an object that was found is what we would have made.

use hsm::backend::Fault;
use hsm::{Hash, KeyKind, Refusal, Scheme};
use tss_esapi::attributes::ObjectAttributes;
use tss_esapi::constants::tss::{
    TPMA_OBJECT_DECRYPT as DECRYPT, TPMA_OBJECT_FIXEDPARENT, TPMA_OBJECT_FIXEDTPM, TPMA_OBJECT_NODA,
    TPMA_OBJECT_RESTRICTED as RESTRICTED, TPMA_OBJECT_SENSITIVEDATAORIGIN as BORN_INSIDE,
    TPMA_OBJECT_SIGN_ENCRYPT as SIGN, TPMA_OBJECT_USERWITHAUTH as WITH_AUTH,
};
use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::structures::{
    Digest, EccPoint, EccScheme, HashScheme, HmacScheme, KeyDerivationFunctionScheme, KeyedHashScheme,
    Public, PublicEccParameters, PublicKeyRsa, PublicKeyedHashParameters, PublicRsaParameters, RsaExponent,
    RsaScheme, SignatureScheme, SymmetricDefinitionObject,
};
use tss_esapi_sys::{TPM2B_PUBLIC, TPMT_SIG_SCHEME};

/// Never leaves this TPM, in no other parent's care, and no failed use counts towards the lock-out: a daemon that is killed while
/// it uses a protected object would otherwise lock the owner out of his machine after a few restarts.
const OURS: u32 = TPMA_OBJECT_FIXEDTPM | TPMA_OBJECT_FIXEDPARENT | TPMA_OBJECT_NODA;

/// The storage root, as TCG's provisioning guidance has it for P-256, so that other software on the machine may share it.
pub(super) fn storage_root() -> Public {
    let sym = SymmetricDefinitionObject::AES_128_CFB;
    ecc(OURS | BORN_INSIDE | WITH_AUTH | RESTRICTED | DECRYPT, EccCurve::NistP256, EccScheme::Null, sym)
}

/// The attestation key: restricted, so it signs what the TPM itself says and nothing else.
pub(super) fn attestation_key() -> Public {
    let scheme = EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256));
    let attributes = OURS | BORN_INSIDE | WITH_AUTH | RESTRICTED | SIGN;
    ecc(attributes, EccCurve::NistP256, scheme, SymmetricDefinitionObject::Null)
}

/// A signing key; it names no scheme, so that an RSA key may sign with each of its kind's.
pub(super) fn signing_key(kind: KeyKind) -> Option<Public> {
    let attributes = OURS | BORN_INSIDE | WITH_AUTH | SIGN;
    let curve = match kind {
        KeyKind::P256 => EccCurve::NistP256,
        KeyKind::P384 => EccCurve::NistP384,
        KeyKind::Rsa2048 => return Some(rsa_2048(attributes)),
        KeyKind::Secp256k1 | KeyKind::Ed25519 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => return None,
    };
    Some(ecc(attributes, curve, EccScheme::Null, SymmetricDefinitionObject::Null))
}

/// An HMAC-SHA256 key.
pub(super) fn hmac_key() -> Public {
    let scheme = HmacScheme::new(HashingAlgorithm::Sha256);
    keyed_hash(OURS | BORN_INSIDE | WITH_AUTH | SIGN, KeyedHashScheme::Hmac { hmac_scheme: scheme }, None)
}

/// A sealed secret. With a policy, the policy is the only way in; without one, the storage root is all that guards it.
pub(super) fn sealed(policy: Option<Digest>) -> Public {
    let attributes = if policy.is_some() { OURS } else { OURS | WITH_AUTH };
    keyed_hash(attributes, KeyedHashScheme::Null, policy)
}

/// The first attribute that makes a key, as it came out, less safe than its template; `None` when it is as safe.
pub(super) fn loose(found: &Public, template: &Public) -> Option<&'static str> {
    let (found, wanted) = (found.object_attributes(), template.object_attributes());
    let checks = [
        (found.fixed_tpm(), "fixedTPM"),
        (found.fixed_parent(), "fixedParent"),
        (found.sensitive_data_origin(), "sensitiveDataOrigin"),
        (found.no_da(), "noDA"),
        (found.restricted() == wanted.restricted(), "restricted"),
        (found.decrypt() == wanted.decrypt(), "decrypt"),
        (found.sign_encrypt() == wanted.sign_encrypt(), "sign"),
    ];
    checks.into_iter().find(|(fits, _)| !fits).map(|(_, name)| name)
}

/// As the commands want it.
pub(super) fn plain(template: Public) -> Result<TPM2B_PUBLIC, Fault> {
    TPM2B_PUBLIC::try_from(template).map_err(unreadable)
}

/// As [`TPM2B_PUBLIC`] comes back.
pub(super) fn parsed(public: TPM2B_PUBLIC) -> Result<Public, Fault> {
    Public::try_from(public).map_err(unreadable)
}

/// A scheme in the TPM's words; Ed25519 it does not know.
pub(super) fn scheme(scheme: Scheme) -> Option<TPMT_SIG_SCHEME> {
    let algorithm = |hash| match hash {
        Hash::Sha256 => HashScheme::new(HashingAlgorithm::Sha256),
        Hash::Sha384 => HashScheme::new(HashingAlgorithm::Sha384),
        Hash::Sha512 => HashScheme::new(HashingAlgorithm::Sha512),
    };
    let scheme = match scheme {
        Scheme::EcdsaSha256 => SignatureScheme::EcDsa { hash_scheme: algorithm(Hash::Sha256) },
        Scheme::EcdsaSha384 => SignatureScheme::EcDsa { hash_scheme: algorithm(Hash::Sha384) },
        Scheme::RsaPkcs1(hash) => SignatureScheme::RsaSsa { hash_scheme: algorithm(hash) },
        Scheme::RsaPss(hash) => SignatureScheme::RsaPss { hash_scheme: algorithm(hash) },
        Scheme::Ed25519 => return None,
    };
    Some(scheme.into())
}

/// The TPM answered with something that its own specification does not allow.
pub(super) fn unreadable(reason: tss_esapi::Error) -> Fault {
    Refusal::Other(format!("the TPM's answer cannot be read: {reason}")).into()
}

fn ecc(attributes: u32, curve: EccCurve, scheme: EccScheme, symmetric: SymmetricDefinitionObject) -> Public {
    Public::Ecc {
        object_attributes: ObjectAttributes::from(attributes),
        name_hashing_algorithm: HashingAlgorithm::Sha256,
        auth_policy: Digest::default(),
        parameters: PublicEccParameters::new(symmetric, scheme, curve, KeyDerivationFunctionScheme::Null),
        unique: EccPoint::default(),
    }
}

fn rsa_2048(attributes: u32) -> Public {
    Public::Rsa {
        object_attributes: ObjectAttributes::from(attributes),
        name_hashing_algorithm: HashingAlgorithm::Sha256,
        auth_policy: Digest::default(),
        parameters: PublicRsaParameters::new(
            SymmetricDefinitionObject::Null,
            RsaScheme::Null,
            RsaKeyBits::Rsa2048,
            RsaExponent::default(),
        ),
        unique: PublicKeyRsa::default(),
    }
}

fn keyed_hash(attributes: u32, scheme: KeyedHashScheme, policy: Option<Digest>) -> Public {
    Public::KeyedHash {
        object_attributes: ObjectAttributes::from(attributes),
        name_hashing_algorithm: HashingAlgorithm::Sha256,
        auth_policy: policy.unwrap_or_default(),
        parameters: PublicKeyedHashParameters::new(scheme),
        unique: Digest::default(),
    }
}
