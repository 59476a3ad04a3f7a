//! How much the worker costs: signatures through [`hsm::Token`] against a bare loop over the same module, on the same kind of token.
//! Enters: nothing; makes a SoftHSM token of its own. `cargo run --release -p hsm --example sign_rate`, with `chancery-hsm` built beside it.
//! Leaves: rates, processor time per signature, and their ratios.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measuring tool, not the product")]

use std::path::PathBuf;
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, ObjectClass};
use cryptoki::session::UserType;
use cryptoki::types::AuthPin;
use hsm::{KeyId, KeyKind, KeyRef, Limits, SignInput, Token, TokenConfig};
use simulators::SoftHsm;

const THREADS: usize = 2;
const IN_FLIGHT: usize = 64;
const KINDS: [KeyKind; 3] = [KeyKind::P256, KeyKind::Ed25519, KeyKind::Rsa2048];

fn main() {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    if let [word, module, pin_file, kind, place, seconds] = arguments.as_slice()
        && word == "bare"
    {
        let span = Duration::from_secs(seconds.parse().unwrap());
        let id = KeyId([place.parse().unwrap(); 16]);
        let Measured { rate, cpu_us } = run_bare(module, pin_file, kind.parse().unwrap(), id, span);
        println!("{rate} {cpu_us}");
        return;
    }
    compare(arguments.first().map_or("3", String::as_str));
}

fn compare(seconds: &str) {
    let dir = tempfile::tempdir().unwrap();
    let soft = SoftHsm::create(dir.path(), "rate").unwrap();
    println!("{THREADS} threads, {IN_FLIGHT} in flight, {seconds} s each");
    let head = ["kind", "bare/s", "token/s", "ratio", "bare us", "token us", "added us"];
    println!("{}", head.map(|name| format!("{name:>10}")).concat());
    for (place, key) in (0_u8..).zip(make_keys(&soft)) {
        let through = measure_token(&soft, &key, Duration::from_secs(seconds.parse().unwrap()));
        let bare = measure_bare(&soft, key.kind, place, seconds);
        let figures = [
            bare.rate,
            through.rate,
            through.rate / bare.rate,
            bare.cpu_us,
            through.cpu_us,
            through.cpu_us - bare.cpu_us,
        ];
        println!("{:>10}{}", key.kind.name(), figures.map(|figure| format!("{figure:>10.2}")).concat());
    }
}

struct Measured {
    rate: f64,
    cpu_us: f64,
}

