//! The first steps of somebody new: the simulated appliance, the one curl line that it prints, and a key that is brought in.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use promises::programs::{complained, program, said, succeeds, tool};
use promises::{Appliance, eventually};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

const SOON: Duration = Duration::from_secs(60);

fn dev(arguments: &[&str]) -> Child {
    let mut command = Command::new(program("chancery"));
    command.args(["dev", "--listen", "127.0.0.1:0"]).args(arguments).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().expect("chancery dev")
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed()).expect("a process id")
}

#[tokio::test]
async fn the_printed_curl_line_signs_and_nothing_is_left_after_sigterm() {
    let mut child = dev(&["--no-tpm"]);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let shown: Vec<String> = lines.take_while(|line| !line.starts_with("It runs until")).collect();
    let line = |start: &str| {
        shown
            .iter()
            .find(|line| line.trim_start().starts_with(start))
            .unwrap_or_else(|| panic!("{start}: {shown:#?}"))
    };
    let state = line("state").split_whitespace().nth(1).unwrap().to_owned();
    assert!(std::path::Path::new(&state).is_dir());
    // Word for word, in a shell of its own.
    let words: Vec<&str> =
        shown.iter().map(String::as_str).skip_while(|line| !line.contains("CHANCERY_URL=")).collect();
    let answer = succeeds(
        Command::new("sh").args(["-ec", &words.join("\n").replace("curl ", "curl -sS --fail-with-body ")]),
    );
    assert!(answer.contains("\"signature\":"), "{answer}\n{shown:#?}");
    let daemons = promises::daemon::children(pid(&child));
    assert!(!daemons.is_empty(), "the daemon is no child of its own");
    kill_process(pid(&child), Signal::TERM).unwrap();
    let ended = child.wait().unwrap();
    assert!(ended.success(), "{ended}");
    let gone = || async { daemons.iter().all(|one| test_kill_process(*one).is_err()).then_some(()) };
    eventually("no process is left", SOON, gone).await;
    assert!(!std::path::Path::new(&state).exists(), "{state} is left behind");
}

#[test]
fn a_directory_that_somebody_uses_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("theirs"), "x").unwrap();
    let mut command = Command::new(program("chancery"));
    let output = command.args(["dev", "--state"]).arg(directory.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "{}", said(&output));
    assert!(complained(&output).contains("is not empty"), "{}", complained(&output));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn a_key_is_brought_in_by_one_command_and_signs() {
    let house = Appliance::start().await;
    let run = |arguments: &[&str]| succeeds(&mut house.command(arguments));
    run(&["workspace", "create", "acme"]);
    let file = |name: &str| house.path(name).display().to_string();
    succeeds(tool("openssl", "openssl").args([
        "genpkey",
        "-algorithm",
        "EC",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-out",
        &file("key.pem"),
    ]));
    let public = succeeds(tool("openssl", "openssl").args(["pkey", "-in", &file("key.pem"), "-pubout"]));
    run(&["-w", "acme", "key", "import", "brought", "--file", &file("key.pem")]);
    assert_eq!(run(&["-w", "acme", "key", "show", "brought", "--public", "pem"]).trim(), public.trim());
    std::fs::write(house.path("message"), "words").unwrap();
    std::fs::write(house.path("public.pem"), public).unwrap();
    run(&["-w", "acme", "sign", "--key", "brought", &file("message")]);
    let verify = [
        "dgst",
        "-sha256",
        "-verify",
        &file("public.pem"),
        "-signature",
        &file("message.sig"),
        &file("message"),
    ];
    succeeds(tool("openssl", "openssl").args(verify));
    // What is no such key is refused before anything is announced.
    succeeds(tool("openssl", "openssl").args([
        "genpkey",
        "-algorithm",
        "X25519",
        "-out",
        &file("other.pem"),
    ]));
    let output = house.cli(&["-w", "acme", "key", "import", "other", "--file", &file("other.pem")]);
    assert_eq!(output.status.code(), Some(2), "{}", complained(&output));
    assert!(complained(&output).contains("none of the kinds"), "{}", complained(&output));
    let keys = run(&["audit", "keys"]);
    assert!(keys.contains("localhost/chancery/promises+"), "{keys}");
}

/// Nobody wraps a key for nothing: what comes too early or cannot be a wrapped key is refused while the import stands.
#[tokio::test]
async fn a_wrapped_key_that_cannot_be_taken_is_refused_at_once() {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use promises::{get, post};
    use serde_json::json;
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let outside = promises::Outside::make();
    let form = json!({ "name": "brought", "kind": "p256", "public_key": outside.public_key() });
    // A token that stands still makes no wrapping key.
    let worker = house.daemon().token_worker().await;
    promises::daemon::kill(worker, Signal::STOP);
    let started = member.ask(post("/v1/workflows/key.import", form)).await.expect(202);
    let run = started.json()["id"].as_str().unwrap().to_owned();
    let blob = |bytes: usize| {
        post(format!("/v1/workflows/{run}/blob"), json!({ "wrapped": STANDARD.encode(vec![7; bytes]) }))
    };
    let early = member.ask(blob(400)).await.refused(409, "wrong_state").json();
    assert!(early["detail"].as_str().unwrap().contains("incoming"), "{early}");
    // By now it may have been replaced, as whatever stands still is.
    let _ = kill_process(worker, Signal::CONT);
    let waits = || async {
        let shown = member.ask(get("/v1/keys/brought")).await.json();
        shown["incoming"]["pem"].is_string().then_some(())
    };
    eventually("the wrapping key", SOON, waits).await;
    for bytes in [1, 16, 279, 289, 8200] {
        member.ask(blob(bytes)).await.refused(422, "invalid");
    }
    let shown = member.ask(get(format!("/v1/workflows/{run}"))).await.expect(200).json();
    assert_eq!(shown["state"], "waiting", "the import stands after what was refused: {shown}");
}
