//! Checks a configuration before any of it is used, and finds every defect that it can find, in one pass.
//! Who enters: the text of the file, and the viewpoint of whoever is going to use it.
//! What leaves: a configuration, or all its defects.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Component, Path};

use hsm::TokenConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, DnsName, PrivateKeyDer};
use tracing_subscriber::EnvFilter;

use super::defects::ConfigRefused;
use super::reading::Reading;
use super::sandbox;
use super::viewpoint::Viewpoint;
use super::{
    ApiConfig, Config, LedgerConfig, LogConfig, MonitoringConfig, OperatorsConfig, RatesConfig,
    RetentionConfig, TracesConfig,
};
use crate::boundary::rate::Quota;
use crate::limits::SOCKET_PATH_BYTES_MAX;
use crate::upstream::settings;

const SECTIONS: [&str; 14] = [
    "state_directory",
    "socket",
    "api",
    "operators",
    "token",
    "tpm",
    "ledger",
    "rates",
    "log",
    "backups",
    "retention",
    "traces",
    "monitoring",
    "upstream",
];
const OTHERS_MAY: u32 = 0o077;
/// Whom the kernel names where a user namespace does not know somebody: everybody whom it does not know.
const NOBODY: u32 = 65_534;
/// Where systemd puts a unit's credentials, and where it takes them from.
const CREDENTIALS: &str = "/run/credentials";
const CREDENTIAL_STORES: [&str; 4] =
    ["/etc/credstore", "/etc/credstore.encrypted", "/run/credstore", "/usr/lib/credstore"];

/// The file's text as a configuration, seen from somewhere.
pub(super) fn checked(path: &Path, text: &str, from: &Viewpoint) -> Result<Config, ConfigRefused> {
    let refused = |defects| ConfigRefused { path: path.to_owned(), defects };
    let mut reading = Reading::of(text).map_err(refused)?;
    let upstreams = reading.names_in("upstream");
    let config = read(&mut reading, path);
    reading.leave_nothing(&SECTIONS);
    let mut check = Check { reading, from };
    if let Some(config) = &config {
        check.state_directory(&config.state_directory);
        check.socket(&config.socket);
        check.api(&config.api);
        check.operators(&config.operators);
        check.ledger(&config.ledger);
        check.rates(&config.rates);
        check.log(&config.log);
        check.retention(&config.retention);
        check.tokens(config);
        check.traces(&config.traces);
        check.monitoring(config);
        if let Some(directory) = &config.backups.directory {
            check.whole_path("backups.directory", directory);
        }
        let shown = |upstream: usize| upstreams.get(upstream).map_or("?", String::as_str);
        for (at, what) in settings::defects(&config.upstreams, shown) {
            check.defect(&at, &what);
        }
    }
    let mut defects = check.reading.defects;
    match config {
        Some(config) if defects.is_empty() => Ok(config),
        _ => {
            defects.sort_by_key(|defect| defect.line.unwrap_or_default());
            Err(refused(defects))
        }
    }
}

fn read(reading: &mut Reading, source: &Path) -> Option<Config> {
    // Every section is read before any is missed, so that all defects are found at once.
    let (state_directory, socket) = (reading.required("state_directory"), reading.required("socket"));
    let (api, token, ledger) =
        (reading.required("api"), reading.required("token"), reading.required("ledger"));
    let (operators, rates) = (reading.optional("operators"), reading.optional("rates"));
    let (log, tpm) = (reading.optional("log"), reading.optional("tpm"));
    let (traces, upstreams) = (reading.optional("traces"), reading.optional("upstream"));
    let monitoring = reading.optional::<MonitoringConfig>("monitoring");
    let (backups, retention) = (reading.optional("backups"), reading.optional("retention"));
    Some(Config {
        state_directory: state_directory?,
        socket: socket?,
        api: api?,
        operators: operators.unwrap_or_default(),
        token: token?,
        tpm,
        ledger: ledger?,
        rates: rates.unwrap_or_default(),
        log: log.unwrap_or_default(),
        traces: traces.unwrap_or_default(),
        monitoring: monitoring.unwrap_or_default(),
        upstreams: upstreams.unwrap_or_default(),
        source: source.to_owned(),
        backups: backups.unwrap_or_default(),
        retention: retention.unwrap_or_default(),
    })
}

