//! Keeps one worker alive and carries calls to it: the only place that starts, watches and kills workers.
//! Enters: calls with deadlines, from any task, as many as the queue holds.
//! Leaves: their results, the token's state, and its probe.

mod handle;
mod nursery;
mod pump;
mod queue;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use crate::config::Limits;
use crate::error::{Refusal, StartRefused, TokenError};
use crate::probe::Probe;
use crate::protocol::Greeting;
pub(crate) use handle::Supervised;
pub use nursery::Workers;
use nursery::{Life, Nursery, Source};
use pump::{Broken, Line};
use queue::{Queue, Queued};

/// How a token is at this moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// Answers. Handles and sessions live no longer than one generation.
    Ready {
        /// Which worker since the start, from 1.
        generation: u64,
    },
    /// Does not answer; another worker is on its way.
    Down {
        /// Since when.
        since: Instant,
        /// In words.
        why: String,
    },
    /// A person has to change something; nothing is tried any more.
    Refused {
        /// What, and how.
        why: StartRefused,
    },
}

/// What handles tell the supervisor. The line is bounded by `places`, which each call holds until it is answered.
enum Order {
    Call(Box<Queued>),
    Close(oneshot::Sender<()>),
}

/// When a caller should come back: after the next try to raise a worker, in whole seconds for `Retry-After`.
fn retry_after(limits: &Limits) -> Duration {
    Duration::from_secs(limits.restart_pause_ms_max.div_ceil(1000).max(1))
}

fn refused(why: &StartRefused) -> TokenError {
    TokenError::Refused(match why {
        StartRefused::PinWrong { .. } => Refusal::PinWrong,
        StartRefused::PinLocked => Refusal::PinLocked,
        other => Refusal::Other(other.to_string()),
    })
}

enum NotRaised {
    Refused(StartRefused),
    Failed(String),
}

struct Supervisor {
    nursery: Nursery,
    limits: Arc<Limits>,
    queue: Queue,
    orders: mpsc::UnboundedReceiver<Order>,
    handles: Option<mpsc::UnboundedSender<Order>>,
    state: watch::Sender<TokenState>,
    probe: watch::Sender<Arc<Probe>>,
    generation: u64,
    closing: Option<oneshot::Sender<()>>,
}

impl Supervisor {
    fn prepare(source: Source, limits: Limits) -> Result<Self, StartRefused> {
        let limits = Arc::new(limits);
        let (handles, orders) = mpsc::unbounded_channel();
        let opening = TokenState::Down { since: Instant::now(), why: OPENING.to_owned() };
        Ok(Self {
            nursery: Nursery::open(source)?,
            queue: Queue::default(),
            orders,
            handles: Some(handles),
            state: watch::channel(opening).0,
            probe: watch::channel(Arc::default()).0,
            generation: 0,
            closing: None,
            limits,
        })
    }

    /// The one handle, from which all others are cloned: when the last is dropped, the line closes and the worker is let go.
    fn hand_out(&mut self) -> Supervised {
        Supervised {
            orders: self.handles.take().unwrap_or_else(|| mpsc::unbounded_channel().0),
            places: handle::places(&self.limits),
            state: self.state.subscribe(),
            probe: self.probe.subscribe(),
            limits: self.limits.clone(),
            workers: self.nursery.workers(),
            root: self.nursery.root(),
        }
    }

    async fn run(mut self, mut raised: Option<(Line, Life)>) {
        let mut failures = 0;
        loop {
            let (line, life) = match raised.take() {
                Some(alive) => alive,
                None => match self.try_again(&mut failures).await {
                    Some(alive) => alive,
                    None => break,
                },
            };
            let since = Instant::now();
            let broken = self.pump(line, life).await;
            if self.orders_ended(&broken) {
                break;
            }
            self.mourn(&broken);
            // A worker that lived a while died of something new: start over with short pauses.
            failures = if since.elapsed() > STABLE { 1 } else { failures + 1 };
        }
        self.queue.answer_all(&TokenError::Gone { retry_after: retry_after(&self.limits) });
        if let Some(done) = self.closing.take() {
            let _ = done.send(());
        }
    }

    /// Pauses and raises until there is a worker; `None` when there is no one left to serve or no hope.
    async fn try_again(&mut self, failures: &mut u32) -> Option<(Line, Life)> {
        loop {
            let pause = if *failures == 0 { Duration::ZERO } else { self.limits.pause(*failures) };
            self.tend(tokio::time::sleep(pause)).await?;
            let raising = raise(self.nursery.clone(), self.limits.clone());
            match self.tend(raising).await? {
                Ok((line, life, probe)) => {
                    self.welcome(probe);
                    return Some((line, life));
                }
                Err(NotRaised::Refused(why)) if !why.may_heal() => {
                    tracing::error!(%why, "the token is refused until a person changes something");
                    self.state.send_replace(TokenState::Refused { why: why.clone() });
                    self.refuse_all(&refused(&why)).await;
                    return None;
                }
                Err(NotRaised::Refused(why)) => self.note(why.to_string()),
                Err(NotRaised::Failed(why)) => self.note(why),
            }
            *failures += 1;
        }
    }

