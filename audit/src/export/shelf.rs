//! The shelves: where the files of an export are put, one whole file at a time.
//! Who enters: the export, with names and bytes.
//! What leaves: a new directory of plain files, or one archive that is written on as the files come.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::ExportRefused;
use super::tar::{BLOCK, header};

/// A place for files.
pub trait Shelf {
    /// Puts one file down under a name that was not used before; `/` stands between its parts.
    ///
    /// # Errors
    /// The place behind it did not take it.
    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
}

/// A new directory.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes it; nothing of an older export may stay in it.
    ///
    /// # Errors
    /// There is something of that name, or the disk did not do it.
    pub fn create(path: &Path) -> Result<Self, ExportRefused> {
        fs::create_dir(path).map_err(|fault| match fault.kind() {
            io::ErrorKind::AlreadyExists => ExportRefused::Exists(path.to_owned()),
            _ => ExportRefused::File(fault),
        })?;
        Ok(Self(path.to_owned()))
    }
}

impl Shelf for Folder {
    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.0.join(name);
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(path, bytes)
    }
}

/// One ustar archive with fixed times, written in the order in which files come; nothing of it is held back or read again, so
/// what stands behind it may be a cipher.
#[derive(Debug)]
pub struct Archive<W>(W);

impl<W: Write> Archive<W> {
    /// Onto anything that takes bytes.
    pub fn onto(out: W) -> Self {
        Self(out)
    }

    /// Ends the archive and gives back what it was written onto.
    ///
    /// # Errors
    /// The last blocks were not taken.
    pub fn end(mut self) -> io::Result<W> {
        self.0.write_all(&[0; 2 * BLOCK])?;
        Ok(self.0)
    }
}

impl<W: Write> Shelf for Archive<W> {
    fn put(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(&header(name, bytes.len())?)?;
        self.0.write_all(bytes)?;
        self.0.write_all(&[0; BLOCK][..(BLOCK - bytes.len() % BLOCK) % BLOCK])
    }
}
