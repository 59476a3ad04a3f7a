//! A real process is killed with SIGKILL after its nth commit, for every n, on the way forward and on the way back;
//! the next process finds the ledger and the files that were left, and brings all of it to one end.
//! Who enters: this very test binary, started again as the victim. What leaves: everything or nothing, and no locks.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use audit::verify::{Source, Terms, verify};
use audit::{Ledger, MachineClock, MachineRandom, Told};
use common::{SECOND, open, scope};
use sagas::testing::TestSeal;
use sagas::{
    Catalog, Definition, Engine, EngineParts, Lock, Observer, Probe, Refused, SagaKey, SagaLimits,
    StartRequest, State, StepContext, Undo, Workflow,
};
use serde::{Deserialize, Serialize};

const VICTIM: &str = "SAGAS_VICTIM";
const LAST_WORDS: &str = "committed for the last time";

#[derive(Serialize, Deserialize)]
struct Input {
    turns_round: bool,
}

/// The world outside: one file per effect, which outlives every process.
#[derive(Clone)]
struct Files(PathBuf);

impl Files {
    fn at(&self, cx: &StepContext) -> PathBuf {
        self.0.join(format!("effect-{}", cx.effect))
    }

    fn all(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("effect-")).collect()
    }
}

fn definition(files: &Files) -> Definition {
    let (act, probe, undo, last, look) =
        (files.clone(), files.clone(), files.clone(), files.clone(), files.clone());
    let drop_it = |name: &'static str| {
        Undo::local(move |tx: &mut audit::Tx<'_>, cx: &StepContext, _: &Input, _: &()| {
            common::drop_thing(tx, name)?;
            Ok(Told::new((), cx.entry("thing.drop", name)))
        })
    };
    Workflow::define("kill.all_kinds")
        .version(1)
        .input::<Input>()
        .locks(|_| vec![Lock::exclusive("the-one")])
        .local(
            "reserve",
            |tx, cx, _, ()| {
                common::put_thing(tx, "a")?;
                Ok(Told::new((), cx.entry("thing.put", "a")))
            },
            drop_it("a"),
        )
        .remote(
            "make",
            |step| {
                step.within(SECOND * 10)
                    .act(move |cx, _, (), _| {
                        let path = act.at(&cx);
                        async move {
                            std::fs::write(path, "made")
                                .map_err(|why| sagas::RemoteFault::unknown(why.to_string()))
                        }
                    })
                    .probe(move |cx, _, ()| {
                        let made = probe.at(&cx).exists();
                        async move { if made { Probe::Applied(()) } else { Probe::NotApplied } }
                    })
            },
            Undo::remote(SECOND * 10, move |cx: StepContext, _: Input, (): ()| {
                let path = undo.at(&cx);
                async move {
                    // Not there is as good as gone.
                    let _ = std::fs::remove_file(path);
                    Ok(())
                }
            }),
        )
        .local(
            "attach",
            |tx, cx, _, ()| {
                common::put_thing(tx, "b")?;
                Ok(Told::new((), cx.entry("thing.put", "b")))
            },
            drop_it("b"),
        )
        .pivot_local("pivot", |tx, cx, input, ()| {
            if input.turns_round {
                return Err(Refused::business("asked_to", "the input says so"));
            }
            common::put_thing(tx, "p")?;
            Ok(Told::new((), cx.entry("thing.put", "p")))
        })
        .remote("publish", |step| {
            step.within(SECOND * 10)
                .act(move |cx, _, (), _| {
                    let path = last.at(&cx);
                    async move {
                        std::fs::write(path, "published")
                            .map_err(|why| sagas::RemoteFault::unknown(why.to_string()))
                    }
                })
                .probe(move |cx, _, ()| {
                    let made = look.at(&cx).exists();
                    async move { if made { Probe::Applied(()) } else { Probe::NotApplied } }
                })
        })
        .build()
        .unwrap()
}

fn parts(ledger: Ledger, dir: &Path, observer: Arc<dyn Observer>) -> EngineParts {
    EngineParts {
        ledger,
        catalog: Catalog::new(vec![definition(&Files(dir.to_owned()))]).unwrap(),
        seal: Arc::new(TestSeal),
        clock: Arc::new(MachineClock::new()),
        random: Arc::new(MachineRandom),
        limits: SagaLimits::default(),
        observer,
    }
}

