//! The TPM back-end: keys wrapped under a storage root, secrets sealed to measured state, an anchor in NV.
//! Enters: a TPM 2.0 reached by TCTI.
//! Leaves: a [`Backend`].

mod anchor;
mod attest;
mod blob;
mod encode;
mod esys;
mod index_auth;
mod keys;
mod lane;
mod pcr;
mod probe;
mod rc;
mod seal;
mod templates;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use hsm::backend::{Backend, Fault, Lane};
use hsm::{Probe, StartRefused, TokenConfig};
use tss_esapi::constants::tss::TPM2_TRANSIENT_FIRST;
use tss_esapi_sys::TPM2B_AUTH;
use zeroize::Zeroizing;

use esys::Esys;
use lane::{Setup, TpmLane};

/// A connected TPM. It has one lane.
struct Tpm {
    esys: Arc<Esys>,
    probe: Probe,
    lane: Option<TpmLane>,
    shared: bool,
}

/// Connects and probes. Makes nothing: a machine that has lost its TPM must not look like one that was never enrolled.
pub(crate) fn connect(config: &TokenConfig) -> Result<Box<dyn Backend>, StartRefused> {
    let (TokenConfig::Tpm { tcti, owner_auth_file, .. }, Some(setup)) = (config, Setup::of(config)) else {
        return Err(StartRefused::Device(
            "this table of the configuration does not describe a TPM".to_owned(),
        ));
    };
    let esys = Esys::open(tcti).map_err(|rc| absent(tcti, &rc.to_string()))?;
    esys.startup()
        .or_else(|rc| if rc.code() == rc::Code::Initialized { Ok(()) } else { Err(rc) })
        .map_err(|rc| absent(tcti, &rc.to_string()))?;
    let shared = has_resource_manager(tcti);
    if let Some(file) = owner_auth_file {
        esys.set_owner_auth(&owner_auth(file)?).map_err(|rc| absent(tcti, &rc.to_string()))?;
    }
    if !shared {
        sweep(&esys).map_err(|fault| refused(&fault))?;
    }
    let serial = probe::serial(&esys, &setup).map_err(|fault| refused(&fault))?;
    let probe = probe::probe(&esys, &setup, tcti, &serial).map_err(|fault| refused(&fault))?;
    let lane = TpmLane::new(Arc::clone(&esys), setup, serial);
    Ok(Box::new(Tpm { esys, probe, lane: Some(lane), shared }))
}

impl Backend for Tpm {
    fn probe(&self) -> Probe {
        self.probe.clone()
    }

    fn lanes(&mut self) -> Result<Vec<Box<dyn Lane>>, Fault> {
        Ok(self.lane.take().into_iter().map(|lane| Box::new(lane) as Box<dyn Lane>).collect())
    }

    /// Behind a resource manager the kernel sends the shutdown; a TPM of our own wants to hear it from us.
    fn close(self: Box<Self>) {
        if !self.shared {
            // The worker exits next in any case, and nothing of ours is protected by the counter that a rude end would raise.
            let _ = self.esys.shutdown();
        }
    }
}

/// The kernel's manager and tabrmd give every client its own slots and clean up after it.
fn has_resource_manager(tcti: &str) -> bool {
    tcti.starts_with("tabrmd") || tcti.contains("tpmrm")
}

/// A worker that was killed leaves its loaded keys in the TPM's few slots. Without a resource manager the TPM is ours alone, so they go.
fn sweep(esys: &Arc<Esys>) -> Result<(), Fault> {
    for handle in esys.handles(TPM2_TRANSIENT_FIRST)? {
        drop(esys.leftover(handle)?);
    }
    Ok(())
}

fn owner_auth(file: &Path) -> Result<TPM2B_AUTH, StartRefused> {
    let fault = |fault: String| StartRefused::PinFile { file: file.display().to_string(), fault };
    let bytes = Zeroizing::new(fs::read(file).map_err(|reason| fault(format!("cannot be read: {reason}")))?);
    let text = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let mut auth = TPM2B_AUTH { size: text.len() as u16, ..Default::default() };
    let room = auth.buffer.get_mut(..text.len());
    room.ok_or_else(|| fault("is longer than the 64 bytes a TPM takes".to_owned()))?.copy_from_slice(text);
    Ok(auth)
}

fn absent(tcti: &str, why: &str) -> StartRefused {
    StartRefused::Device(format!(
        "no TPM answers at {tcti} ({why}); check that it is there and that this user may open it"
    ))
}

fn refused(fault: &Fault) -> StartRefused {
    let words = match fault {
        Fault::Refused(refusal) => refusal.to_string(),
        Fault::Lost { why, .. } => why.clone(),
        other => format!("{other:?}"),
    };
    StartRefused::Device(format!("the TPM cannot be used: {words}"))
}
