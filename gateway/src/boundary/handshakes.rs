//! Handshakes under way: bounded for each address and over all, so that silent peers cost themselves and nobody else.
//! Who enters: the listener, with the address of each new connection, before anything is known of its peer.
//! What leaves: a place for each; over a bound the oldest handshake of whoever has most is cut, for an honest one is over in an instant.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use super::gate::bucket_of;
use crate::limits::{HANDSHAKES_MAX, HANDSHAKES_PER_ADDRESS_MAX};

/// Who shakes hands now; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Handshakes(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    /// Oldest first. An IPv6 host commands a whole network, which has one line here.
    by_address: HashMap<IpAddr, VecDeque<(u64, CancellationToken)>>,
    total: usize,
    next: u64,
}

/// One handshake; when this is dropped its place is free.
pub(super) struct Handshake {
    table: Handshakes,
    bucket: IpAddr,
    number: u64,
    cut: CancellationToken,
}

impl Handshakes {
    /// A place for a new handshake. It is always given: somebody older may lose theirs.
    pub(super) fn begin(&self, address: IpAddr) -> Handshake {
        let (bucket, cut) = (bucket_of(address), CancellationToken::new());
        let mut table = self.table();
        table.next += 1;
        let number = table.next;
        table.by_address.entry(bucket).or_default().push_back((number, cut.clone()));
        table.total += 1;
        if table.by_address.get(&bucket).is_some_and(|line| line.len() > HANDSHAKES_PER_ADDRESS_MAX) {
            table.cut_oldest_of(bucket);
        }
        if table.total > HANDSHAKES_MAX {
            let most = table.by_address.iter().max_by_key(|(_, line)| line.len()).map(|(bucket, _)| *bucket);
            most.into_iter().for_each(|bucket| table.cut_oldest_of(bucket));
        }
        drop(table);
        Handshake { table: self.clone(), bucket, number, cut }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn cut_oldest_of(&mut self, bucket: IpAddr) {
        let Some((number, cut)) = self.by_address.get(&bucket).and_then(|line| line.front()).cloned() else {
            return;
        };
        cut.cancel();
        self.remove(bucket, number);
    }

    /// Whoever was cut is gone from the table already when it leaves.
    fn remove(&mut self, bucket: IpAddr, number: u64) {
        let Some(line) = self.by_address.get_mut(&bucket) else { return };
        let before = line.len();
        line.retain(|(one, _)| *one != number);
        self.total -= before - line.len();
        if line.is_empty() {
            self.by_address.remove(&bucket);
        }
    }
}

impl Handshake {
    /// Comes when somebody newer needs the place.
    pub(super) async fn cut(&self) {
        self.cut.cancelled().await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.table.table().remove(self.bucket, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from_bits(u32::try_from(number).unwrap()))
    }

    fn is_cut(handshake: &Handshake) -> bool {
        handshake.cut.is_cancelled()
    }

    #[test]
    fn silent_peers_of_one_address_are_cut_for_newer_ones_and_cost_no_other_address() {
        let handshakes = Handshakes::default();
        let other = handshakes.begin(address(2));
        let silent: Vec<_> = (0..HANDSHAKES_MAX * 4).map(|_| handshakes.begin(address(1))).collect();
        let honest = handshakes.begin(address(1));
        assert!(!is_cut(&honest), "a newcomer is kept out by those who say nothing");
        assert!(!is_cut(&other), "another address pays");
        assert_eq!(silent.iter().filter(|one| !is_cut(one)).count(), HANDSHAKES_PER_ADDRESS_MAX - 1);
        assert!(!is_cut(silent.last().unwrap()) && is_cut(&silent[0]), "not the oldest was cut");
    }

    #[test]
    fn over_all_whoever_has_most_pays_and_nothing_is_kept_of_those_that_left() {
        let handshakes = Handshakes::default();
        let few = handshakes.begin(address(0));
        let many: Vec<_> =
            (0..HANDSHAKES_MAX * 2).map(|number| handshakes.begin(address(1 + number % 5))).collect();
        assert!(!is_cut(&few));
        assert_eq!(handshakes.table().total, HANDSHAKES_MAX);
        assert_eq!(many.iter().filter(|one| !is_cut(one)).count(), HANDSHAKES_MAX - 1);
        drop((few, many));
        let table = handshakes.table();
        assert!(table.total == 0 && table.by_address.is_empty(), "something stayed behind");
    }

    #[test]
    fn hosts_of_one_ipv6_network_have_one_share() {
        let handshakes = Handshakes::default();
        let host = |number: u16| IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0, number));
        let all: Vec<_> = (0..1000).map(|number| handshakes.begin(host(number))).collect();
        assert_eq!(all.iter().filter(|one| !is_cut(one)).count(), HANDSHAKES_PER_ADDRESS_MAX);
    }
}
