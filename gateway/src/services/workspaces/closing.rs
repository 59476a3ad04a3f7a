//! Closing a workspace for good: frozen, exported, agreed to, waited for, shredded with its key, emptied, buried.
//! Who enters: the steps of `workspace.close`, inside their transactions and calls.
//! What leaves: a record and its ledger entries, and nothing that opens; or a workspace that stands as it stood before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use audit::{Entry, Told, Tx, View};
use hsm::TokenError;
use sagas::{Never, PivotFault, PivotProbe, Refused, StepContext, Untouched};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::state::WorkspaceState;
use super::{Workspaces, store};
use crate::api::Code;
use crate::ids::WorkspaceId;
use crate::limits::TOKEN_CALL_WAIT_MAX;
use crate::moment::Moment;
use crate::services::ground::words_of_token;
use crate::services::subject::Subject;
use crate::topics;

/// The input of `workspace.close`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClosingPlan {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// Why, for those who approve.
    pub reason: String,
    /// How many other operators have to agree before the grace begins.
    pub approvals: u32,
    /// Seconds in which it can be called off, from the moment in which enough agreed.
    pub grace_seconds: u64,
}

impl ClosingPlan {
    /// The grace.
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.grace_seconds)
    }
}

/// What approvers are shown of a closing.
///
/// # Errors
/// There is no such workspace, or the ledger cannot be read.
pub fn subject(view: &View<'_>, plan: &ClosingPlan) -> Result<Subject, Refused> {
    let row = store::workspace(view, &plan.workspace)?;
    let row = row.ok_or_else(|| Refused::business(Code::NotFound, "there is no such workspace"))?;
    let consequence = format!(
        "after {} seconds of grace the key of the workspace `{}` is destroyed, and with it everything that the workspace has stored; nothing brings it back",
        plan.grace_seconds, row.name
    );
    let facts = json!({
        "grace_seconds": plan.grace_seconds, "reason": plan.reason,
        "workspace": { "id": row.id, "name": row.name },
    });
    Ok(Subject::new(plan.workspace.as_str(), facts, consequence))
}

/// Closes the workspace to its programs. Operators go on reading.
///
/// # Errors
/// There is none, or it is being founded, closed for good or shredded.
pub fn freeze(tx: &Tx<'_>, cx: &StepContext, plan: &ClosingPlan) -> Result<Told<()>, Refused> {
    let was = store::state(tx, &plan.workspace)?;
    let Some(was @ (WorkspaceState::Open | WorkspaceState::Closed)) = was else {
        return Err(Refused::business(
            Code::WrongState,
            "there is no such workspace, or it is not open or closed",
        ));
    };
    store::remember_state(tx, &plan.workspace, Some(was))?;
    store::move_on(tx, &plan.workspace, was, WorkspaceState::Closing)?;
    let facts = json!({ "grace_seconds": plan.grace_seconds, "reason": plan.reason });
    cx.publish(tx, topics::WORKSPACE_CLOSING, plan.workspace.as_str(), facts)?;
    let after = json!({ "state": WorkspaceState::Closing.text(), "reason": plan.reason, "grace_seconds": plan.grace_seconds });
    let entry = cx.entry_with("workspace.freeze", plan.workspace.as_str(), |detail| {
        detail.before(json!({ "state": was.text() })).after(after)
    });
    Ok(Told::new((), entry))
}

/// Lets the workspace stand as it stood before.
///
/// # Errors
/// The ledger did not do it.
pub fn unfreeze(tx: &Tx<'_>, cx: &StepContext, plan: &ClosingPlan) -> Result<Told<()>, Refused<Never>> {
    let was = store::remembered_state(tx, &plan.workspace)?;
    if let Some(was) = was {
        store::move_on(tx, &plan.workspace, WorkspaceState::Closing, was)?;
        store::remember_state(tx, &plan.workspace, None)?;
    }
    let topics = (topics::WORKSPACE_CLOSING_CALLED_OFF, topics::WORKSPACE_CLOSING);
    cx.withdraw(tx, topics, plan.workspace.as_str(), json!({}))?;
    let after = json!({ "state": was.map(WorkspaceState::text) });
    Ok(Told::new(
        (),
        cx.entry_with("workspace.unfreeze", plan.workspace.as_str(), |detail| detail.after(after)),
    ))
}

/// Says that enough others have agreed, and until when it can be called off.
pub fn begin_grace(cx: &StepContext, plan: &ClosingPlan) -> Entry {
    let until = Moment::from_micros(i64::try_from(cx.now_us).unwrap_or(i64::MAX)).plus(plan.grace());
    let after = json!({ "agreed": plan.approvals, "grace_until": until });
    cx.entry_with("workspace.grace", plan.workspace.as_str(), |detail| detail.after(after))
}

