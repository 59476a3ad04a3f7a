//! Promises about crashes: the writer is killed, and its disk fails, at one system call after another; whatever was
//! acknowledged is there afterwards with exactly one entry, and whatever was refused is not.
//!
//! A sample of the points runs always; `CHANCERY_TORTURE=all` runs every one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use audit::verify::{Source, Terms, verify};
use audit::{Entry, Ledger, LedgerOptions, SqlFault, Told, WriteRefused, params};
use common::{ADD, House, workspace};

const CHILD: &str = "CHANCERY_TORTURE_CHILD";
const ROUNDS: usize = 12;
const ABREAST: usize = 4;
/// Every call by which bytes become durable or files change.
const CALLS: &str = "pwrite64,fdatasync,fsync,ftruncate,unlink";

/// The writer that is tortured: this very test, started again with `CHILD` set. It tells each answer on its
/// standard output, which is the journal that faults do not reach.
#[tokio::test]
async fn the_writer_itself() {
    let Ok(path) = std::env::var(CHILD) else { return };
    let house = House::new();
    let Ok(ledger) = Ledger::open(LedgerOptions { path: path.into(), ..house.options() }) else {
        tell("open refused");
        return;
    };
    for round in 0..ROUNDS {
        let mut writes = tokio::task::JoinSet::new();
        for n in 0..ABREAST {
            writes.spawn(write(ledger.clone(), format!("{round}-{n}")));
        }
        while writes.join_next().await.is_some() {}
    }
    ledger.close().await;
    tell("closed");
}

async fn write(ledger: Ledger, id: String) {
    let named = id.clone();
    let work = move |tx: &mut audit::Tx<'_>| {
        tx.within(&workspace("a")).run(&ADD, params![&named, 1])?;
        Ok::<_, SqlFault>(Told::new((), Entry::new("note.add").workspace(&workspace("a")).object(&named)))
    };
    tell(&match ledger.write(work).await {
        Ok(recorded) => format!("acknowledged {id} {}", recorded.seq()),
        Err(WriteRefused::NoSpace) => format!("nospace {id}"),
        Err(WriteRefused::Lost) => format!("lost {id}"),
        Err(other) => format!("other {id} {other}"),
    });
}

fn tell(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\ntold {line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// What the writer told before it ended.
#[derive(Default)]
struct Journal {
    acknowledged: BTreeMap<String, u64>,
    nospace: BTreeSet<String>,
    lost: BTreeSet<String>,
    order: Vec<String>,
}

impl Journal {
    fn read(output: &Output) -> Self {
        let mut journal = Self::default();
        for line in
            String::from_utf8_lossy(&output.stdout).lines().filter_map(|line| line.strip_prefix("told "))
        {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["acknowledged", id, seq] => {
                    journal.acknowledged.insert(id.to_owned(), seq.parse().unwrap());
                }
                ["nospace", id] => {
                    journal.nospace.insert(id.to_owned());
                }
                ["lost", id] => {
                    journal.lost.insert(id.to_owned());
                }
                ["other", ..] => panic!("an answer nobody expects: {line}"),
                _ => {}
            }
            journal.order.push(words[0].to_owned());
        }
        journal
    }
}

fn tortured(path: &Path, strace: &[&str]) -> Output {
    let mut command = Command::new("strace");
    command.args(["-f", "-o"]).args(strace).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "the_writer_itself", "--nocapture", "--test-threads=1"]);
    command.env(CHILD, path).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.output().expect("strace is needed for this test: apt-get install strace")
}

/// How often each call is made at most by one thread of an undisturbed run: strace counts by thread.
fn calls_of_a_clean_run() -> BTreeMap<String, usize> {
    let house = House::new();
    let log = house.directory.path().join("strace.log");
    let output = tortured(&house.path(), &[log.to_str().unwrap(), "-e", &format!("trace={CALLS}")]);
    assert_eq!(Journal::read(&output).acknowledged.len(), ROUNDS * ABREAST);
    let mut by_thread: BTreeMap<(String, String), usize> = BTreeMap::new();
    for line in std::fs::read_to_string(log).unwrap().lines() {
        let mut words = line.split_whitespace();
        let (Some(thread), Some(call)) = (words.next(), words.next()) else { continue };
        if let Some((name, _)) = call.split_once('(') {
            *by_thread.entry((name.to_owned(), thread.to_owned())).or_default() += 1;
        }
    }
    let mut most = BTreeMap::new();
    for ((call, _), count) in by_thread {
        let entry = most.entry(call).or_insert(0);
        *entry = count.max(*entry);
    }
    most
}

/// Every point, or a spread of them.
fn points(sample: usize) -> Vec<(String, usize)> {
    let all = std::env::var("CHANCERY_TORTURE").is_ok_and(|it| it == "all");
    let mut points = Vec::new();
    for (call, count) in calls_of_a_clean_run() {
        let step = if all { 1 } else { count.div_ceil(sample).max(1) };
        points.extend((1..=count).step_by(step).map(|at| (call.clone(), at)));
    }
    assert!(points.len() >= sample, "a clean run makes too few calls: {points:?}");
    points
}

