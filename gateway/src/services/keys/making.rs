//! Making a key: its name is reserved, the token makes it under the effect's own id, its public half is recorded, it is activated.
//! Who enters: the steps of the workflows that make keys, inside their transactions and calls.
//! What leaves: rows and entries, a key in the token that is found again under the same id, or nothing at all.

use std::sync::Arc;
use std::time::Instant;

use audit::{Entry, Recorded, Told, Tx};
use hsm::{Custody, KeyAttestation, KeyId, KeyKind, KeyRef, NewKey, Presence};
use sagas::outbox::Topic;
use sagas::{EffectId, Never, Probe, Reason, Refused, RemoteFault, StepContext};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::state::{KeyEvent, KeyState};
use super::store::{self, KeyRow, Made};
use super::{Keys, faults};
use crate::api::Code;
use crate::ids::{Name, SigningKeyId, WorkspaceId};
use crate::limits::{KEY_VERSIONS_MAX, TOKEN_CALL_WAIT_MAX, TOKEN_GENERATE_WAIT_MAX};
use crate::moment::Moment;
use crate::services::policy::Policy;

/// What a key is to become: the input of `key.generate`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewKeyPlan {
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// Its id.
    pub key: SigningKeyId,
    /// Its name.
    pub name: Name,
    /// Its kind.
    pub kind: KeyKind,
    /// Whether it may ever leave the token, wrapped.
    pub custody: Custody,
    /// The policy that it comes with.
    #[serde(default)]
    pub policy: Option<Policy>,
}

/// A version that the token made, as the steps after its making know it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MadeVersion {
    /// Its name in the token.
    pub token_key: KeyId,
    /// What the token made.
    pub made: Made,
}

/// What may be said of a made key besides its public half.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attested {
    /// The version.
    pub version: MadeVersion,
    /// The token's signed statement, from tokens that make one.
    pub statement: Option<KeyAttestation>,
}

/// Which version of which key is being made.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Making {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The key.
    pub key: SigningKeyId,
    /// Its name.
    pub name: Name,
    /// Its kind.
    pub kind: KeyKind,
    /// Whether it may ever leave.
    pub custody: Custody,
    /// The version.
    pub version: i64,
}

impl NewKeyPlan {
    /// The first version of the planned key.
    pub fn first(&self) -> Making {
        let Self { workspace, key, name, kind, custody, .. } = self.clone();
        Making { workspace, key, name, kind, custody, version: 1 }
    }
}

/// The version after these, if the key may have one more: rotations and restores alike stop at the bound.
///
/// # Errors
/// It has all the versions it may have.
pub(super) fn next_version(newest: i64) -> Result<i64, Reason> {
    match newest < KEY_VERSIONS_MAX {
        true => Ok(newest + 1),
        false => {
            Err(Reason::new(Code::WrongState, "the key has all the versions it may have; create a new key"))
        }
    }
}

/// Reserves the name and puts the key down as being created.
///
/// # Errors
/// The name is taken.
pub fn reserve(tx: &Tx<'_>, cx: &StepContext, plan: &NewKeyPlan) -> Result<Told<()>, Refused> {
    let row = KeyRow {
        id: plan.key.clone(),
        name: plan.name.clone(),
        kind: plan.kind,
        state: KeyState::Creating,
        latest: 1,
        uses: 0,
        destroy_after: None,
        created: now(cx),
        workflow: Some(cx.saga.id.to_string()),
        incoming: None,
        fence: 0,
    };
    if !store::insert(tx, &plan.workspace, &row)? {
        let words = format!("there is a key named {}; choose another name", plan.name);
        return Err(Refused::business(Code::NameTaken, words));
    }
    let after = json!({ "name": plan.name, "kind": plan.kind.name(), "state": row.state.text(), "custody": plan.custody });
    Ok(Told::new((), cx.entry_with("key.reserve", plan.key.as_str(), |detail| detail.after(after))))
}

