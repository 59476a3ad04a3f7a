//! The desk where evidence is laid down: a ledger file, an export or an excerpt, unpacked or in an archive.
//! Who enters: the verifier's commands, with a path.
//! What leaves: rows, anchors and keys in order, whatever they came from; nothing is loaded whole.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::check::{Finding, RowBytes};
use crate::export::{AnchorFacts, Index};
use crate::fault::SqlFault;
use crate::note::NoteKey;

use super::archive::{Export, Files};
use super::database::Database;
use super::excerpt::Excerpt;
use super::seals::Steps;

/// Why evidence cannot be read at all. This says nothing about whether it is genuine.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// There is no such thing.
    #[error(
        "{path} is neither a ledger file, nor an export directory, nor an archive of one; an encrypted one is opened with age first"
    )]
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
    /// Single entries with their proofs, unpacked or packed.
    Excerpt(Excerpt),
}

/// The question is about a whole log.
fn not_whole() -> Unreadable {
    Unreadable::Export("it is an excerpt: it shows single entries, and this needs all of them".to_owned())
}

impl Source {
    /// Looks at what `path` is, and opens it.
    pub fn open(path: &Path) -> Result<Self, Unreadable> {
        if path.is_dir() {
            return Self::of(Files::Directory(path.to_owned()));
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
            return Self::of(files);
        }
        Err(Unreadable::NotEvidence { path: path.to_owned() })
    }

    fn of(files: Files) -> Result<Self, Unreadable> {
        match Excerpt::open(files)? {
            Ok(excerpt) => Ok(Self::Excerpt(excerpt)),
            Err(files) => Export::open(files).map(Self::Export),
        }
    }

    /// What it is, in a word or two.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Database(_) => "ledger file",
            Self::Export(export) => export.files.kind("export"),
            Self::Excerpt(excerpt) => excerpt.files.kind("excerpt"),
        }
    }

    /// The name of the log it says to be.
    pub fn origin(&self) -> &str {
        match self {
            Self::Database(database) => &database.origin,
            Self::Export(export) => &export.checkpoint.origin,
            Self::Excerpt(excerpt) => &excerpt.checkpoint.origin,
        }
    }

    /// How many entries it says to have: for a progress bar, not for a verdict.
    pub fn size(&self) -> Result<u64, Unreadable> {
        match self {
            Self::Database(database) => Ok(database.stored_tip()?.map_or(0, |tip| tip.size())),
            Self::Export(export) => Ok(export.checkpoint.size),
            Self::Excerpt(excerpt) => Ok(excerpt.about.entries),
        }
    }

    /// Keys that came with the evidence.
    pub fn bundled_keys(&self) -> Result<Vec<NoteKey>, Unreadable> {
        match self {
            Self::Database(_) => Ok(Vec::new()),
            Self::Export(export) => export.files.keys(),
            Self::Excerpt(excerpt) => excerpt.files.keys(),
        }
    }

    /// The attestation key that came with the evidence, SPKI DER.
    pub(crate) fn export_ak(&self) -> Result<Option<Vec<u8>>, Unreadable> {
        match self {
            Self::Database(_) | Self::Excerpt(_) => Ok(None),
            Self::Export(export) => export.ak(),
        }
    }

    /// Hands every row from `first` on to `visit`.
    pub(crate) fn each<E>(
        &self,
        first: u64,
        visit: impl FnMut(Evidence<'_>) -> Result<(), E>,
    ) -> Result<Result<(), E>, Unreadable> {
        match self {
            Self::Database(database) => database.each(first, visit),
            Self::Export(export) => export.each(first, visit),
            Self::Excerpt(_) => Err(not_whole()),
        }
    }

    /// The next anchor after step `k`.
    pub(crate) fn anchor_after(&self, k: u64) -> Result<Option<AnchorFacts>, Unreadable> {
        match self {
            Self::Database(database) => database.anchor_after(k),
            Self::Export(export) => export.anchor_after(k),
            Self::Excerpt(_) => Err(not_whole()),
        }
    }
}

impl Steps for Source {
    type Fault = Unreadable;
    fn after(&self, k: u64) -> Result<Option<AnchorFacts>, Unreadable> {
        self.anchor_after(k)
    }
}

/// The bytes inside a PEM public key.
pub fn spki_of_pem(pem: &[u8]) -> Option<Vec<u8>> {
    use base64::Engine;
    let text = std::str::from_utf8(pem).ok()?;
    let inside = text.split("-----BEGIN PUBLIC KEY-----").nth(1)?.split("-----END PUBLIC KEY-----").next()?;
    let base64: String = inside.split_whitespace().collect();
    base64::engine::general_purpose::STANDARD.decode(base64).ok()
}
