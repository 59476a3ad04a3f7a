//! Which token, reached how, within which limits.
//! Enters: one table of the daemon's configuration; paths and numbers, never a PIN.
//! Leaves: a checked [`TokenConfig`], which travels to the worker as its first frame.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

/// Which token to use, and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum TokenConfig {
    /// A PKCS#11 module and one token in it.
    Pkcs11 {
        /// The vendor's library.
        module: PathBuf,
        /// The token's serial; slots may move.
        serial: String,
        /// Its label too, where serials are blank or shared; otherwise labels are for people only.
        #[serde(default)]
        label: Option<String>,
        /// Holds the user PIN; owned by us or root, closed to everyone else.
        pin_file: PathBuf,
        /// Sessions that work at the same time; by default one per core.
        #[serde(default)]
        threads: Option<usize>,
        /// The module reaches its device over IP: TCP to the ports of `sandbox.connect`, and no other.
        #[serde(default)]
        network: bool,
        /// What the worker may reach beside the module itself.
        #[serde(default)]
        sandbox: Sandbox,
        /// The worker binary.
        #[serde(default = "default_worker")]
        worker: PathBuf,
        /// All that the worker finds in its environment.
        #[serde(default)]
        environment: BTreeMap<String, String>,
        /// Bounds in time and number.
        #[serde(default)]
        limits: Limits,
    },
    /// A TPM 2.0.
    Tpm {
        /// How to reach it, in tpm2-tss words: `device:/dev/tpmrm0`, `swtpm:path=/run/tpm.sock`.
        tcti: String,
        /// NV index of the anchor; the counter is the next one.
        #[serde(default = "default_anchor_index")]
        anchor_index: u32,
        /// Persistent handle of the storage root.
        #[serde(default = "default_storage_root")]
        storage_root: u32,
        /// Persistent handle of the attestation key.
        #[serde(default = "default_attestation_key")]
        attestation_key: u32,
        /// PCRs of the SHA-256 bank that the master key is sealed to.
        #[serde(default = "default_pcrs")]
        pcrs: Vec<u8>,
        /// Holds the owner hierarchy's authorisation; needed only while enrolling. Absent: the hierarchy is open.
        #[serde(default)]
        owner_auth_file: Option<PathBuf>,
        /// Holds the authorisation of anchor index and counter; made at enrolment when absent.
        #[serde(default)]
        index_auth_file: Option<PathBuf>,
        /// The TPM is reached over IP (a simulator): TCP to the ports of `sandbox.connect`, and no other.
        #[serde(default)]
        network: bool,
        /// What the worker may reach beside the TPM itself.
        #[serde(default)]
        sandbox: Sandbox,
        /// The worker binary.
        #[serde(default = "default_worker")]
        worker: PathBuf,
        /// All that the worker finds in its environment.
        #[serde(default)]
        environment: BTreeMap<String, String>,
        /// Bounds in time and number.
        #[serde(default)]
        limits: Limits,
    },
}

impl TokenConfig {
    /// The worker binary.
    #[must_use]
    pub fn worker(&self) -> &Path {
        match self {
            Self::Pkcs11 { worker, .. } | Self::Tpm { worker, .. } => worker,
        }
    }

    /// The registers that a TPM seals to; nothing of a PKCS#11 token.
    #[must_use]
    pub fn pcrs(&self) -> Option<&[u8]> {
        match self {
            Self::Pkcs11 { .. } => None,
            Self::Tpm { pcrs, .. } => Some(pcrs),
        }
    }

    /// Calls that it works on at the same time, as far as its sessions go.
    #[must_use]
    pub fn lanes(&self) -> usize {
        match self {
            Self::Pkcs11 { threads, .. } => {
                threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
            }
            Self::Tpm { .. } => 1,
        }
    }

    /// All that the worker finds in its environment.
    #[must_use]
    pub const fn environment(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Pkcs11 { environment, .. } | Self::Tpm { environment, .. } => environment,
        }
    }

    /// Bounds in time and number.
    #[must_use]
    pub const fn limits(&self) -> &Limits {
        match self {
            Self::Pkcs11 { limits, .. } | Self::Tpm { limits, .. } => limits,
        }
    }

    /// True when the worker may open IP sockets.
    #[must_use]
    pub const fn network(&self) -> bool {
        match self {
            Self::Pkcs11 { network, .. } | Self::Tpm { network, .. } => *network,
        }
    }

    /// What the worker may reach, as configured.
    #[must_use]
    pub const fn sandbox(&self) -> &Sandbox {
        match self {
            Self::Pkcs11 { sandbox, .. } | Self::Tpm { sandbox, .. } => sandbox,
        }
    }

    /// Everything that the worker may reach: what is configured, and what follows from the rest of the table.
    #[must_use]
    pub fn reach(&self) -> Reach {
        let Sandbox { read, write, sockets, connect, .. } = self.sandbox().clone();
        let mut reach = Reach { read, write, sockets, ports: Vec::new() };
        if self.network() {
            reach.ports = connect.iter().map(SocketAddr::port).collect();
        }
        // What a path in the worker's own environment names is there to be read, such as the module's configuration.
        let named = self.environment().values().map(PathBuf::from).filter(|path| path.is_absolute());
        reach.read.extend(named);
        match self {
            Self::Pkcs11 { module, pin_file, .. } => reach.read.extend([module.clone(), pin_file.clone()]),
            Self::Tpm { tcti, owner_auth_file, index_auth_file, .. } => {
                reach.read.extend(owner_auth_file.clone());
                // It is replaced as a whole, under another name first, so its directory is written to.
                let directory = index_auth_file.as_deref().and_then(Path::parent);
                reach.write.extend(directory.map(Path::to_path_buf));
                reach.add_tcti(tcti);
            }
        }
        reach
    }
}

