//! The row of a saga: everything that decides what happens next.
//! Who enters: a row to save, always with the epoch and cursor it was read at.
//! What leaves: rows as types; a save that hits nothing says so, and then another engine has the saga.

use std::sync::Arc;

use audit::{Row, SqlFault, Statement, Tx, View, params};

use super::SERVICE;
use super::columns::{big, bytes_or_bug, count, micros, micros_or_null, saga_id, scope, small};
use crate::context::Origin;
use crate::ids::{SagaKey, Scope};
use crate::state::State;

/// Whose child a saga is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) key: SagaKey,
    pub(crate) step: usize,
}

/// Why the last attempt did not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) code: String,
    pub(crate) words: String,
}

/// A saga's row.
#[derive(Clone, Debug)]
pub(crate) struct SagaRow {
    pub(crate) key: SagaKey,
    pub(crate) workflow: String,
    pub(crate) version: u32,
    pub(crate) def_hash: [u8; 32],
    pub(crate) state: State,
    pub(crate) cursor: usize,
    pub(crate) round: u32,
    pub(crate) epoch: i64,
    /// Counted on by each save; a copy with an older one saves nothing.
    pub(crate) revision: i64,
    pub(crate) wake_us: Option<u64>,
    pub(crate) deadline_us: Option<u64>,
    pub(crate) step_until_us: Option<u64>,
    pub(crate) budget_until_us: Option<u64>,
    pub(crate) attempt: u32,
    /// A call, a wait, a child or the items of the step at the cursor are on record and have no outcome yet.
    pub(crate) doubt: bool,
    /// The step at the cursor was begun. Of a pivot: and it is not certain that nothing of it happened.
    pub(crate) begun: bool,
    /// From when to when the wait at the cursor lasts, in proven time, if its time protects somebody.
    pub(crate) proven: Option<(u64, u64)>,
    pub(crate) cancel: bool,
    pub(crate) input_sealed: Option<Vec<u8>>,
    pub(crate) result_sealed: Option<Vec<u8>>,
    pub(crate) result_until_us: Option<u64>,
    /// The claims it holds or waits for, as [`crate::lock::hold`] wrote them; none once they are released.
    pub(crate) locks: Option<String>,
    pub(crate) parent: Option<Parent>,
    pub(crate) origin: Arc<Origin>,
    pub(crate) trouble: Option<Trouble>,
    pub(crate) created_us: u64,
    pub(crate) updated_us: u64,
}

pub(crate) static INSERT: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO saga (workspace, id, workflow, version, def_hash, state, cursor, round, epoch, owner, wake_us,
        deadline_us, attempt, doubt, cancel, input_sealed, parent_workspace, parent_id, parent_step, actor, request_id,
        traceparent, created_us, updated_us, locks, ip, user_agent, step_until_us)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, 1, ?7, ?8, ?9, 0, 0, 0, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?17, ?18,
        ?19, ?20, ?21)",
);
pub(crate) static BY_ID: Statement = Statement::tenant(
    SERVICE,
    "SELECT workspace, id, workflow, version, def_hash, state, cursor, round, epoch, wake_us, deadline_us,
        step_until_us, budget_until_us, attempt, doubt, cancel, input_sealed, result_sealed, result_until_us,
        parent_workspace, parent_id, parent_step, actor, request_id, traceparent, error_code, error, created_us,
        updated_us, locks, ip, user_agent, revision, begun, proven_from_us, proven_until_us
     FROM saga WHERE workspace = ?1 AND id = ?2",
);
pub(crate) static OWNED: Statement =
    Statement::tenant(SERVICE, "SELECT 1 FROM saga WHERE workspace = ?1 AND id = ?2 AND owner = ?3");
