//! Promises about the tree as it lies here: unit, demonstration, and what no file of the product does.
//! Who enters: sources, scripts, the built programs.
//! What leaves: the first file that breaks its promise.
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test may fail loudly")]

mod common;

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value as Json;

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

/// Where the types of the frames between daemon and worker are declared.
const FRAMES: [&str; 4] =
    ["hsm/src/protocol.rs", "hsm/src/ceremony/mod.rs", "hsm/src/key.rs", "hsm/src/anchor.rs"];

/// Every field of a frame that can hold bytes of any length, and what they are. A private key would need one of these: whoever adds
/// a field has to say here what it carries.
const BYTES_IN_FRAMES: [(&str, &str); 38] = [
    ("Sign.input", "a digest or a message"),
    ("Hmac.data", "a message"),
    ("SucceedRoot.id", "a name"),
    ("DestroyRoot.id", "a name"),
    ("Wrap.secret", "the daemon's own master key or a data key, on its way under the root key"),
    ("Wrap.aad", "what it is bound to"),
    ("Unwrap.wrapped", "what wrap gave"),
    ("Unwrap.aad", "what it is bound to"),
    ("Reply.Bytes", "a signature, random bytes, or what is wrapped"),
    ("Reply.Secret", "the daemon's own master key or a data key, as unwrapped"),
    ("Secret", "the type of the three above and below"),
    ("Kek.blob", "wrapped by the TPM under its storage root"),
    ("Incoming.wrapped", "a private key under an import key or a backup key"),
    ("KeyAttestation.attest", "a statement"),
    ("KeyAttestation.signature_der", "a signature"),
    ("KeyAttestation.ak_spki_der", "a public key"),
    ("KeyAttestation.public_area", "a public key"),
    ("WrapUnder.secret", "a data key of a workspace, on its way under the workspace's key"),
    ("WrapUnder.aad", "what it is bound to"),
    ("UnwrapUnder.wrapped", "what wrap gave"),
    ("UnwrapUnder.aad", "what it is bound to"),
    ("PublicKey.spki_der", "a public key"),
    (
        "KeyRef.blob",
        "wrapped by the TPM under its storage root; a public key where the token keeps the private one",
    ),
    ("HmacKeyRef.blob", "wrapped by the TPM under its storage root"),
    ("RootKey.id", "a name"),
    ("RootKey.check", "a fixed text that the root closed, or the TPM name of the storage root"),
    ("RootPin.id", "a name"),
    ("RootPin.check", "as of the root key"),
    ("SignInput.Message", "a message"),
    ("SignInput.Digest", "a digest"),
    ("AnchorReading.identity", "a name"),
    ("AnchorAttestation.attest", "a statement"),
    ("AnchorAttestation.signature_der", "a signature"),
    ("AnchorAttestation.ak_spki_der", "a public key"),
    ("Quote.attest", "a statement"),
    ("Quote.signature_der", "a signature"),
    ("Quote.ak_spki_der", "a public key"),
    ("Tail", "the bytes that are being written, whatever frame they are of"),
];

/// Every free text of a request's body, by the name of its field. A private key would have to come in one of these. The one body
/// without a schema is the input of a workflow that is started by name: each workflow reads it into a type of its own.
const TEXTS_IN_REQUESTS: [&str; 17] = [
    "context",
    "csr",
    "digest",
    "expires",
    "intent",
    "intents",
    "key",
    "lease_id",
    "message",
    "name",
    "nonce",
    "reason",
    "result",
    "scheme",
    "schemes",
    "scopes",
    "signature",
];

/// The fields of declarations whose types hold bytes of any length, as `Owner.field`; of a tuple, the owner alone or its variant.
fn byte_fields(code: &str) -> Vec<String> {
    let (mut found, mut owners) = (Vec::new(), Vec::<String>::new());
    for line in code.lines().map(str::trim).filter(|line| !line.starts_with(['/', '*', '#'])) {
        let opens = line.find('{').unwrap_or(line.len());
        let owner = line[..opens]
            .trim()
            .trim_start_matches("pub ")
            .trim_start_matches("struct ")
            .trim_start_matches("enum ");
        let name =
            |text: &str| text.chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect::<String>();
        let holds = |text: &str| {
            text.contains("Vec<u8>")
                || text.contains("Secret,")
                || text.ends_with("Secret")
                || text.contains("(Secret)")
                || text.contains("[u8]")
        };
        let last = || owners.last().cloned().unwrap_or_default();
        match (line.contains('{'), line.contains('}')) {
            (true, true) => {
                let inside = &line[opens + 1..line.rfind('}').unwrap()];
                let fields = inside.split(',').map(str::trim).filter(|field| holds(field));
                found.extend(fields.map(|field| format!("{}.{}", name(owner), name(field))));
            }
            (true, false) => owners.push(name(owner)),
            (false, true) => drop(owners.pop()),
            (false, false) if holds(line) => {
                let field = line.trim_start_matches("pub ").trim_start_matches("struct ");
                found.push(if owners.is_empty() {
                    name(field)
                } else {
                    format!("{}.{}", last(), name(field))
                });
            }
            (false, false) => {}
        }
    }
    found
}

