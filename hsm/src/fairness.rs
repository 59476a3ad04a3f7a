//! Fairness between those who share a token: whoever has much to do, or slow things to do, waits for itself and for nobody else.
//!
//! The worker has one line, first come first served, and a few lanes behind it. Making an RSA key takes seconds of a lane, so forty
//! of them would stop everybody's signatures for as long as they take. Calls that are made in somebody's name therefore stand
//! here first: slow ones get all lanes but one, one at a time for each name, and all kinds of calls go round the names in turn.
//! A [`SharedToken`] hands out tokens in a name and nothing else, so no call of a workspace can pass by.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::ceremony::Ceremony;
use crate::error::TokenError;
use crate::probe::Probe;
use crate::protocol::Call;
use crate::token::Token;

/// Calls of one name that wait for their turn, of each class; more are refused at once.
const WAITING_MAX: usize = 256;
/// Quick calls in the worker's hands, for each of its lanes: enough to keep it busy, few enough that turns mean something.
const QUICK_PER_LANE: usize = 16;

/// A token that is shared: each call is made in the name of somebody.
#[derive(Clone, Debug)]
pub struct SharedToken {
    token: Token,
    turns: Arc<Turns>,
}

/// Whose calls a token makes, and where they wait for their turn.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    name: Arc<str>,
    turns: Arc<Turns>,
}

/// The right to one call, until it is answered.
#[derive(Debug)]
pub(crate) struct Ticket {
    share: Share,
    class: Class,
}

/// How long a call takes, roughly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Quick,
    Slow,
}

#[derive(Debug)]
struct Turns {
    quick: Mutex<Line>,
    slow: Mutex<Line>,
}

/// Who has how many calls under way, and who waits.
#[derive(Debug)]
struct Line {
    places: usize,
    places_each: usize,
    taken: usize,
    taken_by: HashMap<Arc<str>, usize>,
    waiting: HashMap<Arc<str>, VecDeque<oneshot::Sender<Ticket>>>,
    /// The names that have somebody waiting, in the order of their turns.
    order: VecDeque<Arc<str>>,
}

impl SharedToken {
    /// Shares a token whose worker has so many lanes.
    #[must_use]
    pub fn new(token: Token, lanes: usize) -> Self {
        let slow = lanes.saturating_sub(1).max(1);
        let quick = lanes.max(1) * QUICK_PER_LANE;
        let turns =
            Turns { quick: Mutex::new(Line::new(quick, quick)), slow: Mutex::new(Line::new(slow, 1)) };
        Self { token, turns: Arc::new(turns) }
    }

    /// What it is and can do, as of the last time it was opened.
    #[must_use]
    pub fn probe(&self) -> Arc<Probe> {
        self.token.probe()
    }

    /// The token, for calls in this name.
    #[must_use]
    pub fn of(&self, name: &str) -> Token {
        self.token.clone().in_the_name_of(Share { name: name.into(), turns: Arc::clone(&self.turns) })
    }
}

impl Share {
    /// Waits for the turn of a call, as long as its deadline allows.
    pub(crate) async fn turn(&self, call: &Call, deadline: Instant) -> Result<Ticket, TokenError> {
        self.turn_of(class_of(call), deadline).await
    }

