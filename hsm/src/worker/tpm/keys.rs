//! Keys of a TPM: made under the storage root, kept outside as wrapped blobs, loaded for use.
//! In come ids, kinds, digests and the blobs that the caller kept.
//! Out go blobs, public keys, signatures and authentication codes.

use std::sync::Arc;

use aws_lc_rs::signature::{ParsedPublicKey, RsaParameters};
use aws_lc_rs::signature::{RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512};
use hsm::backend::{Fault, Keys};
use hsm::{
    Fingerprint, Hash, HmacKeyRef, KeyId, KeyKind, KeyRef, NewKey, Provenance, PublicKey, Refusal, Scheme,
};
use tss_esapi::structures::Public;
use tss_esapi_sys::{TPM2B_DIGEST, TPM2B_MAX_BUFFER, TPM2B_SENSITIVE_CREATE};

use super::blob::{self, Wrapped};
use super::encode;
use super::esys::{Auth, Handle};
use super::lane::{TpmLane, key_missing};
use super::rc::Code;
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

    fn sign(&mut self, key: &KeyRef, scheme: Scheme, input: &[u8]) -> Result<Vec<u8>, Fault> {
        let unfit = || Fault::Unsupported { what: format!("{scheme} with {} keys", key.kind) };
        let tpm_scheme = templates::scheme(scheme).filter(|_| key.kind.schemes().contains(&scheme));
        let tpm_scheme = tpm_scheme.ok_or_else(unfit)?;
        let digest = buffer(input)?;
        let esys = Arc::clone(&self.esys);
        let loaded = self.load(&key.blob)?.ok_or_else(|| key_missing(key.id))?;
        let public = encode::public_key(&loaded.public)?;
        recognise(key, &public)?;
        let signature = esys.sign(&loaded.handle, &digest, &tpm_scheme).map_err(|rc| match rc.code() {
            Code::NoSuchHandle => {
                Fault::Lost { why: "the TPM forgot a loaded key".to_owned(), harmless: true }
            }
            Code::Unknown => unfit(),
            _ => rc.fault(),
        })?;
        let signature = encode::fixed_length(signature, key.kind.signature_len())?;
        if let Scheme::RsaPss(hash) = scheme {
            check_salt(&public, hash, input, &signature)?;
        }
        Ok(signature)
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

    /// The blob is authenticated by the storage root, so a key that loads is the key that was made; its check is not asked again.
    fn hmac_sha256(&mut self, key: &HmacKeyRef, data: &[u8]) -> Result<[u8; 32], Fault> {
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
        Ok(bytes)
    }
}

impl TpmLane {
    /// Makes an object under the storage root and reads its attributes back.
    fn make(&mut self, template: &Public, what: &str) -> Result<(Wrapped, Public), Fault> {
        self.root_or_new()?;
        self.make_room_for_one();
        let (esys, plain) = (Arc::clone(&self.esys), plain(template.clone())?);
        let nothing = TPM2B_SENSITIVE_CREATE::default();
        let made = esys.create(self.root()?, Auth::Password, &nothing, &plain);
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
        }
    }

    fn authenticate(&mut self, blob: &[u8], id: KeyId, data: &[u8]) -> Result<[u8; 32], Fault> {
        let esys = Arc::clone(&self.esys);
        let key = &self.load(blob)?.ok_or_else(|| key_missing(id))?.handle;
        let tag = if data.len() <= BUFFER_MAX {
            esys.hmac(key, &max_buffer(data))?
        } else {
            let sequence = esys.hmac_begin(key)?;
            feed(&esys, &sequence, data)?;
            esys.hmac_finish(sequence)?
        };
        let length = usize::from(tag.size);
        tag.buffer.get(..length).and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
            Refusal::Other(format!("the TPM answered an HMAC-SHA256 with {length} bytes")).into()
        })
    }
}

fn feed(esys: &super::esys::Esys, sequence: &Handle, data: &[u8]) -> Result<(), Fault> {
    for piece in data.chunks(BUFFER_MAX) {
        esys.hmac_more(sequence, &max_buffer(piece))?;
    }
    Ok(())
}

/// Behind the right name may stand another key: a record that was swapped, or a blob of another record.
fn recognise(key: &KeyRef, found: &PublicKey) -> Result<(), Fault> {
    let found = found.fingerprint();
    if found == key.fingerprint {
        return Ok(());
    }
    Err(Fault::WrongKey { id: key.id, expected: key.fingerprint, found })
}

/// TPMs differ in the length of the PSS salt: as long as the digest, or as long as fits. Ours is the former; the latter is
/// noticed here, where the scheme can still be named, and not by a customer whose verifier is strict.
fn check_salt(public: &PublicKey, hash: Hash, digest: &[u8], signature: &[u8]) -> Result<(), Fault> {
    let parameters: &'static RsaParameters = match hash {
        Hash::Sha256 => &RSA_PSS_2048_8192_SHA256,
        Hash::Sha384 => &RSA_PSS_2048_8192_SHA384,
        Hash::Sha512 => &RSA_PSS_2048_8192_SHA512,
    };
    let verified = ParsedPublicKey::new(parameters, &public.spki_der)
        .ok()
        .and_then(|key| key.verify_digest_sig(&imported(hash, digest)?, signature).ok());
    verified
        .ok_or_else(|| Fault::Unsupported { what: "RSA-PSS with a salt as long as the digest".to_owned() })
}

fn imported(hash: Hash, digest: &[u8]) -> Option<aws_lc_rs::digest::Digest> {
    let algorithm = match hash {
        Hash::Sha256 => &aws_lc_rs::digest::SHA256,
        Hash::Sha384 => &aws_lc_rs::digest::SHA384,
        Hash::Sha512 => &aws_lc_rs::digest::SHA512,
    };
    aws_lc_rs::digest::Digest::import_less_safe(digest, algorithm).ok()
}

fn buffer(digest: &[u8]) -> Result<TPM2B_DIGEST, Fault> {
    let mut out = TPM2B_DIGEST { size: digest.len() as u16, ..Default::default() };
    let too_long = || Refusal::BadInput(format!("a digest has at most {} bytes", out_len()));
    out.buffer.get_mut(..digest.len()).ok_or_else(too_long)?.copy_from_slice(digest);
    Ok(out)
}

fn out_len() -> usize {
    TPM2B_DIGEST::default().buffer.len()
}

/// Callers cut to [`BUFFER_MAX`], which the structure's own array exceeds.
fn max_buffer(data: &[u8]) -> TPM2B_MAX_BUFFER {
    let mut out = TPM2B_MAX_BUFFER { size: data.len() as u16, ..Default::default() };
    out.buffer[..data.len()].copy_from_slice(data);
    out
}
