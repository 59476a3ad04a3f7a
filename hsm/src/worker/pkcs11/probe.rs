//! What a PKCS#11 token is and can do: asked where it tells, tried where it does not.
//! Enters: a logged-in session.
//! Leaves: a [`Probe`]; curves are listed only if a throw-away key was really made on them.

use cryptoki::context::Pkcs11;
use cryptoki::error::Error;
use cryptoki::mechanism::MechanismType;
use cryptoki::object::ObjectHandle;
use cryptoki::session::Session;
use cryptoki::slot::{Slot, TokenInfo};
use hsm::{Custody, Hash, KeyId, KeyKind, Power, Probe, Scheme};

use super::templates::{Keep, generator, pair_templates};
use super::{fault, survey};

/// Looks at everything once.
pub(super) fn look(module: &Pkcs11, slot: Slot, info: &TokenInfo, session: &Session, lanes: usize) -> Probe {
    let mechanisms = module.get_mechanism_list(slot).unwrap_or_default();
    let library = module.get_library_info().map(|library| library.library_version().to_string());
    let has = |mechanism| mechanisms.contains(&mechanism);
    let rsa_bits = |bits: usize| {
        let range = module.get_mechanism_info(slot, MechanismType::RSA_PKCS_KEY_PAIR_GEN);
        range.is_ok_and(|range| (range.min_key_size()..=range.max_key_size()).contains(&bits))
    };
    let kinds = KeyKind::ALL.into_iter().filter(|kind| match kind {
        KeyKind::Rsa2048 | KeyKind::Rsa3072 | KeyKind::Rsa4096 => rsa_bits(kind.signature_len() * 8),
        elliptic => can_make(session, *elliptic),
    });
    let kinds: Vec<_> = kinds.collect();
    let schemes = Scheme::ALL.into_iter().filter(|scheme| {
        kinds.iter().any(|kind| kind.schemes().contains(scheme))
            && has(mechanism(*scheme))
            && pads(*scheme, &mechanisms)
    });
    let mut powers = vec![Power::Anchor];
    if has(MechanismType::SHA256_HMAC) && has(MechanismType::GENERIC_SECRET_KEY_GEN) {
        powers.push(Power::Hmac);
    }
    if has(MechanismType::AES_GCM) && has(MechanismType::AES_KEY_GEN) {
        powers.push(Power::Wrap);
    }
    if has(MechanismType::AES_KEY_WRAP_PAD) && has(MechanismType::AES_KEY_GEN) {
        powers.push(Power::Backup);
        if has(MechanismType::RSA_PKCS_OAEP) {
            powers.push(Power::Import);
        }
    }
    powers.sort_unstable();
    let seen = survey::look(session).unwrap_or_default();
    Probe {
        backend: "pkcs11".to_owned(),
        manufacturer: info.manufacturer_id().trim().to_owned(),
        model: info.model().trim().to_owned(),
        serial: info.serial_number().trim().to_owned(),
        label: info.label().trim().to_owned(),
        library_version: library.unwrap_or_else(|_| "unknown".to_owned()),
        place: format!("slot {}", slot.id()),
        sessions: u32::try_from(lanes + 1).unwrap_or(u32::MAX),
        schemes: schemes.collect(),
        kinds,
        powers,
        mechanisms: mechanisms.iter().map(ToString::to_string).collect(),
        strays: seen.strays,
        foreign: seen.foreign,
        walls: Vec::new(),
        remarks: remarks(info),
    }
}

/// Makes a pair under a template of ours. Where a curve has two names, the second is tried when the first is not known.
pub(super) fn generate_pair(
    session: &Session,
    id: KeyId,
    kind: KeyKind,
    label: &str,
    keep: Keep,
    custody: Custody,
) -> Result<(ObjectHandle, ObjectHandle), Error> {
    let (mechanism, names) = generator(kind);
    let make = |params: Option<&[u8]>| {
        let (public, private) = pair_templates(id, kind, params, label, keep, custody);
        session.generate_key_pair(&mechanism, &public, &private)
    };
    let Some((first, others)) = names.split_first() else { return make(None) };
    // A device that is lost on the way may have made the first one.
    others.iter().fold(make(Some(first)), |made, name| match made {
        Err(error) if fault::made_nothing(&error) => make(Some(name)),
        made => made,
    })
}

