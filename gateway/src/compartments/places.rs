//! Places for calls, shared by workspace: what one takes beyond its share leaves enough for the others, and who waits is let in by turns.
//! Who enters: calls that are about to begin, each with whose it is.
//! What leaves: places, given back when dropped; or a refusal at once where places and queue are taken.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::ids::WorkspaceId;

/// Whose call it is: a workspace's, or nobody's in particular (operators, health).
pub type Owner = Option<WorkspaceId>;

/// The places of one compartment; cheap to clone.
#[derive(Clone)]
pub(super) struct Places {
    table: Arc<Mutex<Table>>,
}

/// One place; given back when dropped.
pub(super) struct Place {
    places: Places,
    owner: Owner,
}

struct Table {
    places: Share,
    queue: Share,
    by_owner: HashMap<Owner, Own>,
    /// Owners with somebody in the queue, in the order of their turns.
    turns: VecDeque<Owner>,
    next: u64,
}

/// A number of places, shared by a threshold that moves: an owner may have up to twice what stays free (Choudhury and Hahne,
/// "Dynamic queue length thresholds", 1998, with a factor of 2). One alone gets two thirds, and however many take what they
/// can, a newcomer finds something.
struct Share {
    max: usize,
    taken: usize,
}

#[derive(Default)]
struct Own {
    held: usize,
    queue: VecDeque<Waiter>,
}

struct Waiter {
    number: u64,
    call: oneshot::Sender<Place>,
}

/// One in the queue; leaving it, however that happens, makes room in it.
struct Waiting<'a> {
    places: &'a Places,
    owner: &'a Owner,
    number: u64,
}

impl Share {
    fn may_take(&self, own: usize) -> bool {
        own < 2 * (self.max - self.taken)
    }
}

impl Places {
    pub(super) fn new(in_flight_max: usize, queue_max: usize) -> Self {
        let table = Table {
            places: Share { max: in_flight_max, taken: 0 },
            queue: Share { max: queue_max, taken: 0 },
            by_owner: HashMap::new(),
            turns: VecDeque::new(),
            next: 0,
        };
        Self { table: Arc::new(Mutex::new(table)) }
    }

    /// A place, at once or when its turn comes before the deadline.
    pub(super) async fn take(&self, owner: &Owner, deadline: Instant) -> Option<Place> {
        let (number, called) = {
            let mut table = self.table();
            if table.take_now(owner) {
                return Some(self.place(owner));
            }
            table.line_up(owner)?
        };
        let waiting = Waiting { places: self, owner, number };
        let called = tokio::time::timeout_at(deadline.into(), called).await;
        drop(waiting);
        called.ok()?.ok()
    }

    /// Places taken, and calls that wait for one.
    pub(super) fn figures(&self) -> (usize, usize) {
        let table = self.table();
        (table.places.taken, table.queue.taken)
    }

