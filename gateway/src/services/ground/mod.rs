//! What every service stands on: ledger, clock, dice, workflows; and the words common to every entry.
//! Who enters: commands that read, write or tell.
//! What leaves: recorded values, or one small set of reasons why the ledger did not take or give.

mod outward;
mod refused;
mod telling;
mod workflows;

use std::sync::Arc;

use audit::{Clock, Ledger, Recorded, Told, Tx, View};
use sagas::idempotency::ClaimRefused;

pub use self::outward::words_of_token;
pub use self::refused::{LedgerRefused, was_read, written};
pub use self::telling::Telling;
pub use self::workflows::Signal;
use crate::api::guard::Standing;
use crate::api::kept::Kept;
use crate::api::{Code, Once, Problem, Reply};
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

/// How a reply is kept with the change that it is about.
type Keep = fn(&Once, &mut Tx<'_>, &Kept) -> Result<(), ClaimRefused>;

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

    /// Changes rows and tells of it, in one transaction, in which what the act rests on must still stand. The first one of
    /// a request also takes the claim on its idempotency key.
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
        let (ground, now, once) = (self.clone(), self.now(), telling.once().cloned());
        let act = move |tx: &mut Tx<'_>| {
            ground.confirm_standing(tx, &telling, now)?;
            if let Some(once) = telling.once() {
                once.hold(tx).map_err(LedgerRefused::Claim)?;
            }
            work(tx, &telling)
        };
        let recorded = written::<_, E>(spanned("ledger.write", self.ledger.write(act)).await)?;
        if let Some(once) = once {
            once.committed();
        }
        Ok(recorded)
    }

    /// Looks, in the transaction that carries an act out, whether everything it rests on still stands: the credentials
    /// behind it, and the leases under whose fences it is to happen.
    ///
    /// # Errors
    /// What no longer stands.
    pub fn confirm_standing(&self, tx: &Tx<'_>, telling: &Telling, now: Moment) -> Result<(), LedgerRefused> {
        if let Some((workspace, standing)) = telling.standing() {
            (self.confirm)(tx, workspace, standing, now)?;
        }
        telling.under_latest_fences(tx)
    }

    /// Changes rows, tells of it, and keeps in the same transaction what it is answered with: a request that is sent
    /// again finds that answer, wherever a crash cut the first one off. The reply names its entry.
    ///
    /// # Errors
    /// What the closure said, or why the ledger did not take it.
    pub async fn answer<T, E>(
        &self,
        telling: Telling,
        work: impl FnMut(&mut Tx<'_>, &Telling) -> Result<Told<T>, E> + Send + 'static,
        say: impl Say<T>,
    ) -> Result<(Reply, Recorded<T>), E>
    where
        T: Send + 'static,
        E: From<LedgerRefused> + Send + 'static,
    {
        self.said(telling, work, (say, Once::keep)).await
    }

    /// The same for what takes a while to be seen after it was changed: the reply that is kept is only given should we stop
    /// before the boundary keeps the final one.
    ///
    /// # Errors
    /// What the closure said, or why the ledger did not take it.
    pub async fn answer_so_far<T, E>(
        &self,
        telling: Telling,
        work: impl FnMut(&mut Tx<'_>, &Telling) -> Result<Told<T>, E> + Send + 'static,
        say: impl Say<T>,
    ) -> Result<(Reply, Recorded<T>), E>
    where
        T: Send + 'static,
        E: From<LedgerRefused> + Send + 'static,
    {
        self.said(telling, work, (say, Once::provide)).await
    }

    /// Writes `entries` entries that authorise something which is done after the commit, and keeps in the same transaction
    /// what the request is answered with should nobody learn what came of it: under its idempotency key nothing is ever
    /// authorised a second time, unless it is certain that nothing was done.
    ///
    /// # Errors
    /// What the closure said, or why the ledger did not take it.
    pub async fn authorise<T, E>(
        &self,
        telling: Telling,
        entries: usize,
        mut work: impl FnMut(&mut Tx<'_>, &Telling) -> Result<Told<T>, E> + Send + 'static,
    ) -> Result<Recorded<T>, E>
    where
        T: Send + 'static,
        E: From<LedgerRefused> + Send + 'static,
    {
        let act = move |tx: &mut Tx<'_>, telling: &Telling| {
            let told = work(tx, telling)?;
            if let Some(once) = telling.once() {
                let first = tx.entry().unwrap_or_default();
                let lost = Kept::of_refusal(&answer_lost(first, entries), telling.request());
                once.authorise(tx, &lost).map_err(LedgerRefused::Claim)?;
            }
            Ok(told)
        };
        self.write::<_, E>(telling, act).await
    }

    async fn said<T, E>(
        &self,
        telling: Telling,
        mut work: impl FnMut(&mut Tx<'_>, &Telling) -> Result<Told<T>, E> + Send + 'static,
        (say, keep): (impl Say<T>, Keep),
    ) -> Result<(Reply, Recorded<T>), E>
    where
        T: Send + 'static,
        E: From<LedgerRefused> + Send + 'static,
    {
        let act = move |tx: &mut Tx<'_>, telling: &Telling| {
            let told = work(tx, telling)?;
            let reply = say(told.value()).map_err(LedgerRefused::Unsaid)?;
            let reply = Reply { entry: tx.entry(), ..reply };
            if let Some(once) = telling.once() {
                keep(once, tx, &Kept::of(&reply)).map_err(LedgerRefused::Claim)?;
            }
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

/// The answer to a request whose own was lost with the process that was to give it.
fn answer_lost(first: u64, entries: usize) -> Problem {
    let last = first + u64::try_from(entries.saturating_sub(1)).unwrap_or_default();
    let place = if last > first { format!("entries {first} to {last}") } else { format!("entry {first}") };
    Problem::new(
        Code::OutcomeUnknown,
        format!(
            "this was authorised in {place}, and what came of it was lost; it is not done again under this \
             Idempotency-Key: send a new one if you still want it"
        ),
    )
}
