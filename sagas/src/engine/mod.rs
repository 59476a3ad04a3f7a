//! The engine: starts sagas, drives them to their end, finds them again after a crash, and lets people help.
//! Who enters: services and people who start, signal, cancel, wait and ask; the ledger's rows at every start.
//! What leaves: sagas at their end, or stuck in words.

mod backward;
mod begin;
mod bells;
mod cancel;
mod commit;
mod drive;
mod events;
mod fan;
mod forward;
mod live;
mod outside;
mod parts;
mod schedule;
mod seen;
mod signals;
mod turn;
mod verbs;
mod waiters;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit::{ReadRefused, SqlFault, Told, Tx, WriteRefused};
use tokio::sync::mpsc;

pub use begin::{OnConflict, Start, StartRefused, StartRequest, Started};
pub use cancel::Cancelling;
pub use parts::{Deaf, EngineParts, Observer};
pub use seen::{Deed, Past, Watched};
pub use signals::{SignalRefused, SignalRequest, Signalled};
pub use verbs::{Leading, Led, Verb, VerbRefused};
pub use waiters::End;

use crate::ids::{SagaId, SagaKey, Scope};
use crate::limits::RUNS_SWEPT_MAX;
use crate::proven::ProvenTime;
use crate::seal::Cipher;
use crate::store;
use begin::Making;
use bells::Bells;
pub(crate) use drive::clipped;
use forward::{Bounds, Outcome};
use live::sealed_place;
use parts::{Env, sealing_scope};
use schedule::Wake;
use turn::{Halt, Turn};
use waiters::Waiters;

/// The engine. Cheap to clone; all clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