    fn place(&self, owner: &Owner) -> Place {
        Place { places: self.clone(), owner: owner.clone() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Whoever lets somebody in when a place comes free has passed over nobody, so a newcomer that may take one overtakes nobody either.
    fn take_now(&mut self, owner: &Owner) -> bool {
        let held = self.by_owner.get(owner).map_or(0, |own| own.held);
        if !self.places.may_take(held) {
            return false;
        }
        self.places.taken += 1;
        self.by_owner.entry(owner.clone()).or_default().held += 1;
        true
    }

    fn line_up(&mut self, owner: &Owner) -> Option<(u64, oneshot::Receiver<Place>)> {
        let in_line = self.by_owner.get(owner).map_or(0, |own| own.queue.len());
        if !self.queue.may_take(in_line) {
            return None;
        }
        let (call, called) = oneshot::channel();
        self.next += 1;
        let number = self.next;
        self.queue.taken += 1;
        self.by_owner.entry(owner.clone()).or_default().queue.push_back(Waiter { number, call });
        if in_line == 0 {
            self.turns.push_back(owner.clone());
        }
        Some((number, called))
    }

    /// The next in the queue that may have a place now, owner by owner.
    fn next_turn(&mut self) -> Option<(Owner, Waiter)> {
        for _ in 0..self.turns.len() {
            let owner = self.turns.pop_front()?;
            if !self.take_now(&owner) {
                self.turns.push_back(owner);
                continue;
            }
            let own = self.by_owner.get_mut(&owner)?;
            let waiter = own.queue.pop_front()?;
            self.queue.taken -= 1;
            if !own.queue.is_empty() {
                self.turns.push_back(owner.clone());
            }
            return Some((owner, waiter));
        }
        None
    }

    fn leave_line(&mut self, owner: &Owner, number: u64) {
        let Some(own) = self.by_owner.get_mut(owner) else { return };
        let before = own.queue.len();
        own.queue.retain(|waiter| waiter.number != number);
        self.queue.taken -= before - own.queue.len();
        if own.queue.is_empty() {
            self.turns.retain(|turn| turn != owner);
            self.forget(owner);
        }
    }

    fn give_back(&mut self, owner: &Owner) {
        self.places.taken -= 1;
        if let Some(own) = self.by_owner.get_mut(owner) {
            own.held -= 1;
        }
        self.forget(owner);
    }

    fn forget(&mut self, owner: &Owner) {
        if self.by_owner.get(owner).is_some_and(|own| own.held == 0 && own.queue.is_empty()) {
            self.by_owner.remove(owner);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.table().give_back(&self.owner);
        loop {
            let next = self.places.table().next_turn();
            let Some((owner, waiter)) = next else { return };
            // One that has left this very moment gives its place back, which looks for the next by itself.
            if waiter.call.send(self.places.place(&owner)).is_err() {
                return;
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.places.table().leave_line(self.owner, self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::dice::Dice;

    fn somebody() -> Owner {
        Some(WorkspaceId::new(&Dice::system()).unwrap())
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(600)
    }

    /// As many places as there are at once.
    async fn all_of(places: &Places, owner: &Owner) -> Vec<Place> {
        let mut held = Vec::new();
        while let Some(place) = places.take(owner, Instant::now()).await {
            held.push(place);
        }
        held
    }

    /// Lines up, and returns once it stands in the queue.
    async fn line_up(places: &Places, owner: &Owner) -> tokio::task::JoinHandle<Option<Place>> {
        let before = places.figures().1;
        let (room, owner) = (places.clone(), owner.clone());
        let task = tokio::spawn(async move { room.take(&owner, far()).await });
        while places.figures().1 == before {
            tokio::task::yield_now().await;
        }
        task
    }

    #[tokio::test]
    async fn however_many_take_all_they_can_a_newcomer_finds_a_place() {
        let places = Places::new(4_608, 0);
        let mut held = Vec::new();
        for greedy in 0..6 {
            let taken = all_of(&places, &somebody()).await;
            assert!(greedy > 0 || taken.len() == 3_072, "one alone has two thirds, not {}", taken.len());
            held.extend(taken);
            drop(places.take(&somebody(), Instant::now()).await.expect("nothing is left for a newcomer"));
        }
        drop(held);
        assert_eq!(places.figures(), (0, 0));
        assert!(places.table().by_owner.is_empty());
    }

    #[tokio::test]
    async fn nobody_fills_the_queue_alone_and_turns_go_round() {
        let places = Places::new(4, 8);
        let (greedy, other) = (somebody(), somebody());
        let held = all_of(&places, &greedy).await;
        let rest = all_of(&places, &other).await;
        assert_eq!((held.len(), rest.len()), (3, 1));
        let mut long = Vec::new();
        for _ in 0..6 {
            // Of eight: six, for twice the two that stay free.
            long.push(line_up(&places, &greedy).await);
        }
        assert!(
            places.take(&greedy, far()).await.is_none(),
            "beyond its share of the queue it is refused at once"
        );
        let late = line_up(&places, &other).await;
        drop(rest);
        drop(late.await.unwrap().expect("the other's turn comes before the rest of a long line"));
        for waiter in long {
            waiter.abort();
            let _ = waiter.await;
        }
        drop(held);
        assert_eq!(places.figures(), (0, 0));
        assert!(places.table().by_owner.is_empty() && places.table().turns.is_empty());
    }

    #[tokio::test]
    async fn one_that_leaves_the_queue_as_its_turn_comes_holds_up_nobody() {
        let places = Places::new(1, 8);
        let owner = somebody();
        for _ in 0..100 {
            let held = places.take(&owner, far()).await.unwrap();
            let leaving = line_up(&places, &owner).await;
            let staying = line_up(&places, &somebody()).await;
            leaving.abort();
            drop(held);
            drop(staying.await.unwrap().unwrap());
            let _ = leaving.await;
            assert_eq!(places.figures(), (0, 0));
        }
    }
}
