//! The TPM back-end: keys wrapped under a storage root, secrets sealed to measured state, an anchor in NV.
//! Enters: a TPM 2.0 reached by TCTI.
//! Leaves: a [`Backend`].

mod anchor;
mod attest;
mod blob;
mod connect;
mod encode;
mod esys;
mod fault;
mod keks;
mod keys;
mod lane;
mod pcr;
mod pin;
mod probe;
mod sessions;
mod sign;
mod templates;
#[cfg(test)]
mod tests;
mod wrap;

use std::sync::Arc;

use hsm::Probe;
use hsm::backend::{Backend, Fault, Lane};

use esys::Esys;
use lane::TpmLane;

pub(crate) use connect::connect;

/// A connected TPM. It has one lane.
struct Tpm {
    esys: Arc<Esys>,
    probe: Probe,
    lane: Option<TpmLane>,
    shared: bool,
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
