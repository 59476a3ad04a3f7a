//! Where signing is reached, by whom, and what the API description says of it.
//! Who enters: the wiring, at start.
//! What leaves: routes, each with its guard.

use std::sync::Arc;

use super::offers::SignatureWanted;
use super::requests::Made;
use super::{Signing, wire};
use crate::api::exchange::Json;
use crate::api::guard::may;
use crate::api::{Exchange, InWorkspace, KeyRule, Member, Problem, Reply, Route};
use crate::runner::Ran;
use crate::services::keys;

/// The service's routes.
pub fn routes(service: &Arc<Signing>) -> Vec<Route> {
    let to = || Arc::clone(service);
    vec![
        Route::post("/v1/keys/{key}/sign")
            .guard::<InWorkspace<may::Sign>>()
            .keyed(KeyRule::Lasting)
            .takes::<Json<wire::Sign>>()
            .says("Sign a message or a digest")
            .gives::<wire::Signature>(200)
            .to(to(), sign),
        Route::post("/v1/keys/{key}/signatures")
            .guard::<InWorkspace<may::Sign>>()
            .keyed(KeyRule::Required)
            .takes::<Json<SignatureWanted>>()
            .waits()
            .says("Ask for a signature that others may have to agree to; `Prefer: wait=N` waits for it")
            .gives::<Made>(201)
            .or_gives::<keys::wire::Going>(
                202,
                "Others have to agree first; `Location` says where it is seen",
            )
            .to(to(), request),
        Route::get("/v1/policies")
            .guard::<InWorkspace<may::KeysRead>>()
            .says("The workspace's signing policies: staged, active and retired")
            .gives::<wire::PolicyList>(200)
            .to(to(), policies),
        Route::get("/v1/policies/{scope}")
            .guard::<InWorkspace<may::KeysRead>>()
            .says("What holds for the workspace, or for a key: all policies together")
            .gives::<wire::EffectiveAnswer>(200)
            .to(to(), effective),
        Route::post("/v1/sign-batch")
            .guard::<InWorkspace<may::Sign>>()
            .keyed(KeyRule::Lasting)
            .takes::<Json<wire::SignBatch>>()
            .says("Sign up to 500 messages or digests")
            .gives::<wire::SignatureList>(200)
            .to(to(), sign_batch),
        Route::post("/v1/keys/{key}/verify")
            .guard::<InWorkspace<may::Verify>>()
            .reads()
            .takes::<Json<wire::Verify>>()
            .says("Verify a signature against a recorded public key")
            .gives::<wire::Verdict>(200)
            .to(to(), verify),
    ]
}

async fn sign(
    service: Arc<Signing>,
    by: Member<may::Sign>,
    Json(body): Json<wire::Sign>,
    ex: Exchange,
) -> Result<Reply, Problem> {
    let (command, encoding) = body.into_command(ex.param(0)?)?;
    let signed = service.sign(&by, &ex.origin, command).await?;
    Ok(Reply::json(200, &wire::Signature::new(&signed, encoding))?.told_in(signed.seq))
}

async fn request(
    service: Arc<Signing>,
    by: Member<may::Sign>,
    Json(body): Json<SignatureWanted>,
    ex: Exchange,
) -> Result<Reply, Problem> {
    let plan = service.plan_request(by.workspace().clone(), ex.param(0)?, body).await?;
    let (run, made) = service.request(&by, &ex.origin, &plan, ex.wait.unwrap_or_default()).await?;
    let location = format!("/v1/workflows/{}", run.id);
    Ok(match made {
        Ran::Done(made) => Reply::json(201, &made)?.told_in(made.entry),
        Ran::Going => Reply::json(202, &keys::wire::Going { workflow: run.id.to_string() })?,
    }
    .at(location))
}

async fn policies(
    service: Arc<Signing>,
    by: Member<may::KeysRead>,
    (): (),
    _: Exchange,
) -> Result<Reply, Problem> {
    let policies = service.policies(&by).await?.into_iter().map(wire::PolicyAnswer::new);
    Reply::json(200, &wire::PolicyList { policies: policies.collect() })
}

async fn effective(
    service: Arc<Signing>,
    by: Member<may::KeysRead>,
    (): (),
    ex: Exchange,
) -> Result<Reply, Problem> {
    let (scope, effective) = service.effective(&by, &ex.param::<String>(0)?).await?;
    Reply::json(200, &wire::EffectiveAnswer::new(scope, effective))
}

async fn sign_batch(
    service: Arc<Signing>,
    by: Member<may::Sign>,
    Json(body): Json<wire::SignBatch>,
    ex: Exchange,
) -> Result<Reply, Problem> {
    let (commands, encodings): (Vec<_>, Vec<_>) = body.into_commands()?.into_iter().unzip();
    ex.meter.batch(commands.len())?;
    let outcomes = service.sign_batch(&by, &ex.origin, commands).await?;
    let results = outcomes
        .into_iter()
        .zip(encodings)
        .map(|(outcome, encoding)| wire::BatchResult::new(outcome, encoding));
    Reply::json(200, &wire::SignatureList { results: results.collect() })
}

async fn verify(
    service: Arc<Signing>,
    by: Member<may::Verify>,
    Json(body): Json<wire::Verify>,
    ex: Exchange,
) -> Result<Reply, Problem> {
    let (target, valid) = service.verify(&by, body.into_command(ex.param(0)?)?).await?;
    Reply::json(200, &wire::Verdict::new(&target, valid))
}
