//! The start: look at the ledger, ask the hardware, judge, finish what was begun, count the start, open.
//! Who enters: the gateway, once, before anything may write.
//! What leaves: an open ledger with its first entry of this life, or a frozen one and the reason in words.

use crate::entry::{Detail, Entry};
use crate::export::ExportRefused;
use crate::fault::SqlFault;
use crate::hardware::{HardwareFault, Reading};
use crate::job::Pass;
use crate::leaf::sha256;
use crate::note::NoteKey;
use crate::proving::NoProof;
use crate::refused::{Freeze, ReadRefused, WriteRefused};
use crate::told::Told;
use crate::tx::View;

use super::examine::{Examination, Tail, Unwell, altered, examine_newest};
use super::verdict::{Memory, Verdict, judge};
use super::{SealRefused, Sealing};

/// The ledger is open, and this is how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// What the two memories said; `None` without an anchor.
    pub verdict: Option<Verdict>,
    /// Entries that no checkpoint covered when the process ended. Nobody can say whether there were more.
    pub tail_rows: u64,
    /// The start counter, where there is one.
    pub counter: Option<u64>,
}

/// Why the ledger did not open for writing.
#[derive(Debug, thiserror::Error)]
pub enum RecoverRefused {
    /// It does not agree with itself or its hardware; it is frozen and still reads.
    #[error("{0}")]
    Frozen(Freeze),
    /// The hardware did not answer; call again.
    #[error("the hardware did not answer")]
    Hardware(#[from] HardwareFault),
    /// A step that was begun could not be finished; call again.
    #[error("a seal that was begun could not be finished")]
    Seal(#[from] SealRefused),
    /// The ledger could not be read.
    #[error("the ledger cannot be read")]
    Read(#[from] ReadRefused<SqlFault>),
    /// The ledger did not take the row.
    #[error("the ledger did not take the row")]
    Write(#[from] WriteRefused<SqlFault>),
}

impl Sealing {
    /// Vouches for the ledger and opens it for writing, or freezes it. Called once at start; again after
    /// the hardware did not answer.
    pub async fn recover(&self) -> Result<Recovered, RecoverRefused> {
        let _turn = self.turn.lock().await;
        let tail = self.examine(examine_newest).await?;
        let (verdict, reading) = self.judged().await?;
        if let Some(freeze) = verdict.as_ref().and_then(Verdict::freeze) {
            return Err(self.frozen(freeze));
        }
        self.finish_pending().await?;
        self.same_hardware().await?;
        let counter = self.count_start(&reading, &verdict, tail).await?;
        let sealed = self.read(|view| Ok(view.last_anchor()?.map_or(0, |row| row.size))).await?;
        self.ledger.shared.sealed(sealed);
        self.ledger.shared.open_for_writes();
        Ok(Recovered { verdict, tail_rows: tail.rows, counter })
    }

    /// Looks at every entry and every seal, not only the newest; freezes the ledger on the first that does not agree.
    /// Meant to run in the background, again and again, and before an export; takes about a second per million entries.
    /// What is written meanwhile is for the next time.
    pub async fn examine_everything(&self) -> Result<(), RecoverRefused> {
        let mut examination = self.examine(Examination::begin).await?;
        while !examination.is_done() {
            examination = self.examine(move |view, _, _| examination.go_on(view)).await?;
        }
        Ok(())
    }

    /// Freezes the ledger if an export did not come about because of what it found in it, and says why.
    pub fn freeze_for(&self, refused: &ExportRefused) -> Option<Freeze> {
        let freeze = match refused {
            ExportRefused::Finding(finding) => altered(finding),
            ExportRefused::NoProof(why @ (NoProof::Hole { .. } | NoProof::Contradiction(_))) => altered(why),
            _ => return None,
        };
        self.ledger.shared.freeze(freeze.clone());
        Some(freeze)
    }

    async fn examine<T: Send + 'static>(
        &self,
        look: impl FnOnce(&View<'_>, &str, &[NoteKey]) -> Result<T, Unwell> + Send + 'static,
    ) -> Result<T, RecoverRefused> {
        let (origin, keys) = (self.ledger.origin().to_owned(), self.sealer.keys().to_vec());
        let looked = self.ledger.shared.read(move |view| look(view, &origin, &keys)).await;
        match looked {
            Ok(seen) => Ok(seen),
            Err(ReadRefused::Rejected(Unwell::Freeze(freeze))) => Err(self.frozen(freeze)),
            Err(ReadRefused::Rejected(Unwell::Fault(fault))) => Err(ReadRefused::Rejected(fault).into()),
            Err(ReadRefused::Failed(fault)) => Err(ReadRefused::Failed(fault).into()),
            Err(ReadRefused::Overloaded) => Err(ReadRefused::Overloaded.into()),
            Err(ReadRefused::Panicked) => Err(ReadRefused::Panicked.into()),
            Err(ReadRefused::Closed) => Err(ReadRefused::Closed.into()),
        }
    }

    async fn judged(&self) -> Result<(Option<Verdict>, Reading), RecoverRefused> {
        let Some(anchor) = &self.anchor else {
            return match self.read(|view| Ok(view.pending_step()?.or(view.last_step()?))).await? {
                None => Ok((None, Reading::default())),
                // A ledger that once had an anchor does not quietly go on without one.
                Some(step) => Err(self.frozen(anchor_taken_away(&step.tier))),
            };
        };
        let reading = anchor.read().await?;
        let asked = reading.clone();
        let memory: Memory = self.read(move |view| view.memory(&asked)).await?;
        Ok((Some(judge(&memory, &reading)), reading))
    }

    /// An index with the right value can be made again on another TPM; its attestation key cannot.
    async fn same_hardware(&self) -> Result<(), RecoverRefused> {
        let Some(anchor) = self.anchor.as_deref() else { return Ok(()) };
        let reading = anchor.read().await?;
        let Some(value) = reading.head else { return Ok(()) };
        let now = self.ledger.shared.clock.unix_us().to_be_bytes();
        let qualifying = sha256(&[b"chancery.audit.start.v1\n", &now, &value]);
        match self.attested(anchor, &value, qualifying).await {
            Ok(_) => Ok(()),
            Err(SealRefused::Frozen(freeze)) => Err(RecoverRefused::Frozen(freeze)),
            Err(other) => Err(other.into()),
        }
    }

    /// Intent, increment, confirmation: the same order as a seal, so that a crash between any two is understood.
    async fn count_start(
        &self,
        reading: &Reading,
        verdict: &Option<Verdict>,
        tail: Tail,
    ) -> Result<Option<u64>, RecoverRefused> {
        let (number, counted) = self.begin_start(reading).await?;
        let counter = match (&self.anchor, counted) {
            (Some(anchor), false) => anchor.count_start().await?,
            _ => reading.counter,
        };
        // If we stop here, start-up finds a pending start and a counter one ahead, and counts on from there.
        let mut detail = Detail::new()
            .with("tail_rows", tail.rows)
            .with("verdict", verdict.as_ref().map_or("no anchor", Verdict::as_str));
        if let Some(counter) = counter {
            detail = detail.with("counter", counter);
        }
        let entry = Entry::new("audit.start")
            .actor("system:sealing")
            .object(format!("start/{number}"))
            .detail(detail);
        let work = move |tx: &mut crate::Tx<'_>| {
            tx.confirm_start(number, counter)?;
            Ok(Told::new((), entry.clone()))
        };
        self.ledger.shared.write_with(Pass::Sealing, work).await?;
        Ok(counter)
    }

    /// The number of this start, and whether the hardware has counted it already: a start that was interrupted
    /// after its increment is this one.
    async fn begin_start(&self, reading: &Reading) -> Result<(u64, bool), RecoverRefused> {
        let (recorded, pending) = self.read(|view| view.starts()).await?;
        if let Some(number) = pending {
            let counted = matches!((recorded, reading.counter), (Some(old), Some(now)) if now > old);
            return Ok((number, counted));
        }
        let counter = reading.counter;
        let work = move |tx: &mut crate::Tx<'_>| tx.begin_start(counter);
        Ok(self.ledger.shared.write_unaudited_with(Pass::Sealing, work).await?).map(|number| (number, false))
    }

    fn frozen(&self, freeze: Freeze) -> RecoverRefused {
        self.ledger.shared.freeze(freeze.clone());
        RecoverRefused::Frozen(freeze)
    }
}

fn anchor_taken_away(tier: &str) -> Freeze {
    Freeze {
        what: "this ledger is sealed to an anchor".to_owned(),
        expected: format!("the anchor of kind {tier}"),
        found: "a configuration without an anchor".to_owned(),
        advice: "configure the anchor again, or open a new log in a restore ceremony".to_owned(),
    }
}