    async fn raise(&mut self) -> Result<(Line, Life), NotRaised> {
        let (line, life, probe) = raise(self.nursery.clone(), self.limits.clone()).await?;
        self.welcome(probe);
        Ok((line, life))
    }

    fn welcome(&mut self, probe: Probe) {
        self.generation += 1;
        tracing::info!(serial = probe.serial, generation = self.generation, "the token is ready");
        if let Some(litter) = probe.litter() {
            tracing::warn!(serial = probe.serial, litter);
        }
        self.probe.send_replace(Arc::new(probe));
        self.state.send_replace(TokenState::Ready { generation: self.generation });
    }

    fn mourn(&self, broken: &Broken) {
        tracing::warn!(why = %broken, generation = self.generation, "the token's worker is lost");
        self.state.send_replace(TokenState::Down { since: Instant::now(), why: broken.to_string() });
    }

    /// The token is still away; `since` keeps telling since when.
    fn note(&self, now: String) {
        tracing::warn!(why = now, "the token did not come back");
        self.state.send_if_modified(|state| match state {
            TokenState::Down { why, .. } if *why != now => {
                *why = now;
                true
            }
            _ => false,
        });
    }

    /// Waits for `work` while calls keep coming in, expire, or run out of patience. `None` when the token is to close.
    async fn tend<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = std::pin::pin!(work);
        loop {
            self.queue.expire(Instant::now());
            if self.is_past_patience() {
                self.queue.answer_all(&TokenError::Gone { retry_after: retry_after(&self.limits) });
            }
            let until = self.queue.next_deadline().min(Instant::now() + TEND_EVERY);
            tokio::select! {
                outcome = &mut work => return Some(outcome),
                order = self.orders.recv() => self.take(order)?,
                () = tokio::time::sleep_until(until.into()) => {}
            }
        }
    }

    /// Puts a call in line. `None` when the token is to close.
    fn take(&mut self, order: Option<Order>) -> Option<()> {
        match order? {
            Order::Call(call) => {
                self.queue.push(*call);
                Some(())
            }
            Order::Close(done) => {
                self.closing = Some(done);
                None
            }
        }
    }

    fn is_past_patience(&self) -> bool {
        match &*self.state.borrow() {
            TokenState::Down { since, .. } => since.elapsed() > self.limits.patience(),
            _ => false,
        }
    }

    async fn refuse_all(&mut self, why: &TokenError) {
        loop {
            self.queue.answer_all(why);
            let order = self.orders.recv().await;
            if self.take(order).is_none() {
                return;
            }
        }
    }

    fn orders_ended(&self, broken: &Broken) -> bool {
        matches!(broken, Broken::Closed) || self.closing.is_some()
    }
}

/// Starts one worker and waits for its greeting. A worker that does not greet in time is killed.
async fn raise(nursery: Nursery, limits: Arc<Limits>) -> Result<(Line, Life, Probe), NotRaised> {
    let (socket, life) = nursery.bear().await.map_err(NotRaised::Refused)?;
    let greeted = async {
        let mut line = Line::new(socket).map_err(|fault| NotRaised::Failed(fault.to_string()))?;
        let greeting = tokio::time::timeout(limits.start_max(), line.greet(nursery.hello())).await;
        match greeting {
            Ok(Ok(Greeting::Ready(probe))) => Ok((line, *probe)),
            Ok(Ok(Greeting::Refused(why))) => Err(NotRaised::Refused(why)),
            Ok(Err(broken)) => Err(NotRaised::Failed(broken.to_string())),
            Err(_) => Err(NotRaised::Failed(format!("it was not ready after {:?}", limits.start_max()))),
        }
    };
    match greeted.await {
        Ok((line, probe)) => Ok((line, life, probe)),
        Err(not_raised) => {
            nursery.bury(life).await;
            Err(not_raised)
        }
    }
}

/// Why a token is down that has not been opened yet, nor failed to.
pub const OPENING: &str = "it is being opened";

/// How often calls in line are looked at while there is no worker.
const TEND_EVERY: Duration = Duration::from_millis(50);

/// A worker that lived this long is not part of a series of failures.
const STABLE: Duration = Duration::from_secs(30);
