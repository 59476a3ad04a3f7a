//! The JSON of the ledger as its readers see it.
//! Who enters: queries, parsed once into filters.
//! What leaves: entries, checkpoints, receipts and proofs.

use audit::{EntryFilter, EntryOrder, NoteKey, StoredCheckpoint, StoredEntry};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::recipient::Recipient;
use crate::api::{Code, Problem};
use crate::limits::{PAGE_ITEMS_DEFAULT, PAGE_ITEMS_MAX};
use crate::moment::Moment;

/// Which entries.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EntriesQuery {
    /// Only this act, such as `key.sign`.
    #[serde(default)]
    pub action: Option<String>,
    /// Only about this thing.
    #[serde(default)]
    pub object: Option<String>,
    /// Only by this actor.
    #[serde(default)]
    pub actor: Option<String>,
    /// Only of this request.
    #[serde(default)]
    pub request_id: Option<String>,
    /// Told at this time or later.
    #[serde(default)]
    pub since: Option<Moment>,
    /// Told before this time.
    #[serde(default)]
    pub until: Option<Moment>,
    /// The `next` of the page before.
    #[serde(default)]
    pub after: Option<u64>,
    /// Newest first instead of oldest first.
    #[serde(default)]
    pub newest_first: bool,
    /// Entries on the page, at most 500; 100 if absent.
    #[serde(default)]
    pub limit: Option<usize>,
}

/// Which two sizes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConsistencyQuery {
    /// The smaller size.
    pub old: u64,
    /// The larger size.
    pub new: u64,
}

/// What to export; everything if nothing is named.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportQuery {
    /// Only the own entries of this workspace, by id or name, each with its proof.
    #[serde(default)]
    pub workspace: Option<String>,
    /// From this entry on.
    #[serde(default)]
    pub from: Option<u64>,
    /// Up to this entry, itself included.
    #[serde(default)]
    pub to: Option<u64>,
    /// An age X25519 public key (`age1...`): only its holder can open the export.
    #[serde(default)]
    pub recipient: Option<String>,
}

/// An entry.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Entry")]
pub struct EntryAnswer {
    /// Its number in the log, from 0.
    pub seq: u64,
    /// When it was told.
    pub time: Moment,
    /// The workspace; absent for the appliance's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// Who.
    pub actor: String,
    /// What.
    pub action: String,
    /// To which thing.
    pub object: String,
    /// `done`, `denied` or `failed`.
    pub outcome: String,
    /// Of which request.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub request_id: String,
    /// Address, user agent, before, after and more.
    pub detail: serde_json::Value,
    /// SHA-256(0x00 | leaf), hex.
    pub leaf_hash: String,
}

/// A page of entries.
#[derive(Debug, Serialize, JsonSchema)]
pub struct EntryList {
    /// The entries.
    pub entries: Vec<EntryAnswer>,
    /// The `after` of the next page, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
}

/// A checkpoint.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Checkpoint")]
pub struct CheckpointAnswer {
    /// The anchor's step.
    pub step: u64,
    /// Entries covered.
    pub size: u64,
    /// What stands behind it.
    pub tier: String,
    /// The signed note (C2SP signed-note, tlog-checkpoint).
    pub note: String,
    /// The keys that verify it, in the form of signed notes.
    pub verifier_keys: Vec<String>,
    /// SHA-256 of the attestation key (SPKI DER) of the TPM that holds the anchor, where one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attestation_key: Option<String>,
}

/// A consistency proof (RFC 6962 section 2.1.2).
#[derive(Debug, Serialize, JsonSchema)]
pub struct ConsistencyAnswer {
    /// The smaller size.
    pub old: u64,
    /// The larger size.
    pub new: u64,
    /// The hashes, base64.
    pub proof: Vec<String>,
}

/// Where an export was written.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ExportAnswer {
    /// The directory on the appliance.
    pub directory: String,
    /// Entries in it.
    pub entries: u64,
    /// Entries covered by its checkpoint.
    pub size: u64,
    /// SHA-256 over its files, as the ledger tells it, hex.
    pub sha256: String,
}

