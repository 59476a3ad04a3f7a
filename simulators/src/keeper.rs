//! The keeper: a thread that owns one child process, so that the child dies when its owner lets go, however that happens.
//! In comes a command line for swtpm.
//! Out goes a process that answers, or the reason why it does not.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::error::{SimulatorError, While};
use crate::programs::{READY_MAX, missing_or_io, require, wait_until};

/// A child process and the thread that will end it. Dropping it kills the child and waits until it is gone.
#[derive(Debug)]
pub(crate) struct Keeper {
    pid: Pid,
    let_go: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Starts swtpm and waits until it answers on its control socket.
    pub(crate) fn start_swtpm(state: &Path, socket: &Path, log: &Path) -> Result<Self, SimulatorError> {
        if socket.as_os_str().len() > SOCKET_PATH_MAX {
            return Err(SimulatorError::PathTooLong(socket.to_path_buf()));
        }
        let control = PathBuf::from(format!("{}.ctrl", socket.display()));
        forget(socket);
        forget(&control);
        require("swtpm", "swtpm")?;
        let output = File::create(log).while_trying(format!("create {}", log.display()))?;
        let mut command = swtpm_command(state, socket, &control);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output);
        let keeper = Self::start(command)?;
        if wait_until(|| answers(&control) || keeper.ended()) && !keeper.ended() {
            return Ok(keeper);
        }
        Err(SimulatorError::NotReady {
            program: "swtpm".to_owned(),
            waited: READY_MAX,
            log: log.to_path_buf(),
        })
    }

    /// The child's process id.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// Whether the child has ended by itself; looks without reaping, which is the thread's business.
    fn ended(&self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(self.pid), look), Ok(None))
    }

    /// The kernel's parent-death signal fires when the *thread* that started the child ends, so that thread must live
    /// exactly as long as the child should: it starts the child and then waits to be let go.
    fn start(mut command: Command) -> Result<Self, SimulatorError> {
        let (let_go, wait) = channel::<()>();
        let (tell, told) = channel();
        let thread = thread::Builder::new()
            .name("swtpm-keeper".to_owned())
            .spawn(move || match command.spawn() {
                Ok(child) => {
                    // A listener that has gone away also drops `let_go`, which `keep` notices at once.
                    let _ = tell.send(Ok(child.id()));
                    keep(child, &wait);
                }
                Err(reason) => {
                    let _ = tell.send(Err(reason));
                }
            })
            .while_trying("start a thread")?;
        let pid = told.recv().map_err(std::io::Error::other).while_trying("start swtpm")?;
        let pid = pid.map_err(|reason| missing_or_io("setpriv", "util-linux", reason))?;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(SimulatorError::SwitchedOff)?;
        Ok(Self { pid, let_go: Some(let_go), thread: Some(thread) })
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.let_go = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The kernel allows 107 bytes, and `.ctrl` has to fit too.
const SOCKET_PATH_MAX: usize = 100;

/// How long one probe waits for its answer: long for a socket, short for something that is repeated.
const PROBE_MAX: Duration = Duration::from_millis(500);

/// `setpriv` sets the parent-death signal and then becomes swtpm: same process id, and no foreign-function code here.
fn swtpm_command(state: &Path, socket: &Path, control: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "swtpm", "socket", "--tpm2"]);
    command.arg("--tpmstate").arg(format!("dir={}", state.display()));
    command.arg("--server").arg(format!("type=unixio,path={}", socket.display()));
    command.arg("--ctrl").arg(format!("type=unixio,path={}", control.display()));
    command.args(["--flags", "not-need-init,startup-clear"]);
    command
}

fn keep(mut child: Child, wait: &Receiver<()>) {
    // Nothing is ever sent: the call returns when the other end is dropped.
    let _ = wait.recv();
    let _ = child.kill();
    let _ = child.wait();
}

/// A socket that a killed swtpm left behind would make the next one refuse to bind.
fn forget(socket: &Path) {
    let _ = fs::remove_file(socket);
}

/// Asks the control channel for its capabilities: an answer means the TPM is up and its loop is running.
fn answers(control: &Path) -> bool {
    const CMD_GET_CAPABILITY: [u8; 4] = [0, 0, 0, 1];
    let Ok(mut stream) = UnixStream::connect(control) else { return false };
    let timed = stream.set_read_timeout(Some(PROBE_MAX)).is_ok();
    let mut capabilities = [0u8; 8];
    timed
        && stream.write_all(&CMD_GET_CAPABILITY).is_ok()
        && stream.read(&mut capabilities).is_ok_and(|length| length > 0)
}
