//! Figures of the engine on this machine: workflows, steps, locks, idempotency keys, a restart with many live sagas.
//! Who enters: `cargo run --release -p sagas --features double --example saga_figures [-- --json]`.
//! What leaves: one line per figure, or one JSON object. Every commit is durable before it is answered.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a measurement that fails says nothing"
)]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use audit::{Entry, Ledger, LedgerLimits, LedgerOptions, MachineClock, MachineRandom, Told, Workspace};
use sagas::idempotency::{Answer, Fingerprint, Idempotency, Keep, Key, RequestParts, Standing, Whose};
use sagas::lock::lease::{LeaseRequest, Leases};
use sagas::testing::TestSeal;
use sagas::{
    Catalog, Deaf, Definition, Engine, EngineParts, Lock, Observer, OnConflict, Origin, Refused, Ruling,
    SagaKey, SagaLimits, Scope, StartRequest, Undo, Workflow,
};
use serde_json::json;

const WORKFLOWS: usize = 20_000;
const AT_ONCE: usize = 64;
const LIVE: usize = 10_000;

fn scope() -> Scope {
    Scope::Workspace(Workspace::new("acme").unwrap())
}

/// Five local steps that only tell: what is measured is the engine and the ledger under it.
fn local() -> Definition {
    Workflow::define("figures.local")
        .version(1)
        .input::<u64>()
        .locks(|input| vec![Lock::exclusive(format!("thing/{input}"))])
        .local(
            "one",
            |_, cx, _, ()| Ok(Told::new(1_u64, cx.entry("thing.one", "x"))),
            Undo::none("nothing is kept"),
        )
        .local(
            "two",
            |_, cx, _, b| Ok(Told::new(b + 1, cx.entry("thing.two", "x"))),
            Undo::none("nothing is kept"),
        )
        .local(
            "three",
            |_, cx, _, b| Ok(Told::new(b + 1, cx.entry("thing.three", "x"))),
            Undo::none("nothing is kept"),
        )
        .pivot_local("four", |_, cx, _, b| Ok(Told::new(b + 1, cx.entry("thing.four", "x"))))
        .local("five", |_, cx, _, b| Ok(Told::new(b + 1, cx.entry("thing.five", "x"))))
        .build()
        .unwrap()
}

/// One that waits, for the restart.
fn waiting() -> Definition {
    Workflow::define("figures.waiting")
        .version(1)
        .input::<u64>()
        .local(
            "one",
            |_, cx, _, ()| Ok(Told::new(1_u64, cx.entry("thing.one", "x"))),
            Undo::none("nothing is kept"),
        )
        .wait(
            "word",
            |step| {
                step.at_most(|_, _| Duration::from_secs(36_000))
                    .on(&["go"], |_, _, _, b: &u64, _| Ok::<_, Refused>(Ruling::Passed(*b, Vec::new())))
            },
            Undo::none("it only waits"),
        )
        .pivot_local("two", |_, cx, _, b| Ok(Told::new(*b, cx.entry("thing.two", "x"))))
        .build()
        .unwrap()
}

/// Collects how long commits took.
#[derive(Default)]
struct Stopwatch(Mutex<Vec<Duration>>);

impl Observer for Stopwatch {
    fn committed(&self, _: &SagaKey, _: &str, took: Duration) {
        self.0.lock().unwrap().push(took);
    }
}

fn open(path: &Path) -> Ledger {
    Ledger::open(LedgerOptions {
        path: path.join("ledger.db"),
        origin: "figures.example/log".to_owned(),
        schemas: vec![&sagas::SCHEMA],
        clock: Arc::new(MachineClock::new()),
        random: Arc::new(MachineRandom),
        limits: LedgerLimits::default(),
        dangerous_without_recovery: true,
    })
    .unwrap()
}

fn parts(ledger: Ledger, observer: Arc<dyn Observer>) -> EngineParts {
    EngineParts {
        ledger,
        catalog: Catalog::new(vec![local(), waiting()]).unwrap(),
        seal: Arc::new(TestSeal),
        clock: Arc::new(MachineClock::new()),
        random: Arc::new(MachineRandom),
        limits: SagaLimits::default(),
        observer,
    }
}

fn percentile(times: &mut [Duration], part: f64) -> f64 {
    times.sort();
    let at = (times.len() as f64 * part) as usize;
    times[at.min(times.len() - 1)].as_secs_f64() * 1e3
}

