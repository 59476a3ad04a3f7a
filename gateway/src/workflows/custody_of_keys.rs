//! Workflows about keys that come and go: import.
//! Who enters: the catalog, with the service of keys.
//! What leaves: definitions, each a list of steps that can be read aloud.

use std::sync::Arc;

use hsm::{ImportKey, KeyId};
use sagas::{Definition, DefinitionRefused, Undo, Workflow};

use super::MINUTE;
use super::keys::name_lock;
use crate::limits::{TOKEN_CALL_WAIT_MAX, TOKEN_GENERATE_WAIT_MAX};
use crate::services::keys::Keys;
use crate::services::keys::incoming::{self, Arrived, BLOB, ImportPlan, TakenIn};
use crate::services::keys::making::{self, MadeVersion};

/// 22 `key.import`.
pub fn import(keys: &Arc<Keys>) -> Result<Definition, DefinitionRefused> {
    let (wrapping, wrapped, unwrapping) = (keys.clone(), keys.clone(), keys.clone());
    let (taking, taken, untaking) = (keys.clone(), keys.clone(), keys.clone());
    let prove = keys.clone();
    Workflow::define("key.import")
        .version(1)
        .input::<ImportPlan>()
        .locks(|plan| vec![name_lock(&plan.name)])
        .deadline(120 * MINUTE)
        .local(
            "keys.reserve",
            |tx, cx, plan, ()| making::reserve(tx, cx, &plan.as_new()),
            Undo::local(|tx, cx, plan: &ImportPlan, ()| making::release(tx, cx, &plan.as_new())),
        )
        .remote(
            "keys.hsm_create_import_wrapping_key",
            |step| {
                step.within(TOKEN_GENERATE_WAIT_MAX)
                    .act(move |cx, plan, (), _| wrapping.clone().make_wrapping(cx.effect, plan))
                    .probe(move |cx, _, ()| wrapped.clone().find_wrapping(cx.effect))
                    .settle(|tx, cx, plan, (), under| incoming::show_wrapping(tx, cx, plan, under))
            },
            Undo::remote(TOKEN_CALL_WAIT_MAX, move |cx, _, ()| unwrapping.clone().unmake_wrapping(cx.effect)),
        )
        .wait(
            "keys.await_wrapped_blob",
            |step| {
                step.at_most(|_, _| 30 * MINUTE).on(&[BLOB], |_, cx, plan, under: &ImportKey, signal| {
                    incoming::hear(cx, plan, under, signal)
                })
            },
            Undo::none("waiting changes nothing"),
        )
        .remote(
            "keys.hsm_unwrap",
            |step| {
                step.within(TOKEN_GENERATE_WAIT_MAX)
                    .order(|tx, cx, plan, _: &Arrived| making::order(tx, cx, &plan.first()))
                    .act(move |_, plan: ImportPlan, arrived, order| {
                        let keys = taking.clone();
                        async move { keys.take_in(&plan, arrived, KeyId::clone(order.value())).await }
                    })
                    .probe(move |cx, plan, arrived| {
                        let keys = taken.clone();
                        async move { keys.was_taken_in(&plan, arrived, cx.effect).await }
                    })
                    .settle(|tx, cx, plan, _, taken: &TakenIn| {
                        making::made(tx, cx, &plan.first(), &taken.version)
                    })
            },
            Undo::remote(TOKEN_CALL_WAIT_MAX, move |cx, _, _| {
                let keys = untaking.clone();
                async move { keys.unmake(cx.effect).await }
            }),
        )
        .remote(
            "keys.prove_possession",
            |step| {
                step.within(TOKEN_GENERATE_WAIT_MAX)
                    .act(move |cx, plan, taken: TakenIn, _| prove.clone().prove_import(cx, plan, taken))
                    .probe(|_, _, _| super::made_again())
            },
            Undo::none("a proof changes nothing, and what it ends was to end in any case"),
        )
        .pivot_local("keys.activate", |tx, cx, plan, version: &MadeVersion| {
            incoming::activate(tx, cx, plan, version)
        })
        .build()
}
