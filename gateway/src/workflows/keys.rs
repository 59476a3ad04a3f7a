//! Workflows about keys: generate, rotate, destroy.
//! Who enters: the catalog, with the services whose commands the steps are.
//! What leaves: definitions, each a list of steps that can be read aloud.

use std::sync::Arc;
use std::time::Duration;

use sagas::{Definition, DefinitionRefused, Lock, Probe, Ruling, Undo, Workflow};

use super::{DAY, MINUTE};
use crate::limits::{TOKEN_CALL_WAIT_MAX, TOKEN_GENERATE_WAIT_MAX};
use crate::services::credentials;
use crate::services::keys::destruction::{self, Announced, DestructionPlan};
use crate::services::keys::making::{self, Attested, MadeVersion, Making, NewKeyPlan};
use crate::services::keys::rotation::{self, Next, RotationPlan};
use crate::services::keys::{Keys, backup};
use crate::services::signing::approvals::{self, APPROVE, Quorum, REFUSE};
use crate::services::signing::policies;
use crate::topics;

/// How many others have to agree to a destruction.
const TWO: u32 = 2;

/// A key's name is taken by one workflow at a time.
pub(super) fn name_lock(name: &crate::ids::Name) -> Lock {
    Lock::exclusive(format!("key-name/{name}"))
}

/// A key is changed by one workflow at a time.
pub(super) fn key_lock(key: &crate::ids::SigningKeyId) -> Lock {
    Lock::exclusive(format!("key/{key}"))
}

/// 20 `key.generate`.
pub fn generate(keys: &Arc<Keys>) -> Result<Definition, DefinitionRefused> {
    let (make, find, unmake, attest) = (keys.clone(), keys.clone(), keys.clone(), keys.clone());
    Workflow::define("key.generate")
        .version(1)
        .input::<NewKeyPlan>()
        .locks(|plan| vec![name_lock(&plan.name)])
        .deadline(10 * MINUTE)
        .local(
            "keys.reserve",
            |tx, cx, plan, ()| making::reserve(tx, cx, plan),
            Undo::local(|tx, cx, plan, ()| making::release(tx, cx, plan)),
        )
        .remote(
            "keys.hsm_generate",
            |step| {
                step.within(TOKEN_GENERATE_WAIT_MAX)
                    .order(|tx, cx, plan, ()| {
                        credentials::confirm_requester(tx, cx, &plan.workspace)?;
                        making::order(tx, cx, &plan.first())
                    })
                    .act(move |_, plan, (), order| {
                        let keys = make.clone();
                        async move { keys.make(&plan.first(), order).await }
                    })
                    .probe(move |cx, plan, ()| {
                        let keys = find.clone();
                        async move { keys.was_made(&plan.first(), cx.effect).await }
                    })
                    .settle(|tx, cx, plan, (), version| making::made(tx, cx, &plan.first(), version))
            },
            Undo::remote(TOKEN_CALL_WAIT_MAX, move |cx, plan: NewKeyPlan, ()| {
                let keys = unmake.clone();
                async move { keys.unmake(&plan.workspace, cx.effect).await }
            }),
        )
        .remote(
            "keys.hsm_attest",
            |step| {
                step.within(TOKEN_CALL_WAIT_MAX)
                    .act(move |cx, plan, version: MadeVersion, _| {
                        attest.clone().attest(cx, plan.first(), version)
                    })
                    // A statement changes nothing, so nothing has happened: it is asked for again.
                    .probe(|_, _, _| async { Probe::NotApplied })
            },
            Undo::none("a statement about a key changes nothing"),
        )
        .local(
            "signing.attach_policy",
            |tx, cx, plan, attested: &Attested| {
                let place = (&plan.workspace, &plan.key);
                policies::attach(tx, cx, place, plan.policy.as_ref(), attested.clone())
            },
            Undo::local(|tx, cx, plan: &NewKeyPlan, _: &Attested| {
                policies::detach(tx, cx, &plan.workspace, &plan.key)
            }),
        )
        .pivot_local("keys.activate", |tx, cx, plan, attested: &Attested| {
            credentials::confirm_requester(tx, cx, &plan.workspace)?;
            making::activate(tx, cx, plan, ("key.create", topics::KEY_CREATED), attested)
        })
        .build()
}

