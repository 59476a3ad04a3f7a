//! Recipes, run word for word: their blocks of shell go to a shell as they stand, with the names of one's own in place of the examples'.
//! `import-a-key.md` is run by `key_import.rs`, and `tpm.md`, as far as it is about updates, by `resealing.rs`. What needs a service manager or
//! the TPM's own tools (`service.md` steps 1 to 5, the rest of `tpm.md`) is not run here.

use std::fs;
use std::path::Path;
use std::process::Command;

use promises::people::sign_p256;
use promises::programs::{program, succeeds};
use promises::{Appliance, evidence, get};

/// The shell blocks of a recipe, without their indentation.
fn blocks(recipe: &str, language: &str) -> Vec<String> {
    let (mut blocks, mut open) = (Vec::new(), None::<Vec<&str>>);
    for line in recipe.lines() {
        match (&mut open, line.trim()) {
            (None, fence) if fence == format!("```{language}") => open = Some(Vec::new()),
            (Some(_), "```") => blocks.push(open.take().unwrap_or_default().join("\n")),
            (Some(lines), _) => lines.push(line),
            _ => {}
        }
    }
    blocks
}

/// The commands that stand in a recipe's text.
fn inline(recipe: &str) -> Vec<String> {
    let odd = recipe.split('`').skip(1).step_by(2);
    odd.filter(|code| code.starts_with("chancery ")).map(str::to_owned).collect()
}

/// An operator's shell in this directory, with our programs in its path.
fn shell(house: &Appliance, directory: &Path, script: &str) -> String {
    let programs = program("chancery").parent().unwrap().display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", script]).current_dir(directory);
    shell.env("PATH", path).env("CHANCERY_CONFIG", house.config_file()).env("CHANCERY_WORKSPACE", "acme");
    succeeds(&mut shell)
}

#[tokio::test]
async fn the_ca_is_replaced_as_the_recipe_says() {
    let recipe = include_str!("../../docs/recipes/rotate-the-ca.md");
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    let key = member.create_key("release", "p256").await;
    let here = house.path("operator");
    fs::create_dir(&here).unwrap();
    shell(&house, &here, "chancery client enroll me --out .");
    fs::copy(here.join("me.pem"), here.join("old.pem")).unwrap();
    let old = house.operator().authorities().await[0]["fingerprint"].as_str().unwrap().to_owned();
    let [rotate, bundle, retire] = blocks(recipe, "sh").try_into().expect("three blocks");
    shell(&house, &here, &rotate);
    shell(&house, &here, &bundle.replace("https://signing.example.org:8443", &house.door().url()));
    assert_eq!(fs::read_to_string(here.join("ca.pem")).unwrap().matches("BEGIN CERTIFICATE").count(), 2);
    // Step 3: the client is enrolled anew, and knows both.
    shell(
        &house,
        &here,
        "chancery client enroll NAME --out .; chancery client revoke me --yes"
            .replace("NAME", "me-2")
            .as_str(),
    );
    shell(&house, &here, &retire.replace("FINGERPRINT", &old));
    let listed = shell(&house, &here, "chancery ca list");
    assert!(listed.contains("retired") && listed.contains("trusted"), "{listed}");
    // Whoever has the new certificate goes on, and whoever kept the old one is out.
    let ca = fs::read_to_string(here.join("ca.pem")).unwrap();
    let identity = |name: &str, key: &str| promises::Identity {
        certificate: fs::read_to_string(here.join(name)).unwrap(),
        key: fs::read_to_string(here.join(key)).unwrap(),
        ca: ca.clone(),
    };
    let renewed = member.with_identity(&identity("me-2.pem", "me-2.key"));
    renewed.ask(sign_p256(&key, b"after the rotation")).await.expect(200);
    assert!(member.with_identity(&identity("old.pem", "me.key")).try_ask(get("/v1/keys")).await.is_err());
    for action in ["ca.rotate", "ca.retire"] {
        let told = shell(
            &house,
            &here,
            &format!("unset CHANCERY_WORKSPACE; chancery audit entries --action {action}"),
        );
        assert!(told.contains(action), "{told}");
    }
    evidence::verifies(&mut house).await;
}

#[tokio::test]
async fn a_service_is_put_behind_the_gateway_as_the_recipe_says() {
    let recipe = include_str!("../../docs/recipes/upstreams.md");
    let mut house = Appliance::start().await;
    house.operator().create_workspace("acme").await;
    let here = house.path("operator");
    fs::create_dir(&here).unwrap();
    let (certificate, key, ca) = promises::identity::server_files("gateway");
    for (name, text) in [("mirror.pem", certificate), ("mirror.key", key), ("mirror-ca.pem", ca)] {
        fs::write(here.join(name), text).unwrap();
    }
    shell(&house, &here, "chmod 0600 mirror.key");
    let [table] = blocks(recipe, "toml").try_into().expect("one table");
    let files = here.display().to_string();
    let table = table.replace("/etc/chancery", &files).replace("/run/credentials/chancery.service", &files);
    let config = fs::read_to_string(house.config_file()).unwrap();
    fs::write(house.config_file(), format!("{config}\n{table}\n")).unwrap();
    let commands = inline(recipe);
    assert_eq!(commands.len(), 5, "{commands:?}");
    assert_eq!(commands[0], "chancery config check");
    shell(&house, &here, &commands[0]);
    // `systemctl reload chancery`, as the unit does it.
    house.daemon().signal(rustix::process::Signal::HUP);
    let operator = house.operator();
    let served = || async {
        let routes = operator.ask(get("/v1/routes")).await.expect(200).text();
        routes.contains("/mirror").then_some(())
    };
    promises::eventually("the upstream is served", promises::GIVEN_UP, served).await;
    for command in &commands[1..] {
        let told = shell(&house, &here, command);
        assert!(!told.is_empty(), "{command}");
    }
    let told = shell(&house, &here, "chancery route explain /mirror/x");
    assert!(told.contains("mirror"), "{told}");
}
