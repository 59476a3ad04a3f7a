//! A token in memory, for tests: the same queue, frames and deadlines as a real one, but with faults on command.
//! Enters: faults, in the order they are to strike.
//! Leaves: real signatures by throw-away keys, or the fault asked for.

mod ceremony;
mod keys;
mod lane;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::anchor::AnchorReading;
use crate::backend::{Backend, Fault, Lane};
use crate::config::{Limits, TokenConfig};
use crate::error::{Refusal, StartRefused};
use crate::key::{Custody, KeyId, RootPin};
use crate::probe::{Power, Probe};
use crate::scheme::{KeyKind, Scheme};
use crate::serve::{Board, serve};
use ceremony::SoftUnwrapper;
use keys::SoftKey;
use lane::DoubleLane;

/// A token in memory. Clones share keys, faults and counts; keys outlive a worker, as they do in hardware.
#[derive(Clone)]
pub struct Double {
    shared: Arc<Shared>,
    limits: Limits,
}

/// What happens to one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DoubleFault {
    /// Refused; nothing done.
    Refuse(Refusal),
    /// The device fails before the effect, and says so; the worker ends.
    LoseBefore,
    /// The effect happens, then the device fails; the worker ends.
    LoseAfter,
    /// Never answers; no effect.
    HangBefore,
    /// The effect happens, and is never answered.
    HangAfter,
    /// The worker dies on the spot; no effect.
    DieBefore,
    /// The effect happens, then the worker dies on the spot.
    DieAfter,
    /// A signature with a bit turned over.
    WrongSignature,
}

impl Double {
    /// An empty token with the usual limits.
    #[must_use]
    pub fn new() -> Self {
        Self { shared: Arc::default(), limits: Limits::default() }
    }

    /// An empty token with limits of the test's own.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self { shared: Arc::default(), limits }
    }

    /// The next call meets this fault; a second fault strikes the call after it.
    pub fn next(&self, fault: DoubleFault) {
        self.shared.lock().faults.push_back(fault);
    }

    /// Takes the token away: no call is answered and no worker starts until [`Double::plug_in`].
    pub fn unplug(&self) {
        self.shared.lock().unplugged = true;
    }

    /// Puts it back.
    pub fn plug_in(&self) {
        self.shared.lock().unplugged = false;
    }

    /// How many signatures it has made, answered or not.
    #[must_use]
    pub fn signatures_made(&self) -> u64 {
        self.shared.lock().signatures_made
    }

    /// How many asymmetric keys it holds.
    #[must_use]
    pub fn keys_held(&self) -> usize {
        self.shared.lock().keys.len()
    }

    /// How many key-encryption, backup and import keys it holds.
    #[must_use]
    pub fn ceremony_keys_held(&self) -> usize {
        let held = self.shared.lock();
        held.keks.len() + held.backup_keks.len() + held.import_keys.len()
    }

    /// Leaves half a pair behind a name, as a worker killed in the middle of making one does.
    pub fn leave_half(&self, id: KeyId) {
        self.shared.lock().halves.insert(id);
    }

    /// So many workers from the next on get a board that takes no marks, as when memory has run out.
    pub fn blot_boards(&self, workers: u32) {
        self.shared.lock().boards_blotted = workers;
    }

    /// Puts another key of the same kind behind a name, as a restored or swapped token would.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn swap_key(&self, id: KeyId, kind: KeyKind) -> Result<(), Fault> {
        let key = SoftKey::generate(kind, Custody::NonExtractable)?;
        self.shared.lock().keys.insert(id, Arc::new(key));
        Ok(())
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits.clone()
    }

    /// A double has no configuration; the frame still carries one.
    pub(crate) fn config_text(&self) -> String {
        let config = TokenConfig::Pkcs11 {
            module: PathBuf::new(),
            serial: SERIAL.to_owned(),
            label: None,
            pin_file: PathBuf::new(),
            threads: None,
            network: false,
            sandbox: crate::config::Sandbox::default(),
            worker: PathBuf::new(),
            environment: BTreeMap::new(),
            limits: self.limits(),
        };
        serde_json::to_string(&config).unwrap_or_default()
    }

    pub(crate) fn bear(&self, socket: UnixStream, board: Board) -> io::Result<DoubleLife> {
        let board = if self.shared.lock().takes_a_blot() {
            Board::from(File::options().write(true).open("/dev/full")?)
        } else {
            board
        };
        let stop = Arc::new(Stop::new(socket.try_clone()?));
        let (shared, brake, ended) = (self.shared.clone(), stop.clone(), stop.clone());
        let connect = move |_: &TokenConfig, _: Option<&RootPin>| DoubleBackend::connect(shared, brake);
        let thread = std::thread::Builder::new().name("hsm-double".to_owned()).spawn(move || {
            serve(socket, board, connect);
            // `stop` keeps the socket open; the daemon waits for its end.
            ended.strike();
        })?;
        Ok(DoubleLife { stop, thread: Some(thread) })
    }
}

