//! What people read is what the programs do: help, defects, problem codes, the example configuration.
//! Who enters: documents, golden texts, the program `chancery`.
//! What leaves: the first word that differs; `UPDATE=1` rewrites golden texts.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use gateway::api::Code;
use gateway::config::{Config, ConfigRefused};

fn chancery(arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_chancery"));
    for name in ["CHANCERY_CONFIG", "CHANCERY_SOCKET", "CHANCERY_WORKSPACE"] {
        command.env_remove(name);
    }
    let output = command.args(arguments).env("COLUMNS", "100").output().expect("chancery runs");
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), said)
}

/// The words under `Commands:` in a help text.
fn commands_in(help: &str) -> Vec<String> {
    let below =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = below.filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

fn help_of(path: &[String], shown: &mut String) {
    let mut arguments: Vec<&str> = path.iter().map(String::as_str).collect();
    arguments.push("--help");
    let (code, help) = chancery(&arguments);
    assert_eq!(code, 0, "{path:?}: {help}");
    let trimmed: Vec<_> = help.lines().map(str::trim_end).collect();
    *shown += &format!("$ chancery {}\n{}\n\n", arguments.join(" "), trimmed.join("\n"));
    for name in commands_in(&help) {
        help_of(&[path, &[name]].concat(), shown);
    }
}

#[test]
fn the_help_of_every_command_is_the_one_kept() {
    let mut shown = String::new();
    help_of(&[], &mut shown);
    common::golden("gateway/tests/golden/help.txt", &shown);
}

#[test]
fn a_broken_configuration_is_told_in_these_words_and_with_code_4() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("chancery.toml");
    let mut shown = String::new();
    for (name, text) in [
        ("no TOML at all", "state_directory = \n"),
        ("nothing in it", ""),
        (
            "names almost right",
            "legder = 1\n[ledger]\norigin = 'a/b'\nseal_second = 3\n[log]\nformat = 'xml'\n",
        ),
        ("values out of place", "socket = 3\n[api]\nlisten = 'nowhere'\nnames = []\n[token]\nkind = 'usb'\n"),
    ] {
        fs::write(&path, text).unwrap();
        let (code, said) = chancery(&["config", "check", "--config", path.to_str().unwrap()]);
        assert_eq!(code, 4, "{name}: {said}");
        shown += &format!("# {name}\n{}\n", said.replace(&directory.path().display().to_string(), ""));
    }
    let (code, said) = chancery(&["config", "check", "--config", "/nowhere/chancery.toml"]);
    assert_eq!(code, 4);
    common::golden("gateway/tests/golden/defects.txt", &(shown + "# no file\n" + &said));
}

#[test]
fn a_daemon_that_is_not_there_is_told_with_code_3() {
    let (code, said) = chancery(&["status", "--socket", "/nowhere/chancery.sock"]);
    assert_eq!(code, 3, "{said}");
}

/// A certificate with its key.
fn pem() -> String {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    format!("{}{}", made.cert.pem(), made.signing_key.serialize_pem())
}

/// The example with its paths moved below a directory, where each of them exists.
fn example(below: &Path, with_optional: bool) -> String {
    let text = common::text("docs/chancery.example.toml");
    let optional = |line: &str| line.starts_with('#') && line.len() > 1 && !line.starts_with("# ");
    let lines = text.lines().map(|line| if with_optional && optional(line) { &line[1..] } else { line });
    // The worker is looked for where it is installed, so the plain form names another place too.
    let text = lines.collect::<Vec<_>>().join("\n").replacen("#worker", "worker", 1);
    let moved = text.split('"').enumerate().map(|(at, piece)| match at % 2 == 1 && piece.starts_with('/') {
        true => below.join(piece.trim_start_matches('/')).display().to_string(),
        false => piece.to_owned(),
    });
    for path in text.split('"').skip(1).step_by(2).filter(|piece| piece.starts_with('/')) {
        let path = below.join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match path.ends_with("var/lib/chancery") {
            true => fs::create_dir_all(&path).unwrap(),
            false => {
                // Files in PEM are read as such; one with everything in it serves for all of them.
                let is_pem = path
                    .components()
                    .any(|part| part.as_os_str() == "chancery" || part.as_os_str() == "chancery.service")
                    && path.extension().is_some_and(|end| end == "pem" || end == "key");
                fs::write(&path, if is_pem { pem() } else { "1234".to_owned() }).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
            }
        }
    }
    fs::set_permissions(below.join("var/lib/chancery"), fs::Permissions::from_mode(0o700)).unwrap();
    moved.collect::<Vec<_>>().join("\"")
}

