//! Batches that are asked for: one agreement for many contents, bound to the root of a Merkle tree over all of them.
//! Who enters: the steps of `signing.batch`, inside their transactions and calls.
//! What leaves: a report that says of each item whether it was signed; what was not signed is given back.

use audit::{Entry, Recorded, Told, Tx, View, merkle};
use hsm::Scheme;
use sagas::{Never, Reason, Refused, RemoteFault, StepContext};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::agreement::{self, Concerns};
use super::policies::{self, Asked, PolicyScope, Wish};
use super::requests::{self, Content, Item, Made};
use super::store::ClaimKey;
use super::{Signing, store};
use crate::api::Code;
use crate::crypto::Encoding;
use crate::ids::{SigningKeyId, WorkspaceId};
use crate::services::keys;
use crate::services::subject::Subject;
use crate::signer::SignOrder;
use crate::topics;

/// The input of `signing.batch`. Whoever agrees, agrees to exactly this.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BatchPlan {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The key.
    pub key: SigningKeyId,
    /// Its version.
    pub version: i64,
    /// Its fence when this was asked for.
    pub fence: i64,
    /// The scheme.
    pub scheme: Scheme,
    /// What is to be signed.
    pub items: Vec<Content>,
    /// The root over them, as hex.
    pub merkle_root: String,
    /// The shape of ECDSA signatures.
    pub encoding: Encoding,
    /// What for.
    pub intent: String,
    /// What makes it one and the same batch.
    pub nonce: String,
    /// Free text for the entries.
    pub context: Option<String>,
}

/// What came of one item.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemOutcome {
    /// Signed.
    Signed {
        /// The signature, base64.
        signature: String,
        /// The entry that authorised it.
        entry: u64,
        /// The key's use counter in that entry.
        #[serde(rename = "use")]
        use_number: i64,
    },
    /// Not signed, and not claimed any more.
    Refused {
        /// A stable code.
        code: String,
        /// Why.
        words: String,
    },
}

/// What came of the batch: the result of the run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What was agreed to.
    pub merkle_root: String,
    /// The key's id.
    pub key: String,
    /// The version that signed.
    pub version: i64,
    /// How many were signed.
    pub signed: usize,
    /// One for each item, in their order.
    pub items: Vec<ItemOutcome>,
}

/// The order for one item; or none, and the reason.
pub type ItemOrder = (Option<Reason>, Option<SignOrder>);

/// The root over contents, as hex: RFC 6962 section 2.1, each leaf the bytes that are signed.
///
/// # Errors
/// A content does not read, which is a fault of ours.
pub fn merkle_root(items: &[Content]) -> Result<String, String> {
    let mut tree = merkle::Frontier::default();
    for item in items {
        let leaf = Sha256::new().chain_update([0]).chain_update(item.bytes()?).finalize();
        tree.push(leaf.into(), |_, _, _| {});
    }
    Ok(hex::encode(tree.root()))
}

impl Concerns for BatchPlan {
    fn place(&self) -> (&WorkspaceId, PolicyScope) {
        (&self.workspace, PolicyScope::Key(self.key.clone()))
    }

    fn subject(&self, view: &View<'_>) -> Result<Subject, Refused> {
        let key = keys::described(view, &self.workspace, &self.key, self.version).map_err(keys::rule)?;
        let facts = json!({
            "context": self.context, "encoding": self.encoding, "fence": self.fence, "intent": self.intent,
            "items": self.items.len(), "key": key, "merkle_root": self.merkle_root, "nonce": self.nonce,
            "scheme": self.scheme.name(),
        });
        let digests: Vec<_> = self.items.iter().map(Content::digest).collect();
        let consequence = format!(
            "one signature over each of these {} contents is made with {}",
            digests.len(),
            key.words()
        );
        let subject = Subject::new(self.key.as_str(), facts, consequence);
        Ok(subject.and_long(json!({ "digests": digests })))
    }
}

