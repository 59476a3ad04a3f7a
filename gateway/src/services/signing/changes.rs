//! Changing a policy: agreed to by those whom the present one names, after a time in which it can be vetoed.
//! Who enters: the steps of `signing.policy_change`, inside their transactions and calls.
//! What leaves: a new policy in force, and no request that waits under an older one; or everything as it was.

use std::sync::Arc;
use std::time::Duration;

use audit::{Told, Tx, View, WriteRefused};
use sagas::{Never, Refused, RemoteFault, SagaKey, Scope, StepContext};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::agreement::{self, Concerns};
use super::policies::{self, Asked, PolicyRefused, PolicyScope};
use super::{Signing, SigningRefused, store};
use crate::api::Actor;
use crate::ids::WorkspaceId;
use crate::limits::POLICY_CHANGE_WAIT_MAX;
use crate::services::policy::Policy;
use crate::services::subject::Subject;
use crate::services::{credentials, keys};
use crate::topics;

/// The input of `signing.policy_change`. Whoever agrees, agrees to exactly this.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChangePlan {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// `workspace`, or a key's id.
    pub scope: PolicyScope,
    /// What is to hold.
    pub policy: Policy,
}

impl Concerns for ChangePlan {
    fn place(&self) -> (&WorkspaceId, PolicyScope) {
        (&self.workspace, self.scope.clone())
    }

    fn subject(&self, view: &View<'_>) -> Result<Subject, Refused> {
        let current = policies::effective(view, &self.workspace, &self.scope)?;
        let (what, key) = match &self.scope {
            PolicyScope::Workspace => ("every key of the workspace".to_owned(), None),
            PolicyScope::Key(key) => {
                let key = keys::described_latest(view, &self.workspace, key).map_err(keys::rule)?;
                (key.words(), Some(key))
            }
        };
        let facts = json!({
            "key": key, "policy": self.policy, "policy_digest": self.policy.digest(), "present": current.policy,
            "present_version": current.version, "scope": self.scope,
        });
        let consequence = format!(
            "this policy holds for {what} after {} seconds in which it can be vetoed, and requests under the present one are called off",
            current.policy.timelock_seconds
        );
        Ok(Subject::new(self.scope.as_str(), facts, consequence))
    }
}

/// A change that is put down and not in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Staged {
    /// Who has to agree, under the policy that holds now.
    pub asked: Asked,
    /// How long it can be vetoed afterwards.
    pub timelock_seconds: u64,
    /// Names the exact difference: from what, to what.
    pub diff: String,
}

impl AsRef<Asked> for Staged {
    fn as_ref(&self) -> &Asked {
        &self.asked
    }
}

/// A policy in force.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InForce {
    /// `workspace`, or a key's id.
    pub scope: PolicyScope,
    /// Its version.
    pub version: i64,
    /// The requests under older policies that were called off.
    pub called_off: Vec<String>,
}

impl Staged {
    /// How long the change can be vetoed.
    pub fn timelock(&self) -> Duration {
        Duration::from_secs(self.timelock_seconds)
    }
}

/// Puts the change down, and says who has to agree to it.
///
/// # Errors
/// Nobody could agree to it.
pub fn stage(tx: &Tx<'_>, cx: &StepContext, plan: &ChangePlan) -> Result<Told<Staged>, Refused> {
    let current = policies::effective(tx, &plan.workspace, &plan.scope)?;
    let by = credentials::actor(&cx.origin.actor)?;
    let approvals = quorum(current.version, current.policy.approvals, &by)?;
    let (before, after) = (current.policy.digest(), plan.policy.digest());
    let diff = Sha256::new().chain_update(b"chancery.policy_change.v1\0");
    let diff =
        diff.chain_update(plan.scope.as_str()).chain_update([0]).chain_update(&before).chain_update(&after);
    let staged = Staged {
        asked: Asked {
            policy_version: current.version,
            approvals,
            expires_seconds: POLICY_CHANGE_WAIT_MAX.as_secs(),
        },
        timelock_seconds: current.policy.timelock_seconds,
        diff: hex::encode(diff.finalize()),
    };
    let by = (&by, credentials::now(cx));
    store::stage(tx, &plan.workspace, (&cx.saga.id.to_string(), &plan.scope), &plan.policy, by)?;
    let entry = cx.entry_with("policy.stage", plan.scope.as_str(), |detail| {
        let before = json!({ "version": current.version, "policy": current.policy });
        detail
            .before(before)
            .after(json!({ "policy": plan.policy, "diff": staged.diff, "approvals": approvals }))
    });
    Ok(Told::new(staged, entry))
}