/// What the worker may reach beside module, PIN file, configuration and the system's libraries. Nothing else is open to it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sandbox {
    /// Files and directories that it may read.
    pub read: Vec<PathBuf>,
    /// Files, directories and devices that it may also write.
    pub write: Vec<PathBuf>,
    /// Unix sockets that it may connect to, such as that of pcscd.
    pub sockets: Vec<PathBuf>,
    /// Where the device is, with `network = true`. The kernel holds the worker to these ports; to the addresses, a firewall.
    pub connect: Vec<SocketAddr>,
    /// Start even where this kernel lacks a wall that the token's table needs. The status shows which one is missing.
    pub accept_missing_walls: bool,
}

/// Everything that a worker may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// May be read.
    pub read: Vec<PathBuf>,
    /// May be read and written.
    pub write: Vec<PathBuf>,
    /// May be connected to.
    pub sockets: Vec<PathBuf>,
    /// TCP ports that may be connected to.
    pub ports: Vec<u16>,
}

impl Reach {
    /// Device or socket, as tpm2-tss words name them: `device:/dev/tpmrm0`, `swtpm:path=/run/tpm.sock`, `tabrmd`.
    fn add_tcti(&mut self, tcti: &str) {
        let (kind, rest) = tcti.split_once(':').unwrap_or((tcti, ""));
        match kind {
            "device" if rest.is_empty() => self.write.extend(["/dev/tpmrm0", "/dev/tpm0"].map(PathBuf::from)),
            "device" => self.write.push(PathBuf::from(rest)),
            "tabrmd" => self.sockets.push(PathBuf::from("/run/dbus/system_bus_socket")),
            _ => {
                let path = rest.split(',').find_map(|part| part.strip_prefix("path="));
                self.sockets.extend(path.map(PathBuf::from));
            }
        }
    }
}

/// Bounds of one token, each with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Calls that may stand in line; more than the token signs in a second only makes everyone late.
    pub queue_max: usize,
    /// Calls handed to the worker at once; enough to fill batches, few enough that a crash touches few.
    pub in_flight_max: usize,
    /// A worker that is not ready by then is killed; slow network tokens take seconds to log in.
    pub start_ms_max: u64,
    /// Calls wait this long for a lost token before they are told to come back; a restarted worker needs less.
    pub patience_ms: u64,
    /// The first pause before a new worker.
    pub restart_pause_ms_min: u64,
    /// The longest pause; bounds how late a returned token is noticed.
    pub restart_pause_ms_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queue_max: 1024,
            in_flight_max: 128,
            start_ms_max: 15_000,
            patience_ms: 1_000,
            restart_pause_ms_min: 20,
            restart_pause_ms_max: 2_000,
        }
    }
}

impl Limits {
    pub(crate) const fn start_max(&self) -> Duration {
        Duration::from_millis(self.start_ms_max)
    }

    pub(crate) const fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms)
    }

    /// The pause after so many failures in a row.
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        let doubled = self.restart_pause_ms_min.saturating_mul(1 << failures.saturating_sub(1).min(16));
        Duration::from_millis(doubled.min(self.restart_pause_ms_max))
    }
}

/// Opens a file that holds a PIN, if it is as such a file should be. The worker reads no other, and a check of the configuration says
/// the same in advance.
///
/// # Errors
/// It is missing, loose or empty, in words that follow the file's name.
pub fn open_pin_file(path: &Path) -> Result<File, String> {
    open_pin_file_for(path, rustix::process::geteuid().as_raw())
}

/// The same, as it will be for a daemon of this user.
///
/// # Errors
/// As above.
pub fn open_pin_file_for(path: &Path, us: u32) -> Result<File, String> {
    // Neither follows a link nor waits for the other end of a pipe.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
    let file = file.map_err(|fault| format!("cannot be opened ({fault}); check its place and owner"))?;
    let facts = file.metadata().map_err(|_| "cannot be examined; check the disk")?;
    if !facts.is_file() {
        return Err("is no plain file; name the file itself".to_owned());
    }
    if facts.uid() != us && facts.uid() != 0 {
        return Err("belongs to someone else; give it to the daemon's user or to root".to_owned());
    }
    // systemd hands a credential of root's to a service by an access list, whose mask stands where the group's bits are.
    let strangers = if facts.uid() == 0 && facts.gid() == 0 { 0o037 } else { 0o077 };
    if facts.mode() & strangers != 0 {
        return Err("is open to others; run `chmod 0400` on it".to_owned());
    }
    if facts.size() == 0 {
        return Err("is empty; put the PIN into it".to_owned());
    }
    Ok(file)
}

fn default_worker() -> PathBuf {
    PathBuf::from("/usr/libexec/chancery/chancery-hsm")
}

const fn default_anchor_index() -> u32 {
    0x0180_0C00
}

const fn default_storage_root() -> u32 {
    0x8100_0001
}

const fn default_attestation_key() -> u32 {
    0x8101_0C00
}

fn default_pcrs() -> Vec<u8> {
    vec![7]
}
