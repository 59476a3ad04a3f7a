//! Growth: what a signature costs, and a start after kill -9, when the ledger has had a thousand, a million, ten million entries.
//! Who enters: sizes to grow to.
//! What leaves: a line for each size and `target/bench/growth.json`; the first size is what the others are compared with.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use audit::{
    Detail, Entry, Ledger, LedgerLimits, LedgerOptions, MachineClock, MachineRandom, SqlFault, Told,
    Workspace,
};
use serde::Serialize;

use crate::appliance::{self, Appliance};
use crate::figures::Usage;
use crate::load::{Load, Protocol, Trouble};

/// What the ledger grows to where nothing else is asked for.
const SIZES: [u64; 3] = [1_000, 1_000_000, 10_000_000];
const WRITERS: u64 = 512;
/// Entries between two starts of the daemon, so that no start finds more of them unsealed than a real one would ever.
const STRETCH: u64 = 1_000_000;
const KIND: (&str, &str) = ("p256", "ecdsa-sha256");
const LOOK_EVERY: Duration = Duration::from_millis(500);
const MEASURED: Duration = Duration::from_secs(4);
/// Medians are taken over so many measurements, because a shared machine has moods.
const ROUNDS: usize = 3;

/// One size.
#[derive(Debug, Serialize)]
struct Grown {
    entries: u64,
    ledger_mib: u64,
    /// From `serve` to ready, after a clean stop.
    start_ms: f64,
    /// From `serve` to ready, after kill -9 under load.
    restart_ms: f64,
    p50_ms_alone: f64,
    p50_ms_at_8: f64,
    p99_ms_at_8: f64,
    per_s_at_64: f64,
}

/// Grows a ledger and measures at each size.
pub(crate) fn measure(words: &[String]) -> Result<(), Trouble> {
    let sizes = words.iter().map(|word| word.parse()).collect::<Result<Vec<u64>, _>>()?;
    let sizes = if sizes.is_empty() { SIZES.to_vec() } else { sizes };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut appliance = Appliance::start()?;
    appliance.create_key(KIND.0)?;
    println!(
        "{:>10} {:>9} {:>9} {:>11} {:>13} {:>10} {:>10} {:>9}",
        "entries", "MiB", "start ms", "restart ms", "p50 ms alone", "p50 ms @8", "p99 ms @8", "/s @64"
    );
    let mut grown = Vec::new();
    for size in sizes {
        let start_ms = grow(&runtime, &mut appliance, size)?;
        let at = at_size(&runtime, &mut appliance, start_ms)?;
        println!(
            "{:>10} {:>9} {:>9.0} {:>11.0} {:>13.2} {:>10.2} {:>10.2} {:>9.0}",
            at.entries,
            at.ledger_mib,
            at.start_ms,
            at.restart_ms,
            at.p50_ms_alone,
            at.p50_ms_at_8,
            at.p99_ms_at_8,
            at.per_s_at_64
        );
        grown.push(at);
    }
    write(&grown)
}

/// Grows to `size` in stretches, each sealed by the daemon; the milliseconds of its last start.
fn grow(runtime: &tokio::runtime::Runtime, appliance: &mut Appliance, size: u64) -> Result<f64, Trouble> {
    loop {
        let entries = appliance.entries()?;
        appliance.stop()?;
        let upto = size.min(entries + STRETCH);
        runtime.block_on(append(&appliance.ledger(), upto))?;
        appliance.again()?;
        if upto == size {
            // An orderly end seals what was appended.
            appliance.stop()?;
            let start_ms = appliance.again()?;
            wait_until_quiet(appliance)?;
            return Ok(start_ms);
        }
    }
}

/// After a start the daemon verifies the whole ledger in the background; what is measured comes after that.
fn wait_until_quiet(appliance: &Appliance) -> Result<(), Trouble> {
    loop {
        let before = Usage::of(appliance)?;
        std::thread::sleep(LOOK_EVERY);
        let used = Usage::of(appliance)?.since(&before);
        if used.daemon_cpu_us < 50_000.0 {
            return Ok(());
        }
    }
}

