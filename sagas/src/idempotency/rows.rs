//! The rows of idempotency keys.
//! Who enters: claims, inside a transaction; each change carries the epoch of the claim that makes it.
//! What leaves: rows as types, and whether a change hit the claim it was for.

use std::collections::HashMap;

use audit::{SqlFault, Statement, Tx, View, params};

use super::{Key, Whose};
use crate::ids::SagaKey;
use crate::store::{self, SERVICE, big, saga_id};

pub(crate) static STATEMENTS: [&Statement; 15] = [
    &INSERT,
    &BY_KEY,
    &RENEW,
    &TAKE_OVER,
    &ATTACH,
    &KEEP,
    &LET_GO,
    &TAKE_BACK,
    &COUNT_REPLAY,
    &SWEEP,
    &WIPE_SECRETS,
    &RELEASE,
    &HELD,
    &HOLD_MORE,
    &RESIZE,
];

static INSERT: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO idempotency (workspace, principal, key, fingerprint, state, epoch, claim_until_us, kept_us, expires_us, replays)
     VALUES (?1, ?2, ?3, ?4, 'claimed', ?5, ?6, ?7, ?8, 0) ON CONFLICT (workspace, principal, key) DO NOTHING",
);
static BY_KEY: Statement = Statement::tenant(
    SERVICE,
    "SELECT fingerprint, state, epoch, claim_until_us, saga_scope, saga, status, headers, body_sealed, location,
        secret_sealed, secret_until_us, kept_us, expires_us
     FROM idempotency WHERE workspace = ?1 AND principal = ?2 AND key = ?3",
);
static RENEW: Statement = Statement::tenant(
    SERVICE,
    "UPDATE idempotency SET fingerprint = ?4, state = 'claimed', epoch = ?5, claim_until_us = ?6, saga_scope = NULL,
        saga = NULL, status = NULL, headers = NULL, body_sealed = NULL, location = NULL,
        secret_sealed = NULL, secret_until_us = NULL, kept_us = ?7, expires_us = ?8, replays = 0
     WHERE workspace = ?1 AND principal = ?2 AND key = ?3",
);
static TAKE_OVER: Statement = Statement::tenant(
    SERVICE,
    "UPDATE idempotency SET epoch = epoch + 1, claim_until_us = ?5
     WHERE workspace = ?1 AND principal = ?2 AND key = ?3 AND epoch = ?4 AND state = 'claimed'",
);
static ATTACH: Statement = Statement::tenant(
    SERVICE,
    "UPDATE idempotency SET saga_scope = ?5, saga = ?6
     WHERE workspace = ?1 AND principal = ?2 AND key = ?3 AND epoch = ?4 AND state = 'claimed'",
);
static KEEP: Statement = Statement::tenant(
    SERVICE,
    "UPDATE idempotency SET state = ?5, status = ?6, headers = ?7, body_sealed = ?8, location = ?9, secret_sealed = ?10,
        secret_until_us = ?11, expires_us = MIN(expires_us, ?12)
     WHERE workspace = ?1 AND principal = ?2 AND key = ?3 AND epoch = ?4 AND state = 'claimed'",
);
static LET_GO: Statement = Statement::tenant(
    SERVICE,
    "UPDATE idempotency SET claim_until_us = 0
     WHERE workspace = ?1 AND principal = ?2 AND key = ?3 AND epoch = ?4 AND state = 'claimed'",
);
static TAKE_BACK: Statement = Statement::tenant(
    SERVICE,
    "UPDATE idempotency SET claim_until_us = 0, status = NULL, headers = NULL, body_sealed = NULL, location = NULL
     WHERE workspace = ?1 AND principal = ?2 AND key = ?3 AND epoch = ?4 AND state = 'claimed'",
);
static COUNT_REPLAY: Statement = Statement::tenant(
    SERVICE,
    "UPDATE idempotency SET replays = replays + 1 WHERE workspace = ?1 AND principal = ?2 AND key = ?3 RETURNING replays",
);
static SWEEP: Statement = Statement::across_workspaces(
    SERVICE,
    "keys whose time is over go, in every workspace",
    "DELETE FROM idempotency WHERE (workspace, principal, key) IN (
        SELECT workspace, principal, key FROM idempotency
        WHERE expires_us <= ?1 AND NOT (state = 'claimed' AND claim_until_us > ?1)
            AND NOT EXISTS (SELECT 1 FROM saga WHERE saga.workspace = idempotency.saga_scope
                AND saga.id = idempotency.saga AND saga.state NOT IN ('succeeded', 'compensated', 'abandoned'))
        ORDER BY expires_us LIMIT ?2)
     RETURNING workspace, COALESCE(LENGTH(body_sealed), 0)",
);
static WIPE_SECRETS: Statement = Statement::across_workspaces(
    SERVICE,
    "one-time secrets are wiped when their time is over, in every workspace",
    "UPDATE idempotency SET secret_sealed = NULL WHERE secret_until_us IS NOT NULL AND secret_until_us <= ?1 AND secret_sealed IS NOT NULL",
).erasing();
static RELEASE: Statement = Statement::across_workspaces(
    SERVICE,
    "claims of the run before are let go, in every workspace",
    "UPDATE idempotency SET claim_until_us = 0 WHERE state = 'claimed' AND claim_until_us > 0",
);
static HELD: Statement =
    Statement::tenant(SERVICE, "SELECT bytes FROM idempotency_held WHERE workspace = ?1");