impl BatchPlan {
    fn item(&self, at: u32) -> Result<Item<'_>, String> {
        let content = usize::try_from(at).ok().and_then(|at| self.items.get(at));
        let content = content.ok_or_else(|| format!("the batch has no item {at}"))?;
        let Self { workspace, key, version, fence, scheme, context, .. } = self;
        let (version, fence, scheme, context) = (*version, *fence, *scheme, context.as_deref());
        Ok(Item { workspace, key, version, fence, scheme, content, context })
    }

    fn claim<'a>(&'a self, digest: &'a str) -> ClaimKey<'a> {
        ClaimKey { key: &self.key, nonce: &self.nonce, digest }
    }

    /// The items by number.
    pub fn numbers(&self) -> Vec<u32> {
        (0..).take(self.items.len()).collect()
    }
}

/// Judges the batch as a whole, and reserves as many uses as it has items.
///
/// # Errors
/// Which rule says no.
pub fn validate(tx: &Tx<'_>, cx: &StepContext, plan: &BatchPlan) -> Result<Told<Asked>, Refused> {
    let root = merkle_root(&plan.items).map_err(Refused::Bug)?;
    if root != plan.merkle_root {
        return Err(Refused::business(Code::Invalid, "the root is not that of the items"));
    }
    let uses = i64::try_from(plan.items.len()).unwrap_or(i64::MAX);
    let BatchPlan { workspace, key, scheme, intent, .. } = plan;
    let what = json!({ "merkle_root": root, "items": uses, "nonce": plan.nonce, "version": plan.version });
    policies::reserve(tx, cx, &Wish { workspace, key, scheme: *scheme, intent, uses }, what)
}

/// Gives back what the batch had reserved, and what it had claimed.
///
/// # Errors
/// The ledger did not do it.
pub fn release(tx: &Tx<'_>, cx: &StepContext, plan: &BatchPlan) -> Result<Told<()>, Refused<Never>> {
    let unclaimed = requests::unclaim(tx, cx, &plan.workspace, &plan.key)?;
    Ok(policies::release(tx, cx, &plan.workspace, &plan.key)?.absorb(unclaimed))
}

/// Claims every item, or none.
///
/// # Errors
/// One of them was claimed before, or the policy has changed.
pub fn claim(tx: &Tx<'_>, cx: &StepContext, plan: &BatchPlan, asked: &Asked) -> Result<Told<Asked>, Refused> {
    policies::confirm(tx, &plan.workspace, &plan.place().1, asked)?;
    for item in &plan.items {
        requests::claim_one(tx, cx, &plan.workspace, plan.claim(&item.digest()))?;
    }
    let after = json!({ "nonce": plan.nonce, "merkle_root": plan.merkle_root, "items": plan.items.len() });
    let entry = cx.entry_with("signing.claim", plan.key.as_str(), |detail| detail.after(after));
    Ok(Told::new(asked.clone(), entry))
}

/// Authorises one item, or says why it is not signed. The others go on: some of them may be signed already.
///
/// # Errors
/// The ledger did not do it.
pub fn order(
    tx: &Tx<'_>,
    cx: &StepContext,
    plan: &BatchPlan,
    asked: &Asked,
    at: u32,
) -> Result<Told<ItemOrder>, Refused<Never>> {
    let item = plan.item(at).map_err(Refused::Bug)?;
    match authorise(tx, cx, plan, asked, &item) {
        Ok((order, entry, lapsed)) => Ok(Told::new((None, Some(order)), entry).and(lapsed)),
        Err(Refused::Business(reason)) => {
            let after = json!({ "digest": item.content.digest(), "code": reason.code, "why": reason.words });
            let entry =
                cx.entry_with("signing.item_refused", plan.key.as_str(), |detail| detail.after(after));
            Ok(Told::new((Some(reason), None), entry))
        }
        Err(Refused::Later(later)) => Err(Refused::Later(later)),
        Err(Refused::Sql(fault)) => Err(Refused::Sql(fault)),
        Err(Refused::Bug(what)) => Err(Refused::Bug(what)),
    }
}

fn authorise(
    tx: &Tx<'_>,
    cx: &StepContext,
    plan: &BatchPlan,
    asked: &Asked,
    item: &Item<'_>,
) -> Result<(SignOrder, Entry, Vec<Entry>), Refused> {
    let lapsed = agreement::confirm(tx, cx, plan, asked)?;
    policies::move_reservation(tx, cx, &plan.workspace, &plan.key)?;
    let (order, entry) = requests::order_item(tx, cx, item)?;
    Ok((order, entry, lapsed))
}

