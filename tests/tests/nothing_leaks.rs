//! What must not be where it could be found: token libraries in the daemon, secrets in logs, ledgers and environments.
//! Who enters: the built programs, and an appliance that has seen some life.
//! What leaves: a failure naming the place and the secret.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use promises::daemon::kill;
use promises::people::sign_p256;
use promises::programs::{program, succeeds, tool};
use promises::{Answer, Appliance, GIVEN_UP, Hardware, Member, Plan, eventually, get, post};
use rustix::process::{Pid, Signal};
use serde_json::Value;
use simulators::Upstream;
use simulators::upstream::{Behaviour, Speaks};

const TOKEN_LIBRARIES: [&str; 4] = ["tss2", "softhsm", "pkcs11", "cryptoki"];

#[test]
fn daemon_and_auditor_are_not_linked_to_any_token_library() {
    for name in ["chancery", "chancery-audit"] {
        let linked = succeeds(tool("ldd", "libc-bin").arg(program(name))).to_lowercase();
        for library in TOKEN_LIBRARIES {
            assert!(!linked.contains(library), "{name} is linked to {library}:\n{linked}");
        }
    }
    let worker = succeeds(tool("ldd", "libc-bin").arg(program("chancery-hsm"))).to_lowercase();
    assert!(
        worker.contains("tss2"),
        "the worker is not linked to the TPM's library: this test looks at nothing"
    );
}

#[tokio::test]
async fn the_daemon_loads_no_token_library_while_it_serves() {
    let mut house = Appliance::with_tpm().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    member.ask(sign_p256(&key, b"x")).await.expect(200);
    let maps =
        std::fs::read_to_string(format!("/proc/{}/maps", house.daemon().pid().as_raw_nonzero())).unwrap();
    for library in TOKEN_LIBRARIES {
        assert!(!maps.contains(library), "the daemon has {library} in its memory");
    }
    // Waits for a worker that has the module loaded: otherwise this test would look at nothing.
    house.daemon().token_worker().await;
}

/// Not by reading the source: the kernel is asked which addresses the daemon and its worker connected to.
#[tokio::test]
async fn a_daemon_without_upstreams_connects_to_nobody() {
    drop(tool("strace", "strace"));
    let mut house = Plan::with(Hardware::Token).init();
    let trace = house.path("connects");
    let watched = ["strace", "-D", "-f", "-qq", "-e", "trace=connect,sendto", "-o"].map(Into::into);
    let prefix: Vec<_> = watched.into_iter().chain([trace.clone().into_os_string()]).collect();
    house.serve_under(&prefix).await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    member.ask(sign_p256(&key, b"x")).await.expect(200);
    house.operator().ask(post("/v1/audit/export", Value::Null)).await.expect(201);
    house.terminate().await;
    let calls = std::fs::read_to_string(&trace).unwrap();
    let out: Vec<&str> = calls.lines().filter(|line| line.contains("sa_family=AF_INET")).collect();
    assert!(out.is_empty(), "{out:?}");
    assert!(
        calls.contains("sendto(") || calls.contains("connect("),
        "nothing was seen: this test looks at nothing"
    );
}

/// Everything below a directory that is a file.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(files(&entry.path())),
            Ok(kind) if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|part| part == needle)
}

fn process_files(pid: Pid) -> Vec<PathBuf> {
    ["environ", "cmdline"]
        .iter()
        .map(|name| format!("/proc/{}/{name}", pid.as_raw_nonzero()).into())
        .collect()
}

#[tokio::test]
async fn secrets_stand_in_no_log_ledger_export_environment_or_command_line() {
    let mut house = Plan::with(Hardware::TokenAndTpm).set("log.filter", "trace").start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    member.ask(sign_p256(&key, b"x")).await.expect(200);
    member.with_secret("ck_a-guess-that-fails").ask(get("/v1/keys")).await.expect(401);
    house.operator().ask(post("/v1/audit/export", Value::Null)).await.expect(201);
    let pin = std::fs::read(house.hsm.as_ref().unwrap().pin_file()).unwrap();
    let index = std::fs::read(house.path("tpm-auth/index.auth")).unwrap();
    let secrets: [(&str, &[u8]); 5] = [
        ("the token's PIN", &pin),
        ("the API key's secret", member.secret.as_bytes()),
        ("a guessed API key", b"ck_a-guess-that-fails"),
        ("a private key", b"PRIVATE KEY"),
        ("the TPM index's authorisation", &index),
    ];
    let mut places = files(&house.state());
    places.push(house.path("daemon.log"));
    places.extend(process_files(house.daemon().pid()));
    for worker in house.daemon().workers() {
        places.extend(process_files(worker));
    }
    assert!(places.len() > 8, "{places:?}");
    let log = std::fs::read(house.path("daemon.log")).unwrap();
    assert!(holds(&log, key.as_bytes()) || log.len() > 1000, "the log is silent: this test looks at nothing");
    for place in places {
        let content = std::fs::read(&place).unwrap_or_else(|why| panic!("{}: {why}", place.display()));
        for (name, secret) in secrets {
            assert!(!holds(&content, secret), "{name} stands in {}", place.display());
        }
    }
}

