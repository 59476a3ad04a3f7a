//! Evidence as an export: a directory of plain files, or one archive of them, read file by file.
//! Who enters: `Source`, with a directory or an archive.
//! What leaves: leaves with their payloads, anchors and keys; at most one bundle of 256 entries in memory.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;

use crate::checkpoint::Checkpoint;
use crate::export::tiles::{TILE, tile_path, tile_width};
use crate::export::{AnchorFacts, AnchorLine, Index};
use crate::note::{Note, NoteKey};

use super::Evidence;
use super::source::{Unreadable, spki_of_pem};

/// One file of an export is at most this long: a bundle of 256 payloads of 256 KiB.
const FILE_BYTES_MAX: u64 = 72 * 1_024 * 1_024;

/// An export.
pub struct Export {
    pub(crate) files: Files,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) note: Note,
    anchors: BTreeMap<u64, AnchorLine>,
}

/// Where its files are.
pub(crate) enum Files {
    Directory(PathBuf),
    Archive { path: PathBuf, file: RefCell<File>, index: Index },
}

impl Export {
    /// The attestation key that came with it, SPKI DER.
    pub(crate) fn ak(&self) -> Result<Option<Vec<u8>>, Unreadable> {
        Ok(self.files.read("keys/ak.pem")?.and_then(|pem| spki_of_pem(&pem)))
    }

    pub(crate) fn open(files: Files) -> Result<Self, Unreadable> {
        let (note, checkpoint) = files.checkpoint()?;
        let anchors = anchor_lines(&files.require("anchors.jsonl")?)?;
        Ok(Self { files, checkpoint, note, anchors })
    }

    pub(crate) fn each<E>(
        &self,
        first: u64,
        mut visit: impl FnMut(Evidence<'_>) -> Result<(), E>,
    ) -> Result<Result<(), E>, Unreadable> {
        let size = self.checkpoint.size;
        for number in first / TILE..size.div_ceil(TILE) {
            let width = tile_width(number, size);
            let name = tile_path("tile/entries", number, width);
            let leaves = self.files.require(&name)?;
            let payloads = self.files.read(&tile_path("payload", number, width))?;
            let mut leaves = Fields { rest: &leaves, name: &name, prefix: 2 };
            let mut payloads = payloads.as_deref().map(|rest| Fields { rest, name: "payload", prefix: 4 });
            for place in 0..width {
                let leaf = leaves.next()?;
                let sealed = match &mut payloads {
                    Some(payloads) => Some((payloads.next()?, payloads.next()?)),
                    None => None,
                };
                if number * TILE + place < first {
                    continue;
                }
                if let Err(why) = visit(Evidence::Leaf(leaf, sealed)) {
                    return Ok(Err(why));
                }
            }
            if !leaves.rest.is_empty() {
                return Err(Unreadable::Export(format!("`{name}` is longer than its entries")));
            }
        }
        Ok(Ok(()))
    }

    pub(crate) fn anchor_after(&self, k: u64) -> Result<Option<AnchorFacts>, Unreadable> {
        match self.anchors.range(k + 1..).next() {
            Some((_, line)) => self.anchor_files(line.clone()).map(Some),
            None => Ok(None),
        }
    }

    fn anchor_files(&self, line: AnchorLine) -> Result<AnchorFacts, Unreadable> {
        let k = line.k;
        let note = self.files.require(&format!("checkpoints/{k:08}.note"))?;
        let note = String::from_utf8(note)
            .map_err(|_| Unreadable::Export(format!("checkpoint {k} is not UTF-8")))?;
        let proof = |ending: &str| match line.attested {
            true => self.files.require(&format!("anchors/{k:08}.{ending}")).map(Some),
            false => Ok(None),
        };
        let (statement, signature) = (proof("att")?, proof("sig")?);
        Ok(AnchorFacts { line, note, statement, signature, ak: None })
    }
}

fn anchor_lines(bytes: &[u8]) -> Result<BTreeMap<u64, AnchorLine>, Unreadable> {
    let bad = |why: String| Unreadable::Export(format!("`anchors.jsonl`: {why}"));
    let mut lines = BTreeMap::new();
    for line in std::str::from_utf8(bytes).map_err(|why| bad(why.to_string()))?.lines() {
        let line: AnchorLine = serde_json::from_str(line).map_err(|why| bad(why.to_string()))?;
        if let Some(twice) = lines.insert(line.k, line) {
            return Err(bad(format!("step {} stands in it twice", twice.k)));
        }
    }
    Ok(lines)
}

/// Length-prefixed fields, one after another.
struct Fields<'a> {
    rest: &'a [u8],
    name: &'a str,
    prefix: usize,
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<&'a [u8], Unreadable> {
        let field = self.rest.split_at_checked(self.prefix).and_then(|(length, rest)| {
            let length = length.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
            rest.split_at_checked(length)
        });
        let (field, rest) = field
            .ok_or_else(|| Unreadable::Export(format!("`{}` ends in the middle of an entry", self.name)))?;
        self.rest = rest;
        Ok(field)
    }
}

