//! Admission to the token: fair between workspaces, fast for the urgent lane, and honest early about what cannot be done in time.
//! Who enters: requests that are about to use the token, each with its workspace, lane and deadline.
//! What leaves: slots, a bounded number at once; or a refusal with the time after which to come back.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::ids::WorkspaceId;
use crate::limits::{ADMISSION_IN_FLIGHT, ADMISSION_QUEUE_MAX, ADMISSION_WORKSPACE_QUEUE_MAX};

/// Turned away, before anything was written or signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many requests wait for the token; come back in {retry_after:?}")]
pub struct Shed {
    /// When there should be room.
    pub retry_after: Duration,
}

/// The waiting room in front of the token.
#[derive(Clone)]
pub struct Admission {
    room: Arc<Mutex<Room>>,
    slots_max: usize,
}

/// The right to use the token once; given back when dropped.
pub struct Slot {
    room: Arc<Mutex<Room>>,
    slots_max: usize,
}

struct Room {
    taken: usize,
    urgent: Lane,
    normal: Lane,
    urgent_in_a_row: u32,
    pace: Pace,
}

#[derive(Default)]
struct Lane {
    by_workspace: HashMap<WorkspaceId, VecDeque<Waiter>>,
    turns: VecDeque<WorkspaceId>,
    waiting: usize,
}

struct Waiter {
    deadline: Instant,
    call: oneshot::Sender<Result<Slot, Shed>>,
}

/// How fast slots come back while all of them are taken: a moving average of the time between two.
struct Pace {
    between: Duration,
    last: Option<Instant>,
}

/// After this many urgent ones in a row a normal one gets its turn, so that the lane cannot starve the rest.
const URGENT_IN_A_ROW_MAX: u32 = 8;
const PACE_WEIGHT: u32 = 16;
/// A first guess, until slots have come back.
const PACE_AT_START: Duration = Duration::from_millis(1);

impl Default for Admission {
    fn default() -> Self {
        Self::new(ADMISSION_IN_FLIGHT)
    }
}

impl Admission {
    /// A room with so many slots.
    pub fn new(slots_max: usize) -> Self {
        let pace = Pace { between: PACE_AT_START, last: None };
        let room =
            Room { taken: 0, urgent: Lane::default(), normal: Lane::default(), urgent_in_a_row: 0, pace };
        Self { room: Arc::new(Mutex::new(room)), slots_max }
    }

    /// Waits for a slot, no longer than the deadline allows.
    ///
    /// # Errors
    /// The queue is longer than the request's patience, or than its bound.
    pub async fn admit(
        &self,
        workspace: &WorkspaceId,
        urgent: bool,
        deadline: Instant,
    ) -> Result<Slot, Shed> {
        let called = {
            let mut room = lock(&self.room);
            if room.taken < self.slots_max && room.waiting() == 0 {
                room.taken += 1;
                if room.taken == self.slots_max {
                    room.pace.begin(Instant::now());
                }
                return Ok(self.slot());
            }
            room.enqueue(workspace, urgent, deadline, self.slots_max)?
        };
        match tokio::time::timeout_at(deadline.into(), called).await {
            Ok(Ok(answer)) => answer,
            _ => Err(lock(&self.room).shed()),
        }
    }

    /// Requests that wait now.
    pub fn waiting(&self) -> usize {
        lock(&self.room).waiting()
    }

    fn slot(&self) -> Slot {
        Slot { room: Arc::clone(&self.room), slots_max: self.slots_max }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut room = lock(&self.room);
        // With slots to spare, the time between two says how seldom somebody came, not how long the token takes.
        match room.taken == self.slots_max {
            true => room.pace.one_came_back(Instant::now()),
            false => room.pace.pause(),
        }
        room.taken -= 1;
        let mut refused = Vec::new();
        while room.taken < self.slots_max {
            let Some(waiter) = room.next_turn() else { break };
            // What cannot be done in the time that is left would keep the token from what can.
            if waiter.deadline <= Instant::now() + room.pace.call(self.slots_max) {
                refused.push(waiter);
            } else if !waiter.call.is_closed() {
                room.taken += 1;
                let slot = Self { room: Arc::clone(&self.room), slots_max: self.slots_max };
                // If the waiter leaves this very moment its slot comes back through `drop`, once we let go of the room.
                let lost = waiter.call.send(Ok(slot)).err();
                drop(room);
                drop(lost);
                room = lock(&self.room);
            }
        }
        let shed = room.shed();
        drop(room);
        for waiter in refused {
            // A waiter that has gone needs no answer.
            let _ = waiter.call.send(Err(shed));
        }
    }
}