#[tokio::test]
async fn everything_in_the_state_directory_is_closed_to_others() {
    let mut house = Appliance::with_tpm().await;
    house.operator().ask(post("/v1/audit/export", Value::Null)).await.expect(201);
    let state = std::fs::metadata(house.state()).unwrap();
    assert_eq!(state.permissions().mode() & 0o077, 0, "others can enter the state directory");
    let socket = std::fs::metadata(house.path("chancery.sock")).unwrap();
    assert_eq!(socket.mode() & 0o007, 0, "others can reach the local socket");
    house.terminate().await;
    assert!(!house.path("chancery.sock").exists(), "the socket was left behind");
}

#[tokio::test]
async fn the_daemon_leaves_no_core_file() {
    let mut house = Appliance::start().await;
    let limits =
        std::fs::read_to_string(format!("/proc/{}/limits", house.daemon().pid().as_raw_nonzero())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().filter(|word| *word == "0").count(), 2, "{core}");
}

/// An appliance in which everything can be broken: its token, its TPM, its disk, and a service behind it.
async fn fragile(upstream: &Upstream) -> Appliance {
    let mut sick = toml::Table::new();
    sick.insert("name".into(), "sick".into());
    sick.insert("prefix".into(), "/sick".into());
    sick.insert("endpoints".into(), vec![upstream.endpoint()].into());
    let plan = Plan::with(Hardware::TokenAndTpm).small_disk("state", 16 << 20);
    plan.set("upstream", vec![sick]).start().await
}

/// What a caller is told of faults in every layer, each of them real. That nothing from inside stands in it is looked at in each
/// refusal that any test of these meets; here are those that have most to hide.
#[tokio::test]
async fn a_refusal_tells_the_caller_nothing_from_inside() {
    let mut upstream = Upstream::plain(Speaks::Http1).await.unwrap();
    let mut house = fragile(&upstream).await;
    let member = house.member_with("acme", &["sign", "keys:read", "keys:manage", "upstream:sick"]).await;
    let (key, operator) = (member.create_key("release", "p256").await, house.operator());
    let mut told: Vec<Answer> = Vec::new();
    told.push(member.ask(sign_p256("no-such-key", b"x")).await.refused(404, "not_found"));
    told.push(
        member
            .ask(post("/v1/keys", Value::Null).raw(b"{\"name\": nan".to_vec()))
            .await
            .refused(400, "bad_body"),
    );
    // A service that breaks off, and one that is not there.
    upstream.behave(Behaviour::ResetAfter);
    told.push(member.ask(post("/sick", Value::Null)).await.refused(502, "upstream_failed"));
    upstream.stop();
    told.push(member.ask(post("/sick", Value::Null)).await.refused(502, "upstream_failed"));
    // No room for an entry.
    house.disk.as_ref().unwrap().fill();
    told.push(refusal(&member, &key, "ledger_frozen").await.refused(503, "ledger_frozen"));
    house.disk.as_ref().unwrap().free();
    eventually("signatures again", GIVEN_UP, || async { signs(&member, &key).await.then_some(()) }).await;
    // No TPM, and then no token.
    house.tpm.as_mut().unwrap().kill();
    let sealed = || async {
        let answer = operator.ask(post("/v1/audit/seal", Value::Null)).await;
        (answer.status != 200).then_some(answer)
    };
    told.push(eventually("the TPM is missed", GIVEN_UP, sealed).await.0.refused(503, "token_unavailable"));
    house.hsm.as_ref().unwrap().unplug().unwrap();
    kill(house.daemon().token_worker().await, Signal::KILL);
    told.push(refusal(&member, &key, "token_unavailable").await.refused(503, "token_unavailable"));
    let words = std::fs::read_to_string(house.path("daemon.log")).unwrap().to_lowercase();
    for inside in ["token", "os error"] {
        assert!(
            words.contains(inside),
            "the log does not say `{inside}`, so these faults had nothing to hide"
        );
    }
    for answer in told {
        answer.tells_nothing_from_inside();
        let document = answer.json();
        assert!(!answer.text().contains(house.state().to_str().unwrap()), "{document}");
        assert_eq!(document["request_id"], answer.request_id().as_str());
        let kind = format!("/problems#{}", answer.code());
        assert_eq!((&document["status"], &document["type"]), (&answer.status.into(), &kind.into()));
    }
}

async fn signs(member: &Member, key: &str) -> bool {
    member.ask(sign_p256(key, b"x")).await.status == 200
}

/// The answer to a signature, once it is this refusal.
async fn refusal(member: &Member, key: &str, code: &str) -> Answer {
    let refused = || async {
        let answer = member.ask(sign_p256(key, b"x")).await;
        (answer.code() == code).then_some(answer)
    };
    eventually(code, GIVEN_UP, refused).await.0
}
