//! Where clients are reached, by whom, and what the API description says of it.
//! Who enters: the wiring, at start.
//! What leaves: routes, each with its guard.

use std::sync::Arc;

use super::{Devices, EnrolledClient, wire};
use crate::api::exchange::{Json, done};
use crate::api::guard::may;
use crate::api::{Exchange, InWorkspace, Member, Open, OperatorOnly, OperatorPermit, Problem, Reply, Route};

/// The service's routes.
pub fn routes(service: &Arc<Devices>) -> Vec<Route> {
    let to = || Arc::clone(service);
    vec![
        Route::post("/v1/clients")
            .guard::<OperatorOnly>()
            .takes::<Json<wire::EnrolClient>>()
            .says("Enrol a client: issue a certificate for its signing request")
            .gives::<wire::NewClientAnswer>(201)
            .to(to(), enrol),
        Route::get("/v1/clients")
            .guard::<InWorkspace<may::AccessRead>>()
            .says("List the workspace's clients")
            .gives::<wire::ClientList>(200)
            .to(to(), list),
        Route::delete("/v1/clients/{client}")
            .guard::<InWorkspace<may::AccessManage>>()
            .says("Revoke a client; its open connections end at once")
            .gives_status(204)
            .to(to(), revoke),
        Route::get("/v1/ca")
            .guard::<Open>()
            .says("The certificates of this appliance's trusted CAs, PEM, oldest first")
            .gives_text(&["application/x-pem-file"])
            .to(to(), bundle),
    ]
}

async fn enrol(
    service: Arc<Devices>,
    by: OperatorPermit,
    Json(body): Json<wire::EnrolClient>,
    ex: Exchange,
) -> Result<Reply, Problem> {
    let command = body.into_command(by.workspace()?.clone())?;
    let bundle = service.bundle();
    let say = move |enrolled: &EnrolledClient| {
        let location = format!("/v1/clients/{}", enrolled.row.id);
        Ok(Reply::json(201, &wire::NewClientAnswer::new(enrolled.clone(), bundle.clone()))?.at(location))
    };
    Ok(service.enrol(&by, &ex.origin, command, say).await?)
}

async fn list(
    service: Arc<Devices>,
    by: Member<may::AccessRead>,
    (): (),
    _: Exchange,
) -> Result<Reply, Problem> {
    let clients = service.list(&by).await?.into_iter().map(Into::into).collect();
    Reply::json(200, &wire::ClientList { clients })
}

async fn revoke(
    service: Arc<Devices>,
    by: Member<may::AccessManage>,
    (): (),
    ex: Exchange,
) -> Result<Reply, Problem> {
    Ok(service.revoke(&by, &ex.origin, ex.param(0)?, done).await?)
}

async fn bundle(service: Arc<Devices>, (): (), (): (), _: Exchange) -> Result<Reply, Problem> {
    Ok(Reply::text("application/x-pem-file", service.bundle()))
}