static HOLD_MORE: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO idempotency_held (workspace, bytes) VALUES (?1, ?2)
     ON CONFLICT (workspace) DO UPDATE SET bytes = bytes + ?2",
);
static RESIZE: Statement = Statement::tenant(
    SERVICE,
    "UPDATE idempotency_held SET bytes = bytes + COALESCE(?4 - (SELECT COALESCE(LENGTH(body_sealed), 0) FROM idempotency
        WHERE workspace = ?1 AND principal = ?2 AND key = ?3), 0)
     WHERE workspace = ?1",
);

/// What a row takes besides the body of its answer: key, principal, headers, place, and its share of the indexes.
const ROW_BYTES: i64 = 1_024;

/// What is kept of an answer.
pub(super) struct Stored {
    pub(super) status: u16,
    pub(super) headers: String,
    pub(super) location: Option<String>,
    pub(super) body_sealed: Option<Vec<u8>>,
    pub(super) secret_sealed: Option<Vec<u8>>,
    pub(super) secret_until_us: Option<u64>,
    /// When the answer goes, if the row does not go before.
    pub(super) until_us: u64,
}

/// Whether somebody works on the request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Claimed,
    Finished,
}

impl State {
    fn text(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Finished => "finished",
        }
    }
}

pub(super) struct Row {
    pub(super) whose: Whose,
    pub(super) key: Key,
    pub(super) fingerprint: [u8; 32],
    pub(super) epoch: i64,
    pub(super) claim_until_us: u64,
    pub(super) saga: Option<SagaKey>,
    pub(super) state: State,
    /// The answer; while it is claimed, what is answered should no other come.
    pub(super) stored: Option<Stored>,
    pub(super) kept_us: u64,
    pub(super) expires_us: u64,
}

pub(super) fn insert(tx: &Tx<'_>, row: &Row) -> Result<bool, SqlFault> {
    let is_new = put(tx, &INSERT, row)? == 1;
    if is_new {
        tx.within(row.whose.scope.rows()).run(&HOLD_MORE, params![ROW_BYTES])?;
    }
    Ok(is_new)
}

/// The bytes that a workspace's answers take, with their rows.
pub(super) fn held_bytes(view: &View<'_>, whose: &Whose) -> Result<u64, SqlFault> {
    let held = view.within(whose.scope.rows()).one(&HELD, params![], |row| store::micros(row, 0))?;
    Ok(held.unwrap_or_default())
}

/// Counts the body that takes the place of the one that stands in the row. Before the row is changed.
fn resize(tx: &Tx<'_>, whose: &Whose, key: &Key, body_bytes: usize) -> Result<(), SqlFault> {
    let params = params![whose.principal.as_str(), key.as_str(), big(body_bytes)];
    tx.within(whose.scope.rows()).run(&RESIZE, params).map(drop)
}

pub(super) fn renew(tx: &Tx<'_>, row: &Row) -> Result<(), SqlFault> {
    resize(tx, &row.whose, &row.key, 0)?;
    put(tx, &RENEW, row).map(drop)
}

fn put(tx: &Tx<'_>, statement: &Statement, row: &Row) -> Result<usize, SqlFault> {
    let params = params![
        row.whose.principal.as_str(),
        row.key.as_str(),
        &row.fingerprint,
        row.epoch,
        big(row.claim_until_us),
        big(row.kept_us),
        big(row.expires_us)
    ];
    tx.within(row.whose.scope.rows()).run(statement, params)
}

pub(super) fn row(view: &View<'_>, whose: &Whose, key: &Key) -> Result<Option<Row>, SqlFault> {
    let params = params![whose.principal.as_str(), key.as_str()];
    view.within(whose.scope.rows()).one(&BY_KEY, params, |row| {
        let saga = match row.text_or_null(4)? {
            Some(_) => Some(SagaKey { scope: store::scope(row, 4)?, id: saga_id(row, 5)? }),
            None => None,
        };
        let state = match row.text(1)?.as_str() {
            "finished" => State::Finished,
            _ => State::Claimed,
        };
        Ok(Row {
            whose: whose.clone(),
            key: key.clone(),
            fingerprint: store::bytes_or_bug(row, 0)?,
            epoch: row.integer(2)?,
            claim_until_us: store::micros(row, 3)?,
            saga,
            state,
            stored: stored(row)?,
            kept_us: store::micros(row, 12)?,
            expires_us: store::micros(row, 13)?,
        })
    })
}

