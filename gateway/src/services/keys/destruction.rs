//! Destroying a key: out of use at once, gone after approvals and notice. Its record and public keys stay for ever.
//! Who enters: the steps of `key.destroy`, inside their transactions and calls.
//! What leaves: a key whose private halves are gone, or one that stands as it stood before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use audit::{Entry, Told, Tx, View};
use hsm::{KeyRef, Presence, Token, TokenError};
use sagas::{Never, Part, PivotFault, PivotProbe, Reason, Refused, StepContext, Untouched};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::making::now;
use super::state::{KeyEvent, KeyState};
use super::store;
use super::{Described, Keys};
use crate::api::Code;
use crate::ids::{SigningKeyId, WorkspaceId};
use crate::limits::TOKEN_CALL_WAIT_MAX;
use crate::services::subject::Subject;
use crate::topics;

/// The input of `key.destroy`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DestructionPlan {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The key.
    pub key: SigningKeyId,
    /// The version that signs when this is asked for. It goes with all others.
    pub version: i64,
    /// SHA-256 of its public key.
    pub fingerprint: String,
    /// Why, for those who approve.
    pub reason: String,
    /// Seconds of notice after the approvals.
    pub notice_seconds: u64,
}

/// A destruction that was announced.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Announced {
    /// Where the key stood before.
    pub before: String,
}

impl DestructionPlan {
    /// The notice.
    pub fn notice(&self) -> Duration {
        Duration::from_secs(self.notice_seconds)
    }
}

/// Takes the key out of use, and says that it will be destroyed.
///
/// # Errors
/// Not possible in its present state.
pub fn announce(tx: &Tx<'_>, cx: &StepContext, plan: &DestructionPlan) -> Result<Told<Announced>, Refused> {
    let no_key = || Refused::business(Code::NotFound, "no such key in this workspace");
    let row = store::key(tx, &plan.workspace, plan.key.as_str())?.ok_or_else(no_key)?;
    let next = row.state.after(KeyEvent::ScheduleDestruction);
    let next = next.map_err(|why| Refused::business(Code::KeyUnusable, why.to_string()))?;
    if !store::set_workflow(tx, &plan.workspace, &row.id, Some(&cx.saga.id.to_string()))? {
        return Err(Refused::business(
            Code::WrongState,
            "another workflow is changing this key; wait for its end",
        ));
    }
    store::set_state(tx, &plan.workspace, &row.id, row.state, next, Some(now(cx).plus(plan.notice())))?;
    store::remember_state(tx, &plan.workspace, &row.id, Some(row.state))?;
    let facts = json!({ "notice_seconds": plan.notice_seconds, "reason": plan.reason });
    cx.publish(tx, topics::KEY_DESTRUCTION_ANNOUNCED, plan.key.as_str(), facts)?;
    let after = json!({ "state": next.text(), "reason": plan.reason, "notice_seconds": plan.notice_seconds });
    let entry = cx.entry_with("key.schedule_destruction", plan.key.as_str(), |detail| {
        detail.before(json!({ "state": row.state.text() })).after(after)
    });
    Ok(Told::new(Announced { before: row.state.text().to_owned() }, entry))
}

/// What approvers are shown of a destruction.
///
/// # Errors
/// The key is gone, or another version signs by now.
pub fn subject(view: &View<'_>, plan: &DestructionPlan) -> Result<Subject, Refused> {
    let key = confirm(view, plan)?;
    let versions = store::versions(view, &plan.workspace, &plan.key)?.into_iter();
    let versions: Vec<_> = versions
        .filter_map(|it| {
            Some(json!({ "version": it.version, "fingerprint": it.made?.fingerprint.to_string() }))
        })
        .collect();
    let consequence = format!(
        "after {} seconds of notice the key `{}` is destroyed in the token with all its {} versions and its backups; nothing brings it back",
        plan.notice_seconds,
        key.name,
        versions.len()
    );
    let facts = json!({ "key": key, "notice_seconds": plan.notice_seconds, "reason": plan.reason });
    Ok(Subject::new(plan.key.as_str(), facts, consequence).and_long(json!({ "versions": versions })))
}

