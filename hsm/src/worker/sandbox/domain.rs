//! The Landlock domain of the worker: which files, sockets and TCP ports it may reach.
//! Enters: what the token's table needs.
//! Leaves: a thread that reaches nothing beyond, nor any thread it starts.

use std::path::{Path, PathBuf};

use hsm::StartRefused;
use hsm::config::Reach;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, LandlockStatus, NetPort,
    PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
    make_bitflags,
};

/// What became of the domain.
pub(super) struct Entered {
    /// The version of Landlock that this kernel enforces; 0 without any.
    pub(super) abi: i32,
}

/// The newest version that was tried with these rules.
const KNOWN: ABI = ABI::V9;

/// Libraries, and what the C library, OpenSSL, PKCS#11 and the TPM's software read of the system. No secret is kept in any of them.
const SYSTEM: [&str; 26] = [
    "/usr",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
    "/etc/localtime",
    "/etc/passwd",
    "/etc/group",
    "/etc/ssl/openssl.cnf",
    "/etc/ssl/certs",
    "/etc/pki/tls/openssl.cnf",
    "/etc/pkcs11",
    "/etc/tpm2-tss",
    "/etc/libnl",
    "/proc/sys",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/stat",
    "/sys/devices/system",
];
/// Harmless devices.
const DEVICES: [&str; 5] = ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom"];

/// Enters the domain. Without Landlock in the kernel nothing happens, and the answer says so.
///
/// # Errors
/// A configured path is not there, or the kernel refused a rule.
pub(super) fn enter(reach: &Reach, network: bool) -> Result<Entered, StartRefused> {
    let refused = |fault: RulesetError| {
        StartRefused::Sandbox(format!("the kernel refused the Landlock domain, {fault}"))
    };
    let read = AccessFs::from_read(KNOWN) & !AccessFs::Execute;
    let write =
        (AccessFs::from_all(KNOWN) & !AccessFs::Execute) & !make_bitflags!(AccessFs::{MakeChar | MakeBlock});
    let mut domain = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(KNOWN))
        .and_then(|rules| rules.handle_access(AccessNet::from_all(KNOWN)))
        .and_then(|rules| rules.scope(Scope::from_all(KNOWN)))
        .and_then(Ruleset::create)
        .map_err(refused)?;
    for path in SYSTEM {
        domain = allow(domain, Path::new(path), read).map_err(refused)?;
    }
    for path in DEVICES {
        domain = allow(domain, Path::new(path), make_bitflags!(AccessFs::{ReadFile | WriteFile}))
            .map_err(refused)?;
    }
    for (paths, access) in
        [(&reach.read, read), (&reach.write, write), (&reach.sockets, AccessFs::ResolveUnix.into())]
    {
        for path in paths {
            domain = allow(domain, path, access).map_err(refused)?;
        }
    }
    domain = allow_itself(domain, read)?;
    if network {
        for port in &reach.ports {
            domain = domain.add_rule(NetPort::new(*port, AccessNet::ConnectTcp)).map_err(refused)?;
        }
    }
    let status = domain.restrict_self().map_err(refused)?;
    let abi = match status.landlock {
        LandlockStatus::Available { effective_abi, .. } => effective_abi as i32,
        _ => 0,
    };
    Ok(Entered { abi })
}

/// What is not there gets no rule: a token that comes later finds a new worker.
fn allow(
    domain: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, RulesetError> {
    let Ok(opened) = PathFd::new(path) else { return Ok(domain) };
    let access = if path.is_dir() { access } else { access & of_files() };
    domain.add_rule(PathBeneath::new(opened, access))
}

/// Its own part of /proc, by number: the worker of another token has another one. The directory stays open, since a rule
/// holds for the very object that it was made with.
fn allow_itself(domain: RulesetCreated, read: BitFlags<AccessFs>) -> Result<RulesetCreated, StartRefused> {
    let own = PathBuf::from(format!("/proc/{}", std::process::id()));
    let fault = |fault: &dyn std::fmt::Display| StartRefused::Sandbox(format!("{}: {fault}", own.display()));
    let kept = PathFd::new(&own).map_err(|why| fault(&why))?;
    std::mem::forget(kept);
    allow(domain, &own, read).map_err(|why| fault(&why))
}

const fn of_files() -> BitFlags<AccessFs> {
    make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | IoctlDev | ResolveUnix})
}