fn stored(row: &audit::Row<'_>) -> Result<Option<Stored>, SqlFault> {
    let Some(headers) = row.text_or_null(7)? else { return Ok(None) };
    Ok(Some(Stored {
        status: u16::try_from(row.integer(6)?).map_err(|_| SqlFault::Malformed { column: 6 })?,
        headers,
        body_sealed: row.blob_or_null(8)?,
        location: row.text_or_null(9)?,
        secret_sealed: row.blob_or_null(10)?,
        secret_until_us: store::micros_or_null(row, 11)?,
        until_us: store::micros(row, 13)?,
    }))
}

pub(super) fn take_over(
    tx: &Tx<'_>,
    whose: &Whose,
    key: &Key,
    epoch: i64,
    until_us: u64,
) -> Result<bool, SqlFault> {
    let params = params![whose.principal.as_str(), key.as_str(), epoch, big(until_us)];
    Ok(tx.within(whose.scope.rows()).run(&TAKE_OVER, params)? == 1)
}

pub(super) fn attach(
    tx: &Tx<'_>,
    whose: &Whose,
    key: &Key,
    epoch: i64,
    saga: &SagaKey,
) -> Result<bool, SqlFault> {
    let params =
        params![whose.principal.as_str(), key.as_str(), epoch, saga.scope.rows().as_str(), saga.id.bytes()];
    Ok(tx.within(whose.scope.rows()).run(&ATTACH, params)? == 1)
}

pub(super) fn keep(
    tx: &Tx<'_>,
    whose: &Whose,
    key: &Key,
    epoch: i64,
    (stored, state): (&Stored, State),
) -> Result<bool, SqlFault> {
    resize(tx, whose, key, stored.body_sealed.as_ref().map_or(0, Vec::len))?;
    let params = params![
        whose.principal.as_str(),
        key.as_str(),
        epoch,
        state.text(),
        stored.status,
        stored.headers.as_str(),
        stored.body_sealed.as_ref(),
        stored.location.as_ref(),
        stored.secret_sealed.as_ref(),
        stored.secret_until_us.map(big),
        big(stored.until_us)
    ];
    Ok(tx.within(whose.scope.rows()).run(&KEEP, params)? == 1)
}

pub(super) fn let_go(tx: &Tx<'_>, whose: &Whose, key: &Key, epoch: i64) -> Result<bool, SqlFault> {
    let params = params![whose.principal.as_str(), key.as_str(), epoch];
    Ok(tx.within(whose.scope.rows()).run(&LET_GO, params)? == 1)
}

pub(super) fn take_back(tx: &Tx<'_>, whose: &Whose, key: &Key, epoch: i64) -> Result<bool, SqlFault> {
    resize(tx, whose, key, 0)?;
    let params = params![whose.principal.as_str(), key.as_str(), epoch];
    Ok(tx.within(whose.scope.rows()).run(&TAKE_BACK, params)? == 1)
}

pub(super) fn count_replay(tx: &Tx<'_>, whose: &Whose, key: &Key) -> Result<u64, SqlFault> {
    let params = params![whose.principal.as_str(), key.as_str()];
    let counted = tx.within(whose.scope.rows()).one(&COUNT_REPLAY, params, |row| store::micros(row, 0))?;
    // A key that was swept meanwhile is not counted.
    Ok(counted.unwrap_or_default())
}

pub(super) fn release(tx: &Tx<'_>) -> Result<usize, SqlFault> {
    tx.run(&RELEASE, params![])
}

pub(super) fn wipe_secrets(tx: &Tx<'_>, now_us: u64) -> Result<usize, SqlFault> {
    tx.run(&WIPE_SECRETS, params![big(now_us)])
}

pub(super) fn sweep(tx: &Tx<'_>, now_us: u64, rows_max: usize) -> Result<usize, SqlFault> {
    let mut freed = HashMap::new();
    let gone = tx.all(&SWEEP, params![big(now_us), big(rows_max)], |row| {
        Ok((store::scope(row, 0)?, row.integer(1)?))
    })?;
    for (scope, body_bytes) in &gone {
        *freed.entry(scope).or_insert(0) += ROW_BYTES + body_bytes;
    }
    for (scope, bytes) in freed {
        tx.within(scope.rows()).run(&HOLD_MORE, params![-bytes])?;
    }
    Ok(gone.len())
}
