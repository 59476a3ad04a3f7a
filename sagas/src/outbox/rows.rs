//! The rows of the outbox.
//! Who enters: events with their facts, inside the transaction they belong to; readers with a cursor; the sweeper.
//! What leaves: rows as types; numbers that only grow.

use audit::{SqlFault, Statement, Tx, View, params};

use super::feed::Wanted;
use super::publish::News;
use super::{PLACES, Published, Topic};
use crate::ids::{EffectId, SagaKey, Scope};
use crate::store::{SERVICE, big, micros, micros_or_null, saga_id, scope};

pub(crate) static STATEMENTS: [&Statement; 14] = [
    &LAST_WITHIN,
    &INSERT,
    &SAID,
    &PAGE,
    &PAGE_ALL,
    &NEWEST,
    &NEWEST_ALL,
    &SWEPT,
    &SWEPT_ALL,
    &OLDEST,
    &OLDEST_ALL,
    &OVER,
    &MARK_SWEPT,
    &SWEEP,
];

static LAST_WITHIN: Statement = Statement::across_workspaces(
    SERVICE,
    "an event's number counts the events of its transaction, whosever they are",
    "SELECT MAX(number) FROM outbox WHERE number > ?1 AND number < ?2",
);
static INSERT: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO outbox (workspace, number, topic, subject, body, workflow, saga, act, withdraws, request_id, trace_id, at_us)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)
     ON CONFLICT (workspace, saga, act, topic, subject) DO NOTHING",
);
static SAID: Statement = Statement::tenant(
    SERVICE,
    "SELECT number FROM outbox WHERE workspace = ?1 AND saga = ?2 AND act = ?3 AND topic = ?4 AND subject = ?5",
);
// A topic is asked for by its whole name, or by whole words of its beginning. Empty means all.
static PAGE: Statement = Statement::tenant(
    SERVICE,
    "SELECT workspace, number, topic, subject, body, workflow, saga, withdraws, request_id, trace_id, at_us
     FROM outbox WHERE workspace = ?1 AND number > ?2
        AND (?3 = '' OR topic = ?3 OR substr(topic, 1, length(?3) + 1) = ?3 || '.') AND (length(?4) = 0 OR saga = ?4)
     ORDER BY number LIMIT ?5",
);
static PAGE_ALL: Statement = Statement::across_workspaces(
    SERVICE,
    "an operator follows the events of the whole appliance",
    "SELECT workspace, number, topic, subject, body, workflow, saga, withdraws, request_id, trace_id, at_us
     FROM outbox WHERE number > ?1
        AND (?2 = '' OR topic = ?2 OR substr(topic, 1, length(?2) + 1) = ?2 || '.') AND (length(?3) = 0 OR saga = ?3)
     ORDER BY number LIMIT ?4",
);
static NEWEST: Statement = Statement::tenant(SERVICE, "SELECT MAX(number) FROM outbox WHERE workspace = ?1");
static NEWEST_ALL: Statement = Statement::across_workspaces(
    SERVICE,
    "an operator's cursor is held against the newest event of all",
    "SELECT MAX(number) FROM outbox",
);
static SWEPT: Statement = Statement::tenant(SERVICE, "SELECT number FROM outbox_swept WHERE workspace = ?1");
static SWEPT_ALL: Statement = Statement::across_workspaces(
    SERVICE,
    "an operator's cursor is held against what is gone of any workspace",
    "SELECT MAX(number) FROM outbox_swept",
);
static OLDEST: Statement =
    Statement::tenant(SERVICE, "SELECT number FROM outbox WHERE workspace = ?1 ORDER BY number LIMIT 1");
static OLDEST_ALL: Statement = Statement::across_workspaces(
    SERVICE,
    "the age of the oldest event of all is shown, and an operator's cursor held against it",
    "SELECT number, at_us FROM outbox ORDER BY number LIMIT ?1",
);
static OVER: Statement = Statement::across_workspaces(
    SERVICE,
    "events whose time is over are looked for by their age, in every workspace",
    "SELECT MAX(number) FROM (SELECT number FROM outbox WHERE at_us < ?1 ORDER BY at_us LIMIT ?2) AS over",
);
static MARK_SWEPT: Statement = Statement::across_workspaces(
    SERVICE,
    "up to where events are gone is noted for each workspace before they go",
    "INSERT INTO outbox_swept (workspace, number)
     SELECT workspace, MAX(number) FROM outbox WHERE number <= ?1 GROUP BY workspace
     ON CONFLICT (workspace) DO UPDATE SET number = excluded.number",
);
static SWEEP: Statement = Statement::across_workspaces(
    SERVICE,
    "events whose time is over go, in every workspace",
    "DELETE FROM outbox WHERE number <= ?1",
);

