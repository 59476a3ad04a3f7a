//! The configuration: one annotated TOML file, checked as a whole before anything is used.
//! Who enters: the path of the file.
//! What leaves: a `Config` without defects, or all defects at once. It holds paths and numbers, never secrets.

mod check;
mod defects;
mod reading;
mod sandbox;
#[cfg(test)]
mod table_tests;
mod viewpoint;

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hsm::TokenConfig;
use serde::Deserialize;

pub use self::defects::{ConfigRefused, Defect};
pub use self::viewpoint::{NoSuchUser, Viewpoint};
use crate::boundary::rate::Quota;
use crate::dial::Place;
use crate::sealing::Cadence;
use crate::upstream::settings::UpstreamConfig;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where ledger and exports live.
    pub state_directory: PathBuf,
    /// The local socket.
    pub socket: PathBuf,
    /// The API listener.
    pub api: ApiConfig,
    /// Who may use the local socket.
    pub operators: OperatorsConfig,
    /// Where the keys are.
    pub token: TokenConfig,
    /// A TPM beside the token: anchor, second seal, and the machine to which the master key is sealed.
    pub tpm: Option<TokenConfig>,
    /// The ledger.
    pub ledger: LedgerConfig,
    /// Rate limits.
    pub rates: RatesConfig,
    /// The log.
    pub log: LogConfig,
    /// Backups of keys.
    pub backups: BackupsConfig,
    /// How long what is over can still be read.
    pub retention: RetentionConfig,
    /// Traces.
    pub traces: TracesConfig,
    /// Figures and health without a certificate.
    pub monitoring: MonitoringConfig,
    /// Services behind the network.
    pub upstreams: Vec<UpstreamConfig>,
    /// The file it was read from, to be read again.
    pub source: PathBuf,
}

/// The API listener.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiConfig {
    /// Address and port.
    pub listen: SocketAddr,
    /// Names and addresses for the server's certificate.
    pub names: Vec<String>,
    /// A certificate of one's own for the server, PEM; the appliance's CA issues one where it is absent.
    #[serde(default)]
    pub server_certificate: Option<PathBuf>,
    /// Its private key, PEM.
    #[serde(default)]
    pub server_key: Option<PathBuf>,
    /// Proxies whose `X-Forwarded-For` counts.
    #[serde(default)]
    pub trusted_proxies: Vec<IpAddr>,
}

/// Who may use the local socket.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OperatorsConfig {
    /// User ids.
    pub uids: Vec<u32>,
}

/// The ledger.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerConfig {
    /// The log's name: a URL without scheme. Never used for two logs.
    pub origin: String,
    /// Seal at least this often, if anything is new.
    #[serde(default = "default_seal_seconds")]
    pub seal_seconds: u64,
    /// Seal as soon as so many entries are new.
    #[serde(default = "default_seal_rows")]
    pub seal_rows: u64,
    /// Refuse writes when an entry has waited so long for its anchor.
    #[serde(default = "default_unsealed_seconds_max")]
    pub unsealed_seconds_max: u64,
}

/// Backups of keys.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackupsConfig {
    /// Where they are written: best a mount that is not on this machine. Below the state directory where it is absent.
    pub directory: Option<PathBuf>,
}

/// How long what is over can still be read. The ledger's entries are kept for ever.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionConfig {
    /// Workflows after their end, with their votes, in days.
    pub workflow_days: u32,
    /// Events, in days.
    pub event_days: u32,
    /// Answers kept under idempotency keys, in MiB for each workspace.
    pub answer_mib_max: u32,
}

/// Rate limits.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RatesConfig {
    /// Of a workspace.
    pub workspace: Quota,
    /// Of an address, before anyone has said who they are.
    pub address: Quota,
}

/// The log.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// `json` or `text`.
    pub format: LogFormat,
    /// A filter such as `info` or `gateway=debug`.
    pub filter: String,
}

/// Figures and health in plain HTTP, for scrapers and load balancers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MonitoringConfig {
    /// Address and port; without one nobody listens.
    pub listen: Option<SocketAddr>,
}

/// Traces.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TracesConfig {
    /// The collector's receiver for OTLP over HTTP; without one nothing is exported.
    pub otlp: Option<String>,
    /// The CA of the collector's certificate, PEM; needed for https.
    pub otlp_ca: Option<PathBuf>,
    /// Traces begun as recorded in a second.
    pub recorded_per_second_max: u32,
}