    async fn turn_of(&self, class: Class, deadline: Instant) -> Result<Ticket, TokenError> {
        let asked = Instant::now();
        let called = {
            let mut line = self.turns.line(class);
            // Whoever waits could not be given a place when they came, nor at any return since.
            if line.has_place_for(&self.name) {
                line.take(&self.name);
                return Ok(Ticket { share: self.clone(), class });
            }
            line.wait(&self.name).ok_or(TokenError::Busy { waited: asked.elapsed() })?
        };
        match tokio::time::timeout_at(deadline.into(), called).await {
            Ok(Ok(ticket)) => Ok(ticket),
            _ => Err(TokenError::Busy { waited: asked.elapsed() }),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let turns = Arc::clone(&self.share.turns);
        let mut line = turns.line(self.class);
        line.give_back(&self.share.name);
        while let Some((name, waiter)) = line.next() {
            line.take(&name);
            let ticket = Self { share: Share { name, turns: Arc::clone(&turns) }, class: self.class };
            // Whoever left meanwhile gives it back by dropping it, which needs the line.
            let lost = waiter.send(ticket).err();
            drop(line);
            drop(lost);
            line = turns.line(self.class);
        }
    }
}

impl Turns {
    fn line(&self, class: Class) -> std::sync::MutexGuard<'_, Line> {
        match class {
            Class::Quick => &self.quick,
            Class::Slow => &self.slow,
        }
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    fn new(places: usize, places_each: usize) -> Self {
        Self {
            places,
            places_each,
            taken: 0,
            taken_by: HashMap::new(),
            waiting: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    fn has_place_for(&self, name: &str) -> bool {
        self.taken < self.places && self.taken_by.get(name).is_none_or(|taken| *taken < self.places_each)
    }

    fn take(&mut self, name: &Arc<str>) {
        self.taken += 1;
        *self.taken_by.entry(Arc::clone(name)).or_default() += 1;
    }

    fn give_back(&mut self, name: &Arc<str>) {
        self.taken = self.taken.saturating_sub(1);
        if let Some(taken) = self.taken_by.get_mut(name) {
            *taken -= 1;
            if *taken == 0 {
                self.taken_by.remove(name);
            }
        }
    }

    fn wait(&mut self, name: &Arc<str>) -> Option<oneshot::Receiver<Ticket>> {
        let waiting = self.waiting.entry(Arc::clone(name)).or_default();
        waiting.retain(|waiter| !waiter.is_closed());
        if waiting.len() >= WAITING_MAX {
            return None;
        }
        if waiting.is_empty() && !self.order.contains(name) {
            self.order.push_back(Arc::clone(name));
        }
        let (call, called) = oneshot::channel();
        waiting.push_back(call);
        Some(called)
    }

    /// The next whose turn it is and who may have a place; the name then goes to the end of the order.
    fn next(&mut self) -> Option<(Arc<str>, oneshot::Sender<Ticket>)> {
        for _ in 0..self.order.len() {
            let name = self.order.pop_front()?;
            if !self.has_place_for(&name) {
                self.order.push_back(name);
                continue;
            }
            let waiting = self.waiting.get_mut(&name)?;
            let waiter = loop {
                match waiting.pop_front() {
                    Some(waiter) if waiter.is_closed() => {}
                    found => break found,
                }
            };
            if waiting.is_empty() {
                self.waiting.remove(&name);
            } else {
                self.order.push_back(Arc::clone(&name));
            }
            if let Some(waiter) = waiter {
                return Some((name, waiter));
            }
        }
        None
    }
}

/// Key pairs take seconds to make; so does what is opened with one that is made for the purpose.
fn class_of(call: &Call) -> Class {
    let slow = match call {
        Call::Generate { .. } => true,
        Call::Ceremony(ceremony) => matches!(
            **ceremony,
            Ceremony::CreateImportKey { .. }
                | Ceremony::Import { .. }
                | Ceremony::GenerateRecoverable { .. }
                | Ceremony::Restore { .. }
        ),
        _ => false,
    };
    if slow { Class::Slow } else { Class::Quick }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::key::KeyId;
    use crate::scheme::KeyKind;

    fn shares(lanes: usize) -> impl Fn(&str) -> Share {
        let slow = lanes.saturating_sub(1).max(1);
        let turns = Arc::new(Turns {
            quick: Mutex::new(Line::new(lanes * QUICK_PER_LANE, lanes * QUICK_PER_LANE)),
            slow: Mutex::new(Line::new(slow, 1)),
        });
        move |name| Share { name: name.into(), turns: Arc::clone(&turns) }
    }

    fn far() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    fn now_or_never<T>(future: impl Future<Output = T>) -> Option<T> {
        let mut future = std::pin::pin!(future);
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match future.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(value) => Some(value),
            std::task::Poll::Pending => None,
        }
    }

    #[tokio::test]
    async fn slow_calls_leave_a_lane_and_of_one_name_there_is_one() {
        let of = shares(4);
        let first = of("acme").turn_of(Class::Slow, far()).await.expect("a place");
        let second = of("acme");
        let second = second.turn_of(Class::Slow, far());
        let mut second = std::pin::pin!(second);
        assert!(now_or_never(second.as_mut()).is_none(), "one slow call for each name");
        let others =
            [of("bank").turn_of(Class::Slow, far()).await, of("corp").turn_of(Class::Slow, far()).await];
        assert!(others.iter().all(Result::is_ok), "the other two lanes");
        assert!(
            now_or_never(of("dual").turn_of(Class::Slow, far())).is_none(),
            "and the last one stays free"
        );
        assert!(of("dual").turn_of(Class::Quick, far()).await.is_ok(), "for what is quick");
        drop(first);
        assert!(second.await.is_ok());
    }

    #[tokio::test]
    async fn names_take_turns_however_many_one_has_in_line() {
        let of = shares(2);
        let held = of("acme").turn_of(Class::Slow, far()).await.expect("a place");
        let mut waiting = Vec::new();
        let (done, mut order) = tokio::sync::mpsc::unbounded_channel();
        for name in ["acme", "acme", "acme", "bank"] {
            let (share, done) = (of(name), done.clone());
            waiting.push(tokio::spawn(async move {
                let ticket = share.turn_of(Class::Slow, far()).await.expect("a turn");
                done.send(share.name.to_string()).expect("somebody listens");
                drop(ticket);
            }));
            tokio::task::yield_now().await;
        }
        drop(held);
        for task in waiting {
            task.await.expect("it ends");
        }
        let mut names = Vec::new();
        while let Ok(name) = order.try_recv() {
            names.push(name);
        }
        assert_eq!(names, ["acme", "bank", "acme", "acme"]);
    }

    #[tokio::test]
    async fn who_leaves_the_line_loses_nobody_a_place() {
        let of = shares(2);
        let held = of("acme").turn_of(Class::Slow, far()).await.expect("a place");
        let soon = Instant::now() + Duration::from_millis(1);
        let left = of("bank").turn_of(Class::Slow, soon).await;
        assert!(matches!(left, Err(TokenError::Busy { .. })));
        drop(held);
        assert!(of("corp").turn_of(Class::Slow, far()).await.is_ok());
    }

    #[test]
    fn what_makes_a_pair_is_slow_and_a_signature_is_not() {
        let id = KeyId([1; 16]);
        let made = Call::Generate { id, kind: KeyKind::Rsa4096, label: String::new() };
        let recoverable = Ceremony::GenerateRecoverable { id, kind: KeyKind::P256, label: String::new() };
        assert_eq!(class_of(&made), Class::Slow);
        assert_eq!(class_of(&Call::Ceremony(Box::new(recoverable))), Class::Slow);
        assert_eq!(class_of(&Call::Find { id }), Class::Quick);
    }

    #[tokio::test]
    async fn of_one_name_only_so_many_wait() {
        let of = shares(2);
        let held = of("acme").turn_of(Class::Slow, far()).await.expect("a place");
        let calls: Vec<_> = (0..WAITING_MAX).map(|_| of("acme")).collect();
        let mut turns: Vec<_> =
            calls.iter().map(|share| Box::pin(share.turn_of(Class::Slow, far()))).collect();
        for turn in &mut turns {
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(turn.as_mut().poll(&mut cx).is_pending());
        }
        assert!(matches!(of("acme").turn_of(Class::Slow, far()).await, Err(TokenError::Busy { .. })));
        assert!(now_or_never(of("bank").turn_of(Class::Slow, far())).is_none(), "another name may wait");
        drop(held);
    }
}
