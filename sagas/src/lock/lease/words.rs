//! The words of leases: what is asked for, what is given, why it is not.
//! Who enters: clients' wishes.
//! What leaves: leases, refusals, and the bounds every wish is held to.

use std::error::Error;
use std::time::Duration;

use audit::SqlFault;

use crate::context::Origin;
use crate::ids::Scope;
use crate::limits::{LEASE_TTL_MAX, LEASE_TTL_MIN, LEASE_WAIT_MAX, LEASE_WAITING_MAX, LOCK_NAME_BYTES_MAX};

/// A lease that someone holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Whose name it is.
    pub scope: Scope,
    /// What is leased.
    pub name: String,
    /// What its holder renews and releases it by.
    pub lease_id: [u8; 16],
    /// The number that protected writes carry: greater than any before it, for ever.
    pub fence: i64,
    /// Who holds it.
    pub holder: String,
    /// Since when, in microseconds since 1970.
    pub since_us: u64,
    /// Until when, unless it is renewed.
    pub until_us: u64,
}

/// A wish for a lease.
#[derive(Clone, Debug)]
pub struct LeaseRequest {
    /// Whose name it is.
    pub scope: Scope,
    /// What to lease.
    pub name: String,
    /// Who asks; the principal, not the connection.
    pub holder: String,
    /// The idempotency key of the request: asked again with it, the same holder gets the same lease.
    pub request_key: Option<String>,
    /// For how long, 1 s to 1 h.
    pub ttl: Duration,
    /// How long to stand in line, at most 60 s; not at all when zero.
    pub wait: Duration,
    /// By which request.
    pub origin: Origin,
}

/// Why there is no lease.
#[derive(Debug, thiserror::Error)]
pub enum LeaseRefused {
    /// Wait, or come back later.
    #[error("`{name}` is held by {holder}")]
    Held {
        /// What.
        name: String,
        /// By whom.
        holder: String,
        /// Since when.
        since_us: u64,
        /// Until when, unless it is renewed.
        until_us: u64,
    },
    /// The lease is over, even if nobody else has taken it: acquire it anew, and mind the new fence.
    #[error("the lease has expired")]
    Expired,
    /// Correct the request.
    #[error("{0}")]
    Bad(String),
    /// Whoever asked no longer may.
    #[error("whoever asked for the lease no longer may")]
    NotAllowed(#[source] Box<dyn Error + Send + Sync>),
    /// Stand in line too, or come back later.
    #[error("others stand in line for this name")]
    InLine,
    /// Too many stand in line.
    #[error("{LEASE_WAITING_MAX} requests stand in line for this name already")]
    Crowded,
    /// The machine gives no randomness for an id.
    #[error("the machine gives no randomness")]
    NoRandomness,
    /// The database did not do it.
    #[error("the database did not run a statement")]
    Sql(#[from] SqlFault),
}

/// Someone else has taken the resource since: nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum Fenced {
    /// Acquire it anew and look at what has changed.
    #[error("the fence {carried} of `{name}` is not the latest")]
    Stale {
        /// What was to be protected.
        name: String,
        /// The fence that the write carried.
        carried: i64,
    },
    /// The database did not do it.
    #[error("the database did not run a statement")]
    Sql(#[from] SqlFault),
}

pub(super) fn check(request: &LeaseRequest) -> Result<(), LeaseRefused> {
    if request.name.is_empty() || request.name.len() > LOCK_NAME_BYTES_MAX {
        return Err(LeaseRefused::Bad(format!("a name has 1 to {LOCK_NAME_BYTES_MAX} bytes")));
    }
    if request.wait > LEASE_WAIT_MAX {
        return Err(LeaseRefused::Bad(format!("one can stand in line for at most {LEASE_WAIT_MAX:?}")));
    }
    check_ttl(request.ttl)
}

pub(super) fn check_ttl(ttl: Duration) -> Result<(), LeaseRefused> {
    if (LEASE_TTL_MIN..=LEASE_TTL_MAX).contains(&ttl) {
        return Ok(());
    }
    Err(LeaseRefused::Bad(format!("a lease lasts {LEASE_TTL_MIN:?} to {LEASE_TTL_MAX:?}")))
}
