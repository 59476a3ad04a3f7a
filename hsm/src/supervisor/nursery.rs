//! Where workers are born and buried: one thread, as old as the token's handle.
//! Enters: the token's configuration, or a double.
//! Leaves: a socket to a live worker; later its certain death.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::config::TokenConfig;
use crate::double::{Double, DoubleLife};
use crate::error::StartRefused;
use crate::key::RootPin;
use crate::protocol::{Hello, VERSION};
use crate::serve::Board;

/// What a worker is made from.
pub(super) enum Source {
    Process(Box<TokenConfig>, Box<Option<RootPin>>),
    Double(Double),
}

/// A thread of its own, because the kernel kills a worker when the *thread* that started it ends, and runtime threads come and go.
#[derive(Clone)]
pub(super) struct Nursery {
    errands: mpsc::Sender<Errand>,
    source: Arc<Source>,
    /// Killed, but held in the kernel by their device.
    undead: Arc<Mutex<Vec<Child>>>,
    workers: Workers,
    /// The root key that every worker from now on is told of.
    root: Root,
}

/// The recorded root key, shared with the token's handles: it is made while workers live.
pub(super) type Root = Arc<Mutex<Option<RootPin>>>;

/// The process ids of a token's workers, so that a door of the daemon's can refuse them. The last few dead ones are among them: what
/// a worker began before its death may still be waiting at the door.
#[derive(Clone, Debug, Default)]
pub struct Workers(Arc<Mutex<VecDeque<u32>>>);

impl Workers {
    /// This process is, or was a moment ago, a worker.
    #[must_use]
    pub fn contains(&self, pid: u32) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&pid)
    }

    fn add(&self, pid: u32) {
        let mut pids = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        pids.truncate(WORKERS_REMEMBERED - 1);
        pids.push_front(pid);
    }
}

type Errand = Box<dyn FnOnce() + Send>;

/// A worker's life, to be ended by [`Nursery::bury`].
pub(super) struct Life {
    body: Body,
    board: Arc<Board>,
}

enum Body {
    Process(Child),
    Double(DoubleLife),
    Buried,
}

impl Nursery {
    pub(super) fn open(source: Source) -> Result<Self, StartRefused> {
        let (errands, work) = mpsc::channel::<Errand>();
        std::thread::Builder::new()
            .name("hsm-nursery".to_owned())
            .spawn(move || work.iter().for_each(|errand| errand()))
            .map_err(|fault| not_started("its keeper thread", &fault))?;
        let root = match &source {
            Source::Process(_, root) => (**root).clone(),
            Source::Double(_) => None,
        };
        Ok(Self {
            errands,
            source: Arc::new(source),
            undead: Arc::default(),
            workers: Workers::default(),
            root: Arc::new(Mutex::new(root)),
        })
    }

    /// The processes that were born here.
    pub(super) fn workers(&self) -> Workers {
        self.workers.clone()
    }

    /// The root key that workers are told of.
    pub(super) fn root(&self) -> Root {
        self.root.clone()
    }

    /// The first frame for a worker of this source.
    pub(super) fn hello(&self) -> Hello {
        let config = match &*self.source {
            Source::Process(config, _) => serde_json::to_string(config).unwrap_or_default(),
            Source::Double(double) => double.config_text(),
        };
        let root = self.root.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Hello { version: VERSION, config, root }
    }

    pub(super) async fn bear(&self) -> Result<(UnixStream, Life), StartRefused> {
        let (source, undead, workers) = (self.source.clone(), self.undead.clone(), self.workers.clone());
        let born = self.run(move || match &*source {
            Source::Process(config, _) => {
                count_undead(&undead)?;
                bear_process(config, &workers)
            }
            Source::Double(double) => bear_double(double),
        });
        born.await.unwrap_or_else(|| {
            Err(StartRefused::Device("the thread that starts workers is gone; restart the daemon".to_owned()))
        })
    }

    /// Kills a worker and waits for its death. False when the kernel does not let go of it: then it may still act.
    pub(super) async fn bury(&self, mut life: Life) -> bool {
        let undead = self.undead.clone();
        let dead = self.run(move || match std::mem::replace(&mut life.body, Body::Buried) {
            Body::Process(child) => bury_process(child, &undead),
            Body::Double(mut double) => {
                double.kill();
                true
            }
            Body::Buried => true,
        });
        dead.await.unwrap_or(false)
    }

