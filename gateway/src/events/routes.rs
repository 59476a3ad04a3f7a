//! Where events are reached, by whom, and what the API description says of it.
//! Who enters: the wiring, at start.
//! What leaves: routes, each with its guard.

use std::sync::Arc;

use sagas::Scope;

use super::{Events, wire};
use crate::api::guard::may;
use crate::api::{Exchange, InWorkspace, Member, OperatorOnly, OperatorPermit, Problem, Reply, Route};

/// The room's routes.
pub fn routes(events: &Arc<Events>) -> Vec<Route> {
    let to = || Arc::clone(events);
    vec![
        Route::get("/v1/events")
            .guard::<InWorkspace<may::WorkflowsRead>>()
            .asks::<wire::EventsQuery>()
            .waits()
            .says("What happened in the workspace, in order; `Prefer: wait=N` waits for the next")
            .gives::<wire::EventList>(200)
            .to(to(), list),
        Route::get("/v1/events-everywhere")
            .guard::<OperatorOnly>()
            .asks::<wire::EventsQuery>()
            .waits()
            .says("What happened in all workspaces and in the appliance; `Prefer: wait=N` waits for the next")
            .gives::<wire::EventList>(200)
            .to(to(), everywhere),
    ]
}

async fn list(
    events: Arc<Events>,
    by: Member<may::WorkflowsRead>,
    (): (),
    ex: Exchange,
) -> Result<Reply, Problem> {
    page(&events, Some(Scope::Workspace(by.workspace().on_ledger().clone())), &ex).await
}

async fn everywhere(events: Arc<Events>, _: OperatorPermit, (): (), ex: Exchange) -> Result<Reply, Problem> {
    page(&events, None, &ex).await
}

async fn page(events: &Events, scope: Option<Scope>, ex: &Exchange) -> Result<Reply, Problem> {
    let wanted = ex.query::<wire::EventsQuery>()?.wanted(scope)?;
    let page = events.page(wanted, ex.wait, ex.origin.deadline).await?;
    Reply::json(200, &wire::EventList::from(page))
}
