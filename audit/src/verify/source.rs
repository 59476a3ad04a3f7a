//! The desk where evidence is laid down: a ledger file, an exported directory, or an archive of one.
//! Who enters: the verifier's commands, with a path.
//! What leaves: rows, anchors and keys in order, whatever they came from; nothing is loaded whole.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use crate::append::{Tip, load_tip_of, signed};
use crate::check::{Finding, RowBytes};
use crate::checkpoint::Checkpoint;
use crate::export::tiles::{TILE, tile_path, tile_width};
use crate::export::{ANCHOR_AFTER, AnchorFacts, AnchorLine, Index, anchor_facts};
use crate::fault::SqlFault;
use crate::note::{Note, NoteKey};
use crate::rows::{self, ROWS, Stopped};

/// One file of an export is at most this long: a bundle of 256 payloads of 256 KiB.
const FILE_BYTES_MAX: u64 = 72 * 1_024 * 1_024;

/// Why evidence cannot be read at all. This says nothing about whether it is genuine.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// There is no such thing.
    #[error("{path} is neither a ledger file, nor an export directory, nor an archive of one")]
    NotEvidence {
        /// What was given.
        path: PathBuf,
    },
    /// A file cannot be read.
    #[error("{path} cannot be read")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The database cannot be read.
    #[error("{path} cannot be read as a ledger")]
    Database {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: SqlFault,
    },
    /// A row or an anchor holds something no ledger ever wrote: for a verification, that is a finding.
    #[error(transparent)]
    Malformed(Finding),
    /// A file of the export is missing or not in its form.
    #[error("the export is incomplete: {0}")]
    Export(String),
}

/// One row, with whatever the evidence has of it.
pub(crate) enum Evidence<'a> {
    /// A row of a ledger file: every column.
    Row(&'a RowBytes<'a>),
    /// A leaf of an export, with salt and payload where they were included.
    Leaf(&'a [u8], Option<(&'a [u8], &'a [u8])>),
}

/// What was laid down.
pub enum Source {
    /// A ledger file.
    Database(Database),
    /// An export, unpacked or packed.
    Export(Export),
}

/// A ledger file, opened for reading.
pub struct Database {
    pub(crate) path: PathBuf,
    pub(crate) conn: Connection,
    origin: String,
}

/// An export.
pub struct Export {
    files: Files,
    checkpoint: Checkpoint,
    anchors: BTreeMap<u64, AnchorLine>,
}

enum Files {
    Directory(PathBuf),
    Archive { path: PathBuf, file: RefCell<File>, index: Index },
}

impl Source {
    /// Looks at what `path` is, and opens it.
    pub fn open(path: &Path) -> Result<Self, Unreadable> {
        if path.is_dir() {
            return Export::open(Files::Directory(path.to_owned())).map(Self::Export);
        }
        let at = |source| Unreadable::File { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(at)?;
        let mut magic = [0; 512];
        let filled = file.read(&mut magic).map_err(at)?;
        if magic.starts_with(b"SQLite format 3\0") {
            return Database::open(path).map(Self::Database);
        }
        if filled == magic.len() && magic[257..].starts_with(b"ustar") {
            let index = Index::read(&mut file).map_err(at)?;
            let files = Files::Archive { path: path.to_owned(), file: RefCell::new(file), index };
            return Export::open(files).map(Self::Export);
        }
        Err(Unreadable::NotEvidence { path: path.to_owned() })
    }

    /// What it is, in a word or two.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Database(_) => "ledger file",
            Self::Export(Export { files: Files::Directory(_), .. }) => "export directory",
            Self::Export(Export { files: Files::Archive { .. }, .. }) => "export archive",
        }
    }

    /// The name of the log it says to be.
    pub fn origin(&self) -> &str {
        match self {
            Self::Database(database) => &database.origin,
            Self::Export(export) => &export.checkpoint.origin,
        }
    }

    /// How many entries it says to have: for a progress bar, not for a verdict.
    pub fn size(&self) -> Result<u64, Unreadable> {
        match self {
            Self::Database(database) => Ok(database.stored_tip()?.map_or(0, |tip| tip.size())),
            Self::Export(export) => Ok(export.checkpoint.size),
        }
    }

    /// Keys that came with the evidence.
    pub fn bundled_keys(&self) -> Result<Vec<NoteKey>, Unreadable> {
        match self {
            Self::Database(_) => Ok(Vec::new()),
            Self::Export(export) => export.keys(),
        }
    }

    /// The attestation key that came with the evidence, SPKI DER.
    pub(crate) fn export_ak(&self) -> Result<Option<Vec<u8>>, Unreadable> {
        match self {
            Self::Database(_) => Ok(None),
            Self::Export(export) => {
                export.files.read("keys/ak.pem").map(|pem| pem.and_then(|it| spki_of_pem(&it)))
            }
        }
    }

    /// Hands every row from `first` on to `visit`.
    pub(crate) fn each<E>(
        &self,
        first: u64,
        mut visit: impl FnMut(Evidence<'_>) -> Result<(), E>,
    ) -> Result<Result<(), E>, Unreadable> {
        match self {
            Self::Database(database) => {
                let mut all = database.conn.prepare(ROWS).map_err(|it| database.fault(it.into()))?;
                match rows::each(&mut all, first, |row| visit(Evidence::Row(row))) {
                    Ok(()) => Ok(Ok(())),
                    Err(Stopped::By(why)) => Ok(Err(why)),
                    Err(Stopped::Malformed(finding)) => Err(Unreadable::Malformed(finding)),
                    Err(Stopped::Fault(fault)) => Err(database.fault(fault)),
                }
            }
            Self::Export(export) => export.each(first, visit),
        }
    }

    /// The next anchor after step `k`.
    pub(crate) fn anchor_after(&self, k: u64) -> Result<Option<AnchorFacts>, Unreadable> {
        match self {
            Self::Database(database) => database.anchor_after(k),
            Self::Export(export) => export.anchor_after(k),
        }
    }
}

