//! Promises about the tree as it lies here: unit, demonstration, and what no file of the product does.
//! Who enters: sources, scripts, the built programs.
//! What leaves: the first file that breaks its promise.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The product's sources without their tests.
fn product() -> Vec<(String, String)> {
    let folders = ["gateway/src", "hsm/src", "audit/src"];
    let files = folders.iter().flat_map(|folder| common::files(folder, ".rs"));
    let code = |file: String| {
        let text = common::text(&file);
        let product = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default().to_owned();
        (file, product)
    };
    files.map(code).collect()
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).current_dir(common::root()).output();
    let output = output.unwrap_or_else(|why| panic!("{program} does not run: {why}"));
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {arguments:?}: {}\n{said}", output.status);
}

#[test]
fn the_unit_and_its_drop_ins_are_as_hard_as_promised() {
    assert!(Path::new("/usr/bin/systemd-analyze").exists(), "install systemd (make deps)");
    run("systemd/check.sh", &[]);
}

/// The worker confines itself by calls of its own. A unit that refuses them would keep it from starting at all.
#[test]
fn the_unit_lets_a_worker_confine_itself() {
    let read = |name: &str| std::fs::read_to_string(Path::new("../systemd").join(name)).unwrap();
    let admitted = |text: &str, call: &str| {
        let mut admitted = false;
        for line in text.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
            let (denies, calls) = line.strip_prefix('~').map_or((false, line), |calls| (true, calls));
            if calls.split_whitespace().any(|one| one == call) {
                admitted = !denies;
            }
        }
        admitted
    };
    let unit = read("chancery.service");
    for call in ["seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"] {
        assert!(admitted(&unit, call), "{call}");
    }
    // Where a drop-in gives the daemon a capability, the worker must be able to give it up.
    for file in std::fs::read_dir("../systemd/drop-ins").unwrap() {
        let text = read(&format!("drop-ins/{}", file.unwrap().file_name().display()));
        assert!(!text.contains("AmbientCapabilities=CAP") || admitted(&text, "capset"), "{text}");
    }
}

/// Codes 4 and 6 want a person, 5 and a crash want another try, without end: the daemon itself waits for what is late, within the time
/// that it asks for.
#[test]
fn the_unit_restarts_what_may_heal_without_end_and_nothing_that_needs_a_person() {
    let unit = common::text("systemd/chancery.service");
    let value = |key: &str| {
        let prefix = format!("{key}=");
        let found: Vec<_> = unit.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
        assert_eq!(found.len(), 1, "{key} stands {} times", found.len());
        found[0].to_owned()
    };
    assert_eq!((value("Restart"), value("StartLimitIntervalSec")), ("on-failure".into(), "0".into()));
    assert!(!unit.contains("StartLimitBurst="));
    let mut kept: Vec<u8> =
        value("RestartPreventExitStatus").split(' ').map(|code| code.parse().unwrap()).collect();
    kept.sort_unstable();
    use gateway::cli::code;
    assert_eq!(kept, [code::USAGE, code::CONFIGURATION, code::NEEDS_A_PERSON]);
    assert_eq!((value("Type"), value("NotifyAccess")), ("notify".into(), "main".into()));
    let first: u64 = value("TimeoutStartSec").parse().unwrap();
    assert!(
        first > 2 * gateway::limits::START_EXTEND_EVERY.as_secs(),
        "it would be ended before it asks for time"
    );
    assert!(gateway::limits::START_EXTENSION > 2 * gateway::limits::START_EXTEND_EVERY);
}

#[test]
fn the_demonstration_signs_verifies_and_catches_the_forger() {
    let chancery = Path::new(env!("CARGO_BIN_EXE_chancery"));
    for beside in ["chancery-hsm", "chancery-audit"] {
        let program = chancery.with_file_name(beside);
        assert!(program.exists(), "{} is not built: cargo build --workspace --bins", program.display());
    }
    run(&chancery.display().to_string(), &["dev", "--listen", "127.0.0.1:0", "--then", "demo/demo.sh"]);
}