/// 23 `key.rotate`.
pub fn rotate(keys: &Arc<Keys>) -> Result<Definition, DefinitionRefused> {
    let (make, find, unmake) = (keys.clone(), keys.clone(), keys.clone());
    Workflow::define("key.rotate")
        .version(1)
        .input::<RotationPlan>()
        .locks(|plan| vec![key_lock(&plan.key)])
        .local(
            "keys.begin_rotation",
            |tx, cx, plan, ()| rotation::begin(tx, cx, plan),
            Undo::local(|tx, cx, plan, ()| rotation::end(tx, cx, plan)),
        )
        .remote(
            "keys.hsm_generate",
            |step| {
                step.within(TOKEN_GENERATE_WAIT_MAX)
                    .order(|tx, cx, plan, making: &Making| {
                        credentials::confirm_requester(tx, cx, &plan.workspace)?;
                        making::order(tx, cx, making)
                    })
                    .act(move |_, _, making, order| {
                        let keys = make.clone();
                        async move { Ok(Next { version: keys.make(&making, order).await?, making }) }
                    })
                    .probe(move |cx, _, making| {
                        let keys = find.clone();
                        async move {
                            super::found(keys.was_made(&making, cx.effect).await, |version| Next {
                                making,
                                version,
                            })
                        }
                    })
                    .settle(|tx, cx, _, making, next| making::made(tx, cx, making, &next.version))
            },
            Undo::remote(TOKEN_CALL_WAIT_MAX, move |cx, plan: RotationPlan, _| {
                let keys = unmake.clone();
                async move { keys.unmake(&plan.workspace, cx.effect).await }
            }),
        )
        .local(
            "webhooks.announce_next_pub",
            |tx, cx, plan, next: &Next| rotation::announce(tx, cx, plan, next),
            Undo::local(|tx, cx, _, next| rotation::withdraw(tx, cx, next)),
        )
        .wait(
            "keys.await_overlap",
            |step| {
                step.until(
                    |plan, _| Duration::from_secs(plan.overlap_seconds),
                    |_, _, _, next: &Next| Ok(Ruling::Passed(next.clone(), Vec::new())),
                )
                .protective()
            },
            Undo::none("waiting changes nothing"),
        )
        .pivot_local("keys.promote", |tx, cx, plan, next: &Next| {
            credentials::confirm_requester(tx, cx, &plan.workspace)?;
            rotation::promote(tx, cx, next)
        })
        .local("keys.schedule_retire", |tx, cx, _, making: &Making| rotation::retire(tx, cx, making))
        .build()
}

/// 26 `key.destroy`.
pub fn destroy(keys: &Arc<Keys>) -> Result<Definition, DefinitionRefused> {
    let (destroy, look, backups) = (keys.clone(), keys.clone(), keys.clone());
    let quorum = |plan: &DestructionPlan| Quorum {
        workspace: plan.workspace.clone(),
        needs: TWO,
        policy_version: 0,
        within: DAY,
    };
    Workflow::define("key.destroy")
        .version(2)
        .input::<DestructionPlan>()
        .locks(|plan| vec![key_lock(&plan.key)])
        .local(
            "keys.disable",
            |tx, cx, plan, ()| destruction::announce(tx, cx, plan),
            Undo::local(|tx, cx, plan, ()| destruction::keep(tx, cx, plan)),
        )
        .wait(
            "signing.await_approvals",
            |step| {
                step.at_most(move |plan, _| quorum(plan).within)
                    .open(move |tx, cx, plan, _: &Announced| {
                        approvals::open(tx, cx, &quorum(plan), &destruction::subject(tx, plan)?)
                    })
                    .on(&[APPROVE, REFUSE], move |tx, cx, plan, before, signal| {
                        approvals::hear(tx, cx, &quorum(plan), signal, before.clone())
                    })
            },
            Undo::local(|tx, cx, plan: &DestructionPlan, _: &Announced| {
                approvals::close(tx, cx, &plan.workspace)
            }),
        )
        .wait(
            "keys.await_cooling",
            |step| {
                step.until(
                    |plan, _| plan.notice(),
                    |_, _, _, before: &Announced| Ok(Ruling::Passed(before.clone(), Vec::new())),
                )
                .protective()
                .open(|tx, cx, plan, _| destruction::begin_notice(tx, cx, plan))
            },
            Undo::none("waiting changes nothing"),
        )
        .pivot_remote("keys.hsm_destroy", |step| {
            step.within(TOKEN_GENERATE_WAIT_MAX)
                .order(|tx, cx, plan, _: &Announced| {
                    // Once a version may be gone, nothing that was withdrawn since brings it back.
                    let lapsed = match cx.begun {
                        true => Vec::new(),
                        false => approvals::confirm(tx, cx, &plan.workspace, TWO)?,
                    };
                    Ok(destruction::order(tx, cx, plan)?.and(lapsed))
                })
                .act(move |_, plan, _, _, untouched| destroy.clone().destroy(plan, untouched))
                .probe(move |_, plan, _| look.clone().was_destroyed(plan))
        })
        .remote("vault.delete_backups", |step| {
            step.within(MINUTE)
                .act(move |_, plan, (), _| backups.clone().delete_backups(plan.workspace, plan.key))
                .probe(|_, _, ()| super::made_again())
                .settle(|tx, cx, plan, (), deleted| {
                    backup::strike(tx, cx, &plan.workspace, &plan.key, *deleted)
                })
        })
        .local("keys.tombstone", |tx, cx, plan, _: &usize| destruction::bury(tx, cx, plan))
        .build()
}