/// The names of the fields under a schema that take any text, or anything at all.
fn free_texts(schema: &Json, all: &Json, name: &str, found: &mut BTreeSet<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let known = reference.rsplit('/').next().unwrap();
        return free_texts(&all[known], all, name, found);
    }
    let branches = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|key| schema[key].as_array());
    let mut is_open = true;
    for branch in branches.flatten() {
        is_open = false;
        free_texts(branch, all, name, found);
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        is_open = false;
        free_texts(field, all, name, found);
    }
    if schema["items"].is_object() {
        free_texts(&schema["items"], all, name, found);
    }
    let kinds = schema["type"].as_array().cloned().unwrap_or_else(|| vec![schema["type"].clone()]);
    let is_bounded = schema["enum"].is_array() || !schema["const"].is_null();
    let takes_anything = is_open && kinds == [Json::Null] && schema["pattern"].is_null();
    if !is_bounded && (takes_anything || kinds.contains(&Json::from("string"))) {
        found.insert(name.to_owned());
    }
}

#[test]
fn every_field_of_a_frame_that_can_hold_bytes_is_known_and_none_is_a_private_key() {
    let mut found: Vec<String> = Vec::new();
    for file in FRAMES {
        let text = common::text(file);
        // Declarations only: what functions take is made of them.
        let mut is_code = false;
        let declared: String = text
            .lines()
            .filter(|line| {
                is_code |= line.starts_with("impl")
                    || line.starts_with("pub fn")
                    || line.starts_with("#[cfg(test)]");
                let declares = !is_code;
                is_code &= *line != "}";
                declares
            })
            .map(|line| format!("{line}\n"))
            .collect();
        found.extend(byte_fields(&declared));
    }
    let known: BTreeSet<&str> = BYTES_IN_FRAMES.iter().map(|(field, _)| *field).collect();
    let found: BTreeSet<&str> = found.iter().map(String::as_str).collect();
    assert_eq!(found, known);
    // A key goes out under a backup key, and comes in under an import key or a backup key: there is no other frame for it.
    let acts = common::text("hsm/src/ceremony/mod.rs");
    for act in [
        "Export { key: KeyRef, under: BackupKek }",
        "Import { with: ImportKey, incoming: Incoming }",
        "Restore { under: BackupKek, incoming: Incoming }",
    ] {
        assert_eq!(acts.matches(act).count(), 1, "the frame `{act}` is not as it was");
    }
    // Beside the export, a key is named to be attested and to be examined: what is answered are a statement and faults by name.
    for (way, known) in [("KeyRef", 3), ("Incoming", 2)] {
        let frames = acts.lines().filter(|line| line.trim().ends_with("},") && line.contains(way)).count();
        assert_eq!(frames, known, "another frame carries a {way}");
    }
}

#[test]
fn every_free_text_of_a_request_is_known_and_a_key_comes_wrapped_in_one_place() {
    let described: Json = serde_json::from_str(&common::text("docs/openapi.json")).unwrap();
    let (all, mut wrapped) = (&described["components"]["schemas"], Vec::new());
    let (mut texts, mut bodies) = (BTreeSet::new(), 0);
    for (path, methods) in described["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let mut of_this = BTreeSet::new();
            for content in operation["requestBody"]["content"].as_object().into_iter().flatten() {
                bodies += 1;
                free_texts(&content.1["schema"], all, "the body itself", &mut of_this);
            }
            if of_this.remove("wrapped") {
                wrapped.push(format!("{method} {path}"));
            }
            texts.extend(of_this);
        }
    }
    assert!(bodies > 15, "{bodies} bodies are described: this test looks at nothing");
    assert_eq!(wrapped, ["post /v1/workflows/{workflow}/blob"], "where a wrapped key comes in");
    assert_eq!(texts, TEXTS_IN_REQUESTS.map(str::to_owned).into());
    // And nothing goes out under a name that would be one.
    let paths = described["paths"].as_object().unwrap().keys();
    for word in ["export", "private", "import", "extract", "blob"] {
        for path in paths.clone().filter(|path| path.contains(word)) {
            assert!(PASSAGES.contains(&path.as_str()), "a route names {word}: {path}");
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
