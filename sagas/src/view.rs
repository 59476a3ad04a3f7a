//! What people and programs see of a saga: lists, one saga with all its steps, its log.
//! Who enters: reads of the API, held to one scope or an operator's over all.
//! What leaves: plain values that serialise; nothing that was sealed, except the result of one that is over.

use audit::{ReadRefused, SqlFault};
use serde::Serialize;

use crate::define::Definition;
use crate::engine::Engine;
use crate::ids::{Phase, SagaId, SagaKey, Scope};
use crate::limits::PAGE_ROWS_MAX;
use crate::lock::{HeldLock, hold};
use crate::state::State;
use crate::store::{self, LogKind, LogRow, SagaRow};

/// Which sagas a list shows.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this scope only; every scope when none is said, which is for operators.
    pub scope: Option<Scope>,
    /// Of this workflow only.
    pub workflow: Option<String>,
    /// In this state only.
    pub state: Option<State>,
    /// After this one: the last of the page before.
    pub after: Option<SagaId>,
    /// At most so many.
    pub rows_max: usize,
}

/// One line of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Whose it is; the workspace, or none for the appliance.
    pub workspace: Option<String>,
    /// Which.
    pub id: String,
    /// The workflow's name.
    pub workflow: String,
    /// Its version.
    pub version: u32,
    /// Where it stands.
    pub state: &'static str,
    /// The name of the step it stands at, if this build knows it.
    pub step: Option<&'static str>,
    /// Attempts at that step.
    pub attempt: u32,
    /// Who started it.
    pub actor: String,
    /// Why it does not go on, or turned round.
    pub error: Option<String>,
    /// When it is due again.
    pub due_us: Option<u64>,
    /// When it was started.
    pub created_us: u64,
    /// When it last moved.
    pub updated_us: u64,
    /// Whether this build has its definition; if not, it waits untouched.
    pub runnable: bool,
}

/// One step of one saga.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepView {
    /// Its name.
    pub name: &'static str,
    /// local, remote, wait, fan_out or child.
    pub kind: &'static str,
    /// Whether it is the point of no return.
    pub pivot: bool,
    /// ahead, current, done, undone, skipped or stuck.
    pub state: &'static str,
    /// Attempts, forward.
    pub attempts: u32,
    /// Attempts, back.
    pub undo_attempts: u32,
    /// When it was first tried.
    pub began_us: Option<u64>,
    /// When it was done, or undone.
    pub ended_us: Option<u64>,
    /// The last thing that went wrong with it.
    pub error: Option<String>,
}

/// One saga.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Detail {
    /// What a list shows.
    #[serde(flatten)]
    pub summary: Summary,
    /// Its steps, in order.
    pub steps: Vec<StepView>,
    /// Until when it must have reached its pivot.
    pub deadline_us: Option<u64>,
    /// Whether someone asked it to turn round.
    pub cancelled: bool,
    /// The request that started it.
    pub request: String,
    /// The trace that the start belonged to.
    pub traceparent: Option<String>,
    /// Whose child it is.
    pub parent: Option<String>,
    /// What its last step left behind, once it has succeeded and while that is kept.
    pub result: Option<serde_json::Value>,
    /// What a person can do now, in words.
    pub advice: Vec<String>,
}

impl Engine {
    /// A page of sagas, the newest first.
    ///
    /// # Errors
    /// Why the ledger could not be read.
    pub async fn list(&self, filter: Filter) -> Result<Vec<Summary>, ReadRefused<SqlFault>> {
        let catalog = self.inner().parts.catalog.clone();
        let rows = self.inner().parts.ledger.read(move |view| {
            let filter = store::ListFilter {
                scope: filter.scope.as_ref(),
                workflow: filter.workflow.as_deref().unwrap_or_default(),
                state: filter.state.map_or("", State::as_str),
                below: filter.after.map_or([0xff; 16], |id| *id.bytes()),
                rows_max: filter.rows_max.clamp(1, PAGE_ROWS_MAX),
            };
            store::list(view, &filter, |row| {
                let hash: [u8; 32] = store::bytes_or_bug(row, 13)?;
                let (workflow, version) = (row.text(2)?, store::small(row, 3)?);
                let def = catalog.pinned(&workflow, version, &hash);
                let scope = store::scope(row, 0)?;
                let state = store::state(row, 4)?;
                let cursor = store::count(row, 5)?;
                Ok(Summary {
                    workspace: scope.workspace().map(ToString::to_string),
                    id: store::saga_id(row, 1)?.to_string(),
                    step: def.and_then(|def| at(def, state, cursor)),
                    runnable: def.is_some(),
                    workflow,
                    version,
                    state: state.as_str(),
                    attempt: store::small(row, 6)?,
                    actor: row.text(7)?,
                    error: row.text_or_null(9)?,
                    due_us: store::micros_or_null(row, 10)?.filter(is_a_moment),
                    created_us: store::micros(row, 11)?,
                    updated_us: store::micros(row, 12)?,
                })
            })
        });
        rows.await
    }

