//! Keys that come from elsewhere: wrapped for a key that the token made for this one import, proven, then used like any other.
//! Who enters: the steps of `key.import`, inside their transactions and calls.
//! What leaves: a key of known public half whose record says that it was imported; or nothing, not even the wrapping key.

use std::sync::Arc;
use std::time::Instant;

use audit::{Entry, Told, Tx};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hsm::{Custody, ImportKey, KeyId, KeyKind, KeyRef, Oaep, Presence, PublicKey, SignInput};
use sagas::{EffectId, Never, Probe, Reason, Refused, RemoteFault, Ruling, Signal, StepContext};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::making::{Attested, MadeVersion, Making, NewKeyPlan};
use super::{Keys, faults, store};
use crate::api::Code;
use crate::crypto::{self, PinnedKey};
use crate::ids::{Name, SigningKeyId, WorkspaceId};
use crate::limits::{TOKEN_CALL_WAIT_MAX, TOKEN_GENERATE_WAIT_MAX};
use crate::topics;

/// The signal that brings the wrapped key.
pub const BLOB: &str = "blob";

/// The input of `key.import`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ImportPlan {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The key's id here.
    pub key: SigningKeyId,
    /// Its name.
    pub name: Name,
    /// Its kind.
    pub kind: KeyKind,
    /// The public key that it has to belong to, SPKI DER.
    pub expected: Vec<u8>,
}

/// A wrapped key that arrived.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Arrived {
    /// What it is wrapped for.
    pub under: ImportKey,
    /// The wrapped key.
    pub wrapped: Vec<u8>,
}

/// A key that the token took in.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TakenIn {
    /// What it was wrapped for.
    pub under: ImportKey,
    /// The key's first version.
    pub version: MadeVersion,
}

/// The body of the signal.
#[derive(Debug, Serialize, Deserialize)]
pub struct Blob {
    /// The wrapped key, base64.
    pub wrapped: String,
}

/// For what an incoming key has to be wrapped, as members read it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wrapping {
    /// The wrapping key's public half, PEM.
    pub pem: String,
    /// The hash of OAEP and of its MGF1: `sha256` or `sha1`.
    pub oaep: Oaep,
}

impl ImportPlan {
    /// The key as one that is being made.
    pub fn as_new(&self) -> NewKeyPlan {
        let Self { workspace, key, name, kind, .. } = self.clone();
        NewKeyPlan { workspace, key, name, kind, custody: Custody::NonExtractable, policy: None }
    }

    /// Its first version.
    pub fn first(&self) -> Making {
        self.as_new().first()
    }

    fn expected(&self) -> PublicKey {
        PublicKey { kind: self.kind, spki_der: self.expected.clone() }
    }
}

/// Shows for what the key has to be wrapped.
///
/// # Errors
/// The ledger did not do it.
pub fn show_wrapping(
    tx: &Tx<'_>,
    cx: &StepContext,
    plan: &ImportPlan,
    under: &ImportKey,
) -> Result<Vec<Entry>, Refused<Never>> {
    let pem = crypto::pem("PUBLIC KEY", &under.public.spki_der);
    let shown = serde_json::to_string(&Wrapping { pem, oaep: under.oaep });
    let shown = shown.map_err(|why| Refused::Bug(why.to_string()))?;
    store::set_incoming(tx, &plan.workspace, &plan.key, Some(&shown))?;
    let fingerprint = under.public.fingerprint().to_string();
    let after = json!({ "wrapping_key": fingerprint, "token_key": under.id.to_string(), "oaep": under.oaep });
    Ok(vec![cx.entry_with("key.import.wrapping", plan.key.as_str(), |detail| detail.after(after))])
}

