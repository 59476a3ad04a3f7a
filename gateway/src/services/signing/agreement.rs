//! What requests, batches and changes of policy have in common: others have to agree, in time, under the policy that holds.
//! Who enters: the waiting steps of their workflows, with what was asked and the votes that come.
//! What leaves: agreement, refusal, or a wait that goes on; no wait at all where the policy asks nobody.

use std::time::Duration;

use audit::{Entry, Tx};
use sagas::{Reason, Refused, Ruling, Signal, StepContext};
use serde::Serialize;
use serde_json::json;

use super::approvals::{self, Quorum};
use super::policies::{self, Asked};
use crate::ids::WorkspaceId;

/// What a plan is about: the workspace, and the key or the scope of a policy in it.
pub trait Concerns {
    /// Which workspace, and what in it.
    fn place(&self) -> (&WorkspaceId, &str);
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
    plan: &(impl Concerns + Serialize),
    before: &impl AsRef<Asked>,
) -> Result<Vec<Entry>, Refused> {
    let asked = before.as_ref();
    if asked.approvals == 0 {
        let after = json!({ "needs": 0, "policy_version": asked.policy_version });
        let object = format!("workflow/{}", cx.saga.id);
        return Ok(vec![cx.entry_with("approval.not_asked", object, |detail| detail.after(after))]);
    }
    approvals::open(tx, cx, &quorum(plan.place().0, asked), plan)
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
    match policies::confirm(tx, workspace, scope, asked) {
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

/// The time to agree is over: nobody had to, or too few did.
pub fn at_deadline<B: AsRef<Asked> + Clone>(before: &B) -> Ruling<B> {
    match before.as_ref().approvals {
        0 => Ruling::Passed(before.clone(), Vec::new()),
        needs => {
            let words = format!("{needs} approvals were needed and did not come in time; ask again");
            Ruling::Refused(Reason::new("deadline", words), Vec::new())
        }
    }
}