    async fn run<T: Send + 'static>(&self, errand: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (reply, result) = oneshot::channel();
        let errand = move || {
            let _ = reply.send(errand());
        };
        self.errands.send(Box::new(errand)).ok()?;
        result.await.ok()
    }
}

impl Life {
    /// Where the worker marks what it begins.
    pub(super) fn board(&self) -> Arc<Board> {
        self.board.clone()
    }

    /// For the log.
    pub(super) fn name(&self) -> String {
        match &self.body {
            Body::Process(child) => format!("pid {}", child.id()),
            Body::Double(_) | Body::Buried => "double".to_owned(),
        }
    }
}

/// Dropped without a burial when the runtime ends under us: the process must not outlive its token.
impl Drop for Life {
    fn drop(&mut self) {
        match &mut self.body {
            Body::Process(child) => {
                // Its parent is ending; the next one to wait for it is init.
                let _ = child.kill();
                let _ = child.try_wait();
            }
            Body::Double(double) => double.kill(),
            Body::Buried => {}
        }
    }
}

fn bury_process(mut child: Child, undead: &Mutex<Vec<Child>>) -> bool {
    // Fails only when it is dead already.
    let _ = child.kill();
    let begun = Instant::now();
    while begun.elapsed() < BURIAL_MAX {
        if !matches!(child.try_wait(), Ok(None)) {
            return true;
        }
        std::thread::sleep(BURIAL_STEP);
    }
    tracing::error!(pid = child.id(), "a killed worker is held in the kernel by its device");
    undead.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    false
}

/// Reaps those who died at last. Too many who did not: the device is stuck, and another worker would be as well.
fn count_undead(undead: &Mutex<Vec<Child>>) -> Result<(), StartRefused> {
    let mut undead = undead.lock().unwrap_or_else(PoisonError::into_inner);
    undead.retain_mut(|child| matches!(child.try_wait(), Ok(None)));
    if undead.len() < UNDEAD_MAX {
        return Ok(());
    }
    let count = undead.len();
    Err(StartRefused::Device(format!(
        "{count} killed workers are held in the kernel; reset the device or its driver"
    )))
}

fn bear_process(config: &TokenConfig, workers: &Workers) -> Result<(UnixStream, Life), StartRefused> {
    let name = config.worker().display().to_string();
    let (ours, theirs, board) = connect().map_err(|fault| not_started(&name, &fault))?;
    let share = board.share().map_err(|fault| not_started(&name, &fault))?;
    let child = Command::new(config.worker())
        .env_clear()
        // The TPM's library prints every refusal to standard error; our own faults say it once and in words.
        .env("TSS2_LOG", "all+NONE")
        .envs(config.environment())
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(share))
        .spawn()
        .map_err(|fault| not_started(&name, &fault))?;
    // It waits for the configuration before it loads anything, so no vendor code has run by now.
    workers.add(child.id());
    Ok((ours, Life { body: Body::Process(child), board: Arc::new(board) }))
}

fn bear_double(double: &Double) -> Result<(UnixStream, Life), StartRefused> {
    let (ours, theirs, board) = connect().map_err(|fault| not_started("double", &fault))?;
    let share = board.share().map_err(|fault| not_started("double", &fault))?;
    let life = double.bear(theirs, Board::from(share)).map_err(|fault| not_started("double", &fault))?;
    Ok((ours, Life { body: Body::Double(life), board: Arc::new(board) }))
}

fn connect() -> io::Result<(UnixStream, UnixStream, Board)> {
    let (ours, theirs) = UnixStream::pair()?;
    Ok((ours, theirs, Board::blank()?))
}

fn not_started(worker: &str, fault: &io::Error) -> StartRefused {
    let advice = match fault.kind() {
        io::ErrorKind::NotFound => {
            "there is no such file; install chancery-hsm or correct the path".to_owned()
        }
        io::ErrorKind::PermissionDenied => {
            "it may not be executed; make it executable for the daemon's user".to_owned()
        }
        _ => fault.to_string(),
    };
    StartRefused::Worker { worker: worker.to_owned(), fault: advice }
}

/// A killed process is gone within a millisecond, unless a driver holds it; callers wait for the verdict.
const BURIAL_MAX: Duration = Duration::from_millis(200);
const BURIAL_STEP: Duration = Duration::from_micros(200);

/// A token that loses so many workers in a moment has other troubles.
const WORKERS_REMEMBERED: usize = 64;

/// Each holds its memory and the device.
const UNDEAD_MAX: usize = 3;