/// Gives the name back, with everything that was put down under it.
///
/// # Errors
/// The ledger did not do it.
pub fn release(tx: &Tx<'_>, cx: &StepContext, plan: &NewKeyPlan) -> Result<Told<()>, Refused<Never>> {
    store::forget_unmade(tx, &plan.workspace, &plan.key)?;
    let before = json!({ "name": plan.name, "state": KeyState::Creating.text() });
    Ok(Told::new((), cx.entry_with("key.release", plan.key.as_str(), |detail| detail.before(before))))
}

/// Puts a version down as ordered, under the name that the token will know it by. Every attempt orders the same.
///
/// # Errors
/// The ledger did not do it.
pub fn order<B>(tx: &Tx<'_>, cx: &StepContext, making: &Making) -> Result<Told<KeyId>, Refused<B>> {
    let token_key = KeyId(cx.effect.short());
    store::order_version(tx, making, &token_key, now(cx))?;
    let after = json!({ "version": making.version, "token_key": token_key.to_string() });
    let entry = cx.entry_with("key.order", making.key.as_str(), |detail| detail.after(after));
    Ok(Told::new(token_key, entry))
}

/// Records what the token made.
///
/// # Errors
/// The ledger did not do it.
pub fn made(
    tx: &Tx<'_>,
    cx: &StepContext,
    making: &Making,
    version: &MadeVersion,
) -> Result<Vec<Entry>, Refused<Never>> {
    store::make_version(tx, making, &version.made)?;
    let made = &version.made;
    let after = json!({ "version": making.version, "fingerprint": made.fingerprint.to_string(), "provenance": made.provenance });
    Ok(vec![cx.entry_with("key.made", making.key.as_str(), |detail| detail.after(after))])
}