/// How many others have to agree to a change of what holds.
fn quorum(version: i64, approvals: Option<u32>, by: &Actor) -> Result<u32, PolicyRefused> {
    // Whoever sits at the machine itself could have set the first policy before anybody else had a key.
    match (version, approvals, by.is_operator()) {
        (0, _, true) => Ok(0),
        (0, _, false) => Ok(1),
        (_, Some(needs @ 1..), _) => Ok(needs),
        // A policy that names nobody is changed by no member; an operator changes it with one other person.
        (_, _, true) => Ok(1),
        (_, _, false) => Err(PolicyRefused::NoQuorum),
    }
}

/// Takes the change away again.
///
/// # Errors
/// The ledger did not do it.
pub fn discard(tx: &Tx<'_>, cx: &StepContext, plan: &ChangePlan) -> Result<Told<()>, Refused<Never>> {
    let was_there = store::drop_policy(tx, &plan.workspace, &cx.saga.id.to_string())?;
    let before = json!({ "staged": was_there });
    Ok(Told::new((), cx.entry_with("policy.discard", plan.scope.as_str(), |detail| detail.before(before))))
}

/// The new policy holds from now on.
///
/// # Errors
/// Another change was faster: what was agreed to is no longer the difference.
pub fn activate(
    tx: &Tx<'_>,
    cx: &StepContext,
    plan: &ChangePlan,
    staged: &Staged,
) -> Result<Told<InForce>, Refused> {
    let lapsed = agreement::confirm(tx, cx, plan, &staged.asked)?;
    let version = store::activate(tx, &plan.workspace, &cx.saga.id.to_string(), &plan.scope)?;
    let version = version.ok_or_else(|| Refused::Bug("the policy to activate is not staged".to_owned()))?;
    cx.publish(tx, topics::POLICY_CHANGED, plan.scope.as_str(), json!({ "version": version }))?;
    let before = json!({ "version": staged.asked.policy_version });
    let after = json!({ "version": version, "policy": plan.policy, "diff": staged.diff });
    let entry =
        cx.entry_with("policy.activate", plan.scope.as_str(), |detail| detail.before(before).after(after));
    Ok(Told::new(InForce { scope: plan.scope.clone(), version, called_off: Vec::new() }, entry).and(lapsed))
}

impl Signing {
    /// Calls off the requests that wait under an older policy. Each of them would be refused at its next vote or at
    /// its signature anyway; so nobody is left to wait for that. Called off twice, a request is called off once.
    ///
    /// # Errors
    /// The engine or the ledger is away: tried again.
    pub async fn call_off(
        self: Arc<Self>,
        cx: StepContext,
        plan: ChangePlan,
        now: InForce,
    ) -> Result<InForce, RemoteFault<Never>> {
        let later = |why: &dyn std::fmt::Display| RemoteFault::later(why.to_string());
        let engine = self.ground.runner.engine().map_err(|why| later(&why))?;
        let workspace = plan.workspace.clone();
        let open =
            self.ground.read::<_, SigningRefused>(move |view| Ok(store::requests(view, &workspace)?)).await;
        let older = open
            .map_err(|why| later(&why))?
            .into_iter()
            .filter(|request| request.policy_version < now.version && plan.scope.covers(&request.key));
        let mut called_off = Vec::new();
        for request in older {
            let scope = Scope::Workspace(plan.workspace.on_ledger().clone());
            let run = SagaKey { scope, id: request.workflow };
            let reason = format!("the policy changed to version {}", now.version);
            match engine.cancel(&run, (*cx.origin).clone(), &reason).await {
                Ok(()) => called_off.push(request.workflow.to_string()),
                // Over, past its pivot, or on its way back already; or of a definition that this build lacks, which can neither
                // be turned round nor signed here: the build that has it looks at the policy again before it signs.
                Err(WriteRefused::Rejected(_)) => {}
                Err(why) => return Err(later(&why)),
            }
        }
        Ok(InForce { called_off, ..now })
    }
}

/// Tells of the policy that holds, and of what was called off for it.
pub fn told(cx: &StepContext, plan: &ChangePlan, now: &InForce) -> Vec<audit::Entry> {
    let after = json!({ "version": now.version, "called_off": now.called_off });
    vec![cx.entry_with("policy.change", plan.scope.as_str(), |detail| detail.after(after))]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> Actor {
        format!("cl_{0}/ak_{0}", "a".repeat(20)).parse().unwrap()
    }

    #[test]
    fn a_policy_that_names_nobody_is_not_changed_by_a_member_alone() {
        let operator = Actor::Operator(0);
        assert_eq!(quorum(4, Some(0), &member()), Err(PolicyRefused::NoQuorum));
        assert_eq!(quorum(4, None, &member()), Err(PolicyRefused::NoQuorum));
        assert_eq!(quorum(4, None, &operator), Ok(1), "with one other person");
        assert_eq!(quorum(4, Some(3), &operator), Ok(3), "an operator is no quorum");
    }

    #[test]
    fn the_first_policy_takes_one_other_person_or_an_operator() {
        assert_eq!((quorum(0, Some(0), &member()), quorum(0, Some(0), &Actor::Operator(0))), (Ok(1), Ok(0)));
    }
}
