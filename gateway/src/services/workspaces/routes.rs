//! Where workspaces and API keys are reached, by whom, and what the API description says of it.
//! Who enters: the wiring, at start.
//! What leaves: routes, each with its guard.

use std::sync::Arc;

use sagas::SagaKey;

use super::{Founded, IssuedApiKey, Workspaces, wire};
use crate::api::exchange::{Json, done};
use crate::api::guard::may;
use crate::api::{Code, Exchange, InWorkspace, Member, OperatorOnly, OperatorPermit, Problem, Reply, Route};
use crate::ids::{Name, WorkspaceId};

/// The service's routes.
pub fn routes(service: &Arc<Workspaces>) -> Vec<Route> {
    let to = || Arc::clone(service);
    vec![
        Route::post("/v1/workspaces")
            .guard::<OperatorOnly>()
            .takes::<Json<wire::CreateWorkspace>>()
            .says("Create a workspace")
            .gives::<wire::Workspace>(201)
            .to(to(), create),
        Route::get("/v1/workspaces")
            .guard::<OperatorOnly>()
            .says("List all workspaces")
            .gives::<wire::Workspaces>(200)
            .to(to(), list),
        Route::post("/v1/workspaces/{workspace}/close")
            .guard::<OperatorOnly>()
            .says("Close a workspace to its programs, until it is opened again")
            .gives_status(204)
            .to(to(), close),
        Route::post("/v1/workspaces/{workspace}/open")
            .guard::<OperatorOnly>()
            .says("Open a closed workspace again")
            .gives_status(204)
            .to(to(), open),
        Route::post("/v1/workspaces/{workspace}/shred")
            .guard::<OperatorOnly>()
            .takes::<Json<wire::ShredWorkspace>>()
            .says("Close a workspace for good: after approvals and grace its key is destroyed, and all that it stored")
            .gives::<wire::Going>(202)
            .to(to(), shred),
        Route::post("/v1/api-keys")
            .guard::<InWorkspace<may::AccessManage>>()
            .takes::<Json<wire::CreateApiKey>>()
            .says("Create an API key; its secret is shown once")
            .gives::<wire::NewApiKeyAnswer>(201)
            .to(to(), issue_api_key),
        Route::get("/v1/api-keys")
            .guard::<InWorkspace<may::AccessRead>>()
            .says("List the workspace's API keys")
            .gives::<wire::ApiKeyList>(200)
            .to(to(), api_keys),
        Route::delete("/v1/api-keys/{api_key}")
            .guard::<InWorkspace<may::AccessManage>>()
            .says("Revoke an API key, at once")
            .gives_status(204)
            .to(to(), revoke_api_key),
    ]
}

async fn create(
    service: Arc<Workspaces>,
    by: OperatorPermit,
    Json(body): Json<wire::CreateWorkspace>,
    ex: Exchange,
) -> Result<Reply, Problem> {
    let name =
        Name::chosen(&body.name).map_err(|why| Problem::new(Code::Invalid, format!("{why}")).at("/name"))?;
    let (seq, row) = match service.create(&by, &ex.origin, name).await? {
        Founded::Done(seq, row) => (seq, row),
        Founded::Going(workflow) => return going(&workflow),
    };
    let location = format!("/v1/workspaces/{}", row.id);
    let reply = Reply::json(201, &wire::Workspace::from(row))?.at(location);
    Ok(match seq {
        Some(seq) => reply.told_in(seq),
        None => reply,
    })
}

async fn shred(
    service: Arc<Workspaces>,
    by: OperatorPermit,
    Json(body): Json<wire::ShredWorkspace>,
    ex: Exchange,
) -> Result<Reply, Problem> {
    let plan = body.plan(ex.param::<WorkspaceId>(0)?)?;
    going(&service.shred_after(&by, &ex.origin, &plan).await?)
}

fn going(workflow: &SagaKey) -> Result<Reply, Problem> {
    let workspace = workflow.scope.workspace().map(ToString::to_string).unwrap_or_default();
    let answer = wire::Going { workflow: workflow.id.to_string(), workspace };
    Ok(Reply::json(202, &answer)?.at(format!("/v1/workflows/{}", workflow.id)))
}

async fn list(service: Arc<Workspaces>, _: OperatorPermit, (): (), _: Exchange) -> Result<Reply, Problem> {
    let workspaces = service.list().await?.into_iter().map(Into::into).collect();
    Reply::json(200, &wire::Workspaces { workspaces })
}

async fn close(service: Arc<Workspaces>, by: OperatorPermit, (): (), ex: Exchange) -> Result<Reply, Problem> {
    Ok(service.set_open(&by, &ex.origin, ex.param::<WorkspaceId>(0)?, false, done).await?)
}

async fn open(service: Arc<Workspaces>, by: OperatorPermit, (): (), ex: Exchange) -> Result<Reply, Problem> {
    Ok(service.set_open(&by, &ex.origin, ex.param::<WorkspaceId>(0)?, true, done).await?)
}

async fn issue_api_key(
    service: Arc<Workspaces>,
    by: Member<may::AccessManage>,
    Json(body): Json<wire::CreateApiKey>,
    ex: Exchange,
) -> Result<Reply, Problem> {
    let say = |issued: &IssuedApiKey| {
        let location = format!("/v1/api-keys/{}", issued.row.id);
        Ok(Reply::json(201, &wire::NewApiKeyAnswer::from(issued))?.at(location))
    };
    Ok(service.issue_api_key(&by, &ex.origin, body.try_into()?, say).await?)
}

async fn api_keys(
    service: Arc<Workspaces>,
    by: Member<may::AccessRead>,
    (): (),
    _: Exchange,
) -> Result<Reply, Problem> {
    let api_keys = service.api_keys(&by).await?.into_iter().map(Into::into).collect();
    Reply::json(200, &wire::ApiKeyList { api_keys })
}

async fn revoke_api_key(
    service: Arc<Workspaces>,
    by: Member<may::AccessManage>,
    (): (),
    ex: Exchange,
) -> Result<Reply, Problem> {
    Ok(service.revoke_api_key(&by, &ex.origin, ex.param(0)?, done).await?)
}
