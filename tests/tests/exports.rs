//! Exports over the real programs: a security team that gets one workspace's entries, encrypted to its key, opens them with the
//! public `age` tool and checks them with the stand-alone verifier.
//! Who enters: an operator at the command line; `age-keygen`, `age`, `chancery-audit`.
//! What leaves: an excerpt that verifies, an appliance without a plain byte of it, and refusals that leave nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use promises::people::sign_p256;
use promises::programs::{complained, program, said, succeeds, tool};
use promises::{Appliance, evidence, post};
use serde_json::{Value, json};

/// A key pair of age: where the secret half lies, and the public half.
fn age_key(directory: &Path) -> (PathBuf, String) {
    let identity = directory.join("team.key");
    succeeds(tool("age-keygen", "age").arg("-o").arg(&identity));
    (identity.clone(), succeeds(tool("age-keygen", "age").arg("-y").arg(&identity)).trim().to_owned())
}

fn opened(identity: &Path, sealed: &Path, to: &Path) {
    succeeds(tool("age", "age").arg("--decrypt").arg("-i").arg(identity).arg("-o").arg(to).arg(sealed));
}

fn export(house: &Appliance, arguments: &[&str]) -> Value {
    let output = house.cli(&[&["--json", "audit", "export"], arguments].concat());
    assert!(output.status.success(), "{}", complained(&output));
    serde_json::from_str(&said(&output)).unwrap()
}

/// Every byte below a directory.
fn bytes_below(directory: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for item in fs::read_dir(directory).unwrap() {
        let path = item.unwrap().path();
        bytes.extend(if path.is_dir() { bytes_below(&path) } else { fs::read(&path).unwrap() });
    }
    bytes
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[tokio::test]
async fn a_security_team_opens_one_workspaces_export_with_age_and_verifies_it_offline() {
    let mut house = Appliance::start().await;
    let (acme, other) = (house.member("acme").await, house.member("other").await);
    let (own, foreign) = (acme.create_key("release", "p256").await, other.create_key("hidden", "p256").await);
    for n in 0..40 {
        acme.ask(sign_p256(&own, format!("own {n}").as_bytes())).await.expect(200);
        other.ask(sign_p256(&foreign, format!("foreign {n}").as_bytes())).await.expect(200);
    }
    let keys = evidence::verifier_keys(&house).await;
    let (identity, recipient) = age_key(&house.path(""));
    let made = export(&house, &["--workspace", "acme", "--recipient", &recipient]);
    let directory = PathBuf::from(made["directory"].as_str().unwrap());
    let sealed = directory.join("bundle.tar.age");
    assert_eq!(fs::metadata(&sealed).unwrap().permissions().mode() & 0o777, 0o400);
    let kept = bytes_below(&house.state().join("exports"));
    assert!(
        !holds(&kept, "key.sign") && !holds(&kept, "excerpt.json"),
        "plain bytes of the export lie on disk"
    );
    let archive = house.path("excerpt.tar");
    opened(&identity, &sealed, &archive);
    let (verified, report) = evidence::report(&archive, &keys);
    assert!(verified, "{report:#}");
    assert_eq!(
        (&report["entries"], &report["excerpt"]["workspace"]),
        (&made["entries"], &json!(acme.workspace))
    );
    let everybodys = house.operator().entries("action=key.sign").await;
    assert_eq!(everybodys.len(), 80);
    for entry in &everybodys {
        let shown = Command::new(program("chancery-audit"))
            .args(["--json", "show"])
            .arg(&archive)
            .arg(entry["seq"].to_string())
            .output()
            .unwrap();
        if entry["workspace"] != json!(acme.workspace) {
            assert!(!shown.status.success() && complained(&shown).contains("there is no entry"), "{entry}");
            continue;
        }
        let shown: Value = serde_json::from_str(&said(&shown)).unwrap();
        assert_eq!((&shown["object"], &shown["detail"]), (&entry["object"], &entry["detail"]));
    }
    let told = house.operator().entries("action=audit.export.stored").await;
    assert_eq!(told.last().unwrap()["detail"]["after"]["sha256"], made["sha256"]);
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn the_whole_log_and_a_range_of_it_open_with_age_too_and_a_stranger_opens_nothing() {
    let mut house = Appliance::start().await;
    let acme = house.member("acme").await;
    let key = acme.create_key("release", "p256").await;
    acme.ask(sign_p256(&key, b"one")).await.expect(200);
    let keys = evidence::verifier_keys(&house).await;
    let (identity, recipient) = age_key(&house.path(""));
    let strangers = house.path("elsewhere");
    fs::create_dir(&strangers).unwrap();
    let (stranger, _) = age_key(&strangers);
    for (arguments, source) in
        [(&[][..], "export archive"), (&["--from", "3", "--to", "9"][..], "excerpt archive")]
    {
        let made = export(&house, &[&["--recipient", &recipient], arguments].concat());
        let sealed = PathBuf::from(made["directory"].as_str().unwrap()).join("bundle.tar.age");
        let archive = house.path("opened.tar");
        opened(&identity, &sealed, &archive);
        let (verified, report) = evidence::report(&archive, &keys);
        assert!(verified && report["source"] == source, "{report:#}");
        let mut other = tool("age", "age");
        let refused = other.arg("--decrypt").arg("-i").arg(&stranger).arg(&sealed).output().unwrap();
        assert!(!refused.status.success() && refused.stdout.is_empty());
        let (verified, report) = evidence::report(&sealed, &keys);
        assert!(!verified && report["said"].as_str().unwrap().contains("opened with age first"), "{report}");
    }
    let nobody = house.operator().ask(post("/v1/audit/export?recipient=age1nobody", Value::Null)).await;
    nobody.refused(400, "bad_request");
    evidence::verifies(&mut house).await;
}