// The one way in which a saga's row moves on. Epoch and revision must be what its owner last wrote. A cancellation that came
// since the owner read the row keeps the moment it asked for: should the process die before it is told, the timer is there.
pub(crate) static SAVE: Statement = Statement::tenant(
    SERVICE,
    "UPDATE saga SET state = ?5, cursor = ?6, round = ?7,
        wake_us = CASE WHEN cancel = 1 AND ?21 = 0 AND ?8 IS NOT NULL THEN MIN(wake_us, ?8) ELSE ?8 END,
        deadline_us = ?9, step_until_us = ?10, budget_until_us = ?11, attempt = ?12, doubt = ?13,
        input_sealed = CASE WHEN ?14 = 1 THEN input_sealed ELSE NULL END,
        result_sealed = ?15, result_until_us = ?16, error_code = ?17, error = ?18, updated_us = ?19,
        locks = CASE WHEN ?20 = 1 THEN locks ELSE NULL END, begun = ?22, proven_from_us = ?23, proven_until_us = ?24,
        revision = revision + 1
     WHERE workspace = ?1 AND id = ?2 AND epoch = ?3 AND revision = ?4 RETURNING cancel, revision",
);
pub(crate) static CLAIM_ALL: Statement = Statement::across_workspaces(
    SERVICE,
    "the engine takes over the sagas of every workspace when it starts",
    "UPDATE saga SET owner = ?1, epoch = epoch + 1, revision = revision + 1 WHERE wake_us IS NOT NULL AND owner <> ?1",
);
pub(crate) static CLAIM_ONE: Statement = Statement::tenant(
    SERVICE,
    "UPDATE saga SET owner = ?3, epoch = epoch + 1, revision = revision + 1 WHERE workspace = ?1 AND id = ?2
     RETURNING epoch, revision",
);
pub(crate) static DUE: Statement = Statement::across_workspaces(
    SERVICE,
    "the engine drives the sagas of every workspace when they fall due",
    "SELECT workspace, id FROM saga WHERE wake_us IS NOT NULL AND wake_us <= ?1 AND owner = ?2 ORDER BY wake_us LIMIT ?3",
);
pub(crate) static LIVE: Statement = Statement::across_workspaces(
    SERVICE,
    "the engine keeps the timers of every workspace's sagas",
    "SELECT workspace, id, wake_us FROM saga WHERE wake_us IS NOT NULL AND owner = ?1 ORDER BY wake_us LIMIT ?2",
);
pub(crate) static PROTECTIVE: Statement = Statement::across_workspaces(
    SERVICE,
    "after a jump of the clock the engine looks at every workspace's notices",
    "SELECT workspace, id FROM saga WHERE wake_us IS NOT NULL AND owner = ?1 AND proven_until_us IS NOT NULL",
);
pub(crate) static WAKE: Statement = Statement::tenant(
    SERVICE,
    "UPDATE saga SET wake_us = ?3 WHERE workspace = ?1 AND id = ?2 AND wake_us IS NOT NULL",
);
pub(crate) static CANCEL: Statement = Statement::tenant(
    SERVICE,
    "UPDATE saga SET cancel = 1, wake_us = ?3 WHERE workspace = ?1 AND id = ?2 AND cancel = 0 AND wake_us IS NOT NULL",
);
pub(crate) static CANCELLED: Statement =
    Statement::tenant(SERVICE, "SELECT cancel FROM saga WHERE workspace = ?1 AND id = ?2");
pub(crate) static LIST: Statement = Statement::tenant(
    SERVICE,
    "SELECT workspace, id, workflow, version, state, cursor, attempt, actor, error_code, error, wake_us, created_us,
        updated_us, def_hash
     FROM saga WHERE workspace = ?1 AND id < ?2 AND (?3 = '' OR workflow = ?3) AND (?4 = '' OR state = ?4)
     ORDER BY id DESC LIMIT ?5",
);
pub(crate) static LIST_ALL: Statement = Statement::across_workspaces(
    SERVICE,
    "an operator sees the sagas of the whole appliance",
    "SELECT workspace, id, workflow, version, state, cursor, attempt, actor, error_code, error, wake_us, created_us,
        updated_us, def_hash
     FROM saga WHERE id < ?1 AND (?2 = '' OR workflow = ?2) AND (?3 = '' OR state = ?3) ORDER BY id DESC LIMIT ?4",
);
pub(crate) static OF_REQUEST: Statement = Statement::across_workspaces(
    SERVICE,
    "an operator follows a request through the whole appliance",
    "SELECT workspace, id, workflow, version, def_hash FROM saga WHERE request_id = ?1 ORDER BY id LIMIT ?2",
);
pub(crate) static STUCK: Statement = Statement::across_workspaces(
    SERVICE,
    "health and metrics count the stuck sagas of the whole appliance",
    "SELECT workflow, COUNT(*) FROM saga WHERE state IN ('stuck_forward', 'stuck_undo') GROUP BY workflow",
);
pub(crate) static WIPE: Statement = Statement::across_workspaces(
    SERVICE,
    "results are wiped when their time is over, in every workspace",
    "UPDATE saga SET result_sealed = NULL, result_until_us = NULL WHERE result_until_us IS NOT NULL AND result_until_us <= ?1",
).erasing();

