//! Secrets that the host mounts: provider signing keys and the like, read from below one directory and nowhere else.
//! Enters: a base directory, then relative names.
//! Leaves: a file's bytes, wiped after use; or the one reason why this file is not trusted.
//!
//! The kernel walks the whole name in one call (`openat2`), so nothing can change between a check and its use: no symlink, no `..`, no other
//! mount is followed, whoever plants one and whenever. What was opened is then checked, not what was named.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use zeroize::Zeroizing;

/// A mounted secret's bytes.
pub type SecretFile = Zeroizing<Vec<u8>>;

/// Why a mounted secret was not read. The name is as it was asked for; the content is never shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretFault {
    /// The name is not plain and relative.
    #[error("{name:?} is not a plain relative name; write it without `/` at its start, without `.` and `..`")]
    BadName {
        /// As asked for.
        name: PathBuf,
    },
    /// It leads out of the directory, through a link or onto another mount.
    #[error("{name:?} leads through a link or out of the secrets directory; put the file itself there")]
    Escapes {
        /// As asked for.
        name: PathBuf,
    },
    /// There is nothing.
    #[error("{name:?} is not there; mount it, or correct the name")]
    Missing {
        /// As asked for.
        name: PathBuf,
    },
    /// A pipe, device, directory or socket.
    #[error("{name:?} is no regular file; put a regular file there")]
    NoFile {
        /// As asked for.
        name: PathBuf,
    },
    /// A second name for the same file may lie anywhere.
    #[error("{name:?} has {links} names; copy it instead of linking it")]
    Linked {
        /// As asked for.
        name: PathBuf,
        /// How many.
        links: u64,
    },
    /// Someone else could have written or can read it.
    #[error("{name:?} belongs to user {owner}; give it to the daemon's user or to root")]
    Foreign {
        /// The file, or the directory on the way to it.
        name: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Open to others.
    #[error(
        "{name:?} has mode {mode:04o}; close files to 0400 and directories to 0700, or at least to everyone else's writing"
    )]
    Loose {
        /// The file, or the directory on the way to it.
        name: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Longer than any secret.
    #[error("{name:?} is longer than {SECRET_BYTES_MAX} bytes; mount the secret alone")]
    TooLong {
        /// As asked for.
        name: PathBuf,
    },
    /// The kernel or the disk failed.
    #[error("{name:?} cannot be read: {fault}; check the mount and the kernel (5.6 or later)")]
    Unreadable {
        /// As asked for.
        name: PathBuf,
        /// The system's words.
        fault: String,
    },
}

/// The directory below which host secrets lie.
#[derive(Debug)]
pub struct SecretsDir {
    base: OwnedFd,
}

impl SecretsDir {
    /// Opens the base directory once; later renames of it change nothing.
    ///
    /// # Errors
    /// When it is missing, a link, or writable by others.
    pub fn open(base: &Path) -> Result<Self, SecretFault> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::RDONLY;
        let opened = rustix::fs::open(base, flags, Mode::empty()).map_err(|fault| told(base, fault))?;
        check_directory(base, opened.as_fd())?;
        Ok(Self { base: opened })
    }

    /// Reads one secret.
    ///
    /// # Errors
    /// At the first doubt about the name, the way to the file, or the file.
    pub fn read(&self, name: impl AsRef<Path>) -> Result<SecretFile, SecretFault> {
        let name = name.as_ref();
        let parts = plain_parts(name)?;
        for depth in 1..parts.len() {
            let above: PathBuf = parts[..depth].iter().collect();
            let opened = self.walk(&above).map_err(|fault| told(name, fault))?;
            check_directory(&above, opened.as_fd())?;
        }
        let opened = self.walk(name).map_err(|fault| told(name, fault))?;
        let file = File::from(opened);
        check_file(name, &file)?;
        read_whole(name, file)
    }

    /// Opens whatever is there; a pipe must not hold us up until someone opens its other end.
    fn walk(&self, name: &Path) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH
            | ResolveFlags::NO_SYMLINKS
            | ResolveFlags::NO_MAGICLINKS
            | ResolveFlags::NO_XDEV;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        openat2(&self.base, name, flags, Mode::empty(), resolve)
    }
}

