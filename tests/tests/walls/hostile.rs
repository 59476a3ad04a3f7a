//! A hostile module in the worker of a real daemon.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use promises::people::sign_p256;
use promises::plan::Hardware;
use promises::programs::succeeds;
use promises::{Appliance, Plan, eventually, get};

/// Enough for a slow machine.
const TRIED_MAX: Duration = Duration::from_secs(60);
/// What can be tried of the daemon, the ledger and the machine.
const ATTACKS: usize = 48;

/// An appliance whose daemon will find a hostile module in place of its token's library. The attacks are aimed at that daemon, whose
/// process id the module reads when it is loaded.
async fn besieged(sockets: bool, under: &[&str]) -> Besieged {
    let mut house = Plan::with(Hardware::Token).init();
    let module = house.path("hostile.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../hsm/tests/badmodule/hostile.c");
    succeeds(Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&module).args([
        source,
        "-ldl",
        "-lpthread",
    ]));
    std::fs::create_dir(house.path("report")).unwrap();
    let others = TcpListener::bind("127.0.0.1:0").unwrap();
    let softhsm = house.hsm.as_ref().unwrap().module().display().to_string();
    let tokens = house.hsm.as_ref().unwrap().tokens().display().to_string();
    let place = |name: &str| house.path(name).display().to_string();
    let plan = format!(
        "module {softhsm}\nreport {}\nledger {}\ndirectory {}\nsocket {}\nvictim 0\nport {}\n",
        place("report/report"),
        house.ledger().display(),
        house.state().display(),
        place("chancery.sock"),
        others.local_addr().unwrap().port(),
    );
    std::fs::write(house.path("plan"), plan).unwrap();
    let (plan, report, nothing) = (place("plan"), place("report"), place("nothing.sock"));
    house.set("token.module", module.display().to_string());
    house.set("token.environment.HOSTILE_PLAN", plan);
    house.set("token.sandbox.read", vec![softhsm]);
    house.set("token.sandbox.write", vec![tokens, report]);
    if sockets {
        house.set("token.sandbox.sockets", vec![nothing]);
    }
    if !under.is_empty() {
        succeeds(Command::new("chown").args(["-R", "65534:65534"]).arg(house.path("")));
    }
    let prefix: Vec<_> = under.iter().map(Into::into).collect();
    house.serve_under(&prefix).await;
    Besieged { house, _others: others }
}

struct Besieged {
    house: Appliance,
    _others: TcpListener,
}

impl Besieged {
    async fn results(&self) -> BTreeMap<String, String> {
        let report = self.house.path("report/report");
        let done = || async {
            let text = std::fs::read_to_string(&report).unwrap_or_default();
            text.ends_with("done\n").then_some(text)
        };
        let (text, _) = eventually("the module has tried everything", TRIED_MAX, done).await;
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.map(|(attack, result)| (attack.to_owned(), result.to_owned())).collect()
    }
}

fn through(results: &BTreeMap<String, String>) -> Vec<(&str, &str)> {
    let refused = |result: &str| ["EPERM", "EACCES", "EXDEV"].contains(&result);
    let results = results.iter().map(|(attack, result)| (attack.as_str(), result.as_str()));
    results.filter(|(_, result)| !refused(result)).collect()
}

#[tokio::test]
async fn a_hostile_module_gets_nothing_of_a_real_daemon_and_the_status_says_which_walls_stand() {
    let besieged = besieged(false, &[]).await;
    let results = besieged.results().await;
    assert_eq!(through(&results), [], "these attacks came through");
    assert!(results.len() >= ATTACKS, "only {} attacks were tried", results.len());
    let mut house = besieged.house;
    house.ready().await;
    let status = house.operator().ask(get("/v1/status")).await.json();
    let parts = status["readiness"]["parts"].as_array().unwrap();
    let sandbox = parts.iter().find(|part| part["part"] == "sandbox").unwrap();
    assert_eq!((&sandbox["code"], &sandbox["ready"]), (&"closed".into(), &true.into()), "{sandbox}");
    assert!(sandbox["detail"].as_str().unwrap().contains("token, files: Landlock"), "{sandbox}");
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    member.ask(sign_p256(&key, b"pay 1.00 to bob")).await.expect(200);
    assert!(house.daemon().has_ended().is_none());
}

/// A library that speaks to a daemon of its vendor's may open Unix sockets. Its user id is an operator's here, since all of this runs
/// as one user, and still the operators' socket does not answer it.
#[tokio::test]
async fn a_worker_with_sockets_is_no_operator_though_its_user_is_one() {
    let besieged = besieged(true, &[]).await;
    let mut results = besieged.results().await;
    assert_eq!(results.remove("operators.connect").as_deref(), Some("ok"), "it did not even knock");
    assert_ne!(results.remove("operators.answer").as_deref(), Some("ok"), "the daemon answered its worker");
    assert_eq!(through(&results), [], "these attacks came through");
    assert!(besieged.house.log().contains("a token's worker knocked at the operators' socket"));
    besieged.house.ready().await;
}

/// As in the unit: the daemon and its worker share a user that is not root.
#[tokio::test]
async fn a_daemon_without_privileges_is_dumpable_for_nobody_and_its_user_is_no_operator() {
    let unprivileged = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let mut besieged = besieged(true, &unprivileged).await;
    let mut results = besieged.results().await;
    results.remove("operators.connect");
    assert_ne!(results.remove("operators.answer").as_deref(), Some("ok"), "the daemon answered its worker");
    assert_eq!(through(&results), [], "these attacks came through");
    // What the kernel keeps of a process that is not dumpable belongs to root.
    let daemon = format!("/proc/{}", besieged.house.daemon().pid().as_raw_nonzero());
    assert_eq!(std::fs::metadata(Path::new(&daemon).join("environ")).unwrap().uid(), 0);
    assert!(std::fs::read_to_string(Path::new(&daemon).join("status")).unwrap().contains("Uid:\t65534"));
    besieged.house.ready().await;
}
