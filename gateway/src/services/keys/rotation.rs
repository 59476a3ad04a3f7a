//! Rotating a key: the next version is made and announced, verifiers get time to learn it, then it signs.
//! Who enters: the steps of `key.rotate`, inside their transactions.
//! What leaves: a key with one more version that signs; the old ones go on verifying.

use audit::{Told, Tx};
use sagas::{Never, Refused, StepContext};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::making::{self, MadeVersion, Making};
use super::state::KeyEvent;
use super::store;
use crate::api::Code;
use crate::ids::{SigningKeyId, WorkspaceId};
use crate::topics;

/// The input of `key.rotate`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RotationPlan {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The key.
    pub key: SigningKeyId,
    /// Whether the next version may ever leave the token: as the one before.
    pub custody: hsm::Custody,
    /// Seconds between announcing the next version and signing with it.
    pub overlap_seconds: u64,
}

/// The next version, made and not yet signing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Next {
    /// What is being made.
    pub making: Making,
    /// What was made.
    pub version: MadeVersion,
}

/// Says that the key is being rotated, and which version comes next.
///
/// # Errors
/// The key does not sign, is being changed, or has all the versions it may have.
pub fn begin(tx: &Tx<'_>, cx: &StepContext, plan: &RotationPlan) -> Result<Told<Making>, Refused> {
    let no_key = || Refused::business(Code::NotFound, "no such key in this workspace");
    let row = store::key(tx, &plan.workspace, plan.key.as_str())?.ok_or_else(no_key)?;
    // Only a key that could be disabled, that is an enabled one, gets a new version.
    row.state
        .after(KeyEvent::Disable)
        .map_err(|why| Refused::business(Code::KeyUnusable, why.to_string()))?;
    let versions = store::versions(tx, &plan.workspace, &row.id)?;
    let newest = versions.last().map_or(0, |last| last.version);
    let version = making::next_version(newest).map_err(Refused::Business)?;
    if !store::set_workflow(tx, &plan.workspace, &row.id, Some(&cx.saga.id.to_string()))? {
        return Err(Refused::business(
            Code::WrongState,
            "another workflow is changing this key; wait for its end",
        ));
    }
    let making = Making {
        workspace: plan.workspace.clone(),
        key: row.id,
        name: row.name,
        kind: row.kind,
        custody: plan.custody,
        version,
    };
    let after = json!({ "latest_version": row.latest, "next_version": version });
    let entry = cx.entry_with("key.rotate.begin", plan.key.as_str(), |detail| detail.after(after));
    Ok(Told::new(making, entry))
}

/// Takes the rotation back, with the version that never signed.
///
/// # Errors
/// The ledger did not do it.
pub fn end(tx: &Tx<'_>, cx: &StepContext, plan: &RotationPlan) -> Result<Told<()>, Refused<Never>> {
    if let Some(row) = store::key(tx, &plan.workspace, plan.key.as_str())?
        && row.workflow.as_deref() == Some(cx.saga.id.to_string().as_str())
    {
        store::forget_versions_after(tx, &plan.workspace, &row.id, row.latest)?;
        store::set_workflow(tx, &plan.workspace, &row.id, None)?;
    }
    Ok(Told::new((), cx.entry("key.rotate.undone", plan.key.as_str())))
}

/// Tells the next version's public half before anything is signed with it.
///
/// # Errors
/// The ledger did not do it.
pub fn announce(
    tx: &Tx<'_>,
    cx: &StepContext,
    plan: &RotationPlan,
    next: &Next,
) -> Result<Told<Next>, Refused> {
    let (making, fingerprint) = (&next.making, next.version.made.fingerprint.to_string());
    let facts = json!({ "version": making.version, "fingerprint": fingerprint, "overlap_seconds": plan.overlap_seconds });
    cx.publish(tx, topics::KEY_NEXT_VERSION_ANNOUNCED, making.key.as_str(), facts)?;
    let after = json!({ "next_version": making.version, "fingerprint": fingerprint });
    let entry = cx.entry_with("key.announce", making.key.as_str(), |detail| detail.after(after));
    Ok(Told::new(next.clone(), entry))
}

/// Says that the announced version will not come.
///
/// # Errors
/// The ledger did not do it.
pub fn withdraw(tx: &Tx<'_>, cx: &StepContext, next: &Next) -> Result<Told<()>, Refused<Never>> {
    let (key, version) = (next.making.key.as_str(), next.making.version);
    let topics = (topics::KEY_NEXT_VERSION_WITHDRAWN, topics::KEY_NEXT_VERSION_ANNOUNCED);
    cx.withdraw(tx, topics, key, json!({ "version": version }))?;
    let before = json!({ "next_version": version });
    Ok(Told::new((), cx.entry_with("key.withdraw", key, |detail| detail.before(before))))
}

/// The next version signs from now on, under a fence that whoever still holds the one before cannot pass; the others only
/// verify.
///
/// # Errors
/// The key stopped signing meanwhile.
pub fn promote(tx: &Tx<'_>, cx: &StepContext, next: &Next) -> Result<Told<Making>, Refused> {
    let making = &next.making;
    let gone = || Refused::business(Code::NotFound, "the key is gone");
    let row = store::key(tx, &making.workspace, making.key.as_str())?.ok_or_else(gone)?;
    row.state
        .after(KeyEvent::Disable)
        .map_err(|why| Refused::business(Code::KeyUnusable, why.to_string()))?;
    let fence = store::set_latest(tx, &making.workspace, &making.key, making.version)?;
    let before = json!({ "latest_version": row.latest, "fence": row.fence });
    let fingerprint = next.version.made.fingerprint.to_string();
    let facts = json!({ "version": making.version, "fingerprint": fingerprint });
    cx.publish(tx, topics::KEY_ROTATED, making.key.as_str(), facts)?;
    let after = json!({ "latest_version": making.version, "fence": fence, "fingerprint": fingerprint });
    let entry = cx.entry_with("key.rotate", making.key.as_str(), |detail| detail.before(before).after(after));
    Ok(Told::new(making.clone(), entry))
}

/// The versions before go on verifying for ever; none of them signs again.
///
/// # Errors
/// The ledger did not do it.
pub fn retire(tx: &Tx<'_>, cx: &StepContext, making: &Making) -> Result<Told<SigningKeyId>, Refused<Never>> {
    store::set_workflow(tx, &making.workspace, &making.key, None)?;
    let after = json!({ "verify_only": format!("1 to {}", making.version - 1) });
    let entry = cx.entry_with("key.retire_old", making.key.as_str(), |detail| detail.after(after));
    Ok(Told::new(making.key.clone(), entry))
}
