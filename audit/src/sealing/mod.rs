//! The sealing room: checkpoints signed in hardware, and an anchor that remembers the newest of them.
//! Who enters: the gateway at start (`recover`), at every interval and at stop (`seal`).
//! What leaves: an open or a frozen ledger, and confirmed checkpoints; an unconfirmed one never leaves.

pub(crate) mod examine;
mod recover;
mod store;
pub(crate) mod verdict;

use std::sync::Arc;

use tokio::sync::Mutex;

use crate::attest::{AttestationRefused, NvStatement, check_attestation};
use crate::checkpoint::Checkpoint;
use crate::entry::{Detail, Entry};
use crate::fault::SqlFault;
use crate::hardware::{Anchor, Attestation, HardwareFault, Reading, Sealer, Step, Tier};
use crate::job::{Pass, Settled};
use crate::leaf::{Hash, sha256};
use crate::ledger::Ledger;
use crate::note::{Note, NoteRefused};
use crate::proving::StoredCheckpoint;
use crate::refused::{Freeze, ReadRefused, WriteRefused};
use crate::told::Told;
use crate::tx::View;
use store::{AnchorRow, FirstAttested, LogEnd, SIGNATURE_ONLY};
use verdict::{UNWRITTEN, Verdict, extend, step_digest};

pub use recover::{RecoverRefused, Recovered};

/// Seals a ledger: one step at a time.
pub struct Sealing {
    ledger: Ledger,
    sealer: Arc<dyn Sealer>,
    anchor: Option<Arc<dyn Anchor>>,
    /// Steps of the anchor are taken one after another; held over the whole step.
    turn: Mutex<()>,
}

