//! Secrets sealed to this TPM and to the machine's measured state.
//! In come secrets and what they are bound to.
//! Out go blobs that open on this TPM, in this state, for the same associated data, and nowhere else.
//!
//! The TPM seals a fresh 32-byte key; AES-256-GCM under that key carries the secret, whatever its length, and its associated data.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use hsm::backend::{Fault, Seal};
use hsm::{Refusal, RootKey, RootTag};
use serde::{Deserialize, Serialize};
use tss_esapi::structures::Digest;
use tss_esapi_sys::TPM2B_SENSITIVE_CREATE;
use zeroize::{Zeroize, Zeroizing};

use super::blob::{self, Wrapped};
use super::encode;
use super::esys::{Auth, Hides, SessionKind};
use super::fault::Code;
use super::lane::TpmLane;
use super::pcr::{self, Registers};
use super::sessions::drawn;
use super::templates::{self, parsed, plain, unreadable};

/// A sealed secret. Nothing in it is secret; the registers' values are there to say what changed.
#[derive(Serialize, Deserialize)]
struct Sealed {
    registers: Registers,
    key: Wrapped,
    nonce: [u8; NONCE_LEN],
    ciphertext: Vec<u8>,
}

const TRIAL: &[u8] = b"a trial of the storage root";
const KEY_LEN: usize = 32;
pub(super) const NONCE_LEN: usize = 12;
const DOMAIN: &[u8] = b"chancery.tpm.seal.v1\n";

impl Seal for TpmLane {
    /// Also makes the attestation key, while the owner's authorisation is at hand.
    fn ensure_root(&mut self) -> Result<RootKey, Fault> {
        let created = self.root_or_new()?;
        self.attestation_key()?;
        Ok(RootKey { id: self.root_id()?, created, check: self.root_name()? })
    }

    /// The storage root is the same for every appliance on this chip, so the tag tells nothing here.
    fn make_root(&mut self, _tag: RootTag) -> Result<RootKey, Fault> {
        let root = self.ensure_root()?;
        let closed = self.wrap(TRIAL, TRIAL)?;
        if self.unwrap(&closed, TRIAL)?.as_slice() != TRIAL {
            return Err(Refusal::SealBroken.into());
        }
        self.try_anchor()?;
        self.pinned = Some(root.check.clone());
        Ok(root)
    }

    /// Takes the anchor away. Storage root and attestation key stay: each chip makes the same ones again, other programs may use them, and
    /// nothing of an appliance is in them.
    fn unmake_root(&mut self, _tag: RootTag) -> Result<(), Fault> {
        self.pinned = None;
        self.remove_anchor()
    }

    fn wrap(&mut self, secret: &[u8], aad: &[u8]) -> Result<Vec<u8>, Fault> {
        let registers = self.registers(&self.setup.pcrs.clone())?;
        // Drawn on this side: from the TPM it would come over the bus in the clear, to go back over it encrypted.
        let key = drawn::<KEY_LEN>()?;
        let nonce = *drawn::<NONCE_LEN>()?;
        let wrapped = self.seal_key(&key, &registers)?;
        let ciphertext = close(key.as_slice(), nonce, secret, &bound(&registers, aad)?)?;
        blob::write(&Sealed { registers, key: wrapped, nonce, ciphertext })
    }

    fn unwrap(&mut self, wrapped: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let sealed: Sealed = blob::read(wrapped).ok_or(Refusal::SealBroken)?;
        let key = self.unseal_key(&sealed)?;
        let bound = bound(&sealed.registers, aad)?;
        open(&key, sealed.nonce, sealed.ciphertext, &bound).ok_or_else(|| Refusal::SealBroken.into())
    }
}

/// The registers that a wrapped secret is sealed to; `None` when this is no wrapped secret.
pub(super) fn sealed_to(wrapped: &[u8]) -> Option<Vec<u8>> {
    blob::read::<Sealed>(wrapped).map(|sealed| sealed.registers.numbers().collect())
}

impl TpmLane {
    /// The hash of the storage root's public key: cleared and replaced TPMs have another one.
    pub(super) fn root_id(&mut self) -> Result<Vec<u8>, Fault> {
        let esys = Arc::clone(&self.esys);
        let session = self.hmac(Hides::Response)?;
        let public = parsed(esys.read_public(self.root()?, Some(&session))?)?;
        Ok(encode::public_key(&public)?.fingerprint().0.to_vec())
    }

    /// What the TPM sealed of a wrapped secret, for tests that look for it elsewhere.
    #[cfg(test)]
    pub(super) fn layer_key(&mut self, wrapped: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        self.unseal_key(&blob::read(wrapped).ok_or(Refusal::SealBroken)?)
    }