/// The key signs from now on.
///
/// # Errors
/// The key is not being created, which is a fault of ours.
pub fn activate(
    tx: &Tx<'_>,
    cx: &StepContext,
    plan: &NewKeyPlan,
    (action, topic): (&'static str, Topic),
    attested: &Attested,
) -> Result<Told<SigningKeyId>, Refused> {
    let after = KeyState::Creating.after(KeyEvent::Made).map_err(|why| Refused::Bug(why.to_string()))?;
    if !store::set_state(tx, &plan.workspace, &plan.key, KeyState::Creating, after, None)? {
        return Err(Refused::Bug("the key to activate is not being created".to_owned()));
    }
    store::set_workflow(tx, &plan.workspace, &plan.key, None)?;
    let fingerprint = attested.version.made.fingerprint.to_string();
    let made =
        json!({ "name": plan.name, "kind": plan.kind.name(), "version": 1, "fingerprint": fingerprint });
    cx.publish(tx, topic, plan.key.as_str(), made)?;
    let facts = json!({
        "name": plan.name, "kind": plan.kind.name(), "state": after.text(), "version": 1,
        "fingerprint": fingerprint, "attestation": attested.statement,
    });
    let entry = cx.entry_with(action, plan.key.as_str(), |detail| {
        detail.before(json!({ "state": KeyState::Creating.text() })).after(facts)
    });
    Ok(Told::new(plan.key.clone(), entry))
}

impl Keys {
    /// Has the token make the ordered version. Asked twice under one name, the token makes one key.
    ///
    /// # Errors
    /// The token's, sorted by what may be done next.
    pub async fn make(&self, making: &Making, order: Recorded<KeyId>) -> Result<MadeVersion, RemoteFault> {
        self.make_named(making, order.into_value()).await
    }

    async fn make_named(&self, making: &Making, token_key: KeyId) -> Result<MadeVersion, RemoteFault> {
        let label = format!("chancery {} {} v{}", making.workspace, making.name, making.version);
        let deadline = Instant::now() + TOKEN_GENERATE_WAIT_MAX;
        let new = self
            .token
            .of(making.workspace.as_str())
            .generate_in(token_key, making.kind, making.custody, &label, deadline)
            .await;
        self.kept(making, new.map_err(faults::token)?).await
    }

    /// The version as it is recorded: what a TPM needs to load it is sealed under the workspace's data key.
    pub(super) async fn kept(&self, making: &Making, new: NewKey) -> Result<MadeVersion, RemoteFault> {
        let sealed_blob = self.seal_blob(&making.workspace, &new.key.id, &new.key.blob).await;
        let provenance = serde_json::to_string(&new.provenance).unwrap_or_default();
        let sealed_blob = sealed_blob.map_err(|why| RemoteFault::unknown(why.to_string()))?;
        let made =
            Made { fingerprint: new.key.fingerprint, spki: new.public.spki_der, sealed_blob, provenance };
        Ok(MadeVersion { token_key: new.key.id, made })
    }

    /// Whether the token made it. Where it holds a whole key of the name, asking again gives that very key.
    pub async fn was_made(&self, making: &Making, effect: EffectId) -> Probe<MadeVersion> {
        let token_key = KeyId(effect.short());
        match self
            .token
            .of(making.workspace.as_str())
            .presence(token_key, Instant::now() + TOKEN_CALL_WAIT_MAX)
            .await
        {
            // A TPM keeps no keys: one whose blob did not come back is gone.
            Ok(Presence::Absent | Presence::Half) | Err(hsm::TokenError::Unsupported { .. }) => {
                Probe::NotApplied
            }
            Ok(Presence::Whole(_)) => match self.make_named(making, token_key).await {
                Ok(version) => Probe::Applied(version),
                Err(fault) => Probe::Unknown(fault.to_string()),
            },
            Err(error) => Probe::Unknown(faults::words(&error)),
        }
    }

    /// Destroys whatever the token holds under the name of an effect of this workspace.
    ///
    /// # Errors
    /// The token is away: tried again.
    pub async fn unmake(&self, workspace: &WorkspaceId, effect: EffectId) -> Result<(), RemoteFault<Never>> {
        let (id, deadline) = (KeyId(effect.short()), Instant::now() + TOKEN_CALL_WAIT_MAX);
        let token = self.token.of(workspace.as_str());
        let gone = match token.presence(id, deadline).await {
            Ok(Presence::Absent) | Err(hsm::TokenError::Unsupported { .. }) => Ok(()),
            Ok(Presence::Half) => token.destroy_half(id, deadline).await,
            Ok(Presence::Whole(public)) => {
                let (kind, fingerprint) = (public.kind, public.fingerprint());
                let key = KeyRef { id, kind, fingerprint, blob: Vec::new() }.knowing(&public.spki_der);
                token.destroy(&key, deadline).await
            }
            Err(error) => Err(error),
        };
        gone.map_err(|error| RemoteFault::unknown(faults::words(&error)))
    }

    /// What the token says about the key, signed by the token where it can.
    ///
    /// # Errors
    /// The token is away: tried again.
    pub async fn attest(
        self: Arc<Self>,
        cx: StepContext,
        making: Making,
        version: MadeVersion,
    ) -> Result<Attested, RemoteFault> {
        let blob =
            self.open_sealed(&making.workspace, &version.token_key, version.made.sealed_blob.as_deref());
        let blob = blob.await.map_err(|why| RemoteFault::later(why.to_string()))?;
        let key =
            KeyRef { id: version.token_key, kind: making.kind, fingerprint: version.made.fingerprint, blob }
                .knowing(&version.made.spki);
        let deadline = Instant::now() + TOKEN_CALL_WAIT_MAX;
        match self.token.of(making.workspace.as_str()).attest(&key, *cx.effect.bytes(), deadline).await {
            Ok(statement) => Ok(Attested { version, statement }),
            Err(hsm::TokenError::Unsupported { .. }) => Ok(Attested { version, statement: None }),
            Err(error) => Err(faults::token(error)),
        }
    }
}

/// The time of a step.
pub(super) fn now(cx: &StepContext) -> Moment {
    Moment::from_micros(i64::try_from(cx.now_us).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_has_no_more_versions_than_it_may_have() {
        assert_eq!(next_version(0), Ok(1));
        assert_eq!(next_version(KEY_VERSIONS_MAX - 1), Ok(KEY_VERSIONS_MAX));
        assert!(next_version(KEY_VERSIONS_MAX).is_err());
    }
}
