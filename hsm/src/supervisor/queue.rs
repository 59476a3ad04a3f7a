//! Calls in line for a worker, and calls it has in hand.
//! Enters: calls with deadlines and a way to answer.
//! Leaves: each call answered exactly once: by the worker, by its deadline, or by the worker's death.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::error::TokenError;
use crate::protocol::{Call, Reply};

pub(super) type Answer = Result<Reply, TokenError>;

/// A call that was not handed to a worker yet.
pub(super) struct Queued {
    pub(super) call: Call,
    pub(super) deadline: Instant,
    pub(super) reply: oneshot::Sender<Answer>,
    pub(super) _place: OwnedSemaphorePermit,
}

/// All calls that wait for an answer.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Queued>,
    in_hand: BTreeMap<u64, Queued>,
    last_number: u64,
}

impl Queue {
    pub(super) fn push(&mut self, call: Queued) {
        self.waiting.push_back(call);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.in_hand.is_empty()
    }

    pub(super) fn in_hand(&self) -> usize {
        self.in_hand.len()
    }

    /// A new worker counts anew, so that its board starts at zero.
    pub(super) fn begin_generation(&mut self) {
        self.last_number = 0;
    }

    /// Moves the next call in line into the worker's hands, and shows it under its number. Calls that expired in line, or whose caller
    /// hung up, are passed over.
    pub(super) fn hand_over(&mut self, now: Instant) -> Option<(u64, &Call)> {
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
        Some((number, &held.call))
    }

    /// The worker answered. An answer nobody waits for is dropped.
    pub(super) fn answer(&mut self, number: u64, answer: Answer) {
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

    /// True when the worker let a deadline pass: it hangs, or is too slow to be waited for.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.in_hand.values().any(|call| call.deadline <= now)
    }

    /// When to look again; far away when nothing waits.
    pub(super) fn next_deadline(&self) -> Instant {
        let deadlines = self.waiting.iter().chain(self.in_hand.values()).map(|call| call.deadline);
        deadlines.min().unwrap_or_else(|| Instant::now() + FAR_AWAY)
    }

    /// The worker is dead; `highest` is the last number it began. Later calls go back to the head of the line, in their order; those
    /// begun are answered by what they may have done.
    pub(super) fn worker_died(&mut self, highest: u64, retry_after: Duration) {
        for (number, call) in std::mem::take(&mut self.in_hand).into_iter().rev() {
            if number > highest {
                self.waiting.push_front(call);
            } else if call.call.has_effect() {
                let _ = call.reply.send(Err(TokenError::OutcomeUnknown));
            } else {
                // Without effect, but begun: the call itself may be what kills workers, so its caller decides whether to try again.
                let _ = call.reply.send(Err(TokenError::Gone { retry_after }));
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
