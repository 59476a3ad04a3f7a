//! The token's PIN: read from a file that only its owner can read, once, and wiped.
//! Enters: a path.
//! Leaves: a PIN that does not print and wipes itself.

use std::io::Read;
use std::path::Path;

use cryptoki::types::AuthPin;
use hsm::StartRefused;
use hsm::config::open_pin_file;
use zeroize::Zeroizing;

/// Reads the PIN; a line end after it is not part of it.
///
/// # Errors
/// When the file is missing, loose, empty or too long.
pub(super) fn read(path: &Path) -> Result<AuthPin, StartRefused> {
    let refuse =
        |fault: &str| StartRefused::PinFile { file: path.display().to_string(), fault: fault.to_owned() };
    let mut file = open_pin_file(path)
        .map_err(|fault| StartRefused::PinFile { file: path.display().to_string(), fault })?;
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

/// Longer than any token accepts.
const PIN_BYTES_MAX: usize = 256;
