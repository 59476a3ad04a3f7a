//! Where workflow runs are reached, by whom, and what the API description says of it.
//! Who enters: the wiring, at start.
//! What leaves: routes, each with its guard.

use std::sync::Arc;
use std::time::Duration;

use sagas::{SagaId, Scope, State};
use serde_json::{Map, Value};

use super::{Runs, shown, wire};
use crate::api::exchange::Json;
use crate::api::guard::may;
use crate::api::{
    Exchange, InWorkspace, KeyRule, Member, OperatorOnly, OperatorPermit, Problem, Reply, Route,
};
use crate::services::keys::incoming::BLOB;

/// The room's routes.
pub fn routes(runs: &Arc<Runs>) -> Vec<Route> {
    let to = || Arc::clone(runs);
    vec![
        Route::get("/v1/workflows")
            .guard::<InWorkspace<may::WorkflowsRead>>()
            .asks::<wire::RunsQuery>()
            .says("The workspace's workflow runs, newest first")
            .gives::<wire::RunList>(200)
            .to(to(), list),
        Route::get("/v1/workflows/{workflow}")
            .guard::<InWorkspace<may::WorkflowsRead>>()
            .says("One run: its steps, attempts, what it waits for, why it is stuck; as text, a picture")
            .gives::<wire::RunAnswer>(200)
            .gives_text(&["text/plain"])
            .to(to(), show),
        Route::get("/v1/workflow-offers")
            .guard::<InWorkspace<may::WorkflowsRead>>()
            .says("Which workflows can be started by name, and with what")
            .gives::<wire::OfferList>(200)
            .to(to(), offers),
        Route::get("/v1/workflows-everywhere")
            .guard::<OperatorOnly>()
            .asks::<wire::RunsQuery>()
            .says("Runs of all workspaces and of the appliance")
            .gives::<wire::RunList>(200)
            .to(to(), everywhere),
        Route::post("/v1/workflows/{workflow}")
            .guard::<InWorkspace<may::WorkflowsManage>>()
            .keyed(KeyRule::Required)
            .takes::<Json<Map<String, Value>>>()
            .waits()
            .says("Start a workflow by its name; `Prefer: wait=N` waits for its end")
            .gives::<wire::RunAnswer>(202)
            .or_gives::<wire::RunAnswer>(200, "It is over already")
            .or_gives::<wire::RunAnswer>(409, "It is over, and did not succeed; or a problem document")
            .to(to(), start),
        Route::post("/v1/workflows/{workflow}/cancel")
            .guard::<InWorkspace<may::WorkflowsManage>>()
            .takes::<Json<wire::Because>>()
            .says("Call a run off: what it did is undone")
            .gives::<wire::RunAnswer>(202)
            .to(to(), cancel),
        Route::post("/v1/workflows/{workflow}/approvals")
            .guard::<InWorkspace<may::Approve>>()
            .takes::<Json<wire::CastVote>>()
            .says("Approve or refuse what a run waits for")
            .gives::<wire::RunAnswer>(200)
            .to(to(), vote),
        Route::post("/v1/workflows/{workflow}/blob")
            .guard::<InWorkspace<may::KeysManage>>()
            .takes::<Json<wire::WrappedKey>>()
            .says("Bring the wrapped key that an import waits for")
            .gives::<wire::RunAnswer>(202)
            .to(to(), blob),
        Route::post("/v1/workflows/{workflow}/lead/{verb}")
            .guard::<OperatorOnly>()
            .takes::<Json<wire::Because>>()
            .says("Lead a stuck run on: retry, supply-result, skip-undo, resume-forward, unwind, abandon")
            .gives::<wire::RunAnswer>(200)
            .to(to(), lead),
    ]
}

async fn list(
    runs: Arc<Runs>,
    by: Member<may::WorkflowsRead>,
    (): (),
    ex: Exchange,
) -> Result<Reply, Problem> {
    let scope = Scope::Workspace(by.workspace().on_ledger().clone());
    page(&runs, ex.query()?, Some(scope)).await
}

async fn everywhere(runs: Arc<Runs>, _: OperatorPermit, (): (), ex: Exchange) -> Result<Reply, Problem> {
    page(&runs, ex.query()?, None).await
}

