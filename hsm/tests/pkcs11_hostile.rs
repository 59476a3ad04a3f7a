//! A hostile module in the real sandbox: it serves as SoftHSM does, and tries everything that a thief in its place would.
//! Enters: SoftHSM behind `badmodule/hostile.c`, a ledger, an operators' socket and a process that play the daemon's.
//! Leaves: proof that each attack works where no wall stands, and is refused behind it while the token goes on signing.
#![allow(clippy::unwrap_used, clippy::panic, reason = "these are tests")]

mod conformance;
mod host;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use conformance::{fresh_id, soon, until};
use host::Host;
use hsm::{KeyKind, Scheme, SignInput, Token, TokenConfig};

/// What the module attacks, all of it within reach of this test's own user.
struct Target {
    host: Host,
    plan: PathBuf,
    report: PathBuf,
    device: SocketAddr,
    _others: TcpListener,
    _device: TcpListener,
}

impl Target {
    fn new() -> Self {
        let host = Host::new();
        let home = host.dir.path().to_path_buf();
        let (state, report) = (home.join("state"), home.join("report").join("report"));
        for directory in [&state, report.parent().unwrap()] {
            fs::create_dir(directory).unwrap();
        }
        fs::write(state.join("ledger.db"), "SQLite format 3").unwrap();
        let socket = state.join("operators.sock");
        answer_everybody(UnixListener::bind(&socket).unwrap());
        let (others, device) =
            (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
        let plan = home.join("plan");
        let mapped = &raw const plan as usize;
        let text = format!(
            "module {}\nreport {}\nledger {}\ndirectory {}\nsocket {}\nvictim {}\nmapped {mapped}\nport {}\ndevice {}\n",
            host.soft.module().display(),
            report.display(),
            state.join("ledger.db").display(),
            state.display(),
            socket.display(),
            std::process::id(),
            others.local_addr().unwrap().port(),
            device.local_addr().unwrap().port(),
        );
        fs::write(&plan, text).unwrap();
        let address = device.local_addr().unwrap();
        Self { host, plan, report, device: address, _others: others, _device: device }
    }

    fn config(&self, network: bool) -> TokenConfig {
        let module = self.host.dir.path().join("hostile.so");
        compile(&["-shared", "-fPIC"], &module);
        self.host.config_with(|fields| {
            fields.environment.insert("HOSTILE_PLAN".to_owned(), self.plan.display().to_string());
            fields.module = module;
            fields.sandbox.read.push(self.host.soft.module().to_path_buf());
            fields.sandbox.write.push(self.report.parent().unwrap().to_path_buf());
            if network {
                fields.network = true;
                fields.sandbox.connect.push(self.device);
            }
        })
    }

    /// What the module wrote once it had tried everything.
    async fn results(&self) -> BTreeMap<String, String> {
        let read = || fs::read_to_string(&self.report).unwrap_or_default();
        until("the module has tried everything", Duration::from_secs(60), || async {
            read().ends_with("done\n")
        })
        .await;
        results(&read())
    }
}

fn results(report: &str) -> BTreeMap<String, String> {
    let lines = report.lines().filter_map(|line| line.split_once(' '));
    lines.map(|(attack, result)| (attack.to_owned(), result.to_owned())).collect()
}

fn compile(options: &[&str], made: &Path) {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/badmodule/hostile.c");
    let built = Command::new("cc")
        .args(options)
        .args(["-O1", "-o"])
        .arg(made)
        .args([source, "-ldl", "-lpthread"])
        .output();
    let built =
        built.unwrap_or_else(|fault| panic!("cc does not run ({fault}); install the package gcc or clang"));
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
}

/// Plays the operators' socket: whoever gets here is believed.
fn answer_everybody(socket: UnixListener) {
    std::thread::spawn(move || {
        for connection in socket.incoming() {
            let mut connection = connection.unwrap();
            // A peer that says nothing has gone already.
            let _ =
                connection.read(&mut [0; 256]).and_then(|_| connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n"));
        }
    });
}

/// How many there are; one that is not tried is not refused either.
const ATTACKS: usize = 49;

/// What a refusal may look like: by the filter, or by the domain, which calls a forbidden move one across file systems.
fn is_refused(result: &str) -> bool {
    ["EPERM", "EACCES", "EXDEV"].contains(&result)
}

#[test]
fn without_walls_each_attack_of_the_hostile_module_works() {
    let target = Target::new();
    let program = target.host.dir.path().join("alone");
    compile(&["-DALONE"], &program);
    let ran = Command::new(&program).env("HOSTILE_PLAN", &target.plan).output().unwrap();
    assert!(ran.status.success(), "{ran:?}");
    let mut results = results(&fs::read_to_string(&target.report).unwrap());
    assert_eq!(results.remove("device.connect").as_deref(), Some("ok"));
    let refused: Vec<_> = results.iter().filter(|(_, result)| *result != "ok").collect();
    assert!(
        refused.is_empty() && results.len() == ATTACKS,
        "these attacks prove nothing: {refused:?} of {}",
        results.len()
    );
}

#[tokio::test]
async fn a_hostile_module_reaches_nothing_but_its_token() {
    let target = Target::new();
    let token = Token::start(target.config(false)).await.unwrap();
    let mut results = target.results().await;
    // Without a network the device is out of reach as well.
    let device = results.remove("device.connect");
    assert_eq!(device.as_deref(), Some("EPERM"));
    let through: Vec<_> = results.iter().filter(|(_, result)| !is_refused(result)).collect();
    assert!(
        through.is_empty() && results.len() == ATTACKS,
        "these attacks came through: {through:?} of {}",
        results.len()
    );
    signs(&token).await;
    let probe = token.probe();
    assert!(!probe.walls.is_empty() && probe.walls.iter().all(|wall| wall.stands), "{:?}", probe.walls);
    token.close().await;
}

#[tokio::test]
async fn a_hostile_network_module_reaches_its_device_and_nothing_else() {
    let target = Target::new();
    let token = Token::start(target.config(true)).await.unwrap();
    let mut results = target.results().await;
    assert_eq!(results.remove("device.connect").as_deref(), Some("ok"), "its own device");
    let through: Vec<_> = results.iter().filter(|(_, result)| !is_refused(result)).collect();
    assert!(
        through.is_empty() && results.len() == ATTACKS,
        "these attacks came through: {through:?} of {}",
        results.len()
    );
    signs(&token).await;
    token.close().await;
}

/// The walls leave the token itself alone.
async fn signs(token: &Token) {
    let made = token.generate(fresh_id(), KeyKind::P256, "k", soon()).await.unwrap();
    let input = SignInput::Message(b"pay 1.00 to bob".to_vec());
    token.sign(&made.key, Scheme::EcdsaSha256, input, soon()).await.unwrap();
}
