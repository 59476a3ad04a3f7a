//! Signatures that are asked for: judged, agreed to by others, claimed once and for ever, signed, told.
//! Who enters: the steps of `signing.request`, inside their transactions and calls.
//! What leaves: one verified signature for one key, nonce and content, or a world as it was before.

use std::time::Instant;

use audit::{Entry, Recorded, Told, Tx, View};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hsm::{Hash, Scheme, SignInput, TokenError};
use sagas::{Never, PivotFault, Refused, RemoteFault, StepContext, Untouched};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::agreement::{self, Concerns};
use super::policies::{self, Asked, PolicyScope, Wish};
use super::store::ClaimKey;
use super::{Signing, store, wire};
use crate::api::Code;
use crate::crypto::Encoding;
use crate::ids::{SigningKeyId, WorkspaceId};
use crate::limits::TOKEN_CALL_WAIT_MAX;
use crate::services::ground::Telling;
use crate::services::keys::{self, faults};
use crate::services::subject::Subject;
use crate::signer::{SignFailed, SignOrder};
use crate::topics;

/// What is to be signed, as plans keep it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// A digest, as hex.
    Digest(String),
    /// A message for a scheme without a hash of its own, as base64.
    Message(String),
}

/// The input of `signing.request`. Whoever agrees, agrees to exactly this.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RequestPlan {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The key.
    pub key: SigningKeyId,
    /// Its version.
    pub version: i64,
    /// Its fence when this was asked for: what another version has taken over since is not signed with the old one.
    pub fence: i64,
    /// The scheme.
    pub scheme: Scheme,
    /// What is to be signed.
    pub content: Content,
    /// The shape of an ECDSA signature.
    pub encoding: Encoding,
    /// What for.
    pub intent: String,
    /// What makes it one and the same request, however often it is sent.
    pub nonce: String,
    /// Free text for the entry.
    pub context: Option<String>,
}

/// A signature, as the run keeps and shows it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "RequestedSignature")]
pub struct Made {
    /// The signature, base64.
    pub signature: String,
    /// The key's id.
    pub key: String,
    /// The version that signed.
    pub version: i64,
    /// The entry that authorised it.
    pub entry: u64,
    /// The key's use counter in that entry.
    #[serde(rename = "use")]
    pub use_number: i64,
}

/// Everything about one signature that its entry tells.
pub(super) struct Item<'a> {
    pub(super) workspace: &'a WorkspaceId,
    pub(super) key: &'a SigningKeyId,
    pub(super) version: i64,
    pub(super) fence: i64,
    pub(super) scheme: Scheme,
    pub(super) content: &'a Content,
    pub(super) context: Option<&'a str>,
}

impl Content {
    /// What is prepared for the scheme, in the form of plans.
    pub fn of(input: &SignInput) -> Self {
        match input {
            SignInput::Digest(digest) => Self::Digest(hex::encode(digest)),
            SignInput::Message(message) => Self::Message(STANDARD.encode(message)),
        }
    }

    /// For the token.
    ///
    /// # Errors
    /// It was kept in another form, which is a fault of ours.
    pub fn input(&self) -> Result<SignInput, String> {
        let broken = |what: &dyn std::fmt::Display| format!("the content of a plan does not read: {what}");
        match self {
            Self::Digest(text) => hex::decode(text).map(SignInput::Digest).map_err(|why| broken(&why)),
            Self::Message(text) => STANDARD.decode(text).map(SignInput::Message).map_err(|why| broken(&why)),
        }
    }

    /// The bytes that are signed: the digest, or the message itself.
    ///
    /// # Errors
    /// As for [`input`](Self::input).
    pub fn bytes(&self) -> Result<Vec<u8>, String> {
        Ok(match self.input()? {
            SignInput::Digest(bytes) | SignInput::Message(bytes) => bytes,
        })
    }

    /// A digest that names it, as hex: its own, or SHA-256 of the message.
    pub fn digest(&self) -> String {
        match self {
            Self::Digest(text) => text.clone(),
            Self::Message(_) => hex::encode(Hash::Sha256.digest(&self.bytes().unwrap_or_default())),
        }
    }
}

impl Concerns for RequestPlan {
    fn place(&self) -> (&WorkspaceId, PolicyScope) {
        (&self.workspace, PolicyScope::Key(self.key.clone()))
    }

    fn subject(&self, view: &View<'_>) -> Result<Subject, Refused> {
        let key = keys::described(view, &self.workspace, &self.key, self.version).map_err(keys::rule)?;
        let content = match &self.content {
            Content::Digest(digest) => json!({ "digest": digest }),
            Content::Message(_) => {
                let bytes = self.content.bytes().map_err(Refused::Bug)?;
                json!({ "message_bytes": bytes.len(), "message_sha256": self.content.digest() })
            }
        };
        let facts = json!({
            "content": content, "context": self.context, "encoding": self.encoding, "fence": self.fence,
            "intent": self.intent, "key": key, "nonce": self.nonce, "scheme": self.scheme.name(),
        });
        let consequence = format!("one signature over this content is made with {}", key.words());
        Ok(Subject::new(self.key.as_str(), facts, consequence))
    }
}

