//! Routing: what a lookup costs with ten prefixes and with ten thousand, and what the gateway costs before an upstream.
//! Who enters: nothing but the release builds beside this program; `--json` for programs.
//! What leaves: nanoseconds and ratios on the screen, and `target/bench/routing.json`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use gateway::paths::{PlainPath, Prefixes};
use serde::Serialize;
use simulators::Upstream;
use simulators::upstream::{Pki, Speaks};

use crate::appliance::Appliance;
use crate::load::{Identity, Load, Outcome, Protocol, Trouble};

/// The lookups of one table.
#[derive(Debug, Serialize)]
struct Lookups {
    prefixes: usize,
    ns_per_lookup: f64,
    lookups_per_s: f64,
}

/// One number of connections, direct and through the gateway.
#[derive(Debug, Serialize)]
struct Overhead {
    connections: usize,
    direct_per_s: f64,
    through_per_s: f64,
    direct_p50_ms: f64,
    through_p50_ms: f64,
    p50_ratio: f64,
    direct_p99_ms: f64,
    through_p99_ms: f64,
    p99_ratio: f64,
}

/// Everything.
#[derive(Debug, Serialize)]
struct Report {
    lookups: Vec<Lookups>,
    ten_thousand_to_ten: f64,
    overhead: Vec<Overhead>,
}

const SIZES: [usize; 2] = [10, 10_000];
const PATHS: usize = 4096;
const LOOKED_UP: Duration = Duration::from_secs(1);
const MEASURED: Duration = Duration::from_secs(3);
const CONNECTIONS: [usize; 3] = [1, 8, 64];
const ROUNDS: usize = 5;

/// Measures both.
pub(crate) fn measure(words: &[String]) -> Result<(), Trouble> {
    let as_json = words.iter().any(|word| word == "--json");
    let lookups: Vec<Lookups> = SIZES.into_iter().map(lookups).collect::<Result<_, _>>()?;
    let ten_thousand_to_ten = lookups[1].ns_per_lookup / lookups[0].ns_per_lookup;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let overhead = runtime.block_on(overhead())?;
    let report = Report { lookups, ten_thousand_to_ten, overhead };
    match as_json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => report.tell(),
    }
    report.write()
}

/// A table of so many prefixes of one to four segments, and as many paths below them as without any.
fn lookups(count: usize) -> Result<Lookups, Trouble> {
    let mut table = Prefixes::default();
    for at in 0..count {
        let prefix = match at % 4 {
            0 => format!("/service-{at}"),
            1 => format!("/team-{}/service-{at}", at % 97),
            2 => format!("/team-{}/group-{}/service-{at}", at % 97, at % 31),
            _ => format!("/team-{}/{{tenant}}/group-{}/service-{at}", at % 97, at % 31),
        };
        table.add(&prefix, at).map_err(|tie| format!("{tie:?}"))?;
    }
    let paths: Vec<String> = (0..PATHS).map(|at| path(at * 7919 % (count * 2))).collect();
    let found = paths.iter().filter(|path| table.longest(path).is_some()).count();
    if found == 0 || found == PATHS {
        return Err("the paths are all found or none is: nothing to measure".into());
    }
    // The best of some rounds: whoever else runs on the machine only ever adds to it.
    let best = (0..ROUNDS).map(|_| round(&table, &paths)).fold(f64::MAX, f64::min);
    Ok(Lookups { prefixes: count, ns_per_lookup: best, lookups_per_s: 1e9 / best })
}

fn path(at: usize) -> String {
    match at % 4 {
        0 => format!("/service-{at}/item/7"),
        1 => format!("/team-{}/service-{at}/item", at % 97),
        2 => format!("/team-{}/group-{}/service-{at}", at % 97, at % 31),
        _ => format!("/team-{}/acme/group-{}/service-{at}/item/7", at % 97, at % 31),
    }
}

/// As the gate does it: the path is made plain, then the table is walked.
#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn round(table: &Prefixes<usize>, paths: &[String]) -> f64 {
    let (begun, mut count) = (Instant::now(), 0_u64);
    while begun.elapsed() < LOOKED_UP / ROUNDS as u32 {
        for path in paths {
            let plain = PlainPath::of(black_box(path));
            black_box(plain.ok().and_then(|plain| table.longest(plain.as_str()).map(|(_, at)| *at)));
            count += 1;
        }
    }
    begun.elapsed().as_nanos() as f64 / count as f64
}

