//! A request's claim on its idempotency key, as commands carry it into their transactions.
//! Who enters: the boundary, with a request that it has found nobody else at work on.
//! What leaves: a claim taken by the first transaction of the request; its answer, or the workflow that is the answer, kept
//! in the very transaction that makes it true.

use std::sync::{Mutex, PoisonError};

use audit::Tx;
use sagas::SagaKey;
use sagas::idempotency::{Claim, ClaimRefused, Held, Standing};

use super::kept::Kept;

/// The claim, on its way through the transactions of one request.
pub struct Once {
    claim: Claim,
    stage: Mutex<Stages>,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No transaction has taken it.
    Free,
    /// Taken; `provisional` while what is provided says no more than that something was authorised.
    Held { held: Held, provisional: bool },
    /// The answer is kept, for good.
    Kept,
}

/// As it stands on the ledger, and as it will stand if the open transaction commits.
struct Stages {
    recorded: Stage,
    open: Stage,
}

impl Once {
    /// A claim that nobody has taken yet.
    pub fn new(claim: Claim) -> Self {
        Self { claim, stage: Mutex::new(Stages { recorded: Stage::Free, open: Stage::Free }) }
    }

    /// The key itself, as the client chose it.
    pub fn key(&self) -> &str {
        self.claim.key().as_str()
    }

    /// Begins a transaction of the request: the first one takes the claim. If it does not commit, the next one does.
    ///
    /// # Errors
    /// Another request has the key, or the database did not do it.
    pub fn hold(&self, tx: &mut Tx<'_>) -> Result<(), ClaimRefused> {
        let recorded = self.stages(|stages| stages.recorded);
        let open = match recorded {
            Stage::Free => match self.claim.take(tx)? {
                Standing::Fresh(held) | Standing::Resume(held) => Stage::Held { held, provisional: false },
                _ => return Err(ClaimRefused::Superseded),
            },
            taken => taken,
        };
        self.stages(|stages| stages.open = open);
        Ok(())
    }

    /// The transaction that began with [`hold`](Self::hold) is durable.
    pub fn committed(&self) {
        self.stages(|stages| stages.recorded = stages.open);
    }

    /// Keeps the reply as the answer, for good.
    ///
    /// # Errors
    /// Another request has taken over, or the database did not do it.
    pub fn keep(&self, tx: &mut Tx<'_>, kept: &Kept) -> Result<(), ClaimRefused> {
        self.claim.finish(tx, self.held()?, &kept.answer, kept.with_secret.as_ref())?;
        self.stages(|stages| stages.open = Stage::Kept);
        Ok(())
    }

    /// Keeps the reply as what is answered should we stop before another one is kept.
    ///
    /// # Errors
    /// Another request has taken over, or the database did not do it.
    pub fn provide(&self, tx: &mut Tx<'_>, kept: &Kept) -> Result<(), ClaimRefused> {
        self.claim.provide(tx, self.held()?, &kept.answer, kept.with_secret.as_ref())
    }

    /// Keeps, in the transaction that authorises something, the answer for the case that nobody learns what came of it. If it
    /// turns out that nothing did, [`let_go`](Self::let_go) takes it back.
    ///
    /// # Errors
    /// Another request has taken over, or the database did not do it.
    pub fn authorise(&self, tx: &mut Tx<'_>, kept: &Kept) -> Result<(), ClaimRefused> {
        let held = self.held()?;
        self.claim.provide(tx, held, &kept.answer, None)?;
        self.stages(|stages| stages.open = Stage::Held { held, provisional: true });
        Ok(())
    }

    /// Makes a workflow the answer, in the transaction that starts it or turns it: whoever sends the request again, after
    /// whatever was lost, finds this one workflow.
    ///
    /// # Errors
    /// Another request has taken over, or the database did not do it.
    pub fn attach(&self, tx: &mut Tx<'_>, workflow: &SagaKey) -> Result<(), ClaimRefused> {
        self.claim.attach(tx, self.held()?, workflow)
    }

    /// Lets the key go, as if the request had not been sent.
    ///
    /// # Errors
    /// Another request has taken over, or the database did not do it.
    pub fn let_go(&self, tx: &mut Tx<'_>) -> Result<(), ClaimRefused> {
        match self.stages(|stages| stages.open) {
            Stage::Held { held, provisional: true } => self.claim.take_back(tx, held),
            _ => self.claim.let_go(tx, self.held()?),
        }
    }

    /// No transaction of the request has committed.
    pub fn is_free(&self) -> bool {
        self.stages(|stages| stages.recorded == Stage::Free)
    }

    /// The answer is on the ledger, for good.
    pub fn is_kept(&self) -> bool {
        self.stages(|stages| stages.recorded == Stage::Kept)
    }

    fn held(&self) -> Result<Held, ClaimRefused> {
        match self.stages(|stages| stages.open) {
            Stage::Held { held, .. } => Ok(held),
            Stage::Free | Stage::Kept => Err(ClaimRefused::Superseded),
        }
    }

    fn stages<T>(&self, with: impl FnOnce(&mut Stages) -> T) -> T {
        with(&mut self.stage.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for Once {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Once(..)")
    }
}