/// A row to be.
pub(super) struct Row<'a> {
    pub(super) number: u64,
    pub(super) body: &'a str,
    pub(super) news: &'a News<'a>,
}

/// The next number of the transaction whose first entry is this one; none when its places are taken.
pub(super) fn next(tx: &Tx<'_>, entry: u64) -> Result<Option<u64>, SqlFault> {
    let first = entry * PLACES;
    let last =
        tx.one(&LAST_WITHIN, params![big(first), big(first + PLACES)], |row| micros_or_null(row, 0))?;
    let number = last.flatten().unwrap_or(first) + 1;
    Ok((number < first + PLACES).then_some(number))
}

pub(super) fn insert(tx: &Tx<'_>, row: &Row<'_>) -> Result<(), SqlFault> {
    let News { topic, subject, saga, workflow, origin, act, withdraws, now_us, .. } = row.news;
    let params = params![
        big(row.number),
        topic.as_str(),
        *subject,
        row.body,
        *workflow,
        saga.id.bytes(),
        act.as_ref().map(EffectId::bytes),
        withdraws.map(big),
        origin.request.as_str(),
        origin.trace_id(),
        big(*now_us)
    ];
    tx.within(saga.scope.rows()).run(&INSERT, params).map(drop)
}

/// The number under which an act of a saga said something, if that is still kept.
pub(super) fn said(
    tx: &Tx<'_>,
    saga: &SagaKey,
    act: &EffectId,
    (topic, subject): (Topic, &str),
) -> Result<Option<u64>, SqlFault> {
    let params = params![saga.id.bytes(), act.bytes(), topic.as_str(), subject];
    tx.within(saga.scope.rows()).one(&SAID, params, |row| micros(row, 0))
}

/// Where a feed begins and ends: up to which number events are gone, the oldest that is kept, the newest there ever was.
pub(super) struct Edges {
    pub(super) swept: u64,
    pub(super) oldest: Option<u64>,
    pub(super) newest: u64,
}

pub(super) fn edges(view: &View<'_>, of: Option<&Scope>) -> Result<Edges, SqlFault> {
    let number = |row: &audit::Row<'_>| micros_or_null(row, 0);
    let (swept, oldest, newest) = match of {
        Some(scope) => {
            let within = view.within(scope.rows());
            (
                within.one(&SWEPT, params![], number)?,
                within.one(&OLDEST, params![], number)?,
                within.one(&NEWEST, params![], number)?,
            )
        }
        None => (
            view.one(&SWEPT_ALL, params![], number)?,
            view.one(&OLDEST_ALL, params![1], number)?,
            view.one(&NEWEST_ALL, params![], number)?,
        ),
    };
    let swept = swept.flatten().unwrap_or_default();
    Ok(Edges { swept, oldest: oldest.flatten(), newest: newest.flatten().unwrap_or_default().max(swept) })
}

pub(super) fn page(view: &View<'_>, wanted: &Wanted, after: u64) -> Result<Vec<Published>, SqlFault> {
    let saga: &[u8] = wanted.saga.as_ref().map_or(&[], |saga| saga.bytes());
    let params = params![big(after), wanted.topic.as_str(), saga, big(wanted.rows_max)];
    match &wanted.scope {
        Some(scope) => view.within(scope.rows()).all(&PAGE, params, published),
        None => view.all(&PAGE_ALL, params, published),
    }
}

fn published(row: &audit::Row<'_>) -> Result<Published, SqlFault> {
    Ok(Published {
        scope: scope(row, 0)?,
        number: micros(row, 1)?,
        topic: row.text(2)?,
        subject: row.text(3)?,
        body: serde_json::from_str(&row.text(4)?).map_err(|_| SqlFault::Malformed { column: 4 })?,
        workflow: row.text(5)?,
        saga: saga_id(row, 6)?,
        withdraws: micros_or_null(row, 7)?,
        request: row.text(8)?,
        trace: row.text_or_null(9)?,
        at_us: micros(row, 10)?,
    })
}

/// The moment of the oldest event.
pub(super) fn oldest(tx: &Tx<'_>) -> Result<Option<u64>, SqlFault> {
    tx.one(&OLDEST_ALL, params![1], |row| micros(row, 1))
}

/// The last of the oldest events that were written before a moment.
pub(super) fn over(tx: &Tx<'_>, before_us: u64, rows_max: usize) -> Result<Option<u64>, SqlFault> {
    Ok(tx.one(&OVER, params![big(before_us), big(rows_max)], |row| micros_or_null(row, 0))?.flatten())
}

/// Lets go of everything up to a number, and notes so for each workspace that loses something.
pub(super) fn sweep(tx: &Tx<'_>, up_to: u64) -> Result<usize, SqlFault> {
    tx.run(&MARK_SWEPT, params![big(up_to)])?;
    tx.run(&SWEEP, params![big(up_to)])
}
