//! Locks that clients lease for a while: for work of their own that must not run twice, under fences that only grow.
//! Who enters: members with the scope `locks`.
//! What leaves: leases with their fences; each grant and release told on the ledger.

pub mod routes;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use audit::WriteRefused;
use sagas::Scope;
use sagas::lock::lease::{Lease, LeaseRefused, LeaseRequest, Leases as Queue};

use crate::api::Origin;
use crate::api::guard::{Permit, may};
use crate::ids::Name;
use crate::services::ground::{Ground, LedgerRefused, Telling, was_read, written};

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeasesRefused {
    /// The lease's own rules.
    #[error(transparent)]
    Lease(LeaseRefused),
    /// The ledger did not take or give it.
    #[error(transparent)]
    Ledger(#[from] LedgerRefused),
}
crate::refused_by_ledger!(LeasesRefused);

/// The room.
pub struct Leases {
    ground: Ground,
    queue: Queue,
}

impl Leases {
    /// The room on its ground, over the queue of all leases.
    pub fn new(ground: Ground, queue: Queue) -> Arc<Self> {
        Arc::new(Self { ground, queue })
    }

    /// Gives up the places in line of the process before this one. Before the doors open.
    pub async fn clear_lines(&self) {
        if let Err(why) = self.queue.clear_lines().await {
            tracing::warn!(%why, "places in line of the last run end by the clock");
        }
    }

    /// Forgets names that nobody has leased for long.
    ///
    /// # Errors
    /// The ledger did not take it; the next round tries again.
    pub async fn sweep(&self) -> Result<usize, WriteRefused<audit::SqlFault>> {
        self.queue.sweep().await
    }

    /// Acquires a lease, standing in line as long as the request says.
    ///
    /// # Errors
    /// Who holds it, or what is wrong with the request.
    pub async fn acquire(
        &self,
        by: &Permit<may::Locks>,
        origin: &Origin,
        name: &Name,
        ttl: Duration,
        wait: Duration,
    ) -> Result<Lease, LeasesRefused> {
        let telling = Telling::member(by, origin);
        let request = LeaseRequest {
            scope: scope(by),
            name: name.to_string(),
            holder: by.actor().to_string(),
            // Sent again after a crash, the request finds its lease, or its place in line.
            request_key: origin.once.as_ref().map(|once| once.key().to_owned()),
            ttl,
            wait,
            origin: telling.origin(),
        };
        settled(self.queue_for(&telling).acquire(request).await)
    }

    /// Makes a lease last longer from now on.
    ///
    /// # Errors
    /// It has expired, even if nobody else has taken it.
    pub async fn renew(
        &self,
        by: &Permit<may::Locks>,
        origin: &Origin,
        name: &Name,
        lease_id: [u8; 16],
        ttl: Duration,
    ) -> Result<Lease, LeasesRefused> {
        let telling = Telling::member(by, origin);
        let queue = self.queue_for(&telling);
        settled(queue.renew(&scope(by), name.as_str(), lease_id, ttl, telling.origin()).await)
    }

    /// Gives a lease back. One that is another's by now is left alone.
    ///
    /// # Errors
    /// The ledger did not take it.
    pub async fn release(
        &self,
        by: &Permit<may::Locks>,
        origin: &Origin,
        name: &Name,
        lease_id: [u8; 16],
    ) -> Result<bool, LeasesRefused> {
        let telling = Telling::member(by, origin);
        let queue = self.queue_for(&telling);
        settled(queue.release(&scope(by), name.as_str(), lease_id, telling.origin()).await)
    }

    /// The leases of the workspace that are held now.
    ///
    /// # Errors
    /// The ledger gave nothing.
    pub async fn list(
        &self,
        by: &Permit<may::Locks>,
        after: &str,
        rows_max: usize,
    ) -> Result<Vec<Lease>, LeasesRefused> {
        let listed = self.queue.list(&scope(by), after, rows_max).await;
        was_read(listed.map_err(|refused| refused.map(LeasesRefused::from)))
    }

    /// The queue as a member meets it, for whom everything must stand when the turn comes, however long that takes.
    fn queue_for(&self, telling: &Telling) -> Queue {
        let (ground, telling) = (self.ground.clone(), telling.clone());
        self.queue.as_long_as(Arc::new(move |tx| Ok(ground.confirm_standing(tx, &telling, ground.now())?)))
    }
}

fn scope(by: &Permit<may::Locks>) -> Scope {
    Scope::Workspace(by.workspace().on_ledger().clone())
}

fn settled<T>(outcome: Result<T, WriteRefused<LeaseRefused>>) -> Result<T, LeasesRefused> {
    written(outcome.map_err(|refused| refused.map(LeasesRefused::Lease)))
}
