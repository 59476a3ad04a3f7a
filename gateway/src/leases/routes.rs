//! Where leases are reached, by whom, and what the API description says of it.
//! Who enters: the wiring, at start.
//! What leaves: routes, each with its guard.

use std::sync::Arc;

use super::{Leases, wire};
use crate::api::exchange::Json;
use crate::api::guard::may;
use crate::api::{Exchange, InWorkspace, Member, Problem, Reply, Route};
use crate::ids::Name;
use crate::limits::PAGE_ITEMS_MAX;

/// The room's routes.
pub fn routes(leases: &Arc<Leases>) -> Vec<Route> {
    let to = || Arc::clone(leases);
    vec![
        Route::post("/v1/locks")
            .guard::<InWorkspace<may::Locks>>()
            .takes::<Json<wire::Acquire>>()
            .says("Lease a name, with a fence that only grows")
            .gives::<wire::LeaseAnswer>(201)
            .to(to(), acquire),
        Route::get("/v1/locks")
            .guard::<InWorkspace<may::Locks>>()
            .asks::<wire::LeasesQuery>()
            .says("The workspace's leases that are held now")
            .gives::<wire::LeaseList>(200)
            .to(to(), list),
        Route::post("/v1/locks/{name}/renew")
            .guard::<InWorkspace<may::Locks>>()
            .takes::<Json<wire::Renew>>()
            .says("Make a lease last longer from now on")
            .gives::<wire::LeaseAnswer>(200)
            .to(to(), renew),
        Route::post("/v1/locks/{name}/release")
            .guard::<InWorkspace<may::Locks>>()
            .takes::<Json<wire::Release>>()
            .says("Give a lease back; one that is another's by now is left alone")
            .gives_status(204)
            .to(to(), release),
    ]
}

type By = Member<may::Locks>;

async fn acquire(
    leases: Arc<Leases>,
    by: By,
    Json(body): Json<wire::Acquire>,
    ex: Exchange,
) -> Result<Reply, Problem> {
    let (name, ttl, wait) = body.parts()?;
    let lease = leases.acquire(&by, &ex.origin, &name, ttl, wait).await?;
    Ok(Reply::json(201, &wire::LeaseAnswer::from(lease))?.at(format!("/v1/locks/{name}")))
}

async fn list(leases: Arc<Leases>, by: By, (): (), ex: Exchange) -> Result<Reply, Problem> {
    let query: wire::LeasesQuery = ex.query()?;
    let held = leases.list(&by, &query.after, PAGE_ITEMS_MAX).await?;
    Reply::json(200, &wire::LeaseList { locks: held.into_iter().map(Into::into).collect() })
}

async fn renew(
    leases: Arc<Leases>,
    by: By,
    Json(body): Json<wire::Renew>,
    ex: Exchange,
) -> Result<Reply, Problem> {
    let (name, id): (Name, _) = (ex.param(0)?, wire::lease_id(&body.lease_id)?);
    let ttl = std::time::Duration::from_secs(body.ttl_seconds);
    Reply::json(200, &wire::LeaseAnswer::from(leases.renew(&by, &ex.origin, &name, id, ttl).await?))
}

async fn release(
    leases: Arc<Leases>,
    by: By,
    Json(body): Json<wire::Release>,
    ex: Exchange,
) -> Result<Reply, Problem> {
    let (name, id): (Name, _) = (ex.param(0)?, wire::lease_id(&body.lease_id)?);
    leases.release(&by, &ex.origin, &name, id).await?;
    Ok(Reply::empty())
}