impl Database {
    fn open(path: &Path) -> Result<Self, Unreadable> {
        let fault = |source: SqlFault| Unreadable::Database { path: path.to_owned(), source };
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        // A file that stands alone is read as it is, without leaving a trace beside it. With a write-ahead log
        // beside it, its newest entries are in there, and the engine must join the two.
        let alone = !Path::new(&wal).exists();
        let name = path.to_string_lossy().replace('%', "%25").replace('?', "%3f").replace('#', "%23");
        let name = format!("file:{name}{}", if alone { "?immutable=1" } else { "?mode=ro" });
        let flags =
            OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let conn = Connection::open_with_flags(name, flags).map_err(|it| fault(it.into()))?;
        let origin = conn.query_row("SELECT origin FROM log WHERE one = 1", [], |row| row.get(0));
        let origin = origin.map_err(|it| fault(it.into()))?;
        // One snapshot for the whole visit, should the ledger be in use.
        conn.execute_batch("BEGIN").map_err(|it| fault(it.into()))?;
        Ok(Self { path: path.to_owned(), conn, origin })
    }

    pub(crate) fn fault(&self, source: SqlFault) -> Unreadable {
        Unreadable::Database { path: self.path.clone(), source }
    }

    pub(crate) fn stored_tip(&self) -> Result<Option<Tip>, Unreadable> {
        load_tip_of(&self.conn).map_err(|fault| self.fault(fault))
    }

    fn anchor_after(&self, k: u64) -> Result<Option<AnchorFacts>, Unreadable> {
        let fault = |fault: rusqlite::Error| self.fault(fault.into());
        let mut find = self.conn.prepare_cached(ANCHOR_AFTER).map_err(fault)?;
        find.raw_bind_parameter(1, signed(k)).map_err(fault)?;
        let mut rows = find.raw_query();
        let Some(row) = rows.next().map_err(fault)? else { return Ok(None) };
        anchor_facts(row).map(Some).map_err(|why| {
            Unreadable::Malformed(Finding::Seal(format!(
                "the row of the checkpoint after {k} is malformed: {why}"
            )))
        })
    }
}

impl Export {
    fn open(files: Files) -> Result<Self, Unreadable> {
        let checkpoint = files.require("checkpoint")?;
        let bad = |why: String| Unreadable::Export(format!("`checkpoint`: {why}"));
        let note = Note::parse(&checkpoint).map_err(|why| bad(why.to_string()))?;
        let checkpoint = Checkpoint::parse(note.text()).map_err(|why| bad(why.to_string()))?;
        let anchors = anchor_lines(&files.require("anchors.jsonl")?)?;
        Ok(Self { files, checkpoint, anchors })
    }

    fn keys(&self) -> Result<Vec<NoteKey>, Unreadable> {
        let names = self.files.below("keys")?.into_iter().filter(|name| name.ends_with(".vkey"));
        let read = |name: String| {
            let bytes = self.files.require(&format!("keys/{name}"))?;
            let text = String::from_utf8_lossy(&bytes);
            text.trim().parse().map_err(|why| Unreadable::Export(format!("`keys/{name}`: {why}")))
        };
        names.map(read).collect()
    }

    fn each<E>(
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

    fn anchor_after(&self, k: u64) -> Result<Option<AnchorFacts>, Unreadable> {
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
    fn require(&self, name: &str) -> Result<Vec<u8>, Unreadable> {
        self.read(name)?.ok_or_else(|| Unreadable::Export(format!("`{name}` is missing")))
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Unreadable> {
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

/// The bytes inside a PEM public key.
pub fn spki_of_pem(pem: &[u8]) -> Option<Vec<u8>> {
    use base64::Engine;
    let text = std::str::from_utf8(pem).ok()?;
    let inside = text.split("-----BEGIN PUBLIC KEY-----").nth(1)?.split("-----END PUBLIC KEY-----").next()?;
    let base64: String = inside.split_whitespace().collect();
    base64::engine::general_purpose::STANDARD.decode(base64).ok()
}
