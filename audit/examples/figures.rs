//! Measures the ledger on this machine: writes a second, CPU per entry, commits, verification, start.
//! Who enters: `cargo run --release -p audit --example figures [entries]`.
//! What leaves: one line per figure, to be compared within one run only.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use audit::double::{MemoryAnchor, MemorySealer};
use audit::verify::{Source, Terms, verify};
use audit::{
    Entry, Ledger, LedgerLimits, LedgerOptions, MachineClock, MachineRandom, Schema, Sealing, SqlFault,
    Statement, Table, Tier, Told, Workspace, params,
};

static MAKE: Statement =
    Statement::tenant("keys", "INSERT INTO key (workspace, id, uses) VALUES (?1, ?2, 0)");
static USE: Statement =
    Statement::tenant("keys", "UPDATE key SET uses = uses + 1 WHERE workspace = ?1 AND id = ?2");
static KEYS: Schema = Schema {
    service: "keys",
    tables: &[Table { name: "key", tenant: true }],
    migrations: &["CREATE TABLE key (workspace TEXT NOT NULL, id TEXT NOT NULL, uses BIGINT NOT NULL,
        PRIMARY KEY (workspace, id)) WITHOUT ROWID"],
    statements: &[&MAKE, &USE],
};

const CLIENTS: u64 = 256;

fn main() -> Result<(), Box<dyn Error>> {
    let entries: u64 = std::env::args().nth(1).map_or(Ok(1_000_000), |text| text.parse())?;
    let directory = std::env::temp_dir().join(format!("ledger-figures-{}", std::process::id()));
    std::fs::create_dir(&directory)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let path = directory.join("ledger.db");
    let measured = runtime.block_on(measure(&path, entries));
    std::fs::remove_dir_all(&directory)?;
    measured
}

fn open(path: &std::path::Path) -> Result<Ledger, Box<dyn Error>> {
    Ok(Ledger::open(LedgerOptions {
        path: path.to_owned(),
        origin: "figures.example/audit/0001".into(),
        schemas: vec![&KEYS],
        clock: Arc::new(MachineClock::new()),
        random: Arc::new(MachineRandom),
        limits: LedgerLimits::default(),
        dangerous_without_recovery: true,
    })?)
}

async fn measure(path: &std::path::Path, entries: u64) -> Result<(), Box<dyn Error>> {
    let ledger = open(path)?;
    prepare(&ledger).await?;
    let (before, cpu) = (ledger.health(), cpu_time()?);
    let began = Instant::now();
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|client| tokio::spawn(sign_often(ledger.clone(), client, entries / CLIENTS)))
        .collect();
    for task in tasks {
        task.await??;
    }
    let (took, cpu, after) = (began.elapsed(), cpu_time()? - cpu, ledger.health());
    let written = after.entries - before.entries;
    println!("entries written          {written} by {CLIENTS} clients");
    println!("writes a second          {:.0}", per_second(written, took));
    println!("CPU per entry            {:.1} us", cpu.as_secs_f64() * 1e6 / written as f64);
    println!("entries per commit       {:.0}", written as f64 / (after.commits - before.commits) as f64);
    println!("syncs per entry          {:.4}", (after.syncs - before.syncs) as f64 / written as f64);
    prove(&ledger, after.entries).await?;
    ledger.close().await;
    println!("bytes per entry          {}", std::fs::metadata(path)?.len() / after.entries);

    let began = Instant::now();
    let report = verify(&Source::open(path)?, &Terms::default(), |_| {})?;
    println!(
        "verified a second        {:.0} (every row: {})",
        per_second(report.entries, began.elapsed()),
        report.verified
    );
    start(path).await?;
    hashing();
    Ok(())
}

async fn prepare(ledger: &Ledger) -> Result<(), Box<dyn Error>> {
    let work = |tx: &mut audit::Tx<'_>| -> Result<_, SqlFault> {
        for client in 0..CLIENTS {
            tx.within(&workspace(client)).run(&MAKE, params![format!("key-{client}")])?;
        }
        Ok(Told::new((), Entry::new("key.create")))
    };
    ledger.write(work).await?;
    Ok(())
}

async fn sign_often(ledger: Ledger, client: u64, times: u64) -> Result<(), audit::WriteRefused<SqlFault>> {
    let (workspace, key) = (workspace(client), format!("key-{client}"));
    for n in 0..times {
        // Rising with time, as request ids should be (UUID version 7): random ones touch a page of the index each.
        let (workspace, key, request) = (workspace.clone(), key.clone(), format!("{n:012x}{client:04x}"));
        let work = move |tx: &mut audit::Tx<'_>| {
            tx.within(&workspace).run(&USE, params![&key])?;
            let detail = audit::Detail::new().ip("192.0.2.7").with("scheme", "ecdsa-p256-sha256");
            let entry = Entry::new("sign").workspace(&workspace).actor("client:batch").object(&key);
            Ok::<_, SqlFault>(Told::new((), entry.request(&request).detail(detail)))
        };
        ledger.write(work).await?;
    }
    Ok(())
}

async fn prove(ledger: &Ledger, size: u64) -> Result<(), Box<dyn Error>> {
    let began = Instant::now();
    const PROOFS: u64 = 200;
    for n in 0..PROOFS {
        let seq = n * 7_919 % size;
        ledger
            .read::<_, audit::NoProof>(move |view| view.inclusion(seq, size))
            .await
            .map_err(|why| why.to_string())?;
    }
    println!("inclusion proof          {:.2} ms each", began.elapsed().as_secs_f64() * 1e3 / PROOFS as f64);
    Ok(())
}

/// From the file to the first write: open, look at the newest rows, ask the anchor, count the start.
async fn start(path: &std::path::Path) -> Result<(), Box<dyn Error>> {
    let sealer = Arc::new(MemorySealer::new("figures.example/audit/0001"));
    let anchor = Arc::new(MemoryAnchor::new(Tier::TpmNv));
    for what in ["nothing sealed", "sealed"] {
        let began = Instant::now();
        let ledger = open(path)?;
        let sealing = Sealing::new(ledger.clone(), sealer.clone(), Some(anchor.clone()));
        sealing.recover().await?;
        println!("start, {what:<17} {:.0} ms", began.elapsed().as_secs_f64() * 1e3);
        let began = Instant::now();
        sealing.seal().await?;
        println!("seal                     {:.1} ms without hardware", began.elapsed().as_secs_f64() * 1e3);
        drop(sealing);
        ledger.close().await;
    }
    Ok(())
}

/// The plain hashing of a verification, without a database: leaf, chain and tree over 300-byte leaves.
fn hashing() {
    const LEAVES: u64 = 1_000_000;
    let (leaf, payload) = ([7_u8; 300], [8_u8; 60]);
    let mut frontier = audit::merkle::Frontier::default();
    let mut chain = [0; 32];
    let began = Instant::now();
    for _ in 0..LEAVES {
        let commit = audit::leaf::payload_commit(&chain, &payload);
        let hash = audit::leaf::leaf_hash(&leaf);
        chain = audit::leaf::next_chain(&commit, &hash);
        frontier.push(hash, |_, _, _| {});
    }
    println!(
        "plain hashing a second   {:.0} ({:02x})",
        per_second(LEAVES, began.elapsed()),
        frontier.root()[0] ^ chain[0]
    );
}

fn workspace(client: u64) -> Workspace {
    Workspace::new(format!("workspace-{:02}", client % 16)).unwrap_or_else(|why| unreachable!("{why}"))
}

fn per_second(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// CPU time of this process so far, in both modes.
fn cpu_time() -> Result<Duration, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(')').ok_or("no stat")?.1.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}
