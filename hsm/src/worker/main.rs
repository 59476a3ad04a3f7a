//! `chancery-hsm`: the process that opens the token, killable at any moment.
//! Enters: a socket as standard input and a board as standard output, both from the daemon; the configuration as the first frame.
//! Leaves: answers; an exit when the daemon hangs up or the device can no longer be trusted.

mod pkcs11;
mod sandbox;
mod tpm;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use hsm::backend::{Backend, Fault, Lane};
use hsm::serve::{Board, Ended, serve};
use hsm::{Probe, RootPin, StartRefused, TokenConfig, Wall};

fn main() {
    let ended = match inherit() {
        Ok((socket, board)) => serve(socket, board, open),
        Err(fault) => Ended::Socket(fault),
    };
    if !matches!(ended, Ended::HungUp) {
        eprintln!("chancery-hsm: {ended}");
    }
    leave();
}

/// Closes the sandbox first: no vendor code runs outside it.
fn open(config: &TokenConfig, root: Option<&RootPin>) -> Result<Box<dyn Backend>, StartRefused> {
    let walls = sandbox::close(config)?;
    let backend = match config {
        TokenConfig::Pkcs11 { .. } => pkcs11::connect(config, root),
        TokenConfig::Tpm { .. } => tpm::connect(config, root),
    }?;
    Ok(Box::new(Walled { backend, walls }))
}

/// A back-end that also says which walls stand round it.
struct Walled {
    backend: Box<dyn Backend>,
    walls: Vec<Wall>,
}

impl Backend for Walled {
    fn probe(&self) -> Probe {
        Probe { walls: self.walls.clone(), ..self.backend.probe() }
    }

    fn lanes(&mut self) -> Result<Vec<Box<dyn Lane>>, Fault> {
        self.backend.lanes()
    }

    fn close(self: Box<Self>) {
        self.backend.close();
    }
}

/// Takes the daemon's two descriptors out of the way of vendor code that reads standard input or prints.
fn inherit() -> io::Result<(UnixStream, Board)> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    socket
        .peer_addr()
        .map_err(|_| io::Error::other("standard input is no socket; the daemon starts this program"))?;
    let board = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    rustix::stdio::dup2_stdout(io::stderr())?;
    Ok((socket, Board::from(board)))
}

/// Ends without running exit handlers: those of OpenSSL and of some modules crash once the module is finalised.
fn leave() -> ! {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    std::process::abort()
}