fn confirm(view: &View<'_>, plan: &DestructionPlan) -> Result<Described, Refused> {
    let key = super::described_latest(view, &plan.workspace, &plan.key).map_err(super::rule)?;
    match key.version == plan.version && key.fingerprint == plan.fingerprint {
        true => Ok(key),
        false => Err(Refused::business(
            Code::WrongState,
            format!(
                "this was asked for version {} of the key, and {} signs by now; ask again",
                plan.version,
                key.words()
            ),
        )),
    }
}

/// Lets the key stand as it stood before.
///
/// # Errors
/// The ledger did not do it.
pub fn keep(tx: &Tx<'_>, cx: &StepContext, plan: &DestructionPlan) -> Result<Told<()>, Refused<Never>> {
    let entry = |before: &str, after: &str| {
        let (before, after) = (json!({ "state": before }), json!({ "state": after }));
        cx.entry_with("key.keep", plan.key.as_str(), |detail| detail.before(before).after(after))
    };
    let topics = (topics::KEY_DESTRUCTION_CALLED_OFF, topics::KEY_DESTRUCTION_ANNOUNCED);
    cx.withdraw(tx, topics, plan.key.as_str(), json!({}))?;
    let row = store::key(tx, &plan.workspace, plan.key.as_str())?;
    let was = store::remembered_state(tx, &plan.workspace, &plan.key)?;
    let (Some(row), Some(was)) = (row, was) else {
        return Ok(Told::new((), entry("untouched", "untouched")));
    };
    // Also from `destroying`: the engine turns round there only when the token has certainly destroyed nothing of any version.
    if let Ok(kept) = row.state.after(KeyEvent::CalledOff(was)) {
        store::set_state(tx, &plan.workspace, &plan.key, row.state, kept, None)?;
    }
    store::remember_state(tx, &plan.workspace, &plan.key, None)?;
    store::set_workflow(tx, &plan.workspace, &plan.key, None)?;
    Ok(Told::new((), entry(row.state.text(), was.text())))
}

/// The notice begins: says when it will be over.
///
/// # Errors
/// The ledger did not do it.
pub fn begin_notice(tx: &Tx<'_>, cx: &StepContext, plan: &DestructionPlan) -> Result<Vec<Entry>, Refused> {
    let (pending, due) = (KeyState::DestructionPending, now(cx).plus(plan.notice()));
    store::set_state(tx, &plan.workspace, &plan.key, pending, pending, Some(due))?;
    let after = json!({ "destroy_after": due });
    Ok(vec![cx.entry_with("key.destroy.notice", plan.key.as_str(), |detail| detail.after(after))])
}

/// The notice is over. From here on the key is destroyed, and no rule can stop it.
///
/// # Errors
/// The key is not waiting for its destruction.
pub fn order(tx: &Tx<'_>, cx: &StepContext, plan: &DestructionPlan) -> Result<Told<()>, Refused> {
    let no_key = || Refused::business(Code::NotFound, "no such key in this workspace");
    let row = store::key(tx, &plan.workspace, plan.key.as_str())?.ok_or_else(no_key)?;
    if row.state != KeyState::Destroying {
        confirm(tx, plan)?;
        let next = row.state.after(KeyEvent::NoticeOver);
        let next = next.map_err(|why| Refused::business(Code::KeyUnusable, why.to_string()))?;
        store::set_state(tx, &plan.workspace, &plan.key, row.state, next, row.destroy_after)?;
    }
    let after = json!({ "state": KeyState::Destroying.text(), "attempt": cx.attempt });
    Ok(Told::new((), cx.entry_with("key.destroy.begin", plan.key.as_str(), |detail| detail.after(after))))
}

/// Nothing of the key is left but its record.
///
/// # Errors
/// The ledger did not do it.
pub fn bury(
    tx: &Tx<'_>,
    cx: &StepContext,
    plan: &DestructionPlan,
) -> Result<Told<SigningKeyId>, Refused<Never>> {
    let gone = KeyState::Destroying.after(KeyEvent::Gone).map_err(|why| Refused::Bug(why.to_string()))?;
    store::set_state(tx, &plan.workspace, &plan.key, KeyState::Destroying, gone, None)?;
    store::drop_blobs(tx, &plan.workspace, &plan.key)?;
    cx.publish(tx, topics::KEY_DESTROYED, plan.key.as_str(), json!({ "reason": plan.reason }))?;
    store::remember_state(tx, &plan.workspace, &plan.key, None)?;
    store::set_workflow(tx, &plan.workspace, &plan.key, None)?;
    let (before, after) = (
        json!({ "state": KeyState::Destroying.text() }),
        json!({ "state": gone.text(), "reason": plan.reason }),
    );
    let entry = cx.entry_with("key.destroy", plan.key.as_str(), |detail| detail.before(before).after(after));
    Ok(Told::new(plan.key.clone(), entry))
}