/// An export that goes on after its caller's patience.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ExportWorkflow")]
pub struct Going {
    /// The workflow's id.
    pub workflow: String,
}

impl ExportQuery {
    /// Who alone can open it; the range is looked at by the way.
    ///
    /// # Errors
    /// The recipient is no age key, or the range ends before it begins.
    pub fn recipient(&self) -> Result<Option<Recipient>, Problem> {
        let bad = |words: String| Problem::new(Code::BadRequest, words);
        if self.from.zip(self.to).is_some_and(|(from, to)| from > to) {
            return Err(bad("the range ends before it begins: `from` is at most `to`".to_owned()));
        }
        let recipient = self.recipient.as_deref().map(str::parse).transpose();
        recipient.map_err(|why| bad(format!("recipient: {why}")))
    }
}

impl EntriesQuery {
    /// The filter; its scope is set by the service.
    ///
    /// # Errors
    /// A page longer than it may be.
    pub fn into_filter(self) -> Result<EntryFilter, Problem> {
        let limit = self.limit.unwrap_or(PAGE_ITEMS_DEFAULT);
        if !(1..=PAGE_ITEMS_MAX).contains(&limit) {
            return Err(Problem::new(Code::BadRequest, format!("limit is 1 to {PAGE_ITEMS_MAX}")));
        }
        let micros = |moment: Moment| u64::try_from(moment.micros()).unwrap_or(0);
        Ok(EntryFilter {
            action: self.action,
            object: self.object,
            actor: self.actor,
            request_id: self.request_id,
            since_us: self.since.map(micros),
            until_us: self.until.map(micros),
            after_seq: self.after,
            order: if self.newest_first { EntryOrder::NewestFirst } else { EntryOrder::OldestFirst },
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
            ..EntryFilter::default()
        })
    }
}

impl From<StoredEntry> for EntryAnswer {
    fn from(entry: StoredEntry) -> Self {
        Self {
            seq: entry.seq,
            time: Moment::from_micros(i64::try_from(entry.time_us).unwrap_or(i64::MAX)),
            workspace: Some(entry.workspace).filter(|workspace| !workspace.is_empty()),
            actor: entry.actor,
            action: entry.action,
            object: entry.object,
            outcome: entry.outcome,
            request_id: entry.request_id,
            detail: serde_json::from_slice(&entry.payload).unwrap_or_default(),
            leaf_hash: hex::encode(audit::leaf::leaf_hash(&entry.leaf)),
        }
    }
}

impl EntryList {
    /// A page, with the cursor of the next one if this one is full.
    pub fn new(entries: Vec<StoredEntry>, limit: u32) -> Self {
        let full = entries.len() >= usize::try_from(limit).unwrap_or(usize::MAX);
        let next = entries.last().filter(|_| full).map(|entry| entry.seq);
        Self { entries: entries.into_iter().map(Into::into).collect(), next }
    }
}

impl CheckpointAnswer {
    /// The answer with its verifier keys.
    pub fn new(checkpoint: StoredCheckpoint, keys: &[NoteKey], attestation_key: Option<&str>) -> Self {
        let StoredCheckpoint { k, size, note, tier, .. } = checkpoint;
        let verifier_keys = keys.iter().map(ToString::to_string).collect();
        Self { step: k, size, tier, note, verifier_keys, attestation_key: attestation_key.map(str::to_owned) }
    }
}

impl ConsistencyAnswer {
    /// The answer.
    pub fn new(query: &ConsistencyQuery, proof: &[[u8; 32]]) -> Self {
        Self {
            old: query.old,
            new: query.new,
            proof: proof.iter().map(|hash| STANDARD.encode(hash)).collect(),
        }
    }
}

/// A receipt. The form is written out here, for the value comes from the ledger.
#[derive(Debug, JsonSchema)]
#[schemars(rename = "Receipt")]
#[allow(dead_code, reason = "the form of an answer that another crate writes")]
pub struct ReceiptAnswer {
    /// The leaf, verbatim, base64.
    leaf: String,
    /// The salt of its commitment, base64.
    salt: String,
    /// The detail it commits to, base64.
    payload: String,
    /// Path and signed checkpoint: a C2SP tlog-proof.
    proof: String,
}