fn lock(room: &Mutex<Room>) -> MutexGuard<'_, Room> {
    room.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Room {
    fn waiting(&self) -> usize {
        self.urgent.waiting + self.normal.waiting
    }

    fn shed(&self) -> Shed {
        let queue = u32::try_from(self.waiting()).unwrap_or(u32::MAX);
        Shed { retry_after: self.pace.between.saturating_mul(queue).max(Duration::from_millis(100)) }
    }

    fn enqueue(
        &mut self,
        workspace: &WorkspaceId,
        urgent: bool,
        deadline: Instant,
        slots_max: usize,
    ) -> Result<oneshot::Receiver<Result<Slot, Shed>>, Shed> {
        let ahead = self.ahead_of(workspace, urgent);
        let own = self.lane(urgent).by_workspace.get(workspace).map_or(0, VecDeque::len);
        let turn = self.pace.between.saturating_mul(u32::try_from(ahead).unwrap_or(u32::MAX));
        let expected = turn + self.pace.call(slots_max);
        let too_many = self.waiting() >= ADMISSION_QUEUE_MAX || own >= ADMISSION_WORKSPACE_QUEUE_MAX;
        if too_many || Instant::now() + expected > deadline {
            return Err(Shed { retry_after: expected.max(Duration::from_millis(100)) });
        }
        let (call, called) = oneshot::channel();
        self.lane(urgent).push(workspace, Waiter { deadline, call });
        Ok(called)
    }

    fn lane(&mut self, urgent: bool) -> &mut Lane {
        if urgent { &mut self.urgent } else { &mut self.normal }
    }

    /// How many turns come before a newcomer's: in its lane every workspace takes one for each of its own, and
    /// the urgent lane goes first.
    fn ahead_of(&self, workspace: &WorkspaceId, urgent: bool) -> usize {
        let lane = if urgent { &self.urgent } else { &self.normal };
        let own = lane.by_workspace.get(workspace).map_or(0, VecDeque::len);
        let in_lane: usize = lane.by_workspace.values().map(|queue| queue.len().min(own + 1)).sum();
        if urgent { in_lane } else { in_lane + self.urgent.waiting }
    }

    fn next_turn(&mut self) -> Option<Waiter> {
        let normal_is_due = self.urgent_in_a_row >= URGENT_IN_A_ROW_MAX && self.normal.waiting > 0;
        if !normal_is_due && let Some(waiter) = self.urgent.next() {
            self.urgent_in_a_row += 1;
            return Some(waiter);
        }
        self.urgent_in_a_row = 0;
        self.normal.next()
    }
}

impl Lane {
    fn push(&mut self, workspace: &WorkspaceId, waiter: Waiter) {
        let queue = self.by_workspace.entry(workspace.clone()).or_default();
        if queue.is_empty() {
            self.turns.push_back(workspace.clone());
        }
        queue.push_back(waiter);
        self.waiting += 1;
    }

    /// One from the workspace whose turn it is, which then goes to the end of the line.
    fn next(&mut self) -> Option<Waiter> {
        let workspace = self.turns.pop_front()?;
        let queue = self.by_workspace.get_mut(&workspace)?;
        let waiter = queue.pop_front()?;
        self.waiting -= 1;
        if queue.is_empty() {
            self.by_workspace.remove(&workspace);
        } else {
            self.turns.push_back(workspace);
        }
        Some(waiter)
    }
}

impl Pace {
    /// All slots are taken from now on.
    fn begin(&mut self, now: Instant) {
        self.last = Some(now);
    }

    /// How long one call takes while all slots are taken.
    fn call(&self, slots_max: usize) -> Duration {
        self.between.saturating_mul(u32::try_from(slots_max).unwrap_or(u32::MAX))
    }

