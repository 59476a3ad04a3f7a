//! The signing workflows that members may start by name, and the forms of what they ask for.
//! Who enters: the wiring, at start; request bodies.
//! What leaves: plans that fit their key, small enough to be kept until they are over.

use std::sync::Arc;

use hsm::SignInput;
use schemars::JsonSchema;
use serde::Deserialize;

use super::bundle::{self, BatchPlan};
use super::changes::ChangePlan;
use super::order::Target;
use super::policies::PolicyScope;
use super::requests::{Content, RequestPlan};
use super::{Signing, SigningRefused, wire};
use crate::api::{Code, Offer, Problem, Scope};
use crate::crypto::Encoding;
use crate::ids::{RESERVED_NAME, WorkspaceId};
use crate::limits::{
    BATCH_ITEMS_MAX, NONCE_BYTES_MAX, POLICY_INTENT_BYTES_MAX, REPORT_BYTES_MAX, REQUEST_MESSAGE_BYTES_MAX,
};
use crate::services::policy::Policy;

/// Asks for a signature that others may have to agree to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SignatureWanted {
    /// What `sign` takes as scheme.
    pub scheme: String,
    /// The message, base64; hashed here where the scheme has a hash.
    #[serde(default)]
    pub message: Option<String>,
    /// The digest, base64.
    #[serde(default)]
    pub digest: Option<String>,
    /// The key's version; the latest if absent.
    #[serde(default)]
    pub version: Option<i64>,
    /// `der` (default) or `raw`, for ECDSA.
    #[serde(default)]
    pub encoding: Encoding,
    /// What it is for; a policy may name what it allows.
    #[serde(default)]
    pub intent: String,
    /// What makes it one and the same request: key, nonce and content together are signed once and never again.
    pub nonce: String,
    /// Free text for those who approve, and for the entry.
    #[serde(default)]
    pub context: Option<String>,
}

/// The same, with its key. The fields are repeated: serde cannot both flatten a form and refuse unknown fields.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RequestForm {
    /// The key's id or name.
    key: String,
    /// What `sign` takes as scheme.
    scheme: String,
    /// The message, base64.
    #[serde(default)]
    message: Option<String>,
    /// The digest, base64.
    #[serde(default)]
    digest: Option<String>,
    /// The key's version.
    #[serde(default)]
    version: Option<i64>,
    /// `der` or `raw`.
    #[serde(default)]
    encoding: Encoding,
    /// What it is for.
    #[serde(default)]
    intent: String,
    /// What makes it one and the same request.
    nonce: String,
    /// Free text.
    #[serde(default)]
    context: Option<String>,
}

