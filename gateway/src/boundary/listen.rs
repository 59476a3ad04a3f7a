//! The API listener: TCP, then TLS with a client certificate, then HTTP.
//! Who enters: whoever can reach the port.
//! What leaves: connections whose peer proved a certificate of our CA; everybody else is gone within the handshake's time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use audit::Clock;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::authenticate::Peer;
use super::connection;
use super::drain::{Register, Seat};
use super::gate::Gate;
use super::handshake_threads::HandshakeThreads;
use super::handshakes::Handshakes;
use super::tls::TlsFace;
use crate::api::CertificateHash;
use crate::ca::Validity;
use crate::limits::HANDSHAKE_WAIT_MAX;
use crate::moment::Moment;

/// The API listener, bound and ready to accept.
pub struct Listener {
    socket: TcpListener,
    tls: TlsFace,
    gate: Arc<Gate>,
    register: Register,
    threads: HandshakeThreads,
}

impl Listener {
    /// Binds the address.
    ///
    /// # Errors
    /// The address is taken or not ours, or the machine gives no threads.
    pub async fn bind(
        address: SocketAddr,
        tls: TlsFace,
        gate: Arc<Gate>,
        register: Register,
    ) -> std::io::Result<Self> {
        let (socket, threads) = (TcpListener::bind(address).await?, HandshakeThreads::start()?);
        Ok(Self { socket, tls, gate, register, threads })
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
        let handshakes = Handshakes::default();
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

    fn welcome(&self, stream: TcpStream, address: SocketAddr, handshakes: &Handshakes) {
        // Over a limit the connection is closed unanswered: there is no one yet to write to.
        let Some(seat) = self.register.sit(address.ip()) else { return };
        let handshake = handshakes.begin(address.ip());
        let (gate, register) = (Arc::clone(&self.gate), self.register.clone());
        let shaking = self.threads.compute(shake(self.tls.acceptor(), stream));
        self.register.connection_tasks().spawn(async move {
            let shaken = tokio::select! {
                shaken = tokio::time::timeout(HANDSHAKE_WAIT_MAX, shaking) => shaken,
                () = handshake.cut() => {
                    return tracing::info!(ip = %address.ip(), "too many handshakes; the oldest was cut");
                }
            };
            drop(handshake);
            match shaken {
                Ok(Ok(Ok((stream, certificate, ends)))) => {
                    let over = come(gate.clock(), ends, LOOKED_AT_EVERY);
                    tokio::select! {
                        () = attend(stream, address, certificate, gate, register, seat) => {}
                        () = over => tracing::info!(ip = %address.ip(), "the client's certificate has ended; connection closed"),
                    }
                }
                Ok(Ok(Err(why))) => tracing::info!(ip = %address.ip(), %why, "handshake refused"),
                Ok(Err(why)) => tracing::error!(ip = %address.ip(), %why, "a handshake broke off"),
                Err(_) => tracing::info!(ip = %address.ip(), "handshake took too long"),
            }
        });
    }
}

async fn shake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
) -> std::io::Result<(TlsStream<TcpStream>, CertificateHash, Moment)> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
    let facts = certificate
        .and_then(|der| Some((CertificateHash::of(der.as_ref()), Validity::of(der.as_ref())?.until)));
    // The verifier demands a certificate and has read it, so this cannot happen; if it ever does, nobody gets in.
    let (hash, ends) = facts.ok_or_else(|| std::io::Error::other("no client certificate"))?;
    Ok((stream, hash, ends))
}

/// Waits until the clock says that this moment has come. The clock may be set meanwhile, so it is looked at again and again.
async fn come(clock: Arc<dyn Clock>, moment: Moment, every: Duration) {
    loop {
        let left = Moment::now(clock.as_ref()).until(moment);
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(every)).await;
    }
}

/// How late the end of a certificate may be noticed after the clock was set. Requests notice at once.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(30);

async fn attend(
    stream: TlsStream<TcpStream>,
    address: SocketAddr,
    certificate: CertificateHash,
    gate: Arc<Gate>,
    register: Register,
    seat: Seat,
) {
    let Some(holding) = register.hold(certificate) else {
        return tracing::info!(ip = %address.ip(), %certificate, "too many connections with one certificate; the newest was closed");
    };
    // Revoked after the handshake asked and before the connection could be found under its certificate.
    if gate.directory().client(&certificate).is_shut_out() {
        return;
    }
    let peer = Peer::Remote { address, certificate };
    connection::serve(stream, peer, gate, register.stopping(), holding.cut()).await;
    drop(seat);
}

/// Out of descriptors or memory: accepting at once again would spin.
pub(super) async fn pause_after(why: &std::io::Error) {
    tracing::warn!(%why, "cannot accept connections");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// Says what a test has set.
    #[derive(Debug, Default)]
    struct Set(AtomicU64);

    impl Clock for Set {
        fn unix_us(&self) -> u64 {
            self.0.load(Ordering::SeqCst)
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }

        fn boot(&self) -> audit::Boot {
            audit::Boot { id: [0; 16], uptime: Duration::ZERO }
        }
    }

    #[tokio::test]
    async fn the_end_of_a_certificate_comes_with_the_clock_however_it_is_set() {
        let clock = Arc::new(Set::default());
        let end = Moment::from_micros(3_600_000_000);
        let wait = || come(clock.clone(), end, Duration::from_millis(1));
        let waiting = tokio::spawn(wait());
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished(), "it ended an hour early");
        clock.0.store(3_600_000_000, Ordering::SeqCst);
        waiting.await.unwrap();
        wait().await;
    }
}
