//! The API listener: TCP, then TLS with a client certificate, then HTTP.
//! Who enters: whoever can reach the port.
//! What leaves: connections whose peer proved a certificate of our CA; everybody else is gone within the handshake's time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::authenticate::Peer;
use super::connection;
use super::drain::{Register, Seat};
use super::gate::Gate;
use super::tls::TlsFace;
use crate::api::CertificateHash;
use crate::limits::{HANDSHAKE_WAIT_MAX, HANDSHAKES_MAX};

/// The API listener, bound and ready to accept.
pub struct Listener {
    socket: TcpListener,
    tls: TlsFace,
    gate: Arc<Gate>,
    register: Register,
}

impl Listener {
    /// Binds the address.
    ///
    /// # Errors
    /// The address is taken or not ours.
    pub async fn bind(
        address: SocketAddr,
        tls: TlsFace,
        gate: Arc<Gate>,
        register: Register,
    ) -> std::io::Result<Self> {
        Ok(Self { socket: TcpListener::bind(address).await?, tls, gate, register })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Accepts until the house is asked to stop.
    pub async fn run(self) {
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = self.register.stopping().cancelled() => return,
            };
            match accepted {
                Ok((stream, address)) => self.welcome(stream, address, &handshakes),
                Err(why) => pause_after(&why).await,
            }
        }
    }

    fn welcome(&self, stream: TcpStream, address: SocketAddr, handshakes: &Arc<Semaphore>) {
        // Over a limit the connection is closed unanswered: there is no one yet to write to.
        let Some(seat) = self.register.sit(address.ip()) else { return };
        let Ok(handshake) = Arc::clone(handshakes).try_acquire_owned() else { return };
        let (acceptor, gate, register) = (self.tls.acceptor(), Arc::clone(&self.gate), self.register.clone());
        self.register.connection_tasks().spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE_WAIT_MAX, shake(acceptor, stream)).await;
            drop(handshake);
            match shaken {
                Ok(Ok((stream, certificate))) => {
                    attend(stream, address, certificate, gate, register, seat).await
                }
                Ok(Err(why)) => tracing::info!(ip = %address.ip(), %why, "handshake refused"),
                Err(_) => tracing::info!(ip = %address.ip(), "handshake took too long"),
            }
        });
    }
}

async fn shake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
) -> std::io::Result<(TlsStream<TcpStream>, CertificateHash)> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let hash = certificate.map(|der| CertificateHash::of(der.as_ref()));
    // The verifier demands a certificate, so this cannot happen; if it ever does, nobody gets in.
    let hash = hash.ok_or_else(|| std::io::Error::other("no client certificate"))?;
    Ok((stream, hash))
}

async fn attend(
    stream: TlsStream<TcpStream>,
    address: SocketAddr,
    certificate: CertificateHash,
    gate: Arc<Gate>,
    register: Register,
    seat: Seat,
) {
    let holding = register.hold(certificate);
    let peer = Peer::Remote { address, certificate };
    connection::serve(stream, peer, gate, register.stopping(), holding.cut()).await;
    drop(seat);
}

/// Out of descriptors or memory: accepting at once again would spin.
pub(super) async fn pause_after(why: &std::io::Error) {
    tracing::warn!(%why, "cannot accept connections");
    tokio::time::sleep(Duration::from_millis(50)).await;
}
