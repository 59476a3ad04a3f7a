//! The scheduler: which saga is due, which is being driven, which waits its turn. The rows are the truth, this is a cache.
//! Who enters: wakes from commits, signals and people; timers; a look at the rows from time to time.
//! What leaves: driven sagas, so many at once and each by one driver only.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use audit::{ReadRefused, SqlFault};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::live::Live;
use super::{EngineRefused, Inner};
use crate::ids::SagaKey;
use crate::store;

/// Rows looked at in one go.
const LOOK_ROWS_MAX: usize = 1_000;
/// Timers taken into memory at the start; later ones are found by looking.
const TIMERS_MAX: usize = 100_000;
/// Between two wipes of results whose time is over.
const WIPE_EVERY: Duration = Duration::from_secs(600);

/// What the scheduler is told.
pub(crate) enum Wake {
    /// Something about this saga has changed.
    Saga(SagaKey),
    /// Look what is due.
    Tick,
    /// Finish.
    Close,
}

struct Scheduler {
    inner: Arc<Inner>,
    timers: Timers,
    /// Being driven; `true` when something changed meanwhile.
    active: HashMap<SagaKey, bool>,
    queue: VecDeque<SagaKey>,
    queued: HashSet<SagaKey>,
    driving: JoinSet<Option<u64>>,
    /// Whom each task drives: a task that panics says no more than its id.
    driven_by: HashMap<tokio::task::Id, SagaKey>,
}

/// One moment for each saga that sleeps, the soonest first. A saga that is woken otherwise loses its moment, so that nothing
/// of a run stays here after its end.
#[derive(Default)]
struct Timers {
    in_order: BTreeSet<(u64, SagaKey)>,
    of: HashMap<SagaKey, u64>,
}

impl Timers {
    fn set(&mut self, key: SagaKey, at_us: u64) {
        self.forget(&key);
        self.of.insert(key.clone(), at_us);
        self.in_order.insert((at_us, key));
    }

    fn forget(&mut self, key: &SagaKey) {
        if let Some(at_us) = self.of.remove(key) {
            self.in_order.remove(&(at_us, key.clone()));
        }
    }

    fn soonest_us(&self) -> Option<u64> {
        self.in_order.first().map(|(at_us, _)| *at_us)
    }

    fn due(&mut self, now_us: u64) -> Option<SagaKey> {
        self.soonest_us().filter(|at_us| *at_us <= now_us)?;
        let (_, key) = self.in_order.pop_first()?;
        self.of.remove(&key);
        Some(key)
    }
}

impl Inner {
    /// Claims every saga that lives: on one machine, whoever had them before is gone.
    pub(crate) async fn take_over(self: &Arc<Self>) -> Result<Vec<(SagaKey, u64)>, EngineRefused> {
        let owner = self.env.owner;
        let why = "which process drives a saga is the engine's own book-keeping";
        self.parts.ledger.write_unaudited(why, move |tx| store::claim_all(tx, &owner)).await?;
        let timers = self.parts.ledger.read(move |view| store::live(view, &owner, TIMERS_MAX)).await?;
        let stuck = self.parts.ledger.read(store::stuck).await?;
        for (workflow, count) in stuck {
            (0..count).for_each(|_| self.parts.observer.stuck(&workflow, true));
        }
        Ok(timers)
    }

    /// Reads a saga and opens what it needs to go on, whoever drives it.
    pub(crate) async fn load(self: &Arc<Self>, key: &SagaKey) -> Result<Option<Live>, String> {
        self.load_if(key, |_| Ok(true)).await
    }

    /// The same, if it is this engine's to drive: under its new owner's epoch it would pass for that one.
    pub(crate) async fn load_own(self: &Arc<Self>, key: &SagaKey) -> Result<Option<Live>, String> {
        let (wanted, owner) = (key.clone(), self.env.owner);
        self.load_if(key, move |view| store::is_owned(view, &wanted, &owner)).await
    }

