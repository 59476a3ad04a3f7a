//! What the daemon and its workers used: processor time, memory, syncs.
//! Who enters: the benchmark, before and after a run.
//! What leaves: the difference, from `/proc` and the daemon's own metrics.

use crate::appliance::Appliance;
use crate::load::Trouble;

/// Usage up to now, or between two moments.
#[derive(Clone, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) daemon_cpu_us: f64,
    pub(crate) worker_cpu_us: f64,
    pub(crate) ledger_cpu_us: f64,
    pub(crate) verify_us: f64,
    pub(crate) parse_us: f64,
    pub(crate) syncs: f64,
    pub(crate) rss_mib: f64,
}

impl Usage {
    pub(crate) fn of(appliance: &Appliance) -> Result<Self, Trouble> {
        let metrics = appliance.metrics()?;
        let figure = |label: &str| {
            let line = metrics.lines().find(|line| line.contains(label)).unwrap_or_default();
            line.rsplit(' ').next().and_then(|text| text.parse::<f64>().ok()).unwrap_or_default()
        };
        let mut usage = Self {
            syncs: figure("figure=\"syncs\""),
            verify_us: figure("part=\"verify\"") * 1e6,
            parse_us: figure("part=\"parse\"") * 1e6,
            daemon_cpu_us: cpu_us(&format!("/proc/{}/stat", appliance.daemon))?,
            ..Self::default()
        };
        for child in children(appliance.daemon)? {
            usage.worker_cpu_us += cpu_us(&format!("/proc/{child}/stat")).unwrap_or_default();
        }
        usage.ledger_cpu_us = thread_cpu_us(appliance.daemon, "ledger");
        usage.rss_mib = rss_mib(appliance.daemon)?;
        Ok(usage)
    }

    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            daemon_cpu_us: self.daemon_cpu_us - before.daemon_cpu_us,
            worker_cpu_us: self.worker_cpu_us - before.worker_cpu_us,
            ledger_cpu_us: self.ledger_cpu_us - before.ledger_cpu_us,
            verify_us: self.verify_us - before.verify_us,
            parse_us: self.parse_us - before.parse_us,
            syncs: self.syncs - before.syncs,
            rss_mib: self.rss_mib,
        }
    }
}

/// User and system time of a process or thread (proc(5), fields 14 and 15), in microseconds.
fn cpu_us(path: &str) -> Result<f64, Trouble> {
    let text = std::fs::read_to_string(path)?;
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or_default();
    #[expect(clippy::cast_precision_loss, reason = "a hundred, everywhere")]
    let per_second = rustix::param::clock_ticks_per_second() as f64;
    Ok((ticks(11) + ticks(12)) * 1e6 / per_second)
}

fn children(parent: u32) -> Result<Vec<u32>, Trouble> {
    let mut found = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{parent}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        found.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    Ok(found)
}

fn thread_cpu_us(process: u32, name: &str) -> f64 {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{process}/task")) else { return 0.0 };
    let named = tasks.flatten().filter(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.contains(name))
    });
    named.filter_map(|task| cpu_us(&task.path().join("stat").to_string_lossy()).ok()).sum()
}

pub(crate) fn rss_mib(process: u32) -> Result<f64, Trouble> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    let kib: f64 = line.split_whitespace().nth(1).and_then(|text| text.parse().ok()).unwrap_or_default();
    Ok(kib / 1024.0)
}
