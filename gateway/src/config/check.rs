//! Checking a configuration: every defect, each with its place and what to do, before any of it is used.
//! Who enters: the file's text.
//! What leaves: a configuration, or all its defects at once; an unknown key is told with the nearest known one.

use std::fmt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hsm::TokenConfig;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::sandbox;
use super::{
    ApiConfig, BackupsConfig, Config, LedgerConfig, LogConfig, OperatorsConfig, RatesConfig, RetentionConfig,
    TracesConfig,
};
use crate::upstream::settings::{self, UpstreamConfig};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Defect {
    /// Where: `section.key`.
    pub at: String,
    /// What is wrong, and what would be right.
    pub what: String,
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {}", list(.defects))]
pub struct ConfigRefused {
    /// The file.
    pub path: PathBuf,
    /// Everything wrong with it.
    pub defects: Vec<Defect>,
}

const SECTIONS: [&str; 13] = [
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
    "upstream",
];
const OTHERS_MAY: u32 = 0o077;

impl ConfigRefused {
    pub(super) fn file(path: &Path, why: &std::io::Error) -> Self {
        let defect = Defect { at: "file".to_owned(), what: format!("cannot be read ({why})") };
        Self { path: path.to_owned(), defects: vec![defect] }
    }
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}", self.at, self.what)
    }
}

fn list(defects: &[Defect]) -> String {
    defects.iter().map(|defect| format!("\n  {defect}")).collect()
}

/// Takes sections out of the table, one by one, and gathers what is wrong with each.
struct Inspection {
    table: Table,
    defects: Vec<Defect>,
}

pub(super) fn checked(path: &Path, text: &str) -> Result<Config, ConfigRefused> {
    let refused = |defects| ConfigRefused { path: path.to_owned(), defects };
    let table = text
        .parse::<Table>()
        .map_err(|why| refused(vec![Defect { at: "file".into(), what: format!("is not TOML: {why}") }]))?;
    let mut inspection = Inspection { table, defects: Vec::new() };
    let config = inspection.config(path);
    inspection.unknown_sections();
    if let Some(config) = &config {
        inspection.check_state_directory(&config.state_directory);
        inspection.check_socket(&config.socket);
        inspection.check_api(&config.api);
        inspection.check_ledger(&config.ledger);
        inspection.check_retention(&config.retention);
        inspection.check_tokens(config);
        inspection.check_traces(&config.traces);
        inspection.check_upstreams(&config.upstreams);
    }
    match config {
        Some(config) if inspection.defects.is_empty() => Ok(config),
        _ => Err(refused(inspection.defects)),
    }
}