/// Hears that the wrapped key has come. What does not read is told, and waited for again.
///
/// # Errors
/// The ledger did not do it.
pub fn hear(
    cx: &StepContext,
    plan: &ImportPlan,
    under: &ImportKey,
    signal: &Signal,
) -> Result<Ruling<Arrived>, Refused> {
    let told = |outcome: &str, bytes: usize| {
        let after = json!({ "outcome": outcome, "bytes": bytes });
        let entry = cx.entry_with("key.import.blob", plan.key.as_str(), |detail| detail.after(after));
        vec![entry.actor(signal.actor.clone())]
    };
    let wrapped = signal.payload::<Blob>().ok().and_then(|blob| STANDARD.decode(blob.wrapped).ok());
    Ok(match wrapped {
        Some(wrapped) if !wrapped.is_empty() => {
            let entries = told("arrived", wrapped.len());
            Ruling::Passed(Arrived { under: under.clone(), wrapped }, entries)
        }
        _ => Ruling::StillWaiting(told("not base64, and not used", 0)),
    })
}

/// The imported key signs from now on.
///
/// # Errors
/// It is not being created, which is a fault of ours.
pub fn activate(
    tx: &Tx<'_>,
    cx: &StepContext,
    plan: &ImportPlan,
    version: &MadeVersion,
) -> Result<Told<SigningKeyId>, Refused> {
    store::set_incoming(tx, &plan.workspace, &plan.key, None)?;
    let attested = Attested { version: version.clone(), statement: None };
    super::making::activate(tx, cx, &plan.as_new(), ("key.import", topics::KEY_IMPORTED), &attested)
}

impl Keys {
    /// Has the token make a key for which the incoming one is wrapped.
    ///
    /// # Errors
    /// The token's, sorted by what may be done next.
    pub async fn make_wrapping(
        self: Arc<Self>,
        effect: EffectId,
        plan: ImportPlan,
    ) -> Result<ImportKey, RemoteFault> {
        // Asked before anybody wraps anything: a kind that would not go in is refused here.
        let deadline = Instant::now() + TOKEN_GENERATE_WAIT_MAX;
        self.token
            .of(plan.workspace.as_str())
            .import_takes(plan.kind, deadline)
            .await
            .map_err(faults::token)?;
        let label = format!("chancery {} import of {}", plan.workspace, plan.name);
        let made = self
            .token
            .of(plan.workspace.as_str())
            .create_import_key(KeyId(effect.short()), &label, deadline)
            .await;
        made.map_err(faults::token)
    }

    /// The wrapping key of an effect, if the token holds it.
    pub async fn find_wrapping(
        self: Arc<Self>,
        workspace: WorkspaceId,
        effect: EffectId,
    ) -> Probe<ImportKey> {
        let token = self.token.of(workspace.as_str());
        let found = token.find_import_key(KeyId(effect.short()), Instant::now() + TOKEN_CALL_WAIT_MAX).await;
        match found {
            Ok(Some(key)) => Probe::Applied(key),
            Ok(None) | Err(hsm::TokenError::Unsupported { .. }) => Probe::NotApplied,
            Err(error) => Probe::Unknown(faults::words(&error)),
        }
    }

    /// Destroys the wrapping key of an effect; one that is not there is as good as destroyed.
    ///
    /// # Errors
    /// The token is away: tried again.
    pub async fn unmake_wrapping(
        self: Arc<Self>,
        workspace: WorkspaceId,
        effect: EffectId,
    ) -> Result<(), RemoteFault<Never>> {
        match self.clone().find_wrapping(workspace.clone(), effect).await {
            Probe::NotApplied => Ok(()),
            Probe::Unknown(why) => Err(RemoteFault::unknown(why)),
            Probe::Applied(key) => {
                let token = self.token.of(workspace.as_str());
                let gone = token.destroy_import_key(&key, Instant::now() + TOKEN_CALL_WAIT_MAX).await;
                gone.map_err(|error| RemoteFault::unknown(faults::words(&error)))
            }
        }
    }

