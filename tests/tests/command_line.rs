//! The command line as people and scripts use it: files of any size, standard input, digests, names for ids, and refusals in its own words.

use std::io::Write;
use std::process::{Output, Stdio};

use promises::programs::{complained, said, succeeds, tool};
use promises::{Appliance, Hardware, Plan};
use serde_json::Value;

const REFUSED: i32 = 1;
const USAGE: i32 = 2;

/// Runs a command and insists on success.
fn run(house: &Appliance, arguments: &[&str]) -> String {
    succeeds(&mut house.command(arguments))
}

fn fed(house: &Appliance, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = house.command(arguments);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    child.stdin.take().expect("its input").write_all(input).expect("it reads");
    child.wait_with_output().expect("it ends")
}

/// Verifies with openssl, against the key that `key show` gives out.
fn openssl_verifies(house: &Appliance, key: &str, signature: &str, file: &str) {
    let pem = house.path("shown.pem");
    std::fs::write(&pem, run(house, &["-w", "acme", "key", "show", key, "--public", "pem"])).unwrap();
    succeeds(tool("openssl", "openssl").args(["dgst", "-sha256", "-verify"]).arg(&pem).args([
        "-signature",
        signature,
        file,
    ]));
}

async fn acme() -> Appliance {
    let house = Appliance::start().await;
    run(&house, &["workspace", "create", "acme"]);
    run(&house, &["-w", "acme", "key", "create", "release"]);
    house
}