/// The log's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line, as journald and collectors like it.
    Json,
    /// For people.
    Text,
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn read(path: &Path) -> Result<Self, ConfigRefused> {
        Self::read_from(path, &Viewpoint::own())
    }

    /// Reads and checks the file from another viewpoint than the daemon's own.
    ///
    /// # Errors
    /// Everything that is wrong with it, seen from there.
    pub fn read_from(path: &Path, from: &Viewpoint) -> Result<Self, ConfigRefused> {
        let text = std::fs::read_to_string(path).map_err(|why| ConfigRefused::file(path, &why))?;
        check::checked(path, &text, from)
    }

    /// The operators' socket, and nothing else of the file: whoever asks the daemon needs neither its rights nor its secrets.
    ///
    /// # Errors
    /// The file cannot be read, is no TOML, or names no socket.
    pub fn socket_in(path: &Path) -> Result<PathBuf, ConfigRefused> {
        let text = std::fs::read_to_string(path).map_err(|why| ConfigRefused::file(path, &why))?;
        let refused = |defects| ConfigRefused { path: path.to_owned(), defects };
        let mut reading = reading::Reading::of(&text).map_err(refused)?;
        match reading.required::<PathBuf>("socket") {
            Some(socket) if reading.defects.is_empty() => Ok(socket),
            _ => Err(refused(reading.defects)),
        }
    }

    /// The registers that the master key is sealed to; nothing where there is no TPM.
    pub fn sealed_pcrs(&self) -> Option<Vec<u8>> {
        self.tpm.as_ref().unwrap_or(&self.token).pcrs().map(<[u8]>::to_vec)
    }

    /// The ledger's file.
    pub fn ledger_path(&self) -> PathBuf {
        self.state_directory.join("ledger.db")
    }

    /// Where exports are written.
    pub fn exports(&self) -> PathBuf {
        self.state_directory.join("exports")
    }
}

impl TracesConfig {
    /// The collector's address and path, if the text is right: https, or this very machine.
    pub fn collector(&self) -> Option<Result<(Place, String), &'static str>> {
        let text = self.otlp.as_deref()?;
        let (scheme, rest) = text.split_once("://").unwrap_or_default();
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        Some(match format!("{scheme}://{authority}").parse::<Place>() {
            Ok(place) if !place.secure && !place.is_loopback() => Err(
                "would carry spans in the clear to another machine; use https, or a collector on this one",
            ),
            Ok(place) if place.secure && self.otlp_ca.is_none() => Err("is https and needs `traces.otlp_ca`"),
            Ok(place) => Ok((place, format!("/{path}"))),
            Err(_) => Err("must be an address such as `http://127.0.0.1:4318/v1/traces`"),
        })
    }
}

impl Config {
    /// Where backups of keys are written.
    pub fn backups(&self) -> PathBuf {
        self.backups.directory.clone().unwrap_or_else(|| self.state_directory.join("backups"))
    }
}

impl LedgerConfig {
    /// When to seal.
    pub fn cadence(&self) -> Cadence {
        Cadence { interval: Duration::from_secs(self.seal_seconds), rows: self.seal_rows }
    }
}

impl Default for OperatorsConfig {
    fn default() -> Self {
        // Not the daemon's own user: the token's worker has it too.
        Self { uids: vec![0] }
    }
}

impl RetentionConfig {
    /// Workflows after their end.
    pub fn workflows(&self) -> Duration {
        DAY * self.workflow_days
    }

    /// Events.
    pub fn events(&self) -> Duration {
        DAY * self.event_days
    }

    /// Answers kept for one workspace.
    pub fn answer_bytes_max(&self) -> u64 {
        u64::from(self.answer_mib_max) * 1024 * 1024
    }
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { workflow_days: 400, event_days: 30, answer_mib_max: 4_096 }
    }
}

impl Default for RatesConfig {
    fn default() -> Self {
        Self {
            workspace: Quota { burst: 20_000, per_second: 10_000 },
            address: Quota { burst: 40_000, per_second: 20_000 },
        }
    }
}

impl Default for TracesConfig {
    fn default() -> Self {
        Self { otlp: None, otlp_ca: None, recorded_per_second_max: 100 }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Json, filter: "info".to_owned() }
    }
}

/// Kind to a TPM's memory: about 105 thousand writes a year.
fn default_seal_seconds() -> u64 {
    300
}

fn default_seal_rows() -> u64 {
    10_000
}

fn default_unsealed_seconds_max() -> u64 {
    3600
}
