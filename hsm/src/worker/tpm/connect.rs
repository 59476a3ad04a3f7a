//! Opens a TPM: finds it, starts it if nobody has, sweeps what a killed worker left, learns which chip it is.
//! In comes the configuration.
//! Out goes a TPM with its one lane, or what a person has to change.

use std::sync::Arc;

use hsm::backend::{Backend, Fault};
use hsm::{RootPin, StartRefused, TokenConfig};
use tss_esapi::constants::tss::{TPM2_LOADED_SESSION_FIRST, TPM2_TRANSIENT_FIRST};

use super::esys::Esys;
use super::fault::{Code, Rc};
use super::lane::{Setup, TpmLane};
use super::{Tpm, pin, probe};

/// Connects and probes. Makes nothing: a machine that has lost its TPM must not look like one that was never enrolled.
pub(crate) fn connect(
    config: &TokenConfig,
    root: Option<&RootPin>,
) -> Result<Box<dyn Backend>, StartRefused> {
    let (TokenConfig::Tpm { tcti, owner_auth_file, .. }, Some(setup)) = (config, Setup::of(config)) else {
        return Err(StartRefused::Device(
            "this table of the configuration does not describe a TPM".to_owned(),
        ));
    };
    let esys = open(tcti).map_err(|rc| absent(tcti, rc))?;
    let shared = has_resource_manager(tcti);
    if let Some(file) = owner_auth_file {
        esys.set_owner_auth(&pin::owner_auth(file)?).map_err(|rc| absent(tcti, rc))?;
    }
    let lane = lane_on(&esys, setup, shared, root).map_err(|fault| refused(&fault))?;
    let probe = probe::probe(&esys, &lane.setup, tcti, &lane.serial).map_err(|fault| refused(&fault))?;
    Ok(Box::new(Tpm { esys, probe, lane: Some(lane), shared }))
}

/// The one lane, on a TPM that is swept and known.
fn lane_on(esys: &Arc<Esys>, setup: Setup, shared: bool, root: Option<&RootPin>) -> Result<TpmLane, Fault> {
    if !shared {
        sweep(esys)?;
    }
    let mut lane = TpmLane::new(Arc::clone(esys), setup, root.map(|root| root.check.clone()));
    lane.serial = probe::serial(&mut lane)?;
    Ok(lane)
}

/// A lane as [`connect`] makes it, for tests that look inside.
#[cfg(test)]
pub(super) fn open_lane(config: &TokenConfig, root: Option<&RootPin>) -> Result<TpmLane, Fault> {
    let (TokenConfig::Tpm { tcti, owner_auth_file, .. }, Some(setup)) = (config, Setup::of(config)) else {
        return Err(hsm::Refusal::RootMissing.into());
    };
    let esys = open(tcti)?;
    if let Some(file) = owner_auth_file {
        let auth = pin::owner_auth(file).map_err(|why| hsm::Refusal::Other(why.to_string()))?;
        esys.set_owner_auth(&auth)?;
    }
    lane_on(&esys, setup, false, root)
}

/// The kernel's manager and tabrmd give every client its own slots and clean up after it.
fn has_resource_manager(tcti: &str) -> bool {
    tcti.starts_with("tabrmd") || tcti.contains("tpmrm")
}

/// Opens the connection. Firmware has usually started the TPM; a simulator may leave that to its first user.
fn open(tcti: &str) -> Result<Arc<Esys>, Rc> {
    let esys = Esys::connect(tcti)?;
    match esys.startup() {
        Err(rc) if rc.code() != Code::Initialized => Err(rc),
        _ => Ok(esys),
    }
}

/// A worker that was killed leaves keys and sessions in the TPM's few slots. Without a resource manager the TPM is ours alone, so they go.
fn sweep(esys: &Esys) -> Result<(), Fault> {
    for range in [TPM2_TRANSIENT_FIRST, TPM2_LOADED_SESSION_FIRST] {
        for handle in esys.handles(range, None)? {
            esys.flush_leftover(handle)?;
        }
    }
    Ok(())
}

fn absent(tcti: &str, why: Rc) -> StartRefused {
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
