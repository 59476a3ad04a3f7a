//! The ledger as its readers see it: entries, checkpoints, receipts, proofs, exports.
//! Who enters: members, who see their own workspace's entries; operators, who see all.
//! What leaves: what was recorded, and proofs that outsiders can check. Reading needs no entry, exporting does.

pub mod bundles;
pub mod recipient;
pub mod routes;
mod shelves;
pub mod wire;

use std::path::PathBuf;
use std::sync::Arc;

use audit::{
    EntryFilter, EntryScope, NoProof, NoteKey, Receipt, SealRefused, SqlFault, StoredCheckpoint, StoredEntry,
};
use sagas::SagaKey;

use self::bundles::{ExportPlan, Stored};
use self::shelves::Shelves;
use super::ground::{Ground, LedgerRefused, Telling};
use crate::api::guard::{Permit, may};
use crate::api::{Directory, OperatorPermit, Origin};
use crate::ids::WorkspaceId;
use crate::refused_by_ledger;
use crate::runner::{Ran, RunRefused};
use crate::sealing::Keeper;

/// Why the ledger's readers got nothing.
#[derive(Debug, thiserror::Error)]
pub enum AuditRefused {
    /// No such entry in this workspace.
    #[error("no such entry")]
    NoSuchEntry,
    /// No such workspace.
    #[error("no such workspace")]
    NoSuchWorkspace,
    /// Nothing has been sealed yet.
    #[error("there is no checkpoint yet")]
    NoCheckpoint,
    /// No checkpoint covers the entry yet; one was asked for.
    #[error("no checkpoint covers it yet")]
    NotYetSealed {
        /// When there should be one.
        wait: std::time::Duration,
    },
    /// There is no such proof.
    #[error("there is no such proof")]
    NoProof(#[source] NoProof),
    /// The seal did not come about.
    #[error("the ledger was not sealed")]
    Seal(#[source] SealRefused),
    /// The workflow that writes an export.
    #[error(transparent)]
    Run(#[from] RunRefused),
    /// The ledger gave or took nothing.
    #[error(transparent)]
    Ledger(#[from] LedgerRefused),
}
refused_by_ledger!(AuditRefused);

/// What became of the wish for an export.
#[derive(Debug)]
pub enum Exported {
    /// It is written.
    Done(Stored),
    /// The workflow goes on after its caller's patience.
    Going(SagaKey),
}

/// The service.
pub struct Audit {
    ground: Ground,
    keeper: Keeper,
    keys: Vec<NoteKey>,
    attestation_key: Option<String>,
    shelves: Shelves,
    directory: Arc<dyn Directory>,
    /// One bundle is built at a time.
    building: tokio::sync::Mutex<()>,
}

impl Audit {
    /// The service on its ground; exports are written below the given directory.
    pub fn new(
        ground: Ground,
        keeper: Keeper,
        keys: Vec<NoteKey>,
        exports: PathBuf,
        directory: Arc<dyn Directory>,
    ) -> Self {
        let shelves = Shelves::at(exports);
        let building = tokio::sync::Mutex::default();
        Self { ground, keeper, keys, attestation_key: None, shelves, directory, building }
    }

    /// Over the anchor of a TPM whose attestation key has this fingerprint.
    #[must_use]
    pub fn attested_by(self, attestation_key: Option<String>) -> Self {
        Self { attestation_key, ..self }
    }

    /// SHA-256 of the attestation key of the TPM that holds the anchor, where one does.
    pub fn attestation_key(&self) -> Option<&str> {
        self.attestation_key.as_deref()
    }

    /// The log's name.
    pub fn origin(&self) -> &str {
        self.ground.ledger.origin()
    }

    /// The verifier keys of its checkpoints.
    pub fn keys(&self) -> &[NoteKey] {
        &self.keys
    }

    /// A page of the workspace's own entries.
    ///
    /// # Errors
    /// The ledger gave nothing.
    pub async fn entries(
        &self,
        by: &Permit<may::AuditRead>,
        filter: EntryFilter,
    ) -> Result<Vec<StoredEntry>, AuditRefused> {
        let scope = EntryScope::Workspace(by.workspace().on_ledger().clone());
        self.filtered(EntryFilter { scope, ..filter }).await
    }

    /// A page of everybody's entries.
    ///
    /// # Errors
    /// The ledger gave nothing.
    pub async fn everything(
        &self,
        _: &OperatorPermit,
        filter: EntryFilter,
    ) -> Result<Vec<StoredEntry>, AuditRefused> {
        self.filtered(EntryFilter { scope: EntryScope::Everything, ..filter }).await
    }

    /// One entry of the workspace.
    ///
    /// # Errors
    /// There is none of that number in this workspace.
    pub async fn entry(&self, by: &Permit<may::AuditRead>, seq: u64) -> Result<StoredEntry, AuditRefused> {
        let workspace = by.workspace().clone();
        let found = self
            .ground
            .read::<_, AuditRefused>(move |view| view.entry(seq).map_err(AuditRefused::from))
            .await?;
        found.filter(|entry| entry.workspace == workspace.as_str()).ok_or(AuditRefused::NoSuchEntry)
    }

    /// The receipt of one of the workspace's entries.
    ///
    /// # Errors
    /// No such entry, or no checkpoint covers it yet; then one is asked for.
    pub async fn receipt(&self, by: &Permit<may::AuditRead>, seq: u64) -> Result<Receipt, AuditRefused> {
        self.entry(by, seq).await?;
        match self.ground.read(move |view| view.receipt(seq).map_err(AuditRefused::NoProof)).await {
            Err(AuditRefused::NoProof(NoProof::NotCovered(_))) => {
                Err(AuditRefused::NotYetSealed { wait: self.keeper.hurry() })
            }
            other => other,
        }
    }

    /// The newest checkpoint.
    ///
    /// # Errors
    /// There is none yet.
    pub async fn checkpoint(&self) -> Result<StoredCheckpoint, AuditRefused> {
        let newest = self
            .ground
            .read::<_, AuditRefused>(|view| view.latest_checkpoint().map_err(AuditRefused::from))
            .await?;
        newest.ok_or(AuditRefused::NoCheckpoint)
    }

    /// That the log of one size is the beginning of the log of another.
    ///
    /// # Errors
    /// Sizes that the log does not have.
    pub async fn consistency(&self, old: u64, new: u64) -> Result<Vec<[u8; 32]>, AuditRefused> {
        self.ground
            .read::<_, AuditRefused>(move |view| view.consistency(old, new).map_err(AuditRefused::NoProof))
            .await
    }

    /// Seals what is new, now.
    ///
    /// # Errors
    /// Hardware or ledger did not do their part.
    pub async fn seal(&self, _: &OperatorPermit) -> Result<StoredCheckpoint, AuditRefused> {
        self.keeper.seal().await.map_err(AuditRefused::Seal)
    }

    /// A workspace by its id or name, whether or not it is open.
    ///
    /// # Errors
    /// There is none.
    pub fn workspace(&self, text: &str) -> Result<WorkspaceId, AuditRefused> {
        self.directory.workspace(text).ok_or(AuditRefused::NoSuchWorkspace)
    }

    /// Tells of the export, looks at the whole ledger, seals, and writes what an outsider needs to check the log, or the part of it that is asked for.
    ///
    /// # Errors
    /// There are no such entries; ledger, hardware or disk did not do their part; or somebody changed the ledger: it is frozen.
    pub async fn export(
        &self,
        by: &OperatorPermit,
        origin: &Origin,
        plan: &ExportPlan,
    ) -> Result<Exported, AuditRefused> {
        let telling = Telling::operator(by, None, origin);
        let workflow = self.ground.launch::<AuditRefused>(telling, "audit.seal_export", plan).await?;
        // A run cannot say how it ends on a ledger that takes no writes, so whoever waits for it is told by the freeze.
        let ran = tokio::select! {
            ran = self.ground.outcome::<Stored, AuditRefused>(&workflow, origin.deadline) => ran?,
            freeze = self.ground.ledger.frozen() => return Err(LedgerRefused::Frozen(freeze).into()),
        };
        Ok(match ran {
            Ran::Done(stored) => Exported::Done(stored),
            Ran::Going => Exported::Going(workflow),
        })
    }

    async fn filtered(&self, filter: EntryFilter) -> Result<Vec<StoredEntry>, AuditRefused> {
        self.ground
            .read::<_, AuditRefused>(move |view| {
                view.entries(&filter).map_err(|fault: SqlFault| fault.into())
            })
            .await
    }
}
