//! A TPM's counterparts of a PIN: the owner's authorisation, from a file; the anchor's, 32 random bytes in a file sealed to TPM and state.
//! In come the configured files; without one the indices have no authorisation, which the probe tells.
//! Out go the values, in memory that is wiped.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use hsm::backend::{Fault, Seal};
use hsm::config::open_pin_file;
use hsm::{Refusal, StartRefused};
use rustix::fs::OFlags;
use tss_esapi_sys::TPM2B_AUTH;
use zeroize::Zeroizing;

use super::lane::TpmLane;
use super::sessions::drawn;
use super::{pcr, wrap};

const AUTH_LEN: usize = 32;
/// As long as a TPM takes.
const AUTH_BYTES_MAX: usize = 64;
/// A sealed value is a few hundred bytes long, and a little more for each register.
const SEALED_BYTES_MAX: u64 = 16 * 1024;
const AAD: &[u8] = b"anchor index authorisation";

impl TpmLane {
    /// The value, from memory or from its file.
    pub(super) fn index_auth(&mut self) -> Result<Option<TPM2B_AUTH>, Fault> {
        let Some(file) = self.setup.index_auth_file.clone() else { return Ok(None) };
        if self.index_auth.is_none() {
            let sealed = read_sealed(&file).map_err(|reason| unusable(&file, "be read", &reason))?;
            let value = self.unwrap(&sealed, AAD).map_err(|fault| of_another_tpm(&file, fault))?;
            if wrap::sealed_to(&sealed) != Some(pcr::ascending(&self.setup.pcrs)) {
                // The configuration names other registers than the file is sealed to: from now on those hold.
                self.keep_index_auth(&file, &value)?;
            }
            self.index_auth = Some(value);
        }
        Ok(self.index_auth.as_deref().map(|value| as_auth(value)))
    }

    /// The same, drawn and kept if there is no file yet.
    pub(super) fn index_auth_or_new(&mut self) -> Result<Option<TPM2B_AUTH>, Fault> {
        let Some(file) = self.setup.index_auth_file.clone() else { return Ok(None) };
        if self.index_auth.is_none() && !file.exists() {
            let value = drawn::<AUTH_LEN>()?;
            self.keep_index_auth(&file, value.as_slice())?;
        }
        self.index_auth()
    }

    /// Removes the file of an anchor that is gone.
    pub(super) fn forget_index_auth(&mut self) -> Result<(), Fault> {
        self.index_auth = None;
        let Some(file) = self.setup.index_auth_file.clone() else { return Ok(()) };
        match fs::remove_file(&file) {
            Err(reason) if reason.kind() != io::ErrorKind::NotFound => {
                Err(unusable(&file, "be removed", &reason))
            }
            _ => Ok(()),
        }
    }

    /// Seals the value to the machine as it is now.
    fn keep_index_auth(&mut self, file: &Path, value: &[u8]) -> Result<(), Fault> {
        let sealed = self.wrap(value, AAD)?;
        keep(file, &sealed).map_err(|reason| unusable(file, "be written", &reason))
    }
}

/// The owner hierarchy's authorisation, without the line's end that editors add.
pub(super) fn owner_auth(file: &Path) -> Result<TPM2B_AUTH, StartRefused> {
    let fault = |fault: String| StartRefused::PinFile { file: file.display().to_string(), fault };
    // As a PIN is kept: ours or root's, closed to everybody else, no link.
    let mut open = open_pin_file(file).map_err(fault)?;
    let mut bytes = Zeroizing::new([0; AUTH_BYTES_MAX + 2]);
    let mut len = 0;
    while len < bytes.len() {
        match open.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(reason) => return Err(fault(format!("cannot be read: {reason}"))),
        }
    }
    let text = bytes[..len].strip_suffix(b"\n").unwrap_or(&bytes[..len]);
    let mut auth = TPM2B_AUTH { size: text.len() as u16, ..Default::default() };
    let room = auth.buffer.get_mut(..text.len());
    room.ok_or_else(|| fault("is longer than the 64 bytes a TPM takes".to_owned()))?.copy_from_slice(text);
    Ok(auth)
}

/// The sealed value. It opens on this TPM alone, so what has to be looked at is only that it is a file, and not an endless one.
fn read_sealed(file: &Path) -> io::Result<Vec<u8>> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits().cast_signed();
    let open = OpenOptions::new().read(true).custom_flags(flags).open(file)?;
    if !open.metadata()?.is_file() {
        return Err(io::Error::other("it is no plain file"));
    }
    let mut bytes = Vec::new();
    open.take(SEALED_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > SEALED_BYTES_MAX {
        return Err(io::Error::other("it is too long to be one"));
    }
    Ok(bytes)
}

/// Durable before it is used: write beside, fsync, rename, fsync the directory.
fn keep(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let beside = file.with_extension("new");
    // What a try that was cut off has left, or somebody else has put there, is replaced and never written through.
    match fs::remove_file(&beside) {
        Err(reason) if reason.kind() != io::ErrorKind::NotFound => return Err(reason),
        _ => {}
    }
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    out.write_all(bytes)?;
    out.sync_all()?;
    fs::rename(&beside, file)?;
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or_else(|| Path::new(".")))?.sync_all()
}

fn as_auth(value: &[u8]) -> TPM2B_AUTH {
    let mut auth = TPM2B_AUTH::default();
    let length = value.len().min(AUTH_LEN);
    auth.size = length as u16;
    auth.buffer[..length].copy_from_slice(&value[..length]);
    auth
}

/// Says which file it is that does not open; a changed state of the machine speaks for itself.
fn of_another_tpm(file: &Path, fault: Fault) -> Fault {
    match fault {
        Fault::Refused(Refusal::SealBroken | Refusal::RootMissing) => {
            let what = format!("the anchor's authorisation file {} belongs to another TPM", file.display());
            // The index stands under the value that is in the file: without it, a new one needs the old one out of its way.
            Refusal::Other(format!(
                "{what}; restore the TPM, or move the file away and take the index away (`tpm2_nvundefine`) or configure another `anchor_index`"
            ))
                .into()
        }
        fault => fault,
    }
}

fn unusable(file: &Path, deed: &str, reason: &io::Error) -> Fault {
    let what = format!("the anchor's authorisation file {} cannot {deed}: {reason}", file.display());
    Refusal::Other(format!(
        "{what}; restore it from a backup of this machine, or make its directory writable"
    ))
    .into()
}
