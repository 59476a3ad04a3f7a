//! The harness: takes a definition through every cell, round after round, and holds the world against what it was.
//! Who enters: a definition, and a world that can be looked at, moved in time and opened anew.
//! What leaves: a proof with its book of cells, or the first cell that failed, in words.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value as Json;

use super::TestClock;
use super::cells::{Cell, Coverage, expected_cells};
use super::inject::{Fault, How, INJECTED, Plan};
use super::rounds::{Run, operator};
use crate::StartRequest;
use crate::define::Definition;
use crate::define::step::Act;
use crate::engine::{EngineParts, Verb};
use crate::ids::Phase;
use crate::state::State;

/// What a waiting step is told, so that it goes on.
#[derive(Clone, Debug)]
pub struct Heard {
    /// The signal's name.
    pub name: &'static str,
    /// What makes it one.
    pub dedupe: String,
    /// What comes with it.
    pub payload: Json,
}

/// The world that a definition acts on.
pub trait World: Send + Sync + 'static {
    /// A start with inputs of its own for each round.
    fn request(&self, round: u64) -> StartRequest;
    /// What to tell the step of this name when it waits; nothing lets its deadline pass.
    fn answer(&self, step: &str, round: u64) -> Vec<Heard>;
    /// Everything a round can change, inside and outside, without the names that differ from round to round. What it
    /// publishes is looked at by the harness itself.
    fn snapshot(&self, round: u64) -> impl Future<Output = Json> + Send;
    /// What the engine stands on; catalog, limits and observer are the harness's.
    fn parts(&self) -> EngineParts;
    /// Other definitions that this one starts.
    fn others(&self) -> Vec<Definition> {
        Vec::new()
    }
    /// The definition anew, where its steps hold services of the ledger that was closed.
    fn rebuilt(&self) -> Option<Definition> {
        None
    }
    /// The clock that everything here goes by.
    fn clock(&self) -> Arc<TestClock>;
    /// Closes the ledger and opens it anew, as a new process would.
    fn reopen(&self) -> impl Future<Output = ()> + Send;
}

/// What was proven.
#[derive(Debug)]
pub struct Proof {
    /// The book of cells.
    pub coverage: Coverage,
    /// Commits of one clean run: so many places to die at, on the way forward.
    pub commits: u64,
    /// Rounds that were run.
    pub rounds: u64,
    /// The topics of what a clean run tells others, beside its own life.
    pub told: Vec<String>,
}

pub(super) struct Prover<'w, W> {
    pub(super) world: &'w W,
    pub(super) definition: &'w Definition,
    pub(super) plan: Arc<Plan>,
    pub(super) round: u64,
    coverage: Coverage,
    done: Json,
    /// What a clean run tells others beside its own life.
    told: Vec<String>,
    commits: u64,
}

/// Proves a definition: every step, every way in which it can go wrong, every commit after which the process can die.
///
/// # Errors
/// The first cell that failed, or is missing.
pub async fn prove<W: World>(world: &W, definition: &Definition) -> Result<Proof, String> {
    let mut prover = Prover {
        world,
        definition,
        plan: Arc::default(),
        round: 0,
        coverage: Coverage::default(),
        done: Json::Null,
        told: Vec::new(),
        commits: 0,
    };
    prover.clean().await.map_err(|why| format!("the clean run: {why}"))?;
    for cell in expected_cells(definition) {
        let proven = prover.cell(&cell).await;
        proven.map_err(|why| format!("{} {cell:?}, round {}: {why}", definition.name(), prover.round))?;
        prover.coverage.proven(cell);
    }
    let missing = prover.coverage.missing(definition);
    if !missing.is_empty() {
        return Err(format!("cells are missing: {missing:?}"));
    }
    Ok(Proof { coverage: prover.coverage, commits: prover.commits, rounds: prover.round, told: prover.told })
}

