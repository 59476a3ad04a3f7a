//! The making of an appliance: wholly, or not at all, over tokens that lie and tokens that others were at before.
//! Who enters: `chancery init` over SoftHSM, over a module that misbehaves, and under a hand that kills it.
//! What leaves: an appliance that starts, or an empty state directory and a token as it was.

mod before;
mod kit;
mod printed;
mod struck;

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use promises::daemon::kill;
use promises::people::sign_p256;
use promises::programs::{complained, program, succeeds, tool};
use promises::{Appliance, Hardware, Plan, Protocol, eventually, get, post};
use rustix::process::Signal;
use serde_json::{Value, json};
use simulators::SoftHsm;

const PATIENCE: Duration = Duration::from_secs(60);
/// What a person has to change.
const NEEDS_A_PERSON: i32 = 6;

/// A token behind a module of ours that misbehaves on command, whose words are in a file.
fn lying(plan: Plan) -> (Appliance, PathBuf) {
    let mut house = plan.prepare();
    let (module, words) = (house.path("bad.so"), house.path("words"));
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../hsm/tests/badmodule/module.c");
    let mut cc = tool("cc", "gcc");
    succeeds(cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&module).args([source, "-ldl"]));
    fs::write(&words, "").unwrap();
    let real = house.hsm.as_ref().unwrap().module().display().to_string();
    house.set("token.module", module.display().to_string());
    house.set("token.environment.BAD_MODULE_REAL", real);
    house.set("token.environment.BAD_MODULE_WORDS", words.display().to_string());
    (house, words)
}

fn pkcs11_tool(hsm: &SoftHsm, arguments: &[&str]) -> Command {
    let mut command = tool("pkcs11-tool", "opensc");
    command.envs(hsm.env()).arg("--module").arg(hsm.module());
    command.args(["--token-label", hsm.label()]).args(arguments);
    command
}

/// What stands in the token, seen with its PIN.
fn objects(hsm: &SoftHsm) -> Vec<String> {
    let pin = fs::read_to_string(hsm.pin_file()).unwrap();
    let listed = succeeds(&mut pkcs11_tool(hsm, &["--login", "--pin", &pin, "--list-objects"]));
    let mut objects: Vec<String> = Vec::new();
    for line in listed.lines() {
        match objects.last_mut() {
            Some(object) if line.starts_with(' ') => object.extend(["\n", line.trim()]),
            _ => objects.push(line.to_owned()),
        }
    }
    // SoftHSM leaves a file without name and label of what was cut off while it was written; nobody can say whose it is.
    objects.retain(|object| object.contains("\nID:") || object.contains("\nlabel:          'chancery"));
    objects
}