impl RequestPlan {
    fn wish(&self) -> Wish<'_> {
        let Self { workspace, key, scheme, intent, .. } = self;
        Wish { workspace, key, scheme: *scheme, intent, uses: 1 }
    }

    fn item(&self) -> Item<'_> {
        let Self { workspace, key, version, fence, scheme, content, context, .. } = self;
        let (version, fence, scheme, context) = (*version, *fence, *scheme, context.as_deref());
        Item { workspace, key, version, fence, scheme, content, context }
    }
}

/// Judges the request, and reserves its use of the limits.
///
/// # Errors
/// Which rule says no.
pub fn evaluate(tx: &Tx<'_>, cx: &StepContext, plan: &RequestPlan) -> Result<Told<Asked>, Refused> {
    let what = json!({ "digest": plan.content.digest(), "nonce": plan.nonce, "version": plan.version, "context": plan.context });
    policies::reserve(tx, cx, &plan.wish(), what)
}

/// Claims key, nonce and content, for ever once it is signed: the same can never be signed twice under one nonce.
///
/// # Errors
/// It was claimed before, or the policy has changed.
pub fn claim(
    tx: &Tx<'_>,
    cx: &StepContext,
    plan: &RequestPlan,
    asked: &Asked,
) -> Result<Told<Asked>, Refused> {
    policies::confirm(tx, &plan.workspace, &plan.place().1, asked)?;
    let digest = plan.content.digest();
    claim_one(tx, cx, &plan.workspace, ClaimKey { key: &plan.key, nonce: &plan.nonce, digest: &digest })?;
    let after = json!({ "nonce": plan.nonce, "digest": plan.content.digest() });
    let entry = cx.entry_with("signing.claim", plan.key.as_str(), |detail| detail.after(after));
    Ok(Told::new(asked.clone(), entry))
}

pub(super) fn claim_one(
    tx: &Tx<'_>,
    cx: &StepContext,
    workspace: &WorkspaceId,
    what: ClaimKey<'_>,
) -> Result<(), Refused> {
    match store::claim(tx, workspace, what, &cx.saga.id.to_string())? {
        None => Ok(()),
        Some(owner) => {
            let words =
                format!("this was signed already under the same nonce, by workflow {owner}; look there");
            Err(Refused::business(Code::NonceUsed, words))
        }
    }
}

/// Gives the claim back. Nothing was signed under it.
///
/// # Errors
/// The ledger did not do it.
pub fn unclaim(
    tx: &Tx<'_>,
    cx: &StepContext,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
) -> Result<Told<()>, Refused<Never>> {
    store::unclaim(tx, workspace, &cx.saga.id.to_string())?;
    Ok(Told::new((), cx.entry("signing.unclaim", key.as_str())))
}

/// Authorises the signature: policy, requester and votes still hold, the limit has room in this window, the key is enabled,
/// and this use of it is counted. If we stop
/// after this, the ledger says that a signature was allowed, and none left the house; the next attempt counts anew.
///
/// # Errors
/// The policy has changed, whoever asked or agreed may not do so any more, or the key does not sign.
pub fn order(
    tx: &Tx<'_>,
    cx: &StepContext,
    plan: &RequestPlan,
    asked: &Asked,
) -> Result<Told<SignOrder>, Refused> {
    let lapsed = agreement::confirm(tx, cx, plan, asked)?;
    policies::move_reservation(tx, cx, &plan.workspace, &plan.key)?;
    let (order, entry) = order_item(tx, cx, &plan.item())?;
    Ok(Told::new(order, entry).and(lapsed))
}

pub(super) fn order_item(
    tx: &Tx<'_>,
    cx: &StepContext,
    item: &Item<'_>,
) -> Result<(SignOrder, Entry), Refused> {
    let key = keys::signing_key(tx, item.workspace, item.key, item.version).map_err(keys::rule)?;
    let input = item.content.input().map_err(Refused::Bug)?;
    let use_number = keys::count_uses(tx, item.workspace, item.key, 1, item.fence).map_err(keys::rule)?;
    let deadline = Instant::now() + TOKEN_CALL_WAIT_MAX;
    let fingerprint = key.key.fingerprint.to_string();
    let order = SignOrder { key: key.into(), scheme: item.scheme, input, deadline, use_number };
    let after = json!({
        "scheme": item.scheme.name(), "version": item.version, "fingerprint": fingerprint,
        "digest": item.content.digest(),
        "use": use_number, "context": item.context,
    });
    let entry = cx.entry_with("key.sign", item.key.as_str(), |detail| detail.after(after));
    Ok((order, entry))
}

