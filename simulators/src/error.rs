//! What can go wrong with a stand-in for hardware, in words that say what to do next.
//! In come missing programs, refused commands and full disks.
//! Out goes one error type for every simulator.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// A simulator did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SimulatorError {
    /// A program of the operating system is not there.
    #[error("`{program}` is not installed: run `apt-get install {package}` and try again")]
    Missing {
        /// The program or library that was looked for.
        program: String,
        /// The Debian package that brings it.
        package: &'static str,
    },
    /// A program ran and said no.
    #[error("`{program}` refused: {said}")]
    Refused {
        /// The program that was run.
        program: String,
        /// What it wrote to its standard error, or its exit status.
        said: String,
    },
    /// A program started and did not become usable.
    #[error("`{program}` was not ready within {waited:?}; what it said is in {log}")]
    NotReady {
        /// The program that was started.
        program: String,
        /// How long it was waited for.
        waited: Duration,
        /// Where its output went.
        log: PathBuf,
    },
    /// A Unix socket's name would not fit into the kernel's structure.
    #[error(
        "the socket path {0} is longer than 100 bytes: choose a shorter directory, for instance below /tmp"
    )]
    PathTooLong(PathBuf),
    /// The simulated chip is switched off.
    #[error("the simulated device is switched off: call `restart` first")]
    SwitchedOff,
    /// A file or a process could not be handled.
    #[error("could not {what}")]
    Io {
        /// The deed, as a verb and its object.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Puts words to an input or output error.
pub(crate) trait While<T> {
    /// Names the deed during which the error arose.
    fn while_trying(self, what: impl Into<String>) -> Result<T, SimulatorError>;
}

impl<T, E: Into<io::Error>> While<T> for Result<T, E> {
    fn while_trying(self, what: impl Into<String>) -> Result<T, SimulatorError> {
        self.map_err(|source| SimulatorError::Io { what: what.into(), source: source.into() })
    }
}