impl Files {
    /// What they are: an `export` or an `excerpt`, unpacked or packed.
    pub(crate) fn kind(&self, what: &'static str) -> &'static str {
        match (self, what) {
            (Self::Directory(_), "excerpt") => "excerpt directory",
            (Self::Archive { .. }, "excerpt") => "excerpt archive",
            (Self::Directory(_), _) => "export directory",
            (Self::Archive { .. }, _) => "export archive",
        }
    }

    /// The newest checkpoint.
    pub(crate) fn checkpoint(&self) -> Result<(Note, Checkpoint), Unreadable> {
        let checkpoint = self.require("checkpoint")?;
        let bad = |why: String| Unreadable::Export(format!("`checkpoint`: {why}"));
        let note = Note::parse(&checkpoint).map_err(|why| bad(why.to_string()))?;
        let checkpoint = Checkpoint::parse(note.text()).map_err(|why| bad(why.to_string()))?;
        Ok((note, checkpoint))
    }

    pub(crate) fn keys(&self) -> Result<Vec<NoteKey>, Unreadable> {
        let names = self.below("keys")?.into_iter().filter(|name| name.ends_with(".vkey"));
        let read = |name: String| {
            let bytes = self.require(&format!("keys/{name}"))?;
            let text = String::from_utf8_lossy(&bytes);
            text.trim().parse().map_err(|why| Unreadable::Export(format!("`keys/{name}`: {why}")))
        };
        names.map(read).collect()
    }

    pub(crate) fn require(&self, name: &str) -> Result<Vec<u8>, Unreadable> {
        self.read(name)?.ok_or_else(|| Unreadable::Export(format!("`{name}` is missing")))
    }

    pub(crate) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Unreadable> {
        let (path, result) = match self {
            Self::Directory(root) => {
                let path = root.join(name);
                let result = File::open(&path).and_then(bounded);
                (path, result)
            }
            Self::Archive { path, file, index } => {
                let Some((offset, length)) = index.find(name) else { return Ok(None) };
                let mut file = file.borrow_mut();
                let result =
                    file.seek(SeekFrom::Start(offset)).and_then(|_| bounded((&mut *file).take(length)));
                (path.clone(), result)
            }
        };
        match result {
            Ok(bytes) => Ok(Some(bytes)),
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Unreadable::File { path, source }),
        }
    }

    fn below(&self, directory: &str) -> Result<Vec<String>, Unreadable> {
        match self {
            Self::Archive { index, .. } => Ok(index.below(directory)),
            Self::Directory(root) => {
                let path = root.join(directory);
                let names = fs::read_dir(&path).and_then(|items| {
                    items
                        .map(|item| Ok(item?.file_name().to_string_lossy().into_owned()))
                        .collect::<io::Result<Vec<_>>>()
                });
                let mut names = names.map_err(|source| Unreadable::File { path, source })?;
                names.sort();
                Ok(names)
            }
        }
    }
}

fn bounded(file: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is longer than a file of an export can be",
        ));
    }
    Ok(bytes)
}