pub(crate) static OVER: Statement = Statement::across_workspaces(
    SERVICE,
    "runs that are over are looked for when their time is over, in every workspace",
    "SELECT workspace, id FROM saga
     WHERE wake_us IS NULL AND state IN ('succeeded', 'compensated', 'abandoned') AND updated_us <= ?1
     ORDER BY updated_us LIMIT ?2",
);
pub(crate) static FORGET: Statement = Statement::tenant(
    SERVICE,
    "DELETE FROM saga WHERE workspace = ?1 AND id = ?2 AND state IN ('succeeded', 'compensated', 'abandoned')",
);

impl SagaRow {
    /// Puts a new saga down.
    pub(crate) fn insert(&self, tx: &Tx<'_>, owner: &[u8; 16]) -> Result<(), SqlFault> {
        let parent = self.parent.as_ref();
        let params = params![
            self.key.id.bytes(),
            self.workflow.as_str(),
            self.version,
            &self.def_hash,
            self.state.as_str(),
            owner,
            self.wake_us.map(big),
            self.deadline_us.map(big),
            self.input_sealed.as_ref(),
            parent.map(|it| it.key.scope.rows().as_str()),
            parent.map(|it| it.key.id.bytes()),
            parent.map(|it| big(it.step)),
            self.origin.actor.as_str(),
            self.origin.request.as_str(),
            self.origin.traceparent.as_ref(),
            big(self.created_us),
            self.locks.as_ref(),
            self.origin.ip.as_ref(),
            self.origin.user_agent.as_str(),
            self.step_until_us.map(big)
        ];
        tx.within(self.key.scope.rows()).run(&INSERT, params).map(drop)
    }

    /// Writes the row as it now is over the row as it was when it was read, and counts its revision on; says whether a
    /// cancellation came in meanwhile, or that the row has moved on since.
    pub(crate) fn save(&mut self, tx: &Tx<'_>) -> Result<Saved, SqlFault> {
        let params = params![
            self.key.id.bytes(),
            self.epoch,
            self.revision,
            self.state.as_str(),
            big(self.cursor),
            self.round,
            self.wake_us.map(big),
            self.deadline_us.map(big),
            self.step_until_us.map(big),
            self.budget_until_us.map(big),
            self.attempt,
            self.doubt,
            self.input_sealed.is_some(),
            self.result_sealed.as_ref(),
            self.result_until_us.map(big),
            self.trouble.as_ref().map(|it| it.code.as_str()),
            self.trouble.as_ref().map(|it| it.words.as_str()),
            big(self.updated_us),
            self.locks.is_some(),
            self.cancel,
            self.begun,
            self.proven.map(|(from, _)| big(from)),
            self.proven.map(|(_, until)| big(until))
        ];
        let saved =
            tx.within(self.key.scope.rows()).one(&SAVE, params, |row| Ok((row.flag(0)?, row.integer(1)?)))?;
        match saved {
            Some((cancel, revision)) => {
                (self.cancel, self.revision) = (cancel, revision);
                Ok(Saved::Saved)
            }
            None => Ok(Saved::MovedOn),
        }
    }
}

/// What became of a save.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Saved {
    /// The row is as its owner wrote it.
    Saved,
    /// The row is another one by now: another engine's, or ours after a commit that this copy does not know.
    MovedOn,
}