/// Out of the product lead one file that dials and one room that pools what it dialled; both go only where the
/// configuration sends them. Everything else listens.
#[test]
fn nothing_in_the_product_dials_but_the_dialer_and_only_where_the_configuration_says() {
    let ways =
        ["TcpStream::connect", "TcpSocket", "UdpSocket", "reqwest", "hyper_util::client", "lookup_host"];
    let may = |file: &str, way: &str| match way {
        "TcpStream::connect" => file == "gateway/src/dial.rs",
        "hyper_util::client" => file.starts_with("gateway/src/upstream/"),
        _ => false,
    };
    for (file, code) in product().into_iter().filter(|(file, _)| !file.ends_with("/tests.rs")) {
        for way in ways {
            assert!(may(&file, way) || !code.contains(way), "{file} uses {way}");
        }
        let dials = code.contains("Dialer::") && file != "gateway/src/dial.rs";
        let known = ["gateway/src/upstream/mod.rs", "gateway/src/wiring/doors.rs"].contains(&file.as_str());
        assert!(!dials || known, "{file} makes a dialer; only what the configuration names is dialled");
    }
}

/// The routes whose names speak of keys or records going out or in: a wrapped key that comes, and the ledger that goes.
const PASSAGES: [&str; 2] = ["/v1/audit/export", "/v1/workflows/{workflow}/blob"];

#[test]
fn no_frame_and_no_route_asks_for_a_private_key() {
    let plain = ["private_key", "pkcs8", "private key in the clear", "seed", "extract_key"];
    for file in ["hsm/src/protocol.rs", "hsm/src/ceremony/mod.rs"] {
        let text = common::text(file);
        let frames = text.lines().map(str::trim).filter(|line| !line.starts_with("//"));
        for word in plain {
            assert!(
                !frames.clone().any(|line| line.to_lowercase().contains(word)),
                "a frame of {file} names {word}"
            );
        }
    }
    // A key goes out under a backup key, and comes in under an import key or a backup key: there is no other frame for it.
    let acts = common::text("hsm/src/ceremony/mod.rs");
    for act in [
        "Export { key: KeyRef, under: BackupKek }",
        "Import { with: ImportKey, incoming: Incoming }",
        "Restore { under: BackupKek, incoming: Incoming }",
    ] {
        assert_eq!(acts.matches(act).count(), 1, "the frame `{act}` is not as it was");
    }
    for way in ["KeyRef", "Incoming"] {
        let frames = acts.lines().filter(|line| line.trim().ends_with("},") && line.contains(way)).count();
        assert_eq!(frames, 2, "another frame carries a {way}");
    }
    let routes = common::text("docs/openapi.json");
    let paths = routes.lines().filter(|line| line.trim_start().starts_with("\"/v1/"));
    for word in ["export", "private", "import", "extract", "blob"] {
        let named = paths.clone().filter(|path| path.contains(word));
        for path in named {
            assert!(PASSAGES.iter().any(|known| path.contains(known)), "a route names {word}: {path}");
        }
    }
}

/// What room it is, who enters, what leaves: nobody reads a file from its middle.
#[test]
fn every_file_of_the_product_says_what_room_it_is() {
    for (file, code) in product() {
        let told = code.lines().take(3).filter(|line| line.starts_with("//!")).count();
        assert_eq!(
            told, 3,
            "{file} does not say in its first three lines what room it is, who enters and what leaves"
        );
    }
}

#[test]
fn changes_without_an_entry_are_few_and_each_gives_its_reason() {
    let mut found = String::new();
    for (file, code) in product().into_iter().filter(|(file, _)| file.starts_with("gateway/")) {
        for (at, _) in code.match_indices("write_unaudited(") {
            let reason = code[at..].split('"').nth(1).unwrap_or_default();
            found += &format!("{file}: {reason}\n");
        }
    }
    common::golden("gateway/tests/golden/unaudited-writes.txt", &found);
}

#[test]
fn every_dependency_is_pinned_and_comes_from_crates_io() {
    let lock: toml::Table = common::text("Cargo.lock").parse().unwrap();
    for package in lock["package"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        // Members of the workspace have no source.
        let Some(source) = package.get("source").and_then(|source| source.as_str()) else { continue };
        assert_eq!(source, "registry+https://github.com/rust-lang/crates.io-index", "{name}");
        assert!(package.get("checksum").is_some(), "{name} has no checksum");
    }
}

#[test]
fn what_the_readme_says_to_do_by_hand_works() {
    let readme = common::text("README.md");
    let block =
        readme.split("## Go on by hand").nth(1).and_then(|rest| rest.split("```").nth(1)).expect("its block");
    let programs =
        Path::new(env!("CARGO_BIN_EXE_chancery")).parent().expect("a folder").display().to_string();
    let lines: Vec<_> = block
        .lines()
        .filter(|line| line.starts_with("target/debug/") || line.starts_with("export "))
        .collect();
    assert!(lines.len() >= 5, "{lines:?}");
    let root = common::root().display().to_string();
    let script = format!(
        "set -e\ncd \"$CHANCERY_STATE\"\ncp {root}/Cargo.lock .\n{}\n",
        lines.join("\n").replace("target/debug", &programs)
    );
    let chancery = env!("CARGO_BIN_EXE_chancery");
    run(chancery, &["dev", "--listen", "127.0.0.1:0", "--then", "bash", "-c", &script]);
}