    /// Has the token take the key in. It stays there only if it belongs to the public key that was announced.
    ///
    /// # Errors
    /// The token's, sorted by what may be done next.
    pub async fn take_in(
        &self,
        plan: &ImportPlan,
        arrived: Arrived,
        id: KeyId,
    ) -> Result<TakenIn, RemoteFault> {
        let label = format!("chancery {} {} v1, imported", plan.workspace, plan.name);
        let (expected, deadline) = (plan.expected(), Instant::now() + TOKEN_GENERATE_WAIT_MAX);
        let Arrived { under, wrapped } = arrived;
        let new = self
            .token
            .of(plan.workspace.as_str())
            .import_key(&under, id, &expected, &wrapped, &label, deadline)
            .await;
        let version = self.kept(&plan.first(), new.map_err(faults::token)?).await?;
        Ok(TakenIn { under, version })
    }

    /// Whether the token took it in. Where it holds a whole key of the name, asking again gives that very key.
    pub async fn was_taken_in(
        &self,
        plan: &ImportPlan,
        arrived: Arrived,
        effect: EffectId,
    ) -> Probe<TakenIn> {
        let id = KeyId(effect.short());
        match self.token.of(plan.workspace.as_str()).presence(id, Instant::now() + TOKEN_CALL_WAIT_MAX).await
        {
            Ok(Presence::Absent | Presence::Half) | Err(hsm::TokenError::Unsupported { .. }) => {
                Probe::NotApplied
            }
            Ok(Presence::Whole(_)) => match self.take_in(plan, arrived, id).await {
                Ok(taken) => Probe::Applied(taken),
                Err(fault) => Probe::Unknown(fault.to_string()),
            },
            Err(error) => Probe::Unknown(faults::words(&error)),
        }
    }

    /// Has the key sign what it cannot have signed before, and destroys the wrapping key once it did.
    ///
    /// # Errors
    /// The token is away, or the key is not the announced one.
    pub async fn prove_import(
        self: Arc<Self>,
        cx: StepContext,
        plan: ImportPlan,
        taken: TakenIn,
    ) -> Result<MadeVersion, RemoteFault> {
        self.prove_possession(&cx, &plan.first(), &taken.version, &plan.expected).await?;
        let token = self.token.of(plan.workspace.as_str());
        let gone = token.destroy_import_key(&taken.under, Instant::now() + TOKEN_CALL_WAIT_MAX).await;
        gone.map_err(faults::token)?;
        Ok(taken.version)
    }

    /// A signature over a fresh challenge, verified against the public key that is expected.
    ///
    /// # Errors
    /// The token is away, or the key is not the expected one.
    pub(super) async fn prove_possession(
        &self,
        cx: &StepContext,
        making: &Making,
        version: &MadeVersion,
        expected: &[u8],
    ) -> Result<(), RemoteFault> {
        let wrong = |why: String| RemoteFault::Business(Reason::new(Code::ImportRefused, why));
        let pinned = PinnedKey::new(making.kind, expected).map_err(|why| wrong(why.to_string()))?;
        let Some(scheme) = making.kind.schemes().first().copied() else {
            return Err(wrong(format!("a {} key signs nothing", making.kind)));
        };
        let blob =
            self.open_sealed(&making.workspace, &version.token_key, version.made.sealed_blob.as_deref());
        let blob = blob.await.map_err(|why| RemoteFault::later(why.to_string()))?;
        let (id, fingerprint) = (version.token_key, version.made.fingerprint);
        let key = KeyRef { id, kind: making.kind, fingerprint, blob }.knowing(&version.made.spki);
        // Nobody outside chooses it, so what is signed here is good for nothing else.
        let challenge = [b"chancery.possession.v1\0".as_slice(), cx.effect.bytes()].concat();
        let input = SignInput::Message(challenge);
        let deadline = Instant::now() + TOKEN_CALL_WAIT_MAX;
        let token = self.token.of(making.workspace.as_str());
        let signed = token.sign(&key, scheme, input.clone(), deadline).await.map_err(faults::token)?;
        pinned.verify(scheme, &input, &signed).map_err(|why| wrong(why.to_string()))
    }
}
