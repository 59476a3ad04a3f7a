//! The compartment of one service: places for calls, a queue before them, and a breaker that may close the door.
//! Who enters: calls to the service, before they begin.
//! What leaves: a pass that holds a place until the call is over; or a refusal at once, with the time to come back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::breaker::{Policy, Standing, Ticket, Verdict};
use super::breakers::Breakers;
use super::pass::Pass;
use super::places::{Owner, Place, Places};
use crate::dice::Dice;
use crate::limits::WAITERS_MAX;

/// How many calls a compartment holds, and when it isolates itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Calls under way at once.
    pub in_flight_max: usize,
    /// Calls that may wait for a place.
    pub queue_max: usize,
    /// When it isolates itself; one without a policy never does, as befits health and status.
    pub breaker: Option<Policy>,
}

/// Where the service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// In this process.
    InProcess,
    /// Behind the network.
    Upstream,
}

/// Why a call did not begin. Nothing was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Kept {
    /// The service fails too often; it is left alone for a while.
    #[error("the service is isolated")]
    Isolated {
        /// When to come back.
        retry_after: Duration,
    },
    /// The service has its fill, and so has its queue; or no place came free in time.
    #[error("the service has its fill")]
    Full,
}

/// The compartment of one service.
pub struct Compartment {
    name: String,
    kind: Kind,
    bounds: Bounds,
    breakers: Option<Mutex<Breakers>>,
    places: Places,
    /// Calls that wait for people or events hold none of the places.
    waiters: Places,
    refused: AtomicU64,
    began: Instant,
}

/// How a compartment stands, for people and dashboards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The service.
    pub name: String,
    /// Where it is.
    pub kind: Kind,
    /// Its breaker for those who called it lately, the mildest there is; none if it cannot be isolated.
    pub standing: Option<Standing>,
    /// Workspaces for which it is isolated or being tried out.
    pub isolated: usize,
    /// While open: how much longer.
    pub pause: Option<Duration>,
    /// Calls under way.
    pub in_flight: usize,
    /// Calls waiting for a place.
    pub waiting: usize,
    /// How often it was isolated since the start.
    pub trips: u64,
    /// Calls that were refused since the start.
    pub refused: u64,
}

impl Compartment {
    /// An empty compartment.
    pub fn new(name: impl Into<String>, kind: Kind, bounds: Bounds, dice: &Dice) -> Arc<Self> {
        let seed = || u64::from_le_bytes(dice.throw());
        Arc::new(Self {
            name: name.into(),
            kind,
            bounds,
            breakers: bounds.breaker.map(|policy| Mutex::new(Breakers::new(policy, seed()))),
            places: Places::new(bounds.in_flight_max, bounds.queue_max),
            waiters: Places::new(WAITERS_MAX, 0),
            refused: AtomicU64::new(0),
            began: Instant::now(),
        })
    }

    /// The service.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where the service is.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its bounds.
    pub fn bounds(&self) -> Bounds {
        self.bounds
    }

    /// Lets a call in, at once or when a place comes free before `deadline`.
    ///
    /// # Errors
    /// The service is isolated for its owner, or full.
    pub async fn enter(self: &Arc<Self>, owner: &Owner, deadline: Instant) -> Result<Pass, Kept> {
        let entered = self.try_enter(&self.places, owner, deadline).await;
        self.counted(entered)
    }

    /// Lets a call in that waits for people or events: it holds none of the places for calls that are at work.
    ///
    /// # Errors
    /// The service is isolated for its owner, or too many wait.
    pub async fn enter_to_wait(self: &Arc<Self>, owner: &Owner) -> Result<Pass, Kept> {
        let entered = self.try_enter(&self.waiters, owner, Instant::now()).await;
        self.counted(entered)
    }

    fn counted(&self, entered: Result<Pass, Kept>) -> Result<Pass, Kept> {
        if entered.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        entered
    }

    async fn try_enter(
        self: &Arc<Self>,
        places: &Places,
        owner: &Owner,
        deadline: Instant,
    ) -> Result<Pass, Kept> {
        // Asked twice: here so that nobody queues before a closed door, and below because the door may have closed
        // meanwhile. The ticket is taken last, for a probe must not wait in a queue.
        if let Some(retry_after) = self.breakers().and_then(|breakers| breakers.pause(owner, self.now())) {
            return Err(Kept::Isolated { retry_after });
        }
        let place: Place = places.take(owner, deadline).await.ok_or(Kept::Full)?;
        let ticket = match self.breakers() {
            Some(mut breakers) => {
                let asked = breakers.ask(owner, self.now());
                Some(asked.map_err(|retry_after| Kept::Isolated { retry_after })?)
            }
            None => None,
        };
        Ok(Pass::new(Arc::clone(self), owner.clone(), ticket, place))
    }

