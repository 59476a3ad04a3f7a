//! What a [`crate::Token`] holds: a place in the queue, and a view of the token's state.
//! Enters: calls with deadlines, from any task.
//! Leaves: their answers; at once, where there is no hope.

use std::sync::{Arc, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError, mpsc, oneshot, watch};

use super::nursery::{Root, Source, Workers};
use super::queue::Queued;
use super::{NotRaised, Order, Supervisor, TokenState, refused, retry_after};
use crate::config::{Limits, TokenConfig};
use crate::double::Double;
use crate::error::{StartRefused, TokenError};
use crate::fairness::Ticket;
use crate::key::{RootKey, RootPin};
use crate::probe::Probe;
use crate::protocol::{Call, Reply};

/// What a handle on a supervised token holds.
#[derive(Clone, Debug)]
pub(crate) struct Supervised {
    pub(super) orders: mpsc::UnboundedSender<Order>,
    pub(super) places: Arc<Semaphore>,
    pub(super) state: watch::Receiver<TokenState>,
    pub(super) probe: watch::Receiver<Arc<Probe>>,
    pub(super) limits: Arc<Limits>,
    pub(super) workers: Workers,
    pub(super) root: Root,
}

impl Supervised {
    pub(crate) async fn start(config: TokenConfig, root: Option<RootPin>) -> Result<Self, StartRefused> {
        let limits = config.limits().clone();
        let mut supervisor = Supervisor::prepare(Source::Process(Box::new(config), Box::new(root)), limits)?;
        let (line, life) = match supervisor.raise().await {
            Ok(raised) => raised,
            Err(NotRaised::Refused(why)) => return Err(why),
            Err(NotRaised::Failed(why)) => return Err(StartRefused::Device(why)),
        };
        let supervised = supervisor.hand_out();
        tokio::spawn(supervisor.run(Some((line, life))));
        Ok(supervised)
    }

    /// Without waiting for the token: it is away until it comes.
    pub(crate) fn begin(config: TokenConfig, root: Option<RootPin>) -> Self {
        let limits = config.limits().clone();
        Self::supervise(Source::Process(Box::new(config), Box::new(root)), limits)
    }

    pub(crate) fn double(double: Double) -> Self {
        let limits = double.limits();
        Self::supervise(Source::Double(double), limits)
    }

    fn supervise(source: Source, limits: Limits) -> Self {
        match Supervisor::prepare(source, limits.clone()) {
            Ok(mut supervisor) => {
                let supervised = supervisor.hand_out();
                tokio::spawn(supervisor.run(None));
                supervised
            }
            Err(why) => Self::refusing(why, limits),
        }
    }

    /// A token that refuses everything, for want of a thread to keep it on.
    fn refusing(why: StartRefused, limits: Limits) -> Self {
        Self {
            orders: mpsc::unbounded_channel().0,
            places: places(&limits),
            state: watch::channel(TokenState::Refused { why }).1,
            probe: watch::channel(Arc::default()).1,
            limits: Arc::new(limits),
            workers: Workers::default(),
            root: Root::default(),
        }
    }

    pub(crate) fn state(&self) -> TokenState {
        self.state.borrow().clone()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<TokenState> {
        self.state.clone()
    }

    pub(crate) fn probe(&self) -> Arc<Probe> {
        self.probe.borrow().clone()
    }

    pub(crate) fn workers(&self) -> Workers {
        self.workers.clone()
    }

    /// Every worker from now on is told of this root key.
    pub(crate) fn expect_root(&self, root: Option<RootPin>) {
        *self.root.lock().unwrap_or_else(PoisonError::into_inner) = root;
    }

    /// Workers that were told of a root are told of its successor.
    pub(crate) fn succeed_root(&self, root: &RootKey) {
        let mut known = self.root.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_some() {
            *known = Some(root.pin());
        }
    }

    pub(crate) async fn close(self) {
        let (done, closed) = oneshot::channel();
        if self.orders.send(Order::Close(done)).is_ok() {
            let _ = closed.await;
        }
    }

    pub(crate) async fn ask(
        &self,
        call: Call,
        deadline: Instant,
        ticket: Option<Ticket>,
    ) -> Result<Reply, TokenError> {
        let asked = Instant::now();
        self.expect_token(asked)?;
        if deadline <= asked {
            return Err(TokenError::Expired);
        }
        let place = self.stand_in_line(asked, deadline).await?;
        let (reply, answer) = oneshot::channel();
        let queued = Queued { call, deadline, reply, _place: place, _ticket: ticket };
        if self.orders.send(Order::Call(Box::new(queued))).is_err() {
            return Err(self.gone());
        }
        answer.await.unwrap_or(Err(TokenError::OutcomeUnknown))
    }

    async fn stand_in_line(
        &self,
        asked: Instant,
        deadline: Instant,
    ) -> Result<OwnedSemaphorePermit, TokenError> {
        match self.places.clone().try_acquire_owned() {
            Ok(place) => return Ok(place),
            Err(TryAcquireError::Closed) => return Err(self.gone()),
            Err(TryAcquireError::NoPermits) => {}
        }
        match tokio::time::timeout_at(deadline.into(), self.places.clone().acquire_owned()).await {
            Ok(place) => place.map_err(|_| self.gone()),
            Err(_) => Err(TokenError::Busy { waited: asked.elapsed() }),
        }
    }

    /// Refuses at once what has no hope; a token only just lost is given the time in which most come back.
    fn expect_token(&self, now: Instant) -> Result<(), TokenError> {
        match &*self.state.borrow() {
            TokenState::Ready { .. } => Ok(()),
            TokenState::Down { since, .. } if now.duration_since(*since) < self.limits.patience() => Ok(()),
            TokenState::Down { .. } => Err(self.gone()),
            TokenState::Refused { why } => Err(refused(why)),
        }
    }

    fn gone(&self) -> TokenError {
        TokenError::Gone { retry_after: retry_after(&self.limits) }
    }
}

/// As many places as the queue has; none at all would mean a token that cannot be asked.
pub(super) fn places(limits: &Limits) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(limits.queue_max.clamp(1, Semaphore::MAX_PERMITS)))
}