fn config(soft: &SoftHsm) -> TokenConfig {
    let worker: PathBuf = std::env::current_exe().unwrap().parent().unwrap().join("../chancery-hsm");
    TokenConfig::Pkcs11 {
        module: soft.module().to_path_buf(),
        serial: soft.serial().to_owned(),
        label: None,
        pin_file: soft.pin_file().to_path_buf(),
        threads: Some(THREADS),
        network: false,
        sandbox: hsm::Sandbox { write: vec![soft.tokens()], ..hsm::Sandbox::default() },
        worker,
        environment: soft.env().into_iter().collect(),
        limits: Limits::default(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build().unwrap()
}

fn make_keys(soft: &SoftHsm) -> Vec<KeyRef> {
    runtime().block_on(async {
        let token = Token::start(config(soft)).await.unwrap();
        let mut keys = Vec::new();
        for (place, kind) in (0_u8..).zip(KINDS) {
            let deadline = Instant::now() + Duration::from_secs(60);
            keys.push(token.generate(KeyId([place; 16]), kind, "rate", deadline).await.unwrap().key);
        }
        token.close().await;
        keys
    })
}

fn measure_token(soft: &SoftHsm, key: &KeyRef, span: Duration) -> Measured {
    runtime().block_on(async {
        let token = Token::start(config(soft)).await.unwrap();
        let worker = worker_pid();
        let scheme = key.kind.schemes()[0];
        let input = match scheme.hash() {
            Some(hash) => SignInput::Digest(vec![7; hash.len()]),
            None => SignInput::Message(vec![7; 32]),
        };
        token.sign(key, scheme, input.clone(), Instant::now() + span).await.unwrap();
        let (begun, cpu) = (Instant::now(), cpu_us("self") + cpu_us(&worker));
        let end = begun + span;
        let clients: Vec<_> = (0..IN_FLIGHT)
            .map(|_| {
                let (token, key, input) = (token.clone(), key.clone(), input.clone());
                tokio::spawn(async move {
                    let mut made = 0_u64;
                    while Instant::now() < end {
                        let deadline = Instant::now() + Duration::from_secs(10);
                        token.sign(&key, scheme, input.clone(), deadline).await.unwrap();
                        made += 1;
                    }
                    made
                })
            })
            .collect();
        let mut made = 0;
        for client in clients {
            made += client.await.unwrap();
        }
        let measured = judge(made, begun, cpu_us("self") + cpu_us(&worker) - cpu);
        token.close().await;
        measured
    })
}

/// In a child, because the module finds its token through the environment, and may crash as it leaves.
fn measure_bare(soft: &SoftHsm, kind: KeyKind, place: u8, seconds: &str) -> Measured {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.envs(soft.env()).arg("bare").arg(soft.module()).arg(soft.pin_file());
    let told = child.args([kind.name(), &place.to_string(), seconds]).output().unwrap().stdout;
    let told = String::from_utf8(told).unwrap();
    let (rate, cpu_us) = told.trim().split_once(' ').unwrap();
    Measured { rate: rate.parse().unwrap(), cpu_us: cpu_us.parse().unwrap() }
}

fn run_bare(module: &str, pin_file: &str, kind: KeyKind, id: KeyId, span: Duration) -> Measured {
    let pin = std::fs::read_to_string(pin_file).unwrap();
    let module = Pkcs11::new(module).unwrap();
    module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)).unwrap();
    let slot = module.get_slots_with_initialized_token().unwrap()[0];
    let sentinel = module.open_rw_session(slot).unwrap();
    sentinel.login(UserType::User, Some(&AuthPin::from(pin))).unwrap();
    let made = AtomicU64::new(0);
    let start = Barrier::new(THREADS + 1);
    let (begun, cpu) = std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let session = module.open_rw_session(slot).unwrap();
                let template = [Attribute::Class(ObjectClass::PRIVATE_KEY), Attribute::Id(id.0.to_vec())];
                let key = session.find_objects(&template).unwrap()[0];
                let (mechanism, input) = bare_call(kind);
                start.wait();
                let end = Instant::now() + span;
                while Instant::now() < end {
                    session.sign(&mechanism, key, &input).unwrap();
                    made.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        start.wait();
        (Instant::now(), cpu_us("self"))
    });
    judge(made.into_inner(), begun, cpu_us("self") - cpu)
}

fn bare_call(kind: KeyKind) -> (Mechanism<'static>, Vec<u8>) {
    match kind {
        KeyKind::Ed25519 => (Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519)), vec![7; 32]),
        KeyKind::Rsa2048 => (Mechanism::RsaPkcs, vec![7; 51]),
        _ => (Mechanism::Ecdsa, vec![7; 32]),
    }
}

fn judge(made: u64, begun: Instant, cpu_us: f64) -> Measured {
    Measured { rate: made as f64 / begun.elapsed().as_secs_f64(), cpu_us: cpu_us / made as f64 }
}

fn worker_pid() -> String {
    let mut found = String::new();
    for task in std::fs::read_dir("/proc/self/task").unwrap() {
        found += &std::fs::read_to_string(task.unwrap().path().join("children")).unwrap_or_default();
    }
    found.trim().to_owned()
}

/// Processor time of a process so far, from its clock ticks of 10 ms.
fn cpu_us(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) * 10_000.0
}
