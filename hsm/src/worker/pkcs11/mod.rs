//! The PKCS#11 back-end: keys in a token behind a vendor's module.
//! Enters: a module's path, a token's serial, a PIN file.
//! Leaves: a [`Backend`].

use hsm::backend::Backend;
use hsm::{StartRefused, TokenConfig};

/// Loads the module, finds the token by serial, logs in once, probes.
pub(crate) fn connect(_config: &TokenConfig) -> Result<Box<dyn Backend>, StartRefused> {
    Err(StartRefused::Device("this build has no PKCS#11 back-end".to_owned()))
}
