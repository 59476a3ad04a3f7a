//! Workflows about keys that come and go: import, backup, restore.
//! Who enters: the catalog, with the service of keys.
//! What leaves: definitions, each a list of steps that can be read aloud.

use std::sync::Arc;

use hsm::{ImportKey, KeyId};
use sagas::{Definition, DefinitionRefused, Undo, Workflow};

use super::keys::{key_lock, name_lock};
use super::{DAY, MINUTE};
use crate::ids::WorkspaceId;
use crate::limits::{TOKEN_CALL_WAIT_MAX, TOKEN_GENERATE_WAIT_MAX};
use crate::services::credentials;
use crate::services::keys::Keys;
use crate::services::keys::backup::{self, BackupPlan, Offsite, Wrapped};
use crate::services::keys::incoming::{self, Arrived, BLOB, ImportPlan, TakenIn};
use crate::services::keys::making::{self, MadeVersion};
use crate::services::keys::restoring::{self, Fetched, RestorePlan, Restored};
use crate::services::signing::approvals::{self, APPROVE, Quorum, REFUSE};

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
                    .probe(move |cx, plan, ()| wrapped.clone().find_wrapping(plan.workspace, cx.effect))
                    .settle(|tx, cx, plan, (), under| incoming::show_wrapping(tx, cx, plan, under))
            },
            Undo::remote(TOKEN_CALL_WAIT_MAX, move |cx, plan: ImportPlan, ()| {
                unwrapping.clone().unmake_wrapping(plan.workspace, cx.effect)
            }),
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
                    .order(|tx, cx, plan, _: &Arrived| {
                        credentials::confirm_requester(tx, cx, &plan.workspace)?;
                        making::order(tx, cx, &plan.first())
                    })
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
            Undo::remote(TOKEN_CALL_WAIT_MAX, move |cx, plan: ImportPlan, _| {
                let keys = untaking.clone();
                async move { keys.unmake(&plan.workspace, cx.effect).await }
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
            credentials::confirm_requester(tx, cx, &plan.workspace)?;
            incoming::activate(tx, cx, plan, version)
        })
        .build()
}

/// 24 `key.backup`.
pub fn backup(keys: &Arc<Keys>) -> Result<Definition, DefinitionRefused> {
    let (wrap, unwrap, keep, delete) = (keys.clone(), keys.clone(), keys.clone(), keys.clone());
    let (try_out, tidy) = (keys.clone(), keys.clone());
    Workflow::define("key.backup")
        .version(2)
        .input::<BackupPlan>()
        .locks(|plan| vec![key_lock(&plan.key)])
        .deadline(DAY)
        .wait(
            "signing.await_approvals",
            |step| {
                step.at_most(|_, ()| DAY / 2)
                    .open(|tx, cx, plan: &BackupPlan, ()| {
                        approvals::open(tx, cx, &two(&plan.workspace), &backup::subject(tx, plan)?)
                    })
                    .on(&[APPROVE, REFUSE], |tx, cx, plan, (), signal| {
                        approvals::hear(tx, cx, &two(&plan.workspace), signal, ())
                    })
            },
            Undo::local(|tx, cx, plan: &BackupPlan, ()| approvals::close(tx, cx, &plan.workspace)),
        )
        .remote(
            "keys.hsm_wrap_export",
            |step| {
                step.within(TOKEN_GENERATE_WAIT_MAX)
                    .order(|tx, cx, plan, ()| {
                        let lapsed = approvals::confirm(tx, cx, &plan.workspace, TWO)?;
                        Ok(backup::order(tx, cx, plan)?.and(lapsed))
                    })
                    .act(move |cx, plan, (), _| wrap.clone().wrap_for_backup(cx.effect, plan))
                    .probe(|_, _, ()| super::made_again())
            },
            Undo::remote(TOKEN_CALL_WAIT_MAX, move |cx, plan: BackupPlan, ()| {
                unwrap.clone().unmake_backup_key(plan.workspace, cx.effect)
            }),
        )
        .remote(
            "vault.store_offsite",
            |step| {
                step.within(MINUTE)
                    .act(move |cx, _, key: Wrapped, _| keep.clone().store_offsite(cx.effect, key))
                    .probe(|_, _, _| super::made_again())
            },
            Undo::remote(MINUTE, move |cx, _, _| delete.clone().delete_offsite(cx.effect)),
        )
        .remote(
            "keys.verify_restore_in_sandbox",
            |step| {
                step.within(TOKEN_GENERATE_WAIT_MAX)
                    .act(move |cx, plan, offsite: Offsite, _| {
                        try_out.clone().try_out(cx.effect, plan.workspace, offsite)
                    })
                    .probe(|_, _, _| super::made_again())
            },
            Undo::remote(TOKEN_CALL_WAIT_MAX, move |cx, plan: BackupPlan, _| {
                let keys = tidy.clone();
                async move { keys.unmake(&plan.workspace, cx.effect).await }
            }),
        )
        .pivot_local("keys.record_backup", |tx, cx, plan, offsite: &Offsite| {
            let lapsed = approvals::confirm(tx, cx, &plan.workspace, TWO)?;
            backup::confirm(tx, plan)?;
            Ok(backup::record(tx, cx, plan, offsite)?.and(lapsed))
        })
        .build()
}