impl Signing {
    /// Takes a recorded order through the one door.
    ///
    /// # Errors
    /// Sorted by what may be done next. A failure gets its own entry.
    pub async fn sign_request(
        &self,
        cx: &StepContext,
        plan: &RequestPlan,
        order: Recorded<SignOrder>,
        untouched: Untouched,
    ) -> Result<Made, PivotFault> {
        // One call of the token: what it says of itself holds for the whole pivot.
        self.sign_item(cx, &plan.item(), plan.encoding, order).await.map_err(|fault| match fault {
            RemoteFault::Later(later) => untouched.later(later.why),
            RemoteFault::Business(reason) => untouched.refused(reason),
            RemoteFault::Unknown(why) => PivotFault::unknown(why),
            RemoteFault::Bug(why) => PivotFault::bug(why),
        })
    }

    pub(super) async fn sign_item(
        &self,
        cx: &StepContext,
        item: &Item<'_>,
        encoding: Encoding,
        order: Recorded<SignOrder>,
    ) -> Result<Made, RemoteFault> {
        let (seq, use_number, deadline) = (order.seq(), order.value().use_number, order.value().deadline);
        let kind = order.value().key.key.kind;
        let card = self.keys.card(item.workspace, item.key.as_str()).await;
        let card = card.map_err(|why| RemoteFault::later(why.to_string()))?;
        // What a TPM loads the key from; which key it is, the order says.
        let blob =
            card.versions.get(&item.version).map(|version| version.key.blob.clone()).unwrap_or_default();
        let slot = self.admission.admit(item.workspace, false, deadline).await;
        let slot = slot.map_err(|shed| RemoteFault::later(shed.to_string()))?;
        let signed = self.signer.sign_loading(order, blob).await;
        drop(slot);
        match signed {
            Ok(signature) => Ok(Made {
                signature: STANDARD.encode(wire::encoded(&signature.raw, kind, encoding)),
                key: item.key.to_string(),
                version: item.version,
                entry: signature.seq,
                use_number,
            }),
            Err(failed) => {
                self.tell_attempt(cx, item.key, seq, super::word_for(&failed)).await;
                Err(sorted(failed))
            }
        }
    }

    /// An order came to nothing, and is told so; the run says whether another follows.
    async fn tell_attempt(&self, cx: &StepContext, key: &SigningKeyId, seq: u64, what: &'static str) {
        let (cx, key) = (cx.clone(), key.to_string());
        let told = self.ground.write::<_, super::SigningRefused>(Telling::own(None), move |_, _| {
            let after = json!({ "authorised_in": seq, "outcome": what });
            let entry = cx.entry_with("key.sign_failed", key.clone(), |detail| detail.after(after));
            Ok(Told::new((), entry.outcome(audit::Outcome::Failed)))
        });
        // The order stands on the ledger without its sequel; the attempt's own row says the rest.
        if let Err(error) = told.await {
            tracing::error!(%error, seq, "a failed signature could not be told");
        }
    }
}

/// What a failure at the one door means to a step.
fn sorted(failed: SignFailed) -> RemoteFault {
    match failed {
        SignFailed::Token(TokenError::OutcomeUnknown) => {
            RemoteFault::unknown("the token was lost during the signature")
        }
        SignFailed::Token(error) => faults::token(error),
        // It never left, so nothing happened; a token that signs wrongly is not asked again.
        SignFailed::Withheld(_) => RemoteFault::business(Code::TokenRefused, failed.to_string()),
    }
}

/// The signature is there: the reserved use is a use, and the request is over.
///
/// # Errors
/// The ledger did not do it.
pub fn record(
    tx: &Tx<'_>,
    cx: &StepContext,
    plan: &RequestPlan,
    made: &Made,
) -> Result<Told<Made>, Refused<Never>> {
    policies::settle(tx, cx, &plan.workspace, Some(0))?;
    let after = json!({ "authorised_in": made.entry, "use": made.use_number, "nonce": plan.nonce });
    let entry = cx.entry_with("signing.record", plan.key.as_str(), |detail| detail.after(after));
    Ok(Told::new(made.clone(), entry))
}

/// Tells others that it is made. The run's own result shows the signature; an event never does.
///
/// # Errors
/// The ledger did not do it.
pub fn announce(
    tx: &Tx<'_>,
    cx: &StepContext,
    plan: &RequestPlan,
    made: &Made,
) -> Result<Told<Made>, Refused<Never>> {
    let (key, digest) = (plan.key.as_str(), plan.content.digest());
    let facts = json!({
        "digest": digest, "intent": plan.intent, "version": made.version, "authorised_in": made.entry, "use": made.use_number,
    });
    cx.publish(tx, topics::SIGNATURE_MADE, key, facts)?;
    let after = json!({ "digest": digest, "intent": plan.intent, "authorised_in": made.entry });
    Ok(Told::new(made.clone(), cx.entry_with("signing.result", key, |detail| detail.after(after))))
}