    async fn load_if(
        self: &Arc<Self>,
        key: &SagaKey,
        fits: impl FnOnce(&audit::View<'_>) -> Result<bool, SqlFault> + Send + 'static,
    ) -> Result<Option<Live>, String> {
        let wanted = key.clone();
        let read = move |view: &audit::View<'_>| {
            let row = if fits(view)? { store::saga(view, &wanted)? } else { None };
            Ok::<_, SqlFault>((row, store::outs(view, &wanted)?))
        };
        let (row, outs) = match self.parts.ledger.read(read).await {
            Ok((Some(row), outs)) => (row, outs),
            Ok((None, _)) | Err(ReadRefused::Closed) => return Ok(None),
            Err(why) => return Err(why.to_string()),
        };
        if row.state.is_over() {
            return Ok(None);
        }
        let Some(def) = self.parts.catalog.pinned(&row.workflow, row.version, &row.def_hash).cloned() else {
            // Untouched and visible: the build that has it, or a corrected one, goes on where this stands.
            if self.foreign.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
                tracing::warn!(saga = %row.key.id, workflow = row.workflow, version = row.version,
                    "this build does not have the definition that the workflow was started with; it waits");
                self.parts.observer.parked(&row.key, &row.workflow, row.version);
            }
            return Ok(None);
        };
        let cipher = self.cipher_of(key, def.appliance_seal).await?;
        let input = row.input_sealed.as_ref().ok_or("its input is gone")?;
        let input = cipher.open(&Self::place(key, "input"), input).map_err(|why| why.to_string())?;
        let mut fold = vec![None; def.steps.len()];
        for (step, sealed) in outs {
            if let (Some(slot), Some(sealed)) = (fold.get_mut(step), sealed) {
                let place = Self::place(key, &super::turn::out_place(step));
                *slot = Some(Arc::new(cipher.open(&place, &sealed).map_err(|why| why.to_string())?));
            }
        }
        let time = self.env.time.clone();
        Ok(Some(Live { row, def, cipher, time, input: Arc::new(input), fold }))
    }

    async fn drive_key(self: Arc<Self>, key: SagaKey) -> Option<u64> {
        match self.load_own(&key).await {
            Ok(Some(live)) => self.drive(live).await,
            Ok(None) => None,
            Err(why) => Some(self.unreadable(&key, &why)),
        }
    }

    /// One saga that cannot be opened stands in nobody's way: says when it is looked at again.
    pub(crate) fn unreadable(&self, key: &SagaKey, why: &str) -> u64 {
        tracing::warn!(saga = %key.id, why, "a workflow cannot be opened at the moment");
        self.now_us() + super::turn::micros(self.parts.limits.retry_longest)
    }
}

/// The scheduler's life.
pub(crate) async fn run(
    inner: Arc<Inner>,
    mut inbox: mpsc::UnboundedReceiver<Wake>,
    timers: Vec<(SagaKey, u64)>,
) {
    let mut scheduler = Scheduler {
        inner,
        timers: Timers::default(),
        active: HashMap::new(),
        queue: VecDeque::new(),
        queued: HashSet::new(),
        driving: JoinSet::new(),
        driven_by: HashMap::new(),
    };
    timers.into_iter().for_each(|(key, at_us)| scheduler.timers.set(key, at_us));
    let mut look = tokio::time::interval(scheduler.inner.parts.limits.poll);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut wipe = tokio::time::interval(WIPE_EVERY);
    loop {
        scheduler.fire();
        scheduler.fill();
        let pause = scheduler.pause();
        tokio::select! {
            wake = inbox.recv() => match wake {
                Some(Wake::Saga(key)) => scheduler.wake(key),
                Some(Wake::Tick) => {
                    scheduler.observe_clocks().await;
                    scheduler.look().await;
                }
                Some(Wake::Close) | None => break,
            },
            Some(driven) = scheduler.driving.join_next_with_id() => scheduler.driven(driven),
            () = tokio::time::sleep(pause) => {}
            _ = look.tick() => {
                scheduler.observe_clocks().await;
                scheduler.look().await;
            }
            _ = wipe.tick() => scheduler.wipe().await,
        }
    }
    // Each driver records what came of the call it is at, and ends.
    scheduler.inner.closing.store(true, std::sync::atomic::Ordering::SeqCst);
    while scheduler.driving.join_next().await.is_some() {}
}

