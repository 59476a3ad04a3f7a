//! Where keys are reached, by whom, and what the API description says of it.
//! Who enters: the wiring, at start.
//! What leaves: routes, each with its guard.

use std::sync::Arc;

use super::{Change, Changed, KeyWithVersions, Keys, wire};
use crate::api::exchange::{Json, bounded};
use crate::api::guard::may;
use crate::api::{Exchange, InWorkspace, KeyRule, Member, Problem, Reply, Route};
use crate::limits::{KEY_VERSIONS_SHOWN_MAX, REASON_BYTES_MAX};

/// The service's routes.
pub fn routes(service: &Arc<Keys>) -> Vec<Route> {
    let to = || Arc::clone(service);
    let manage =
        |pattern| Route::post(pattern).guard::<InWorkspace<may::KeysManage>>().keyed(KeyRule::Required);
    vec![
        manage("/v1/keys")
            .takes::<Json<wire::CreateKey>>()
            .says("Make a key in the token")
            .gives::<wire::KeyDetail>(201)
            .or_gives::<wire::Going>(202, "The workflow goes on; `Location` says where it is seen")
            .to(to(), create),
        Route::get("/v1/keys")
            .guard::<InWorkspace<may::KeysRead>>()
            .asks::<wire::Page>()
            .says("List the workspace's keys")
            .gives::<wire::KeyList>(200)
            .to(to(), list),
        Route::get("/v1/keys/{key}")
            .guard::<InWorkspace<may::KeysRead>>()
            .asks::<wire::VersionsPage>()
            .says("Show a key with its public halves")
            .gives::<wire::KeyDetail>(200)
            .to(to(), show),
        manage("/v1/keys/{key}/rotate")
            .asks::<wire::Rotation>()
            .says("Make a new version; old ones go on verifying")
            .gives::<wire::KeyDetail>(201)
            .or_gives::<wire::Going>(202, "The workflow goes on; `Location` says where it is seen")
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
            .says("Destroy a key after approvals by two others and notice")
            .gives::<wire::KeyOrGoing>(202)
            .to(to(), schedule_destruction),
        manage("/v1/keys/{key}/keep")
            .says("Call off a scheduled destruction; the key stands again as it stood before")
            .gives::<wire::KeyDetail>(200)
            .or_gives::<wire::Going>(202, "The workflow goes on; `Location` says where it is seen")
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
    let made = service.create(&by, &ex.origin, name, kind, body.custody(), body.policy()?).await?;
    let location = made.key.as_ref().map(|key| format!("/v1/keys/{}", key.row.id));
    let reply = changed(201, made)?;
    Ok(match location {
        Some(location) => reply.at(location),
        None => reply,
    })
}

async fn list(service: Arc<Keys>, by: Member<may::KeysRead>, (): (), ex: Exchange) -> Result<Reply, Problem> {
    let page: wire::Page = ex.query()?;
    let limit = page.limit()?;
    let rows = service.list(&by, page.after.unwrap_or_default(), limit).await?;
    let next = rows.last().filter(|_| rows.len() == limit).map(|row| row.id.to_string());
    Reply::json(200, &wire::KeyList { keys: rows.iter().map(Into::into).collect(), next })
}

async fn show(service: Arc<Keys>, by: Member<may::KeysRead>, (): (), ex: Exchange) -> Result<Reply, Problem> {
    let page: wire::VersionsPage = ex.query()?;
    let found = service.show(&by, &ex.param::<String>(0)?).await?;
    let before = page.versions_before.unwrap_or(i64::MAX);
    let shown = wire::KeyDetail::page(&found, before, KEY_VERSIONS_SHOWN_MAX);
    Reply::json(200, &shown.telling(&service.conditions()))
}

async fn rotate(service: Arc<Keys>, by: By, (): (), ex: Exchange) -> Result<Reply, Problem> {
    let query: wire::Rotation = ex.query()?;
    let rotated = service.rotate(&by, &ex.origin, &ex.param::<String>(0)?, query.overlap()).await?;
    changed(201, rotated)
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
    let (key, notice) = (ex.param::<String>(0)?, body.notice());
    let reason = bounded(body.reason, REASON_BYTES_MAX, "/reason")?;
    changed(202, service.schedule_destruction(&by, &ex.origin, &key, notice, reason).await?)
}

async fn keep(service: Arc<Keys>, by: By, (): (), ex: Exchange) -> Result<Reply, Problem> {
    changed(200, service.keep(&by, &ex.origin, &ex.param::<String>(0)?).await?)
}

/// The key as it is now, or the place of the workflow that goes on.
fn changed(status: u16, changed: Changed) -> Result<Reply, Problem> {
    let location = format!("/v1/workflows/{}", changed.workflow.id);
    let Some(key) = changed.key else {
        let going = wire::Going { workflow: changed.workflow.id.to_string() };
        return Ok(Reply::json(202, &going)?.at(location));
    };
    let reply = Reply::json(status, &wire::KeyDetail::changed(&key))?.at(location);
    Ok(match changed.seq {
        Some(seq) => reply.told_in(seq),
        None => reply,
    })
}

async fn change(service: &Keys, by: &By, ex: &Exchange, change: Change) -> Result<Reply, Problem> {
    let say = |key: &KeyWithVersions| Reply::json(200, &wire::KeyDetail::changed(key));
    Ok(service.change(by, &ex.origin, &ex.param::<String>(0)?, change, say).await?)
}
