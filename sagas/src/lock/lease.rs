//! Leases: locks that a client holds for a while, with a fence that protected writes check.
//! Who enters: clients who acquire, renew and release; operators who force.
//! What leaves: leases with fences that only grow; waiters served in the order in which they came.

mod queue;
mod rows;
mod turns;
mod words;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use audit::{Clock, Entry, Ledger, Random, ReadRefused, Recorded, SqlFault, Told, Tx, WriteRefused};

use crate::context::Origin;
use crate::define::pinned::hex;
use crate::ids::Scope;
use crate::limits::{LEASE_NAME_KEPT, PAGE_ROWS_MAX, RUNS_SWEPT_MAX};
use queue::Queue;
use rows::Row;
pub(crate) use rows::STATEMENTS;
use turns::Tried;
pub use words::{Fenced, Lease, LeaseRefused, LeaseRequest};
use words::{check, check_ttl};

/// Lets a protected write happen only under the latest fence: call it in the transaction of that write.
///
/// # Errors
/// That someone else has taken the resource since.
pub fn fence_guard(tx: &Tx<'_>, scope: &Scope, name: &str, fence: i64) -> Result<(), Fenced> {
    if rows::is_latest(tx, scope, name, fence)? {
        return Ok(());
    }
    Err(Fenced::Stale { name: name.to_owned(), carried: fence })
}

/// How many stand in line for a name at a moment: for tests that wait for that.
#[cfg(any(test, feature = "double"))]
pub async fn waiting(ledger: &Ledger, scope: &Scope, name: &str, now_us: u64) -> i64 {
    let (scope, name) = (scope.clone(), name.to_owned());
    ledger.read(move |view| rows::waiting(view, &scope, &name, now_us)).await.unwrap_or_default()
}

