//! A request's claim on its idempotency key, as commands carry it into their transactions.
//! Who enters: the boundary, which took the claim.
//! What leaves: a workflow that is the key's answer from the very transaction that starts it.

use audit::Tx;
use sagas::SagaKey;
use sagas::idempotency::{Claim, ClaimRefused, Held};

/// The claim, held.
pub struct Once {
    claim: Claim,
    held: Held,
}

impl Once {
    /// A claim that was taken.
    pub fn new(claim: Claim, held: Held) -> Self {
        Self { claim, held }
    }

    /// The claim with what it takes to answer it.
    pub fn parts(&self) -> (&Claim, Held) {
        (&self.claim, self.held)
    }

    /// Makes a workflow the answer, in the transaction that starts it: whoever sends the request again, after whatever
    /// was lost, finds this one workflow.
    ///
    /// # Errors
    /// Another request has taken over, or the database did not do it.
    pub fn attach(&self, tx: &mut Tx<'_>, workflow: &SagaKey) -> Result<(), ClaimRefused> {
        self.claim.attach(tx, self.held, workflow)
    }
}

impl std::fmt::Debug for Once {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Once(..)")
    }
}
