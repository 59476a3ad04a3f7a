//! Workflows about workspaces: create, and close for good.
//! Who enters: the catalog, with the services whose commands the steps are.
//! What leaves: definitions, each a list of steps that can be read aloud.

use std::sync::Arc;

use audit::{Told, Tx};
use sagas::{
    Definition, DefinitionRefused, Lock, Reason, Refused, RemoteFault, Ruling, Signal, StepContext, Undo,
    Workflow,
};

use super::audit::BUNDLE_WAIT_MAX;
use super::{DAY, MINUTE};
use crate::api::Code;
use crate::limits::{SHRED_AGREE_WAIT_MAX, SHRED_GRACE_MAX, TOKEN_CALL_WAIT_MAX};
use crate::services::audit::Audit;
use crate::services::audit::bundles::{self, Bundle, ExportPlan};
use crate::services::devices;
use crate::services::keys;
use crate::services::signing::approvals::{self, APPROVE, Quorum, REFUSE};
use crate::services::workspaces::Workspaces;
use crate::services::workspaces::closing::{self, ClosingPlan};
use crate::services::workspaces::founding::{self, FoundingPlan, Laid};

/// 1 `workspace.create`.
pub fn create(workspaces: &Arc<Workspaces>) -> Result<Definition, DefinitionRefused> {
    let (make, find, unmake) = (workspaces.clone(), workspaces.clone(), workspaces.clone());
    Workflow::define("workspace.create")
        .version(1)
        .input::<FoundingPlan>()
        .locks(|plan| vec![Lock::exclusive(format!("slug/{}", plan.name)).across()])
        .deadline(10 * MINUTE)
        .sealed_by_appliance()
        .local(
            "workspaces.reserve_slug",
            |tx, cx, plan, ()| founding::reserve(tx, cx, plan),
            Undo::local(|tx, cx, plan, ()| founding::release(tx, cx, plan)),
        )
        .remote(
            "keys.hsm_create_kek",
            |step| {
                step.within(3 * TOKEN_CALL_WAIT_MAX)
                    .act(move |cx, plan, (), _| make.clone().make_kek(cx.effect, plan))
                    .probe(move |cx, plan, ()| find.clone().was_kek_made(cx.effect, plan))
            },
            Undo::remote(TOKEN_CALL_WAIT_MAX, move |cx, plan: FoundingPlan, ()| {
                unmake.clone().unmake_kek(plan.workspace, cx.effect)
            }),
        )
        .local(
            "vault.init_store",
            |tx, cx, plan, laid: &Laid| founding::lay(tx, cx, plan, laid),
            Undo::local(|tx, cx, plan, _| founding::unlay(tx, cx, plan)),
        )
        .local(
            "identity.grant_owner",
            |_, cx, plan, ()| Ok(founding::grant_owner(cx, plan)),
            Undo::local(|_, cx, plan, ()| Ok(founding::revoke_owner(cx, plan))),
        )
        .pivot_local("workspaces.activate", |tx, cx, plan, ()| founding::activate(tx, cx, plan))
        .build()
}