fn state(house: &Appliance) -> Vec<String> {
    let names = fs::read_dir(house.state()).unwrap();
    let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn init(house: &Appliance) -> Output {
    house.cli(&["init"])
}

#[tokio::test]
async fn an_init_that_a_token_fails_leaves_nothing_and_says_what_the_token_lacks() {
    let lacks = [
        ("nogcm", "AES-256-GCM"),
        ("deafgcm", "AES-256-GCM"),
        ("nodata", "data objects"),
        ("general", "it failed and made nothing"),
        ("bentsign", "does not verify"),
    ];
    let (mut house, words) = lying(Plan::with(Hardware::Token));
    for (word, lack) in lacks {
        fs::write(&words, word).unwrap();
        let failed = init(&house);
        let said = complained(&failed);
        assert!(!failed.status.success(), "{word}: it claims to have made an appliance");
        assert!(said.contains(lack), "{word}: {said}");
        assert_eq!(state(&house), [""; 0], "{word}: something is left in the state directory");
        assert_eq!(objects(house.hsm.as_ref().unwrap()), [""; 0], "{word}: something is left in the token");
    }
    fs::write(&words, "").unwrap();
    assert!(init(&house).status.success());
    house.serve().await;
    house.ready().await;
}

/// Devices that choose the vector of GCM themselves: hung on the ciphertext, or written where an empty place was left for it.
#[tokio::test]
async fn an_appliance_over_a_token_that_chooses_its_own_vectors_starts_again() {
    for word in ["hungiv", "owniv"] {
        let (mut house, words) = lying(Plan::with(Hardware::Token));
        fs::write(&words, word).unwrap();
        let made = init(&house);
        assert!(made.status.success(), "{word}: {}", complained(&made));
        house.serve().await;
        house.ready().await;
        let member = house.member("acme").await;
        let key = member.create_key("release", "p256").await;
        member.ask(sign_p256(&key, b"over a token of its own mind")).await.expect(200);
    }
}

fn begin(house: &Appliance) -> Child {
    house.command(&["init"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn objects_on_disk(hsm: &SoftHsm) -> usize {
    fn count(directory: &Path) -> usize {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries
            .map(|entry| match entry.path() {
                path if path.is_dir() => count(&path),
                path => usize::from(path.extension().is_some_and(|kind| kind == "object")),
            })
            .sum()
    }
    // The token's own description is an object as well.
    count(&hsm.tokens()).saturating_sub(1)
}

type Stage = (&'static str, fn(&Appliance) -> bool);

#[tokio::test]
async fn an_init_that_was_killed_at_any_stage_is_run_again_and_leaves_no_litter() {
    const STAGES: [Stage; 6] = [
        ("names are written down", |house| house.state().join("init.json").exists()),
        ("a root key is made", |house| objects_on_disk(house.hsm.as_ref().unwrap()) >= 1),
        ("a log key is made", |house| objects_on_disk(house.hsm.as_ref().unwrap()) >= 3),
        ("a CA's key is made", |house| objects_on_disk(house.hsm.as_ref().unwrap()) >= 5),
        ("the ledger's file is there", |house| house.ledger().exists()),
        ("the anchor is kept", |house| objects_on_disk(house.hsm.as_ref().unwrap()) >= 6),
    ];
    let clean = Plan::with(Hardware::Token).init();
    let expected = objects(clean.hsm.as_ref().unwrap()).len();
    assert_eq!(state(&clean).iter().filter(|name| name.starts_with("init")).count(), 0);
    drop(clean);
    let mut cut_off = 0;
    for (stage, reached) in STAGES {
        let mut house = Plan::with(Hardware::Token).prepare();
        let mut child = begin(&house);
        while !reached(&house) && child.try_wait().unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        let _ = child.kill();
        let ended = child.wait().unwrap();
        if ended.signal() == Some(Signal::KILL.as_raw()) && house.state().join("init.json").exists() {
            cut_off += 1;
            let refused = house.cli(&["serve"]);
            assert_eq!(refused.status.code(), Some(NEEDS_A_PERSON), "{stage}: {}", complained(&refused));
            assert!(complained(&refused).contains("run it again"), "{stage}: {}", complained(&refused));
            let made = init(&house);
            assert!(made.status.success(), "{stage}: {}", complained(&made));
        }
        assert_eq!(objects(house.hsm.as_ref().unwrap()).len(), expected, "{stage}: litter in the token");
        house.serve().await;
        house.ready().await;
    }
    assert!(cut_off >= 3, "only {cut_off} of them were cut off, so this proves little");
}

#[tokio::test]
async fn two_appliances_share_a_token() {
    let mut one = Plan::with(Hardware::Token).init();
    let before = objects(one.hsm.as_ref().unwrap()).len();
    let (file, home) = (one.path("second.toml"), one.path("second"));
    fs::create_dir(&home).unwrap();
    std::fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let text = fs::read_to_string(one.config_file()).unwrap();
    let state = one.state().display().to_string();
    let text = text.replace(&state, &home.display().to_string());
    let text = text.replace("localhost/chancery/promises", "localhost/chancery/second");
    fs::write(&file, text.replace("chancery.sock", "second.sock")).unwrap();
    let chancery = |arguments: &[&str]| {
        let mut command = Command::new(program("chancery"));
        command.arg("--config").arg(&file).args(arguments);
        command
    };
    succeeds(&mut chancery(&["init"]));
    assert_eq!(objects(one.hsm.as_ref().unwrap()).len(), before * 2, "one took something of the other's");
    one.serve().await;
    one.ready().await;
    let mut second = chancery(&["serve"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let serves = || async { chancery(&["status"]).output().unwrap().status.success().then_some(()) };
    eventually("the second one serves", PATIENCE, serves).await;
    second.kill().unwrap();
    second.wait().unwrap();
}

/// Plants what anybody who reaches the token can, without its PIN.
fn plant(house: &Appliance, ids: &[String]) {
    let hsm = house.hsm.as_ref().unwrap();
    let (known, anchor) = (house.path("known"), house.path("anchor"));
    fs::write(&known, [9; 32]).unwrap();
    let far =
        [b"chancery.hsm.anchor.v1".as_slice(), &(1_u64 << 62).to_be_bytes(), &[0; 8], &[0; 32], &[9; 32]];
    fs::write(&anchor, far.concat()).unwrap();
    let (known, anchor) = (known.display().to_string(), anchor.display().to_string());
    for id in ids {
        let key = ["--write-object", &known, "--type", "secrkey", "--key-type", "AES:32"];
        succeeds(&mut pkcs11_tool(hsm, &[&key[..], &["--id", id, "--label", "chancery-root"]].concat()));
    }
    let certificate = certificate(house);
    for (id, label) in ids.iter().zip(["chancery-root", "chancery appliance log"].iter().cycle()) {
        let cert = ["--write-object", &certificate, "--type", "cert", "--id", id, "--label", label];
        succeeds(&mut pkcs11_tool(hsm, &cert));
    }
    let mut applications = vec!["chancery.anchor".to_owned()];
    applications.extend(ids.iter().map(|id| format!("chancery.anchor.{}", &id[18..30])));
    for application in applications {
        let data = ["--write-object", &anchor, "--type", "data", "--label", "chancery-anchor"];
        succeeds(&mut pkcs11_tool(hsm, &[&data[..], &["--application-label", &application]].concat()));
    }
}

/// Somebody's certificate, DER.
fn certificate(house: &Appliance) -> String {
    let (key, file) = (house.path("somebody.key"), house.path("somebody.der"));
    let mut openssl = tool("openssl", "openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
    openssl.args(["-subj", "/CN=somebody", "-outform", "DER", "-keyout"]).arg(&key).arg("-out").arg(&file);
    succeeds(&mut openssl);
    file.display().to_string()
}

fn legacy_roots() -> [String; 2] {
    [hex::encode(b"chancery-root-v\x01"), hex::encode(b"chancery-root-v\xff")]
}

/// The ids of the token's secret keys that are the product's own.
fn own_roots(house: &Appliance) -> Vec<String> {
    let hsm = house.hsm.as_ref().unwrap();
    let pin = fs::read_to_string(hsm.pin_file()).unwrap();
    let listed = succeeds(&mut pkcs11_tool(hsm, &["--login", "--pin", &pin, "--list-objects"]));
    let ids = listed.lines().filter_map(|line| line.trim().strip_prefix("ID:"));
    let ours = hex::encode(b"chancery-");
    ids.map(|id| id.trim().to_owned()).filter(|id| id.starts_with(&ours)).collect()
}

#[tokio::test]
async fn what_a_stranger_plants_in_the_token_stops_no_start_and_freezes_no_ledger() {
    let mut house = Plan::with(Hardware::Token).prepare();
    plant(&house, &legacy_roots());
    let made = init(&house);
    assert!(made.status.success(), "{}", complained(&made));
    house.serve().await;
    house.ready().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let ours: Vec<_> = own_roots(&house).into_iter().filter(|id| !legacy_roots().contains(id)).collect();
    assert_eq!(ours.len(), 1, "{ours:?}");
    let higher = format!("{}ff", &ours[0][..30]);
    plant(&house, &[ours[0].clone(), higher]);
    let shown = member.ask(get(format!("/v1/keys/{key}"))).await.expect(200).json();
    let id = shown["versions"][0]["token_key"].as_str().unwrap().to_owned();
    let stray = house.path("stray.der");
    fs::write(&stray, hex::decode(STRAY_P256).unwrap()).unwrap();
    let hsm = house.hsm.as_ref().unwrap();
    for label in ["stray", "another"] {
        let stray = stray.display().to_string();
        let key = ["--write-object", &stray, "--type", "pubkey", "--id", &id, "--label", label];
        succeeds(&mut pkcs11_tool(hsm, &key));
    }
    // The worker that saw none of it, then one that did, then another daemon.
    for round in 0..3 {
        if round == 1 {
            let worker = house.daemon().token_worker().await;
            kill(worker, Signal::KILL);
            let daemon = house.daemon();
            let another =
                || async { daemon.workers().first().is_some_and(|now| *now != worker).then_some(()) };
            eventually("another worker", PATIENCE, another).await;
            house.ready().await;
        }
        if round == 2 {
            house.terminate().await;
            house.serve().await;
            house.ready().await;
        }
        let member = member.connect(Protocol::H2).await;
        let signs = || async {
            let signed = member.send(sign_p256(&key, b"as ever")).await.ok()?;
            (signed.status == 200).then_some(())
        };
        eventually("it signs", PATIENCE, signs).await;
        let status = house.operator().ask(get("/v1/status")).await.expect(200).json();
        assert_eq!(status["ledger"], "open", "round {round}: {status}");
    }
    let log = house.log();
    assert!(!log.contains("frozen"), "{log}");
    assert!(log.contains("bears a name of ours"), "what was planted is not named in\n{log}");
}

/// Somebody's P-256 key: the base point of the curve, SPKI.
const STRAY_P256: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200046b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5";

#[tokio::test]
async fn a_kind_that_the_token_cannot_make_is_refused_before_the_token_is_asked() {
    let (mut house, words) = lying(Plan::with(Hardware::Token));
    fs::write(&words, "nok1").unwrap();
    assert!(init(&house).status.success());
    house.serve().await;
    house.ready().await;
    let member = house.member("acme").await;
    // From here on any call that makes a pair would cost the worker its life.
    fs::write(&words, "answerless").unwrap();
    let ask = post("/v1/keys", json!({ "name": "coin", "kind": "secp256k1" }));
    member.ask(ask).await.refused(501, "token_cannot");
    let told = house.cli(&["-w", "acme", "key", "create", "coin", "--kind", "secp256k1"]);
    assert!(!told.status.success(), "the command line calls it a success");
    assert!(complained(&told).contains("secp256k1"), "{}", complained(&told));
    fs::write(&words, "nok1").unwrap();
    assert!(!house.log().contains("worker is lost"), "the token was asked");
    assert!(house.cli(&["-w", "acme", "key", "create", "release", "--kind", "p256"]).status.success());
}

#[tokio::test]
async fn a_token_that_takes_no_more_writes_signs_on_and_the_status_says_what_fails() {
    let (mut house, words) = lying(Plan::with(Hardware::Token));
    assert!(init(&house).status.success());
    house.serve().await;
    house.ready().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    fs::write(&words, "readonly").unwrap();
    let refused = house.operator().ask(post("/v1/audit/seal", Value::Null)).await;
    assert!(refused.status >= 400, "it was sealed, so this proves nothing");
    member.ask(sign_p256(&key, b"while nothing is sealed")).await.expect(200);
    let status = || String::from_utf8(house.cli(&["--json", "status"]).stdout).unwrap();
    let says_why = || async {
        let told = status();
        (told.contains("not_sealed") && told.contains("C_CreateObject gave GeneralError")).then_some(())
    };
    eventually("the status says what fails", PATIENCE, says_why).await;
    assert!(!house.log().contains("worker is lost"), "its worker was ended");
    fs::write(&words, "").unwrap();
    house.operator().ask(post("/v1/audit/seal", Value::Null)).await.expect(200);
    let agrees = || async { (!status().contains("not_sealed")).then_some(()) };
    eventually("the status agrees again", PATIENCE, agrees).await;
}
