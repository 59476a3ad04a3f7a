//! The daemon as a process: started, watched, signalled, killed, and never left behind.
//! Who enters: the appliance, with a command line; tests that torment it.
//! What leaves: where it listens, how it ended, what it wrote to its log.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::wait::{GIVEN_UP, eventually, within};

/// A running daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    pid: Pid,
    log: PathBuf,
    lines: Lines<BufReader<ChildStdout>>,
}

/// A loaded build machine starts slowly; the promise of a quick start is asserted elsewhere.
const START_MAX: Duration = Duration::from_secs(60);
/// Longer than the drain.
const END_MAX: Duration = Duration::from_secs(40);

impl Daemon {
    /// Starts it and waits for the line that says where it listens; `None` if it ended before.
    pub async fn start(command: Command, log: &Path) -> (Self, Option<SocketAddr>) {
        let mut daemon = Self::begin(command, log);
        let address = daemon.listens().await;
        (daemon, address)
    }

    /// Starts it and waits for nothing.
    pub fn begin(mut command: Command, log: &Path) -> Self {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("the log's file");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(file).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|why| panic!("{command:?} did not start: {why}"));
        let pid =
            child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw).expect("a process id");
        let lines = BufReader::new(child.stdout.take().expect("its standard output")).lines();
        Self { child, pid, log: log.to_owned(), lines }
    }

    /// Waits for the line that says where it listens; `None` if it ended before.
    pub async fn listens(&mut self) -> Option<SocketAddr> {
        let line = within("the daemon's first line", START_MAX, self.lines.next_line()).await;
        line.expect("its output").map(|line| {
            let address =
                line.strip_prefix("serving on https://").unwrap_or_else(|| panic!("it said: {line}"));
            address.parse().expect("an address")
        })
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its children: a worker for the token and one for the TPM.
    pub fn workers(&self) -> Vec<Pid> {
        children(self.pid)
    }

    /// The worker that has the token's module loaded. One that was started anew has it a moment after it shows among the children.
    pub async fn token_worker(&self) -> Pid {
        let has_module = |worker: &Pid| {
            let maps = std::fs::read_to_string(format!("/proc/{}/maps", worker.as_raw_nonzero()));
            maps.is_ok_and(|maps| maps.contains("softhsm"))
        };
        eventually("a worker has the token's module", GIVEN_UP, async || {
            self.workers().into_iter().find(has_module)
        })
        .await
        .0
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("a living daemon");
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> ExitStatus {
        within("the daemon's end", END_MAX, self.child.wait()).await.expect("its exit status")
    }

    /// Waits for its end, however long that takes.
    pub async fn gone(&mut self) {
        self.child.wait().await.expect("its exit status");
    }

    /// Sends it a signal unless it has ended.
    pub fn signal_if_alive(&mut self, signal: Signal) {
        if self.has_ended().is_none() {
            self.signal(signal);
        }
    }

    /// It ended already.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("its exit status")
    }

    /// What it wrote to standard error since the first start.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("its log")
    }

    /// Open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid.as_raw_nonzero())).expect("its descriptors").count()
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid.as_raw_nonzero()))
            .expect("its status");
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap_or_default() * 1024
    }
}

/// Whose parent is this process, oldest first.
pub fn children(parent: Pid) -> Vec<Pid> {
    let tasks =
        std::fs::read_dir(format!("/proc/{}/task", parent.as_raw_nonzero())).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let mut found: Vec<i32> = lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect();
    found.sort_unstable();
    found.into_iter().filter_map(Pid::from_raw).collect()
}

/// Ends a process that a test started by way of the daemon: its worker.
pub fn kill(pid: Pid, signal: Signal) {
    kill_process(pid, signal).expect("a living process");
}
