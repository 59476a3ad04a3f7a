//! What this TPM is and can do, found out by asking it.
//! In comes a connection.
//! Out go a [`Probe`] and the chip's serial.

use hsm::backend::Fault;
use hsm::{KeyKind, Power, Probe, Scheme};
use tss_esapi::constants::tss::{
    TPM2_ECC_NIST_P256, TPM2_ECC_NIST_P384, TPM2_PT_FIRMWARE_VERSION_1, TPM2_PT_FIRMWARE_VERSION_2,
    TPM2_PT_MANUFACTURER, TPM2_PT_VENDOR_STRING_1, TPM2_PT_VENDOR_STRING_4,
};
use tss_esapi::structures::Public;

use super::encode;
use super::esys::{Esys, Handle, Hides};
use super::lane::{Setup, TpmLane};
use super::templates::{self, loose, parsed};

/// Fills in the table.
pub(super) fn probe(esys: &Esys, setup: &Setup, tcti: &str, serial: &str) -> Result<Probe, Fault> {
    let properties = esys.properties(TPM2_PT_MANUFACTURER)?;
    let property =
        |wanted: u32| properties.iter().find(|(one, _)| *one == wanted).map_or(0, |(_, value)| *value);
    let kinds = kinds(&esys.curves()?);
    let firmware = (property(TPM2_PT_FIRMWARE_VERSION_1), property(TPM2_PT_FIRMWARE_VERSION_2));
    Ok(Probe {
        backend: "tpm".to_owned(),
        manufacturer: words(&[property(TPM2_PT_MANUFACTURER)]),
        model: words(&(TPM2_PT_VENDOR_STRING_1..=TPM2_PT_VENDOR_STRING_4).map(property).collect::<Vec<_>>()),
        serial: serial.to_owned(),
        label: String::new(),
        library_version: format!("firmware {:08x}.{:08x}", firmware.0, firmware.1),
        place: tcti.to_owned(),
        sessions: 1,
        mechanisms: mechanisms(&kinds),
        schemes: Scheme::ALL
            .into_iter()
            .filter(|scheme| kinds.iter().any(|kind| kind.schemes().contains(scheme)))
            .collect(),
        kinds,
        powers: powers(setup),
        strays: 0,
        foreign: Vec::new(),
        walls: Vec::new(),
        remarks: remarks(setup),
    })
}

/// A TPM has no serial number; it has an endorsement seed that outlives every clearing, and the attestation key is derived from it.
pub(super) fn serial(lane: &mut TpmLane) -> Result<String, Fault> {
    let public = match standing(lane)? {
        Some(public) => public,
        None => {
            let session = lane.introductory(Hides::Nothing)?;
            let key = lane.attestation_key_unkept(&session)?;
            introduce(lane, &key)?
        }
    };
    Ok(hex::encode(&encode::public_key(&public)?.fingerprint().0[..8]))
}

/// The attestation key's public half, if it stands where it should; what others put there tells nothing about the chip.
fn standing(lane: &mut TpmLane) -> Result<Option<Public>, Fault> {
    // Without a session, for the storage root may be somebody else's. Where it is hidden, the same key is made once more.
    let Some(key) = lane.standing_by(lane.setup.attestation_key, None)? else { return Ok(None) };
    let found = introduce(lane, &key)?;
    Ok(loose(&found, &templates::attestation_key()).is_none().then_some(found))
}

fn introduce(lane: &mut TpmLane, key: &Handle) -> Result<Public, Fault> {
    let session = lane.introductory(Hides::Response)?;
    parsed(lane.esys.read_public(key, Some(&session))?)
}

fn kinds(curves: &[u16]) -> Vec<KeyKind> {
    let mut kinds = vec![KeyKind::Rsa2048];
    if curves.contains(&TPM2_ECC_NIST_P384) {
        kinds.insert(0, KeyKind::P384);
    }
    if curves.contains(&TPM2_ECC_NIST_P256) {
        kinds.insert(0, KeyKind::P256);
    }
    kinds
}

fn mechanisms(kinds: &[KeyKind]) -> Vec<String> {
    let elliptic = kinds.iter().any(|kind| matches!(kind, KeyKind::P256 | KeyKind::P384));
    let names = ["TPM_ALG_RSASSA", "TPM_ALG_RSAPSS", "TPM_ALG_HMAC", "TPM_ALG_KEYEDHASH", "TPM_ALG_ECDSA"];
    names[..if elliptic { 5 } else { 4 }].iter().map(|name| (*name).to_owned()).collect()
}

fn powers(setup: &Setup) -> Vec<Power> {
    let mut powers = vec![Power::Hmac, Power::Wrap, Power::Anchor, Power::Counter, Power::Attest];
    if !setup.pcrs.is_empty() {
        powers.insert(2, Power::MeasuredState);
    }
    powers
}

fn remarks(setup: &Setup) -> Vec<String> {
    let mut remarks =
        vec!["keys are kept outside, wrapped for this TPM: who destroys one destroys its blob".to_owned()];
    if setup.index_auth_file.is_none() {
        remarks
            .push("no `index_auth_file`: every program that reaches the TPM may move the anchor".to_owned());
    }
    if setup.pcrs.is_empty() {
        remarks.push("no `pcrs`: secrets open on this TPM in every state of the machine".to_owned());
    }
    remarks
}

/// Four letters to a number, zeros and blanks dropped.
fn words(numbers: &[u32]) -> String {
    let letters = numbers.iter().flat_map(|number| number.to_be_bytes());
    let text: String =
        letters.filter(|byte| byte.is_ascii_graphic() || *byte == b' ').map(char::from).collect();
    text.trim().to_owned()
}
