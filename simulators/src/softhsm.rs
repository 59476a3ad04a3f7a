//! SoftHSM: a PKCS#11 token kept in files, with an own configuration, so that many live side by side on one machine.
//! In come tests and `chancery dev`, with a directory that is theirs.
//! Out go module path, environment, serials and PIN files; the token can be unplugged, plugged in and replaced.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{SimulatorError, While};
use crate::programs::{fresh_pin, run};

/// A SoftHSM installation of its own: one configuration, one directory of tokens.
#[derive(Debug)]
pub struct SoftHsm {
    dir: PathBuf,
    module: PathBuf,
    token: SoftToken,
}

/// One token inside a [`SoftHsm`].
#[derive(Debug, Clone)]
pub struct SoftToken {
    label: String,
    serial: String,
    pin_file: PathBuf,
    so_pin: String,
}

impl SoftHsm {
    /// Makes a fresh token under `dir`, which is created if it is not there.
    pub fn create(dir: impl AsRef<Path>, label: &str) -> Result<Self, SimulatorError> {
        let dir = dir.as_ref().to_path_buf();
        let module = find_module()?;
        fs::create_dir_all(tokens_of(&dir)).while_trying(format!("create {}", tokens_of(&dir).display()))?;
        write_configuration(&dir)?;
        let token = init_token(&dir, label)?;
        Ok(Self { dir, module, token })
    }

    /// The PKCS#11 module to load.
    pub fn module(&self) -> &Path {
        &self.module
    }

    /// The configuration file that `SOFTHSM2_CONF` must name.
    pub fn conf(&self) -> PathBuf {
        conf_of(&self.dir)
    }

    /// Where the tokens are kept; whoever uses them writes there.
    pub fn tokens(&self) -> PathBuf {
        tokens_of(&self.dir)
    }

    /// What a process must find in its environment in order to see these tokens and no others.
    pub fn env(&self) -> Vec<(String, String)> {
        vec![("SOFTHSM2_CONF".to_owned(), self.conf().to_string_lossy().into_owned())]
    }

    /// The token that was made first.
    pub fn token(&self) -> &SoftToken {
        &self.token
    }

    /// The first token's serial number.
    pub fn serial(&self) -> &str {
        &self.token.serial
    }

    /// The first token's label.
    pub fn label(&self) -> &str {
        &self.token.label
    }

    /// The file with the first token's user PIN, readable by its owner only.
    pub fn pin_file(&self) -> &Path {
        &self.token.pin_file
    }

    /// The first token's security officer PIN.
    pub fn so_pin(&self) -> &str {
        &self.token.so_pin
    }

    /// Opens a second token in the same installation.
    pub fn another_token(&self, label: &str) -> Result<SoftToken, SimulatorError> {
        init_token(&self.dir, label)
    }

    /// Takes the tokens away, as if the device had been pulled out. A second call changes nothing.
    pub fn unplug(&self) -> Result<(), SimulatorError> {
        move_once(&tokens_of(&self.dir), &self.dir.join("unplugged"))
    }

    /// Puts the tokens back where [`SoftHsm::unplug`] took them from. A second call changes nothing.
    pub fn plug_in(&self) -> Result<(), SimulatorError> {
        move_once(&self.dir.join("unplugged"), &tokens_of(&self.dir))
    }

    /// Swaps the hardware: every token is destroyed, and an empty one with the same label and another serial stands there.
    pub fn replace(&mut self) -> Result<(), SimulatorError> {
        let tokens = tokens_of(&self.dir);
        self.plug_in()?;
        fs::remove_dir_all(&tokens).while_trying(format!("destroy the tokens in {}", tokens.display()))?;
        fs::create_dir_all(&tokens).while_trying(format!("create {}", tokens.display()))?;
        self.token = init_token(&self.dir, &self.token.label)?;
        Ok(())
    }
}

impl SoftToken {
    /// The label it was initialised with.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The serial number that identifies it.
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// The file with its user PIN, readable by its owner only.
    pub fn pin_file(&self) -> &Path {
        &self.pin_file
    }

    /// Its security officer PIN.
    pub fn so_pin(&self) -> &str {
        &self.so_pin
    }
}

/// Where Debian, Fedora and a local build put the module.
const MODULE_PLACES: [&str; 5] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];

fn find_module() -> Result<PathBuf, SimulatorError> {
    let found = MODULE_PLACES.iter().map(PathBuf::from).find(|place| place.exists());
    found.ok_or(SimulatorError::Missing { program: "libsofthsm2.so".to_owned(), package: "softhsm2" })
}

fn tokens_of(dir: &Path) -> PathBuf {
    dir.join("tokens")
}

fn conf_of(dir: &Path) -> PathBuf {
    dir.join("softhsm2.conf")
}

fn write_configuration(dir: &Path) -> Result<(), SimulatorError> {
    let text = format!(
        "directories.tokendir = {}\nobjectstore.backend = file\nlog.level = ERROR\nslots.removable = false\n",
        tokens_of(dir).display()
    );
    fs::write(conf_of(dir), text).while_trying(format!("write {}", conf_of(dir).display()))
}

fn init_token(dir: &Path, label: &str) -> Result<SoftToken, SimulatorError> {
    let (pin, so_pin) = (fresh_pin()?, fresh_pin()?);
    let mut init = Command::new("softhsm2-util");
    init.env("SOFTHSM2_CONF", conf_of(dir)).args(["--init-token", "--free", "--label", label]);
    run(init.args(["--pin", &pin, "--so-pin", &so_pin]), "softhsm2")?;
    let serial = serial_of(dir, label)?;
    let pin_file = dir.join(format!("{serial}.pin"));
    write_pin(&pin_file, &pin)?;
    Ok(SoftToken { label: label.to_owned(), serial, pin_file, so_pin })
}

/// Reads the serial from the listing, in which it stands above its label, both padded with blanks.
fn serial_of(dir: &Path, label: &str) -> Result<String, SimulatorError> {
    let listing = run(
        Command::new("softhsm2-util").env("SOFTHSM2_CONF", conf_of(dir)).arg("--show-slots"),
        "softhsm2",
    )?;
    let mut serial = "";
    for line in listing.lines().map(str::trim) {
        if let Some(value) = line.strip_prefix("Serial number:") {
            serial = value.trim();
        }
        if line.strip_prefix("Label:").is_some_and(|value| value.trim() == label) && !serial.is_empty() {
            return Ok(serial.to_owned());
        }
    }
    let said = format!("the token `{label}` it has just made is not in its listing");
    Err(SimulatorError::Refused { program: "softhsm2-util".to_owned(), said })
}

fn write_pin(path: &Path, pin: &str) -> Result<(), SimulatorError> {
    let what = || format!("write {}", path.display());
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).while_trying(what())?;
    file.write_all(pin.as_bytes()).while_trying(what())
}

fn move_once(source: &Path, target: &Path) -> Result<(), SimulatorError> {
    if !source.exists() {
        return Ok(());
    }
    fs::rename(source, target).while_trying(format!("move {} to {}", source.display(), target.display()))
}
