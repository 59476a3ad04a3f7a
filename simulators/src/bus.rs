//! The wire between a TPM and its user, with somebody on it: who only listens, or who answers in the TPM's place.
//! In comes a running [`Swtpm`], and what is to be changed on the way.
//! Out goes a TCTI string that leads over the wire, and everything that was seen there.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{SimulatorError, While};
use crate::swtpm::Swtpm;

/// A wire that somebody taps. Dropping it cuts the wire.
#[derive(Debug)]
pub struct Bus {
    socket: PathBuf,
    shared: Arc<Shared>,
}

/// What happens to an answer on its way: the command, the true answer, and out of it what arrives.
pub type Forgery = Box<dyn FnMut(&[u8], Vec<u8>) -> Vec<u8> + Send>;

struct Shared {
    seen: Mutex<Vec<u8>>,
    commands: Mutex<Vec<u32>>,
    forgery: Mutex<Option<Forgery>>,
    strike: Mutex<Option<Strike>>,
    cut: AtomicBool,
}

/// A command that fails, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// After so many others.
    pub after: usize,
    /// The TPM carries it out, and its answer is lost; otherwise the TPM never sees it.
    pub late: bool,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

impl Bus {
    /// Lays a wire to this TPM, beside its own socket. The TPM still serves one user at a time.
    pub fn to(tpm: &Swtpm) -> Result<Self, SimulatorError> {
        let socket = tpm.socket().with_extension("bus");
        let listener = UnixListener::bind(&socket)
            .while_trying(format!("listen on the simulated bus {}", socket.display()))?;
        // The library also wants the simulator's control socket beside it; nothing secret goes over that one.
        std::os::unix::fs::symlink(control(&tpm.socket()), control(&socket))
            .while_trying("lay the control wire of the simulated bus")?;
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            commands: Mutex::default(),
            forgery: Mutex::default(),
            strike: Mutex::default(),
            cut: AtomicBool::new(false),
        });
        let (tpm, on_wire) = (tpm.socket(), Arc::clone(&shared));
        std::thread::spawn(move || {
            for user in listener.incoming().map_while(Result::ok) {
                if on_wire.cut.load(Ordering::SeqCst) {
                    return;
                }
                // One user at a time, like the TPM. Whatever ends a connection, the next user finds the wire whole.
                let _ = carry(user, &tpm, &on_wire);
            }
        });
        Ok(Self { socket, shared })
    }

    /// How a TPM software stack reaches the TPM over this wire.
    pub fn tcti(&self) -> String {
        format!("swtpm:path={}", self.socket.display())
    }

    /// Every byte that went over it so far, commands and answers.
    pub fn seen(&self) -> Vec<u8> {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The codes of the commands that went over it so far (TPM 2.0 part 2, section 6.5.2).
    pub fn commands(&self) -> Vec<u32> {
        self.shared.commands.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One of the commands from now on is answered with a failure of the TPM.
    pub fn strike(&self, strike: Strike) {
        *self.shared.strike.lock().unwrap_or_else(PoisonError::into_inner) = Some(strike);
    }

    /// Whether the command that was to fail has come.
    pub fn has_struck(&self) -> bool {
        self.shared.strike.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// From now on answers pass through this hand.
    pub fn forge(&self, forgery: impl FnMut(&[u8], Vec<u8>) -> Vec<u8> + Send + 'static) {
        *self.shared.forgery.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(forgery));
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.shared.cut.store(true, Ordering::SeqCst);
        // Wakes the listener, which then sees that it is over.
        let _ = UnixStream::connect(&self.socket);
        let _ = std::fs::remove_file(&self.socket);
        let _ = std::fs::remove_file(control(&self.socket));
    }
}

impl Shared {
    /// The strike, if it is this command that it meets.
    fn struck(&self) -> Option<Strike> {
        let mut strike = self.strike.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *strike {
            Some(Strike { after: 0, .. }) => strike.take(),
            Some(waiting) => {
                waiting.after -= 1;
                None
            }
            None => None,
        }
    }

    fn note(&self, bytes: &[u8]) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
    }
}

fn control(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".ctrl");
    name.into()
}

fn carry(mut user: UnixStream, tpm: &Path, shared: &Shared) -> std::io::Result<()> {
    let mut tpm = UnixStream::connect(tpm)?;
    loop {
        let command = message(&mut user)?;
        shared.note(&command);
        if let Some(code) = command[6..].first_chunk() {
            let mut commands = shared.commands.lock().unwrap_or_else(PoisonError::into_inner);
            commands.push(u32::from_be_bytes(*code));
        }
        let struck = shared.struck();
        let mut answer = match struck {
            Some(Strike { late: false, .. }) => FAILURE.to_vec(),
            _ => {
                tpm.write_all(&command)?;
                message(&mut tpm)?
            }
        };
        if struck.is_some() {
            answer = FAILURE.to_vec();
        }
        if let Some(forge) = &mut *shared.forgery.lock().unwrap_or_else(PoisonError::into_inner) {
            answer = forge(&command, answer);
        }
        shared.note(&answer);
        user.write_all(&answer)?;
    }
}

/// One command or answer: tag, length of the whole, code, and the rest (TPM 2.0 part 1, section 18).
fn message(from: &mut UnixStream) -> std::io::Result<Vec<u8>> {
    let mut head = [0; 10];
    from.read_exact(&mut head)?;
    let len = u32::from_be_bytes([head[2], head[3], head[4], head[5]]) as usize;
    let mut bytes = head.to_vec();
    bytes.resize(len.clamp(head.len(), MESSAGE_BYTES_MAX), 0);
    from.read_exact(&mut bytes[head.len()..])?;
    Ok(bytes)
}

/// The answer of a TPM in failure mode: TPM_ST_NO_SESSIONS, ten bytes, TPM_RC_FAILURE.
const FAILURE: [u8; 10] = [0x80, 0x01, 0, 0, 0, 10, 0, 0, 0x01, 0x01];

/// Longer than any TPM's buffer.
const MESSAGE_BYTES_MAX: usize = 1 << 16;