    /// The key travels to the TPM encrypted, in a session that also proves the parent's (empty) authorisation.
    fn seal_key(&mut self, key: &[u8; KEY_LEN], registers: &Registers) -> Result<Wrapped, Fault> {
        let template = plain(templates::sealed(policy(registers)?))?;
        let mut sensitive = TPM2B_SENSITIVE_CREATE::default();
        sensitive.sensitive.data.size = KEY_LEN as u16;
        sensitive.sensitive.data.buffer[..KEY_LEN].copy_from_slice(key);
        self.make_room_for_one();
        let session = self.hmac(Hides::Command)?;
        let esys = Arc::clone(&self.esys);
        let made = esys.create(self.root()?, Auth::Session(&session), &sensitive, &template);
        sensitive.sensitive.data.buffer.zeroize();
        let (private, public) = made?;
        Wrapped::of(private, public)
    }

    /// The key comes back encrypted, under a secret agreed with the storage root.
    fn unseal_key(&mut self, sealed: &Sealed) -> Result<Zeroizing<Vec<u8>>, Fault> {
        let esys = Arc::clone(&self.esys);
        let object = self.load_once(&sealed.key)?.ok_or(Refusal::SealBroken)?;
        let kind = if sealed.registers.is_empty() { SessionKind::Hmac } else { SessionKind::Policy };
        let session = self.session(kind, Hides::Response)?;
        if !sealed.registers.is_empty() {
            esys.policy_pcr(&session, &Default::default(), &pcr::selection(sealed.registers.numbers()))?;
        }
        let mut data = esys.unseal(&object, Auth::Session(&session)).map_err(|rc| match rc.code() {
            Code::PolicyFails => self.policy_fails(&sealed.registers),
            Code::WrongAuth => Refusal::SealBroken.into(),
            _ => rc.fault(),
        })?;
        let key = data.buffer.get(..usize::from(data.size)).map(<[u8]>::to_vec).unwrap_or_default();
        data.buffer.zeroize();
        Ok(Zeroizing::new(key))
    }

    /// What the registers of these numbers hold.
    pub(super) fn registers(&mut self, numbers: &[u8]) -> Result<Registers, Fault> {
        let session = self.witness(Hides::AuditOnly)?;
        pcr::read(&self.esys, session.as_deref(), numbers)
    }

    /// Says which registers changed; none did, then it is the blob that lies.
    fn policy_fails(&mut self, recorded: &Registers) -> Fault {
        match self.registers(&recorded.numbers().collect::<Vec<_>>()) {
            Err(fault) => fault,
            Ok(now) => match recorded.differences(&now) {
                None => Refusal::SealBroken.into(),
                Some(pcrs) => Refusal::StateChanged { pcrs }.into(),
            },
        }
    }
}

/// What must hold for these register values; `None` when there are none to hold.
fn policy(registers: &Registers) -> Result<Option<Digest>, Fault> {
    if registers.is_empty() {
        return Ok(None);
    }
    Digest::try_from(registers.policy().to_vec()).map(Some).map_err(unreadable)
}

pub(super) fn close(key: &[u8], nonce: [u8; NONCE_LEN], secret: &[u8], aad: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut text = secret.to_vec();
    let sealed = cipher(key)
        .and_then(|cipher| cipher.seal_in_place_append_tag(nonce_of(nonce), Aad::from(aad), &mut text).ok());
    match sealed {
        Some(()) => Ok(text),
        None => {
            text.zeroize();
            Err(Refusal::BadInput("the secret cannot be encrypted".to_owned()).into())
        }
    }
}

pub(super) fn open(
    key: &[u8],
    nonce: [u8; NONCE_LEN],
    mut text: Vec<u8>,
    aad: &[u8],
) -> Option<Zeroizing<Vec<u8>>> {
    let length = cipher(key)?.open_in_place(nonce_of(nonce), Aad::from(aad), &mut text).ok()?.len();
    let mut secret = Zeroizing::new(text);
    secret.truncate(length);
    Some(secret)
}

fn cipher(key: &[u8]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

/// Each key encrypts once, so the nonce could even be constant.
fn nonce_of(bytes: [u8; NONCE_LEN]) -> Nonce {
    Nonce::assume_unique_for_key(bytes)
}

/// The registers' recorded values prove nothing to the TPM, so it is here that they are kept from being edited.
fn bound(registers: &Registers, aad: &[u8]) -> Result<Vec<u8>, Fault> {
    Ok([DOMAIN, &blob::write(registers)?, aad].concat())
}
