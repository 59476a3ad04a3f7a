//! The report: a line for each run as it ends, and all of them as JSON at the end.
//! Who enters: measured figures.
//! What leaves: the table on the screen and `target/bench/report.json`.

use serde::Serialize;

use crate::figures::Usage;
use crate::keyed::Keyed;
use crate::load::{Outcome, Protocol, Trouble};

/// One cell: a key's kind, a protocol, so many connections.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) key: &'static str,
    pub(crate) protocol: &'static str,
    pub(crate) connections: usize,
    pub(crate) bare_per_s: f64,
    pub(crate) gateway_per_s: f64,
    pub(crate) ratio: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) fsyncs_per_signature: f64,
    /// Daemon and workers together.
    pub(crate) cpu_us_per_signature: f64,
    pub(crate) daemon_cpu_us: f64,
    pub(crate) ledger_cpu_us: f64,
    pub(crate) worker_cpu_us: f64,
    pub(crate) verify_us: f64,
    pub(crate) parse_us: f64,
    /// TLS, HTTP, the runtime and the kernel's share of all of them.
    pub(crate) rest_cpu_us: f64,
    pub(crate) rss_mib: f64,
}

/// Latency below the limit, counted from when each request was due.
#[derive(Debug, Serialize)]
pub(crate) struct Paced {
    pub(crate) key: &'static str,
    pub(crate) per_s: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// All cells.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) runs: Vec<Run>,
    /// With and without `Idempotency-Key`.
    pub(crate) keyed: Vec<Keyed>,
    pub(crate) at_seventy: Option<Paced>,
    pub(crate) start_ms: f64,
    pub(crate) idle_rss_mib: f64,
}

impl Run {
    pub(crate) fn new(
        key: &'static str,
        protocol: Protocol,
        connections: usize,
        bare: f64,
        outcome: &Outcome,
        used: &Usage,
    ) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let signed = (outcome.latencies.len() as f64).max(1.0);
        let millis = |percent: usize| outcome.percentile(percent).as_secs_f64() * 1000.0;
        Self {
            key,
            protocol: if protocol == Protocol::H1 { "h1" } else { "h2" },
            connections,
            bare_per_s: bare,
            gateway_per_s: outcome.per_second(),
            ratio: outcome.per_second() / bare,
            p50_ms: millis(50),
            p99_ms: millis(99),
            fsyncs_per_signature: used.syncs / signed,
            cpu_us_per_signature: (used.daemon_cpu_us + used.worker_cpu_us) / signed,
            daemon_cpu_us: used.daemon_cpu_us / signed,
            ledger_cpu_us: used.ledger_cpu_us / signed,
            worker_cpu_us: used.worker_cpu_us / signed,
            verify_us: used.verify_us / signed,
            parse_us: used.parse_us / signed,
            rest_cpu_us: (used.daemon_cpu_us - used.ledger_cpu_us - used.verify_us - used.parse_us) / signed,
            rss_mib: used.rss_mib,
        }
    }
}

impl Paced {
    pub(crate) fn new(key: &'static str, outcome: &Outcome) -> Self {
        let millis = |percent: usize| outcome.percentile(percent).as_secs_f64() * 1000.0;
        Self { key, per_s: outcome.per_second(), p50_ms: millis(50), p99_ms: millis(99) }
    }
}

impl Report {
    pub(crate) fn begin() -> Self {
        println!(
            "{:9} {:2} {:>5} {:>9} {:>9} {:>6} {:>8} {:>8} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7} {:>7}",
            "key",
            "",
            "conns",
            "bare/s",
            "gateway/s",
            "ratio",
            "p50 ms",
            "p99 ms",
            "fsync/s",
            "cpu us",
            "ledger",
            "worker",
            "verify",
            "parse",
            "rest",
            "MiB"
        );
        Self::default()
    }

    #[expect(clippy::unused_self, reason = "a report tells its runs")]
    pub(crate) fn tell(&self, run: &Run) {
        println!(
            "{:9} {:2} {:>5} {:>9.0} {:>9.0} {:>6.2} {:>8.2} {:>8.2} {:>7.3} {:>7.0} {:>7.0} {:>7.0} {:>7.0} {:>7.0} {:>7.0} {:>7.0}",
            run.key,
            run.protocol,
            run.connections,
            run.bare_per_s,
            run.gateway_per_s,
            run.ratio,
            run.p50_ms,
            run.p99_ms,
            run.fsyncs_per_signature,
            run.cpu_us_per_signature,
            run.ledger_cpu_us,
            run.worker_cpu_us,
            run.verify_us,
            run.parse_us,
            run.rest_cpu_us,
            run.rss_mib
        );
    }

    /// Writes the JSON beside the build.
    pub(crate) fn write(&self) -> Result<(), Trouble> {
        write_json("report.json", self)
    }
}

/// Writes figures for programs into `target/bench/`.
pub(crate) fn write_json(name: &str, figures: &impl Serialize) -> Result<(), Trouble> {
    let own = std::env::current_exe()?;
    let target =
        own.parent().and_then(|release| release.parent()).ok_or("no target directory")?.join("bench");
    std::fs::create_dir_all(&target)?;
    let path = target.join(name);
    std::fs::write(&path, serde_json::to_string_pretty(figures)?)?;
    println!("wrote {}", path.display());
    Ok(())
}
