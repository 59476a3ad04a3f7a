//! The doorkeeper: one process at a time holds a ledger, and the next one learns who.
//! Who enters: `open`, before it touches the database.
//! What leaves: a lock that lives as long as the ledger, or the process id of its holder.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::refused::OpenRefused;

/// Held while the ledger is open; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "kept open for the lock on it")] File);

/// Takes the lock beside the ledger file.
pub(crate) fn take(ledger: &Path) -> Result<Lock, OpenRefused> {
    let mut name = ledger.as_os_str().to_owned();
    name.push(".lock");
    let fault = |source| OpenRefused::File { path: name.clone().into(), source };
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&name).map_err(fault)?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut holder = String::new();
        file.read_to_string(&mut holder).map_err(fault)?;
        return Err(OpenRefused::InUse { path: ledger.into(), pid: holder.trim().parse().unwrap_or(0) });
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(fault)?;
    writeln!(file, "{}", std::process::id()).map_err(fault)?;
    Ok(Lock(file))
}
