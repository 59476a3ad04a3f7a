//! The benchmark: the whole gateway over mutual TLS against a bare loop on the same token, in one run.
//! Who enters: `make bench`, with release builds beside this program.
//! What leaves: a table for people and `target/bench/report.json` for programs. Ratios count; absolute figures depend on the machine.

mod appliance;
mod bare;
mod figures;
mod growth;
mod keyed;
mod load;
mod report;
mod routing;
mod siege;

use std::time::Duration;

use self::appliance::Appliance;
use self::figures::Usage;
use self::load::{Load, Protocol, Trouble};
use self::report::{Paced, Report, Run};

/// What is measured: the key's kind, its scheme, and the bare loop's mechanism.
const KINDS: [(&str, &str); 3] =
    [("p256", "ecdsa-sha256"), ("ed25519", "ed25519"), ("rsa-2048", "rsa-pkcs1-sha256")];
const CONNECTIONS: [usize; 4] = [1, 8, 64, 256];

fn main() -> Result<(), Trouble> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|word| word == "--bare") {
        return bare::answer(&words[1..]);
    }
    if words.first().is_some_and(|word| word == "--growth") {
        return growth::measure(&words[1..]);
    }
    if words.first().is_some_and(|word| word == "--siege") {
        return siege::measure(&words[1..]);
    }
    if words.first().is_some_and(|word| word == "--routing") {
        return routing::measure(&words[1..]);
    }
    let seconds = std::env::var("BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(4.0);
    let only = std::env::var("BENCH_ONLY").ok();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let duration = Duration::from_secs_f64(seconds);
    let mut report = Report::begin();
    let appliance = Appliance::start()?;
    report.start_ms = appliance.start_ms;
    for (kind, scheme) in
        KINDS.into_iter().filter(|(kind, _)| only.as_deref().is_none_or(|only| only == *kind))
    {
        appliance.create_key(kind)?;
        let bare = bare::measure(&appliance.hsm, kind, duration)?;
        println!("{kind}: bare token {bare:.0} signatures/s with {} threads", bare::threads());
        for protocol in [Protocol::H1, Protocol::H2] {
            for connections in CONNECTIONS {
                let run = measure(&runtime, &appliance, kind, scheme, protocol, connections, duration, bare)?;
                report.tell(&run);
                report.runs.push(run);
            }
        }
    }
    report.at_seventy = Some(at_seventy(&runtime, &appliance, &report, duration)?);
    report.idle_rss_mib = runtime.block_on(idle(&appliance, 1000))?;
    println!("memory with 1000 idle connections: {:.0} MiB", report.idle_rss_mib);
    // Last, as it fills the ledger with what the others have not.
    if report.runs.iter().any(|run| run.key == "p256") {
        report.keyed = keyed::measure(&runtime, &appliance, duration)?;
    }
    report.write()
}

#[expect(
    clippy::too_many_arguments,
    reason = "the cell of a table: its row, column and what it is compared with"
)]
fn measure(
    runtime: &tokio::runtime::Runtime,
    appliance: &Appliance,
    kind: &'static str,
    scheme: &str,
    protocol: Protocol,
    connections: usize,
    duration: Duration,
    bare: f64,
) -> Result<Run, Trouble> {
    let load = Load {
        identity: appliance.identity.clone(),
        api_key: appliance.api_key.clone(),
        path: format!("/v1/keys/bench-{kind}/sign"),
        body: appliance::body(scheme),
        protocol,
        connections,
        duration,
        keyed: false,
        every: None,
    };
    let before = Usage::of(appliance)?;
    let outcome = runtime.block_on(load.run())?.all_signed()?;
    let used = Usage::of(appliance)?.since(&before);
    Ok(Run::new(kind, protocol, connections, bare, &outcome, &used))
}

/// Latency at 70 % of what 64 connections reached, with P-256 or whatever was measured first.
fn at_seventy(
    runtime: &tokio::runtime::Runtime,
    appliance: &Appliance,
    report: &Report,
    duration: Duration,
) -> Result<Paced, Trouble> {
    let full = report
        .runs
        .iter()
        .find(|run| run.connections == 64)
        .ok_or("nothing was measured at 64 connections")?;
    let (_, scheme) = KINDS.into_iter().find(|(kind, _)| *kind == full.key).ok_or("no such kind")?;
    let load = Load {
        identity: appliance.identity.clone(),
        api_key: appliance.api_key.clone(),
        path: format!("/v1/keys/bench-{}/sign", full.key),
        body: appliance::body(scheme),
        protocol: Protocol::H1,
        connections: 64,
        duration,
        keyed: false,
        every: Some(Duration::from_secs_f64(64.0 / (full.gateway_per_s * 0.7))),
    };
    let paced = Paced::new(full.key, &runtime.block_on(load.run())?);
    println!(
        "at 70 % load: {} {:.0}/s, p50 {:.2} ms, p99 {:.2} ms",
        paced.key, paced.per_s, paced.p50_ms, paced.p99_ms
    );
    Ok(paced)
}

/// The daemon's memory while so many clients are connected and silent.
async fn idle(appliance: &Appliance, connections: usize) -> Result<f64, Trouble> {
    // One certificate has only so many connections.
    let mut identities = vec![appliance.identity.clone()];
    for name in ["second", "third", "fourth"] {
        identities.push(appliance.enrol(name)?);
    }
    let mut open = Vec::with_capacity(connections);
    for identity in identities.iter().cycle().take(connections) {
        open.push(load::connect(identity, Protocol::H1).await?);
    }
    let usage = Usage::of(appliance)?;
    drop(open);
    Ok(usage.rss_mib)
}
