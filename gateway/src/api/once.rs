//! A request's claim on its idempotency key, as commands carry it into their transactions.
//! Who enters: the boundary, which took the claim.
//! What leaves: an answer, or a workflow that is the answer, kept in the very transaction that makes it true.

use audit::Tx;
use sagas::SagaKey;
use sagas::idempotency::{Claim, ClaimRefused, Held};

use super::Reply;
use super::kept::Kept;

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

    /// The key itself, as the client chose it.
    pub fn key(&self) -> &str {
        self.claim.key().as_str()
    }

    /// Keeps the reply in the transaction that makes it true: whoever sends the request again finds it, should we stop before
    /// another one is kept.
    ///
    /// # Errors
    /// Another request has taken over, or the database did not do it.
    pub fn provide(&self, tx: &mut Tx<'_>, reply: &Reply) -> Result<(), ClaimRefused> {
        let Kept { answer, with_secret } = Kept::of(reply);
        self.claim.provide(tx, self.held, &answer, with_secret.as_ref())
    }

    /// Makes a workflow the answer, in the transaction that starts it or turns it: whoever sends the request again, after
    /// whatever was lost, finds this one workflow.
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
