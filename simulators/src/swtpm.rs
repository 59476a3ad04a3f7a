//! swtpm: a real TPM 2.0 in a process of its own, on Unix sockets, that dies with its owner.
//! In come tests and `chancery dev`, with a directory that is theirs.
//! Out goes a TCTI string; power cuts, hangs, wipes, rollbacks and changed boot measurements are one call each.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::{Signal, kill_process};

use crate::error::{SimulatorError, While};
use crate::keeper::Keeper;
use crate::programs::READY_MAX;

/// A simulated TPM. Dropping it kills the process; its state directory stays.
#[derive(Debug)]
pub struct Swtpm {
    dir: PathBuf,
    running: Option<Keeper>,
}

/// A copy of a TPM's whole state, good for rolling it back.
#[derive(Debug, Clone)]
pub struct Snapshot {
    dir: PathBuf,
}

impl Swtpm {
    /// Starts a TPM whose state and sockets live in `dir`. State that is already there is used again.
    pub fn start(dir: impl AsRef<Path>) -> Result<Self, SimulatorError> {
        let mut tpm = Self { dir: dir.as_ref().to_path_buf(), running: None };
        tpm.restart()?;
        Ok(tpm)
    }

    /// How a TPM software stack reaches it.
    pub fn tcti(&self) -> String {
        format!("swtpm:path={}", self.socket().display())
    }

    /// The data socket. It takes one client at a time; others wait.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("tpm.sock")
    }

    /// Cuts the power: nothing is saved, no shutdown is sent.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Switches it on (cutting the power first if it was on). The boot measurements start from zero.
    pub fn restart(&mut self) -> Result<(), SimulatorError> {
        self.kill();
        let state = self.state();
        fs::create_dir_all(&state).while_trying(format!("create {}", state.display()))?;
        self.running = Some(Keeper::start_swtpm(&state, &self.socket(), &self.dir.join("swtpm.log"))?);
        Ok(())
    }

    /// Resets the chip behind connections that live on, as a sleep of the machine does: what was loaded is gone, and it wants to be
    /// started again.
    pub fn reset(&self) -> Result<(), SimulatorError> {
        if self.running.is_none() {
            return Err(SimulatorError::SwitchedOff);
        }
        let mut control = self.socket().into_os_string();
        control.push(".ctrl");
        const CMD_INIT: [u8; 8] = [0, 0, 0, 2, 0, 0, 0, 0];
        let asked = || {
            let mut stream = UnixStream::connect(&control)?;
            stream.set_read_timeout(Some(READY_MAX))?;
            stream.write_all(&CMD_INIT)?;
            let mut answer = [0; 4];
            stream.read_exact(&mut answer)?;
            Ok::<[u8; 4], std::io::Error>(answer)
        };
        match asked().while_trying("reset the simulated TPM")? {
            [0, 0, 0, 0] => Ok(()),
            other => Err(SimulatorError::Refused {
                program: "swtpm".to_owned(),
                said: format!("a reset was answered {}", hex::encode(other)),
            }),
        }
    }

    /// Freezes the process: every command to it hangs until [`Swtpm::resume`].
    pub fn freeze(&self) -> Result<(), SimulatorError> {
        self.signal(Signal::STOP)
    }

    /// Lets a frozen process go on.
    pub fn resume(&self) -> Result<(), SimulatorError> {
        self.signal(Signal::CONT)
    }

    /// Swaps the chip for an empty one.
    pub fn wipe(&mut self) -> Result<(), SimulatorError> {
        self.kill();
        let state = self.state();
        fs::remove_dir_all(&state).while_trying(format!("wipe {}", state.display()))?;
        self.restart()
    }

    /// Copies the whole state, as one who steals or backs up the disk would. Power stays on.
    pub fn snapshot(&self, name: &str) -> Result<Snapshot, SimulatorError> {
        let copy = Snapshot { dir: self.dir.join(format!("snapshot-{name}")) };
        copy_files(&self.state(), &copy.dir)?;
        Ok(copy)
    }

    /// Cuts the power, puts an older state in place and switches on again.
    pub fn roll_back(&mut self, to: &Snapshot) -> Result<(), SimulatorError> {
        self.kill();
        let state = self.state();
        fs::remove_dir_all(&state).while_trying(format!("discard {}", state.display()))?;
        copy_files(&to.dir, &state)?;
        self.restart()
    }

    /// Measures 32 bytes into a PCR's SHA-256 bank, as firmware would after a change of the boot chain.
    /// Needs the data socket free: nobody else may hold the TPM open.
    pub fn extend_pcr(&self, pcr: u8, digest: [u8; 32]) -> Result<(), SimulatorError> {
        let answer = self.command(&pcr_extend(pcr, &digest))?;
        if answer.get(6..10) == Some(&[0, 0, 0, 0]) {
            return Ok(());
        }
        let said = format!("TPM2_PCR_Extend answered {}", hex::encode(answer));
        Err(SimulatorError::Refused { program: "swtpm".to_owned(), said })
    }

    /// Sends one raw TPM command and hands back the raw answer. Needs the data socket free.
    pub fn command(&self, command: &[u8]) -> Result<Vec<u8>, SimulatorError> {
        if self.running.is_none() {
            return Err(SimulatorError::SwitchedOff);
        }
        exchange(&self.socket(), command).while_trying("exchange a command with the simulated TPM")
    }

    fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    fn signal(&self, signal: Signal) -> Result<(), SimulatorError> {
        let keeper = self.running.as_ref().ok_or(SimulatorError::SwitchedOff)?;
        kill_process(keeper.pid(), signal).while_trying("signal swtpm")
    }
}

/// TPM2_PCR_Extend with one SHA-256 digest and an empty password (TPM 2.0 part 3, section 22.2).
fn pcr_extend(pcr: u8, digest: &[u8; 32]) -> Vec<u8> {
    let mut command = vec![0x80, 0x02, 0, 0, 0, 65, 0, 0, 0x01, 0x82, 0, 0, 0, pcr];
    command.extend([0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0]);
    command.extend([0, 0, 0, 1, 0x00, 0x0b]);
    command.extend(digest);
    command
}

fn exchange(socket: &Path, command: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(READY_MAX))?;
    stream.write_all(command)?;
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer)?;
    answer.truncate(length);
    stream.shutdown(Shutdown::Both)?;
    Ok(answer)
}

fn copy_files(source: &Path, target: &Path) -> Result<(), SimulatorError> {
    let what = || format!("copy {} to {}", source.display(), target.display());
    fs::create_dir_all(target).while_trying(what())?;
    for entry in fs::read_dir(source).while_trying(what())? {
        let entry = entry.while_trying(what())?;
        if entry.file_type().while_trying(what())?.is_file() && entry.file_name() != ".lock" {
            fs::copy(entry.path(), target.join(entry.file_name())).while_trying(what())?;
        }
    }
    Ok(())
}