/// Runs `count` things, `at_once` at a time; how many there were in a second.
async fn rate<F, Fut>(count: usize, at_once: usize, each: F) -> f64
where
    F: Fn(u64) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send,
{
    let began = Instant::now();
    let workers: Vec<_> = (0..at_once)
        .map(|worker| {
            let each = each.clone();
            tokio::spawn(async move {
                let mut next = worker;
                while next < count {
                    each(next as u64).await;
                    next += at_once;
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    count as f64 / began.elapsed().as_secs_f64()
}

async fn launch(engine: &Engine, workflow: &str, input: u64) {
    let request = StartRequest::new(workflow, scope(), &input).unwrap();
    let request = request
        .origin(Origin {
            actor: "api-key:1".to_owned(),
            request: format!("req-{input}"),
            ..Origin::default()
        })
        .on_conflict(OnConflict::Refuse);
    let started = engine.launch(request).await.unwrap();
    if !started.state.is_over() && workflow == "figures.local" {
        engine.wait(&started.key, Duration::from_secs(30)).await.unwrap().expect("it ends");
    }
}

async fn workflows(path: &Path, figures: &mut serde_json::Map<String, serde_json::Value>) {
    let watch = Arc::new(Stopwatch::default());
    let ledger = open(path);
    let engine = Engine::start(parts(ledger.clone(), watch.clone())).await.unwrap();
    let driven = engine.clone();
    let alone = rate(500, 1, move |input| {
        let engine = driven.clone();
        async move { launch(&engine, "figures.local", 1_000_000 + input).await }
    });
    figures.insert("workflows_per_s_alone".to_owned(), json!(alone.await.round()));
    let mut times = std::mem::take(&mut *watch.0.lock().unwrap());
    figures.insert("commit_p50_ms_alone".to_owned(), json!(percentile(&mut times, 0.5)));
    figures.insert("commit_p99_ms_alone".to_owned(), json!(percentile(&mut times, 0.99)));
    let (driven, before) = (engine.clone(), ledger.health());
    let crowd = rate(WORKFLOWS, AT_ONCE, move |input| {
        let engine = driven.clone();
        async move { launch(&engine, "figures.local", input).await }
    });
    let per_second = crowd.await;
    let after = ledger.health();
    figures.insert("workflows_per_s".to_owned(), json!(per_second.round()));
    figures.insert("steps_per_s".to_owned(), json!((per_second * 5.0).round()));
    figures.insert(
        "syncs_per_workflow".to_owned(),
        json!((after.syncs - before.syncs) as f64 / WORKFLOWS as f64),
    );
    let mut times = std::mem::take(&mut *watch.0.lock().unwrap());
    figures.insert("commit_p50_ms".to_owned(), json!(percentile(&mut times, 0.5)));
    figures.insert("commit_p99_ms".to_owned(), json!(percentile(&mut times, 0.99)));
    engine.close().await;
    ledger.close().await;
}

async fn leases(path: &Path) -> f64 {
    let ledger = open(path);
    let all = Leases::new(ledger.clone(), Arc::new(MachineClock::new()), Arc::new(MachineRandom));
    let pairs = rate(5_000, 64, move |at| {
        let all = all.clone();
        async move {
            let wish = LeaseRequest {
                scope: scope(),
                name: format!("lock/{}", at % 64),
                holder: format!("client:{at}"),
                request_key: None,
                ttl: Duration::from_secs(10),
                wait: Duration::from_secs(30),
                origin: Origin::default(),
            };
            let lease = all.acquire(wish).await.unwrap();
            assert!(all.release(&lease.scope, &lease.name, lease.lease_id, Origin::default()).await.unwrap());
        }
    });
    let pairs = pairs.await;
    ledger.close().await;
    pairs
}

async fn keys(path: &Path) -> f64 {
    let ledger = open(path);
    let book = Idempotency::new(Arc::new(TestSeal), Arc::new(MachineClock::new()));
    let writes = ledger.clone();
    let claims = rate(10_000, 64, move |at| {
        let (book, ledger) = (book.clone(), writes.clone());
        async move {
            let whose = Whose { scope: scope(), principal: "api-key:1".to_owned() };
            let key = Key::parse(format!("key-{at}").as_bytes()).unwrap();
            let parts =
                RequestParts { method: "POST", route: "/v1/things", body: b"{}", ..RequestParts::default() };
            let kept = Keep { long: Duration::from_secs(86_400), bytes_max: None };
            let claim = book.claim(whose, key, Fingerprint::of(&parts), kept).await.unwrap();
            let answer = Answer { status: 201, headers: Vec::new(), body: b"{}".to_vec(), location: None };
            let written = ledger.write(move |tx| match claim.take(tx)? {
                Standing::Fresh(held) => {
                    claim.finish(tx, held, &answer, None)?;
                    Ok::<_, sagas::idempotency::ClaimRefused>(Told::new((), Entry::new("thing.make")))
                }
                other => panic!("{other:?}"),
            });
            written.await.unwrap();
        }
    });
    let claims = claims.await;
    ledger.close().await;
    claims
}

async fn restart(path: &Path, figures: &mut serde_json::Map<String, serde_json::Value>) {
    let ledger = open(path);
    let engine = Engine::start(parts(ledger.clone(), Arc::new(Deaf))).await.unwrap();
    let driven = engine.clone();
    rate(LIVE, AT_ONCE, move |input| {
        let engine = driven.clone();
        async move { launch(&engine, "figures.waiting", input).await }
    })
    .await;
    engine.close().await;
    ledger.close().await;
    let ledger = open(path);
    let began = Instant::now();
    let engine = Engine::start(parts(ledger.clone(), Arc::new(Deaf))).await.unwrap();
    figures.insert("live_sagas".to_owned(), json!(LIVE));
    figures.insert("restart_to_taken_over_ms".to_owned(), json!(began.elapsed().as_secs_f64() * 1e3));
    launch(&engine, "figures.local", 1).await;
    figures.insert("restart_to_first_workflow_ms".to_owned(), json!(began.elapsed().as_secs_f64() * 1e3));
    engine.close().await;
    ledger.close().await;
}

#[tokio::main]
async fn main() {
    let mut figures = serde_json::Map::new();
    let dir = |name: &str| tempfile::Builder::new().prefix(name).tempdir_in(".").unwrap();
    workflows(dir("figures-workflows").path(), &mut figures).await;
    figures.insert("lease_pairs_per_s".to_owned(), json!(leases(dir("figures-leases").path()).await.round()));
    figures
        .insert("idempotency_claims_per_s".to_owned(), json!(keys(dir("figures-keys").path()).await.round()));
    restart(dir("figures-restart").path(), &mut figures).await;
    if std::env::args().any(|arg| arg == "--json") {
        println!("{}", serde_json::Value::Object(figures));
    } else {
        figures.iter().for_each(|(name, value)| println!("{name:32} {value}"));
    }
}
