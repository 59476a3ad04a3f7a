//! The blow: SIGKILL at the sync of a commit, when it lies in the file and nobody has heard of it; or before the first byte of
//! the next commit, when everything was done that follows from this one, and nothing of that is on record.
//! Who enters: tests, with the number of a commit and the moment.
//! What leaves: a dead daemon; or one that came to rest before the number was reached, and is let go.

use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinHandle;

use crate::programs::tool;
use crate::{Appliance, eventually};

/// When to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// With the commit durable, before anybody hears of it.
    AfterCommit,
    /// Once whatever follows from the commit was done, before that is on record.
    BeforeNext,
}

/// A blow that may fall.
pub enum Blow {
    /// At the commit itself.
    Sudden(Strace),
    /// Halted at the commit, and let go on until it writes again.
    Delayed(JoinHandle<Strace>),
}

/// strace, holding the writer's thread and no other: the rest of the daemon runs at its own pace.
pub struct Strace(Child);

/// The thread that commits.
const WRITER: &str = "ledger-writer";
const HELD_MAX: Duration = Duration::from_secs(10);
/// Longer than any story.
const REACHED_MAX: Duration = Duration::from_secs(300);

impl Blow {
    /// Has the daemon die at its `number`th commit from now on, or behind it. All frames of a commit, the last included, are
    /// written before the file is synced: whoever dies at the call has committed.
    pub async fn aim(house: &mut Appliance, number: usize, moment: Moment) -> Self {
        let daemon = house.daemon().pid();
        let writer = writer_of(daemon);
        match moment {
            Moment::AfterCommit => Self::Sudden(Strace::hold(&writer, "fdatasync", "KILL", number).await),
            Moment::BeforeNext => {
                let halt = Strace::hold(&writer, "fdatasync", "STOP", number).await;
                Self::Delayed(tokio::spawn(async move {
                    eventually("the commit", REACHED_MAX, || async { is_halted(daemon).then_some(()) }).await;
                    drop(halt);
                    let kill = Strace::hold(&writer, "pwrite64", "KILL", 1).await;
                    kill_process(daemon, Signal::CONT).expect("a halted daemon");
                    kill
                }))
            }
        }
    }

    /// Lets the daemon go, if it lives.
    pub async fn withdraw(self, house: &mut Appliance) {
        match self {
            Self::Sudden(held) => drop(held),
            Self::Delayed(waiting) => {
                waiting.abort();
                drop(waiting.await);
                // It may have reached the commit at the very last moment.
                house.daemon().signal_if_alive(Signal::CONT);
            }
        }
    }
}

impl Strace {
    async fn hold(thread: &Path, call: &str, signal: &str, number: usize) -> Self {
        let mut strace = tool("strace", "strace");
        strace.args(["-qq", "-e", &format!("trace={call}"), "-o", "/dev/null", "-p"]);
        strace.arg(thread.file_name().expect("a thread's number"));
        strace.args(["-e", &format!("inject={call}:signal={signal}:when={number}")]);
        let held = Self(strace.spawn().expect("strace starts"));
        eventually("strace holds the writer", HELD_MAX, || async { is_held(thread).then_some(()) }).await;
        held
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // One that ended with its daemon is only collected; a running one lets go of the thread before it ends.
        if matches!(self.0.try_wait(), Ok(None))
            && let Some(strace) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(strace, Signal::TERM);
        }
        let _ = self.0.wait();
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
    status(thread, "TracerPid:").is_none_or(|tracer| tracer != "0")
}

/// The whole process stands still. The writer itself is being held, so its first thread is asked.
fn is_halted(daemon: Pid) -> bool {
    let first = PathBuf::from(format!("/proc/{}", daemon.as_raw_nonzero()));
    status(&first, "State:").is_some_and(|state| state.starts_with('T'))
}

fn status(of: &Path, field: &str) -> Option<String> {
    let status = std::fs::read_to_string(of.join("status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix(field)).map(|value| value.trim().to_owned())
}