impl Keys {
    /// Destroys every version in the token, the newest first: it is the one that signs.
    ///
    /// # Errors
    /// The token did nothing yet and can be asked again; or it may have begun, and then only a probe tells how far it came.
    pub async fn destroy(
        self: Arc<Self>,
        plan: DestructionPlan,
        untouched: Untouched,
    ) -> Result<(), PivotFault> {
        let mut held = match self.held(&plan).await {
            Ok(held) => held.into_iter().rev(),
            Err(why) => return Err(untouched.later(why)),
        };
        let Some(newest) = held.next() else { return Ok(()) };
        let token = self.token.of(plan.workspace.as_str());
        match destroy_version(&token, &newest).await {
            Ok(()) => drop(untouched),
            // The token had not begun. Any other failure may have come between the two halves of the pair.
            Err(error @ (TokenError::Busy { .. } | TokenError::Gone { .. } | TokenError::Expired)) => {
                return Err(untouched.later(error.to_string()));
            }
            Err(error @ TokenError::WrongKey { .. }) => {
                return Err(untouched.refused(Reason::new(Code::TokenKeyMismatch, error.to_string())));
            }
            Err(error) => return Err(PivotFault::unknown(error.to_string())),
        }
        for older in held {
            destroy_version(&token, &older).await.map_err(|error| PivotFault::unknown(error.to_string()))?;
        }
        Ok(())
    }

    /// How much of the key is gone from the token, version by version.
    pub async fn was_destroyed(self: Arc<Self>, plan: DestructionPlan) -> PivotProbe<()> {
        let held = match self.held(&plan).await {
            Ok(held) => held,
            Err(why) => return PivotProbe::unknown(why),
        };
        let (token, mut versions) = (self.token.of(plan.workspace.as_str()), Vec::new());
        for key in held {
            versions.push(match token.presence(key.id, Instant::now() + TOKEN_CALL_WAIT_MAX).await {
                Ok(Presence::Absent) => Part::Done,
                // The private half goes first, so one half is a key that signs no more.
                Ok(Presence::Half) => Part::Partial,
                Ok(Presence::Whole(public)) if public.fingerprint() != key.fingerprint => {
                    Part::Unclear(format!("another key stands in the token under the name {}", key.id))
                }
                // A TPM's key is there as long as its blob is.
                Ok(Presence::Whole(_)) | Err(TokenError::Unsupported { .. }) => Part::Untouched,
                Err(error) => Part::Unclear(error.to_string()),
            });
        }
        PivotProbe::of_parts(versions, ())
    }

    async fn held(&self, plan: &DestructionPlan) -> Result<Vec<KeyRef>, String> {
        let found = self.find(&plan.workspace, plan.key.as_str()).await.map_err(|why| why.to_string())?;
        let (kind, mut held) = (found.row.kind, Vec::new());
        for version in found.versions {
            let (id, Some(made)) = (version.token_key, version.made) else { continue };
            let sealed = made.sealed_blob.as_deref();
            // A TPM lets go of a loaded copy by its blob. One that does not open any more is loaded nowhere.
            let blob = self.open_sealed(&plan.workspace, &id, sealed).await.unwrap_or_default();
            held.push(KeyRef { id, kind, fingerprint: made.fingerprint, blob }.knowing(&made.spki));
        }
        Ok(held)
    }
}

async fn destroy_version(token: &Token, key: &KeyRef) -> Result<(), TokenError> {
    match token.destroy(key, Instant::now() + TOKEN_CALL_WAIT_MAX).await {
        // Not there is what was wanted.
        Err(TokenError::KeyMissing { .. }) => Ok(()),
        destroyed => destroyed,
    }
}
