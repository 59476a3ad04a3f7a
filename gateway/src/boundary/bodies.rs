//! Bytes of requests' bodies that are held at once: shared by workspace, taken before a body is read and kept until its request is over.
//! Who enters: requests that bring a body, with whose they are and how long it says to be.
//! What leaves: the right to hold so many bytes; or a refusal at once, with nothing done.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::compartments::Owner;

/// All bodies of one listener; cheap to clone.
#[derive(Clone)]
pub(super) struct Bodies(Arc<Mutex<Table>>);

struct Table {
    bytes_max: usize,
    taken: usize,
    by_owner: HashMap<Owner, usize>,
}

/// The right to hold a body; given back when dropped.
pub(super) struct Room {
    bodies: Bodies,
    owner: Owner,
    bytes: usize,
}

impl Bodies {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self(Arc::new(Mutex::new(Table { bytes_max, taken: 0, by_owner: HashMap::new() })))
    }

    /// Room for nothing yet.
    pub(super) fn room(&self, owner: &Owner) -> Room {
        Room { bodies: self.clone(), owner: owner.clone(), bytes: 0 }
    }

    /// Bytes that are taken now.
    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        self.table().taken
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    /// Makes it large enough for so many bytes; false if there is no room. As with places, an owner may hold up to twice what
    /// stays free, so a newcomer always finds some.
    pub(super) fn grow_to(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return true;
        }
        let mut table = self.bodies.table();
        let own = table.by_owner.get(&self.owner).copied().unwrap_or(0) + more;
        let Some(left) = table.bytes_max.checked_sub(table.taken + more) else { return false };
        if own > 2 * left {
            return false;
        }
        table.taken += more;
        table.by_owner.insert(self.owner.clone(), own);
        drop(table);
        self.bytes = bytes;
        true
    }

    /// Gives back what is over so many bytes.
    pub(super) fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        let mut table = self.bodies.table();
        table.taken -= less;
        if let Some(own) = table.by_owner.get_mut(&self.owner) {
            *own -= less;
            if *own == 0 {
                table.by_owner.remove(&self.owner);
            }
        }
        drop(table);
        self.bytes -= less;
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;
    use crate::ids::WorkspaceId;
    use crate::limits::{BODIES_BYTES_MAX, BODY_BYTES_MAX};

    fn somebody() -> Owner {
        Some(WorkspaceId::new(&Dice::system()).unwrap())
    }

    #[test]
    fn whatever_one_holds_another_finds_room_for_a_whole_body() {
        let bodies = Bodies::new(BODIES_BYTES_MAX);
        let mut held = Vec::new();
        for _ in 0..2 {
            let greedy = somebody();
            loop {
                let mut room = bodies.room(&greedy);
                if !room.grow_to(BODY_BYTES_MAX) {
                    break;
                }
                held.push(room);
            }
            assert!(bodies.room(&somebody()).grow_to(BODY_BYTES_MAX));
        }
        assert!(bodies.taken() <= BODIES_BYTES_MAX);
        drop(held);
        assert!(bodies.taken() == 0 && bodies.table().by_owner.is_empty(), "something stayed behind");
    }

    #[test]
    fn a_body_that_grows_is_counted_once() {
        let bodies = Bodies::new(BODIES_BYTES_MAX);
        let mut room = bodies.room(&None);
        assert!(room.grow_to(1_000) && room.grow_to(500) && room.grow_to(2_000));
        assert_eq!(bodies.taken(), 2_000);
        room.shrink_to(3_000);
        room.shrink_to(1_500);
        assert_eq!(bodies.taken(), 1_500);
        assert_eq!(bodies.table().by_owner[&None], 1_500);
    }
}
