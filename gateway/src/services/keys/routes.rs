//! Where keys are reached, by whom, and what the API description says of it.
//! Who enters: the wiring, at start.
//! What leaves: routes, each with its guard.

use std::sync::Arc;

use super::{Change, Keys, wire};
use crate::api::exchange::Json;
use crate::api::guard::may;
use crate::api::{Exchange, InWorkspace, Member, Problem, Reply, Route};

/// The service's routes.
pub fn routes(service: &Arc<Keys>) -> Vec<Route> {
    let to = || Arc::clone(service);
    let manage = |pattern| Route::post(pattern).guard::<InWorkspace<may::KeysManage>>();
    vec![
        manage("/v1/keys")
            .takes::<Json<wire::CreateKey>>()
            .says("Make a key in the token")
            .gives::<wire::KeyDetail>(201)
            .to(to(), create),
        Route::get("/v1/keys")
            .guard::<InWorkspace<may::KeysRead>>()
            .asks::<wire::Page>()
            .says("List the workspace's keys")
            .gives::<wire::KeyList>(200)
            .to(to(), list),
        Route::get("/v1/keys/{key}")
            .guard::<InWorkspace<may::KeysRead>>()
            .says("Show a key with its public halves")
            .gives::<wire::KeyDetail>(200)
            .to(to(), show),
        manage("/v1/keys/{key}/rotate")
            .says("Make a new version; old ones go on verifying")
            .gives::<wire::KeyDetail>(201)
            .to(to(), rotate),
        manage("/v1/keys/{key}/disable")
            .says("Take a key out of use")
            .gives::<wire::KeyDetail>(200)
            .to(to(), disable),
        manage("/v1/keys/{key}/enable")
            .says("Put a disabled key back into use")
            .gives::<wire::KeyDetail>(200)
            .to(to(), enable),
        manage("/v1/keys/{key}/schedule-destruction")
            .takes::<Json<wire::ScheduleDestruction>>()
            .says("Destroy a key after notice")
            .gives::<wire::KeyDetail>(200)
            .to(to(), schedule_destruction),
        manage("/v1/keys/{key}/keep")
            .says("Call off a scheduled destruction; the key stays disabled")
            .gives::<wire::KeyDetail>(200)
            .to(to(), keep),
    ]
}

type By = Member<may::KeysManage>;

async fn create(
    service: Arc<Keys>,
    by: By,
    Json(body): Json<wire::CreateKey>,
    ex: Exchange,
) -> Result<Reply, Problem> {
    let (name, kind) = body.parts()?;
    let (seq, made) = service.create(&by, &ex.origin, name, kind).await?;
    let location = format!("/v1/keys/{}", made.row.id);
    Ok(Reply::json(201, &wire::KeyDetail::from(made))?.at(location).told_in(seq))
}

async fn list(service: Arc<Keys>, by: Member<may::KeysRead>, (): (), ex: Exchange) -> Result<Reply, Problem> {
    let page: wire::Page = ex.query()?;
    let limit = page.limit()?;
    let rows = service.list(&by, page.after.unwrap_or_default(), limit).await?;
    let next = rows.last().filter(|_| rows.len() == limit).map(|row| row.id.to_string());
    Reply::json(200, &wire::KeyList { keys: rows.iter().map(Into::into).collect(), next })
}

async fn show(service: Arc<Keys>, by: Member<may::KeysRead>, (): (), ex: Exchange) -> Result<Reply, Problem> {
    let found = service.show(&by, &ex.param::<String>(0)?).await?;
    Reply::json(200, &wire::KeyDetail::from(found))
}

async fn rotate(service: Arc<Keys>, by: By, (): (), ex: Exchange) -> Result<Reply, Problem> {
    let (seq, made) = service.rotate(&by, &ex.origin, &ex.param::<String>(0)?).await?;
    Ok(Reply::json(201, &wire::KeyDetail::from(made))?.told_in(seq))
}

async fn disable(service: Arc<Keys>, by: By, (): (), ex: Exchange) -> Result<Reply, Problem> {
    change(&service, &by, &ex, Change::Disable).await
}

async fn enable(service: Arc<Keys>, by: By, (): (), ex: Exchange) -> Result<Reply, Problem> {
    change(&service, &by, &ex, Change::Enable).await
}

async fn schedule_destruction(
    service: Arc<Keys>,
    by: By,
    Json(body): Json<wire::ScheduleDestruction>,
    ex: Exchange,
) -> Result<Reply, Problem> {
    change(&service, &by, &ex, Change::ScheduleDestruction(body.notice())).await
}

async fn keep(service: Arc<Keys>, by: By, (): (), ex: Exchange) -> Result<Reply, Problem> {
    change(&service, &by, &ex, Change::KeepAfterAll).await
}

async fn change(service: &Keys, by: &By, ex: &Exchange, change: Change) -> Result<Reply, Problem> {
    let (seq, changed) = service.change(by, &ex.origin, &ex.param::<String>(0)?, change).await?;
    Ok(Reply::json(200, &wire::KeyDetail::from(changed))?.told_in(seq))
}