    /// One saga with its steps.
    ///
    /// # Errors
    /// Why the ledger could not be read.
    pub async fn show(&self, key: &SagaKey) -> Result<Option<Detail>, ReadRefused<SqlFault>> {
        let wanted = key.clone();
        let read = move |view: &audit::View<'_>| {
            let row = store::saga(view, &wanted)?;
            Ok::<_, SqlFault>((row, store::log_page(view, &wanted, 0, usize::from(u16::MAX))?))
        };
        let (Some(row), log) = self.inner().parts.ledger.read(read).await? else { return Ok(None) };
        let result = self.inner().result_of(&row).await;
        let def = self.inner().parts.catalog.pinned(&row.workflow, row.version, &row.def_hash);
        Ok(Some(detail(&row, &log, def.map(AsRef::as_ref), result)))
    }

    /// How many sagas need a person, by workflow: for health.
    ///
    /// # Errors
    /// Why the ledger could not be read.
    pub async fn stuck(&self) -> Result<Vec<(String, u64)>, ReadRefused<SqlFault>> {
        self.inner().parts.ledger.read(store::stuck).await
    }

    /// Every lock that a saga holds or waits for: for operators.
    ///
    /// # Errors
    /// Why the ledger could not be read.
    pub async fn locks(&self) -> Result<Vec<HeldLock>, ReadRefused<SqlFault>> {
        self.inner().parts.ledger.read(hold::all).await
    }

    /// A page of a saga's log, the oldest first.
    ///
    /// # Errors
    /// Why the ledger could not be read.
    pub async fn log(
        &self,
        key: &SagaKey,
        after: u64,
        rows_max: usize,
    ) -> Result<Vec<LogRow>, ReadRefused<SqlFault>> {
        let key = key.clone();
        let rows_max = rows_max.clamp(1, PAGE_ROWS_MAX);
        self.inner().parts.ledger.read(move |view| store::log_page(view, &key, after, rows_max)).await
    }
}

fn at(def: &Definition, state: State, cursor: usize) -> Option<&'static str> {
    let back = matches!(state, State::Unwinding | State::StuckUndo);
    let place = if back { cursor.checked_sub(1)? } else { cursor };
    if state.is_over() { None } else { def.steps.get(place).map(|step| step.name) }
}

fn is_a_moment(at_us: &u64) -> bool {
    *at_us < i64::MAX as u64
}

fn detail(
    row: &SagaRow,
    log: &[LogRow],
    def: Option<&Definition>,
    result: Option<serde_json::Value>,
) -> Detail {
    let summary = Summary {
        workspace: row.key.scope.workspace().map(ToString::to_string),
        id: row.key.id.to_string(),
        workflow: row.workflow.clone(),
        version: row.version,
        state: row.state.as_str(),
        step: def.and_then(|def| at(def, row.state, row.cursor)),
        attempt: row.attempt,
        actor: row.origin.actor.clone(),
        error: row.trouble.as_ref().map(|it| it.words.clone()),
        due_us: row.wake_us.filter(is_a_moment),
        created_us: row.created_us,
        updated_us: row.updated_us,
        runnable: def.is_some(),
    };
    let steps = def.map(|def| steps(row, log, def)).unwrap_or_default();
    Detail {
        advice: advice(row, def),
        summary,
        steps,
        deadline_us: row.deadline_us,
        cancelled: row.cancel,
        request: row.origin.request.clone(),
        traceparent: row.origin.traceparent.clone(),
        parent: row.parent.as_ref().map(|it| it.key.id.to_string()),
        result,
    }
}

fn steps(row: &SagaRow, log: &[LogRow], def: &Definition) -> Vec<StepView> {
    let view = |(place, step): (usize, &crate::define::step::Step)| {
        let lines = || log.iter().filter(move |line| line.step == place);
        let attempts =
            |phase| lines().filter(|it| it.phase == phase).map(|it| it.attempt).max().unwrap_or_default();
        let ends = |it: &&LogRow| matches!(it.kind, LogKind::Done | LogKind::Skipped);
        StepView {
            name: step.name,
            kind: step.act.kind(),
            pivot: step.role == crate::define::step::Role::Pivot,
            state: step_state(row, place, lines().rfind(ends)),
            attempts: attempts(Phase::Do),
            undo_attempts: attempts(Phase::Undo),
            began_us: lines().map(|it| it.at_us).next(),
            ended_us: lines().filter(ends).map(|it| it.at_us).next_back(),
            error: lines().filter_map(|it| it.error.clone()).next_back(),
        }
    };
    def.steps.iter().enumerate().map(view).collect()
}

fn step_state(row: &SagaRow, place: usize, end: Option<&LogRow>) -> &'static str {
    let back = matches!(row.state, State::Unwinding | State::StuckUndo);
    let here = if back { row.cursor == place + 1 } else { row.cursor == place };
    match (row.state, end.map(|line| (line.phase, line.kind))) {
        (State::StuckForward | State::StuckUndo, _) if here => "stuck",
        (state, _) if here && !state.is_over() => "current",
        (_, Some((Phase::Undo, LogKind::Done))) => "undone",
        (_, Some((Phase::Undo, _))) => "skipped",
        (_, Some((Phase::Do, _))) => "done",
        (_, None) => "ahead",
    }
}

fn advice(row: &SagaRow, def: Option<&Definition>) -> Vec<String> {
    let mut advice = Vec::new();
    let mut say = |words: &str| advice.push(words.to_owned());
    let past = def.is_some_and(|def| row.cursor > def.pivot() || (row.cursor == def.pivot() && row.doubt));
    match row.state {
        _ if def.is_none() => {
            say("install a build that has this version of the workflow; it goes on from here")
        }
        State::StuckForward => {
            say("remove the cause, then `retry`");
            say("if the step has happened, `supply-result` with the evidence");
            if !past {
                say("`unwind` to undo what was done");
            }
            say("`abandon` to let go; its locks are released and nothing is undone");
        }
        State::StuckUndo => {
            say("remove the cause, then `retry`");
            say("if the undo is not needed or was done by hand, `skip-undo` with the reason");
            say("`resume-forward` to go on after all, while no later step is undone");
            say("`abandon` to let go; its locks are released and nothing more is undone");
        }
        State::Pending | State::Running | State::Waiting | State::Backoff if !past => {
            say("`cancel` to undo what was done");
        }
        _ => {}
    }
    advice
}
