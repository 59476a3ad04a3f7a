//! Who is connected and what is going on, so that a stop loses nothing and a revoked client loses everything at once.
//! Who enters: connections when they begin, handlers while they run, SIGTERM, a revocation.
//! What leaves: the order to finish (everybody) or to be cut (the holders of one certificate).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::gate::bucket_of;
use crate::api::{CertificateHash, HangUp};
use crate::limits::{CONNECTIONS_MAX, CONNECTIONS_PER_ADDRESS_MAX, CONNECTIONS_PER_CERTIFICATE_MAX};

/// The register of connections and running handlers.
#[derive(Clone, Default)]
pub struct Register {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    stopping: CancellationToken,
    handlers: TaskTracker,
    connections: TaskTracker,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
    by_certificate: HashMap<CertificateHash, HashMap<u64, CancellationToken>>,
    next: u64,
}

/// A place on the register; leaving it frees the place.
pub struct Seat {
    inner: Arc<Inner>,
    address: IpAddr,
}

/// A connection's entry under its certificate.
pub struct Holding {
    inner: Arc<Inner>,
    certificate: CertificateHash,
    number: u64,
    cut: CancellationToken,
}

impl Register {
    /// Takes a place for a new connection, or none when the house or the address has its fill.
    pub fn sit(&self, address: IpAddr) -> Option<Seat> {
        let address = bucket_of(address);
        let mut open = self.inner.open();
        let from_here = open.by_address.get(&address).copied().unwrap_or(0);
        if open.total >= CONNECTIONS_MAX || from_here >= CONNECTIONS_PER_ADDRESS_MAX {
            return None;
        }
        open.total += 1;
        open.by_address.insert(address, from_here + 1);
        Some(Seat { inner: Arc::clone(&self.inner), address })
    }

    /// Puts a connection under the certificate it was made with, or not where that has its fill.
    pub fn hold(&self, certificate: CertificateHash) -> Option<Holding> {
        let cut = CancellationToken::new();
        let mut open = self.inner.open();
        open.next += 1;
        let number = open.next;
        let held = open.by_certificate.entry(certificate).or_default();
        if held.len() >= CONNECTIONS_PER_CERTIFICATE_MAX {
            return None;
        }
        held.insert(number, cut.clone());
        drop(open);
        Some(Holding { inner: Arc::clone(&self.inner), certificate, number, cut })
    }

    /// Open connections now.
    pub fn connections(&self) -> usize {
        self.inner.open().total
    }

    /// Fires when everybody should finish and leave.
    pub fn stopping(&self) -> &CancellationToken {
        &self.inner.stopping
    }

    /// Where connections' tasks are counted.
    pub fn connection_tasks(&self) -> &TaskTracker {
        &self.inner.connections
    }

    /// Where handlers are counted that must run to their end.
    pub fn handlers(&self) -> &TaskTracker {
        &self.inner.handlers
    }

    /// Asks everybody to finish, and waits until they have or the time is over.
    /// True if nothing was cut short.
    pub async fn drain(&self, patience: Duration) -> bool {
        self.inner.stopping.cancel();
        self.inner.connections.close();
        self.inner.handlers.close();
        let everybody = async {
            self.inner.connections.wait().await;
            self.inner.handlers.wait().await;
        };
        tokio::time::timeout(patience, everybody).await.is_ok()
    }
}

impl HangUp for Register {
    fn hang_up(&self, certificate: &CertificateHash) {
        if let Some(held) = self.inner.open().by_certificate.get(certificate) {
            held.values().for_each(CancellationToken::cancel);
        }
    }
}

impl Inner {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holding {
    /// Fires when the certificate is revoked.
    pub fn cut(&self) -> &CancellationToken {
        &self.cut
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.inner.open();
        open.total = open.total.saturating_sub(1);
        match open.by_address.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                open.by_address.remove(&self.address);
            }
        }
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        let mut open = self.inner.open();
        if let Some(held) = open.by_certificate.get_mut(&self.certificate) {
            held.remove(&self.number);
            if held.is_empty() {
                open.by_certificate.remove(&self.certificate);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn a_place_is_free_again_when_its_holder_leaves() {
        let register = Register::default();
        let seats: Vec<_> = (0..CONNECTIONS_PER_ADDRESS_MAX).map(|_| register.sit(HOME).unwrap()).collect();
        assert!(register.sit(HOME).is_none(), "the address has its fill");
        drop(seats);
        assert!(register.sit(HOME).is_some());
    }

    #[test]
    fn the_house_has_its_fill_though_no_address_has() {
        let register = Register::default();
        let address =
            |number: usize| IpAddr::V4(std::net::Ipv4Addr::from_bits(u32::try_from(number).unwrap()));
        let seats: Vec<_> =
            (0..CONNECTIONS_MAX).map(|number| register.sit(address(number)).unwrap()).collect();
        assert!(register.sit(address(CONNECTIONS_MAX)).is_none(), "one more than there are seats");
        drop(seats);
        assert!(register.sit(HOME).is_some());
    }

    #[test]
    fn a_revoked_certificate_loses_its_connections_and_no_others() {
        let register = Register::default();
        let (ours, theirs) = (CertificateHash([1; 32]), CertificateHash([2; 32]));
        let hold = |certificate| register.hold(certificate).unwrap();
        let (first, second, other) = (hold(ours), hold(ours), hold(theirs));
        register.hang_up(&ours);
        assert!(first.cut().is_cancelled() && second.cut().is_cancelled());
        assert!(!other.cut().is_cancelled());
    }

    #[test]
    fn a_certificate_has_its_fill_and_costs_no_other_a_place() {
        let register = Register::default();
        let (ours, theirs) = (CertificateHash([1; 32]), CertificateHash([2; 32]));
        let held: Vec<_> =
            (0..CONNECTIONS_PER_CERTIFICATE_MAX).map(|_| register.hold(ours).unwrap()).collect();
        assert!(register.hold(ours).is_none());
        assert!(register.hold(theirs).is_some());
        drop(held);
        assert!(register.hold(ours).is_some());
    }

    #[tokio::test]
    async fn a_drain_waits_for_handlers_and_says_when_it_could_not() {
        let register = Register::default();
        let (finish, finished) = tokio::sync::oneshot::channel::<()>();
        register.handlers().spawn(async { drop(finished.await) });
        assert!(!register.drain(Duration::from_millis(1)).await);
        finish.send(()).unwrap();
        assert!(register.drain(Duration::from_secs(5)).await);
    }
}
