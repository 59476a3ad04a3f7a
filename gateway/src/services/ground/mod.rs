//! What every service stands on: ledger, clock, dice, workflows; and the words common to every entry.
//! Who enters: commands that read, write or tell.
//! What leaves: recorded values, or one small set of reasons why the ledger did not take or give.

mod refused;
mod telling;
mod workflows;

use std::sync::Arc;

use audit::{Clock, Ledger, Recorded, Told, Tx, View};

pub use self::refused::{LedgerRefused, was_read, written};
pub use self::telling::Telling;
pub use self::workflows::Signal;
use crate::api::guard::Standing;
use crate::api::{Problem, Reply};
use crate::dice::Dice;
use crate::ids::WorkspaceId;
use crate::moment::Moment;
use crate::runner::Runner;
use crate::traces::spanned;

/// Looks, in the transaction that carries an act out, whether what the guard saw still stands.
pub type Confirm = fn(&Tx<'_>, &WorkspaceId, &Standing, Moment) -> Result<(), LedgerRefused>;

/// How a command's outcome is said to whoever asked for it.
pub trait Say<T>: Fn(&T) -> Result<Reply, Problem> + Send + 'static {}
impl<T, F: Fn(&T) -> Result<Reply, Problem> + Send + 'static> Say<T> for F {}

/// The ground of a service; cheap to clone.
#[derive(Clone)]
pub struct Ground {
    /// The ledger.
    pub ledger: Ledger,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Ids and secrets.
    pub dice: Dice,
    /// Where workflows run.
    pub runner: Runner,
    /// How the credentials behind an act are looked at again.
    pub confirm: Confirm,
}

impl Ground {
    /// Now.
    pub fn now(&self) -> Moment {
        Moment::now(self.clock.as_ref())
    }

    /// Changes rows and tells of it, in one transaction, in which the credentials behind a member's act must still
    /// stand.
    ///
    /// # Errors
    /// What the closure said, or why the ledger did not take it.
    pub async fn write<T, E>(
        &self,
        telling: Telling,
        mut work: impl FnMut(&mut Tx<'_>, &Telling) -> Result<Told<T>, E> + Send + 'static,
    ) -> Result<Recorded<T>, E>
    where
        T: Send + 'static,
        E: From<LedgerRefused> + Send + 'static,
    {
        let (confirm, now) = (self.confirm, self.now());
        let act = move |tx: &mut Tx<'_>| {
            if let Some((workspace, standing)) = telling.standing() {
                confirm(tx, workspace, standing, now)?;
            }
            work(tx, &telling)
        };
        written(spanned("ledger.write", self.ledger.write(act)).await)
    }

    /// Changes rows, tells of it, and keeps in the same transaction what it is answered with: a request that is sent
    /// again finds that answer, wherever a crash cut the first one off. The reply names its entry.
    ///
    /// # Errors
    /// What the closure said, or why the ledger did not take it.
    pub async fn answer<T, E>(
        &self,
        telling: Telling,
        mut work: impl FnMut(&mut Tx<'_>, &Telling) -> Result<Told<T>, E> + Send + 'static,
        say: impl Say<T>,
    ) -> Result<(Reply, Recorded<T>), E>
    where
        T: Send + 'static,
        E: From<LedgerRefused> + Send + 'static,
    {
        let act = move |tx: &mut Tx<'_>, telling: &Telling| {
            let told = work(tx, telling)?;
            let mut reply = say(told.value()).map_err(LedgerRefused::Unsaid)?;
            reply.entry = tx.entry();
            telling.answered_with(tx, &reply)?;
            Ok(told.beside(reply))
        };
        Ok(self.write::<_, E>(telling, act).await?.split())
    }

    /// Looks at rows.
    ///
    /// # Errors
    /// What the closure said, or why the ledger gave nothing.
    pub async fn read<T, E>(
        &self,
        work: impl FnOnce(&View<'_>) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<LedgerRefused> + Send + 'static,
    {
        was_read(spanned("ledger.read", self.ledger.read(work)).await)
    }
}