struct Check<'a> {
    reading: Reading,
    from: &'a Viewpoint,
}

impl Check<'_> {
    fn defect(&mut self, at: &str, what: &str) {
        self.reading.defect(at, what);
    }

    fn state_directory(&mut self, path: &Path) {
        let at = "state_directory";
        if !self.whole_path(at, path) {
            return;
        }
        let owner = self.from.uid;
        match std::fs::symlink_metadata(path) {
            // The unit's StateDirectory= makes it.
            Err(_) if self.from.ahead && path.parent() == Some(Path::new("/var/lib")) => {}
            Err(why) => self.defect(
                at,
                &format!("cannot be used ({why}); create it, owned by the daemon's user, mode 0700"),
            ),
            Ok(found) if !found.is_dir() => self.defect(at, "is not a directory"),
            Ok(found) if found.uid() != owner => {
                let what = format!(
                    "is owned by user {}, and the daemon runs as {owner}; change the owner, or say --user with the daemon's user",
                    found.uid()
                );
                self.defect(at, &what);
            }
            Ok(found) if found.permissions().mode() & OTHERS_MAY != 0 => {
                let mode = found.permissions().mode() & 0o7777;
                self.defect(at, &format!("has mode {mode:04o}, so others can get in; set it to 0700"));
            }
            Ok(_) => {}
        }
    }

    fn socket(&mut self, path: &Path) {
        let at = "socket";
        if !self.whole_path(at, path) {
            return;
        }
        if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            self.defect(
                at,
                &format!("is longer than the {SOCKET_PATH_BYTES_MAX} bytes that a socket's path may have"),
            );
        }
        let directory = path.parent().unwrap_or(path);
        // The unit's RuntimeDirectory= makes it at each start.
        let of_the_unit = self.from.ahead && directory.parent() == Some(Path::new("/run"));
        if !directory.is_dir() && !of_the_unit {
            self.defect(at, &format!("lies in {}, which does not exist; create it", directory.display()));
        }
    }

    fn api(&mut self, api: &ApiConfig) {
        if api.names.is_empty() {
            self.defect("api.names", "is empty; give the names under which clients reach this appliance");
        }
        let mut seen = BTreeSet::new();
        for (place, name) in api.names.iter().enumerate() {
            let at = format!("api.names.{place}");
            match name_defect(name) {
                Some(what) => self.defect(&at, &format!("is `{name}`, {what}")),
                None if !seen.insert(name) => {
                    self.defect(&at, &format!("is `{name}` a second time; leave it out"))
                }
                None => {}
            }
        }
        if api.server_certificate.is_some() != api.server_key.is_some() {
            self.defect("api.server_key", "and `api.server_certificate` go together; give both or neither");
        }
        if let Some(path) = &api.server_certificate
            && self.readable("api.server_certificate", path)
            && !holds_certificates(path)
        {
            self.defect(
                "api.server_certificate",
                &format!("names {}, which holds no certificate in PEM", path.display()),
            );
        }
        if let Some(path) = &api.server_key
            && self.readable("api.server_key", path)
            && PrivateKeyDer::from_pem_file(path).is_err()
        {
            self.defect(
                "api.server_key",
                &format!("names {}, which holds no private key in PEM", path.display()),
            );
        }
    }

    fn operators(&mut self, operators: &OperatorsConfig) {
        if operators.uids.is_empty() {
            self.defect(
                "operators.uids",
                "is empty, so nobody could administer; give user ids, such as 0 for root",
            );
        }
        for uid in &operators.uids {
            if *uid == NOBODY {
                let what =
                    "names 65534, which stands for everybody whom the kernel cannot name; give real user ids";
                self.defect("operators.uids", what);
            } else if !is_known_here(*uid) {
                let what = format!(
                    "names user {uid}, whom this service's user namespace does not know, so that they would be nobody; set PrivateUsers=no in the unit"
                );
                self.defect("operators.uids", &what);
            }
        }
    }

    fn ledger(&mut self, ledger: &LedgerConfig) {
        if let Some(what) = origin_defect(&ledger.origin) {
            self.defect("ledger.origin", &format!("is `{}`, {what}", ledger.origin));
        }
        for (at, value) in
            [("ledger.seal_seconds", ledger.seal_seconds), ("ledger.seal_rows", ledger.seal_rows)]
        {
            if value == 0 {
                self.defect(at, "must be above zero");
            }
        }
        if ledger.unsealed_seconds_max < ledger.seal_seconds {
            self.defect(
                "ledger.unsealed_seconds_max",
                "is shorter than `seal_seconds`, so writes would stop before each seal",
            );
        }
    }

    fn rates(&mut self, rates: &RatesConfig) {
        for (at, Quota { burst, per_second }) in
            [("rates.workspace", rates.workspace), ("rates.address", rates.address)]
        {
            if burst == 0 || per_second == 0 {
                self.defect(at, "must have `burst` and `per_second` above zero, or nothing gets through");
            } else if burst < per_second / 10 {
                let least = per_second / 10;
                let what = format!(
                    "lets {burst} requests through at once, so {per_second} a second are out of reach; set `burst` to {least} or more"
                );
                self.defect(at, &what);
            }
        }
    }

    fn log(&mut self, log: &LogConfig) {
        if let Err(why) = EnvFilter::try_new(&log.filter) {
            return self.defect(
                "log.filter",
                &format!(
                    "is `{}`, which is no filter ({why}); say `info`, or `info,gateway=debug`",
                    log.filter
                ),
            );
        }
        // The filter takes any word for a part of the program, and is silent about all others.
        let levels = ["trace", "debug", "info", "warn", "error", "off"];
        let bare = log.filter.split(',').map(str::trim).find(|part| {
            let spanned = part.contains('[') && part.contains(']');
            !part.contains('=') && !spanned && !levels.contains(&part.to_ascii_lowercase().as_str())
        });
        if let Some(part) = bare {
            self.defect(
                "log.filter",
                &format!("has `{part}`, which is no level; levels are {}", levels.join(", ")),
            );
        }
    }

    fn retention(&mut self, retention: &RetentionConfig) {
        // An answer kept under an idempotency key names its workflow for thirty days.
        if !(31..=36_500).contains(&retention.workflow_days) {
            self.defect("retention.workflow_days", "must be 31 to 36500");
        }
        if !(1..=36_500).contains(&retention.event_days) {
            self.defect("retention.event_days", "must be 1 to 36500");
        }
        if !(16..=16 * 1024 * 1024).contains(&retention.answer_mib_max) {
            self.defect("retention.answer_mib_max", "must be 16 to 16777216");
        }
    }

    fn tokens(&mut self, config: &Config) {
        self.token("token", &config.token);
        match &config.tpm {
            Some(TokenConfig::Pkcs11 { .. }) => {
                self.defect("tpm.kind", "must be `tpm`; a PKCS#11 token goes under [token]")
            }
            Some(_) if matches!(config.token, TokenConfig::Tpm { .. }) => {
                self.defect("tpm", "stands beside a [token] that is a TPM already; remove one of them");
            }
            Some(tpm) => self.token("tpm", tpm),
            None => {}
        }
        for defect in sandbox::defects(config) {
            self.defect(&defect.at, &defect.what);
        }
    }

    fn token(&mut self, section: &str, token: &TokenConfig) {
        let at = |key: &str| format!("{section}.{key}");
        self.readable(&at("worker"), token.worker());
        match token {
            TokenConfig::Pkcs11 { module, serial, label, pin_file, threads, .. } => {
                self.readable(&at("module"), module);
                let nameless = |text: &str| text.trim().is_empty();
                if nameless(serial) && label.as_deref().is_none_or(nameless) {
                    self.defect(
                        &at("serial"),
                        "is empty; `pkcs11-tool --list-slots` shows the token's serial. Where it is blank, name the token's `label`",
                    );
                }
                let lanes = hsm::serve::LANES_MAX;
                if threads.is_some_and(|threads| threads == 0 || threads > lanes) {
                    self.defect(
                        &at("threads"),
                        &format!("must be 1 to {lanes}; leave it out for one per core"),
                    );
                }
                self.pin_file(&at("pin_file"), pin_file);
            }
            TokenConfig::Tpm { tcti, pcrs, owner_auth_file, index_auth_file, .. } => {
                if let Some(what) = tcti_defect(tcti, self.from.ahead) {
                    self.defect(&at("tcti"), &what);
                }
                let unique: BTreeSet<_> = pcrs.iter().collect();
                if pcrs.iter().any(|pcr| *pcr > 23) || unique.len() < pcrs.len() {
                    self.defect(&at("pcrs"), "must name registers from 0 to 23, each once");
                }
                if let Some(path) = owner_auth_file {
                    self.readable(&at("owner_auth_file"), path);
                }
                if let Some(path) = index_auth_file
                    && self.whole_path(&at("index_auth_file"), path)
                    && !path.parent().is_some_and(Path::is_dir)
                {
                    let directory = path.parent().unwrap_or(path).display().to_string();
                    let what = format!(
                        "lies in {directory}, which does not exist; create it for the daemon's user, mode 0700"
                    );
                    self.defect(&at("index_auth_file"), &what);
                }
            }
        }
    }

    /// As the worker will ask of it; a credential of a unit that does not run is looked for where it comes from.
    fn pin_file(&mut self, at: &str, path: &Path) {
        if !self.whole_path(at, path) {
            return;
        }
        if self.from.ahead && path.starts_with(CREDENTIALS) && !path.exists() {
            return self.credential(at, path);
        }
        if let Err(fault) = hsm::config::open_pin_file_for(path, self.from.uid) {
            return self.defect(at, &format!("names {}, which {fault}", path.display()));
        }
        if let Some(why) = self.from.cannot_reach(path) {
            self.defect(at, &format!("names {}, but {why}", path.display()));
        }
    }

    fn credential(&mut self, at: &str, path: &Path) {
        let name = path.file_name().unwrap_or_default();
        let places = CREDENTIAL_STORES.iter().map(|store| Path::new(store).join(name));
        let mut closed = false;
        for place in places {
            match std::fs::metadata(&place) {
                Ok(found) if found.len() == 0 => {
                    return self.defect(
                        at,
                        &format!("comes from {}, which is empty; put the PIN into it", place.display()),
                    );
                }
                Ok(found) if found.mode() & OTHERS_MAY != 0 => {
                    let what = format!(
                        "comes from {}, which is open to others; run `chmod 0600` on it",
                        place.display()
                    );
                    return self.defect(at, &what);
                }
                Ok(_) => return,
                // Whoever may not look cannot say that it is not there.
                Err(why) => closed |= why.kind() == std::io::ErrorKind::PermissionDenied,
            }
        }
        if !closed {
            let what = format!(
                "names {}, a credential that the service gets from {}, and there is none; put the PIN there, mode 0600",
                path.display(),
                Path::new(CREDENTIAL_STORES[0]).join(name).display()
            );
            self.defect(at, &what);
        }
    }

    fn traces(&mut self, traces: &TracesConfig) {
        if let Some(Err(what)) = traces.collector() {
            self.defect("traces.otlp", what);
        }
        if let Some(path) = &traces.otlp_ca
            && self.readable("traces.otlp_ca", path)
            && !holds_certificates(path)
        {
            self.defect(
                "traces.otlp_ca",
                &format!("names {}, which holds no certificate in PEM", path.display()),
            );
        }
    }

    fn monitoring(&mut self, config: &Config) {
        let listen = config.monitoring.listen.filter(|listen| listen.port() != 0);
        if listen.is_some_and(|listen| listen.port() == config.api.listen.port()) {
            self.defect("monitoring.listen", "has the port of `api.listen`; give it one of its own");
        }
    }

    /// A relative path is another one for each program that reads it.
    fn whole_path(&mut self, at: &str, path: &Path) -> bool {
        let whole = path.is_absolute() && !path.components().any(|part| part == Component::ParentDir);
        if !whole {
            self.defect(at, &format!("is `{}`; give the whole path, from `/` on", path.display()));
        }
        whole
    }

    fn readable(&mut self, at: &str, path: &Path) -> bool {
        if !self.whole_path(at, path) {
            return false;
        }
        let why = match std::fs::File::open(path).and_then(|file| file.metadata()) {
            Err(why) => Some(format!("cannot be read ({why})")),
            Ok(found) if found.is_dir() => Some("is a directory".to_owned()),
            Ok(_) => self.from.cannot_reach(path).map(|why| format!("the daemon could not use: {why}")),
        };
        if let Some(why) = &why {
            self.defect(at, &format!("names {}, which {why}", path.display()));
        }
        why.is_none()
    }
}

