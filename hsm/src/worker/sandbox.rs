//! What the worker gives up before any vendor code runs, and how much of that this kernel could do.
//! Enters: the token's table of the configuration.
//! Leaves: a process that reaches its token and nothing else, and the list of the walls that stand round it.

mod domain;
mod filter;

use hsm::{StartRefused, TokenConfig, Wall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, Signal};
use rustix::thread::CapabilitySet;

/// Closes the sandbox round this process and every thread it will start.
///
/// # Errors
/// When the kernel refuses a part, or lacks a wall that the token's table needs and does not openly do without.
pub(crate) fn close(config: &TokenConfig) -> Result<Vec<Wall>, StartRefused> {
    be_alone()?;
    close_round_this_thread(config)
}

fn close_round_this_thread(config: &TokenConfig) -> Result<Vec<Wall>, StartRefused> {
    limit_process()
        .map_err(|fault| StartRefused::Sandbox(format!("the kernel refused a process limit, {fault}")))?;
    let reach = config.reach();
    let domain = domain::enter(&reach, config.network())?;
    filter::install(config.network(), !reach.sockets.is_empty())?;
    judge(walls(&domain, config.network(), !reach.sockets.is_empty()), config.sandbox().accept_missing_walls)
}

/// A wall that is missing keeps the worker from starting, unless the configuration openly does without it.
fn judge(walls: Vec<Wall>, accept_missing: bool) -> Result<Vec<Wall>, StartRefused> {
    match walls.iter().find(|wall| !wall.stands) {
        Some(missing) if !accept_missing => Err(StartRefused::Sandbox(format!(
            "{}: {}; use a newer kernel, or set `sandbox.accept_missing_walls = true` in the token's table and do without it",
            missing.name, missing.by
        ))),
        _ => Ok(walls),
    }
}

/// A Landlock domain holds for the thread that enters it and for those it starts. There must be no other one yet.
fn be_alone() -> Result<(), StartRefused> {
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count);
    match threads {
        Ok(1) => Ok(()),
        Ok(more) => Err(StartRefused::Sandbox(format!("{more} threads run already"))),
        Err(fault) => Err(StartRefused::Sandbox(format!("/proc cannot be read, {fault}"))),
    }
}

fn limit_process() -> rustix::io::Result<()> {
    // The daemon's death must not leave a logged-in session behind; its end of the socket closing says the same, more slowly.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::process::setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    drop_capabilities()?;
    rustix::thread::set_no_new_privs(true)
}

/// A service has none. In a container that runs as root the clock, the network and the kernel would be within reach. What remains is
/// to open a device that belongs to a group: of the file system the domain leaves little enough.
fn drop_capabilities() -> rustix::io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    if CapabilitySet::DAC_OVERRIDE.contains(sets.permitted) && sets.inheritable.is_empty() {
        return Ok(());
    }
    sets.effective &= CapabilitySet::DAC_OVERRIDE;
    sets.permitted &= CapabilitySet::DAC_OVERRIDE;
    sets.inheritable = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, sets)
}

fn walls(domain: &domain::Entered, network: bool, sockets: bool) -> Vec<Wall> {
    let wall = |name: &str, stands, by: String| Wall { name: name.to_owned(), stands, by };
    let abi = domain.abi;
    let landlock = match abi {
        0 => "this kernel has no Landlock".to_owned(),
        _ => format!("Landlock, version {abi}"),
    };
    let filter = || "seccomp".to_owned();
    let addresses = match (network, abi) {
        (false, _) => wall("addresses", true, "seccomp, no sockets".to_owned()),
        (true, ..4) => wall("addresses", false, format!("TCP ports need Landlock version 4, {landlock}")),
        (true, _) => wall("addresses", true, format!("{landlock}, the configured TCP ports")),
    };
    let unix = match (sockets, abi) {
        (false, _) => wall("unix sockets", true, "seccomp, no sockets".to_owned()),
        // Not a wall that is missing: the daemon's own socket shuts itself to its workers.
        (true, ..9) => wall(
            "unix sockets",
            true,
            "the daemon's socket refuses its workers; other sockets go by their modes".to_owned(),
        ),
        (true, _) => wall("unix sockets", true, format!("{landlock}, the configured paths")),
    };
    vec![
        wall("files", abi > 0, landlock.clone()),
        wall("memory of other processes", abi > 0, format!("{landlock}, and seccomp")),
        wall("signals", true, filter()),
        wall("programs and processes", true, filter()),
        addresses,
        unix,
    ]
}

#[cfg(test)]
mod tests;
