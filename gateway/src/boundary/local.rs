//! The local socket: operators on the appliance itself, known by what the kernel says of them.
//! Who enters: processes that may open the socket file.
//! What leaves: connections of user ids that the configuration calls operators, and of no worker of a token.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use hsm::Workers;
use tokio::net::unix::UCred;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

use super::authenticate::Peer;
use super::closed::Closed;
use super::connection;
use super::drain::Register;
use super::gate::Gate;
use super::listen::pause_after;

/// The socket, bound.
pub struct LocalSocket {
    socket: UnixListener,
    path: PathBuf,
    operators: Vec<u32>,
    door: LocalDoor,
}

/// Who answers at the socket; it may change while the socket stays.
#[derive(Clone)]
pub struct LocalDoor(Arc<ArcSwap<Behind>>);

/// What stands behind the socket.
pub struct Behind {
    /// Who answers.
    pub answers: Answers,
    /// The workers of the tokens, which are never let in.
    pub workers: Vec<Workers>,
}

/// Who answers at the socket.
pub enum Answers {
    /// Nobody yet, for a reason.
    Closed(Closed),
    /// A house.
    Open {
        /// Its gate for operators.
        gate: Arc<Gate>,
        /// Who is connected to it.
        register: Register,
    },
}

const OWNER_AND_GROUP: u32 = 0o660;

impl LocalDoor {
    /// From now on this answers. Connections that are open go on with who answered before.
    pub fn put(&self, behind: Behind) {
        self.0.store(Arc::new(behind));
    }
}

impl LocalSocket {
    /// Binds the path; a socket left by a daemon that is gone is replaced.
    ///
    /// # Errors
    /// The directory is missing or not ours. That another daemon is alive is known from the ledger's lock before.
    pub fn bind(path: &Path, operators: Vec<u32>, behind: Behind) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            _ => {}
        }
        let socket = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(OWNER_AND_GROUP))?;
        let door = LocalDoor(Arc::new(ArcSwap::from_pointee(behind)));
        Ok(Self { socket, path: path.to_owned(), operators, door })
    }

    /// Changes who answers.
    pub fn door(&self) -> LocalDoor {
        self.door.clone()
    }

    /// Accepts until it is stopped, then removes the socket file.
    pub async fn run(self, stopping: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = stopping.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => self.welcome(stream),
                Err(why) => pause_after(&why).await,
            }
        }
        // A missing file is what we want; anything else the next start reports.
        let _ = std::fs::remove_file(&self.path);
    }

    fn welcome(&self, stream: UnixStream) {
        let behind = self.door.0.load();
        let uid = match stream.peer_cred() {
            // Whatever its user id: a token's library is nobody's operator.
            Ok(credentials) if behind.is_of_a_worker(&credentials) => {
                let pid = credentials.pid();
                return tracing::error!(
                    pid,
                    "a token's worker knocked at the operators' socket; connection closed"
                );
            }
            Ok(credentials) if self.operators.contains(&credentials.uid()) => credentials.uid(),
            Ok(credentials) => {
                return tracing::warn!(uid = credentials.uid(), "not an operator; connection closed");
            }
            Err(why) => return tracing::warn!(%why, "no peer credentials; connection closed"),
        };
        match &behind.answers {
            Answers::Closed(closed) => drop(tokio::spawn(closed.clone().serve(stream))),
            Answers::Open { gate, register } => {
                let (gate, register) = (Arc::clone(gate), register.clone());
                let serving = register.clone();
                serving.connection_tasks().spawn(async move {
                    let never = CancellationToken::new();
                    connection::serve(stream, Peer::Local { uid }, gate, register.stopping(), &never).await;
                });
            }
        }
    }
}

impl Behind {
    /// It is a worker, or was started by one. The kernel knew who called `connect`, whoever holds the connection now.
    fn is_of_a_worker(&self, credentials: &UCred) -> bool {
        let mut pid = credentials.pid().and_then(|pid| u32::try_from(pid).ok());
        for _ in 0..ANCESTORS_MAX {
            match pid {
                Some(one) if self.workers.iter().any(|workers| workers.contains(one)) => return true,
                Some(one) if one > 1 => pid = parent(one),
                _ => return false,
            }
        }
        false
    }
}

/// The parent of a process, where it may be seen. The name, in brackets before it, may hold anything.
fn parent(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Deeper than any shell stands below its session.
const ANCESTORS_MAX: usize = 64;
