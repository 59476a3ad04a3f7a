//! Where the succession of certificate authorities is reached, and what the API description says of it.
//! Who enters: the wiring, at start.
//! What leaves: routes, each with its guard.

use std::sync::Arc;

use super::{Succession, wire};
use crate::api::{CertificateHash, Exchange, OperatorOnly, OperatorPermit, Problem, Reply, Route};

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
    let rotated = service.rotate(&by, &ex.origin).await?;
    let seq = rotated.seq;
    Ok(Reply::json(201, &wire::NewAuthority::from(rotated))?.told_in(seq))
}

async fn retire(
    service: Arc<Succession>,
    by: OperatorPermit,
    (): (),
    ex: Exchange,
) -> Result<Reply, Problem> {
    let fingerprint: CertificateHash = ex.param(0)?;
    let retired = service.retire(&by, &ex.origin, fingerprint).await?;
    Ok(Reply::json(200, &wire::RetiredAuthority::new(fingerprint, &retired))?.told_in(retired.seq))
}
