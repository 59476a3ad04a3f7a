//! The ledger's writer dies or is lied to at a durable system call of the real daemon.
//! Who enters: strace, which kills at the Nth call or lets it fail; a load with a journal outside.
//! What leaves: whatever the moment, every acknowledged signature has its entry and the log verifies after a restart.

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use promises::load::Tally;
use promises::programs::tool;
use promises::{Appliance, Load, Until, evidence};
use rustix::process::Signal;

/// More than any of the sampled calls needs to be reached.
const REQUESTS: u64 = 120;
/// What strace saw; an injected error is marked in it.
pub(crate) const STRACE_LOG: &str = "strace.log";
/// SIGKILL: what a shell calls exit code 137.
const KILLED: i32 = 9;

/// strace beside the daemon, which stays its own process (`-D`), with an eye on the ledger's files alone: the worker
/// writes too. The count is for each thread, and one thread writes. The seccomp filter makes error runs fast, but
/// silently loses injected signals, so kills go without it.
pub(crate) fn strace(house: &Appliance, inject: &str) -> Vec<OsString> {
    drop(tool("strace", "strace"));
    let call = inject.split(':').next().unwrap_or_default();
    let filter = if inject.contains("signal=") { "-f" } else { "--seccomp-bpf" };
    let (trace, inject) = (format!("trace={call}"), format!("inject={inject}"));
    let log = house.path(STRACE_LOG).display().to_string();
    let line = ["strace", "-D", "-f", filter, "-qq", "-o", &log, "-e", &trace, "-e", &inject];
    let files = ["ledger.db", "ledger.db-wal"].map(|name| house.state().join(name).into_os_string());
    line.map(OsString::from)
        .into_iter()
        .chain(files.into_iter().flat_map(|file| ["-P".into(), file]))
        .collect()
}

/// An appliance that was struck, and what its clients had been told before.
struct Struck {
    house: Appliance,
    key: String,
    keys: Vec<String>,
    tally: Tally,
    ended: Option<ExitStatus>,
}

/// Serves under strace, with a load, until the load is done or the daemon is gone.
async fn strike(inject: &str) -> Struck {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let keys = evidence::verifier_keys(&house).await;
    house.terminate().await;
    let (tally, ended) = match house.try_serve_under(&strace(&house, inject)).await {
        // Struck while it started, before it took any request.
        Err(status) => (Tally::default(), Some(status)),
        Ok(()) => {
            let load = Load {
                connections: 4,
                until: Until::Sent(REQUESTS),
                ..Load::of(&member, &house.door(), &key)
            };
            let tally = load.start().finish_or(house.daemon().gone()).await;
            let ended = house.daemon().has_ended();
            house.daemon().signal_if_alive(Signal::KILL);
            house.ended().await;
            (tally, ended)
        }
    };
    Struck { house, key, keys, tally, ended }
}

impl Struck {
    /// After a restart on a healthy disk: each acknowledged signature has its entry, and the log verifies.
    async fn has_lost_nothing(mut self, inject: &str) {
        self.house.serve().await;
        self.house.ready().await;
        evidence::each_has_its_entry(&self.house, &self.key, &self.tally.signed).await;
        self.house.terminate().await;
        evidence::verifies_at_rest(&self.house, &self.keys);
        // For whoever reads the output: how deep into the load it was.
        println!("{inject}: {} signatures handed out, {:?}", self.tally.signed.len(), self.tally.refused);
    }
}

#[tokio::test]
async fn a_kill_at_a_durable_call_of_the_writer_loses_no_acknowledged_signature() {
    for inject in [
        "pwrite64:signal=KILL:when=9",
        "pwrite64:signal=KILL:when=90",
        "pwrite64:signal=KILL:when=231",
        "fdatasync:signal=KILL:when=3",
        "fdatasync:signal=KILL:when=12",
        "fdatasync:signal=KILL:when=25",
    ] {
        let struck = strike(inject).await;
        let signal = struck.ended.and_then(|status| status.signal());
        assert_eq!(signal, Some(KILLED), "{inject} did not strike: a test without a crash proves nothing");
        struck.has_lost_nothing(inject).await;
    }
}

#[tokio::test]
async fn a_failed_write_or_sync_of_the_writer_loses_no_acknowledged_signature() {
    for inject in [
        "fdatasync:error=EIO:when=12",
        "fdatasync:error=EIO:when=20+",
        "pwrite64:error=EIO:when=130",
        "pwrite64:error=ENOSPC:when=151",
        "pwrite64:error=ENOSPC:when=200+",
    ] {
        let struck = strike(inject).await;
        let log = std::fs::read_to_string(struck.house.path(STRACE_LOG)).unwrap();
        assert!(log.contains("(INJECTED)"), "{inject} did not strike: a test without a fault proves nothing");
        struck.has_lost_nothing(inject).await;
    }
}
