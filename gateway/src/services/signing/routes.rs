//! Where signing is reached, by whom, and what the API description says of it.
//! Who enters: the wiring, at start.
//! What leaves: routes, each with its guard.

use std::sync::Arc;

use super::{Signing, wire};
use crate::api::exchange::Json;
use crate::api::guard::may;
use crate::api::{Exchange, InWorkspace, KeyRule, Member, Problem, Reply, Route};

/// The service's routes.
pub fn routes(service: &Arc<Signing>) -> Vec<Route> {
    let to = || Arc::clone(service);
    vec![
        Route::post("/v1/keys/{key}/sign")
            .guard::<InWorkspace<may::Sign>>()
            .keyed(KeyRule::Resumes)
            .takes::<Json<wire::Sign>>()
            .says("Sign a message or a digest")
            .gives::<wire::Signature>(200)
            .to(to(), sign),
        Route::post("/v1/sign-batch")
            .guard::<InWorkspace<may::Sign>>()
            .keyed(KeyRule::Resumes)
            .takes::<Json<wire::SignBatch>>()
            .says("Sign up to 500 messages or digests")
            .gives::<wire::SignatureList>(200)
            .to(to(), sign_batch),
        Route::post("/v1/keys/{key}/verify")
            .guard::<InWorkspace<may::Verify>>()
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

async fn sign_batch(
    service: Arc<Signing>,
    by: Member<may::Sign>,
    Json(body): Json<wire::SignBatch>,
    ex: Exchange,
) -> Result<Reply, Problem> {
    let (commands, encodings): (Vec<_>, Vec<_>) = body.into_commands()?.into_iter().unzip();
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
