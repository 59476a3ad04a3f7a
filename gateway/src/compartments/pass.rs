//! A place in a compartment, and the verdict that is due for it.
//! Who enters: a call that was let in; whoever watches over it from another task.
//! What leaves: one verdict for each call, by whoever speaks first; a place that is free again once the call is over.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::breaker::{Ticket, Verdict};
use super::compartment::Compartment;
use super::places::{Owner, Place};

/// A place in a compartment. Dropped without a verdict it says nothing of the service, unless a panic drops it.
pub struct Pass {
    word: Word,
    trial: bool,
    _place: Place,
}

/// The verdict that is due for a call. It outlives the call's task, which may be in no state to speak.
#[derive(Clone)]
pub struct Word {
    compartment: Arc<Compartment>,
    owner: Owner,
    ticket: Arc<Mutex<Option<Ticket>>>,
}

impl Pass {
    pub(super) fn new(
        compartment: Arc<Compartment>,
        owner: Owner,
        ticket: Option<Ticket>,
        place: Place,
    ) -> Self {
        let trial = ticket.as_ref().is_some_and(Ticket::is_trial);
        Self { word: Word { compartment, owner, ticket: Arc::new(Mutex::new(ticket)) }, trial, _place: place }
    }

    /// Says how the call went. Only the first word counts; the place is kept until the pass is dropped.
    pub fn verdict(&mut self, verdict: Verdict) {
        self.word.give(verdict);
    }

    /// For whoever watches over the call.
    pub fn word(&self) -> Word {
        self.word.clone()
    }

    /// The service is being tried out: this call is not to be repeated.
    pub fn is_trial(&self) -> bool {
        self.trial
    }

    /// A probe that takes longer than this has failed.
    pub fn probe_wait(&self) -> Option<Duration> {
        self.word.compartment.bounds().breaker.filter(|_| self.trial).map(|policy| policy.probe_wait)
    }
}

impl Word {
    /// Says how the call went, unless somebody has.
    pub fn give(&self, verdict: Verdict) {
        let ticket = self.ticket.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(ticket) = ticket {
            self.compartment.report(&self.owner, ticket, verdict);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.verdict(if std::thread::panicking() { Verdict::Failure } else { Verdict::Neutral });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::breaker::Policy;
    use super::super::compartment::{Bounds, Kind};
    use super::*;
    use crate::dice::Dice;

    #[tokio::test]
    async fn of_two_who_speak_for_one_call_the_first_is_heard() {
        let policy = Policy { failures_max: 2, ..Policy::default() };
        let bounds = Bounds { in_flight_max: 1, queue_max: 0, breaker: Some(policy) };
        let compartment = Compartment::new("test", Kind::InProcess, bounds, &Dice::system());
        let enter = || compartment.enter(&None, Instant::now());
        let mut pass = enter().await.unwrap();
        let word = pass.word();
        word.give(Verdict::Failure);
        pass.verdict(Verdict::Failure);
        drop(pass);
        word.give(Verdict::Failure);
        assert_eq!(compartment.seen().trips, 0, "one call is one failure");
        enter().await.unwrap().word().give(Verdict::Failure);
        assert_eq!(compartment.seen().trips, 1);
    }
}