/// Says in the transaction that would do it why whoever asked no longer may.
pub type May = Arc<dyn Fn(&Tx<'_>) -> Result<(), Box<dyn Error + Send + Sync>> + Send + Sync>;

/// All leases of an appliance.
#[derive(Clone)]
pub struct Leases {
    ledger: Ledger,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    queue: Arc<Queue>,
    may: Option<May>,
}

impl Leases {
    /// Over a ledger that was opened with [`crate::SCHEMA`].
    pub fn new(ledger: Ledger, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self { ledger, clock, random, queue: Arc::default(), may: None }
    }

    /// The same leases, as someone meets them whose right may end while they stand in line.
    #[must_use]
    pub fn as_long_as(&self, may: May) -> Self {
        Self { may: Some(may), ..self.clone() }
    }

    /// Acquires a lease, standing in line if the request says so.
    ///
    /// # Errors
    /// Who holds it and until when, or why it cannot be had.
    pub async fn acquire(&self, request: LeaseRequest) -> Result<Lease, WriteRefused<LeaseRefused>> {
        check(&request).map_err(WriteRefused::Rejected)?;
        let mut lease_id = [0; 16];
        self.random.fill(&mut lease_id).map_err(|_| WriteRefused::Rejected(LeaseRefused::NoRandomness))?;
        let patience = tokio::time::Instant::now() + request.wait;
        let until_us = self.clock.unix_us().saturating_add(micros(request.wait));
        let mut ticket = None;
        loop {
            let heard = ticket.map(|ticket| self.queue.listen(&request.scope, &request.name, ticket));
            match self.attempt(&request, lease_id, ticket, until_us).await {
                Ok(Tried::Got(lease)) => {
                    self.queue.leave(&request.scope, &request.name, ticket);
                    return Ok(lease);
                }
                Ok(Tried::InLine { ticket: own, .. }) if ticket.is_none() => ticket = Some(own),
                Ok(Tried::InLine { retry_us, .. }) => {
                    let holder_ends = Duration::from_micros(retry_us.saturating_sub(self.clock.unix_us()));
                    let pause = holder_ends.clamp(Duration::from_millis(5), Duration::from_secs(1));
                    let wake = (tokio::time::Instant::now() + pause).min(patience);
                    if let Some(heard) = heard {
                        // Either way it looks again; the rows decide.
                        let _ = tokio::time::timeout_at(wake, heard.notified()).await;
                    }
                    if tokio::time::Instant::now() >= patience {
                        return self.give_up(&request, lease_id, ticket).await;
                    }
                }
                Err(refused) => {
                    // If this is not taken, the place in line ends by itself.
                    let _ = self.step_out(&request, ticket).await;
                    return Err(refused);
                }
            }
        }
    }

    /// Makes a lease last longer from now on.
    ///
    /// # Errors
    /// That it has expired, even if nobody else has it.
    pub async fn renew(
        &self,
        scope: &Scope,
        name: &str,
        lease_id: [u8; 16],
        ttl: Duration,
        by: Origin,
    ) -> Result<Lease, WriteRefused<LeaseRefused>> {
        check_ttl(ttl).map_err(WriteRefused::Rejected)?;
        let (scope, name, now_us) = (scope.clone(), name.to_owned(), self.clock.unix_us());
        let may = self.may.clone();
        let renewed = self.ledger.write(move |tx| {
            allowed(tx, may.as_ref())?;
            let row = rows::row(tx, &scope, &name)?.filter(|row| row.is_held_by(&lease_id, now_us));
            let mut row = row.ok_or(LeaseRefused::Expired)?;
            row.until_us = now_us + micros(ttl);
            rows::save(tx, &scope, &row)?;
            let lease = row.lease(&scope).ok_or(LeaseRefused::Expired)?;
            let entry = entry("lock.renew", &scope, &lease, &by);
            Ok(Told::new(lease, entry))
        });
        renewed.await.map(Recorded::into_value)
    }

    /// Gives a lease back. One that is no longer the holder's is left alone: whoever has the name now keeps it.
    ///
    /// # Errors
    /// Why the ledger did not take it.
    pub async fn release(
        &self,
        scope: &Scope,
        name: &str,
        lease_id: [u8; 16],
        by: Origin,
    ) -> Result<bool, WriteRefused<LeaseRefused>> {
        self.free(scope, name, "lock.release", by, move |row| row.lease_id == Some(lease_id)).await
    }

    /// Takes a name from whoever holds it: for operators. The fence makes the former holder's writes fail.
    ///
    /// # Errors
    /// Why the ledger did not take it.
    pub async fn force_release(
        &self,
        scope: &Scope,
        name: &str,
        by: Origin,
    ) -> Result<bool, WriteRefused<LeaseRefused>> {
        self.free(scope, name, "lock.force_release", by, |row| row.lease_id.is_some()).await
    }

    /// Gives up the places in line of the process before this one, whose requests nobody waits for any more. To be called
    /// before the first request is let in: else a free name is refused until the places end by the clock. Says how many.
    ///
    /// # Errors
    /// Why the ledger did not take it.
    pub async fn clear_lines(&self) -> Result<usize, WriteRefused<SqlFault>> {
        let why =
            "places in line of requests that died with their process; nothing that is protected changed";
        self.ledger.write_unaudited(why, |tx| rows::clear_lines(tx)).await
    }

    /// Forgets names that nobody has held for long, so many in one transaction. Their fences still only grow. Says how many.
    ///
    /// # Errors
    /// Why the ledger did not take it; what went before stays gone.
    pub async fn sweep(&self) -> Result<usize, WriteRefused<SqlFault>> {
        let until_us = self.clock.unix_us().saturating_sub(micros(LEASE_NAME_KEPT));
        let mut gone = 0;
        loop {
            let why = "names of leases that nobody has held for long; what was held was told then";
            let work = move |tx: &mut Tx<'_>| rows::forget_free(tx, until_us, RUNS_SWEPT_MAX);
            let some = self.ledger.write_unaudited(why, work).await?;
            gone += some;
            if some < RUNS_SWEPT_MAX {
                return Ok(gone);
            }
        }
    }

    /// The leases of a scope that are held now, by name.
    ///
    /// # Errors
    /// Why the ledger could not be read.
    pub async fn list(
        &self,
        scope: &Scope,
        after: &str,
        rows_max: usize,
    ) -> Result<Vec<Lease>, ReadRefused<SqlFault>> {
        let (scope, after, now_us) = (scope.clone(), after.to_owned(), self.clock.unix_us());
        let rows_max = rows_max.clamp(1, PAGE_ROWS_MAX);
        self.ledger.read(move |view| rows::held(view, &scope, &after, now_us, rows_max)).await
    }

    async fn free(
        &self,
        scope: &Scope,
        name: &str,
        action: &'static str,
        by: Origin,
        mine: impl Fn(&Row) -> bool + Send + 'static,
    ) -> Result<bool, WriteRefused<LeaseRefused>> {
        let (wanted, key) = (scope.clone(), name.to_owned());
        let may = self.may.clone();
        let written = self.ledger.write(move |tx| {
            allowed(tx, may.as_ref())?;
            let row = rows::row(tx, &wanted, &key)?.filter(|row| mine(row));
            let mut row = row.ok_or(LeaseRefused::Expired)?;
            let lease = row.lease(&wanted).ok_or(LeaseRefused::Expired)?;
            row.clear();
            // The fence grows with the release too: what the former holder still has in flight is refused at once.
            row.fence += 1;
            rows::save(tx, &wanted, &row)?;
            Ok(Told::new((), entry(action, &wanted, &lease, &by)))
        });
        match written.await {
            Ok(_) => {
                self.queue.call_first(scope, name);
                Ok(true)
            }
            Err(WriteRefused::Rejected(LeaseRefused::Expired)) => Ok(false),
            Err(refused) => Err(refused),
        }
    }
}

fn allowed(tx: &Tx<'_>, may: Option<&May>) -> Result<(), LeaseRefused> {
    may.map_or(Ok(()), |may| may(tx)).map_err(LeaseRefused::NotAllowed)
}

fn entry(action: &'static str, scope: &Scope, lease: &Lease, by: &Origin) -> Entry {
    let detail = audit::Detail::new()
        .with("lease", hex(&lease.lease_id))
        .with("fence", lease.fence)
        .with("holder", lease.holder.clone());
    let entry = Entry::new(action)
        .actor(by.actor.clone())
        .request(&by.request)
        .object(format!("lock/{}", lease.name))
        .detail(detail);
    match scope.workspace() {
        Some(workspace) => entry.workspace(workspace),
        None => entry,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 4)
}