#[test]
fn the_service_manager_is_told_ready_alive_and_stopping() {
    let directory = tempfile::tempdir().unwrap();
    let manager = UnixDatagram::bind(directory.path().join("notify")).unwrap();
    // Read all along, or a full queue would hold up the daemon.
    manager.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_chancery"));
    command.args(["dev", "--listen", "127.0.0.1:0", "--no-tpm", "--then", "true"]).stdout(Stdio::null());
    command.env("NOTIFY_SOCKET", directory.path().join("notify")).env("WATCHDOG_USEC", "30000000");
    let mut appliance = command.spawn().expect("chancery runs");
    let (mut told, mut buffer, mut ended) = (Vec::new(), [0; 256], None);
    loop {
        match manager.recv(&mut buffer) {
            Ok(length) => told.push(String::from_utf8_lossy(&buffer[..length]).trim().to_owned()),
            Err(_) if ended.is_some() => break,
            Err(_) => ended = appliance.try_wait().unwrap(),
        }
    }
    assert!(ended.is_some_and(|status| status.success()), "{ended:?}, told {told:?}");
    let at = |word: &str| {
        told.iter().position(|line| line == word).unwrap_or_else(|| panic!("no {word} in {told:?}"))
    };
    assert!(at("READY=1") < at("WATCHDOG=1") && at("WATCHDOG=1") < at("STOPPING=1"), "{told:?}");
    for line in [
        "Type=notify",
        "WatchdogSec=30",
        "LoadCredential=chancery.pin",
        "User=chancery",
        "NoNewPrivileges=yes",
    ] {
        assert!(
            common::text("systemd/chancery.service").lines().any(|own| own == line),
            "the unit lacks {line}"
        );
    }
}

/// "No advisory" is only said by whoever looked: without the tool, without a database, or with an empty one it is a failure that
/// says what to do.
#[test]
fn advisories_that_could_not_be_looked_at_are_a_failure() {
    let directory = tempfile::tempdir().unwrap();
    let (empty, tools) = (directory.path().join("empty"), directory.path().join("tools"));
    let (full, home) = (directory.path().join("full"), directory.path().join("home"));
    for made in [&empty.join("crates"), &tools, &full.join("crates/some"), &home] {
        std::fs::create_dir_all(made).unwrap();
    }
    std::fs::write(full.join("crates/some/RUSTSEC-2020-0001.md"), "an advisory").unwrap();
    for tool in ["bash", "dirname", "find", "mktemp", "cp", "chmod", "git", "rm"] {
        let found =
            ["/usr/bin", "/bin"].map(|place| Path::new(place).join(tool)).into_iter().find(|it| it.exists());
        std::os::unix::fs::symlink(found.unwrap_or_else(|| panic!("{tool} is missing")), tools.join(tool))
            .unwrap();
    }
    // A checkout with nothing beside it, so that no copy of the database is found by chance.
    let checkout = directory.path().join("elsewhere/checkout/.ci");
    std::fs::create_dir_all(&checkout).unwrap();
    std::fs::copy(common::root().join(".ci/advisories"), checkout.join("advisories")).unwrap();
    let looked = |database: Option<&Path>| {
        let mut look = Command::new(tools.join("bash"));
        look.arg(checkout.join("advisories"))
            .env("PATH", &tools)
            .env("CARGO_HOME", &home)
            .env_remove("ADVISORY_DB");
        if let Some(database) = database {
            look.env("ADVISORY_DB", database);
        }
        let output = look.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    for (database, words) in [
        (None, "there is no copy of the database"),
        (Some(Path::new("/nowhere")), "/nowhere holds no advisories"),
        (Some(empty.as_path()), "holds no advisories"),
        (Some(full.as_path()), "cargo-audit is not installed: cargo install cargo-audit --locked"),
        (Some(Path::new("fetch")), "cargo-audit is not installed"),
    ] {
        let (code, said) = looked(database);
        assert_eq!(code, Some(1), "{database:?}: {said}");
        assert!(said.contains("could not look") && said.contains(words), "{database:?}: {said}");
    }
    let gate = common::text(".ci/run");
    assert!(
        gate.contains("make lint") && gate.contains("ADVISORY_DB=fetch"),
        "the gate does not insist on looking"
    );
}
