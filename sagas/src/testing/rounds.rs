//! One round of a proof: an engine, a saga in it, and the hand that moves time and answers waits until it rests.
//! Who enters: the harness, with a fuse that may be set.
//! What leaves: the state in which the saga rests.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use serde_json::Value as Json;

use super::inject::wrap;
use super::prove::{Prover, World};
use crate::catalog::Catalog;
use crate::context::Origin;
use crate::engine::{Engine, EngineParts, Observer, SignalRequest, Verb};
use crate::ids::{SagaKey, Scope};
use crate::limits::SagaLimits;
use crate::state::State;
use crate::view::{Filter, Summary};

/// A turn of the hand is this long: short, since the engine tells of an end at once.
const LOOK: Duration = Duration::from_millis(2);
/// A round that does not rest after so many turns never will.
const LOOKS_MAX: usize = 20_000;

/// A saga in its engine.
pub(super) struct Run {
    pub(super) engine: Engine,
    pub(super) key: SagaKey,
    pub(super) before: Json,
    pub(super) fuse: Arc<Fuse>,
}

/// Kills the engine after the nth commit.
#[derive(Default)]
pub(super) struct Fuse {
    pub(super) engine: OnceLock<Engine>,
    pub(super) commits: AtomicU64,
    pub(super) blow_after: AtomicU64,
    pub(super) panics: AtomicUsize,
}

