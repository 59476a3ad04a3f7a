//! Where bundles lie: half-made beside whole ones, read-only once they are whole, and never written again.
//! Who enters: the steps that build, keep and delete a bundle.
//! What leaves: directories of files that are on disk when this returns, and the digests over them.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use sha2::{Digest, Sha256};

/// The directory of all bundles; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Shelves(PathBuf);

impl Shelves {
    /// Below this directory, which is made when the first bundle is.
    pub(super) fn at(directory: PathBuf) -> Self {
        Self(directory)
    }

    /// Where a bundle of this name is made.
    pub(super) fn making(&self, name: &str) -> PathBuf {
        self.0.join(format!(".making-{name}"))
    }

    /// Where it is kept.
    pub(super) fn kept(&self, name: &str) -> PathBuf {
        self.0.join(format!("export-{name}"))
    }

    /// Makes room for a new one: what a call cut short left goes.
    pub(super) fn clear(&self, name: &str) -> io::Result<PathBuf> {
        fs::create_dir_all(&self.0)?;
        let making = self.making(name);
        remove(&making)?;
        Ok(making)
    }

    /// Deletes whatever is made or kept under a name; nothing there is as good as deleted.
    pub(super) fn delete(&self, name: &str) -> io::Result<()> {
        remove(&self.making(name))?;
        remove(&self.kept(name))
    }

    /// Makes a bundle's files read-only, puts all of it on disk, and gives it its name. A name that stands is never given
    /// again: twice is once, and the first stays.
    pub(super) fn keep(&self, name: &str) -> io::Result<PathBuf> {
        let (making, kept) = (self.making(name), self.kept(name));
        if making.exists() {
            make_last(&making)?;
            match renameat_with(CWD, &making, CWD, &kept, RenameFlags::NOREPLACE) {
                Ok(()) => {}
                Err(rustix::io::Errno::EXIST) => remove(&making)?,
                Err(why) => return Err(why.into()),
            }
        }
        File::open(&self.0)?.sync_all()?;
        Ok(kept)
    }
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Every file below a directory, sorted.
fn files(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut found, mut open) = (Vec::new(), vec![directory.to_owned()]);
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next)? {
            let path = entry?.path();
            if path.is_dir() { open.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    Ok(found)
}

/// SHA-256 over names and contents, each behind its length.
pub(super) fn digest(directory: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    for file in files(directory)? {
        let name = file.strip_prefix(directory).map_err(io::Error::other)?.to_string_lossy().into_owned();
        hash.update((name.len() as u64).to_be_bytes());
        hash.update(name);
        content(&file, &mut hash)?;
    }
    Ok(hex::encode(hash.finalize()))
}

/// A file's length and bytes, piece by piece: an encrypted bundle is one file of any size.
fn content(file: &Path, hash: &mut Sha256) -> io::Result<()> {
    let mut file = File::open(file)?;
    hash.update(file.metadata()?.len().to_be_bytes());
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(()),
            length => hash.update(&piece[..length]),
        }
    }
}

/// Read-only files in directories of one's own, all of it on disk when this returns: files first, then the directories that name them.
fn make_last(directory: &Path) -> io::Result<()> {
    let mut folders = std::collections::BTreeSet::from([directory.to_owned()]);
    for file in files(directory)? {
        fs::set_permissions(&file, Permissions::from_mode(0o400))?;
        File::open(&file)?.sync_all()?;
        let above = file.ancestors().skip(1).take_while(|folder| folder.starts_with(directory));
        folders.extend(above.map(Path::to_owned));
    }
    for folder in folders.iter().rev() {
        fs::set_permissions(folder, Permissions::from_mode(0o700))?;
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}