async fn page(runs: &Runs, query: wire::RunsQuery, scope: Option<Scope>) -> Result<Reply, Problem> {
    let filter = query.filter(scope)?;
    let rows_max = filter.rows_max;
    let listed = runs.list(filter).await?;
    let next = listed.last().filter(|_| listed.len() == rows_max).map(|last| last.id.clone());
    let workflows = listed.iter().map(serde_json::to_value).collect::<Result<_, _>>();
    let workflows = workflows.map_err(|why| Problem::internal(&why))?;
    Reply::json(200, &wire::RunList { workflows, next })
}

async fn show(
    runs: Arc<Runs>,
    by: Member<may::WorkflowsRead>,
    (): (),
    ex: Exchange,
) -> Result<Reply, Problem> {
    let run = runs.show(Some(by.workspace()), ex.param(0)?).await?;
    if !ex.wants_text {
        return Reply::json(200, &wire::RunAnswer::try_from(run)?);
    }
    let picture = sagas::picture(&run.detail);
    let approval = wire::RunAnswer::try_from(run)?.approval;
    let approval = approval.map(serde_json::to_value).transpose().map_err(|why| Problem::internal(&why))?;
    let approval = approval.as_ref().map(shown::text).unwrap_or_default();
    Ok(Reply::text("text/plain; charset=utf-8", picture + &approval))
}

async fn offers(
    runs: Arc<Runs>,
    _: Member<may::WorkflowsRead>,
    (): (),
    _: Exchange,
) -> Result<Reply, Problem> {
    Reply::json(200, &wire::OfferList { offers: runs.offers().iter().map(Into::into).collect() })
}

async fn start(
    runs: Arc<Runs>,
    by: Member<may::WorkflowsManage>,
    Json(input): Json<Map<String, Value>>,
    ex: Exchange,
) -> Result<Reply, Problem> {
    let key = runs.start(&by, &ex.origin, &ex.param::<String>(0)?, Value::Object(input)).await?;
    let end = runs.end(&key, ex.wait.unwrap_or(Duration::ZERO)).await?;
    let status = match end.map(|end| end.state) {
        Some(State::Succeeded) => 200,
        Some(_) => 409,
        None => 202,
    };
    let shown = runs.show(Some(by.workspace()), key.id).await?;
    Ok(Reply::json(status, &wire::RunAnswer::try_from(shown)?)?.at(format!("/v1/workflows/{}", key.id)))
}

async fn cancel(
    runs: Arc<Runs>,
    by: Member<may::WorkflowsManage>,
    Json(body): Json<wire::Because>,
    ex: Exchange,
) -> Result<Reply, Problem> {
    let id: SagaId = ex.param(0)?;
    runs.cancel(&by, &ex.origin, id, &body.reason).await?;
    Reply::json(202, &wire::RunAnswer::try_from(runs.show(Some(by.workspace()), id).await?)?)
}

async fn vote(
    runs: Arc<Runs>,
    by: Member<may::Approve>,
    Json(body): Json<wire::CastVote>,
    ex: Exchange,
) -> Result<Reply, Problem> {
    let id: SagaId = ex.param(0)?;
    let (ballot, decision) = body.parts()?;
    runs.vote(&by, &ex.origin, id, ballot, decision).await?;
    Reply::json(200, &wire::RunAnswer::try_from(runs.show(Some(by.workspace()), id).await?)?)
}

async fn blob(
    runs: Arc<Runs>,
    by: Member<may::KeysManage>,
    Json(body): Json<wire::WrappedKey>,
    ex: Exchange,
) -> Result<Reply, Problem> {
    let id: SagaId = ex.param(0)?;
    let blob = body.checked()?;
    wire::awaits_blob(&runs.show(Some(by.workspace()), id).await?)?;
    runs.deliver(&by, &ex.origin, id, BLOB, &blob).await?;
    Reply::json(202, &wire::RunAnswer::try_from(runs.show(Some(by.workspace()), id).await?)?)
}

async fn lead(
    runs: Arc<Runs>,
    by: OperatorPermit,
    Json(body): Json<wire::Because>,
    ex: Exchange,
) -> Result<Reply, Problem> {
    let id: SagaId = ex.param(0)?;
    let verb = body.verb(&ex.param::<String>(1)?)?;
    let scope = match by.workspace() {
        Ok(workspace) => Some(workspace.clone()),
        Err(_) => runs.workspace_of_stuck(id).await?,
    };
    runs.lead(&by, scope.as_ref(), &ex.origin, id, verb, &body.reason).await?;
    Reply::json(200, &wire::RunAnswer::try_from(runs.show(scope.as_ref(), id).await?)?)
}
