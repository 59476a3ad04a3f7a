//! The description as strangers' programs take it: a linter without a word, and clients made of it that do the main job against the real daemon.
//! `.ci/clients` installs those programs, at pinned versions, beside what cargo builds; without them these tests fail.

use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use promises::programs::{complained, said, succeeds};
use promises::{Appliance, Member, get};
use serde_json::Value;
use tempfile::TempDir;

/// A pinned program, in the target directory.
fn pinned(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test knows where it is");
    // target/<profile>/deps/<test>
    let place = own.ancestors().nth(3).expect("a target directory").join("clients");
    assert!(place.join("installed").is_file(), "{} is not complete: run `make clients`", place.display());
    place.join(name)
}

fn in_tree(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// A directory in which node finds the pinned packages, with these files of tests/clients.
fn node_project(files: &[&str]) -> TempDir {
    let directory = tempfile::Builder::new().prefix("clients-").tempdir().expect("a temporary directory");
    std::os::unix::fs::symlink(pinned("node_modules"), directory.path().join("node_modules"))
        .expect("a link");
    std::fs::write(directory.path().join("package.json"), r#"{ "type": "module" }"#).expect("a project");
    for file in files {
        std::fs::copy(in_tree("tests/clients").join(file), directory.path().join(file)).expect(file);
    }
    directory
}

/// Runs a client's main job as this member, and holds what it says against the appliance.
async fn does_the_main_job(house: &Appliance, member: &Member, name: &str, mut client: Command) {
    let files = member.identity.files(&house.path(name));
    client.arg(format!("https://localhost:{}", house.door().address().port()));
    client.args([&files.ca, &files.certificate, &files.key]).env("CHANCERY_TOKEN", &member.secret);
    let output =
        tokio::task::spawn_blocking(move || client.output()).await.unwrap().expect("the client starts");
    assert!(output.status.success(), "{name}: {}\n{}{}", output.status, said(&output), complained(&output));
    let done: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!((&done["valid"], &done["context"]), (&Value::Bool(true), &"main job".into()), "{done}");
    let key = member.ask(get(format!("/v1/keys/{name}"))).await.expect(200).json();
    assert_eq!(done["key"], key["id"]);
    assert_eq!(key["uses"], 1, "the client's signature is the only one: {key}");
    let entry = member.ask(get(format!("/v1/audit/entries/{}", done["entry"]))).await.expect(200).json();
    assert_eq!(entry["action"], "key.sign");
    let pem = house.path("public.pem");
    std::fs::write(&pem, key["versions"][0]["pem"].as_str().expect("PEM")).unwrap();
    let signature = house.path("signature");
    std::fs::write(&signature, STANDARD.decode(done["signature"].as_str().unwrap()).unwrap()).unwrap();
    let message = house.path("message");
    std::fs::write(&message, "signed by a generated client").unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-verify"]).arg(pem).arg("-signature").arg(signature).arg(message);
    succeeds(&mut openssl);
}

#[test]
fn a_linter_has_neither_errors_nor_warnings_for_the_description() {
    let directory = node_project(&["lint.mjs", "redocly.yaml"]);
    let mut lint = Command::new("node");
    lint.current_dir(&directory).arg("lint.mjs").arg(in_tree("docs/openapi.json").canonicalize().unwrap());
    let said = succeeds(lint.arg("redocly.yaml"));
    assert!(said.contains("0 errors, 0 warnings"), "{said}");
}

#[tokio::test]
async fn a_python_client_made_of_the_description_does_the_main_job() {
    let made = tempfile::Builder::new().prefix("clients-").tempdir().unwrap();
    let mut generate = Command::new(pinned("venv/bin/openapi-python-client"));
    generate.args(["generate", "--meta", "none", "--path"]).arg(in_tree("docs/openapi.json"));
    generate.arg("--config").arg(in_tree("tests/clients/openapi-python-client.yaml"));
    generate.arg("--output-path").arg(made.path().join("chancery"));
    let output = generate.output().unwrap();
    let words = said(&output) + &complained(&output);
    assert!(output.status.success(), "{words}");
    // It ends with 0 and a warning where it left out what it could not read.
    assert!(!words.to_lowercase().contains("warning") && !words.contains("Cannot parse"), "{words}");
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let mut python = Command::new(pinned("venv/bin/python"));
    python.arg("-B").arg(in_tree("tests/clients/main_job.py")).env("PYTHONPATH", made.path());
    does_the_main_job(&house, &member, "python", python).await;
}

#[tokio::test]
async fn a_typescript_client_made_of_the_description_does_the_main_job() {
    let project = node_project(&["main_job.ts", "tsconfig.json"]);
    let program = |name: &str| {
        let mut command = Command::new("node");
        command.current_dir(&project).arg(pinned(&format!("node_modules/{name}")));
        command
    };
    let mut generate = program("openapi-typescript/bin/cli.js");
    succeeds(generate.arg(in_tree("docs/openapi.json").canonicalize().unwrap()).args(["-o", "chancery.ts"]));
    succeeds(program("typescript/bin/tsc").args(["--project", "."]));
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let mut node = Command::new("node");
    node.current_dir(&project).arg("main_job.js");
    does_the_main_job(&house, &member, "typescript", node).await;
}