/// 4 `workspace.close`.
pub fn close(workspaces: &Arc<Workspaces>, audit: &Arc<Audit>) -> Result<Definition, DefinitionRefused> {
    let (shut, delete) = ((workspaces.clone(), audit.clone()), audit.clone());
    let (shred, look, seal) = (workspaces.clone(), workspaces.clone(), audit.clone());
    Workflow::define("workspace.close")
        .version(3)
        .input::<ClosingPlan>()
        .locks(|plan| vec![Lock::exclusive(format!("workspace/{}", plan.workspace))])
        .deadline(SHRED_GRACE_MAX + DAY)
        .sealed_by_appliance()
        .local(
            "workspaces.freeze_read_only",
            |tx, cx, plan, ()| {
                no_keys_left(tx, plan)?;
                closing::freeze(tx, cx, plan)
            },
            Undo::local(|tx, cx, plan, ()| closing::unfreeze(tx, cx, plan)),
        )
        .remote(
            "audit.export_signed_bundle",
            |step| {
                step.within(BUNDLE_WAIT_MAX)
                    .act(move |cx, plan, (), _| bundle(shut.clone(), cx, plan))
                    .probe(|_, _, ()| super::made_again())
                    .settle(|_, cx, _, (), bundle: &Bundle| Ok(bundles::built(cx, bundle)))
            },
            Undo::remote(BUNDLE_WAIT_MAX, move |cx, _, ()| delete.clone().delete(cx.effect)),
        )
        .wait(
            "workspaces.await_grace",
            |step| {
                step.until(|_, _| SHRED_AGREE_WAIT_MAX, time_is_over)
                    .protective()
                    .open(|tx, cx, plan, _| {
                        approvals::open(tx, cx, &quorum(plan), &closing::subject(tx, plan)?)
                    })
                    .on(&[APPROVE, REFUSE], hear)
            },
            Undo::local(|tx, cx, plan: &ClosingPlan, _: &Bundle| approvals::close(tx, cx, &plan.workspace)),
        )
        .pivot_remote("keys.hsm_destroy_kek", |step| {
            step.within(3 * TOKEN_CALL_WAIT_MAX)
                .order(|tx, cx, plan, _: &Bundle| {
                    no_keys_left(tx, plan)?;
                    let lapsed = match cx.begun {
                        true => Vec::new(),
                        false => approvals::confirm(tx, cx, &plan.workspace, plan.approvals)?,
                    };
                    Ok(closing::order(tx, cx, plan)?.and(lapsed))
                })
                .act(move |_, plan, _, _, untouched| shred.clone().shred(plan, untouched))
                .probe(move |_, plan, _| look.clone().was_shredded(plan))
        })
        .local("vault.purge", |tx, cx, plan, ()| {
            let purged = Told::new((), closing::purge(tx, cx, plan)?);
            Ok(purged.and([devices::revoke_all(tx, cx, &plan.workspace)?]))
        })
        .local("workspaces.tombstone", move |tx, cx, plan, ()| {
            seal.seal_soon();
            closing::bury(tx, cx, plan)
        })
        .build()
}

/// Keys are destroyed one by one, each with its own approvals and notice: closing a workspace never destroys one in passing.
fn no_keys_left(tx: &Tx<'_>, plan: &ClosingPlan) -> Result<(), Refused> {
    match keys::standing(tx, &plan.workspace)? {
        0 => Ok(()),
        left => {
            let words = format!("{left} keys of the workspace still stand; destroy them, then close it");
            Err(Refused::business(Code::WrongState, words))
        }
    }
}

/// Writes the log down before anything is lost. Programs are off the roster before the first byte of it.
async fn bundle(
    (workspaces, audit): (Arc<Workspaces>, Arc<Audit>),
    cx: StepContext,
    plan: ClosingPlan,
) -> Result<Bundle, RemoteFault> {
    workspaces.refresh(&plan.workspace).await.map_err(|why| RemoteFault::later(why.to_string()))?;
    let bundle = audit.clone().build(cx.effect, ExportPlan::default()).await?;
    audit.keep(bundle).await.map(|stored| stored.bundle)
}

/// Other operators, as many as the plan says, before the grace begins.
fn quorum(plan: &ClosingPlan) -> Quorum {
    let workspace = plan.workspace.clone();
    Quorum { workspace, needs: plan.approvals, policy_version: 0, within: SHRED_AGREE_WAIT_MAX }
}

/// A vote: the one that makes them enough begins the grace, the time to call it off, whole and once. A no ends it, also then.
fn hear(
    tx: &mut Tx<'_>,
    cx: &StepContext,
    plan: &ClosingPlan,
    bundle: &Bundle,
    signal: &Signal,
) -> Result<Ruling<Bundle>, Refused> {
    let agreed_before = approvals::agreed(tx, cx, &plan.workspace)?;
    Ok(match approvals::hear(tx, cx, &quorum(plan), signal, bundle.clone())? {
        Ruling::Passed(_, entries) if agreed_before => Ruling::StillWaiting(entries),
        Ruling::Passed(_, mut entries) => {
            entries.push(closing::begin_grace(cx, plan));
            Ruling::WaitingAnew(plan.grace(), entries)
        }
        ruling => ruling,
    })
}

/// The time is over. With enough votes it was the grace, and the workspace is shredded; without them it stands.
fn time_is_over(
    tx: &mut Tx<'_>,
    cx: &StepContext,
    plan: &ClosingPlan,
    bundle: &Bundle,
) -> Result<Ruling<Bundle>, Refused> {
    if approvals::agreed(tx, cx, &plan.workspace)? {
        return Ok(Ruling::Passed(bundle.clone(), Vec::new()));
    }
    let words = "not enough others agreed in time; the workspace stands as before";
    Ok(Ruling::Refused(Reason::new(Code::NoQuorum, words), Vec::new()))
}