/// Says that the workspace's key is destroyed now, and that nothing stops it any more.
///
/// # Errors
/// The workspace is not being closed.
pub fn order(tx: &Tx<'_>, cx: &StepContext, plan: &ClosingPlan) -> Result<Told<()>, Refused> {
    if store::state(tx, &plan.workspace)? != Some(WorkspaceState::Closing) {
        return Err(Refused::business(Code::WrongState, "the workspace is not being closed"));
    }
    let after = json!({ "attempt": cx.attempt });
    Ok(Told::new(
        (),
        cx.entry_with("workspace.shred.begin", plan.workspace.as_str(), |detail| detail.after(after)),
    ))
}

/// Empties the workspace's row of its key, and revokes its API keys.
///
/// # Errors
/// The ledger did not do it.
pub fn purge(tx: &Tx<'_>, cx: &StepContext, plan: &ClosingPlan) -> Result<Entry, Refused<Never>> {
    store::drop_data_key(tx, &plan.workspace)?;
    let api_keys = store::revoke_api_keys(tx, &plan.workspace)?;
    let after = json!({ "data_key": "gone", "api_keys_revoked": api_keys });
    Ok(cx.entry_with("workspace.purge", plan.workspace.as_str(), |detail| detail.after(after)))
}

/// Nothing is left but the record.
///
/// # Errors
/// The ledger did not do it.
pub fn bury(tx: &Tx<'_>, cx: &StepContext, plan: &ClosingPlan) -> Result<Told<WorkspaceId>, Refused<Never>> {
    let (from, to) = (WorkspaceState::Closing, WorkspaceState::Shredded);
    store::move_on(tx, &plan.workspace, from, to)?;
    store::remember_state(tx, &plan.workspace, None)?;
    cx.publish(tx, topics::WORKSPACE_CLOSED, plan.workspace.as_str(), json!({ "reason": plan.reason }))?;
    let after = json!({ "state": to.text(), "reason": plan.reason });
    let entry = cx.entry_with("workspace.shred", plan.workspace.as_str(), |detail| {
        detail.before(json!({ "state": from.text() })).after(after)
    });
    Ok(Told::new(plan.workspace.clone(), entry))
}

impl Workspaces {
    /// Destroys the workspace's key in the token, and forgets what it had opened. A workspace from before there were such
    /// keys has none; its data key goes with its row.
    ///
    /// # Errors
    /// The token is away: tried again, as destroying twice does no harm.
    pub async fn shred(self: Arc<Self>, plan: ClosingPlan, untouched: Untouched) -> Result<(), PivotFault> {
        let kek = match self.kek(&plan.workspace).await {
            Ok(kek) => kek,
            Err(why) => return Err(untouched.later(why.to_string())),
        };
        if let Some(kek) = kek {
            match self
                .token
                .of(plan.workspace.as_str())
                .destroy_kek(&kek, Instant::now() + TOKEN_CALL_WAIT_MAX)
                .await
            {
                Ok(()) | Err(TokenError::KeyMissing { .. }) => {}
                Err(error @ (TokenError::Busy { .. } | TokenError::Gone { .. } | TokenError::Expired)) => {
                    return Err(untouched.later(words_of_token(&error)));
                }
                // A token that refuses a call may have begun it.
                Err(error) => return Err(PivotFault::unknown(words_of_token(&error))),
            }
        }
        self.forget_data_key(&plan.workspace);
        Ok(())
    }

    /// Whether the key is gone from the token.
    pub async fn was_shredded(self: Arc<Self>, plan: ClosingPlan) -> PivotProbe<()> {
        let kek = match self.kek(&plan.workspace).await {
            Ok(Some(kek)) => kek,
            Ok(None) => return PivotProbe::of_one_effect(None),
            Err(why) => return PivotProbe::unknown(why.to_string()),
        };
        match self
            .token
            .of(plan.workspace.as_str())
            .find_kek(kek.id, Instant::now() + TOKEN_CALL_WAIT_MAX)
            .await
        {
            Ok(None) => {
                self.forget_data_key(&plan.workspace);
                PivotProbe::of_one_effect(Some(()))
            }
            // What is there will be destroyed by the next try.
            Ok(Some(_)) | Err(TokenError::Unsupported { .. }) => PivotProbe::of_one_effect(None),
            Err(error) => PivotProbe::unknown(words_of_token(&error)),
        }
    }
}