/// Whether this engine is the one that drives it.
pub(crate) fn is_owned(view: &View<'_>, key: &SagaKey, owner: &[u8; 16]) -> Result<bool, SqlFault> {
    let params = params![key.id.bytes(), owner];
    Ok(view.within(key.scope.rows()).one(&OWNED, params, |_| Ok(()))?.is_some())
}

pub(crate) fn saga(view: &View<'_>, key: &SagaKey) -> Result<Option<SagaRow>, SqlFault> {
    view.within(key.scope.rows()).one(&BY_ID, params![key.id.bytes()], saga_row)
}

fn saga_row(row: &Row<'_>) -> Result<SagaRow, SqlFault> {
    let parent = match row.text_or_null(19)? {
        Some(_) => Some(Parent {
            key: SagaKey { scope: scope(row, 19)?, id: saga_id(row, 20)? },
            step: count(row, 21)?,
        }),
        None => None,
    };
    let trouble = match row.text_or_null(25)? {
        Some(code) => Some(Trouble { code, words: row.text(26)? }),
        None => None,
    };
    Ok(SagaRow {
        key: SagaKey { scope: scope(row, 0)?, id: saga_id(row, 1)? },
        workflow: row.text(2)?,
        version: small(row, 3)?,
        def_hash: bytes_or_bug(row, 4)?,
        state: state(row, 5)?,
        cursor: count(row, 6)?,
        round: small(row, 7)?,
        epoch: row.integer(8)?,
        revision: row.integer(32)?,
        wake_us: micros_or_null(row, 9)?,
        deadline_us: micros_or_null(row, 10)?,
        step_until_us: micros_or_null(row, 11)?,
        budget_until_us: micros_or_null(row, 12)?,
        attempt: small(row, 13)?,
        doubt: row.flag(14)?,
        begun: row.flag(33)?,
        proven: micros_or_null(row, 34)?.zip(micros_or_null(row, 35)?),
        cancel: row.flag(15)?,
        input_sealed: row.blob_or_null(16)?,
        result_sealed: row.blob_or_null(17)?,
        result_until_us: micros_or_null(row, 18)?,
        parent,
        origin: Arc::new(Origin {
            actor: row.text(22)?,
            request: row.text(23)?,
            traceparent: row.text_or_null(24)?,
            ip: row.text_or_null(30)?,
            user_agent: row.text(31)?,
        }),
        trouble,
        created_us: micros(row, 27)?,
        updated_us: micros(row, 28)?,
        locks: row.text_or_null(29)?,
    })
}

pub(crate) fn state(row: &Row<'_>, column: usize) -> Result<State, SqlFault> {
    State::from_word(&row.text(column)?).ok_or(SqlFault::Malformed { column })
}

/// Takes over every live saga that is not this engine's already.
pub(crate) fn claim_all(tx: &Tx<'_>, owner: &[u8; 16]) -> Result<usize, SqlFault> {
    tx.run(&CLAIM_ALL, params![owner])
}

/// Takes over one saga, whoever has it; says its new epoch and revision.
pub(crate) fn claim_one(
    tx: &Tx<'_>,
    key: &SagaKey,
    owner: &[u8; 16],
) -> Result<Option<(i64, i64)>, SqlFault> {
    let read = |row: &Row<'_>| Ok((row.integer(0)?, row.integer(1)?));
    tx.within(key.scope.rows()).one(&CLAIM_ONE, params![key.id.bytes(), owner], read)
}

/// The sagas that are due.
pub(crate) fn due(
    view: &View<'_>,
    owner: &[u8; 16],
    now_us: u64,
    rows_max: usize,
) -> Result<Vec<SagaKey>, SqlFault> {
    view.all(&DUE, params![big(now_us), owner, big(rows_max)], key)
}

/// The sagas with a timer, the soonest first.
pub(crate) fn live(
    view: &View<'_>,
    owner: &[u8; 16],
    rows_max: usize,
) -> Result<Vec<(SagaKey, u64)>, SqlFault> {
    view.all(&LIVE, params![owner, big(rows_max)], |row| Ok((key(row)?, micros(row, 2)?)))
}

