//! Foreign programs: run one to its end, wait until a condition holds, make secrets that are good for one test.
//! In come the simulators.
//! Out go standard output, or errors that name the package to install.

use std::io;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{SimulatorError, While};

/// How long a stand-in may take until it answers. Loaded build machines need far more than a quiet one.
pub(crate) const READY_MAX: Duration = Duration::from_secs(20);

/// Between two looks at a condition. Short, for tests wait on it; not zero, for two cores are shared.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Runs a program to its end and hands back what it printed.
pub(crate) fn run(command: &mut Command, package: &'static str) -> Result<String, SimulatorError> {
    let program = name_of(command);
    let output = command.output().map_err(|source| missing_or_io(&program, package, source))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let said = if said.is_empty() { output.status.to_string() } else { said };
    Err(SimulatorError::Refused { program, said })
}

/// Makes sure that a program can be found, before something else is started that would only hide its absence.
pub(crate) fn require(program: &str, package: &'static str) -> Result<(), SimulatorError> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    if std::env::split_paths(&places).any(|place| place.join(program).is_file()) {
        return Ok(());
    }
    Err(SimulatorError::Missing { program: program.to_owned(), package })
}

/// Looks at a condition until it holds; says whether it did in time.
pub(crate) fn wait_until(mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < READY_MAX {
        if holds() {
            return true;
        }
        thread::sleep(LOOK_AGAIN);
    }
    false
}

/// A fresh PIN: sixteen hexadecimal digits, within what SoftHSM accepts.
pub(crate) fn fresh_pin() -> Result<String, SimulatorError> {
    let mut bytes = [0u8; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other).while_trying("draw a random PIN")?;
    Ok(hex::encode(bytes))
}

/// Tells a program that is not installed from one that could not be started.
pub(crate) fn missing_or_io(program: &str, package: &'static str, source: io::Error) -> SimulatorError {
    if source.kind() == io::ErrorKind::NotFound {
        return SimulatorError::Missing { program: program.to_owned(), package };
    }
    SimulatorError::Io { what: format!("run `{program}`"), source }
}

fn name_of(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