impl Observer for Fuse {
    fn committed(&self, _: &SagaKey, _: &str, _: Duration) {
        let commit = self.commits.fetch_add(1, Ordering::SeqCst) + 1;
        if commit == self.blow_after.load(Ordering::SeqCst) {
            match self.engine.get() {
                Some(engine) => engine.halt(),
                None => {
                    self.panics.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    }
}

impl<W: World> Prover<'_, W> {
    pub(super) async fn begin(&mut self, blow_after: u64) -> Result<Run, String> {
        self.begin_with(blow_after, |_| {}).await
    }

    /// The same, with the engine made ready for what it will meet.
    pub(super) async fn begin_with(
        &mut self,
        blow_after: u64,
        ready: impl FnOnce(&Engine),
    ) -> Result<Run, String> {
        self.round += 1;
        // Rounds are apart in time, so that the newest saga is the first of every list.
        self.world.clock().advance(Duration::from_millis(1));
        let fuse = Arc::new(Fuse::default());
        fuse.blow_after.store(blow_after, Ordering::SeqCst);
        let engine = self.engine(&fuse).await?;
        let before = self.world.snapshot(self.round).await;
        ready(&engine);
        let started =
            engine.launch(self.world.request(self.round)).await.map_err(|why| format!("{why:?}"))?;
        Ok(Run { engine, key: started.key, before, fuse })
    }

    pub(super) async fn engine(&self, fuse: &Arc<Fuse>) -> Result<Engine, String> {
        let mut definitions = self.world.others();
        let definition = self.world.rebuilt().unwrap_or_else(|| self.definition.clone());
        definitions.push(wrap(definition, &self.plan));
        let limits = SagaLimits {
            poll: Duration::from_millis(20),
            ledger_pause: Duration::from_millis(1),
            undo_budget: Duration::from_secs(30),
            ..SagaLimits::default()
        };
        let catalog = Catalog::new(definitions).map_err(|why| why.to_string())?;
        let parts = EngineParts { catalog, limits, observer: fuse.clone(), ..self.world.parts() };
        let engine = Engine::start(parts).await.map_err(|why| format!("{why:?}"))?;
        // A fuse is set once, for its own engine.
        let _ = fuse.engine.set(engine.clone());
        Ok(engine)
    }

    /// Until it is over or stuck. `silent` names a wait that is not answered: its deadline passes.
    pub(super) async fn to_rest(&self, run: &Run, silent: Option<&str>) -> Result<State, String> {
        for _ in 0..LOOKS_MAX {
            if let Some(state) = self.look(run, silent).await? {
                return Ok(state);
            }
        }
        Err(format!("it does not come to rest: {:?}", run.engine.show(&run.key).await))
    }

    /// Until it rests, or its engine died.
    pub(super) async fn to_rest_or_death(&self, run: &Run) -> Result<Option<State>, String> {
        let blow_after = run.fuse.blow_after.load(Ordering::SeqCst);
        for _ in 0..LOOKS_MAX {
            if let Some(state) = self.look(run, None).await? {
                return Ok(Some(state));
            }
            if run.fuse.commits.load(Ordering::SeqCst) >= blow_after {
                return Ok(None);
            }
        }
        Err(format!("it neither rests nor dies: {:?}", run.engine.show(&run.key).await))
    }

    pub(super) async fn until_waiting(&self, run: &Run, step: &str) -> Result<(), String> {
        for _ in 0..LOOKS_MAX {
            let all = self.list(run).await?;
            let mine = own(&all, run)?;
            if mine.state == State::Waiting.as_str() && mine.step == Some(step) {
                return Ok(());
            }
            // Helped by the list that was looked at: a wait that opened since is not answered before it is seen.
            for summary in &all {
                self.help(run, summary, None).await?;
            }
            run.engine.wait(&run.key, LOOK).await.map_err(|why| why.to_string())?;
        }
        Err(format!("it never waits at {step}"))
    }

    pub(super) async fn until_turned(&self, run: &Run) -> Result<(), String> {
        let forward = ["pending", "running", "waiting", "backoff", "stuck_forward"];
        for _ in 0..LOOKS_MAX {
            let shown = run.engine.show(&run.key).await.map_err(|why| why.to_string())?;
            if !forward.contains(&shown.ok_or("it is gone")?.summary.state) {
                return Ok(());
            }
            self.look(run, None).await?;
        }
        Err("it never turns round".to_owned())
    }

    pub(super) async fn verb(&self, run: &Run, verb: Verb) -> Result<(), String> {
        let done = run.engine.operate(&run.key, verb, operator(), "the cause is gone").await;
        done.map(drop).map_err(|why| format!("the verb was refused: {why:?}"))
    }

    /// One turn of the hand: answers what waits, moves time to what is due, and waits a moment for the end.
    async fn look(&self, run: &Run, silent: Option<&str>) -> Result<Option<State>, String> {
        let all = self.list(run).await?;
        let mine = own(&all, run)?;
        let state = State::from_word(mine.state).ok_or("it has no state")?;
        if state.is_over() || state.is_stuck() {
            return Ok(Some(state));
        }
        for summary in &all {
            self.help(run, summary, silent).await?;
        }
        run.engine.wait(&run.key, LOOK).await.map_err(|why| why.to_string())?;
        Ok(None)
    }

    async fn list(&self, run: &Run) -> Result<Vec<Summary>, String> {
        let page = Filter { rows_max: 50, ..Filter::default() };
        run.engine.list(page).await.map_err(|why| why.to_string())
    }

    async fn help(&self, run: &Run, summary: &Summary, silent: Option<&str>) -> Result<(), String> {
        let step = summary.step.unwrap_or_default();
        let key = SagaKey {
            scope: match &summary.workspace {
                Some(workspace) => Scope::of_rows(workspace).map_err(|why| why.to_string())?,
                None => Scope::Appliance,
            },
            id: summary.id.parse().map_err(|_| "an id does not parse")?,
        };
        let waits = summary.state == State::Waiting.as_str();
        let answers =
            if waits && silent != Some(step) { self.world.answer(step, self.round) } else { Vec::new() };
        for heard in &answers {
            let signal = SignalRequest::new(key.clone(), heard.name, heard.dedupe.clone(), &heard.payload);
            // Repeated, or too late: both are fine for one who only wants it to go on.
            let by = Origin { actor: heard.dedupe.clone(), ..Origin::default() };
            let _ = run.engine.signal(signal.map_err(|why| why.to_string())?.origin(by)).await;
        }
        let tried = ["backoff", "unwinding"].contains(&summary.state) || (waits && summary.error.is_some());
        let deaf = waits && answers.is_empty();
        if let (Some(due), true) = (summary.due_us, tried || deaf) {
            let now_us = self.world.parts().clock.unix_us();
            if due > now_us {
                self.world.clock().advance(Duration::from_micros(due - now_us));
                run.engine.tick();
            }
        }
        Ok(())
    }

    /// After a round: locks are free, and nothing of the saga's is left to be told apart.
    pub(super) async fn leave(&self, run: Run) -> Result<(), String> {
        self.locks_are_free(&run).await?;
        run.engine.close().await;
        Ok(())
    }

    pub(super) async fn leave_changed(&self, run: Run) {
        run.engine.close().await;
    }
}

fn own<'s>(all: &'s [Summary], run: &Run) -> Result<&'s Summary, String> {
    let id = run.key.id.to_string();
    all.iter().find(|it| it.id == id).ok_or_else(|| "it is not listed".to_owned())
}

pub(super) fn operator() -> Origin {
    Origin { actor: "operator:prover".to_owned(), ..Origin::default() }
}
