//! Every defect that `config check` claims to find, each made by one change of a configuration that is right.
//! Who enters: a table of changes, each with key and words.
//! What leaves: the first change whose defect is not found, has no line, or is told twice.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::check::checked;
use super::{Defect, Viewpoint};

/// A home with what a good configuration names, and that configuration.
struct Home {
    directory: tempfile::TempDir,
}

const GOOD: &str = r#"state_directory = "HOME/state"
socket = "HOME/sock"
[api]
listen = "127.0.0.1:0"
names = ["localhost"]
[operators]
uids = [0]
[token]
kind = "pkcs11"
module = "HOME/module"
serial = "1"
pin_file = "HOME/pin"
worker = "HOME/module"
threads = 2
[tpm]
kind = "tpm"
tcti = "swtpm:path=HOME/tpm.sock"
pcrs = [7]
index_auth_file = "HOME/tpm/index.auth"
worker = "HOME/module"
[ledger]
origin = "signing.example.org/log"
seal_seconds = 300
[rates]
workspace = { burst = 20000, per_second = 10000 }
[log]
format = "json"
filter = "info"
[backups]
directory = "HOME/backups"
[[upstream]]
name = "mirror"
prefix = "/mirror"
endpoints = ["http://127.0.0.1:1"]
"#;

impl Home {
    fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, mode) in [("state", 0o700), ("tpm", 0o700), ("open", 0o750)] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
            set_mode(&directory.path().join(name), mode);
        }
        for (name, text, mode) in
            [("module", "x", 0o644), ("pin", "1234", 0o400), ("loose", "1234", 0o644), ("empty", "", 0o400)]
        {
            std::fs::write(directory.path().join(name), text).unwrap();
            set_mode(&directory.path().join(name), mode);
        }
        Self { directory }
    }

    fn defects(&self, text: &str, from: &Viewpoint) -> Vec<Defect> {
        let text = text.replace("HOME", &self.directory.path().display().to_string());
        checked(Path::new("chancery.toml"), &text, from)
            .err()
            .map(|refused| refused.defects)
            .unwrap_or_default()
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// What stands in the good one, what stands there instead, and what has to be said: key and words.
const ROWS: &[(&str, &str, &str, &str)] = &[
    // Names and types.
    ("seal_seconds", "seal_second", "ledger.seal_second", "did you mean `seal_seconds`?"),
    ("threads = 2", "thread = 2", "token.thread", "did you mean `threads`?"),
    ("[log]", "[logs]", "logs", "did you mean `log`?"),
    (
        "seal_seconds = 300",
        "seal_seconds = \"five\"",
        "ledger.seal_seconds",
        "is the text \"five\", and must be a whole number",
    ),
    (
        "seal_seconds = 300",
        "seal_seconds = -1",
        "ledger.seal_seconds",
        "is the number `-1`, and must be a whole number",
    ),
    ("threads = 2", "threads = \"two\"", "token.threads", "must be a whole number"),
    ("kind = \"pkcs11\"", "kind = \"usb\"", "token.kind", "is `usb`, and must be `pkcs11` or `tpm`"),
    ("format = \"json\"", "format = \"xml\"", "log.format", "is `xml`, and must be `json` or `text`"),
    (
        "127.0.0.1:0",
        "localhost:8443",
        "api.listen",
        "must be an IP address with a port, such as `0.0.0.0:8443`",
    ),
    ("\"127.0.0.1:0\"", "8443", "api.listen", "must be an IP address with a port"),
    ("[\"localhost\"]", "\"localhost\"", "api.names", "must be a list"),
    ("origin = \"signing.example.org/log\"\n", "", "ledger.origin", "is missing"),
    ("serial = \"1\"\n", "", "token.serial", "is missing"),
    ("burst = 20000, ", "", "rates.workspace.burst", "is missing"),
    ("socket = \"HOME/sock\"\n", "", "socket", "is missing"),
    // The state directory and the socket.
    ("HOME/state", "state", "state_directory", "give the whole path"),
    ("HOME/state", "HOME/nowhere", "state_directory", "create it"),
    ("HOME/state", "HOME/pin", "state_directory", "is not a directory"),
    ("HOME/state\"", "HOME/open\"", "state_directory", "mode 0750"),
    ("HOME/sock", "sock", "socket", "give the whole path"),
    ("HOME/sock", "HOME/nowhere/sock", "socket", "does not exist; create it"),
    (
        "HOME/sock",
        "HOME/sssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss",
        "socket",
        "longer than the 107 bytes",
    ),
    // Names of the server.
    ("[\"localhost\"]", "[]", "api.names", "is empty"),
    ("\"localhost\"", "\"\"", "api.names.0", "no host's name"),
    ("\"localhost\"", "\" localhost\"", "api.names.0", "no host's name"),
    ("\"localhost\"", "\"a b\"", "api.names.0", "no host's name"),
    ("\"localhost\"", "\"localhost:8443\"", "api.names.0", "with a port"),
    ("\"localhost\"", "\"https://signing.example.org\"", "api.names.0", "the host's name alone"),
    ("\"localhost\"", "\"[::1]\"", "api.names.0", "without them"),
    ("\"localhost\"", "\"b\u{fc}cher.example\"", "api.names.0", "xn--"),
    ("\"localhost\"", "\"*.example.org\"", "api.names.0", "a pattern"),
    (
        "\"localhost\"",
        "\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example\"",
        "api.names.0",
        "no host's name",
    ),
    ("\"localhost\"", "\"localhost\", \"localhost\"", "api.names.1", "a second time"),
    (
        "listen =",
        "server_certificate = \"/etc/hostname\"\nserver_key = \"HOME/loose\"\nlisten =",
        "api.server_certificate",
        "no certificate in PEM",
    ),
    (
        "listen =",
        "server_certificate = \"/etc/hostname\"\nserver_key = \"HOME/loose\"\nlisten =",
        "api.server_key",
        "no private key in PEM",
    ),
    ("listen =", "server_key = \"HOME/loose\"\nlisten =", "api.server_key", "go together"),
    // Operators.
    ("uids = [0]", "uids = []", "operators.uids", "nobody could administer"),
    ("uids = [0]", "uids = [65534]", "operators.uids", "everybody whom the kernel cannot name"),
    ("uids = [0]", "uids = [\"root\"]", "operators.uids.0", "must be a whole number"),
    // The token.
    ("serial = \"1\"", "serial = \" \"", "token.serial", "is empty"),
    ("serial = \"1\"", "serial = \" \"\nlabel = \"\"", "token.serial", "name the token's `label`"),
    ("threads = 2", "threads = 0", "token.threads", "must be 1 to 64"),
    ("threads = 2", "threads = 600", "token.threads", "must be 1 to 64"),
    ("module = \"HOME/module\"", "module = \"HOME/none\"", "token.module", "cannot be read"),
    ("module = \"HOME/module\"", "module = \"libsofthsm2.so\"", "token.module", "give the whole path"),
    ("module = \"HOME/module\"", "module = \"HOME/state\"", "token.module", "is a directory"),
    ("HOME/pin", "HOME/loose", "token.pin_file", "chmod 0400"),
    ("HOME/pin", "HOME/empty", "token.pin_file", "put the PIN into it"),
    ("HOME/pin", "HOME/none", "token.pin_file", "cannot be opened"),
    ("HOME/pin", "/run/credentials/chancery.service/no-such.pin", "token.pin_file", "cannot be opened"),
    ("threads = 2", "network = true", "token.sandbox.connect", "is empty"),
    ("threads = 2", "sandbox.write = [\"HOME/state\"]", "token.sandbox", "the state directory"),
    // The TPM.
    ("swtpm:path=HOME/tpm.sock", "", "tpm.tcti", "is empty"),
    ("swtpm:path=HOME/tpm.sock", "usb:x", "tpm.tcti", "known are device"),
    ("pcrs = [7]", "pcrs = [99]", "tpm.pcrs", "0 to 23"),
    ("pcrs = [7]", "pcrs = [7, 7]", "tpm.pcrs", "each once"),
    ("HOME/tpm/index", "HOME/none/index", "tpm.index_auth_file", "create it for the daemon's user"),
    // Ledger, rates, log, backups.
    ("signing.example.org/log", "https://signing.example.org/log", "ledger.origin", "leave out"),
    ("signing.example.org/log", "signing example/log", "ledger.origin", "no blanks"),
    ("signing.example.org/log", "", "ledger.origin", "no URL"),
    ("seal_seconds = 300", "seal_seconds = 0", "ledger.seal_seconds", "above zero"),
    ("seal_seconds = 300", "seal_seconds = 7200", "ledger.unsealed_seconds_max", "shorter than"),
    ("burst = 20000", "burst = 0", "rates.workspace", "above zero"),
    ("burst = 20000", "burst = 1", "rates.workspace", "set `burst` to 1000"),
    ("filter = \"info\"", "filter = \"loud[\"", "log.filter", "no filter"),
    ("filter = \"info\"", "filter = \"loud\"", "log.filter", "levels are trace"),
    ("HOME/backups", "relative/dir", "backups.directory", "give the whole path"),
    // Upstreams.
    ("name = \"mirror\"", "name = \"Mirror!\"", "upstream.Mirror!.name", "must be a name of an upstream"),
    ("name = \"mirror\"", "name = \"signing\"", "upstream.signing.name", "a service of the appliance"),
    ("prefix = \"/mirror\"", "prefix = \"/v1/x\"", "upstream.mirror.prefix", "the appliance's own"),
    (
        "http://127.0.0.1:1\"",
        "http://127.0.0.1:1\", \"nowhere\"",
        "upstream.mirror.endpoints.1",
        "must be an address",
    ),
    ("http://127.0.0.1:1", "http://10.0.0.1:1", "upstream.mirror.endpoints", "in the clear"),
    (
        "prefix = \"/mirror\"",
        "prefix = \"/mirror\"\nca = \"ca.pem\"",
        "upstream.mirror.ca",
        "give the whole path",
    ),
];

#[test]
fn a_good_configuration_has_no_defect() {
    let home = Home::make();
    assert_eq!(home.defects(GOOD, &Viewpoint::own()), []);
}

#[test]
fn every_defect_in_the_table_is_found_with_key_line_and_remedy() {
    let home = Home::make();
    let wrong: Vec<String> = ROWS.iter().filter_map(|row| wrong_with(&home, row)).collect();
    assert!(wrong.is_empty(), "{} of {} rows: {wrong:#?}", wrong.len(), ROWS.len());
}

/// What a row claims and is not so.
fn wrong_with(home: &Home, (good, bad, at, words): &(&str, &str, &str, &str)) -> Option<String> {
    assert!(GOOD.contains(good), "{good}");
    let text = GOOD.replacen(good, bad, 1);
    let found = home.defects(&text, &Viewpoint::own());
    let Some(defect) = found.iter().find(|defect| defect.at == *at && defect.what.contains(words)) else {
        return Some(format!("{bad:?}: no `{at}` with {words:?} in {found:?}"));
    };
    // What is missing as a whole has no line; what stands in the file has one.
    let line = text.lines().position(|line| !bad.is_empty() && line.contains(bad.lines().next().unwrap()));
    if let (Some(line), Some(told)) = (line, defect.line)
        && told != line + 1
        && told > line + 1 + bad.lines().count()
    {
        return Some(format!("{at}: line {told}, not {}", line + 1));
    }
    if defect.line.is_none() && at.contains('.') {
        return Some(format!("{at} has no line: {found:?}"));
    }
    (found.len() > 2).then(|| format!("{bad:?} is told more than once or twice: {found:?}"))
}

#[test]
fn the_monitoring_listener_has_a_port_of_its_own() {
    let home = Home::make();
    let with = |listen: &str| {
        let text = GOOD.replace("127.0.0.1:0", "127.0.0.1:8443");
        home.defects(&format!("{text}\n[monitoring]\nlisten = \"{listen}\"\n"), &Viewpoint::own())
    };
    assert_eq!(with("127.0.0.1:9464"), []);
    for (listen, words) in [("0.0.0.0:8443", "one of its own"), ("localhost:9464", "must be an IP address")] {
        let found = with(listen);
        assert_eq!((found.len(), found[0].at.as_str()), (1, "monitoring.listen"), "{found:#?}");
        assert!(found[0].what.contains(words) && found[0].line.is_some(), "{found:#?}");
    }
}

/// One pass: however much is wrong, and of whatever kind, nothing waits for the next run.
#[test]
fn all_defects_of_all_sections_are_found_in_one_pass() {
    let home = Home::make();
    let mut text = GOOD.to_owned();
    let mut expected = Vec::new();
    for (good, bad, at, words) in ROWS {
        // One change of each line, so that the rows do not undo each other.
        let line = text.lines().find(|line| line.contains(good)).unwrap_or_default().to_owned();
        let untouched = GOOD.lines().any(|own| own == line);
        let whole_sections = ["logs", "api.names", "token.kind", "operators.uids.0"];
        if untouched && !bad.is_empty() && !bad.contains('\n') && !whole_sections.contains(at) {
            text = text.replacen(good, bad, 1);
            expected.push((at.replace("upstream.mirror.", "upstream.Mirror!."), *words));
        }
    }
    assert!(expected.len() > 15, "{expected:?}");
    let found = home.defects(&text, &Viewpoint::own());
    for (at, words) in expected {
        assert!(
            found.iter().any(|one| one.at == at && one.what.contains(words)),
            "`{at}` {words}: {found:#?}\n{text}"
        );
    }
}

#[test]
fn every_fault_of_the_syntax_is_told_with_its_line() {
    let home = Home::make();
    let found = home.defects("socket = \n[api]\nlisten = localhost\n", &Viewpoint::own());
    let lines: Vec<_> = found.iter().filter_map(|defect| defect.line).collect();
    assert!(lines.contains(&1) && lines.contains(&3), "{found:#?}");
}

/// What the service manager makes at each start is no defect before the first one, and nothing else is let through.
#[test]
fn looking_ahead_forgives_what_the_unit_makes_and_no_more() {
    let home = Home::make();
    let ahead = Viewpoint::ahead(Some(&rustix::process::geteuid().as_raw().to_string())).unwrap();
    let runtime = GOOD.replace("HOME/sock", "/run/no-such-directory-yet/chancery.sock");
    assert_eq!(home.defects(&runtime, &ahead), []);
    assert_eq!(home.defects(&runtime, &Viewpoint::own())[0].at, "socket");
    let deep = GOOD.replace("HOME/sock", "/run/no-such/directory/chancery.sock");
    assert_eq!(home.defects(&deep, &ahead)[0].at, "socket");
    let pin = GOOD.replace("HOME/pin", "/run/credentials/chancery.service/no-such.pin");
    let found = home.defects(&pin, &ahead);
    assert!(found[0].what.contains("/etc/credstore/no-such.pin"), "{found:?}");
    let device = GOOD.replace("swtpm:path=HOME/tpm.sock", "device:/dev/no-such-tpm");
    assert_eq!(home.defects(&device, &ahead)[0].at, "tpm.tcti");
    assert_eq!(home.defects(&device, &Viewpoint::own()), [], "the daemon waits for it");
}

#[test]
fn the_state_directory_belongs_to_the_daemons_user_whoever_looks() {
    let home = Home::make();
    let other = Viewpoint::ahead(Some("12345")).unwrap();
    let found = home.defects(GOOD, &other);
    assert!(
        found.iter().any(|one| one.at == "state_directory" && one.what.contains("runs as 12345")),
        "{found:#?}"
    );
}