impl Scheduler {
    fn wake(&mut self, key: SagaKey) {
        self.timers.forget(&key);
        if let Some(changed) = self.active.get_mut(&key) {
            *changed = true;
        } else if self.queued.insert(key.clone()) {
            self.queue.push_back(key);
        }
    }

    /// Timers that have come are wakes.
    fn fire(&mut self) {
        let now_us = self.inner.now_us();
        while let Some(key) = self.timers.due(now_us) {
            self.wake(key);
        }
    }

    /// As many drivers as may be.
    fn fill(&mut self) {
        while self.driving.len() < self.inner.parts.limits.running_max {
            let Some(key) = self.queue.pop_front() else { return };
            self.queued.remove(&key);
            self.active.insert(key.clone(), false);
            let task = self.driving.spawn(self.inner.clone().drive_key(key.clone()));
            self.driven_by.insert(task.id(), key);
        }
    }

    fn driven(&mut self, driven: Result<(tokio::task::Id, Option<u64>), tokio::task::JoinError>) {
        let (task, due) = match driven {
            Ok(ended) => ended,
            // A driver does not panic by itself; should it, its saga alone is found again by looking.
            Err(why) => {
                tracing::error!(%why, "a driver of workflows failed");
                (why.id(), None)
            }
        };
        let Some(key) = self.driven_by.remove(&task) else { return };
        let changed = self.active.remove(&key).unwrap_or_default();
        match due {
            _ if changed => self.wake(key),
            Some(at_us) => self.timers.set(key, at_us),
            None => {}
        }
    }

    fn pause(&self) -> Duration {
        let next = self.timers.soonest_us().map(|at_us| at_us.saturating_sub(self.inner.now_us()));
        Duration::from_micros(next.unwrap_or(u64::MAX)).min(self.inner.parts.limits.poll)
    }

    /// What the rows say is due: the way that is always right, should any wake have been lost.
    async fn look(&mut self) {
        let (owner, now_us) = (self.inner.env.owner, self.inner.now_us());
        // However many of another build are due, they do not hide ours.
        let others = self.inner.foreign.lock().unwrap_or_else(PoisonError::into_inner).len();
        let read = move |view: &audit::View<'_>| store::due(view, &owner, now_us, LOOK_ROWS_MAX + others);
        match self.inner.parts.ledger.read(read).await {
            // A row that a driver has at hand is not due, it is being driven; one of another build is not for us.
            Ok(due) => {
                let foreign = self.inner.foreign.lock().unwrap_or_else(PoisonError::into_inner);
                let ours = |key: &SagaKey| !self.active.contains_key(key) && !foreign.contains(key);
                due.into_iter().filter(ours).collect::<Vec<_>>()
            }
            Err(why) => {
                tracing::debug!(%why, "the due workflows could not be read; they are looked for again");
                Vec::new()
            }
        }
        .into_iter()
        .for_each(|key| self.wake(key));
    }

    /// Looks at the clocks. After a jump every wait that protects is looked at: the moment on its row is by the wall clock.
    async fn observe_clocks(&mut self) {
        match self.inner.env.time.observe(false).await {
            Ok(false) => {}
            Ok(true) => {
                let owner = self.inner.env.owner;
                match self.inner.parts.ledger.read(move |view| store::protective_waits(view, &owner)).await {
                    Ok(waiting) => waiting.into_iter().for_each(|key| self.wake(key)),
                    Err(why) => tracing::warn!(%why, "waits could not be looked at after the clock jumped"),
                }
            }
            Err(why) => {
                tracing::debug!(%why, "the time that passed could not be written down; tried again soon")
            }
        }
    }

    async fn wipe(&self) {
        let now_us = self.inner.now_us();
        let why = "results whose time is over are wiped; their ends were told when they came";
        let wiped =
            self.inner.parts.ledger.write_unaudited(why, move |tx| store::wipe_results(tx, now_us)).await;
        if let Err(why) = wiped {
            tracing::debug!(%why, "old results could not be wiped; tried again later");
        }
    }
}