impl Signing {
    /// Signs one ordered item; a definite no is its outcome, and the batch goes on.
    ///
    /// # Errors
    /// It can be tried again, or nobody knows.
    pub async fn sign_one(
        &self,
        cx: &StepContext,
        plan: &BatchPlan,
        at: u32,
        order: Recorded<ItemOrder>,
    ) -> Result<ItemOutcome, RemoteFault<Never>> {
        let (refused, order) = order.split();
        let Some(order) = order.transpose() else {
            return Ok(ItemOutcome::from(
                refused.unwrap_or_else(|| Reason::new(Code::Internal, "it was not ordered")),
            ));
        };
        let item = plan.item(at).map_err(RemoteFault::Bug)?;
        match self.sign_item(cx, &item, plan.encoding, order).await {
            Ok(Made { signature, entry, use_number, .. }) => {
                Ok(ItemOutcome::Signed { signature, entry, use_number })
            }
            Err(RemoteFault::Business(reason)) => Ok(reason.into()),
            Err(RemoteFault::Later(later)) => Err(RemoteFault::Later(later)),
            Err(RemoteFault::Unknown(why)) => Err(RemoteFault::Unknown(why)),
            Err(RemoteFault::Bug(what)) => Err(RemoteFault::Bug(what)),
        }
    }
}

impl From<Reason> for ItemOutcome {
    fn from(reason: Reason) -> Self {
        Self::Refused { code: reason.code.into_owned(), words: reason.words }
    }
}

/// Adds the outcomes up.
pub fn gather(cx: &StepContext, plan: &BatchPlan, items: Vec<ItemOutcome>) -> (Report, Vec<Entry>) {
    let signed = items.iter().filter(|item| matches!(item, ItemOutcome::Signed { .. })).count();
    let report = Report {
        merkle_root: plan.merkle_root.clone(),
        key: plan.key.to_string(),
        version: plan.version,
        signed,
        items,
    };
    let after = json!({ "merkle_root": plan.merkle_root, "signed": signed, "of": plan.items.len() });
    let entry = cx.entry_with("signing.items_signed", plan.key.as_str(), |detail| detail.after(after));
    (report, vec![entry])
}

/// The batch is over. What was not signed can be asked for again, and counts against no limit.
///
/// # Errors
/// The ledger did not do it.
pub fn finalize(
    tx: &Tx<'_>,
    cx: &StepContext,
    plan: &BatchPlan,
    report: &Report,
) -> Result<Told<Report>, Refused<Never>> {
    let workflow = cx.saga.id.to_string();
    for (content, outcome) in plan.items.iter().zip(&report.items) {
        if let ItemOutcome::Refused { .. } = outcome {
            store::unclaim_one(tx, &plan.workspace, plan.claim(&content.digest()), &workflow)?;
        }
    }
    let unsigned = i64::try_from(plan.items.len() - report.signed.min(plan.items.len())).unwrap_or(i64::MAX);
    policies::settle(tx, cx, &plan.workspace, Some(unsigned))?;
    let facts = json!({ "merkle_root": plan.merkle_root, "signed": report.signed, "refused": unsigned });
    cx.publish(tx, topics::SIGNATURE_BATCH_MADE, plan.key.as_str(), facts)?;
    let after = json!({ "merkle_root": plan.merkle_root, "signed": report.signed, "given_back": unsigned });
    let entry = cx.entry_with("signing.result", plan.key.as_str(), |detail| detail.after(after));
    Ok(Told::new(report.clone(), entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_is_that_of_rfc_6962() {
        let content = |byte: u8| Content::Digest(hex::encode([byte; 32]));
        let leaf = |byte: u8| -> [u8; 32] {
            Sha256::new().chain_update([0]).chain_update([byte; 32]).finalize().into()
        };
        let root = hex::encode(merkle::node_hash(&merkle::node_hash(&leaf(1), &leaf(2)), &leaf(3)));
        assert_eq!(merkle_root(&[content(1), content(2), content(3)]), Ok(root.clone()));
        assert_ne!(merkle_root(&[content(1), content(3), content(2)]), Ok(root), "the order counts");
    }
}