fn at_size(
    runtime: &tokio::runtime::Runtime,
    appliance: &mut Appliance,
    start_ms: f64,
) -> Result<Grown, Trouble> {
    let entries = appliance.entries()?;
    let mut rounds = Vec::new();
    for _ in 0..ROUNDS {
        let run = |connections| runtime.block_on(load(appliance, connections, MEASURED).run());
        rounds.push((run(1)?, run(8)?, run(64)?));
    }
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    let of = |figure: &dyn Fn(&(_, _, _)) -> f64| median(rounds.iter().map(figure).collect());
    let (p50_ms_alone, p50_ms_at_8) =
        (of(&|it| millis(it.0.percentile(50))), of(&|it| millis(it.1.percentile(50))));
    let (p99_ms_at_8, per_s_at_64) = (of(&|it| millis(it.1.percentile(99))), of(&|it| it.2.per_second()));
    let restart_ms = restart_under_load(runtime, appliance)?;
    let ledger_mib = std::fs::metadata(appliance.ledger())?.len() >> 20;
    Ok(Grown {
        entries,
        ledger_mib,
        start_ms,
        restart_ms,
        p50_ms_alone,
        p50_ms_at_8,
        p99_ms_at_8,
        per_s_at_64,
    })
}

/// kill -9 while 64 clients are served, then the time to ready; the slowest of the rounds.
fn restart_under_load(runtime: &tokio::runtime::Runtime, appliance: &mut Appliance) -> Result<f64, Trouble> {
    let mut slowest: f64 = 0.0;
    for _ in 0..ROUNDS {
        let load = load(appliance, 64, MEASURED);
        let going = runtime.spawn(async move { load.run().await });
        // The kill falls where it may, once the load is well under way.
        std::thread::sleep(Duration::from_secs(1));
        appliance.kill()?;
        let served = runtime.block_on(going)??.latencies.len();
        if served == 0 {
            return Err("nothing was signed before the kill".into());
        }
        slowest = slowest.max(appliance.again()?);
    }
    Ok(slowest)
}

fn load(appliance: &Appliance, connections: usize, duration: Duration) -> Load {
    Load {
        identity: appliance.identity.clone(),
        api_key: appliance.api_key.clone(),
        path: format!("/v1/keys/bench-{}/sign", KIND.0),
        body: appliance::body(KIND.1),
        protocol: Protocol::H1,
        connections,
        duration,
        keyed: false,
        every: None,
    }
}

/// Appends entries of the shape that signing writes, in another workspace, until there are `upto`.
async fn append(path: &Path, upto: u64) -> Result<(), Trouble> {
    let ledger = Ledger::open(LedgerOptions {
        path: path.to_owned(),
        origin: "localhost/bench".into(),
        schemas: Vec::new(),
        clock: Arc::new(MachineClock::new()),
        random: Arc::new(MachineRandom),
        limits: LedgerLimits::default(),
        dangerous_without_recovery: true,
    })?;
    let missing = upto.saturating_sub(ledger.health().entries);
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| tokio::spawn(append_some(ledger.clone(), writer, missing / WRITERS)))
        .collect();
    for writer in writers {
        writer.await??;
    }
    append_some(ledger.clone(), 0, missing % WRITERS).await?;
    ledger.close().await;
    Ok(())
}

async fn append_some(ledger: Ledger, writer: u64, times: u64) -> Result<(), Trouble> {
    let workspace = Workspace::new("ws_of_growth")?;
    let begun = Instant::now();
    for n in 0..times {
        let request = format!("req_{:013x}{writer:04x}{n:08x}", begun.elapsed().as_micros());
        let workspace = workspace.clone();
        let work = move |_: &mut audit::Tx<'_>| {
            let detail = Detail::new().ip("127.0.0.1").with("use", n).with("scheme", KIND.1);
            let entry =
                Entry::new("key.sign").workspace(&workspace).actor(format!("key:grown-{}", writer % 16));
            Ok::<_, SqlFault>(Told::new(
                (),
                entry.object(format!("key_{writer}")).request(&request).detail(detail),
            ))
        };
        ledger.write(work).await?;
    }
    Ok(())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}

fn write(grown: &[Grown]) -> Result<(), Trouble> {
    let first = grown.first().ok_or("nothing was measured")?;
    if let Some(last) = grown.last().filter(|_| grown.len() > 1) {
        println!(
            "latency with {} entries against {}: {:.2} x alone, {:.2} x at 8 connections",
            last.entries,
            first.entries,
            last.p50_ms_alone / first.p50_ms_alone,
            last.p50_ms_at_8 / first.p50_ms_at_8
        );
    }
    crate::report::write_json("growth.json", &grown)
}
