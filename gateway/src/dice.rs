//! Randomness for ids, salts and secrets, handed down from the wiring.
//! Who enters: whoever needs bytes that nobody can guess.
//! What leaves: such bytes; a machine that has none is stopped on the spot.

use std::sync::Arc;

use audit::{MachineRandom, Random};

/// The source of randomness.
#[derive(Clone)]
pub struct Dice(Arc<dyn Random>);

impl Dice {
    /// Over a source of one's own, as tests use.
    pub fn new(source: Arc<dyn Random>) -> Self {
        Self(source)
    }

    /// The kernel's.
    pub fn system() -> Self {
        Self(Arc::new(MachineRandom))
    }

    /// Fresh bytes.
    pub fn throw<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        self.fill(&mut bytes);
        bytes
    }

    /// Fills a buffer, such as one that wipes itself.
    pub fn fill(&self, bytes: &mut [u8]) {
        if let Err(why) = self.0.fill(bytes) {
            // Going on would mean guessable ids and secrets. The kernel does not fail here once it has booted.
            tracing::error!(%why, "no randomness; stopping");
            std::process::abort();
        }
    }
}

impl std::fmt::Debug for Dice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dice(..)")
    }
}
