//! Keys of a TPM: made under the storage root, kept outside as wrapped blobs, loaded for use.
//! In come ids, kinds and the blobs that the caller kept.
//! Out go blobs, public keys, random bytes and authentication codes.

use std::sync::Arc;

use hsm::backend::{Fault, Keys};
use hsm::{
    Custody, Fingerprint, HmacKeyRef, KeyId, KeyKind, KeyRef, NewKey, Origin, Presence, Provenance,
    PublicKey, Refusal, Scheme,
};
use tss_esapi::structures::Public;
use tss_esapi_sys::{TPM2B_DIGEST, TPM2B_MAX_BUFFER, TPM2B_SENSITIVE_CREATE};
use zeroize::{Zeroize, Zeroizing};

use super::blob::{self, Wrapped};
use super::encode;
use super::esys::{Auth, Esys, Handle, Hides};
use super::fault::{Code, key_missing};
use super::lane::TpmLane;
use super::sessions::drawn;
use super::templates::{self, loose, parsed, plain};

/// What every TPM 2.0 takes in one buffer (TPM2_MAX_DIGEST_BUFFER).
const BUFFER_MAX: usize = 1024;

/// What every TPM 2.0 gives at once: a digest's length.
const RANDOM_MAX: usize = 32;

impl Keys for TpmLane {
    /// The label is not kept: a TPM has no place for it, and the caller's record has.
    fn generate(&mut self, id: KeyId, kind: KeyKind, _label: &str) -> Result<NewKey, Fault> {
        let template = templates::signing_key(kind);
        let template = template.ok_or_else(|| Fault::Unsupported { what: format!("{kind} keys") })?;
        let (wrapped, public) = self.make(&template, kind.name())?;
        let public_key = encode::public_key(&public)?;
        let key = KeyRef { id, kind, fingerprint: public_key.fingerprint(), blob: blob::write(&wrapped)? };
        Ok(NewKey { key, public: public_key, provenance: self.provenance(&public) })
    }

    fn find(&mut self, _id: KeyId) -> Result<Option<PublicKey>, Fault> {
        Ok(None)
    }

    fn presence(&mut self, _id: KeyId) -> Result<Presence, Fault> {
        Ok(Presence::Absent)
    }

    /// Nothing is ever left behind: a key that was made and not answered is gone with its blob.
    fn destroy_half(&mut self, _id: KeyId) -> Result<(), Fault> {
        Ok(())
    }

    fn sign(&mut self, key: &KeyRef, scheme: Scheme, input: &[u8]) -> Result<Vec<u8>, Fault> {
        self.sign_digest(key, scheme, input)
    }

    /// A TPM keeps no keys, so there is nothing to destroy but the loaded copy; the blob is destroyed with the caller's record.
    fn destroy(&mut self, key: &KeyRef) -> Result<(), Fault> {
        self.unload(&key.blob);
        Ok(())
    }

    fn generate_hmac_key(&mut self, id: KeyId, _label: &str) -> Result<HmacKeyRef, Fault> {
        let (wrapped, _) = self.make(&templates::hmac_key(), "HMAC-SHA256")?;
        let blob = blob::write(&wrapped)?;
        let check = Fingerprint(self.authenticate(&blob, id, HmacKeyRef::CHECK_TEXT)?);
        Ok(HmacKeyRef { id, check, blob })
    }

    fn hmac_sha256(&mut self, key: &HmacKeyRef, data: &[u8]) -> Result<[u8; 32], Fault> {
        if !self.recognised(&key.blob, key.check) {
            let found = Fingerprint(self.authenticate(&key.blob, key.id, HmacKeyRef::CHECK_TEXT)?);
            if found != key.check {
                return Err(Fault::WrongKey { id: key.id, expected: key.check, found });
            }
            self.recognise(&key.blob, found);
        }
        self.authenticate(&key.blob, key.id, data)
    }

    fn destroy_hmac_key(&mut self, key: &HmacKeyRef) -> Result<(), Fault> {
        self.unload(&key.blob);
        Ok(())
    }