/// The sagas at a wait that protects.
pub(crate) fn protective_waits(view: &View<'_>, owner: &[u8; 16]) -> Result<Vec<SagaKey>, SqlFault> {
    view.all(&PROTECTIVE, params![owner], key)
}

/// Lets a live saga fall due.
pub(crate) fn wake(tx: &Tx<'_>, key: &SagaKey, at_us: u64) -> Result<bool, SqlFault> {
    Ok(tx.within(key.scope.rows()).run(&WAKE, params![key.id.bytes(), big(at_us)])? == 1)
}

/// Asks a live saga to unwind.
pub(crate) fn ask_to_cancel(tx: &Tx<'_>, key: &SagaKey, now_us: u64) -> Result<bool, SqlFault> {
    Ok(tx.within(key.scope.rows()).run(&CANCEL, params![key.id.bytes(), big(now_us)])? == 1)
}

/// Whether somebody has asked it to unwind, be it a moment ago.
pub(crate) fn is_cancelled(tx: &Tx<'_>, key: &SagaKey) -> Result<bool, SqlFault> {
    Ok(tx
        .within(key.scope.rows())
        .one(&CANCELLED, params![key.id.bytes()], |row| row.flag(0))?
        .unwrap_or(false))
}

/// A saga that a request started, itself or through another, and its definition.
pub(crate) struct Begun {
    pub(crate) key: SagaKey,
    pub(crate) workflow: String,
    pub(crate) version: u32,
    pub(crate) def_hash: [u8; 32],
}

/// The sagas that a request started.
pub(crate) fn of_request(view: &View<'_>, request: &str, rows_max: usize) -> Result<Vec<Begun>, SqlFault> {
    view.all(&OF_REQUEST, params![request, big(rows_max)], |row| {
        let (workflow, version) = (row.text(2)?, small(row, 3)?);
        Ok(Begun { key: key(row)?, workflow, version, def_hash: bytes_or_bug(row, 4)? })
    })
}

/// How many sagas are stuck, by workflow.
pub(crate) fn stuck(view: &View<'_>) -> Result<Vec<(String, u64)>, SqlFault> {
    view.all(&STUCK, params![], |row| Ok((row.text(0)?, micros(row, 1)?)))
}

/// Runs that were over by then, the oldest first.
pub(crate) fn over(view: &View<'_>, until_us: u64, rows_max: usize) -> Result<Vec<SagaKey>, SqlFault> {
    view.all(&OVER, params![big(until_us), big(rows_max)], key)
}

/// Forgets a run that is over, with all its rows here.
pub(crate) fn forget(tx: &Tx<'_>, key: &SagaKey) -> Result<(), SqlFault> {
    let within = tx.within(key.scope.rows());
    if within.run(&FORGET, params![key.id.bytes()])? == 1 {
        for statement in [&super::log::FORGET_LOG, &super::log::FORGET_ITEMS, &super::log::FORGET_SIGNALS] {
            within.run(statement, params![key.id.bytes()])?;
        }
    }
    Ok(())
}

/// Forgets results whose time is over.
pub(crate) fn wipe_results(tx: &Tx<'_>, now_us: u64) -> Result<usize, SqlFault> {
    tx.run(&WIPE, params![big(now_us)])
}

fn key(row: &Row<'_>) -> Result<SagaKey, SqlFault> {
    Ok(SagaKey { scope: scope(row, 0)?, id: saga_id(row, 1)? })
}

/// Which sagas a list shows; empty text lets all pass.
pub(crate) struct ListFilter<'a> {
    pub(crate) scope: Option<&'a Scope>,
    pub(crate) workflow: &'a str,
    pub(crate) state: &'a str,
    pub(crate) below: [u8; 16],
    pub(crate) rows_max: usize,
}

pub(crate) fn list<T>(
    view: &View<'_>,
    filter: &ListFilter<'_>,
    read: impl FnMut(&Row<'_>) -> Result<T, SqlFault>,
) -> Result<Vec<T>, SqlFault> {
    let params = params![&filter.below, filter.workflow, filter.state, big(filter.rows_max)];
    match filter.scope {
        Some(scope) => view.within(scope.rows()).all(&LIST, params, read),
        None => view.all(&LIST_ALL, params, read),
    }
}
