//! The hot path: one TPM2_Sign, and a load before it when the key was not used lately.
//! In come keys by their blobs, and digests of the length that the scheme has.
//! Out go signatures of the length that the kind has.

use std::sync::Arc;

use aws_lc_rs::digest::Digest;
use aws_lc_rs::signature::{ParsedPublicKey, RsaParameters};
use aws_lc_rs::{digest, signature};
use hsm::backend::Fault;
use hsm::{Hash, KeyRef, PublicKey, Refusal, Scheme};
use tss_esapi_sys::TPM2B_DIGEST;

use super::encode;
use super::fault::{Code, key_missing};
use super::lane::TpmLane;
use super::templates;

impl TpmLane {
    pub(super) fn sign_digest(
        &mut self,
        key: &KeyRef,
        scheme: Scheme,
        input: &[u8],
    ) -> Result<Vec<u8>, Fault> {
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
}

/// Behind the right name may stand another key: a record that was swapped, or a blob of another record.
pub(super) fn recognise(key: &KeyRef, found: &PublicKey) -> Result<(), Fault> {
    let found = found.fingerprint();
    if found == key.fingerprint {
        return Ok(());
    }
    Err(Fault::WrongKey { id: key.id, expected: key.fingerprint, found })
}

/// TPMs differ in the length of the PSS salt: as long as the digest, or as long as fits. Ours is the former; the latter is
/// noticed here, where the scheme can still be named, and not by a customer whose verifier is strict.
fn check_salt(public: &PublicKey, hash: Hash, input: &[u8], made: &[u8]) -> Result<(), Fault> {
    let parameters: &'static RsaParameters = match hash {
        Hash::Sha256 => &signature::RSA_PSS_2048_8192_SHA256,
        Hash::Sha384 => &signature::RSA_PSS_2048_8192_SHA384,
        Hash::Sha512 => &signature::RSA_PSS_2048_8192_SHA512,
    };
    let verified = ParsedPublicKey::new(parameters, &public.spki_der)
        .ok()
        .and_then(|key| key.verify_digest_sig(&imported(hash, input)?, made).ok());
    verified
        .ok_or_else(|| Fault::Unsupported { what: "RSA-PSS with a salt as long as the digest".to_owned() })
}

fn imported(hash: Hash, input: &[u8]) -> Option<Digest> {
    let algorithm = match hash {
        Hash::Sha256 => &digest::SHA256,
        Hash::Sha384 => &digest::SHA384,
        Hash::Sha512 => &digest::SHA512,
    };
    Digest::import_less_safe(input, algorithm).ok()
}

fn buffer(digest: &[u8]) -> Result<TPM2B_DIGEST, Fault> {
    let mut out = TPM2B_DIGEST { size: digest.len() as u16, ..Default::default() };
    let too_long = || Refusal::BadInput("a digest has at most 64 bytes".to_owned());
    out.buffer.get_mut(..digest.len()).ok_or_else(too_long)?.copy_from_slice(digest);
    Ok(out)
}
