//! The packing room: a directory of plain files as one ustar archive, and the index of one that was given to us.
//! Who enters: the export, to be carried away; the verifier, with an archive from somewhere.
//! What leaves: one file; names with the place of their bytes. Nothing is ever unpacked to disk.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::shelf::{Archive, Shelf};

/// Everything in an archive comes in blocks of this many bytes.
pub(super) const BLOCK: usize = 512;
/// Files in an archive: enough for 250 million entries.
const FILES_MAX: usize = 4_000_000;

/// Packs every file below `directory` into `archive`, in the order of their names and with fixed times, so that
/// the same export is the same archive.
pub fn pack(directory: &Path, archive: &Path) -> io::Result<()> {
    let mut names = Vec::new();
    collect(directory, Path::new(""), &mut names)?;
    names.sort();
    let mut out = Archive::onto(io::BufWriter::new(File::create_new(archive)?));
    for name in names {
        out.put(&name.to_string_lossy(), &fs::read(directory.join(&name))?)?;
    }
    out.end()?.into_inner()?.sync_all()
}

fn collect(root: &Path, below: &Path, names: &mut Vec<PathBuf>) -> io::Result<()> {
    for item in fs::read_dir(root.join(below))? {
        let item = item?;
        let name = below.join(item.file_name());
        if item.file_type()?.is_dir() { collect(root, &name, names)? } else { names.push(name) }
    }
    Ok(())
}

/// The block before a file's bytes.
pub(super) fn header(name: &str, size: usize) -> io::Result<[u8; BLOCK]> {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| match header.get_mut(at..at + bytes.len()) {
        Some(place) => place.copy_from_slice(bytes),
        None => debug_assert!(false, "a header field stands inside its block"),
    };
    if name.len() > 100 {
        return Err(io::Error::other(format!("the name {name} is too long for an archive")));
    }
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(header)
}

/// Where each file of an archive lies.
#[derive(Debug)]
pub(crate) struct Index {
    files: HashMap<String, (u64, u64)>,
}

impl Index {
    /// Reads the headers only. Links, devices and unsafe names have no place in an export and are refused.
    pub(crate) fn read(archive: &mut File) -> io::Result<Self> {
        let bad =
            |why: &str| io::Error::new(io::ErrorKind::InvalidData, format!("not an export archive: {why}"));
        let mut files = HashMap::new();
        let mut at = 0;
        loop {
            let mut header = [0; BLOCK];
            archive.seek(SeekFrom::Start(at))?;
            archive.read_exact(&mut header).map_err(|_| bad("it ends too early"))?;
            if header.iter().all(|byte| *byte == 0) {
                return Ok(Self { files });
            }
            let name = text(&header[..100]).ok_or_else(|| bad("a name is not UTF-8"))?;
            let size = text(&header[124..136]).and_then(|it| u64::from_str_radix(it.trim(), 8).ok());
            let size = size.ok_or_else(|| bad("a size is not a number"))?;
            at += BLOCK as u64;
            match header[156] {
                b'0' | 0 => {
                    let name = name.strip_prefix("./").unwrap_or(name).to_owned();
                    if files.len() == FILES_MAX || files.insert(name, (at, size)).is_some() {
                        return Err(bad("a file stands in it twice, or there are too many"));
                    }
                }
                b'5' => {}
                _ => return Err(bad("it contains something other than files and directories")),
            }
            at = at
                .checked_add(size.next_multiple_of(BLOCK as u64))
                .ok_or_else(|| bad("a size is too large"))?;
        }
    }

    /// Offset and length of a file.
    pub(crate) fn find(&self, name: &str) -> Option<(u64, u64)> {
        self.files.get(name).copied()
    }

    /// The names below a directory.
    pub(crate) fn below(&self, directory: &str) -> Vec<String> {
        let mut names: Vec<_> = self
            .files
            .keys()
            .filter_map(|name| name.strip_prefix(directory)?.strip_prefix('/'))
            .map(str::to_owned)
            .collect();
        names.sort();
        names
    }
}

fn text(field: &[u8]) -> Option<&str> {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    std::str::from_utf8(field.get(..end)?).ok()
}
