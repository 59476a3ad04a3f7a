//! The room from which the log leaves the house: plain files that public tools can check, in a directory or an archive.
//! Who enters: the audit service, for a security team.
//! What leaves: the whole log as tiles, entries, payloads, checkpoints and anchors; or an excerpt of it; each with keys, a policy,
//! and a page that says how to check it.

pub(crate) mod excerpt;
mod readme;
mod shelf;
mod tar;
pub(crate) mod tiles;

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::append::signed;
use crate::check::{Finding, RowBytes, Walk};
use crate::checkpoint::Checkpoint;
use crate::entry::Workspace;
use crate::fault::SqlFault;
use crate::leaf::{Hash, length_prefixed};
use crate::ledger::Ledger;
use crate::note::{Note, NoteKey};
use crate::proving::{NoProof, StoredCheckpoint};
use crate::refused::ReadRefused;
use crate::rows::{self, ROWS, Stopped};
use crate::sealing::examine::ROWS_AT_ONCE;
use crate::tx::View;
use tiles::{HashTiles, TileWriter};

pub use shelf::{Archive, Folder, Shelf};
pub(crate) use tar::Index;
pub use tar::pack;

/// What is to be exported. Nothing named is the whole log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Only the entries of this workspace, and nothing of any other.
    pub workspace: Option<Workspace>,
    /// From this entry on.
    pub from: Option<u64>,
    /// Up to this entry, itself included.
    pub to: Option<u64>,
}

/// What an export contains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Entries in it: all that the newest confirmed checkpoint covers, or as many as the excerpt shows.
    pub entries: u64,
    /// Entries that its checkpoint covers.
    pub size: u64,
    /// Entries beyond it, which stay behind until the next checkpoint.
    pub left_behind: u64,
    /// Checkpoints.
    pub checkpoints: u64,
}

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
pub enum ExportRefused {
    /// Seal first.
    #[error("there is no confirmed checkpoint yet; seal the ledger, then export")]
    NothingSealed,
    /// Ask for entries that a checkpoint covers.
    #[error("there are no entries {from} to {to}: the newest checkpoint covers {size}")]
    NoSuchRange {
        /// The first one asked for.
        from: u64,
        /// The last one asked for.
        to: u64,
        /// What is covered.
        size: u64,
    },
    /// The directory must be new, so that nothing of an older export stays in it.
    #[error("{0} exists already; name a new directory")]
    Exists(PathBuf),
    /// The log does not verify. Keep the ledger file itself as evidence.
    #[error("the log does not verify and is not exported; keep a copy of the ledger file as evidence")]
    Finding(#[from] Finding),
    /// A file could not be written.
    #[error("a file of the export could not be written")]
    File(#[from] io::Error),
    /// The ledger could not be read.
    #[error("the ledger cannot be read")]
    Fault(#[from] SqlFault),
    /// There is no proof for an entry of an excerpt.
    #[error("an entry of the excerpt cannot be proven")]
    NoProof(#[from] NoProof),
}

/// One line of `anchors.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AnchorLine {
    pub(crate) k: u64,
    pub(crate) size: u64,
    pub(crate) tier: String,
    pub(crate) before: String,
    pub(crate) after: String,
    pub(crate) counter: Option<u64>,
    pub(crate) identity: Option<String>,
    pub(crate) attested: bool,
}

/// Puts what is wanted of that which the newest confirmed checkpoint covers on `shelf`, and gives the shelf back. Reads
/// some rows at a time, each part in a snapshot of its own, since a long one would keep the write-ahead log from ever
/// beginning anew; the log only grows, so a later snapshot shows the same. `keys` are those of the sealer.
///
/// # Errors
/// Nothing is sealed, there is no such range, the log does not verify, or ledger or shelf did not do their part.
pub async fn export<S: Shelf + Send + 'static>(
    ledger: &Ledger,
    keys: &[NoteKey],
    wanted: Wanted,
    shelf: S,
) -> Result<(Exported, S), ReadRefused<ExportRefused>> {
    let origin = ledger.origin().to_owned();
    let newest = |view: &View<'_>| view.latest_checkpoint()?.ok_or(ExportRefused::NothingSealed);
    let last = ledger.read(newest).await?;
    match wanted == Wanted::default() {
        true => whole(ledger, WholeExport::new(origin, last, shelf), keys).await,
        false => excerpt::write(ledger, &origin, keys, &wanted, last, shelf).await,
    }
}

async fn whole<S: Shelf + Send + 'static>(
    ledger: &Ledger,
    mut export: WholeExport<S>,
    keys: &[NoteKey],
) -> Result<(Exported, S), ReadRefused<ExportRefused>> {
    while export.walk.tip().size() < export.last.size {
        export = ledger.read(move |view| export.entries(view)).await?;
    }
    while export.steps < export.last.k {
        export = ledger.read(move |view| export.steps(view)).await?;
    }
    let keys = keys.to_vec();
    ledger.read(move |view| export.end(view, &keys)).await
}

/// Steps of the anchor that are written in one snapshot.
const STEPS_AT_ONCE: u64 = 256;

/// A whole export on its way.
struct WholeExport<S> {
    shelf: S,
    origin: String,
    /// The checkpoint that it shows; what lies beyond stays behind.
    last: StoredCheckpoint,
    walk: Walk,
    hashes: HashTiles,
    leaves: TileWriter,
    payloads: TileWriter,
    /// The newest step that was written.
    steps: u64,
    lines: String,
    ak: Option<Vec<u8>>,
}

enum Halt {
    Enough,
    Refused(ExportRefused),
}

impl<S: Shelf> WholeExport<S> {
    fn new(origin: String, last: StoredCheckpoint, shelf: S) -> Self {
        Self {
            shelf,
            walk: Walk::genesis(&origin),
            origin,
            last,
            hashes: HashTiles::default(),
            leaves: TileWriter::new("tile/entries"),
            payloads: TileWriter::new("payload"),
            steps: 0,
            lines: String::new(),
            ak: None,
        }
    }

