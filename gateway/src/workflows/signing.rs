//! Workflows about signing: a request, a batch, a change of policy.
//! Who enters: the catalog, with the service whose commands the steps are.
//! What leaves: definitions, each a list of steps that can be read aloud.

use std::sync::Arc;

use sagas::{
    Definition, DefinitionRefused, Lock, PivotProbe, Probe, Reason, Ruling, Undo, Wait, WaitStep, Workflow,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{DAY, asked_again};
use crate::limits::{POLICY_CHANGE_WAIT_MAX, POLICY_EXPIRES_MAX, POLICY_TIMELOCK_MAX, TOKEN_CALL_WAIT_MAX};
use crate::services::signing::Signing;
use crate::services::signing::agreement::{self, Concerns};
use crate::services::signing::approvals::{APPROVE, REFUSE};
use crate::services::signing::bundle::{self, BatchPlan, Report};
use crate::services::signing::changes::{self, ChangePlan, InForce, Staged};
use crate::services::signing::policies::{self, Asked};
use crate::services::signing::requests::{self, Made, RequestPlan};

/// 27 `signing.request`.
pub fn request(signing: &Arc<Signing>) -> Result<Definition, DefinitionRefused> {
    let sign = signing.clone();
    Workflow::define("signing.request")
        .version(3)
        .input::<RequestPlan>()
        .locks(|plan| vec![Lock::exclusive(format!("nonce/{}/{}", plan.key, plan.nonce))])
        .deadline(POLICY_EXPIRES_MAX + DAY)
        .local(
            "signing.evaluate_policy",
            |tx, cx, plan, ()| requests::evaluate(tx, cx, plan),
            Undo::local(|tx, cx, plan: &RequestPlan, ()| {
                policies::release(tx, cx, &plan.workspace, &plan.key)
            }),
        )
        .wait(
            "signing.await_approvals",
            agreed,
            Undo::local(|tx, cx, plan, _| agreement::close(tx, cx, plan)),
        )
        .local(
            "signing.claim",
            |tx, cx, plan, asked: &Asked| requests::claim(tx, cx, plan, asked),
            Undo::local(|tx, cx, plan: &RequestPlan, _: &Asked| {
                requests::unclaim(tx, cx, &plan.workspace, &plan.key)
            }),
        )
        .pivot_remote("keys.hsm_sign", |step| {
            step.within(TOKEN_CALL_WAIT_MAX)
                .order(|tx, cx, plan, asked: &Asked| requests::order(tx, cx, plan, asked))
                .act(move |cx, plan, _, order, untouched| {
                    let signing = sign.clone();
                    async move { signing.sign_request(&cx, &plan, order, untouched).await }
                })
                .probe(|_, _, _| async {
                    PivotProbe::lost_is_undone(
                        "a token keeps no signature, and one that never left has no effect outside; the next attempt counts \
                         another use, and the key's counter shows both",
                    )
                })
        })
        .local("signing.record_signature", |tx, cx, plan, made: &Made| requests::record(tx, cx, plan, made))
        .local("webhooks.enqueue_result", |tx, cx, plan, made: &Made| requests::announce(tx, cx, plan, made))
        .build()
}

/// 28 `signing.batch`.
pub fn batch(signing: &Arc<Signing>) -> Result<Definition, DefinitionRefused> {
    let sign = signing.clone();
    Workflow::define("signing.batch")
        .version(3)
        .input::<BatchPlan>()
        .locks(|plan| vec![Lock::exclusive(format!("nonce/{}/{}", plan.key, plan.nonce))])
        .deadline(POLICY_EXPIRES_MAX + DAY)
        .local(
            "signing.validate_items",
            |tx, cx, plan, ()| bundle::validate(tx, cx, plan),
            Undo::local(|tx, cx, plan, ()| bundle::release(tx, cx, plan)),
        )
        .wait(
            "signing.await_approvals",
            agreed,
            Undo::local(|tx, cx, plan, _| agreement::close(tx, cx, plan)),
        )
        .local(
            "signing.claim_items",
            |tx, cx, plan, asked: &Asked| bundle::claim(tx, cx, plan, asked),
            Undo::none("what is claimed is given back with what was reserved"),
        )
        .pivot_fan_out("keys.hsm_sign_items", |step| {
            step.items(TOKEN_CALL_WAIT_MAX, |plan, _: &Asked| plan.numbers())
                .order(|tx, cx, plan, asked, at| bundle::order(tx, cx, plan, asked, *at))
                .act(move |cx, plan, _, at, order| {
                    let signing = sign.clone();
                    async move { signing.sign_one(&cx, &plan, at, order).await }
                })
                // As for one signature: what never left the house did not happen outside it.
                .probe(|_, _, _, _| async { Probe::NotApplied })
                .gather(|_, cx, plan, _, items| Ok(bundle::gather(cx, plan, items)))
        })
        .local("signing.finalize_report", |tx, cx, plan, report: &Report| {
            bundle::finalize(tx, cx, plan, report)
        })
        .build()
}

/// 29 `signing.policy_change`.
pub fn policy_change(signing: &Arc<Signing>) -> Result<Definition, DefinitionRefused> {
    let (call_off, again) = (signing.clone(), signing.clone());
    Workflow::define("signing.policy_change")
        .version(2)
        .input::<ChangePlan>()
        .locks(|plan| vec![Lock::exclusive(format!("policy/{}", plan.scope))])
        .deadline(POLICY_CHANGE_WAIT_MAX + POLICY_TIMELOCK_MAX + DAY)
        .local(
            "signing.stage_policy",
            |tx, cx, plan, ()| changes::stage(tx, cx, plan),
            Undo::local(|tx, cx, plan, ()| changes::discard(tx, cx, plan)),
        )
        .wait(
            "signing.await_approvals",
            agreed,
            Undo::local(|tx, cx, plan, _| agreement::close(tx, cx, plan)),
        )
        .wait(
            "signing.await_timelock",
            |step| {
                step.until(
                    |_, staged: &Staged| staged.timelock(),
                    |_, _, _, staged| Ok(Ruling::Passed(staged.clone(), Vec::new())),
                )
                .protective()
                // A refusal by anyone who may approve is a veto, also by one who agreed before.
                .on(&[REFUSE], agreement::hear)
            },
            Undo::none("waiting changes nothing"),
        )
        .pivot_local("signing.activate_policy", |tx, cx, plan, staged: &Staged| {
            changes::activate(tx, cx, plan, staged)
        })
        .remote("signing.cancel_nonconforming_pending", |step| {
            step.within(TOKEN_CALL_WAIT_MAX)
                .act(move |cx, plan, now: InForce, _| call_off.clone().call_off(cx, plan, now))
                .probe(move |cx, plan, now| asked_again(again.clone().call_off(cx, plan, now)))
                .settle(|_, cx, plan, _, now| Ok(changes::told(cx, plan, now)))
        })
        .build()
}

/// Others have to agree to exactly this plan, in the time and number that the policy says.
fn agreed<P, B>(step: Wait<P, B, Reason>) -> WaitStep<P, B, Reason, B>
where
    P: Concerns + DeserializeOwned + Send + 'static,
    B: AsRef<Asked> + Serialize + DeserializeOwned + Clone + Send + 'static,
{
    step.until(
        |_, before| agreement::patience(before.as_ref()),
        |_, _, _, before| Ok(agreement::at_deadline(before)),
    )
    .open(agreement::open)
    .on(&[APPROVE, REFUSE], agreement::hear)
}
