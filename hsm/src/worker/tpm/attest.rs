//! What the TPM says over its own signature: what the anchor holds, and how the machine was started.
//! In come challenges.
//! Out go attestations, with the key that checks them.

use std::sync::Arc;

use hsm::backend::{Attest, Fault};
use hsm::{AnchorAttestation, KeyAttestation, KeyRef, Quote, Refusal};
use tss_esapi::traits::Marshall;
use tss_esapi_sys::{TPM2B_ATTEST, TPM2B_DATA};

use super::anchor::Index;
use super::encode;
use super::esys::Handle;
use super::fault::key_missing;
use super::lane::TpmLane;
use super::pcr;
use super::sign::recognise;
use super::templates::unreadable;

impl Attest for TpmLane {
    fn certify_anchor(&mut self, qualifying: [u8; 32]) -> Result<AnchorAttestation, Fault> {
        let head = self.index(Index::Head)?.ok_or(Refusal::AnchorElsewhere)?;
        let key = self.attestation_key()?;
        let ak_spki_der = self.spki(&key)?;
        let challenge = data(&qualifying);
        let size = Index::Head.size();
        let (attest, signature) =
            self.in_session(|lane, auth| lane.esys.nv_certify(&key, &head, auth, &challenge, size))?;
        Ok(AnchorAttestation { attest: bytes(&attest), signature_der: encode::der(signature)?, ak_spki_der })
    }

    fn count(&mut self) -> Result<u64, Fault> {
        self.count_up()
    }

    fn quote(&mut self, nonce: [u8; 32]) -> Result<Quote, Fault> {
        let key = self.attestation_key()?;
        let ak_spki_der = self.spki(&key)?;
        let registers = self.registers(&self.setup.pcrs.clone())?;
        let selection = pcr::selection(registers.numbers());
        let (attest, signature) = self.esys.quote(&key, &data(&nonce), &selection)?;
        let (attest, signature_der) = (bytes(&attest), encode::der(signature)?);
        Ok(Quote { attest, signature_der, ak_spki_der, pcrs: registers.into_values() })
    }

    fn certify_key(&mut self, key: &KeyRef, nonce: [u8; 32]) -> Result<KeyAttestation, Fault> {
        let attestation_key = self.attestation_key()?;
        let ak_spki_der = self.spki(&attestation_key)?;
        let esys = Arc::clone(&self.esys);
        let loaded = self.load(&key.blob)?.ok_or_else(|| key_missing(key.id))?;
        recognise(key, &encode::public_key(&loaded.public)?)?;
        let public_area = loaded.public.marshall().map_err(unreadable)?;
        let (attest, signature) = esys.certify(&loaded.handle, &attestation_key, &data(&nonce))?;
        let (attest, signature_der) = (bytes(&attest), encode::der(signature)?);
        Ok(KeyAttestation { attest, signature_der, ak_spki_der, public_area })
    }
}

impl TpmLane {
    fn spki(&mut self, key: &Handle) -> Result<Vec<u8>, Fault> {
        Ok(encode::public_key(&self.public(key)?)?.spki_der)
    }
}

fn data(bytes: &[u8; 32]) -> TPM2B_DATA {
    let mut data = TPM2B_DATA { size: 32, ..Default::default() };
    data.buffer[..32].copy_from_slice(bytes);
    data
}

fn bytes(attest: &TPM2B_ATTEST) -> Vec<u8> {
    attest.attestationData.get(..usize::from(attest.size)).map(<[u8]>::to_vec).unwrap_or_default()
}
