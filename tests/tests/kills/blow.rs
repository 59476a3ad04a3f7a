//! The blow: SIGKILL at a durable call of the ledger's writer, when the commit lies in the file and nobody has heard of it.
//! Who enters: a round, with the number of the commit after which the daemon is to die.
//! What leaves: a dead daemon; or one that came to rest before the number was reached, and is let go.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use promises::programs::tool;
use promises::{Appliance, eventually};
use rustix::process::{Pid, Signal, kill_process};

/// strace, holding the writer's thread and no other: the rest of the daemon runs at its own pace.
pub(crate) struct Blow {
    strace: Child,
}

/// The thread that commits.
const WRITER: &str = "ledger-writer";
const HELD_MAX: Duration = Duration::from_secs(10);

impl Blow {
    /// Has the daemon die at its `number`th durable call from now on. All frames of a commit, the last included, are
    /// written before the file is synced: whoever dies at the call has committed.
    pub(crate) async fn aim(house: &mut Appliance, number: usize) -> Self {
        let thread = writer_of(house.daemon().pid());
        let number_of_thread = thread.file_name().expect("a thread's number").to_owned();
        let mut strace = tool("strace", "strace");
        strace.args(["-qq", "-e", "trace=fdatasync", "-e"]);
        strace.arg(format!("inject=fdatasync:signal=KILL:when={number}"));
        strace.arg("-o").arg(house.path("blow.log")).arg("-p").arg(number_of_thread);
        let strace = strace.spawn().expect("strace starts");
        let held = || async { is_held(&thread).then_some(()) };
        eventually("strace holds the writer", HELD_MAX, held).await;
        Self { strace }
    }

    /// Lets the daemon go, if it lives.
    pub(crate) fn withdraw(mut self) {
        // One that ended with its daemon is only collected.
        if matches!(self.strace.try_wait(), Ok(None)) {
            let strace = i32::try_from(self.strace.id()).ok().and_then(Pid::from_raw).expect("a process id");
            kill_process(strace, Signal::TERM).expect("a living strace");
        }
        self.strace.wait().expect("strace ends");
    }
}

fn writer_of(daemon: Pid) -> PathBuf {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.as_raw_nonzero())).expect("its threads");
    let is_writer = |thread: &PathBuf| {
        std::fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim() == WRITER)
    };
    tasks.flatten().map(|task| task.path()).find(is_writer).expect("a thread that commits")
}

/// Held, or gone already: whatever it committed meanwhile was a commit too.
fn is_held(thread: &Path) -> bool {
    let Ok(status) = std::fs::read_to_string(thread.join("status")) else { return true };
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:")).map(str::trim);
    tracer.is_some_and(|pid| pid != "0")
}
