//! A word from outside to a saga that waits for it: an approval, a veto, an acceptance, a child's end.
//! Who enters: whoever may signal, with a dedupe text so that a repetition is heard once.
//! What leaves: a row, and a saga that is awake, in one transaction.

use serde::de::DeserializeOwned;

use crate::define::step::read;
use crate::seal::Plain;

/// A signal as the wait hears it.
#[derive(Clone, Debug)]
pub struct Signal {
    /// Such as `approve`.
    pub name: String,
    /// What makes it one and the same signal, such as the approver's id.
    pub dedupe: String,
    /// Who sent it.
    pub actor: String,
    /// When, in microseconds since 1970.
    pub at_us: u64,
    pub(crate) payload: Plain,
}

impl Signal {
    /// What came with it.
    ///
    /// # Errors
    /// Why it does not read as a `T`.
    pub fn payload<T: DeserializeOwned>(&self) -> Result<T, String> {
        read(&self.payload, "payload of a signal")
    }
}