/// The same upstream, asked directly and through the gateway, over mutual TLS on every hop.
async fn overhead() -> Result<Vec<Overhead>, Trouble> {
    let (pki, home) = (Pki::new()?, tempfile::tempdir()?);
    let upstream = Upstream::secure(Speaks::Http1, &pki).await?;
    let files = pki.client_files(home.path())?;
    let table = format!(
        "[[upstream]]\nname = \"bench\"\nprefix = \"/bench\"\nendpoints = [{:?}]\nca = {:?}\nclient_certificate = {:?}\nclient_key = {:?}\nin_flight_max = 256\nqueue_max = 1024\n",
        upstream.endpoint(),
        files.ca,
        files.certificate,
        files.key
    );
    let appliance =
        tokio::task::spawn_blocking(move || Appliance::start_with(&table, "upstream:bench")).await??;
    let read = |path| std::fs::read_to_string(path);
    let address = upstream.endpoint().trim_start_matches("https://").parse()?;
    let direct = Identity {
        ca: read(&files.ca)?,
        certificate: read(&files.certificate)?,
        key: read(&files.key)?,
        address,
    };
    let mut cells = Vec::new();
    for connections in CONNECTIONS {
        let load = |identity: &Identity| Load {
            identity: identity.clone(),
            api_key: appliance.api_key.clone(),
            path: "/bench/item".to_owned(),
            body: "{}".to_owned(),
            protocol: Protocol::H1,
            connections,
            duration: MEASURED,
            keyed: false,
            every: None,
        };
        let (direct, through) =
            (good(load(&direct).run().await?)?, good(load(&appliance.identity).run().await?)?);
        cells.push(Overhead::new(connections, &direct, &through));
    }
    // Dropping it waits for the daemon's end, which must not hold up the runtime.
    tokio::task::spawn_blocking(move || drop(appliance)).await?;
    Ok(cells)
}

/// A run in which anything was refused has measured something else.
fn good(outcome: Outcome) -> Result<Outcome, Trouble> {
    match outcome.refused.is_empty() && outcome.broken == 0 {
        true => Ok(outcome),
        false => Err(format!("refused {:?}, broken {}", outcome.refused, outcome.broken).into()),
    }
}

impl Overhead {
    fn new(connections: usize, direct: &Outcome, through: &Outcome) -> Self {
        let millis = |outcome: &Outcome, percent| outcome.percentile(percent).as_secs_f64() * 1000.0;
        let (direct_p50_ms, through_p50_ms) = (millis(direct, 50), millis(through, 50));
        let (direct_p99_ms, through_p99_ms) = (millis(direct, 99), millis(through, 99));
        Self {
            connections,
            direct_per_s: direct.per_second(),
            through_per_s: through.per_second(),
            direct_p50_ms,
            through_p50_ms,
            p50_ratio: through_p50_ms / direct_p50_ms,
            direct_p99_ms,
            through_p99_ms,
            p99_ratio: through_p99_ms / direct_p99_ms,
        }
    }
}

impl Report {
    fn tell(&self) {
        for line in &self.lookups {
            println!(
                "{:>6} prefixes: {:>6.0} ns a lookup, {:>10.0} a second",
                line.prefixes, line.ns_per_lookup, line.lookups_per_s
            );
        }
        println!("ten thousand to ten: {:.2}", self.ten_thousand_to_ten);
        for cell in &self.overhead {
            println!(
                "{:>3} connections: direct {:.0}/s, through {:.0}/s; p50 {:.2} -> {:.2} ms ({:.1}x), p99 {:.2} -> {:.2} ms ({:.1}x)",
                cell.connections,
                cell.direct_per_s,
                cell.through_per_s,
                cell.direct_p50_ms,
                cell.through_p50_ms,
                cell.p50_ratio,
                cell.direct_p99_ms,
                cell.through_p99_ms,
                cell.p99_ratio
            );
        }
    }

    fn write(&self) -> Result<(), Trouble> {
        let exe = std::env::current_exe()?;
        let target =
            exe.parent().and_then(|release| release.parent()).ok_or("no target directory")?.join("bench");
        std::fs::create_dir_all(&target)?;
        std::fs::write(target.join("routing.json"), serde_json::to_string_pretty(self)?)?;
        Ok(())
    }
}