    fn random(&mut self, len: usize) -> Result<Vec<u8>, Fault> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let wanted = (len - bytes.len()).min(RANDOM_MAX);
            let piece = self.esys.random(wanted as u16)?;
            let given = usize::from(piece.size).min(wanted);
            if given == 0 {
                return Err(Refusal::Other("the TPM gave no random bytes".to_owned()).into());
            }
            bytes.extend(&piece.buffer[..given]);
        }
        // They came over the bus in the clear: ours over them keep them from who listens there, and theirs are not lost.
        for piece in bytes.chunks_mut(RANDOM_MAX) {
            let ours = drawn::<RANDOM_MAX>()?;
            piece.iter_mut().zip(ours.iter()).for_each(|(byte, own)| *byte ^= own);
        }
        Ok(bytes)
    }
}

impl TpmLane {
    /// Makes an object under the storage root and reads its attributes back.
    pub(super) fn make(&mut self, template: &Public, what: &str) -> Result<(Wrapped, Public), Fault> {
        self.root_or_new()?;
        self.make_room_for_one();
        let (esys, plain) = (Arc::clone(&self.esys), plain(template.clone())?);
        let nothing = TPM2B_SENSITIVE_CREATE::default();
        // In a session, so that nobody on the bus puts a key of his own in the new one's place.
        let session = self.hmac(Hides::Response)?;
        let made = esys.create(self.root()?, Auth::Session(&session), &nothing, &plain);
        let (private, public) = made.map_err(|rc| match rc.code() {
            Code::Unknown => Fault::Unsupported { what: format!("{what} keys") },
            _ => rc.fault(),
        })?;
        let found = parsed(public)?;
        if let Some(attribute) = loose(&found, template) {
            return Err(Refusal::LooseKey { attribute: attribute.to_owned() }.into());
        }
        Ok((Wrapped::of(private, public)?, found))
    }

    fn provenance(&self, public: &Public) -> Provenance {
        let attributes = public.object_attributes();
        let fixed = attributes.fixed_tpm() && attributes.fixed_parent();
        Provenance {
            local: attributes.sensitive_data_origin(),
            never_extractable: fixed,
            always_sensitive: fixed,
            token_serial: self.serial.clone(),
            origin: Origin::Generated,
            custody: Custody::NonExtractable,
        }
    }

    fn authenticate(&mut self, blob: &[u8], id: KeyId, data: &[u8]) -> Result<[u8; 32], Fault> {
        let esys = Arc::clone(&self.esys);
        let key = &self.load(blob)?.ok_or_else(|| key_missing(id))?.handle;
        let tag = if data.len() <= BUFFER_MAX {
            esys.hmac(key, Auth::Password, &max_buffer(data))?
        } else {
            let sequence = esys.hmac_begin(key)?;
            feed(&esys, &sequence, data)?;
            esys.hmac_finish(sequence)?
        };
        whole(&tag)
    }

    /// The same for one short text, with the result hidden from who listens on the bus: it becomes a key.
    pub(super) fn authenticate_hidden(
        &mut self,
        blob: &[u8],
        id: KeyId,
        text: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, Fault> {
        let esys = Arc::clone(&self.esys);
        // First: loading is a use of the same session, which then hides nothing.
        self.load(blob)?.ok_or_else(|| key_missing(id))?;
        let session = self.hmac(Hides::Response)?;
        let key = &self.load(blob)?.ok_or_else(|| key_missing(id))?.handle;
        let mut tag = esys.hmac(key, Auth::Session(&session), &max_buffer(text))?;
        let made = whole(&tag).map(Zeroizing::new);
        tag.buffer.zeroize();
        made
    }
}

fn whole(tag: &TPM2B_DIGEST) -> Result<[u8; 32], Fault> {
    let length = usize::from(tag.size);
    tag.buffer
        .get(..length)
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| Refusal::Other(format!("the TPM answered an HMAC-SHA256 with {length} bytes")).into())
}

fn feed(esys: &Esys, sequence: &Handle, data: &[u8]) -> Result<(), Fault> {
    for piece in data.chunks(BUFFER_MAX) {
        esys.hmac_more(sequence, &max_buffer(piece))?;
    }
    Ok(())
}

/// Callers cut to [`BUFFER_MAX`], which the structure's own array exceeds.
fn max_buffer(data: &[u8]) -> TPM2B_MAX_BUFFER {
    let mut out = TPM2B_MAX_BUFFER { size: data.len() as u16, ..Default::default() };
    out.buffer[..data.len()].copy_from_slice(data);
    out
}
