//! The JSON of leases.
//! Who enters: request bodies and queries, parsed once.
//! What leaves: leases as their holders know them, and as others may see them.

use std::time::Duration;

use sagas::lock::lease::Lease;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{Code, Problem};
use crate::ids::Name;
use crate::moment::Moment;

/// Asks for a lease.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Acquire {
    /// What to lease.
    pub name: String,
    /// For how many seconds, 1 to 3600.
    pub ttl_seconds: u64,
    /// How many seconds to stand in line for it, at most 60; not at all if absent.
    #[serde(default)]
    pub wait_seconds: u64,
}

/// Asks for more time.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Renew {
    /// The lease.
    pub lease_id: String,
    /// For how many seconds from now, 1 to 3600.
    pub ttl_seconds: u64,
}

/// Which lease to give back.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// The lease.
    pub lease_id: String,
}

/// Which page of the list.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LeasesQuery {
    /// The last name of the page before.
    #[serde(default)]
    pub after: String,
}

/// A lease as its holder knows it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LeaseAnswer {
    /// What is leased.
    pub name: String,
    /// What it is renewed and released by.
    pub lease_id: String,
    /// The number that protected writes carry; greater than any before it, for ever.
    pub fence: i64,
    /// Until when, unless it is renewed.
    pub expires_at: Moment,
}

/// A lease as others may see it.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HeldAnswer {
    /// What is leased.
    pub name: String,
    /// By whom.
    pub holder: String,
    /// Its fence.
    pub fence: i64,
    /// Since when.
    pub since: Moment,
    /// Until when, unless it is renewed.
    pub expires_at: Moment,
}

/// The leases that are held now.
#[derive(Debug, Serialize, JsonSchema)]
pub struct LeaseList {
    /// By name.
    pub locks: Vec<HeldAnswer>,
}

impl Acquire {
    /// The command's parts.
    ///
    /// # Errors
    /// The name cannot be.
    pub fn parts(&self) -> Result<(Name, Duration, Duration), Problem> {
        let bad = |why: crate::malformed::Malformed| Problem::new(Code::Invalid, why.to_string()).at("/name");
        let name = self.name.parse().map_err(bad)?;
        Ok((name, Duration::from_secs(self.ttl_seconds), Duration::from_secs(self.wait_seconds)))
    }
}

/// The lease of this text.
///
/// # Errors
/// It is none: nothing of this name was ever granted.
pub fn lease_id(text: &str) -> Result<[u8; 16], Problem> {
    let mut id = [0; 16];
    let bad = |_| Problem::new(Code::Invalid, "a lease id is 32 hexadecimal digits").at("/lease_id");
    hex::decode_to_slice(text, &mut id).map_err(bad)?;
    Ok(id)
}

fn moment(micros: u64) -> Moment {
    Moment::from_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}

impl From<Lease> for LeaseAnswer {
    fn from(lease: Lease) -> Self {
        let (lease_id, expires_at) = (hex::encode(lease.lease_id), moment(lease.until_us));
        Self { name: lease.name, lease_id, fence: lease.fence, expires_at }
    }
}

impl From<Lease> for HeldAnswer {
    fn from(lease: Lease) -> Self {
        let (since, expires_at) = (moment(lease.since_us), moment(lease.until_us));
        Self { name: lease.name, holder: lease.holder, fence: lease.fence, since, expires_at }
    }
}