impl<W: World> Prover<'_, W> {
    async fn clean(&mut self) -> Result<(), String> {
        let run = self.begin(0).await?;
        let end = self.to_rest(&run, None).await?;
        expect(end, State::Succeeded)?;
        self.done = self.world.snapshot(self.round).await;
        self.told = self.told(&run, end).await?;
        if self.done == run.before {
            return Err("the world shows no difference between before and after".to_owned());
        }
        self.commits = run.fuse.commits.load(Ordering::SeqCst);
        self.leave(run).await
    }

    async fn cell(&mut self, cell: &Cell) -> Result<(), String> {
        match cell {
            Cell::Do(step, how) => self.step_fails(self.place(step)?, *how).await,
            Cell::Undo(step, how) => self.undo_fails(self.place(step)?, *how).await,
            Cell::UndoForEver(step) => self.undo_sticks(self.place(step)?, Verb::Retry).await,
            Cell::UndoSkipped(step) => self.undo_sticks(self.place(step)?, Verb::SkipUndo).await,
            Cell::CancelAt(step) => self.cancelled_at(step).await,
            Cell::DeadlineAt(step) => self.deadline_at(step).await,
            Cell::CrashForward => self.crashes(&[], State::Succeeded).await,
            Cell::CrashBack(step) => {
                let fault = once(self.place(step)?, Phase::Do, How::Refuse);
                self.crashes(&[fault], State::Compensated).await
            }
            Cell::LedgerRefuses => self.ledger_refuses(&[], Duration::ZERO).await,
            Cell::LedgerRefusesTooLong => {
                let late = self.definition.deadline.unwrap_or_default() + Duration::from_secs(1);
                self.ledger_refuses(&[], late).await
            }
            Cell::LedgerRefusesBack(step) => {
                let fault = once(self.place(step)?, Phase::Do, How::Refuse);
                self.ledger_refuses(&[fault], Duration::ZERO).await
            }
        }
    }

    async fn step_fails(&mut self, step: usize, how: How) -> Result<(), String> {
        self.plan.set(vec![once(step, Phase::Do, how)]);
        let run = self.begin(0).await?;
        let mut end = self.to_rest(&run, None).await?;
        if how == How::Panic {
            expect(end, State::StuckForward)?;
            self.locks_are_kept(&run).await?;
            self.plan.heal();
            self.verb(&run, Verb::Retry).await?;
            end = self.to_rest(&run, None).await?;
        }
        self.fault_was_met(step, Phase::Do, how)?;
        match how {
            How::Refuse => self.is_as_before(&run, end, INJECTED).await?,
            _ => self.is_done(&run, end).await?,
        }
        self.leave(run).await
    }

    async fn undo_fails(&mut self, step: usize, how: How) -> Result<(), String> {
        let turn = self.turning_after(step)?;
        let times = if how == How::Twice { 1 } else { 3 };
        self.plan.set(vec![turn, Fault { step, phase: Phase::Undo, how, times }]);
        let run = self.begin(0).await?;
        self.turn(&run, &turn).await?;
        let end = self.to_rest(&run, None).await?;
        self.fault_was_met(step, Phase::Undo, how)?;
        self.is_as_before(&run, end, if turn.how == How::Refuse { INJECTED } else { "operator" }).await?;
        self.leave(run).await
    }

    async fn undo_sticks(&mut self, step: usize, verb: Verb) -> Result<(), String> {
        let turn = self.turning_after(step)?;
        self.plan.set(vec![turn, Fault { step, phase: Phase::Undo, how: How::Later, times: u32::MAX }]);
        let run = self.begin(0).await?;
        self.turn(&run, &turn).await?;
        expect(self.to_rest(&run, None).await?, State::StuckUndo)?;
        self.fault_was_met(step, Phase::Undo, How::Later)?;
        self.locks_are_kept(&run).await?;
        self.plan.heal();
        self.verb(&run, verb.clone()).await?;
        let end = self.to_rest(&run, None).await?;
        match verb {
            // What was left out stays as it was; everything else is undone, and nothing is held.
            Verb::SkipUndo => expect(end, State::Compensated)?,
            _ => self.is_as_before(&run, end, "").await?,
        }
        self.locks_are_free(&run).await?;
        if verb == Verb::SkipUndo {
            self.leave_changed(run).await;
            return Ok(());
        }
        self.leave(run).await
    }

    async fn cancelled_at(&mut self, step: &'static str) -> Result<(), String> {
        self.plan.set(Vec::new());
        let run = self.begin(0).await?;
        self.until_waiting(&run, step).await?;
        run.engine.cancel(&run.key, operator(), "no longer wanted").await.map_err(|why| why.to_string())?;
        let end = self.to_rest(&run, None).await?;
        self.is_as_before(&run, end, "cancelled").await?;
        self.leave(run).await
    }

    async fn deadline_at(&mut self, step: &'static str) -> Result<(), String> {
        self.plan.set(Vec::new());
        let run = self.begin(0).await?;
        self.until_waiting(&run, step).await?;
        match self.to_rest(&run, Some(step)).await? {
            // What a deadline means is the definition's to say: unwind, or go on.
            State::Succeeded => drop(self.told(&run, State::Succeeded).await?),
            end => self.is_as_before(&run, end, "").await?,
        }
        self.leave(run).await
    }

    /// Dies after each commit in turn, until one run is over before it would have died.
    async fn crashes(&mut self, faults: &[Fault], wanted: State) -> Result<(), String> {
        for commit in 1.. {
            self.plan.set(faults.to_vec());
            let run = self.begin(commit).await?;
            let blown = |run: &Run| run.fuse.commits.load(Ordering::SeqCst) >= commit;
            let end = self.to_rest_or_death(&run).await?;
            if run.fuse.panics.load(Ordering::SeqCst) > 0 {
                return Err("the fuse had no engine to blow".to_owned());
            }
            let (key, before, died) = (run.key.clone(), run.before.clone(), blown(&run));
            run.engine.close().await;
            self.world.reopen().await;
            let run = Run { engine: self.engine(&Arc::default()).await?, key, before, fuse: Arc::default() };
            let end = match end {
                Some(end) if end.is_over() => end,
                _ => self
                    .to_rest(&run, None)
                    .await
                    .map_err(|why| format!("died after commit {commit}: {why}"))?,
            };
            if end != wanted {
                let shown = run.engine.show(&run.key).await;
                return Err(format!("died after commit {commit}: it is {end:?}, not {wanted:?}: {shown:?}"));
            }
            match wanted {
                State::Succeeded => self.is_done(&run, end).await,
                _ => self.is_as_before(&run, end, INJECTED).await,
            }
            .map_err(|why| format!("died after commit {commit}: {why}"))?;
            self.leave(run).await?;
            if !died {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The ledger refuses each write in turn, until a run comes to its end before the one that is refused; so much time passes
    /// meanwhile. Whatever came of a call by then is neither made again nor forgotten: the world is as after a clean run, or
    /// as it was before.
    async fn ledger_refuses(&mut self, faults: &[Fault], late: Duration) -> Result<(), String> {
        for nth in 1.. {
            self.plan.set(faults.to_vec());
            let clock = self.world.clock();
            let run = self
                .begin_with(0, move |engine| engine.refuse_write(nth, move || clock.advance(late)))
                .await?;
            let end = self.to_rest(&run, None).await?;
            let refused = run.engine.has_refused();
            let came_true = match end {
                State::Succeeded if faults.is_empty() => self.is_done(&run, end).await,
                // In time, nothing but the planned refusal turns it round.
                State::Compensated if late.is_zero() => self.is_as_before(&run, end, INJECTED).await,
                _ => self.is_as_before(&run, end, "").await,
            };
            came_true.map_err(|why| format!("the ledger refused write {nth}: {why}"))?;
            if let [step, ..] = self.plan.forgotten().as_slice() {
                return Err(format!(
                    "the ledger refused write {nth}: `{step}` was called again and nobody had looked"
                ));
            }
            self.leave(run).await?;
            if !refused {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The nearest step after this one that can refuse; or a fan-out at the pivot, which cannot, but can be stopped.
    fn turning_after(&self, step: usize) -> Result<Fault, String> {
        let cells = expected_cells(self.definition);
        let later = || self.definition.steps.iter().enumerate().skip(step + 1);
        if let Some((place, _)) = later().find(|(_, it)| cells.contains(&Cell::Do(it.name, How::Refuse))) {
            return Ok(once(place, Phase::Do, How::Refuse));
        }
        match later().find(|(place, _)| *place == self.definition.pivot()) {
            Some((place, it)) if matches!(it.act, Act::FanOut(_)) => {
                Ok(once(place, Phase::Do, How::Unlayable))
            }
            _ => Err(format!("no step after {step} can refuse, so its undo cannot be reached")),
        }
    }

    /// Waits until it has turned round; what cannot refuse is turned round by a person.
    async fn turn(&self, run: &Run, turn: &Fault) -> Result<(), String> {
        if turn.how == How::Unlayable {
            expect(self.to_rest(run, None).await?, State::StuckForward)?;
            self.verb(run, Verb::Unwind).await?;
        }
        self.until_turned(run).await?;
        self.fault_was_met(turn.step, Phase::Do, turn.how)
    }

    fn place(&self, step: &str) -> Result<usize, String> {
        let place = self.definition.steps.iter().position(|it| it.name == step);
        place.ok_or_else(|| format!("there is no step {step}"))
    }

    fn fault_was_met(&self, step: usize, phase: Phase, how: How) -> Result<(), String> {
        let met = self.plan.met();
        if met.contains(&(step, phase, how)) {
            Ok(())
        } else {
            Err(format!("it never came to the fault: {met:?}"))
        }
    }

    async fn is_done(&self, run: &Run, end: State) -> Result<(), String> {
        expect(end, State::Succeeded)?;
        let told = self.told(run, end).await?;
        if told != self.told {
            return Err(format!("it told {told:?}, a clean run tells {:?}", self.told));
        }
        same(&self.world.snapshot(self.round).await, &self.done, "after a clean run")
    }

    async fn is_as_before(&self, run: &Run, end: State, code: &str) -> Result<(), String> {
        expect(end, State::Compensated)?;
        let end = run.engine.wait(&run.key, Duration::ZERO).await.map_err(|why| why.to_string())?;
        let found = end.and_then(|end| end.code).unwrap_or_default();
        if !code.is_empty() && found != code {
            return Err(format!("it turned round for `{found}`, not for `{code}`"));
        }
        self.told(run, State::Compensated).await?;
        same(&self.world.snapshot(self.round).await, &run.before, "before")
    }

    pub(super) async fn locks_are_free(&self, run: &Run) -> Result<(), String> {
        let held = self.locks(run).await?;
        if held == 0 { Ok(()) } else { Err(format!("{held} locks are still claimed")) }
    }

    async fn locks_are_kept(&self, run: &Run) -> Result<(), String> {
        let wanted = self.definition.locks.is_some();
        if !wanted || self.locks(run).await? > 0 { Ok(()) } else { Err("its locks were let go".to_owned()) }
    }

    async fn locks(&self, run: &Run) -> Result<usize, String> {
        let locks = run.engine.locks().await.map_err(|why| why.to_string())?;
        Ok(locks.iter().filter(|lock| lock.saga == run.key).count())
    }
}

/// A rule that says no, and code that panics, do so again when asked again; what is lost or busy is so once.
fn once(step: usize, phase: Phase, how: How) -> Fault {
    let times = if matches!(how, How::Refuse | How::Panic | How::Unlayable) { u32::MAX } else { 1 };
    Fault { step, phase, how, times }
}

fn expect(found: State, wanted: State) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("it is {found:?}, not {wanted:?}")) }
}

fn same(found: &Json, wanted: &Json, when: &str) -> Result<(), String> {
    if found == wanted { Ok(()) } else { Err(format!("the world is {found}, {when} it was {wanted}")) }
}