fn read(text: &str, below: &Path) -> Result<Config, ConfigRefused> {
    let path = below.join("chancery.toml");
    fs::write(&path, text).unwrap();
    Config::read(&path)
}

#[test]
fn the_example_configuration_is_right_as_it_stands_and_with_every_optional_line() {
    let directory = tempfile::tempdir().unwrap();
    let plain =
        read(&example(directory.path(), false), directory.path()).unwrap_or_else(|why| panic!("{why}"));
    let full = read(&example(directory.path(), true), directory.path()).unwrap_or_else(|why| panic!("{why}"));
    assert!(plain.tpm.is_none() && full.tpm.is_some());
    // What is shown as a default is the default.
    assert_eq!(plain.ledger.seal_seconds, full.ledger.seal_seconds);
    assert_eq!(plain.ledger.seal_rows, full.ledger.seal_rows);
    assert_eq!(plain.ledger.unsealed_seconds_max, full.ledger.unsealed_seconds_max);
    assert_eq!((plain.rates.workspace, plain.rates.address), (full.rates.workspace, full.rates.address));
    assert_eq!(plain.traces.recorded_per_second_max, full.traces.recorded_per_second_max);
    assert!(plain.upstreams.is_empty() && full.upstreams.len() == 1);
    assert_eq!((plain.log.format, plain.log.filter), (full.log.format, full.log.filter));
    assert_eq!(plain.token.limits(), full.token.limits());
}

#[test]
fn the_example_and_the_table_name_every_key_there_is() {
    let directory = tempfile::tempdir().unwrap();
    let (example, table) = (example(directory.path(), true), common::text("docs/configuration.md"));
    for section in ["api", "operators", "token", "tpm", "ledger", "rates", "log", "traces", "upstream"] {
        // One table, or one of several.
        let head = if section == "upstream" { format!("[[{section}]]\n") } else { format!("[{section}]\n") };
        let spoilt = example.replace(&head, &format!("{head}zzzzzz = 1\n"));
        let refused = read(&spoilt, directory.path()).expect_err("an unknown key").to_string();
        let known = refused.split("known are ").nth(1).unwrap_or_else(|| panic!("[{section}]: {refused}"));
        for key in known.lines().next().unwrap_or_default().split(", ") {
            assert!(example.contains(&format!("\n{key} = ")), "the example lacks {section}.{key}");
            let named = table.contains(&format!("`{section}.{key}`")) || table.contains(&format!("`{key}`"));
            assert!(named || section == "tpm", "the table lacks {section}.{key}");
        }
    }
}

#[test]
fn every_problem_code_is_in_the_table_with_its_status() {
    let rows = common::table_rows("docs/api.md", |cell| cell.starts_with('`') && !cell.contains(' '));
    let told: BTreeSet<_> = rows
        .iter()
        .filter(|row| row.len() == 4)
        .map(|row| (row[0].trim_matches('`').to_owned(), row[1].clone()))
        .collect();
    let known: BTreeSet<_> =
        Code::ALL.iter().map(|code| (code.text().to_owned(), code.status().to_string())).collect();
    assert_eq!(told, known, "docs/api.md and the code do not name the same codes");
}

/// A link to a file of this tree that is not there helps nobody.
#[test]
fn no_link_in_the_documents_leads_nowhere() {
    let mut documents = common::files("docs", ".md");
    documents.extend(["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"].map(str::to_owned));
    for document in documents {
        let text = common::text(&document);
        let folder = Path::new(&document).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            let outside = target.is_empty() || target.contains("://") || target.starts_with("mailto:");
            assert!(
                outside || common::root().join(&folder).join(target).exists(),
                "{document} links to {link}"
            );
        }
    }
}