impl Inspection {
    fn config(&mut self, source: &Path) -> Option<Config> {
        // Every section is read before any is missed, so that all defects are found at once.
        let (state_directory, socket) = (self.required("state_directory"), self.required("socket"));
        let (api, token, ledger) = (
            self.required::<ApiConfig>("api"),
            self.required("token"),
            self.required::<LedgerConfig>("ledger"),
        );
        let (operators, rates) =
            (self.optional::<OperatorsConfig>("operators"), self.optional::<RatesConfig>("rates"));
        let (log, tpm) = (self.optional::<LogConfig>("log"), self.optional::<TokenConfig>("tpm"));
        let (traces, upstreams) =
            (self.optional::<TracesConfig>("traces"), self.optional::<Vec<UpstreamConfig>>("upstream"));
        let backups = self.optional::<BackupsConfig>("backups");
        let retention = self.optional::<RetentionConfig>("retention");
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
            upstreams: upstreams.unwrap_or_default(),
            source: source.to_owned(),
            backups: backups.unwrap_or_default(),
            retention: retention.unwrap_or_default(),
        })
    }

    fn required<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        if !self.table.contains_key(name) {
            self.defect(name, "is missing");
            return None;
        }
        self.optional(name)
    }

    fn optional<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let value: Value = self.table.remove(name)?;
        match value.try_into::<T>() {
            Ok(read) => Some(read),
            Err(why) => {
                self.defect(name, &helpful(why.message()));
                None
            }
        }
    }

    fn unknown_sections(&mut self) {
        let unknown: Vec<String> = self.table.keys().cloned().collect();
        for name in unknown {
            let what = match nearest(&name, SECTIONS.into_iter()) {
                Some(near) => format!("is unknown; did you mean `{near}`?"),
                None => format!("is unknown; known are {}", SECTIONS.join(", ")),
            };
            self.defect(&name, &what);
        }
    }

    fn check_state_directory(&mut self, path: &Path) {
        let owner = rustix::process::geteuid().as_raw();
        match std::fs::symlink_metadata(path) {
            Err(why) => self.defect(
                "state_directory",
                &format!("cannot be used ({why}); create it, owned by the daemon's user, mode 0700"),
            ),
            Ok(found) if !found.is_dir() => self.defect("state_directory", "is not a directory"),
            Ok(found) if found.uid() != owner => {
                let what = format!(
                    "is owned by user {}, and the daemon runs as {owner}; change the owner",
                    found.uid()
                );
                self.defect("state_directory", &what);
            }
            Ok(found) if found.permissions().mode() & OTHERS_MAY != 0 => {
                let what = format!(
                    "has mode {:04o}, so others can get in; set it to 0700",
                    found.permissions().mode() & 0o7777
                );
                self.defect("state_directory", &what);
            }
            Ok(_) => {}
        }
    }

    fn check_retention(&mut self, retention: &RetentionConfig) {
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

    fn check_socket(&mut self, path: &Path) {
        if !path.parent().is_some_and(Path::is_dir) {
            self.defect("socket", "lies in a directory that does not exist");
        }
    }

    fn check_api(&mut self, api: &ApiConfig) {
        if api.names.is_empty() {
            self.defect("api.names", "is empty; give the names under which clients reach this appliance");
        }
        if api.server_certificate.is_some() != api.server_key.is_some() {
            self.defect("api.server_key", "and `api.server_certificate` go together; give both or neither");
        }
        for (name, path) in
            [("api.server_certificate", &api.server_certificate), ("api.server_key", &api.server_key)]
        {
            if let Some(path) = path {
                self.check_file(name, path);
            }
        }
    }

    fn check_ledger(&mut self, ledger: &LedgerConfig) {
        if ledger.seal_seconds == 0 || ledger.seal_rows == 0 {
            self.defect("ledger.seal_seconds", "and `seal_rows` must be above zero");
        }
        if ledger.unsealed_seconds_max < ledger.seal_seconds {
            self.defect(
                "ledger.unsealed_seconds_max",
                "is shorter than `seal_seconds`, so writes would stop before each seal",
            );
        }
    }

    fn check_tokens(&mut self, config: &Config) {
        if let TokenConfig::Pkcs11 { module, pin_file, .. } = &config.token {
            self.check_file("token.module", module);
            if let Err(fault) = hsm::config::open_pin_file(pin_file) {
                self.defect("token.pin_file", &format!("names {}, which {fault}", pin_file.display()));
            }
        }
        self.check_file("token.worker", config.token.worker());
        match &config.tpm {
            Some(TokenConfig::Pkcs11 { .. }) => {
                self.defect("tpm.kind", "must be `tpm`; a PKCS#11 token goes under [token]")
            }
            Some(_) if matches!(config.token, TokenConfig::Tpm { .. }) => {
                self.defect("tpm", "stands beside a [token] that is a TPM already; remove one of them");
            }
            _ => {}
        }
        for defect in sandbox::defects(config) {
            self.defects.push(defect);
        }
    }

    fn check_traces(&mut self, traces: &TracesConfig) {
        if let Some(Err(what)) = traces.collector() {
            self.defect("traces.otlp", what);
        }
        if let Some(path) = &traces.otlp_ca {
            self.check_file("traces.otlp_ca", path);
        }
    }

    fn check_upstreams(&mut self, upstreams: &[UpstreamConfig]) {
        settings::defects(upstreams).into_iter().for_each(|(at, what)| self.defect(&at, &what));
    }

    fn check_file(&mut self, at: &str, path: &Path) {
        if let Err(why) = std::fs::File::open(path) {
            self.defect(at, &format!("names {}, which cannot be read ({why})", path.display()));
        }
    }

    fn defect(&mut self, at: &str, what: &str) {
        self.defects.push(Defect { at: at.to_owned(), what: what.to_owned() });
    }
}

/// Adds the nearest known name to serde's words about an unknown field.
fn helpful(message: &str) -> String {
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    match (message.starts_with("unknown field"), quoted.split_first()) {
        (true, Some((unknown, known))) => match nearest(unknown, known.iter().copied()) {
            Some(near) => format!("has an unknown key `{unknown}`; did you mean `{near}`?"),
            None => format!("has an unknown key `{unknown}`; known are {}", known.join(", ")),
        },
        _ => format!("is not right: {message}"),
    }
}

fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    const NEAR_ENOUGH: f64 = 0.7;
    let scored = known.map(|name| (strsim::jaro_winkler(unknown, name), name));
    scored.filter(|(score, _)| *score >= NEAR_ENOUGH).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn defects(text: &str) -> Vec<String> {
        let refused = checked(Path::new("chancery.toml"), text).unwrap_err();
        refused.defects.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn everything_wrong_is_told_at_once() {
        let found = defects("legder = 1\nsocket = 3\n[api]\nlisten = \"nowhere\"\nnames = []\n");
        let text = found.join("\n");
        for expected in [
            "did you mean `ledger`",
            "`state_directory` is missing",
            "`token` is missing",
            "`socket` is not right",
            "`api` is not right",
        ] {
            assert!(text.contains(expected), "{expected} in:\n{text}");
        }
    }

    #[test]
    fn an_unknown_key_is_told_with_the_nearest_known_one() {
        let found = defects("[ledger]\norigin = \"x\"\nseal_second = 3\n").join("\n");
        assert!(found.contains("unknown key `seal_second`; did you mean `seal_seconds`?"), "{found}");
    }

    #[test]
    fn a_state_directory_open_to_others_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o750)).unwrap();
        let mut inspection = Inspection { table: Table::new(), defects: vec![] };
        inspection.check_state_directory(directory.path());
        assert!(inspection.defects[0].what.contains("mode 0750"), "{:?}", inspection.defects);
    }
}
