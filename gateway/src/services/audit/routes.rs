//! Where the ledger is read, by whom, and what the API description says of it.
//! Who enters: the wiring, at start.
//! What leaves: routes, each with its guard.

use std::sync::Arc;

use super::bundles::{Bundle, ExportPlan};
use super::{Audit, Exported, wire};
use crate::api::guard::may;
use crate::api::{
    Caller, Connected, Exchange, InWorkspace, Member, OperatorOnly, OperatorPermit, Problem, Reply, Route,
};

/// The service's routes.
pub fn routes(service: &Arc<Audit>) -> Vec<Route> {
    let to = || Arc::clone(service);
    vec![
        Route::get("/v1/audit/entries").guard::<InWorkspace<may::AuditRead>>().asks::<wire::EntriesQuery>()
            .says("The workspace's own entries").gives::<wire::EntryList>(200).to(to(), entries),
        Route::get("/v1/audit/entries/{seq}").guard::<InWorkspace<may::AuditRead>>()
            .says("One of the workspace's entries").gives::<wire::EntryAnswer>(200).to(to(), entry),
        Route::get("/v1/audit/receipts/{seq}").guard::<InWorkspace<may::AuditRead>>()
            .says("The receipt of an entry: leaf, inclusion proof, checkpoint; as text, the C2SP tlog-proof alone").gives::<wire::ReceiptAnswer>(200).gives_text(&["text/plain"]).to(to(), receipt),
        Route::get("/v1/audit/everything").guard::<OperatorOnly>().asks::<wire::EntriesQuery>()
            .says("Entries of all workspaces and of the appliance").gives::<wire::EntryList>(200).to(to(), everything),
        Route::get("/v1/audit/checkpoint").guard::<Connected>()
            .says("The newest checkpoint; as text, the signed note alone").gives::<wire::CheckpointAnswer>(200).gives_text(&["text/plain"]).to(to(), checkpoint),
        Route::get("/v1/audit/consistency").guard::<Connected>().asks::<wire::ConsistencyQuery>()
            .says("That the log of one size begins the log of another").gives::<wire::ConsistencyAnswer>(200).to(to(), consistency),
        Route::post("/v1/audit/seal").guard::<OperatorOnly>()
            .says("Seal what is new, now").gives::<wire::CheckpointAnswer>(200).to(to(), seal),
        Route::post("/v1/audit/export").guard::<OperatorOnly>().asks::<wire::ExportQuery>()
            .says("Write what an outsider needs to check the log, a range of it, or one workspace's own entries; for a recipient's eyes only, if one is named").gives::<wire::ExportAnswer>(201).or_gives::<wire::Going>(202, "The export goes on; ask for the workflow").to(to(), export),
    ]
}

async fn entries(
    service: Arc<Audit>,
    by: Member<may::AuditRead>,
    (): (),
    ex: Exchange,
) -> Result<Reply, Problem> {
    let filter = ex.query::<wire::EntriesQuery>()?.into_filter()?;
    let limit = filter.limit;
    Reply::json(200, &wire::EntryList::new(service.entries(&by, filter).await?, limit))
}

async fn everything(service: Arc<Audit>, by: OperatorPermit, (): (), ex: Exchange) -> Result<Reply, Problem> {
    let filter = ex.query::<wire::EntriesQuery>()?.into_filter()?;
    let limit = filter.limit;
    Reply::json(200, &wire::EntryList::new(service.everything(&by, filter).await?, limit))
}

async fn entry(
    service: Arc<Audit>,
    by: Member<may::AuditRead>,
    (): (),
    ex: Exchange,
) -> Result<Reply, Problem> {
    Reply::json(200, &wire::EntryAnswer::from(service.entry(&by, ex.param(0)?).await?))
}

async fn receipt(
    service: Arc<Audit>,
    by: Member<may::AuditRead>,
    (): (),
    ex: Exchange,
) -> Result<Reply, Problem> {
    let receipt = service.receipt(&by, ex.param(0)?).await?;
    Ok(match ex.wants_text {
        true => Reply::text("text/plain; charset=utf-8", receipt.proof.to_string()),
        false => Reply::text("application/json", receipt.to_json()),
    })
}

async fn checkpoint(service: Arc<Audit>, _: Caller, (): (), ex: Exchange) -> Result<Reply, Problem> {
    let checkpoint = service.checkpoint().await?;
    match ex.wants_text {
        true => Ok(Reply::text("text/plain; charset=utf-8", checkpoint.note)),
        false => Reply::json(
            200,
            &wire::CheckpointAnswer::new(checkpoint, service.keys(), service.attestation_key()),
        ),
    }
}

async fn consistency(service: Arc<Audit>, _: Caller, (): (), ex: Exchange) -> Result<Reply, Problem> {
    let query: wire::ConsistencyQuery = ex.query()?;
    let proof = service.consistency(query.old, query.new).await?;
    Reply::json(200, &wire::ConsistencyAnswer::new(&query, &proof))
}

async fn seal(service: Arc<Audit>, by: OperatorPermit, (): (), _: Exchange) -> Result<Reply, Problem> {
    let checkpoint = service.seal(&by).await?;
    Reply::json(200, &wire::CheckpointAnswer::new(checkpoint, service.keys(), service.attestation_key()))
}

async fn export(service: Arc<Audit>, by: OperatorPermit, (): (), ex: Exchange) -> Result<Reply, Problem> {
    let plan = wanted(&service, ex.query()?)?;
    match service.export(&by, &ex.origin, &plan).await? {
        Exported::Done(stored) => {
            let directory = stored.directory.display().to_string();
            let Bundle { entries, size, digest, .. } = stored.bundle;
            Reply::json(201, &wire::ExportAnswer { directory, entries, size, sha256: digest })
        }
        Exported::Going(workflow) => Reply::json(202, &wire::Going { workflow: workflow.id.to_string() }),
    }
}

fn wanted(service: &Audit, query: wire::ExportQuery) -> Result<ExportPlan, Problem> {
    let (from, to, recipient) = (query.from, query.to, query.recipient()?);
    let workspace = query.workspace.map(|text| service.workspace(&text)).transpose()?;
    Ok(ExportPlan { workspace, from, to, recipient })
}