/// Why there is no new checkpoint. What was begun stays begun: the next call, or the next start, ends it.
#[derive(Debug, thiserror::Error)]
pub enum SealRefused {
    /// Nothing is in the log yet.
    #[error("the log is empty; there is nothing to seal")]
    Empty,
    /// The hardware did not do its part.
    #[error("the hardware did not do its part of the seal")]
    Hardware(#[from] HardwareFault),
    /// A signature that came back is not the key's.
    #[error("a signature from the hardware does not verify")]
    BadSignature(#[source] NoteRefused),
    /// The TPM's word is not about this step.
    #[error("the attestation from the hardware does not fit this step")]
    BadAttestation(#[from] AttestationRefused),
    /// The anchor shows something it should not; the ledger is frozen now.
    #[error("{0}")]
    Frozen(Freeze),
    /// The ledger could not be read.
    #[error("the ledger cannot be read")]
    Read(#[from] ReadRefused<SqlFault>),
    /// The ledger did not take the row.
    #[error("the ledger did not take the row")]
    Write(#[from] WriteRefused<SqlFault>),
}

impl Sealing {
    /// Without an anchor, checkpoints are only signed: a rollback is then seen by whoever kept an older one.
    pub fn new(ledger: Ledger, sealer: Arc<dyn Sealer>, anchor: Option<Arc<dyn Anchor>>) -> Self {
        Self { ledger, sealer, anchor, turn: Mutex::new(()) }
    }

    /// Seals what is new. Without anything new it is the newest checkpoint again. A ledger that is not open seals
    /// nothing: what a frozen one holds may be somebody else's history.
    pub async fn seal(&self) -> Result<StoredCheckpoint, SealRefused> {
        let _turn = self.turn.lock().await;
        // Asked before the first signature: a ledger that is frozen must not have its history signed, not even in vain.
        self.may_speak()?;
        self.finish_pending().await?;
        let (end, last) = self.read(|view| Ok((view.log_end()?, view.last_anchor()?))).await?;
        let end = end.ok_or(SealRefused::Empty)?;
        if let Some(last) = last.filter(|last| !is_dirty(&end, last)) {
            self.ledger.shared.sealed(end.size);
            return Ok(checkpoint_of(last));
        }
        let row = self.begin(&end).await?;
        self.advance(&row).await?;
        self.confirm(row).await
    }

    fn may_speak(&self) -> Result<(), SealRefused> {
        match self.ledger.shared.refuses_seals() {
            None => Ok(()),
            Some(Settled::Frozen(freeze)) => Err(SealRefused::Frozen((*freeze).clone())),
            Some(settled) => Err(SealRefused::Write(settled.refused())),
        }
    }

    /// The key lines, the start counter's value and tier are the gateway's to show; this is the anchor's tier.
    pub fn tier(&self) -> Option<Tier> {
        self.anchor.as_ref().map(|anchor| anchor.tier())
    }

    /// A step that was begun before: ask the hardware whether it took it, then go on from there.
    async fn finish_pending(&self) -> Result<(), SealRefused> {
        let Some(row) = self.read(|view| view.pending_anchor()).await? else { return Ok(()) };
        self.resume(row).await?;
        Ok(())
    }

    async fn resume(&self, row: AnchorRow) -> Result<StoredCheckpoint, SealRefused> {
        if let Some(anchor) = self.anchor_of(&row) {
            let found = anchor.read().await?.head.unwrap_or(UNWRITTEN);
            if found == row.before && found != row.after {
                self.advance(&row).await?;
            } else if found != row.after {
                return Err(self.freeze(Verdict::RolledBackOrForked { expected: row.before, found }));
            }
        }
        self.confirm(row).await
    }

    /// Signs the checkpoint and writes the step down, before the hardware hears of it.
    async fn begin(&self, end: &LogEnd) -> Result<AnchorRow, SealRefused> {
        let origin = self.ledger.origin().to_owned();
        let checkpoint = Checkpoint { origin, size: end.size, root: end.root };
        let note = self.sign(&checkpoint).await?;
        let (last, step) = self.read(|view| Ok((view.last_anchor()?, view.last_step()?))).await?;
        let k = last.map_or(1, |last| last.k + 1);
        let before = step.map_or(UNWRITTEN, |step| step.after);
        let (tier, after) = match &self.anchor {
            Some(anchor) => {
                let digest = step_digest(k, end.size, &checkpoint.body_hash());
                (anchor.tier().as_str(), extend(&before, &digest))
            }
            None => (SIGNATURE_ONLY, before),
        };
        let row =
            AnchorRow { k, size: end.size, note: note.to_string(), before, after, tier: tier.to_owned() };
        let begun = row.clone();
        self.ledger.shared.write_unaudited_with(Pass::Sealing, move |tx| tx.begin_anchor(&begun)).await?;
        // If we stop here, start-up finds a pending row and the old value in the hardware, and takes the step.
        Ok(row)
    }

    async fn sign(&self, checkpoint: &Checkpoint) -> Result<Note, SealRefused> {
        // A step that was finished just now may have taken long, and the ledger be frozen since.
        self.may_speak()?;
        let text = checkpoint.text();
        let mut note = Note::new(text.clone()).map_err(SealRefused::BadSignature)?;
        for (at, key) in self.sealer.keys().iter().enumerate() {
            let signature = self.sealer.sign(at, text.as_bytes()).await?;
            note.sign(key, signature).map_err(SealRefused::BadSignature)?;
        }
        Ok(note)
    }

    async fn advance(&self, row: &AnchorRow) -> Result<(), SealRefused> {
        let Some(anchor) = self.anchor_of(row) else { return Ok(()) };
        let checkpoint = parse(row)?;
        let digest = step_digest(row.k, row.size, &checkpoint.body_hash());
        let AnchorRow { k, size, before, after, .. } = *row;
        anchor.advance(Step { k, size, root: checkpoint.root, digest, before, after }).await?;
        // If we stop here, start-up finds a pending row and the new value in the hardware, and confirms.
        Ok(())
    }

    async fn confirm(&self, row: AnchorRow) -> Result<StoredCheckpoint, SealRefused> {
        let (reading, attestation) = self.evidence(&row).await?;
        let entry = told(&row, &reading, attestation.as_ref());
        let confirmed = row.clone();
        let work = move |tx: &mut crate::Tx<'_>| {
            tx.confirm_anchor(confirmed.k, &reading, attestation.as_ref())?;
            Ok(Told::new((), entry.clone()))
        };
        let recorded = self.ledger.shared.write_with(Pass::Sealing, work).await?;
        // Our own entry needs no checkpoint of its own when nothing else lies between. What shares its commit does.
        let told = u64::from(recorded.seq() == row.size);
        self.ledger.shared.sealed(row.size + told);
        Ok(checkpoint_of(row))
    }

    /// What the hardware shows after the step, and its signed word about it.
    async fn evidence(&self, row: &AnchorRow) -> Result<(Reading, Option<Attestation>), SealRefused> {
        let Some(anchor) = self.anchor_of(row) else { return Ok((Reading::default(), None)) };
        let reading = anchor.read().await?;
        let found = reading.head.unwrap_or(UNWRITTEN);
        if found != row.after {
            return Err(self.freeze(Verdict::RolledBackOrForked { expected: row.after, found }));
        }
        let attestation = self.attested(anchor, &row.after, parse(row)?.body_hash()).await?;
        Ok((reading, attestation))
    }

    /// The hardware's signed word about `value`: about the same index and by the same key as the first one.
    async fn attested(
        &self,
        anchor: &dyn Anchor,
        value: &Hash,
        qualifying: Hash,
    ) -> Result<Option<Attestation>, SealRefused> {
        let Some(attestation) = anchor.attest(qualifying).await? else { return Ok(None) };
        let first = self.read(|view| view.first_attested()).await?;
        let index = match &first {
            Some(first) => Some(NvStatement::parse(&first.statement)?.index_name),
            None => None,
        };
        check_attestation(&attestation, index.as_deref(), value, &qualifying)?;
        match first {
            Some(FirstAttested { key: pinned, .. }) if pinned != attestation.key => {
                let name = |key: &[u8]| format!("the attestation key {}", hex::encode(sha256(&[key])));
                let (expected, found) = (name(&pinned), name(&attestation.key));
                Err(self.freeze(Verdict::ClearedOrReplaced { expected, found }))
            }
            _ => Ok(Some(attestation)),
        }
    }

    /// The anchor that a row was begun for; none for a checkpoint that is only signed.
    fn anchor_of(&self, row: &AnchorRow) -> Option<&dyn Anchor> {
        self.anchor.as_deref().filter(|_| row.tier != SIGNATURE_ONLY)
    }

    fn freeze(&self, verdict: Verdict) -> SealRefused {
        match verdict.freeze() {
            Some(freeze) => {
                self.ledger.shared.freeze(freeze.clone());
                SealRefused::Frozen(freeze)
            }
            None => SealRefused::Empty,
        }
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&View<'_>) -> Result<T, SqlFault> + Send + 'static,
    ) -> Result<T, ReadRefused<SqlFault>> {
        self.ledger.shared.read(work).await
    }
}

/// The entry that tells of a checkpoint is not worth a checkpoint of its own.
fn is_dirty(end: &LogEnd, last: &AnchorRow) -> bool {
    match end.size - last.size.min(end.size) {
        0 => false,
        1 => end.last_action != ANCHOR_ACTION,
        _ => true,
    }
}

/// The act of confirming a checkpoint.
const ANCHOR_ACTION: &str = "audit.anchor";

fn told(row: &AnchorRow, reading: &Reading, attestation: Option<&Attestation>) -> Entry {
    let mut detail = Detail::new()
        .with("k", row.k)
        .with("size", row.size)
        .with("tier", row.tier.as_str())
        .with("value", hex::encode(row.after));
    if !reading.identity.is_empty() {
        detail = detail.with("identity", hex::encode(&reading.identity));
    }
    if let Some(counter) = reading.counter {
        detail = detail.with("counter", counter);
    }
    if let Some(attestation) = attestation {
        detail = detail.with("attestation_sha256", hex::encode(sha256(&[&attestation.statement])));
        detail = detail.with("ak_sha256", hex::encode(sha256(&[&attestation.key])));
    }
    Entry::new(ANCHOR_ACTION).actor("system:sealing").object(format!("checkpoint/{}", row.k)).detail(detail)
}

fn parse(row: &AnchorRow) -> Result<Checkpoint, SealRefused> {
    let note = Note::parse(row.note.as_bytes()).map_err(SealRefused::BadSignature)?;
    let bad = NoteRefused::Malformed("the note of the step holds no checkpoint");
    Checkpoint::parse(note.text()).map_err(|_| SealRefused::BadSignature(bad))
}

fn checkpoint_of(row: AnchorRow) -> StoredCheckpoint {
    StoredCheckpoint { k: row.k, size: row.size, note: row.note, tier: row.tier }
}

impl std::fmt::Debug for Sealing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealing")
            .field("ledger", &self.ledger)
            .field("tier", &self.tier())
            .finish_non_exhaustive()
    }
}