/// What makes a text unfit for a certificate's name.
fn name_defect(name: &str) -> Option<&'static str> {
    if name.parse::<IpAddr>().is_ok() {
        return None;
    }
    if name.contains("://") {
        return Some("an address; give the host's name alone");
    }
    if name.starts_with('[') {
        return Some("in brackets; give the IPv6 address without them");
    }
    if name.contains(':') {
        return Some("with a port; give the host's name alone");
    }
    if name.contains('*') {
        return Some("a pattern; give each name by itself");
    }
    if !name.is_ascii() {
        return Some("not in ASCII; give the form that begins with `xn--`");
    }
    let labels_fit = name.split('.').all(|label| {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        inner && !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-')
    });
    match labels_fit && DnsName::try_from(name).is_ok() {
        true => None,
        false => Some("no host's name: letters, digits and hyphens, with dots between"),
    }
}

/// What makes a text unfit for the first line of a checkpoint, for ever.
fn origin_defect(origin: &str) -> Option<&'static str> {
    if origin.contains("://") {
        return Some("with a scheme; leave out what stands before and with `://`");
    }
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'+';
    match !origin.is_empty() && origin.bytes().all(fits) {
        true => None,
        false => Some(
            "no URL without its scheme, such as `signing.example.org/log`: no blanks, no `+`, ASCII only",
        ),
    }
}

