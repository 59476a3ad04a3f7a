//! The TPM back-end: keys wrapped under a storage root, secrets sealed to measured state, an anchor in NV.
//! Enters: a TPM 2.0 reached by TCTI.
//! Leaves: a [`Backend`].

mod esys;
mod rc;

use hsm::backend::Backend;
use hsm::{StartRefused, TokenConfig};

/// Connects, enrols what is missing, probes.
pub(crate) fn connect(_config: &TokenConfig) -> Result<Box<dyn Backend>, StartRefused> {
    Err(StartRefused::Device("this build has no TPM back-end".to_owned()))
}
