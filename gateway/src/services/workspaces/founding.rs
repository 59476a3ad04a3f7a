//! Founding a workspace: its name is reserved, the token makes its key, its data key is laid under that key, it opens.
//! Who enters: the steps of `workspace.create`, inside their transactions and calls.
//! What leaves: a workspace that opens only through its own key in the token; or nothing, and the name is free.

use std::sync::Arc;
use std::time::Instant;

use audit::{Told, Tx};
use hsm::{Kek, KeyId, TokenError};
use sagas::{EffectId, Never, Probe, Reason, Refused, RemoteFault, StepContext};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::state::WorkspaceState;
use super::{Workspaces, store};
use crate::api::Code;
use crate::custody::OwnSecret;
use crate::ids::{Name, WorkspaceId};
use crate::limits::TOKEN_CALL_WAIT_MAX;
use crate::moment::Moment;
use crate::services::ground::words_of_token;
use crate::topics;

/// The input of `workspace.create`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FoundingPlan {
    /// Its id.
    pub workspace: WorkspaceId,
    /// Its name.
    pub name: Name,
}

/// A key of the token for one workspace, and the data key that lies under it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Laid {
    /// What finds the key again; sealed under the master key, as on a TPM it is all there is of it.
    pub kek: OwnSecret,
    /// Its name in the token, for the entry.
    pub token_key: String,
    /// The data key: under the master key, and under the workspace's own.
    pub data_key: Vec<u8>,
}

/// Reserves the name.
///
/// # Errors
/// It is taken.
pub fn reserve(tx: &Tx<'_>, cx: &StepContext, plan: &FoundingPlan) -> Result<Told<()>, Refused> {
    let created = Moment::from_micros(i64::try_from(cx.now_us).unwrap_or(i64::MAX));
    if !store::reserve(tx, &plan.workspace, &plan.name, created)? {
        let words = format!("there is a workspace named {}; choose another name", plan.name);
        return Err(Refused::business(Code::NameTaken, words));
    }
    let after = json!({ "name": plan.name, "state": WorkspaceState::Creating.text() });
    let entry = cx.entry_with("workspace.reserve", plan.workspace.as_str(), |detail| detail.after(after));
    Ok(Told::new((), entry))
}

/// Gives the name back.
///
/// # Errors
/// The ledger did not do it.
pub fn release(tx: &Tx<'_>, cx: &StepContext, plan: &FoundingPlan) -> Result<Told<()>, Refused<Never>> {
    store::forget_unfounded(tx, &plan.workspace)?;
    let before = json!({ "name": plan.name, "state": WorkspaceState::Creating.text() });
    Ok(Told::new(
        (),
        cx.entry_with("workspace.release", plan.workspace.as_str(), |detail| detail.before(before)),
    ))
}

/// Puts the wrapped data key into the workspace's row.
///
/// # Errors
/// The ledger did not do it.
pub fn lay(tx: &Tx<'_>, cx: &StepContext, plan: &FoundingPlan, laid: &Laid) -> Result<Told<()>, Refused> {
    let kek = serde_json::to_vec(&laid.kek).map_err(|why| Refused::Bug(why.to_string()))?;
    store::lay_data_key(tx, &plan.workspace, &laid.data_key, &kek)?;
    let after = json!({ "workspace_key": laid.token_key, "data_key_version": store::UNDER_KEK });
    Ok(Told::new(
        (),
        cx.entry_with("workspace.init_store", plan.workspace.as_str(), |detail| detail.after(after)),
    ))
}

/// Takes the wrapped data key out of the row.
///
/// # Errors
/// The ledger did not do it.
pub fn unlay(tx: &Tx<'_>, cx: &StepContext, plan: &FoundingPlan) -> Result<Told<()>, Refused<Never>> {
    store::drop_data_key(tx, &plan.workspace)?;
    Ok(Told::new((), cx.entry("workspace.drop_store", plan.workspace.as_str())))
}

/// Names the operator who asked as the owner: an entry, since operators of the machine have every right already.
pub fn grant_owner(cx: &StepContext, plan: &FoundingPlan) -> Told<()> {
    let after = json!({ "owner": cx.origin.actor });
    Told::new(
        (),
        cx.entry_with("workspace.grant_owner", plan.workspace.as_str(), |detail| detail.after(after)),
    )
}

/// Says that the grant is void.
pub fn revoke_owner(cx: &StepContext, plan: &FoundingPlan) -> Told<()> {
    let before = json!({ "owner": cx.origin.actor });
    Told::new(
        (),
        cx.entry_with("workspace.revoke_owner", plan.workspace.as_str(), |detail| detail.before(before)),
    )
}