    /// Writes some entries more.
    fn entries(mut self, view: &View<'_>) -> Result<Self, ExportRefused> {
        let first = self.walk.tip().size();
        let until = self.last.size.min(first + ROWS_AT_ONCE);
        let mut all = view.session.own(ROWS)?;
        let taken = rows::each(&mut all, first, |row| match self.walk.tip().size() == until {
            true => Err(Halt::Enough),
            false => self.entry(row).map_err(Halt::Refused),
        });
        match taken {
            Ok(()) | Err(Stopped::By(Halt::Enough)) => {}
            Err(Stopped::By(Halt::Refused(refused))) => return Err(refused),
            Err(Stopped::Malformed(finding)) => return Err(finding.into()),
            Err(Stopped::Fault(fault)) => return Err(fault.into()),
        }
        match self.walk.tip().size() {
            size if size == until => Ok(self),
            found => Err(Finding::Gap { expected: found, found: self.last.size }.into()),
        }
    }

    fn entry(&mut self, row: &RowBytes<'_>) -> Result<(), ExportRefused> {
        let Self { shelf, walk, hashes, leaves, payloads, .. } = self;
        let mut written = Ok(());
        walk.row(row, |height, _, hash| {
            if written.is_ok() {
                written = hashes.completed(shelf, height, hash);
            }
        })?;
        written?;
        let length = u16::try_from(row.leaf.len()).map_err(io::Error::other)?;
        leaves.push(shelf, |bytes| {
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(row.leaf);
        })?;
        payloads.push(shelf, |bytes| {
            length_prefixed(bytes, row.salt);
            length_prefixed(bytes, row.payload);
        })?;
        Ok(())
    }

    /// Writes checkpoints and attestations of some steps more, none of them later than the checkpoint that is shown.
    fn steps(mut self, view: &View<'_>) -> Result<Self, ExportRefused> {
        for _ in 0..STEPS_AT_ONCE.min(self.last.k - self.steps) {
            let next = view.anchor_after(self.steps)?.filter(|anchor| anchor.line.k == self.steps + 1);
            let missing = || Finding::Seal(format!("checkpoint {} is missing", self.steps + 1));
            let anchor = next.ok_or_else(missing)?;
            let k = anchor.line.k;
            self.shelf.put(&format!("checkpoints/{k:08}.note"), anchor.note.as_bytes())?;
            if let (Some(statement), Some(signature)) = (&anchor.statement, &anchor.signature) {
                self.shelf.put(&format!("anchors/{k:08}.att"), statement)?;
                self.shelf.put(&format!("anchors/{k:08}.sig"), signature)?;
            }
            self.lines += &serde_json::to_string(&anchor.line).map_err(io::Error::from)?;
            self.lines.push('\n');
            self.ak = self.ak.or(anchor.ak);
            self.steps = k;
        }
        Ok(self)
    }

