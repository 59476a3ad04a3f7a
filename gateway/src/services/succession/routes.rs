//! Where the succession of certificate authorities is reached, and what the API description says of it.
//! Who enters: the wiring, at start.
//! What leaves: routes, each with its guard.

use std::sync::Arc;

use super::{Retired, Rotated, Succession, wire};
use crate::api::{Exchange, OperatorOnly, OperatorPermit, Problem, Reply, Route};

/// The service's routes.
pub fn routes(service: &Arc<Succession>) -> Vec<Route> {
    let to = || Arc::clone(service);
    vec![
        Route::get("/v1/authorities")
            .guard::<OperatorOnly>()
            .says("List the certificate authorities of this appliance, oldest first")
            .gives::<wire::AuthorityList>(200)
            .to(to(), list),
        Route::post("/v1/authorities")
            .guard::<OperatorOnly>()
            .says("Make a new certificate authority, which issues for clients from now on")
            .gives::<wire::NewAuthority>(201)
            .to(to(), rotate),
        Route::post("/v1/authorities/{authority}/retire")
            .guard::<OperatorOnly>()
            .says("Retire a certificate authority and revoke every client it issued; their connections end at once")
            .gives::<wire::RetiredAuthority>(200)
            .to(to(), retire),
    ]
}

async fn list(service: Arc<Succession>, by: OperatorPermit, (): (), _: Exchange) -> Result<Reply, Problem> {
    let authorities = service.list(&by).await?.into_iter().map(Into::into).collect();
    Reply::json(200, &wire::AuthorityList { authorities })
}

async fn rotate(
    service: Arc<Succession>,
    by: OperatorPermit,
    (): (),
    ex: Exchange,
) -> Result<Reply, Problem> {
    let say = |rotated: &Rotated| Reply::json(201, &wire::NewAuthority::from(rotated));
    Ok(service.rotate(&by, &ex.origin, say).await?)
}

async fn retire(
    service: Arc<Succession>,
    by: OperatorPermit,
    (): (),
    ex: Exchange,
) -> Result<Reply, Problem> {
    let say = |retired: &Retired| Reply::json(200, &wire::RetiredAuthority::from(retired));
    Ok(service.retire(&by, &ex.origin, ex.param(0)?, say).await?)
}