/// One of many contents: either `message` or `digest`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ItemForm {
    /// The message, base64.
    #[serde(default)]
    message: Option<String>,
    /// The digest, base64.
    #[serde(default)]
    digest: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct BatchForm {
    /// The key's id or name.
    key: String,
    /// What `sign` takes as scheme.
    scheme: String,
    /// Up to 500 contents, each once.
    items: Vec<ItemForm>,
    /// The RFC 6962 root over what is signed, as hex; checked if it is said.
    #[serde(default)]
    merkle_root: Option<String>,
    /// The key's version.
    #[serde(default)]
    version: Option<i64>,
    /// `der` or `raw`.
    #[serde(default)]
    encoding: Encoding,
    /// What it is for.
    #[serde(default)]
    intent: String,
    /// What makes it one and the same batch.
    nonce: String,
    /// Free text.
    #[serde(default)]
    context: Option<String>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ChangeForm {
    /// `workspace`, or a key's id or name.
    scope: String,
    /// What is to hold.
    policy: Policy,
}

/// What the signing service offers.
pub fn offers(signing: &Arc<Signing>) -> Vec<Offer> {
    let (asking, batching, changing) = (signing.clone(), signing.clone(), signing.clone());
    vec![
        Offer::new(
            "signing.request",
            Scope::Sign,
            "Sign once others agree",
            move |workspace, form: RequestForm| {
                let signing = asking.clone();
                async move {
                    let (key, wanted) = form.parts();
                    signing.plan_request(workspace, key, wanted).await
                }
            },
        ),
        Offer::new(
            "signing.batch",
            Scope::Sign,
            "Sign many once others agree to all of them",
            move |workspace, form: BatchForm| {
                let signing = batching.clone();
                async move { signing.plan_batch(workspace, form).await }
            },
        ),
        Offer::new(
            "signing.policy_change",
            Scope::KeysManage,
            "Change what may be signed and who agrees",
            move |workspace, form: ChangeForm| {
                let signing = changing.clone();
                async move { signing.plan_change(workspace, form).await }
            },
        ),
    ]
}

impl RequestForm {
    fn parts(self) -> (String, SignatureWanted) {
        let Self { key, scheme, message, digest, version, encoding, intent, nonce, context } = self;
        (key, SignatureWanted { scheme, message, digest, version, encoding, intent, nonce, context })
    }
}

impl Signing {
    /// The plan for a request.
    ///
    /// # Errors
    /// There is no such key, or the request does not fit it.
    pub async fn plan_request(
        &self,
        workspace: WorkspaceId,
        key: String,
        wanted: SignatureWanted,
    ) -> Result<RequestPlan, Problem> {
        let SignatureWanted { scheme, message, digest, version, encoding, intent, nonce, context } = wanted;
        within_bounds(&intent, &nonce)?;
        let card = self.keys.card(&workspace, &key).await?;
        let sign = wire::Sign { scheme, message, digest, version, encoding, context };
        let (command, encoding) = sign.into_command(key)?;
        let context = command.context.clone();
        let prepared = command.prepare_to_sign(&card)?;
        small_enough([&prepared.input].into_iter())?;
        let Target { key, version, fence, .. } = prepared.target;
        let content = Content::of(&prepared.input);
        let scheme = prepared.scheme;
        Ok(RequestPlan { workspace, key, version, fence, scheme, content, encoding, intent, nonce, context })
    }

    async fn plan_batch(&self, workspace: WorkspaceId, form: BatchForm) -> Result<BatchPlan, Problem> {
        let BatchForm { key, scheme, items, merkle_root, version, encoding, intent, nonce, context } = form;
        within_bounds(&intent, &nonce)?;
        let card = self.keys.card(&workspace, &key).await?;
        let room = REPORT_BYTES_MAX / (card.row.kind.signature_len() * 4 / 3 + 96);
        if items.is_empty() || items.len() > BATCH_ITEMS_MAX.min(room) {
            let words = format!(
                "a batch of {} signatures has 1 to {} items",
                card.row.kind,
                BATCH_ITEMS_MAX.min(room)
            );
            return Err(Problem::new(Code::Invalid, words).at("/items"));
        }
        let mut prepared = Vec::with_capacity(items.len());
        for (at, ItemForm { message, digest }) in items.into_iter().enumerate() {
            let (scheme, context) = (scheme.clone(), context.clone());
            let sign = wire::Sign { scheme, message, digest, version, encoding, context };
            let (command, _) = sign.into_command(key.clone()).map_err(|problem| wire::under(problem, at))?;
            prepared.push(command.prepare_to_sign(&card)?);
        }
        small_enough(prepared.iter().map(|it| &it.input))?;
        let items: Vec<_> = prepared.iter().map(|it| Content::of(&it.input)).collect();
        let root = bundle::merkle_root(&items).map_err(|why| Problem::internal(&why))?;
        if merkle_root.is_some_and(|said| !said.eq_ignore_ascii_case(&root)) {
            return Err(
                Problem::new(Code::Invalid, format!("the root of these items is {root}")).at("/merkle_root")
            );
        }
        if let Some(at) = (1..items.len()).find(|at| items[..*at].contains(&items[*at])) {
            return Err(Problem::new(Code::Invalid, "this item stands in the batch before")
                .at(format!("/items/{at}")));
        }
        let Some(first) = prepared.into_iter().next() else {
            return Err(Problem::internal(&"a batch without items"));
        };
        let (Target { key, version, fence, .. }, scheme) = (first.target, first.scheme);
        Ok(BatchPlan {
            workspace,
            key,
            version,
            fence,
            scheme,
            items,
            merkle_root: root,
            encoding,
            intent,
            nonce,
            context,
        })
    }

    async fn plan_change(&self, workspace: WorkspaceId, form: ChangeForm) -> Result<ChangePlan, Problem> {
        let scope = self.scope(&workspace, &form.scope).await?;
        Ok(ChangePlan { workspace, scope, policy: form.policy.checked()? })
    }

    /// The scope of a policy: the whole workspace, or the key of this id or name.
    pub(super) async fn scope(
        &self,
        workspace: &WorkspaceId,
        text: &str,
    ) -> Result<PolicyScope, SigningRefused> {
        match text {
            RESERVED_NAME => Ok(PolicyScope::Workspace),
            key => Ok(PolicyScope::Key(self.keys.card(workspace, key).await?.row.id.clone())),
        }
    }
}

fn within_bounds(intent: &str, nonce: &str) -> Result<(), Problem> {
    if intent.len() > POLICY_INTENT_BYTES_MAX {
        return Err(
            Problem::new(Code::Invalid, format!("at most {POLICY_INTENT_BYTES_MAX} bytes")).at("/intent")
        );
    }
    if nonce.is_empty() || nonce.len() > NONCE_BYTES_MAX {
        return Err(Problem::new(Code::Invalid, format!("1 to {NONCE_BYTES_MAX} bytes")).at("/nonce"));
    }
    Ok(())
}

/// What is kept until it is over has to be small.
fn small_enough<'a>(inputs: impl Iterator<Item = &'a SignInput>) -> Result<(), Problem> {
    let bytes: usize = inputs
        .map(|input| match input {
            SignInput::Digest(bytes) | SignInput::Message(bytes) => bytes.len(),
        })
        .sum();
    match bytes <= REQUEST_MESSAGE_BYTES_MAX {
        true => Ok(()),
        false => {
            let words =
                format!("a request has at most {REQUEST_MESSAGE_BYTES_MAX} bytes to sign; `sign` takes more");
            Err(Problem::new(Code::Invalid, words).at("/message"))
        }
    }
}