#[tokio::test]
async fn a_file_of_any_size_standard_input_and_a_digest_are_signed() {
    let house = acme().await;
    let file = house.path("large").display().to_string();
    let large: Vec<u8> = (0..3_000_001_u32).map(|at| at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect();
    std::fs::write(&file, &large).unwrap();
    let signature = format!("{file}.sig");
    run(&house, &["-w", "acme", "sign", "--key", "release", &file]);
    openssl_verifies(&house, "release", &signature, &file);
    run(&house, &["-w", "acme", "verify", "--key", "release", "--signature", &signature, &file]);
    let piped = house.path("piped.sig").display().to_string();
    let output = fed(&house, &["-w", "acme", "sign", "--key", "release", "--out", &piped, "-"], &large);
    assert!(output.status.success(), "{}", complained(&output));
    openssl_verifies(&house, "release", &piped, &file);
    let output =
        fed(&house, &["-w", "acme", "verify", "--key", "release", "--signature", &piped, "-"], &large);
    assert!(output.status.success(), "{}", complained(&output));
    let sum = succeeds(tool("sha256sum", "coreutils").arg(&file));
    let digest = sum.split(' ').next().unwrap();
    let output = house.cli(&["-w", "acme", "sign", "--key", "release", "--out", "-", "--digest", digest]);
    assert!(output.status.success(), "{}", complained(&output));
    let by_digest = house.path("digest.sig").display().to_string();
    std::fs::write(&by_digest, &output.stdout).unwrap();
    openssl_verifies(&house, "release", &by_digest, &file);
    run(&house, &["-w", "acme", "verify", "--key", "release", "--signature", &by_digest, "--digest", digest]);
    // Another file is another digest.
    std::fs::write(&file, &large[1..]).unwrap();
    let output = house.cli(&["-w", "acme", "verify", "--key", "release", "--signature", &signature, &file]);
    assert_eq!(output.status.code(), Some(REFUSED), "{}", said(&output));
}

/// Memory does not grow with the file: it is read piece by piece.
#[tokio::test]
async fn a_file_larger_than_the_memory_allowed_is_signed() {
    let house = acme().await;
    let file = house.path("huge");
    std::fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
    let signed = house.command(&["-w", "acme", "sign", "--key", "release", "--out"]);
    let mut command = tool("prlimit", "util-linux");
    command.arg(format!("--data={}", 200 << 20)).arg(signed.get_program()).args(signed.get_args());
    succeeds(command.arg(house.path("huge.sig")).arg(&file));
    openssl_verifies(
        &house,
        "release",
        &house.path("huge.sig").display().to_string(),
        &file.display().to_string(),
    );
}

#[tokio::test]
async fn a_message_that_ed25519_cannot_take_is_refused_before_anything_is_sent() {
    let house = acme().await;
    run(&house, &["-w", "acme", "key", "create", "edwards", "--kind", "ed25519"]);
    let file = house.path("message").display().to_string();
    std::fs::write(&file, vec![7; 524_288]).unwrap();
    run(&house, &["-w", "acme", "sign", "--key", "edwards", &file]);
    run(&house, &["-w", "acme", "verify", "--key", "edwards", "--signature", &format!("{file}.sig"), &file]);
    let entries = || run(&house, &["--json", "-w", "acme", "audit", "entries", "--limit", "500"]);
    let before = entries();
    std::fs::write(&file, vec![7; 524_289]).unwrap();
    let by_file = house.cli(&["-w", "acme", "sign", "--key", "edwards", &file]);
    let by_input =
        fed(&house, &["-w", "acme", "sign", "--key", "edwards", "--out", "-", "-"], &vec![7; 524_289]);
    let by_digest =
        house.cli(&["-w", "acme", "sign", "--key", "edwards", "--out", "-", "--digest", &"00".repeat(32)]);
    for (output, words) in
        [(by_file, "524289"), (by_input, "at most 524288 bytes"), (by_digest, "never a digest")]
    {
        assert_eq!(output.status.code(), Some(USAGE), "{}", complained(&output));
        assert!(
            complained(&output).contains(words) && complained(&output).contains("signs the message itself"),
            "{}",
            complained(&output)
        );
    }
    assert_eq!(entries(), before, "the daemon was asked all the same");
}

#[tokio::test]
async fn the_key_shown_is_the_one_that_signs_while_a_rotation_waits() {
    let house = acme().await;
    let file = house.path("file").display().to_string();
    std::fs::write(&file, "words").unwrap();
    run(&house, &["-w", "acme", "key", "rotate", "release", "--overlap", "3600"]);
    let versions = || -> Value {
        let shown = run(&house, &["--json", "-w", "acme", "key", "show", "release"]);
        serde_json::from_str(&shown).unwrap()
    };
    let waiting = || async { (versions()["versions"].as_array()?.len() == 2).then_some(()) };
    promises::eventually("the new version is announced", promises::appliance::READY_MAX, waiting).await;
    let states = |shown: &Value| -> Vec<String> {
        shown["versions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["state"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(states(&versions()), ["signing", "announced"]);
    run(&house, &["-w", "acme", "sign", "--key", "release", &file]);
    openssl_verifies(&house, "release", &format!("{file}.sig"), &file);
    let public = |more: &[&str]| {
        run(&house, &[&["-w", "acme", "key", "show", "release", "--public", "pem"], more].concat())
    };
    assert_ne!(public(&[]), public(&["--key-version", "2"]));
    assert_eq!(public(&[]), public(&["--key-version", "1"]));
    let output =
        house.cli(&["-w", "acme", "key", "show", "release", "--public", "pem", "--key-version", "9"]);
    assert!(complained(&output).contains("no version 9"), "{}", complained(&output));
}

#[tokio::test]
async fn a_wrong_argument_is_told_by_its_own_name() {
    let house = acme().await;
    run(&house, &["-w", "acme", "key", "create", "rsa", "--kind", "rsa-2048"]);
    let short = "00".repeat(31);
    let rows: [(&[&str], i32, &str); 13] = [
        (&["key", "list"], USAGE, "--workspace"),
        (&["sign", "--key", "release", "/etc/hostname"], USAGE, "--workspace"),
        (&["client", "list"], USAGE, "--workspace"),
        (
            &["-w", "acme", "apikey", "create", "a", "--scope", "sign", "--expires", "tomorrow"],
            USAGE,
            "--expires",
        ),
        (&["-w", "acme", "saga", "start", "key.rotate", "notjson"], USAGE, "INPUT"),
        (&["-w", "acme", "key", "show", "release", "--public", "der"], USAGE, "--public"),
        (&["-w", "acme", "sign", "--key", "rsa", "/etc/hostname"], USAGE, "--scheme"),
        (
            &["-w", "acme", "sign", "--key", "release", "--scheme", "rot13", "/etc/hostname"],
            USAGE,
            "--scheme",
        ),
        (&["-w", "acme", "sign", "--key", "release", "--out", "-", "--digest", &short], USAGE, "--digest"),
        (&["-w", "acme", "sign", "--key", "release", "-"], USAGE, "--out"),
        (
            &["-w", "acme", "client", "revoke", "nobody", "--yes"],
            REFUSED,
            "no client `nobody` in workspace `acme`",
        ),
        (&["workspace", "close", "nowhere"], REFUSED, "no workspace `nowhere`"),
        (&["-w", "acme", "sign", "--key", "none", "/etc/hostname"], REFUSED, "none"),
    ];
    for (arguments, code, words) in rows {
        let output = house.cli(arguments);
        let told = complained(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {told}");
        assert!(told.contains(words), "{arguments:?}: {told}");
        for foreign in ["header", "line 1 column", "expected ident", "The body"] {
            assert!(!told.contains(foreign), "{arguments:?} speaks of the API: {told}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_taken_back_wants_a_yes_and_takes_names() {
    let house = acme().await;
    let out = house.path("client").display().to_string();
    run(&house, &["-w", "acme", "client", "enroll", "builder", "--out", &out]);
    run(&house, &["-w", "acme", "apikey", "create", "builder", "--scope", "sign"]);
    let state = |list: &str, command: &str| -> String {
        let listed: Value =
            serde_json::from_str(&run(&house, &["--json", "-w", "acme", command, "list"])).unwrap();
        listed[list][0]["state"].as_str().unwrap().to_owned()
    };
    for (command, list) in [("client", "clients"), ("apikey", "api_keys")] {
        let mut unsure = house.command(&["-w", "acme", command, "revoke", "builder"]);
        let output = unsure.stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(USAGE), "{}", complained(&output));
        assert!(complained(&output).contains("--yes"), "{}", complained(&output));
        assert_ne!(state(list, command), "revoked");
        run(&house, &["-w", "acme", command, "revoke", "builder", "--yes"]);
        assert_eq!(state(list, command), "revoked");
        let again = house.cli(&["-w", "acme", command, "revoke", "builder", "--yes"]);
        assert!(complained(&again).contains("revoked already"), "{}", complained(&again));
    }
    let mut retire = house.command(&["ca", "retire", "0000"]);
    assert_eq!(retire.stdin(Stdio::null()).output().unwrap().status.code(), Some(USAGE));
    run(&house, &["workspace", "close", "acme"]);
    run(&house, &["workspace", "open", "acme"]);
}

#[tokio::test]
async fn a_log_in_text_has_no_colour_where_there_is_no_terminal() {
    let house = Plan::with(Hardware::Token).set("log.format", "text").start().await;
    let log = house.log();
    assert!(log.contains("INFO"), "{log}");
    assert!(!log.contains('\u{1b}'), "{:?}", &log[..log.len().min(200)]);
}
