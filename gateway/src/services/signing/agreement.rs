//! What requests, batches and changes of policy have in common: others have to agree, in time, under the policy that holds.
//! Who enters: the waiting steps of their workflows, with what was asked and the votes that come.
//! What leaves: agreement, refusal, or a wait that goes on; no wait at all where the policy asks nobody.

use std::time::Duration;

use audit::{Entry, Told, Tx, View};
use sagas::{Never, Reason, Refused, Ruling, Signal, StepContext};
use serde_json::json;

use super::approvals::{self, Quorum};
use super::policies::{self, Asked, PolicyScope};
use crate::api::Code;
use crate::ids::WorkspaceId;
use crate::services::subject::Subject;

/// What a plan is about: the workspace, and the key or the scope of a policy in it.
pub trait Concerns {
    /// Which workspace, and what in it.
    fn place(&self) -> (&WorkspaceId, PolicyScope);

    /// What approvers are shown of it.
    ///
    /// # Errors
    /// What it is about is gone, or the ledger cannot be read.
    fn subject(&self, view: &View<'_>) -> Result<Subject, Refused>;
}

/// How long others have to agree; no time at all where the policy says in so many words that nobody has to.
pub fn patience(asked: &Asked) -> Duration {
    match asked.approvals {
        0 => Duration::ZERO,
        _ => Duration::from_secs(asked.expires_seconds),
    }
}

fn quorum(workspace: &WorkspaceId, asked: &Asked) -> Quorum {
    Quorum {
        workspace: workspace.clone(),
        needs: asked.approvals,
        policy_version: asked.policy_version,
        within: patience(asked),
    }
}

/// Opens the vote, where there is one.
///
/// # Errors
/// The ledger did not do it.
pub fn open(
    tx: &mut Tx<'_>,
    cx: &StepContext,
    plan: &impl Concerns,
    before: &impl AsRef<Asked>,
) -> Result<Vec<Entry>, Refused> {
    let asked = before.as_ref();
    if asked.approvals == 0 {
        let after = json!({ "needs": 0, "policy_version": asked.policy_version });
        let object = format!("workflow/{}", cx.saga.id);
        return Ok(vec![cx.entry_with("approval.not_asked", object, |detail| detail.after(after))]);
    }
    approvals::open(tx, cx, &quorum(plan.place().0, asked), &plan.subject(tx)?)
}

/// Hears a vote on what is asked for in a scope. One under a policy that no longer holds counts for nothing, and ends it.
///
/// # Errors
/// The ledger did not do it.
pub fn hear<B: AsRef<Asked> + Clone>(
    tx: &mut Tx<'_>,
    cx: &StepContext,
    plan: &impl Concerns,
    before: &B,
    signal: &Signal,
) -> Result<Ruling<B>, Refused> {
    let (asked, (workspace, scope)) = (before.as_ref(), plan.place());
    match policies::confirm(tx, workspace, &scope, asked) {
        Err(Refused::Business(reason)) => {
            let facts = json!({ "vote": signal.name, "outcome": "not counted: the policy has changed" });
            let object = format!("workflow/{}", cx.saga.id);
            let entry = cx.entry_with("approval.vote", object, |detail| detail.after(facts));
            Ok(Ruling::Refused(reason, vec![entry.actor(signal.actor.clone())]))
        }
        Err(other) => Err(other),
        Ok(()) => approvals::hear(tx, cx, &quorum(workspace, asked), signal, before.clone()),
    }
}

/// Closes the vote of a run that turns round.
///
/// # Errors
/// The ledger did not do it.
pub fn close(tx: &mut Tx<'_>, cx: &StepContext, plan: &impl Concerns) -> Result<Told<()>, Refused<Never>> {
    approvals::close(tx, cx, plan.place().0)
}

/// What was agreed to still holds, in the transaction that makes it come true: the policy, whoever asked, and the votes.
///
/// # Errors
/// It does not hold: nothing is done.
pub fn confirm(
    tx: &Tx<'_>,
    cx: &StepContext,
    plan: &impl Concerns,
    asked: &Asked,
) -> Result<Vec<Entry>, Refused> {
    let (workspace, scope) = plan.place();
    policies::confirm(tx, workspace, &scope, asked)?;
    approvals::confirm(tx, cx, workspace, asked.approvals)
}

/// The time to agree is over: nobody had to, or too few did.
pub fn at_deadline<B: AsRef<Asked> + Clone>(before: &B) -> Ruling<B> {
    match before.as_ref().approvals {
        0 => Ruling::Passed(before.clone(), Vec::new()),
        needs => {
            let words = format!("{needs} approvals were needed and did not come in time; ask again");
            Ruling::Refused(Reason::new(Code::ApprovalExpired, words), Vec::new())
        }
    }
}