impl Default for Double {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Double {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Double(..)")
    }
}

/// One life of a double's worker.
pub(crate) struct DoubleLife {
    stop: Arc<Stop>,
    thread: Option<JoinHandle<()>>,
}

impl DoubleLife {
    pub(crate) fn kill(&mut self) {
        self.stop.strike();
        if let Some(thread) = self.thread.take() {
            // A double that panicked is as dead as one that was killed.
            let _ = thread.join();
        }
    }
}

/// What stands in for SIGKILL: cuts the socket and lets hung calls go.
struct Stop {
    socket: UnixStream,
    struck: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    const fn new(socket: UnixStream) -> Self {
        Self { socket, struck: Mutex::new(false), changed: Condvar::new() }
    }

    fn strike(&self) {
        *self.struck.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
        let _ = self.socket.shutdown(Shutdown::Both);
    }

    /// Hangs until killed.
    fn hang(&self) {
        let mut struck = self.struck.lock().unwrap_or_else(PoisonError::into_inner);
        while !*struck {
            struck = self.changed.wait(struck).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What the "hardware" holds.
#[derive(Default)]
struct Shared(Mutex<Held>);

#[derive(Default)]
struct Held {
    keys: BTreeMap<KeyId, Arc<SoftKey>>,
    hmac_keys: BTreeMap<KeyId, [u8; 32]>,
    /// Pairs that a call cut short left behind.
    halves: BTreeSet<KeyId>,
    keks: BTreeMap<KeyId, [u8; 32]>,
    backup_keks: BTreeMap<KeyId, [u8; 32]>,
    import_keys: BTreeMap<KeyId, Arc<SoftUnwrapper>>,
    roots: BTreeMap<u8, [u8; 32]>,
    anchor: AnchorReading,
    faults: VecDeque<DoubleFault>,
    unplugged: bool,
    boards_blotted: u32,
    signatures_made: u64,
}

impl Held {
    fn takes_a_blot(&mut self) -> bool {
        let blotted = self.boards_blotted > 0;
        self.boards_blotted = self.boards_blotted.saturating_sub(1);
        blotted
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct DoubleBackend {
    shared: Arc<Shared>,
    stop: Arc<Stop>,
}

impl DoubleBackend {
    fn connect(shared: Arc<Shared>, stop: Arc<Stop>) -> Result<Box<dyn Backend>, StartRefused> {
        if shared.lock().unplugged {
            return Err(StartRefused::TokenAbsent {
                serial: SERIAL.to_owned(),
                present: "nothing".to_owned(),
            });
        }
        Ok(Box::new(Self { shared, stop }))
    }
}

impl Backend for DoubleBackend {
    fn probe(&self) -> Probe {
        Probe {
            backend: "double".to_owned(),
            manufacturer: "Chancery".to_owned(),
            model: "double".to_owned(),
            serial: SERIAL.to_owned(),
            place: "memory".to_owned(),
            sessions: 2,
            kinds: KeyKind::ALL.to_vec(),
            schemes: Scheme::ALL.to_vec(),
            powers: vec![Power::Hmac, Power::Wrap, Power::Anchor, Power::Import, Power::Backup],
            strays: 0,
            foreign: Vec::new(),
            walls: Vec::new(),
            remarks: vec!["keys live in memory only; for tests".to_owned()],
            ..Probe::default()
        }
    }

    fn lanes(&mut self) -> Result<Vec<Box<dyn Lane>>, Fault> {
        let lane = || Box::new(DoubleLane::new(self.shared.clone(), self.stop.clone())) as Box<dyn Lane>;
        Ok(vec![lane(), lane()])
    }

    fn close(self: Box<Self>) {}
}

const SERIAL: &str = "double";