/// Says its last words after the nth commit, and then holds still until it is killed.
struct LastWords {
    commits: AtomicU64,
    last: u64,
}

impl Observer for LastWords {
    fn committed(&self, _: &SagaKey, _: &str, _: Duration) {
        if self.commits.fetch_add(1, Ordering::SeqCst) + 1 == self.last {
            let mut out = std::io::stdout();
            writeln!(out, "{LAST_WORDS}").unwrap();
            out.flush().unwrap();
            loop {
                std::thread::park();
            }
        }
    }
}

/// Not a promise of its own: the process that the test below starts and kills. Without a victim's papers it has nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn the_victim_of_the_test_below() {
    let Ok(papers) = std::env::var(VICTIM) else { return };
    let [dir, last, turns_round]: [&str; 3] = papers.split('|').collect::<Vec<_>>().try_into().unwrap();
    let ledger = open(Path::new(dir).join("ledger.db"), Arc::new(MachineClock::new()));
    let observer = LastWords { commits: AtomicU64::new(0), last: last.parse().unwrap() };
    let engine = Engine::start(parts(ledger, Path::new(dir), Arc::new(observer))).await.unwrap();
    let input = Input { turns_round: turns_round == "true" };
    let started = engine.launch(StartRequest::new("kill.all_kinds", scope(), &input).unwrap()).await.unwrap();
    engine.wait(&started.key, SECOND * 60).await.unwrap().expect("it ends or is killed");
    println!("over");
}

/// Starts a victim, and kills it at its last words; says whether it had any.
fn killed(dir: &Path, commit: u64, turns_round: bool) -> bool {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_victim_of_the_test_below", "--nocapture"])
        .env(VICTIM, format!("{}|{commit}|{turns_round}", dir.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let words = BufReader::new(victim.stdout.take().unwrap()).lines();
    let spoke = words.map_while(Result::ok).find(|line| line.contains(LAST_WORDS) || line.contains("over"));
    victim.kill().unwrap();
    victim.wait().unwrap();
    spoke.expect("the victim says something before it goes").contains(LAST_WORDS)
}

async fn after_the_kill(dir: &Path, turns_round: bool, commit: u64) {
    let ledger = open(dir.join("ledger.db"), Arc::new(MachineClock::new()));
    let engine = Engine::start(parts(ledger.clone(), dir, Arc::new(sagas::Deaf))).await.unwrap();
    let all = engine.list(sagas::Filter { rows_max: 10, ..sagas::Filter::default() }).await.unwrap();
    assert_eq!(all.len(), 1, "the start was durable before it was told");
    let key = SagaKey { scope: scope(), id: all[0].id.parse().unwrap() };
    let end = engine.wait(&key, SECOND * 30).await.unwrap().expect("it ends");
    let wanted = if turns_round { State::Compensated } else { State::Succeeded };
    assert_eq!(end.state, wanted, "killed after commit {commit}");
    let things = ledger.read(common::things_in).await.unwrap();
    let names: Vec<_> = things.iter().map(|(name, puts)| (name.as_str(), *puts)).collect();
    let files = Files(dir.to_owned()).all().len();
    match wanted {
        State::Succeeded => {
            assert_eq!((names, files), (vec![("a", 1), ("b", 1), ("p", 1)], 2), "commit {commit}")
        }
        _ => assert_eq!((names, files), (vec![], 0), "commit {commit}"),
    }
    assert!(engine.locks().await.unwrap().is_empty());
    engine.close().await;
    ledger.close().await;
    let source = Source::open(&dir.join("ledger.db")).unwrap();
    let report = verify(&source, &Terms::default(), |_| {}).unwrap();
    assert!(report.finding.is_none() && report.entries > 0, "the ledger verifies: {report:?}");
}

async fn killed_at_every_commit(turns_round: bool, commits_min: u64) {
    for commit in 1.. {
        let dir = tempfile::tempdir().unwrap();
        let had_last_words = killed(dir.path(), commit, turns_round);
        after_the_kill(dir.path(), turns_round, commit).await;
        if !had_last_words {
            assert!(commit > commits_min, "only {} commits were there to die after", commit - 1);
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_any_commit_on_the_way_forward_it_is_done_wholly() {
    killed_at_every_commit(false, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_after_any_commit_on_the_way_back_nothing_is_left() {
    killed_at_every_commit(true, 5).await;
}