/// A pair that is not to stay: in the session, or in the token where sessions hold none. Whoever asks destroys it.
pub(super) fn passing_pair(
    session: &Session,
    id: KeyId,
    kind: KeyKind,
    label: &str,
    custody: Custody,
) -> Result<(ObjectHandle, ObjectHandle), Error> {
    match generate_pair(session, id, kind, label, Keep::InSession, custody) {
        Err(error) if fault::made_nothing(&error) => {
            generate_pair(session, id, kind, label, Keep::InToken, custody)
        }
        made => made,
    }
}

fn can_make(session: &Session, kind: KeyKind) -> bool {
    let id = KeyId(*b"chancery-probe-0");
    let made = passing_pair(session, id, kind, "chancery-probe", Custody::NonExtractable);
    if let Ok((public, private)) = made {
        let _ = session.destroy_object(private);
        let _ = session.destroy_object(public);
    }
    made.is_ok()
}

const fn mechanism(scheme: Scheme) -> MechanismType {
    match scheme {
        Scheme::EcdsaSha256 | Scheme::EcdsaSha384 => MechanismType::ECDSA,
        Scheme::Ed25519 => MechanismType::EDDSA,
        Scheme::RsaPkcs1(_) => MechanismType::RSA_PKCS,
        Scheme::RsaPss(_) => MechanismType::RSA_PKCS_PSS,
    }
}

/// PSS hashes inside the token, with a hash that is its parameter. A token that lists hashes at all, alone or with PSS, knows no others;
/// one that lists none may know each, and says so when it is asked.
fn pads(scheme: Scheme, mechanisms: &[MechanismType]) -> bool {
    const HASHES: [(Hash, [MechanismType; 2]); 3] = [
        (Hash::Sha256, [MechanismType::SHA256, MechanismType::SHA256_RSA_PKCS_PSS]),
        (Hash::Sha384, [MechanismType::SHA384, MechanismType::SHA384_RSA_PKCS_PSS]),
        (Hash::Sha512, [MechanismType::SHA512, MechanismType::SHA512_RSA_PKCS_PSS]),
    ];
    let Scheme::RsaPss(with) = scheme else { return true };
    let listed = |names: &[MechanismType; 2]| names.iter().any(|name| mechanisms.contains(name));
    let known: Vec<Hash> = HASHES.iter().filter(|(_, names)| listed(names)).map(|(hash, _)| *hash).collect();
    known.is_empty() || known.contains(&with)
}

fn remarks(info: &TokenInfo) -> Vec<String> {
    let facts = [
        (!info.rng(), "it has no random generator of its own"),
        (info.user_pin_count_low(), "a wrong PIN was given since the last login"),
        (info.user_pin_to_be_changed(), "its PIN wants to be changed"),
        (info.write_protected(), "it is write-protected"),
    ];
    facts.iter().filter(|(holds, _)| *holds).map(|(_, remark)| (*remark).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_pads_with_the_hashes_that_it_lists_or_with_each_where_it_lists_none() {
        let pads_with = |mechanisms: &[MechanismType]| {
            [Hash::Sha256, Hash::Sha384, Hash::Sha512].map(|hash| pads(Scheme::RsaPss(hash), mechanisms))
        };
        assert_eq!(pads_with(&[MechanismType::RSA_PKCS_PSS]), [true; 3], "NSS lists none in its key slot");
        assert_eq!(pads_with(&[MechanismType::SHA256]), [true, false, false]);
        assert_eq!(pads_with(&[MechanismType::SHA384_RSA_PKCS_PSS]), [false, true, false]);
        let all = [MechanismType::SHA256, MechanismType::SHA384, MechanismType::SHA512];
        assert_eq!(pads_with(&all), [true; 3]);
        assert!(pads(Scheme::RsaPkcs1(Hash::Sha512), &[MechanismType::SHA256]), "PKCS#1 is hashed outside");
    }
}