    /// Not all are.
    fn pause(&mut self) {
        self.last = None;
    }

    fn one_came_back(&mut self, now: Instant) {
        if let Some(last) = self.last {
            let between = now.saturating_duration_since(last);
            self.between = (self.between * (PACE_WEIGHT - 1) + between) / PACE_WEIGHT;
        }
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;

    fn workspace() -> WorkspaceId {
        WorkspaceId::new(&Dice::system()).unwrap()
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    #[test]
    fn how_seldom_somebody_comes_is_not_how_long_the_token_takes() {
        let (admission, quiet) = (Admission::new(4), workspace());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            for _ in 0..100 {
                drop(admission.admit(&quiet, false, soon()).await.unwrap());
            }
        });
        assert_eq!(lock(&admission.room).pace.between, PACE_AT_START);
    }

    #[test]
    fn the_pace_is_that_of_slots_that_come_back_while_all_are_taken() {
        let (mut pace, start) = (Pace { between: PACE_AT_START, last: None }, Instant::now());
        pace.begin(start);
        for turn in 1..200 {
            pace.one_came_back(start + Duration::from_millis(10) * turn);
        }
        let millis = pace.between.as_millis();
        assert!((9..=10).contains(&millis), "{millis} ms");
        pace.pause();
        pace.one_came_back(start + Duration::from_secs(3_600));
        assert_eq!(pace.between.as_millis(), millis, "a pause counts as slowness");
    }

    /// Starts waiting, and returns once the place in the line is taken.
    async fn line_up(
        admission: &Admission,
        workspace: &WorkspaceId,
        urgent: bool,
    ) -> tokio::task::JoinHandle<Result<Slot, Shed>> {
        let before = admission.waiting();
        let (room, workspace) = (admission.clone(), workspace.clone());
        let task = tokio::spawn(async move { room.admit(&workspace, urgent, soon()).await });
        while admission.waiting() == before {
            tokio::task::yield_now().await;
        }
        task
    }

    #[tokio::test]
    async fn a_small_workspace_does_not_wait_behind_a_big_one() {
        let admission = Admission::new(1);
        let (big, small) = (workspace(), workspace());
        let held = admission.admit(&big, false, soon()).await.unwrap();
        let mut crowd = Vec::new();
        for _ in 0..10 {
            crowd.push(line_up(&admission, &big, false).await);
        }
        let newcomer = line_up(&admission, &small, false).await;
        drop(held);
        drop(crowd.remove(0).await.unwrap().unwrap());
        assert!(newcomer.await.unwrap().is_ok(), "second in turn, with nine still waiting");
        assert!(admission.waiting() >= 8);
    }

    #[tokio::test]
    async fn the_urgent_lane_goes_first_but_not_for_ever() {
        let admission = Admission::new(1);
        let one = workspace();
        let held = admission.admit(&one, false, soon()).await.unwrap();
        let normal = line_up(&admission, &one, false).await;
        let mut urgent = Vec::new();
        for _ in 0..URGENT_IN_A_ROW_MAX + 1 {
            urgent.push(line_up(&admission, &one, true).await);
        }
        drop(held);
        let last = urgent.pop().unwrap();
        for task in urgent {
            drop(task.await.unwrap().unwrap());
        }
        drop(normal.await.unwrap().unwrap());
        drop(last.await.unwrap().unwrap());
    }

    #[tokio::test]
    async fn what_cannot_be_done_in_time_is_turned_away_at_once() {
        let admission = Admission::new(1);
        let one = workspace();
        let _held = admission.admit(&one, false, soon()).await.unwrap();
        let waiting = line_up(&admission, &one, false).await;
        let shed = admission.admit(&one, false, Instant::now()).await.err().unwrap();
        assert!(shed.retry_after > Duration::ZERO);
        waiting.abort();
    }

    #[tokio::test]
    async fn a_waiter_that_leaves_costs_no_slot() {
        let admission = Admission::new(1);
        let one = workspace();
        let held = admission.admit(&one, false, soon()).await.unwrap();
        let leaver = line_up(&admission, &one, false).await;
        leaver.abort();
        let _ = leaver.await;
        drop(held);
        assert!(admission.admit(&one, false, soon()).await.is_ok());
    }
}
