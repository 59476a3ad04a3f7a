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

use hsm::backend::Backend;
use hsm::serve::{Board, Ended, serve};
use hsm::{StartRefused, TokenConfig};

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
fn open(config: &TokenConfig) -> Result<Box<dyn Backend>, StartRefused> {
    sandbox::close(config.network())?;
    match config {
        TokenConfig::Pkcs11 { .. } => pkcs11::connect(config),
        TokenConfig::Tpm { .. } => tpm::connect(config),
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