/// 25 `key.restore`.
pub fn restore(keys: &Arc<Keys>) -> Result<Definition, DefinitionRefused> {
    let (fetch, restore, unmake, prove) = (keys.clone(), keys.clone(), keys.clone(), keys.clone());
    Workflow::define("key.restore")
        .version(3)
        .input::<RestorePlan>()
        .locks(|plan| vec![key_lock(&plan.key)])
        .deadline(DAY)
        .wait(
            "signing.await_approvals",
            |step| {
                step.at_most(|_, ()| DAY / 2)
                    .open(|tx, cx, plan: &RestorePlan, ()| {
                        approvals::open(tx, cx, &two(&plan.workspace), &restoring::subject(tx, plan)?)
                    })
                    .on(&[APPROVE, REFUSE], |tx, cx, plan, (), signal| {
                        approvals::hear(tx, cx, &two(&plan.workspace), signal, ())
                    })
            },
            // The version that a later step orders is taken off the record here: a call outside has no rows to take back.
            Undo::local(|tx, cx, plan: &RestorePlan, ()| {
                let forgotten = restoring::forget(tx, cx, plan)?;
                Ok(forgotten.absorb(approvals::close(tx, cx, &plan.workspace)?))
            }),
        )
        .remote(
            "vault.fetch_offsite",
            |step| {
                step.within(MINUTE)
                    .act(move |_, plan, (), _| fetch.clone().fetch(plan))
                    .probe(|_, _, ()| super::made_again())
            },
            Undo::none("reading changes nothing"),
        )
        .remote(
            "keys.hsm_unwrap",
            |step| {
                step.within(TOKEN_GENERATE_WAIT_MAX)
                    .order(|tx, cx, plan, fetched: &Fetched| {
                        let lapsed = approvals::confirm(tx, cx, &plan.workspace, TWO)?;
                        restoring::confirm(tx, plan)?;
                        Ok(making::order(tx, cx, &fetched.making)?.and(lapsed))
                    })
                    .act(move |cx, _, fetched, _| restore.clone().restore(cx.effect, fetched))
                    .probe(|_, _, _| super::made_again())
                    .settle(|tx, cx, _, fetched, restored: &Restored| {
                        making::made(tx, cx, &fetched.making, &restored.version)
                    })
            },
            Undo::remote(TOKEN_CALL_WAIT_MAX, move |cx, plan: RestorePlan, _| {
                let keys = unmake.clone();
                async move { keys.unmake(&plan.workspace, cx.effect).await }
            }),
        )
        .remote(
            "keys.prove_possession",
            |step| {
                step.within(TOKEN_CALL_WAIT_MAX)
                    .act(move |cx, _, restored: Restored, _| prove.clone().prove_restored(cx, restored))
                    .probe(|_, _, _| super::made_again())
            },
            Undo::none("a proof changes nothing"),
        )
        .pivot_local("keys.activate_restored", |tx, cx, plan, restored: &Restored| {
            let lapsed = approvals::confirm(tx, cx, &plan.workspace, TWO)?;
            Ok(restoring::activate(tx, cx, plan, restored)?.and(lapsed))
        })
        .build()
}

/// How many others, as the workflow itself says.
const TWO: u32 = 2;

fn two(workspace: &WorkspaceId) -> Quorum {
    Quorum { workspace: workspace.clone(), needs: TWO, policy_version: 0, within: DAY / 2 }
}