/// Opens the workspace: the first entry of its own history that stands for good.
///
/// # Errors
/// It is not being founded, which is a fault of ours.
pub fn activate(tx: &Tx<'_>, cx: &StepContext, plan: &FoundingPlan) -> Result<Told<WorkspaceId>, Refused> {
    let (from, to) = (WorkspaceState::Creating, WorkspaceState::Open);
    if !store::move_on(tx, &plan.workspace, from, to)? {
        return Err(Refused::Bug("the workspace to open is not being founded".to_owned()));
    }
    cx.publish(tx, topics::WORKSPACE_CREATED, plan.workspace.as_str(), json!({ "name": plan.name }))?;
    let after = json!({ "name": plan.name, "state": to.text() });
    let entry = cx.entry_with("workspace.create", plan.workspace.as_str(), |detail| {
        detail.before(json!({ "state": from.text() })).after(after)
    });
    Ok(Told::new(plan.workspace.clone(), entry))
}

impl Workspaces {
    /// Has the token make the workspace's key, and lays a fresh data key under it.
    ///
    /// # Errors
    /// The token's, sorted by what may be done next.
    pub async fn make_kek(
        self: Arc<Self>,
        effect: EffectId,
        plan: FoundingPlan,
    ) -> Result<Laid, RemoteFault> {
        let (id, deadline) = (KeyId(effect.short()), Instant::now() + TOKEN_CALL_WAIT_MAX);
        let label = format!("chancery {} {}", plan.workspace, plan.name);
        let token = self.token.of(plan.workspace.as_str());
        let kek = token.create_kek(id, &label, deadline).await.map_err(sorted)?;
        let inner =
            self.custody.new_data_key(&plan.workspace).map_err(|why| RemoteFault::later(why.to_string()))?;
        let bound = bound_to(&plan.workspace);
        let data_key = token.wrap_under(&kek, &inner, &bound, deadline).await;
        let data_key = data_key.map_err(|error| RemoteFault::unknown(words_of_token(&error)))?;
        let kept = serde_json::to_vec(&kek).map_err(|why| RemoteFault::Bug(why.to_string()))?;
        let kek = self.custody.seal_own(&kek_row(&plan.workspace), &kept);
        let kek = kek.map_err(|why| RemoteFault::unknown(why.to_string()))?;
        Ok(Laid { kek, token_key: id.to_string(), data_key })
    }

    /// Whether the token made the workspace's key. If it did, a fresh data key is laid under it: nothing was stored yet.
    pub async fn was_kek_made(self: Arc<Self>, effect: EffectId, plan: FoundingPlan) -> Probe<Laid> {
        let token = self.token.of(plan.workspace.as_str());
        match token.find_kek(KeyId(effect.short()), Instant::now() + TOKEN_CALL_WAIT_MAX).await {
            // A TPM keeps no keys: one whose blob did not come back is gone.
            Ok(None) | Err(TokenError::Unsupported { .. }) => Probe::NotApplied,
            Ok(Some(_)) => match self.make_kek(effect, plan).await {
                Ok(laid) => Probe::Applied(laid),
                Err(fault) => Probe::Unknown(fault.to_string()),
            },
            Err(error) => Probe::Unknown(words_of_token(&error)),
        }
    }

    /// Destroys the key of an effect; one that is not there is as good as destroyed.
    ///
    /// # Errors
    /// The token is away: tried again.
    pub async fn unmake_kek(
        self: Arc<Self>,
        workspace: WorkspaceId,
        effect: EffectId,
    ) -> Result<(), RemoteFault<Never>> {
        let deadline = Instant::now() + TOKEN_CALL_WAIT_MAX;
        let token = self.token.of(workspace.as_str());
        let gone = match token.find_kek(KeyId(effect.short()), deadline).await {
            Ok(Some(kek)) => token.destroy_kek(&kek, deadline).await,
            Ok(None) | Err(TokenError::Unsupported { .. }) => Ok(()),
            Err(error) => Err(error),
        };
        gone.map_err(|error| RemoteFault::unknown(words_of_token(&error)))
    }

    /// The workspace's key, as its row keeps it.
    pub(super) fn open_kek(&self, id: &WorkspaceId, kept: &[u8]) -> Option<Kek> {
        let secret: OwnSecret = serde_json::from_slice(kept).ok()?;
        let kek = self.custody.open_own(&kek_row(id), &secret).ok()?;
        serde_json::from_slice(&kek).ok()
    }
}

/// To what the data key under the workspace's key is bound.
pub(super) fn bound_to(id: &WorkspaceId) -> Vec<u8> {
    format!("chancery.workspace.v1 {id} data key").into_bytes()
}

fn kek_row(id: &WorkspaceId) -> String {
    format!("workspace key {id}")
}

/// What a token's failure means to the founding.
fn sorted(error: TokenError) -> RemoteFault {
    let words = words_of_token(&error);
    match error {
        TokenError::Busy { .. } | TokenError::Gone { .. } | TokenError::Expired => RemoteFault::later(words),
        TokenError::OutcomeUnknown => RemoteFault::unknown(words),
        TokenError::Unsupported { .. } => RemoteFault::Business(Reason::new(Code::TokenCannot, words)),
        _ => RemoteFault::Business(Reason::new(Code::TokenRefused, words)),
    }
}