    /// How it stands.
    pub fn seen(&self) -> Seen {
        let stands = self.breakers().map(|breakers| breakers.stands(self.now()));
        let (in_flight, waiting) = self.places.figures();
        let (waiting_for_others, _) = self.waiters.figures();
        Seen {
            name: self.name.clone(),
            kind: self.kind,
            standing: stands.map(|stands| stands.standing),
            isolated: stands.map_or(0, |stands| stands.isolated),
            pause: stands.and_then(|stands| stands.pause),
            in_flight: in_flight + waiting_for_others,
            waiting,
            trips: stands.map_or(0, |stands| stands.trips),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    fn breakers(&self) -> Option<MutexGuard<'_, Breakers>> {
        self.breakers.as_ref().map(|breakers| breakers.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn report(&self, owner: &Owner, ticket: Ticket, verdict: Verdict) {
        let Some(mut breakers) = self.breakers() else { return };
        let now = self.now();
        if breakers.report(owner, now, ticket, verdict) {
            let (pause, workspace) = (breakers.pause(owner, now), owner.as_ref().map(ToString::to_string));
            tracing::warn!(
                service = self.name,
                ?pause,
                workspace,
                "the service is isolated for this workspace"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds(in_flight_max: usize, queue_max: usize) -> Bounds {
        Bounds { in_flight_max, queue_max, breaker: Some(Policy::default()) }
    }

    fn compartment(bounds: Bounds) -> Arc<Compartment> {
        Compartment::new("test", Kind::InProcess, bounds, &Dice::system())
    }

    /// Nobody's in particular.
    const OWNER: &Owner = &None;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    async fn fail(compartment: &Arc<Compartment>, times: u32) {
        for _ in 0..times {
            compartment.enter(OWNER, soon()).await.unwrap().verdict(Verdict::Failure);
        }
    }

    #[tokio::test]
    async fn over_the_places_and_the_queue_a_call_is_refused_at_once() {
        let compartment = compartment(bounds(1, 1));
        let held = compartment.enter(OWNER, soon()).await.unwrap();
        let far = Instant::now() + Duration::from_secs(60);
        let queued = tokio::spawn({
            let compartment = Arc::clone(&compartment);
            async move { compartment.enter(OWNER, far).await.map(drop) }
        });
        while compartment.seen().waiting == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(compartment.enter(OWNER, far).await.map(drop), Err(Kept::Full));
        drop(held);
        assert_eq!(queued.await.unwrap(), Ok(()), "the one in the queue gets the place");
        assert_eq!((compartment.seen().waiting, compartment.seen().in_flight), (0, 0));
    }

    #[tokio::test]
    async fn a_call_whose_time_is_over_leaves_the_queue() {
        let compartment = compartment(bounds(1, 1));
        let held = compartment.enter(OWNER, soon()).await.unwrap();
        assert_eq!(compartment.enter(OWNER, soon()).await.map(drop), Err(Kept::Full));
        assert_eq!(compartment.seen().waiting, 0);
        drop(held);
        assert!(compartment.enter(OWNER, soon()).await.is_ok());
    }

    #[tokio::test]
    async fn a_failing_service_is_isolated_and_says_for_how_long() {
        let compartment = compartment(bounds(8, 8));
        fail(&compartment, 5).await;
        let Err(Kept::Isolated { retry_after }) = compartment.enter(OWNER, soon()).await.map(drop) else {
            panic!("let in");
        };
        assert!((Duration::from_millis(700)..=Duration::from_millis(1200)).contains(&retry_after));
        assert_eq!((compartment.seen().trips, compartment.seen().refused), (1, 1));
    }

    #[tokio::test]
    async fn one_that_has_no_breaker_is_never_isolated() {
        let compartment = compartment(Bounds { breaker: None, ..bounds(8, 8) });
        fail(&compartment, 100).await;
        assert!(compartment.enter(OWNER, soon()).await.is_ok());
    }

    #[test]
    fn of_many_threads_exactly_one_gets_the_probe() {
        for _ in 0..50 {
            let policy = Policy { open_min: Duration::ZERO, ..Policy::default() };
            let compartment = compartment(Bounds { breaker: Some(policy), ..bounds(64, 64) });
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(fail(&compartment, 5));
            let start = std::sync::Barrier::new(8);
            let passes: Vec<_> = std::thread::scope(|scope| {
                let ask = || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    start.wait();
                    runtime.block_on(compartment.enter(OWNER, Instant::now() + Duration::from_secs(5))).ok()
                };
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(ask)).collect();
                threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(passes.len(), 1, "each pass is a probe, and there is one");
            assert!(passes[0].is_trial());
        }
    }

    #[tokio::test]
    async fn a_probe_whose_client_went_away_makes_room_for_the_next() {
        let policy = Policy { open_min: Duration::ZERO, ..Policy::default() };
        let compartment = compartment(Bounds { breaker: Some(policy), ..bounds(8, 8) });
        fail(&compartment, 5).await;
        let probe = compartment.enter(OWNER, soon()).await.unwrap();
        assert!(compartment.enter(OWNER, soon()).await.is_err());
        drop(probe);
        assert!(compartment.enter(OWNER, soon()).await.unwrap().is_trial());
    }

    #[tokio::test]
    async fn one_that_waits_for_others_holds_no_place() {
        let compartment = compartment(bounds(1, 0));
        let waiting = compartment.enter_to_wait(OWNER).await.unwrap();
        assert_eq!(compartment.seen().in_flight, 1);
        drop(compartment.enter(OWNER, soon()).await.unwrap());
        drop(waiting);
        assert_eq!(compartment.seen().in_flight, 0);
    }

    #[tokio::test]
    async fn one_workspace_isolates_the_service_for_no_other() {
        let compartment = compartment(bounds(8, 8));
        fail(&compartment, 5).await;
        let other = Some(crate::ids::WorkspaceId::new(&Dice::system()).unwrap());
        assert!(compartment.enter(OWNER, soon()).await.is_err());
        compartment.enter(&other, soon()).await.unwrap().verdict(Verdict::Success);
        assert_eq!((compartment.seen().standing, compartment.seen().isolated), (Some(Standing::Closed), 1));
    }
}
