//! Excerpts: a range of entries, or one workspace's own, each with its path to the newest checkpoint.
//! Who enters: the export, when not everything is wanted.
//! What leaves: entries that prove themselves one by one. Of all others nothing but hashes, which salted commitments keep from
//! being guessed, and their number.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::readme;
use super::shelf::Shelf;
use super::{ExportRefused, Exported, Wanted, root_of, write_keys};
use crate::check::check_stored;
use crate::leaf::{Hash, leaf_hash};
use crate::ledger::Ledger;
use crate::merkle;
use crate::note::NoteKey;
use crate::paths::Paths;
use crate::proving::{NoProof, StoredCheckpoint, StoredTree};
use crate::query::{EntryFilter, EntryScope, StoredEntry};
use crate::refused::ReadRefused;
use crate::tx::View;

/// What the excerpt says of itself.
pub(crate) const ABOUT: &str = "excerpt.json";
/// A file of entries ends with the one that fills it.
const FILE_BYTES_MAX: usize = 1 << 20;

/// What an excerpt says of itself: `excerpt.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct About {
    /// Whose entries; absent for everybody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workspace: Option<String>,
    /// The first number of the range.
    pub(crate) from: u64,
    /// The last number of the range.
    pub(crate) to: u64,
    /// How many entries are shown.
    pub(crate) entries: u64,
    /// In how many files.
    pub(crate) files: u64,
}

/// One line of an entry file, all of it base64: a receipt without its checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    pub(crate) leaf: String,
    pub(crate) salt: String,
    pub(crate) payload: String,
    /// Hashes from leaf to root (RFC 6962, 2.1.1).
    pub(crate) path: Vec<String>,
}

/// The name of a file of entries.
pub(crate) fn file_name(number: u64) -> String {
    format!("entries/{number:08}.jsonl")
}

/// An excerpt on its way.
struct Excerpting<S> {
    shelf: S,
    about: About,
    filter: EntryFilter,
    last: StoredCheckpoint,
    root: Hash,
    file: Vec<u8>,
    done: bool,
}

pub(super) async fn write<S: Shelf + Send + 'static>(
    ledger: &Ledger,
    origin: &str,
    keys: &[NoteKey],
    wanted: &Wanted,
    last: StoredCheckpoint,
    shelf: S,
) -> Result<(Exported, S), ReadRefused<ExportRefused>> {
    let about = wanted.about(last.size).map_err(ReadRefused::Rejected)?;
    let root = root_of(&last.note).ok_or(NoProof::Contradiction(last.size));
    let root = root.map_err(|why| ReadRefused::Rejected(why.into()))?;
    let filter = wanted.filter();
    let mut excerpt = Excerpting { shelf, about, filter, last, root, file: Vec::new(), done: false };
    while !excerpt.done {
        excerpt = ledger.read(move |view| excerpt.page(view)).await?;
    }
    let (origin, keys) = (origin.to_owned(), keys.to_vec());
    ledger.read(move |view| excerpt.end(view, &origin, &keys)).await
}

impl<S: Shelf> Excerpting<S> {
    /// Writes the entries of one page more, from one snapshot.
    fn page(mut self, view: &View<'_>) -> Result<Self, ExportRefused> {
        let prover =
            Prover { paths: Paths::over(StoredTree(view.session)), size: self.last.size, root: self.root };
        let page = view.entries(&self.filter)?;
        let Some(newest) = page.last().map(|entry| entry.seq) else {
            self.done = true;
            return Ok(self);
        };
        for entry in page {
            if entry.seq > self.about.to {
                self.done = true;
                return Ok(self);
            }
            check_stored(&entry)?;
            self.push(&prover.line(&entry)?)?;
        }
        self.filter.after_seq = Some(newest);
        Ok(self)
    }

    fn push(&mut self, line: &Line) -> io::Result<()> {
        serde_json::to_writer(&mut self.file, line)?;
        self.file.push(b'\n');
        self.about.entries += 1;
        if self.file.len() >= FILE_BYTES_MAX { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.file.is_empty() {
            self.shelf.put(&file_name(self.about.files), &self.file)?;
            self.about.files += 1;
            self.file.clear();
        }
        Ok(())
    }

    fn end(
        mut self,
        view: &View<'_>,
        origin: &str,
        keys: &[NoteKey],
    ) -> Result<(Exported, S), ExportRefused> {
        self.flush()?;
        let Self { mut shelf, about, last, .. } = self;
        shelf.put(ABOUT, &serde_json::to_vec(&about).map_err(io::Error::from)?)?;
        shelf.put("checkpoint", last.note.as_bytes())?;
        write_keys(origin, keys, &mut shelf)?;
        shelf.put("README.md", readme::of_excerpt(origin, &about, last.size).as_bytes())?;
        let left_behind = view.size()?.saturating_sub(last.size);
        Ok((Exported { entries: about.entries, size: last.size, left_behind, checkpoints: 1 }, shelf))
    }
}

impl Wanted {
    fn about(&self, size: u64) -> Result<About, ExportRefused> {
        let (from, to) = (self.from.unwrap_or(0), self.to.unwrap_or(size.saturating_sub(1)));
        if from > to || to >= size {
            return Err(ExportRefused::NoSuchRange { from, to, size });
        }
        let workspace = self.workspace.as_ref().map(|workspace| workspace.as_str().to_owned());
        Ok(About { workspace, from, to, entries: 0, files: 0 })
    }

    fn filter(&self) -> EntryFilter {
        let scope = self.workspace.clone().map_or(EntryScope::Everything, EntryScope::Workspace);
        let after_seq = self.from.and_then(|from| from.checked_sub(1));
        EntryFilter { scope, after_seq, ..EntryFilter::default() }
    }
}

struct Prover<'s> {
    paths: Paths<'s>,
    size: u64,
    root: Hash,
}

impl Prover<'_> {
    /// Never puts down what its reader would have to refuse: it would look like our forgery.
    fn line(&self, entry: &StoredEntry) -> Result<Line, NoProof> {
        let path = self.paths.inclusion(entry.seq, self.size)?;
        if !merkle::check_inclusion(&leaf_hash(&entry.leaf), entry.seq, self.size, &path, &self.root) {
            return Err(NoProof::Contradiction(self.size));
        }
        Ok(Line {
            leaf: STANDARD.encode(&entry.leaf),
            salt: STANDARD.encode(&entry.salt),
            payload: STANDARD.encode(&entry.payload),
            path: path.iter().map(|hash| STANDARD.encode(hash)).collect(),
        })
    }
}