/// What the engine's rooms share.
pub(crate) struct Inner {
    pub(crate) parts: EngineParts,
    pub(crate) env: Arc<Env>,
    pub(crate) waiters: Waiters,
    /// Rung when a scope, or any at all, may have published something.
    pub(crate) news: Bells<Option<Scope>>,
    /// Live sagas whose definition this build lacks: told of once, and left alone.
    pub(crate) foreign: Mutex<HashSet<SagaKey>>,
    /// Nothing more is begun; what was ordered is finished and recorded.
    closing: AtomicBool,
    /// Not even that: as if the process had died.
    halted: AtomicBool,
    /// Writes that the ledger refuses on request.
    #[cfg(any(test, feature = "double"))]
    pub(crate) refused_writes: RefusedWrites,
    wakes: mpsc::UnboundedSender<Wake>,
    ended: tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
}

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineRefused {
    /// The machine gives no randomness for the engine's own name.
    #[error("the machine gives no randomness")]
    NoRandomness,
    /// The sagas that live could not be taken over.
    #[error("the sagas of the ledger could not be taken over")]
    Claim(#[from] WriteRefused<SqlFault>),
    /// The sagas that live could not be read.
    #[error("the sagas of the ledger could not be read")]
    Read(#[from] ReadRefused<SqlFault>),
}

impl Engine {
    /// Takes over every saga that lives, and begins to drive those that are due. The ledger must be open for writing.
    ///
    /// # Errors
    /// What stood in the way; nothing was begun.
    pub async fn start(parts: EngineParts) -> Result<Self, EngineRefused> {
        let mut owner = [0; 16];
        parts.random.fill(&mut owner).map_err(|_| EngineRefused::NoRandomness)?;
        let time = ProvenTime::open(parts.clock.clone(), parts.ledger.clone()).await?;
        let env = Arc::new(Env { catalog: parts.catalog.clone(), limits: parts.limits, owner, time });
        let (wakes, inbox) = mpsc::unbounded_channel();
        let inner = Arc::new(Inner {
            parts,
            env,
            waiters: Waiters::default(),
            news: Bells::default(),
            foreign: Mutex::default(),
            closing: AtomicBool::new(false),
            halted: AtomicBool::new(false),
            #[cfg(any(test, feature = "double"))]
            refused_writes: RefusedWrites::default(),
            wakes,
            ended: tokio::sync::Mutex::new(None),
        });
        let timers = inner.take_over().await?;
        let task = tokio::spawn(schedule::run(inner.clone(), inbox, timers));
        *inner.ended.lock().await = Some(task);
        Ok(Self { inner })
    }

    /// Prepares a start: everything that needs no transaction. Commit it inside one of your own, or [`launch`](Self::launch).
    ///
    /// # Errors
    /// What is wrong with the wish, or what is not at hand.
    pub async fn prepare(&self, request: StartRequest) -> Result<Start, StartRefused> {
        let inner = &self.inner;
        let def = inner.parts.catalog.newest(&request.workflow);
        let def = def.ok_or_else(|| StartRefused::NoSuchWorkflow(request.workflow.clone()))?.clone();
        let scope = sealing_scope(&request.scope, def.appliance_seal);
        let cipher = inner.parts.seal.cipher(scope).await.map_err(StartRefused::Seal)?;
        let mut dice = [0; 10];
        inner.parts.random.fill(&mut dice).map_err(|_| StartRefused::NoRandomness)?;
        let now_us = inner.now_us();
        let def_hash = inner.parts.catalog.hash(&def);
        let making = Making { def, def_hash, cipher, id: SagaId::new(now_us, dice), parent: None, now_us };
        Start::new(request, making, inner.env.clone())
    }

    /// Starts a workflow, and takes the local steps it begins with in the same commit.
    ///
    /// # Errors
    /// What is wrong with the wish, who holds a lock, or why the ledger did not take it.
    pub async fn launch(&self, request: StartRequest) -> Result<Started, WriteRefused<StartRefused>> {
        let start = self.prepare(request).await.map_err(WriteRefused::Rejected)?;
        self.inner.launch(start).await
    }

    /// Says that a prepared start was committed in a transaction of one's own.
    pub fn begun(&self, start: &Start) {
        self.inner.parts.observer.started(&start.live.row.workflow);
        self.nudge(start.key());
    }

    /// Says that something about a saga has changed, such as a signal committed in a transaction of one's own.
    pub fn nudge(&self, key: &SagaKey) {
        self.inner.tell_news(&key.scope);
        self.inner.nudge(key);
    }

    /// Waits until a saga is over, at most so long. A saga that is over already answers at once.
    ///
    /// # Errors
    /// Why the ledger could not be read.
    pub async fn wait(&self, key: &SagaKey, at_most: Duration) -> Result<Option<End>, ReadRefused<SqlFault>> {
        self.inner.wait(key, at_most).await
    }

    /// As [`wait`](Self::wait), but only until the saga has come so far as `seen` says, which is asked now and after each
    /// of its commits.
    ///
    /// # Errors
    /// Why the ledger could not be read.
    pub async fn wait_or<F: Future<Output = bool> + Send>(
        &self,
        key: &SagaKey,
        at_most: Duration,
        seen: impl Fn() -> F + Send,
    ) -> Result<Option<End>, ReadRefused<SqlFault>> {
        self.inner.wait_or(key, at_most, seen).await
    }

    /// Looks at once for what is due, without waiting for a timer: after the clock was set, or in a test that owns it.
    pub fn tick(&self) {
        // A closed engine hears nothing.
        let _ = self.inner.wakes.send(Wake::Tick);
    }

    /// Forgets runs that have been over for so long, some in one transaction, and names of locks that nobody claims. `others`
    /// forgets what stands elsewhere about a run, in the same transaction. Says how many runs went.
    ///
    /// # Errors
    /// Why the ledger did not take it; what went before stays gone.
    pub async fn sweep(
        &self,
        kept: Duration,
        others: fn(&mut Tx<'_>, &SagaKey) -> Result<(), SqlFault>,
    ) -> Result<usize, WriteRefused<SqlFault>> {
        let until_us = self.inner.now_us().saturating_sub(turn::micros(kept));
        let mut gone = 0;
        loop {
            let why = "runs whose time is over; what they did, and their end, was told when it came";
            let work = move |tx: &mut Tx<'_>| {
                let over = store::over(tx, until_us, RUNS_SWEPT_MAX)?;
                for key in &over {
                    store::forget(tx, key)?;
                    others(tx, key)?;
                }
                crate::lock::hold::forget_free(tx)?;
                Ok::<_, SqlFault>(over.len())
            };
            let some = self.inner.parts.ledger.write_unaudited(why, work).await?;
            gone += some;
            if some < RUNS_SWEPT_MAX {
                return Ok(gone);
            }
        }
    }

    /// Time that has provably passed: what limits and notices are measured by.
    pub fn time(&self) -> Arc<ProvenTime> {
        self.inner.env.time.clone()
    }

    /// Begins nothing more, waits for the calls that are on their way, records what came of them, and lets go. What is
    /// not over goes on at the next start. Whoever cannot wait so long drops the future: then the next start probes.
    pub async fn close(self) {
        let _ = self.inner.wakes.send(Wake::Close);
        if let Some(task) = self.inner.ended.lock().await.take() {
            // A scheduler that panicked has nothing left to finish.
            let _ = task.await;
        }
    }

    /// Whether it is finishing and begins nothing more.
    pub fn is_closing(&self) -> bool {
        self.inner.is_closing()
    }

    /// Stops as if the process had died after its last commit: for tests of exactly that.
    #[cfg(any(test, feature = "double"))]
    pub fn halt(&self) {
        self.inner.halted.store(true, Ordering::SeqCst);
        let _ = self.inner.wakes.send(Wake::Close);
    }

    /// Lets the ledger refuse the driver's nth write from now on, once, as it does while it is short of space or of its
    /// hardware; `meanwhile` is done in that moment. For tests of exactly that.
    #[cfg(any(test, feature = "double"))]
    pub fn refuse_write(&self, nth: u64, meanwhile: impl Fn() + Send + Sync + 'static) {
        self.inner.refused_writes.set(nth, Box::new(meanwhile));
    }

    /// Whether that write came and was refused.
    #[cfg(any(test, feature = "double"))]
    pub fn has_refused(&self) -> bool {
        self.inner.refused_writes.is_spent()
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

/// One write to refuse, counted down to.
#[cfg(any(test, feature = "double"))]
#[derive(Default)]
pub(crate) struct RefusedWrites(Mutex<Option<(u64, Meanwhile)>>);

#[cfg(any(test, feature = "double"))]
type Meanwhile = Box<dyn Fn() + Send + Sync>;

#[cfg(any(test, feature = "double"))]
impl RefusedWrites {
    fn set(&self, nth: u64, meanwhile: Meanwhile) {
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some((nth, meanwhile));
    }

    fn is_spent(&self) -> bool {
        let planned = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        planned.as_ref().is_some_and(|(left, _)| *left == 0)
    }

    /// Whether the write that is about to be made is the one.
    pub(crate) fn is_next(&self) -> bool {
        let mut planned = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some((left, meanwhile)) = planned.as_mut().filter(|(left, _)| *left > 0) else { return false };
        *left -= 1;
        if *left == 0 {
            meanwhile();
        }
        *left == 0
    }
}

impl Inner {
    pub(crate) fn now_us(&self) -> u64 {
        self.parts.clock.unix_us()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }

    pub(crate) fn is_halted(&self) -> bool {
        self.halted.load(Ordering::SeqCst)
    }

    pub(crate) fn nudge(&self, key: &SagaKey) {
        // A closed engine hears nothing; the row stays due, and the next start finds it.
        let _ = self.wakes.send(Wake::Saga(key.clone()));
    }

    /// Wakes whoever follows this saga, or the events of its scope.
    pub(crate) fn ring(&self, key: &SagaKey) {
        self.waiters.commits.ring(key);
        self.tell_news(&key.scope);
    }

    /// Wakes whoever waits for events of this scope, or of any.
    pub(crate) fn tell_news(&self, scope: &Scope) {
        self.news.ring(&Some(scope.clone()));
        self.news.ring(&None);
    }

    async fn launch(self: &Arc<Self>, start: Start) -> Result<Started, WriteRefused<StartRefused>> {
        let began = self.parts.clock.monotonic();
        let start = Arc::new(start);
        let fast = self.launch_with(&start, true).await;
        let moved = match fast {
            // A first step that says no is for the driver: the start itself stands.
            Err(WriteRefused::Rejected(NoLaunch::Step) | WriteRefused::Panicked) => {
                self.launch_with(&start, false).await
            }
            outcome => outcome,
        };
        let moved = moved.map_err(refused)?;
        let took = self.parts.clock.monotonic().saturating_sub(began);
        self.parts.observer.started(&moved.live.row.workflow);
        self.after_commit(&moved, took);
        let started = Started { key: moved.live.row.key.clone(), state: moved.live.row.state };
        if moved.next != turn::Next::Rest {
            self.nudge(moved.live.key());
        }
        Ok(started)
    }

    async fn launch_with(
        self: &Arc<Self>,
        start: &Arc<Start>,
        with_steps: bool,
    ) -> Result<turn::Moved, WriteRefused<NoLaunch>> {
        let (start, env) = (start.clone(), self.env.clone());
        let recorded = self.parts.ledger.write(move |tx| {
            let (live, entry) = start.put_down(tx)?;
            let now_us = live.row.created_us;
            let locals = live.def.steps.iter().take_while(|step| step.is_local()).count();
            let told = Told::new((), entry);
            if !with_steps || locals == 0 || live.row.state != crate::State::Running {
                let moved = turn::Moved::still(live, turn::Next::Again);
                return Ok(told.beside(moved));
            }
            let mut turn = Turn::new(tx, &env, live, now_us);
            let reached = std::sync::atomic::AtomicUsize::new(0);
            turn.tell(told);
            turn.forward(&Outcome::None, &Bounds { stop_at: locals, reached: &reached })?;
            let (moved, told) = turn.save()?;
            Ok(told.ok_or(NoLaunch::Step)?.discard().beside(moved))
        });
        Ok(recorded.await?.into_value().0)
    }

    pub(crate) async fn cipher_of(
        &self,
        live: &SagaKey,
        by_appliance: bool,
    ) -> Result<Arc<dyn Cipher>, String> {
        let scope = sealing_scope(&live.scope, by_appliance);
        self.parts.seal.cipher(scope).await.map_err(|why| why.to_string())
    }

    pub(crate) fn place(key: &SagaKey, place: &str) -> String {
        sealed_place(key, place)
    }
}

/// Why a launch was not committed.
#[derive(Debug)]
enum NoLaunch {
    Refused(StartRefused),
    /// A step, not the start, said no.
    Step,
}

impl From<StartRefused> for NoLaunch {
    fn from(refused: StartRefused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Halt> for NoLaunch {
    fn from(_: Halt) -> Self {
        Self::Step
    }
}

fn refused(refused: WriteRefused<NoLaunch>) -> WriteRefused<StartRefused> {
    match refused {
        WriteRefused::Rejected(NoLaunch::Refused(own)) => WriteRefused::Rejected(own),
        // The plain start takes no step.
        WriteRefused::Rejected(NoLaunch::Step) => WriteRefused::Panicked,
        WriteRefused::Unverified => WriteRefused::Unverified,
        WriteRefused::Frozen(freeze) => WriteRefused::Frozen(freeze),
        WriteRefused::Unanchored { rows } => WriteRefused::Unanchored { rows },
        WriteRefused::Overloaded => WriteRefused::Overloaded,
        WriteRefused::NoSpace => WriteRefused::NoSpace,
        WriteRefused::EntryTooLong { field, bytes, bytes_max } => {
            WriteRefused::EntryTooLong { field, bytes, bytes_max }
        }
        WriteRefused::NoRandomness => WriteRefused::NoRandomness,
        WriteRefused::Panicked => WriteRefused::Panicked,
        WriteRefused::Lost => WriteRefused::Lost,
        WriteRefused::Closed => WriteRefused::Closed,
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}