    /// Writes what is left: the last tiles, the list of steps, the keys, and the page that says how to check it.
    fn end(mut self, view: &View<'_>, keys: &[NoteKey]) -> Result<(Exported, S), ExportRefused> {
        let StoredCheckpoint { k, size, note, .. } = self.last;
        let signed = root_of(&note).ok_or(NoProof::Contradiction(size))?;
        if signed != self.walk.tip().frontier.root() {
            return Err(NoProof::Contradiction(size).into());
        }
        let shelf = &mut self.shelf;
        self.hashes.flush(shelf)?;
        self.leaves.flush(shelf)?;
        self.payloads.flush(shelf)?;
        shelf.put("anchors.jsonl", self.lines.as_bytes())?;
        write_keys(&self.origin, keys, shelf)?;
        if let Some(ak) = &self.ak {
            shelf.put("keys/ak.pem", readme::pem(ak).as_bytes())?;
        }
        shelf.put("checkpoint", note.as_bytes())?;
        shelf.put("README.md", readme::text(&self.origin, size, k, self.ak.is_some()).as_bytes())?;
        let left_behind = view.size()?.saturating_sub(size);
        Ok((Exported { entries: size, size, left_behind, checkpoints: k }, self.shelf))
    }
}

/// The root that a stored checkpoint signs.
fn root_of(note: &str) -> Option<Hash> {
    let note = Note::parse(note.as_bytes()).ok()?;
    Checkpoint::parse(note.text()).ok().map(|checkpoint| checkpoint.root)
}

fn write_keys(origin: &str, keys: &[NoteKey], shelf: &mut dyn Shelf) -> io::Result<()> {
    let mut policy = String::new();
    for (at, key) in keys.iter().enumerate() {
        shelf.put(&format!("keys/{at}.vkey"), format!("{key}\n").as_bytes())?;
        // Public policies know one name per log; the hardware line has its own rule in chancery-audit.
        if key.name() == origin {
            policy += &format!("log {key}\n");
        }
    }
    shelf.put("policy", format!("{policy}quorum none\n").as_bytes())
}

/// An anchor with all that proves it.
#[derive(Debug, Clone)]
pub(crate) struct AnchorFacts {
    pub(crate) line: AnchorLine,
    pub(crate) note: String,
    pub(crate) statement: Option<Vec<u8>>,
    pub(crate) signature: Option<Vec<u8>>,
    pub(crate) ak: Option<Vec<u8>>,
}

/// The next confirmed anchor; shared with the verifier of database files.
pub(crate) const ANCHOR_AFTER: &str = "SELECT k, size, tier, before, after, counter, identity, note, statement, \
    signature, ak FROM anchor WHERE state = 'confirmed' AND k > ?1 ORDER BY k LIMIT 1";

pub(crate) fn anchor_facts(row: &rusqlite::Row<'_>) -> Result<AnchorFacts, SqlFault> {
    let (k, size): (i64, i64) = (row.get(0)?, row.get(1)?);
    let (before, after): (Vec<u8>, Vec<u8>) = (row.get(3)?, row.get(4)?);
    let statement: Option<Vec<u8>> = row.get(8)?;
    Ok(AnchorFacts {
        line: AnchorLine {
            k: k.cast_unsigned(),
            size: size.cast_unsigned(),
            tier: row.get(2)?,
            before: hex::encode(before),
            after: hex::encode(after),
            counter: row.get::<_, Option<i64>>(5)?.map(i64::cast_unsigned),
            identity: row.get::<_, Option<Vec<u8>>>(6)?.map(hex::encode),
            attested: statement.is_some(),
        },
        note: row.get(7)?,
        statement,
        signature: row.get(9)?,
        ak: row.get(10)?,
    })
}

impl View<'_> {
    /// The next confirmed step after `k`.
    pub(crate) fn anchor_after(&self, k: u64) -> Result<Option<AnchorFacts>, SqlFault> {
        let mut find = self.session.own(ANCHOR_AFTER)?;
        find.raw_bind_parameter(1, signed(k))?;
        let mut rows = find.raw_query();
        rows.next()?.map(anchor_facts).transpose()
    }
}