/// What is wrong with a TPM's address. A device that is late is waited for by the daemon, so only who looks ahead misses it.
fn tcti_defect(tcti: &str, ahead: bool) -> Option<String> {
    let (kind, rest) = tcti.split_once(':').unwrap_or((tcti, ""));
    let known = ["device", "swtpm", "mssim", "tabrmd"];
    if tcti.trim().is_empty() {
        return Some("is empty; say `device:/dev/tpmrm0`".to_owned());
    }
    if !known.contains(&kind) {
        return Some(format!(
            "begins with `{kind}`; known are {}, as in `device:/dev/tpmrm0`",
            known.join(", ")
        ));
    }
    let device = Path::new(if rest.is_empty() { "/dev/tpmrm0" } else { rest });
    if kind == "device" && ahead {
        return match std::fs::metadata(device) {
            Err(why) => Some(format!("names {}, which cannot be used ({why})", device.display())),
            Ok(found) if !found.file_type().is_char_device() => {
                Some(format!("names {}, which is no device", device.display()))
            }
            Ok(_) => None,
        };
    }
    None
}

fn holds_certificates(path: &Path) -> bool {
    let certificates = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    certificates.is_ok_and(|all| !all.is_empty())
}

/// False where this process lives in a user namespace that has no place for a user.
fn is_known_here(uid: u32) -> bool {
    let Ok(map) = std::fs::read_to_string("/proc/self/uid_map") else { return true };
    is_mapped(&map, uid)
}

/// One line for a range: first inside, first outside, how many.
fn is_mapped(map: &str, uid: u32) -> bool {
    map.lines().any(|line| {
        let fields: Vec<u64> = line.split_whitespace().filter_map(|field| field.parse().ok()).collect();
        matches!(fields[..], [first, _, count] if (first..first + count).contains(&u64::from(uid)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_of_two_users_knows_two() {
        let two = "         0          0          1\n       990        990          1\n";
        assert!(is_mapped(two, 0) && is_mapped(two, 990));
        assert!(!is_mapped(two, 1000) && !is_mapped(two, NOBODY));
        assert!(is_mapped("0 0 4294967295\n", 1000));
    }
}
