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
use super::{ExportRefused, Exported, Wanted, write_keys};
use crate::checkpoint::Checkpoint;
use crate::leaf::{Hash, leaf_hash};
use crate::merkle;
use crate::note::{Note, NoteKey};
use crate::paths::Paths;
use crate::proving::{NoProof, StoredCheckpoint, StoredTree};
use crate::query::{EntryFilter, EntryScope, StoredEntry};
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

pub(super) fn write(
    view: &View<'_>,
    origin: &str,
    keys: &[NoteKey],
    wanted: &Wanted,
    shelf: &mut dyn Shelf,
) -> Result<Exported, ExportRefused> {
    let last = view.latest_checkpoint()?.ok_or(ExportRefused::NothingSealed)?;
    let mut about = wanted.about(last.size)?;
    let mut lines = Lines { shelf, file: Vec::new(), files: 0, entries: 0 };
    let prover = Prover { paths: Paths::over(StoredTree(view.session)), size: last.size, root: root(&last)? };
    let mut filter = wanted.filter();
    'pages: loop {
        let page = view.entries(&filter)?;
        let Some(newest) = page.last().map(|entry| entry.seq) else { break };
        for entry in page {
            if entry.seq > about.to {
                break 'pages;
            }
            lines.push(&prover.line(&entry)?)?;
        }
        filter.after_seq = Some(newest);
    }
    (about.entries, about.files) = lines.end()?;
    shelf.put(ABOUT, &serde_json::to_vec(&about).map_err(io::Error::from)?)?;
    shelf.put("checkpoint", last.note.as_bytes())?;
    write_keys(origin, keys, shelf)?;
    shelf.put("README.md", readme::of_excerpt(origin, &about, last.size).as_bytes())?;
    let left_behind = view.size()?.saturating_sub(last.size);
    Ok(Exported { entries: about.entries, size: last.size, left_behind, checkpoints: 1 })
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

/// The root that the checkpoint signs.
fn root(last: &StoredCheckpoint) -> Result<Hash, NoProof> {
    let note = Note::parse(last.note.as_bytes()).ok();
    let checkpoint = note.and_then(|note| Checkpoint::parse(note.text()).ok());
    checkpoint.map(|it| it.root).ok_or(NoProof::Contradiction(last.size))
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

/// Lines on their way into files.
struct Lines<'s> {
    shelf: &'s mut dyn Shelf,
    file: Vec<u8>,
    files: u64,
    entries: u64,
}

impl Lines<'_> {
    fn push(&mut self, line: &Line) -> io::Result<()> {
        serde_json::to_writer(&mut self.file, line)?;
        self.file.push(b'\n');
        self.entries += 1;
        if self.file.len() >= FILE_BYTES_MAX { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.file.is_empty() {
            self.shelf.put(&file_name(self.files), &self.file)?;
            self.files += 1;
            self.file.clear();
        }
        Ok(())
    }

    /// How many entries in how many files.
    fn end(mut self) -> io::Result<(u64, u64)> {
        self.flush()?;
        Ok((self.entries, self.files))
    }
}
