//! Calls in line for a worker, and calls it has in hand.
//! Enters: calls with deadlines and a way to answer.
//! Leaves: each call answered exactly once: by the worker, by its deadline, or by the worker's death.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::error::TokenError;
use crate::fairness::Ticket;
use crate::protocol::{Call, Reply};
use crate::serve::Board;

pub(super) type Answer = Result<Reply, TokenError>;

/// A call that was not handed to a worker yet.
pub(super) struct Queued {
    pub(super) call: Call,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Answer>,
    pub(super) _place: OwnedSemaphorePermit,
    /// The turn of whoever it is made for; given back when it is answered, whoever still waits for that.
    pub(super) _ticket: Option<Ticket>,
}

impl Queued {
    /// Answers a call that was begun and not seen to end. Without effect, its caller decides whether to try again: the call itself may be
    /// what kills workers.
    fn give_up(self, retry_after: Duration) {
        let unseen = if self.call.has_effect() {
            TokenError::OutcomeUnknown
        } else {
            TokenError::Gone { retry_after }
        };
        let _ = self.reply.send(Err(unseen));
    }
}

/// All calls that wait for an answer.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Queued>,
    in_hand: BTreeMap<u64, Queued>,
    /// Begun, past their deadline, answered already; the worker still has them.
    overdue: BTreeMap<u64, Instant>,
    /// Since when calls expire in the worker's hands while it answers nothing.
    silent_since: Option<Instant>,
    last_number: u64,
}

impl Queue {
    pub(super) fn push(&mut self, call: Queued) {
        self.waiting.push_back(call);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_hand() == 0
    }

    pub(super) fn in_hand(&self) -> usize {
        self.in_hand.len() + self.overdue.len()
    }

    /// A new worker counts anew, so that its board starts at zero.
    pub(super) fn begin_generation(&mut self) {
        self.last_number = 0;
    }

    /// Moves the next call in line into the worker's hands, and shows it under its number. Calls that expired in line, or whose caller
    /// hung up, are passed over.
    pub(super) fn hand_over(&mut self, now: Instant) -> Option<(u64, &Queued)> {
        let call = loop {
            let call = self.waiting.pop_front()?;
            if call.deadline <= now {
                let _ = call.reply.send(Err(TokenError::Expired));
            } else if !call.reply.is_closed() {
                break call;
            }
        };
        self.last_number += 1;
        let number = self.last_number;
        let held = self.in_hand.entry(number).or_insert(call);
        Some((number, held))
    }

    /// The worker answered. An answer nobody waits for is dropped.
    pub(super) fn answer(&mut self, number: u64, answer: Answer) {
        self.silent_since = None;
        self.overdue.remove(&number);
        if let Some(call) = self.in_hand.remove(&number) {
            let _ = call.reply.send(answer);
        }
    }

    /// Answers calls whose deadline passed in line.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.waiting.iter().all(|call| call.deadline > now) {
            return;
        }
        for call in std::mem::take(&mut self.waiting) {
            if call.deadline <= now {
                let _ = call.reply.send(Err(TokenError::Expired));
            } else {
                self.waiting.push_back(call);
            }
        }
    }

    /// Answers every call in the worker's hands whose deadline has passed, by whether it had begun. True when the worker is stuck: a call
    /// does not end though its deadline is past, or calls expire while it begins none and answers none. A worker that is only busy is
    /// neither: it refuses late calls itself when their turn comes.
    pub(super) fn is_stuck(&mut self, now: Instant, board: &Board, retry_after: Duration) -> bool {
        let late: Vec<u64> =
            self.in_hand.iter().filter(|(_, call)| call.deadline <= now).map(|(number, _)| *number).collect();
        // Read after the clock: what is not marked by now will not begin.
        let highest = if late.is_empty() { 0 } else { board.highest() };
        for number in late {
            let Some(call) = self.in_hand.remove(&number) else { continue };
            if number > highest {
                self.silent_since.get_or_insert(now);
                let _ = call.reply.send(Err(TokenError::Expired));
            } else {
                self.overdue.insert(number, now);
                call.give_up(retry_after);
            }
        }
        let hangs = self.overdue.values().any(|since| now.duration_since(*since) >= OVERSTAY_MAX);
        let silent = self.silent_since.is_some_and(|since| now.duration_since(since) >= OVERSTAY_MAX);
        hangs || silent && !self.is_at_work(board)
    }

    /// True when the worker has begun a call that may take longer still.
    fn is_at_work(&self, board: &Board) -> bool {
        self.in_hand.first_key_value().is_some_and(|(number, _)| *number <= board.highest())
    }

    /// When to look again; far away when nothing waits.
    pub(super) fn next_deadline(&self) -> Instant {
        let deadlines = self.waiting.iter().chain(self.in_hand.values()).map(|call| call.deadline);
        let suspects =
            self.overdue.values().copied().chain(self.silent_since).map(|since| since + OVERSTAY_MAX);
        let now = Instant::now();
        // A suspicion that is past its time and not confirmed is looked at again a little later.
        let suspects = suspects.map(|at| at.max(now + OVERSTAY_MAX / 4));
        deadlines.chain(suspects).min().unwrap_or(now + FAR_AWAY)
    }

    /// The worker is dead; `highest` is the last number it began. Later calls go back to the head of the line, in their order; those
    /// begun are answered by what they may have done.
    pub(super) fn worker_died(&mut self, highest: u64, retry_after: Duration) {
        self.overdue.clear();
        self.silent_since = None;
        for (number, call) in std::mem::take(&mut self.in_hand).into_iter().rev() {
            if number > highest {
                self.waiting.push_front(call);
            } else {
                call.give_up(retry_after);
            }
        }
    }

    /// Answers every call in line.
    pub(super) fn answer_all(&mut self, why: &TokenError) {
        for call in self.waiting.drain(..) {
            let _ = call.reply.send(Err(why.clone()));
        }
    }
}

/// A timer must be set to something.
const FAR_AWAY: Duration = Duration::from_secs(3600);

/// A call that stays this long beyond its deadline does not end by itself.
const OVERSTAY_MAX: Duration = Duration::from_millis(100);
