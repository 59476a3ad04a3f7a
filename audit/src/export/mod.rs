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
use crate::entry::Workspace;
use crate::fault::SqlFault;
use crate::leaf::length_prefixed;
use crate::ledger::Ledger;
use crate::note::NoteKey;
use crate::proving::{NoProof, StoredCheckpoint};
use crate::refused::ReadRefused;
use crate::rows::{self, ROWS, Stopped};
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

/// Puts what is wanted of that which the newest confirmed checkpoint covers on `shelf`, and gives the shelf back. Reads one
/// snapshot; writing goes on meanwhile. `keys` are those of the sealer.
///
/// # Errors
/// Nothing is sealed, there is no such range, the log does not verify, or ledger or shelf did not do their part.
pub async fn export<S: Shelf + Send + 'static>(
    ledger: &Ledger,
    keys: &[NoteKey],
    wanted: Wanted,
    mut shelf: S,
) -> Result<(Exported, S), ReadRefused<ExportRefused>> {
    let (origin, keys) = (ledger.origin().to_owned(), keys.to_vec());
    ledger
        .read(move |view| {
            let exported = match wanted == Wanted::default() {
                true => whole(view, &origin, &keys, &mut shelf),
                false => excerpt::write(view, &origin, &keys, &wanted, &mut shelf),
            };
            Ok((exported?, shelf))
        })
        .await
}

fn whole(
    view: &View<'_>,
    origin: &str,
    keys: &[NoteKey],
    shelf: &mut dyn Shelf,
) -> Result<Exported, ExportRefused> {
    let last = view.latest_checkpoint()?.ok_or(ExportRefused::NothingSealed)?;
    write_entries(view, origin, last.size, shelf)?;
    let ak = write_anchors(view, shelf)?;
    write_keys(origin, keys, shelf)?;
    if let Some(ak) = &ak {
        shelf.put("keys/ak.pem", readme::pem(ak).as_bytes())?;
    }
    shelf.put("checkpoint", last.note.as_bytes())?;
    let StoredCheckpoint { k, size, .. } = last;
    shelf.put("README.md", readme::text(origin, size, k, ak.is_some()).as_bytes())?;
    Ok(Exported { entries: size, size, left_behind: view.size()?.saturating_sub(size), checkpoints: k })
}

/// The places into which entries are written.
struct Shelves<'s> {
    shelf: &'s mut dyn Shelf,
    walk: Walk,
    hashes: HashTiles,
    entries: TileWriter,
    payloads: TileWriter,
    size: u64,
}

enum Halt {
    Full,
    Refused(ExportRefused),
}

fn write_entries(
    view: &View<'_>,
    origin: &str,
    size: u64,
    shelf: &mut dyn Shelf,
) -> Result<(), ExportRefused> {
    let mut shelves = Shelves {
        shelf,
        walk: Walk::genesis(origin),
        hashes: HashTiles::default(),
        entries: TileWriter::new("tile/entries"),
        payloads: TileWriter::new("payload"),
        size,
    };
    let mut all = view.session.own(ROWS)?;
    match rows::each(&mut all, 0, |row| shelves.take(row)) {
        Ok(()) | Err(Stopped::By(Halt::Full)) => {}
        Err(Stopped::By(Halt::Refused(refused))) => return Err(refused),
        Err(Stopped::Malformed(finding)) => return Err(finding.into()),
        Err(Stopped::Fault(fault)) => return Err(fault.into()),
    }
    let Shelves { shelf, mut hashes, mut entries, mut payloads, .. } = shelves;
    hashes.flush(shelf)?;
    entries.flush(shelf)?;
    Ok(payloads.flush(shelf)?)
}

impl Shelves<'_> {
    fn take(&mut self, row: &RowBytes<'_>) -> Result<(), Halt> {
        if self.walk.tip().size() == self.size {
            return Err(Halt::Full);
        }
        self.shelve(row).map_err(Halt::Refused)
    }

    fn shelve(&mut self, row: &RowBytes<'_>) -> Result<(), ExportRefused> {
        let Self { shelf, walk, hashes, entries, payloads, .. } = self;
        let mut written = Ok(());
        walk.row(row, |height, _, hash| {
            if written.is_ok() {
                written = hashes.completed(*shelf, height, hash);
            }
        })?;
        written?;
        let length = u16::try_from(row.leaf.len()).map_err(io::Error::other)?;
        entries.push(*shelf, |bytes| {
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(row.leaf);
        })?;
        payloads.push(*shelf, |bytes| {
            length_prefixed(bytes, row.salt);
            length_prefixed(bytes, row.payload);
        })?;
        Ok(())
    }
}

/// Writes checkpoints, attestations and the list of anchors; gives back the attestation key.
fn write_anchors(view: &View<'_>, shelf: &mut dyn Shelf) -> Result<Option<Vec<u8>>, ExportRefused> {
    let mut lines = String::new();
    let mut ak = None;
    let mut k = 0;
    while let Some(anchor) = view.anchor_after(k)? {
        k = anchor.line.k;
        shelf.put(&format!("checkpoints/{k:08}.note"), anchor.note.as_bytes())?;
        if let (Some(statement), Some(signature)) = (&anchor.statement, &anchor.signature) {
            shelf.put(&format!("anchors/{k:08}.att"), statement)?;
            shelf.put(&format!("anchors/{k:08}.sig"), signature)?;
        }
        lines += &serde_json::to_string(&anchor.line).map_err(io::Error::from)?;
        lines.push('\n');
        ak = ak.or(anchor.ak);
    }
    shelf.put("anchors.jsonl", lines.as_bytes())?;
    Ok(ak)
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
    fn anchor_after(&self, k: u64) -> Result<Option<AnchorFacts>, SqlFault> {
        let mut find = self.session.own(ANCHOR_AFTER)?;
        find.raw_bind_parameter(1, signed(k))?;
        let mut rows = find.raw_query();
        rows.next()?.map(anchor_facts).transpose()
    }
}
