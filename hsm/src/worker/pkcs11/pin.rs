//! The token's PIN: read from a file that only its owner can read, once, and wiped.
//! Enters: a path.
//! Leaves: a PIN that does not print and wipes itself.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use cryptoki::types::AuthPin;
use hsm::StartRefused;
use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// Reads the PIN; a line end after it is not part of it.
///
/// # Errors
/// When the file is missing, loose, empty or too long.
pub(super) fn read(path: &Path) -> Result<AuthPin, StartRefused> {
    let refuse =
        |fault: &str| StartRefused::PinFile { file: path.display().to_string(), fault: fault.to_owned() };
    let mut file = open(path)
        .map_err(|fault| refuse(&format!("cannot be opened ({fault}); check its place and owner")))?;
    check(&file).map_err(refuse)?;
    let mut bytes = Zeroizing::new([0; PIN_BYTES_MAX + 1]);
    let mut len = 0;
    while len < bytes.len() {
        match file.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(_) => return Err(refuse("cannot be read; check the disk")),
        }
    }
    if len > PIN_BYTES_MAX {
        return Err(refuse("is too long to hold a PIN; put the PIN alone into it"));
    }
    let text =
        std::str::from_utf8(&bytes[..len]).map_err(|_| refuse("holds no text; put the PIN alone into it"))?;
    let pin = text.trim_end_matches(['\r', '\n']);
    if pin.is_empty() {
        return Err(refuse("is empty; put the PIN into it"));
    }
    Ok(AuthPin::from(pin.to_owned()))
}

/// Neither follows a link nor waits for the other end of a pipe.
fn open(path: &Path) -> std::io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path)
}

fn check(file: &File) -> Result<(), &'static str> {
    let facts = file.metadata().map_err(|_| "cannot be examined; check the disk")?;
    let us = rustix::process::geteuid().as_raw();
    if !facts.is_file() {
        return Err("is no plain file; name the file itself");
    }
    if facts.uid() != us && facts.uid() != 0 {
        return Err("belongs to someone else; give it to the daemon's user or to root");
    }
    // systemd hands a credential of root's to a service by an access list, whose mask stands where the group's bits are.
    let strangers = if facts.uid() == 0 && facts.gid() == 0 { 0o037 } else { 0o077 };
    if facts.mode() & strangers != 0 {
        return Err("is open to others; run `chmod 0400` on it");
    }
    Ok(())
}

/// Longer than any token accepts.
const PIN_BYTES_MAX: usize = 256;
