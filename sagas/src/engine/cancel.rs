//! What people can do with a saga before its pivot: call it off.
//! Who enters: whoever may, with a reason.
//! What leaves: a wish on the saga's row, told on the ledger; the saga turns round at the next step's border.

use audit::{Told, Tx, WriteRefused};

use super::Engine;
use super::live::{entry_by, is_past_pivot};
use super::verbs::{VerbRefused, past_pivot};
use crate::catalog::Catalog;
use crate::context::Origin;
use crate::ids::SagaKey;
use crate::state::State;
use crate::store;

/// A wish that a saga turns round, which has everything but its commit.
#[derive(Clone)]
pub struct Cancelling {
    key: SagaKey,
    by: Origin,
    reason: String,
    now_us: u64,
    catalog: Catalog,
}

impl Cancelling {
    /// Writes the wish down, in the caller's transaction. Tell the engine afterwards with [`Engine::nudge`].
    ///
    /// # Errors
    /// Why the saga will not turn round.
    pub fn commit(&self, tx: &mut Tx<'_>) -> Result<Told<()>, VerbRefused> {
        let row = store::saga(tx, &self.key)?.ok_or(VerbRefused::NoSuchSaga)?;
        let def = self.catalog.pinned(&row.workflow, row.version, &row.def_hash);
        let def = def.ok_or_else(|| VerbRefused::NotOpen("this build lacks its definition".to_owned()))?;
        match row.state {
            state if state.is_over() => return Err(VerbRefused::Over(state)),
            State::StuckForward | State::StuckUndo | State::Unwinding => {
                return Err(VerbRefused::NotNow { verb: "cancel", state: row.state });
            }
            // A pivot whose order is on record cannot be called off, until it is certain that nothing of it happened.
            _ if is_past_pivot(&row, def) => {
                return Err(past_pivot(def));
            }
            _ => {}
        }
        store::ask_to_cancel(tx, &self.key, self.now_us)?;
        let reason = self.reason.clone();
        let entry = entry_by(&row, &self.by, "workflow.cancel", |detail| detail.with("reason", reason));
        Ok(Told::new((), entry))
    }
}

impl Engine {
    /// Prepares to ask a saga to turn round, for a commit of one's own.
    pub fn prepare_cancel(&self, key: &SagaKey, by: Origin, reason: &str) -> Cancelling {
        let (now_us, catalog) = (self.inner().now_us(), self.inner().parts.catalog.clone());
        Cancelling { key: key.clone(), by, reason: reason.to_owned(), now_us, catalog }
    }

    /// Asks a saga to turn round. It does so at the next step's border, if its pivot lies ahead.
    ///
    /// # Errors
    /// Why it will not, or why the ledger did not take it.
    pub async fn cancel(
        &self,
        key: &SagaKey,
        by: Origin,
        reason: &str,
    ) -> Result<(), WriteRefused<VerbRefused>> {
        let cancelling = self.prepare_cancel(key, by, reason);
        self.inner().parts.ledger.write(move |tx| cancelling.commit(tx)).await?;
        self.nudge(key);
        Ok(())
    }
}
