//! Where the master key is sealed anew, and what the API description says of it.
//! Who enters: the wiring, at start.
//! What leaves: the route, with its guard.

use std::sync::Arc;

use super::{Resealed, Resealing, wire};
use crate::api::{Exchange, OperatorOnly, OperatorPermit, Problem, Reply, Route};

/// The service's routes.
pub fn routes(service: &Arc<Resealing>) -> Vec<Route> {
    vec![
        Route::post("/v1/token/reseal")
            .guard::<OperatorOnly>()
            .says("Seal the master key anew, to the present values of the registers that `pcrs` names in the configuration")
            .gives::<wire::SealedTo>(200)
            .to(Arc::clone(service), reseal),
    ]
}

async fn reseal(service: Arc<Resealing>, by: OperatorPermit, (): (), ex: Exchange) -> Result<Reply, Problem> {
    let say = |resealed: &Resealed| Reply::json(200, &wire::SealedTo::from(resealed));
    Ok(service.reseal(&by, &ex.origin, say).await?)
}