/// The invariants, whatever happened: the log verifies, each acknowledged write is there under its own number, and
/// changes and entries are as many.
async fn judge(house: &House, journal: &Journal, what: &str) {
    let Ok(ledger) = house.try_open(|_| {}) else { panic!("{what}: the ledger does not open again") };
    let entries = ledger
        .read(|view| view.entries(&audit::EntryFilter { limit: 1_000, ..Default::default() }))
        .await
        .unwrap();
    assert_eq!(house.count(&ledger, "a").await, entries.len() as i64, "{what}: changes and entries differ");
    let by_object: BTreeMap<&str, u64> = entries.iter().map(|it| (it.object.as_str(), it.seq)).collect();
    assert_eq!(by_object.len(), entries.len(), "{what}: a write has two entries");
    for (id, seq) in &journal.acknowledged {
        assert_eq!(
            by_object.get(id.as_str()),
            Some(seq),
            "{what}: acknowledged write {id} is not where it was said to be"
        );
    }
    for id in &journal.nospace {
        assert!(!by_object.contains_key(id.as_str()), "{what}: write {id} was refused and is there");
    }
    house.add(&ledger, "a", "afterwards").await;
    ledger.close().await;
    let report = verify(&Source::open(&house.path()).unwrap(), &Terms::default(), |_| {}).unwrap();
    assert_eq!(report.finding, None, "{what}");
}

#[tokio::test]
async fn a_kill_at_any_durable_call_loses_nothing_acknowledged() {
    let (mut died, mut outlived) = (0, 0);
    for (call, at) in points(4) {
        let house = House::new();
        let inject = format!("inject={call}:signal=KILL:when={at}");
        let output = tortured(&house.path(), &["/dev/null", "-e", &format!("trace={call}"), "-e", &inject]);
        let journal = Journal::read(&output);
        match output.status.signal() {
            Some(9) => died += 1,
            // How many writes share a commit is up to the scheduler, so a run may make fewer calls than the one
            // that was counted; then it must have come to its end.
            _ => {
                assert_eq!(
                    journal.order.last().map(String::as_str),
                    Some("closed"),
                    "{inject}: ended otherwise"
                );
                outlived += 1;
            }
        }
        judge(&house, &journal, &inject).await;
    }
    assert!(died >= 8 && died > 2 * outlived, "only {died} kills, and {outlived} runs that ended before");
}

#[tokio::test]
async fn a_disk_error_stops_the_ledger_and_nothing_is_acknowledged_after_it() {
    for (call, at) in points(3) {
        for when in [format!("{at}"), format!("{at}+")] {
            let house = House::new();
            let inject = format!("inject={call}:error=EIO:when={when}");
            let trace = format!("trace={call}");
            let output =
                tortured(&house.path(), &["/dev/null", "--seccomp-bpf", "-e", &trace, "-e", &inject]);
            let journal = Journal::read(&output);
            if let Some(first) = journal.order.iter().position(|it| it == "lost") {
                let later = &journal.order[first..];
                assert!(
                    !later.contains(&"acknowledged".to_owned()),
                    "{inject}: acknowledged after the disk failed"
                );
            }
            judge(&house, &journal, &inject).await;
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_cleanly_and_writing_resumes_when_there_is_space() {
    let (mut refused, mut resumed) = (0, 0);
    for (call, at) in points(8).into_iter().filter(|(call, _)| call == "pwrite64") {
        let house = House::new();
        let inject = format!("inject={call}:error=ENOSPC:when={at}");
        let trace = format!("trace={call}");
        let output = tortured(&house.path(), &["/dev/null", "--seccomp-bpf", "-e", &trace, "-e", &inject]);
        let journal = Journal::read(&output);
        assert!(journal.lost.is_empty(), "{inject}: a full disk is no disk fault");
        if let Some(last) = journal.order.iter().rposition(|it| it == "nospace") {
            refused += 1;
            resumed += usize::from(journal.order[last..].contains(&"acknowledged".to_owned()));
        }
        judge(&house, &journal, &inject).await;
    }
    assert!(refused > 0 && resumed > 0, "no run met a full disk ({refused}) and went on ({resumed})");
}

/// A file is durable only together with its name, and the name stands in the directory. The engine syncs the directory too
/// when it makes its own files, but with `fdatasync` and for their sake; ours is an `fsync`, and comes before the first
/// entry can be written.
#[tokio::test]
async fn a_new_ledger_is_durable_with_its_name_before_anything_is_acknowledged() {
    let house = House::new();
    let log = house.directory.path().join("strace.log");
    let trace = "trace=openat,fsync,pwrite64,write";
    let output = tortured(&house.path(), &[log.to_str().unwrap(), "-y", "-e", trace]);
    assert_eq!(Journal::read(&output).acknowledged.len(), ROUNDS * ABREAST);
    let calls = std::fs::read_to_string(log).unwrap();
    let calls: Vec<&str> = calls.lines().collect();
    let directory = std::fs::canonicalize(house.directory.path()).unwrap();
    let first = |what: &str, wanted: &dyn Fn(&str) -> bool| {
        calls.iter().position(|call| wanted(call)).unwrap_or_else(|| panic!("no call that {what}"))
    };
    let made = first("makes the file", &|call| call.contains("ledger.db\", ") && call.contains("O_CREAT"));
    let name = format!("<{}>)", directory.display());
    let named = first("syncs its directory", &|call| call.contains("fsync(") && call.contains(&name));
    let logged =
        first("writes an entry", &|call| call.contains("pwrite64(") && call.contains("ledger.db-wal>"));
    let told = first("acknowledges", &|call| call.contains("told acknowledged"));
    assert!(made < named && named < logged && logged < told, "{made} {named} {logged} {told}");
}
