//! What an `Idempotency-Key` costs a signature: the same load with a fresh key on each request and without, turn by turn.
//! Who enters: the appliance under test, with its P-256 key.
//! What leaves: rates and latencies of both side by side, and the overhead as a ratio.

use std::time::Duration;

use serde::Serialize;

use crate::appliance::{self, Appliance};
use crate::load::{Load, Outcome, Protocol, Trouble};

/// Both, at so many connections.
#[derive(Debug, Serialize)]
pub(crate) struct Keyed {
    pub(crate) key: &'static str,
    pub(crate) connections: usize,
    pub(crate) without: Side,
    pub(crate) with: Side,
    /// Time per signature with a key, against without: 1.2 means a fifth more.
    pub(crate) overhead: f64,
}

/// One of the two.
#[derive(Debug, Serialize)]
pub(crate) struct Side {
    pub(crate) per_s: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

const KIND: &str = "p256";
const SCHEME: &str = "ecdsa-sha256";
const CONNECTIONS: [usize; 2] = [1, 64];
/// The two take turns, so that what else the machine does meets both.
const ROUNDS: u32 = 4;

/// Measures both; `duration` is the time of each side.
pub(crate) fn measure(
    runtime: &tokio::runtime::Runtime,
    appliance: &Appliance,
    duration: Duration,
) -> Result<Vec<Keyed>, Trouble> {
    println!("with and without Idempotency-Key ({KIND}, h1):");
    println!(
        "{:>5} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "conns", "without/s", "with/s", "overhead", "p50 ms", "with", "p99 ms", "with"
    );
    CONNECTIONS.into_iter().map(|connections| at(runtime, appliance, duration, connections)).collect()
}

fn at(
    runtime: &tokio::runtime::Runtime,
    appliance: &Appliance,
    duration: Duration,
    connections: usize,
) -> Result<Keyed, Trouble> {
    let load = |keyed| Load {
        identity: appliance.identity.clone(),
        api_key: appliance.api_key.clone(),
        path: format!("/v1/keys/bench-{KIND}/sign"),
        body: appliance::body(SCHEME),
        protocol: Protocol::H1,
        connections,
        duration: duration / ROUNDS,
        keyed,
        every: None,
    };
    let (mut without, mut with) = (Outcome::default(), Outcome::default());
    for _ in 0..ROUNDS {
        without.add(runtime.block_on(load(false).run())?.all_signed()?);
        with.add(runtime.block_on(load(true).run())?.all_signed()?);
    }
    let (without, with) = (Side::of(&without), Side::of(&with));
    let keyed = Keyed { key: KIND, connections, overhead: without.per_s / with.per_s, without, with };
    keyed.tell();
    Ok(keyed)
}

impl Side {
    fn of(outcome: &Outcome) -> Self {
        let millis = |percent: usize| outcome.percentile(percent).as_secs_f64() * 1000.0;
        Self { per_s: outcome.per_second(), p50_ms: millis(50), p99_ms: millis(99) }
    }
}

impl Keyed {
    fn tell(&self) {
        let Self { connections, without, with, overhead, .. } = self;
        println!(
            "{connections:>5} {:>9.0} {:>9.0} {overhead:>8.2} {:>8.2} {:>8.2} {:>8.2} {:>8.2}",
            without.per_s, with.per_s, without.p50_ms, with.p50_ms, without.p99_ms, with.p99_ms
        );
    }
}