fn plain_parts(name: &Path) -> Result<Vec<&std::ffi::OsStr>, SecretFault> {
    let bad = || SecretFault::BadName { name: name.to_path_buf() };
    let parts = name
        .components()
        .map(|part| match part {
            Component::Normal(part) => Ok(part),
            _ => Err(bad()),
        })
        .collect::<Result<Vec<_>, _>>()?;
    // `components` swallows an inner `.` and a doubled `/`: rejoin and compare, so that one file has one name.
    let rejoined: PathBuf = parts.iter().collect();
    if parts.is_empty() || rejoined.as_os_str() != name.as_os_str() {
        return Err(bad());
    }
    Ok(parts)
}

fn check_directory(name: &Path, directory: BorrowedFd<'_>) -> Result<(), SecretFault> {
    let facts = rustix::fs::fstat(directory).map_err(|fault| told(name, fault))?;
    if !FileType::from_raw_mode(facts.st_mode).is_dir() {
        return Err(SecretFault::NoFile { name: name.to_path_buf() });
    }
    check_owner(name, facts.st_uid)?;
    let mode = facts.st_mode & 0o7777;
    if mode & 0o022 != 0 {
        return Err(SecretFault::Loose { name: name.to_path_buf(), mode });
    }
    Ok(())
}

fn check_file(name: &Path, file: &File) -> Result<(), SecretFault> {
    let facts = file.metadata().map_err(|fault| unreadable(name, &fault))?;
    if !facts.is_file() {
        return Err(SecretFault::NoFile { name: name.to_path_buf() });
    }
    if facts.nlink() != 1 {
        return Err(SecretFault::Linked { name: name.to_path_buf(), links: facts.nlink() });
    }
    check_owner(name, facts.uid())?;
    let mode = facts.mode() & 0o7777;
    // systemd hands a credential of root's to a service by an access list, whose mask stands where the group's bits are.
    let strangers = if facts.uid() == 0 && facts.gid() == 0 { 0o037 } else { 0o077 };
    if mode & strangers != 0 {
        return Err(SecretFault::Loose { name: name.to_path_buf(), mode });
    }
    if facts.len() > SECRET_BYTES_MAX as u64 {
        return Err(SecretFault::TooLong { name: name.to_path_buf() });
    }
    Ok(())
}

fn check_owner(name: &Path, owner: u32) -> Result<(), SecretFault> {
    if owner == 0 || owner == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(SecretFault::Foreign { name: name.to_path_buf(), owner })
}

/// Reads into room made beforehand, so that no half-read copy is left behind by a growing buffer.
fn read_whole(name: &Path, mut file: File) -> Result<SecretFile, SecretFault> {
    let mut bytes = Zeroizing::new(vec![0; SECRET_BYTES_MAX + 1]);
    let mut len = 0;
    while len < bytes.len() {
        match file.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(fault) if fault.kind() == std::io::ErrorKind::Interrupted => {}
            Err(fault) => return Err(unreadable(name, &fault)),
        }
    }
    if len > SECRET_BYTES_MAX {
        return Err(SecretFault::TooLong { name: name.to_path_buf() });
    }
    bytes.truncate(len);
    Ok(bytes)
}

fn told(name: &Path, fault: Errno) -> SecretFault {
    let name = name.to_path_buf();
    match fault {
        Errno::NOENT => SecretFault::Missing { name },
        Errno::LOOP | Errno::XDEV => SecretFault::Escapes { name },
        Errno::NOTDIR | Errno::NXIO | Errno::NODEV => SecretFault::NoFile { name },
        other => SecretFault::Unreadable { name, fault: other.to_string() },
    }
}

fn unreadable(name: &Path, fault: &std::io::Error) -> SecretFault {
    SecretFault::Unreadable { name: name.to_path_buf(), fault: fault.to_string() }
}

/// Larger than an RSA-4096 key in PEM, smaller than anything mounted by mistake.
const SECRET_BYTES_MAX: usize = 64 << 10;
