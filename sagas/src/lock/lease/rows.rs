//! The rows of leases and of those who stand in line for them.
//! Who enters: the verbs of leases, inside a transaction.
//! What leaves: rows as types; a lease's row is never deleted, because its fence must only grow.

use audit::{SqlFault, Statement, Tx, View, params};

use super::{Lease, LeaseRefused, LeaseRequest, micros};
use crate::ids::Scope;
use crate::store::{self, SERVICE, big};

pub(crate) static STATEMENTS: [&Statement; 13] = [
    &ADD,
    &BY_NAME,
    &SAVE,
    &LATEST,
    &HELD,
    &DRAW,
    &STAND,
    &LEAVE,
    &BEFORE,
    &WAITING,
    &CLEAR_LINES,
    &RAISE_FLOOR,
    &FORGET_FREE,
];

static ADD: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO lease (workspace, name, fence, tickets, until_us)
     VALUES (?1, ?2, COALESCE((SELECT fence FROM lease_floor WHERE workspace = ?1), 0),
        COALESCE((SELECT tickets FROM lease_floor WHERE workspace = ?1), 0), 0)
     ON CONFLICT (workspace, name) DO NOTHING",
);
static BY_NAME: Statement = Statement::tenant(
    SERVICE,
    "SELECT name, fence, lease_id, holder, request_key, since_us, until_us FROM lease WHERE workspace = ?1 AND name = ?2",
);
static SAVE: Statement = Statement::tenant(
    SERVICE,
    "UPDATE lease SET fence = ?3, lease_id = ?4, holder = ?5, request_key = ?6, since_us = ?7, until_us = ?8
     WHERE workspace = ?1 AND name = ?2 AND fence <= ?3",
);
// A fence that nobody was ever given is as wrong as an old one.
static LATEST: Statement =
    Statement::tenant(SERVICE, "SELECT 1 FROM lease WHERE workspace = ?1 AND name = ?2 AND fence = ?3");
static HELD: Statement = Statement::tenant(
    SERVICE,
    "SELECT name, fence, lease_id, holder, request_key, since_us, until_us FROM lease
     WHERE workspace = ?1 AND name > ?2 AND lease_id IS NOT NULL AND until_us > ?3 ORDER BY name LIMIT ?4",
);
static DRAW: Statement = Statement::tenant(
    SERVICE,
    "UPDATE lease SET tickets = tickets + 1 WHERE workspace = ?1 AND name = ?2 RETURNING tickets",
);
static STAND: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO lease_ticket (workspace, name, ticket, lease_id, holder, request_key, ttl_us, until_us)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
);
// Those whose time in line is over go with whoever leaves after them.
static LEAVE: Statement = Statement::tenant(
    SERVICE,
    "DELETE FROM lease_ticket WHERE workspace = ?1 AND name = ?2 AND (ticket = ?3 OR until_us <= ?4)",
);
static BEFORE: Statement = Statement::tenant(
    SERVICE,
    "SELECT COUNT(*) FROM lease_ticket WHERE workspace = ?1 AND name = ?2 AND ticket < ?3 AND until_us > ?4",
);
static WAITING: Statement = Statement::tenant(
    SERVICE,
    "SELECT COUNT(*) FROM lease_ticket WHERE workspace = ?1 AND name = ?2 AND until_us > ?3",
);

static CLEAR_LINES: Statement = Statement::across_workspaces(
    SERVICE,
    "places in line of the run before are given up, in every workspace",
    "DELETE FROM lease_ticket",
);
static RAISE_FLOOR: Statement = Statement::across_workspaces(
    SERVICE,
    "how far fences of names came that go is noted for each workspace",
    "INSERT INTO lease_floor (workspace, fence, tickets)
     SELECT workspace, MAX(fence), MAX(tickets) FROM lease WHERE until_us <= ?1 GROUP BY workspace
     ON CONFLICT (workspace) DO UPDATE SET fence = MAX(lease_floor.fence, excluded.fence),
        tickets = MAX(lease_floor.tickets, excluded.tickets)",
);
static FORGET_FREE: Statement = Statement::across_workspaces(
    SERVICE,
    "names of leases that nobody has held for long go, in every workspace",
    "DELETE FROM lease WHERE (workspace, name) IN (SELECT workspace, name FROM lease
        WHERE until_us <= ?1 AND NOT EXISTS (SELECT 1 FROM lease_ticket AS ticket
            WHERE ticket.workspace = lease.workspace AND ticket.name = lease.name) LIMIT ?2)",
);

pub(super) struct Row {
    name: String,
    pub(super) fence: i64,
    pub(super) lease_id: Option<[u8; 16]>,
    holder: Option<String>,
    pub(super) request_key: Option<String>,
    since_us: u64,
    pub(super) until_us: u64,
}

impl Row {
    pub(super) fn lease(&self, scope: &Scope) -> Option<Lease> {
        Some(Lease {
            scope: scope.clone(),
            name: self.name.clone(),
            lease_id: self.lease_id?,
            fence: self.fence,
            holder: self.holder.clone()?,
            since_us: self.since_us,
            until_us: self.until_us,
        })
    }

    pub(super) fn is_held_by(&self, lease_id: &[u8; 16], now_us: u64) -> bool {
        self.lease_id.as_ref() == Some(lease_id) && self.until_us > now_us
    }

    pub(super) fn is_of(&self, holder: &str) -> bool {
        self.holder.as_deref() == Some(holder)
    }

    pub(super) fn grant(&mut self, wish: &LeaseRequest, lease_id: [u8; 16], now_us: u64) {
        self.fence += 1;
        self.lease_id = Some(lease_id);
        self.holder = Some(wish.holder.clone());
        self.request_key.clone_from(&wish.request_key);
        self.since_us = now_us;
        self.until_us = now_us + micros(wish.ttl);
    }

    pub(super) fn clear(&mut self) {
        self.lease_id = None;
        self.holder = None;
        self.request_key = None;
        self.until_us = 0;
    }

    pub(super) fn held_by_another(&self) -> LeaseRefused {
        LeaseRefused::Held {
            name: self.name.clone(),
            holder: self.holder.clone().unwrap_or_default(),
            since_us: self.since_us,
            until_us: self.until_us,
        }
    }
}

fn read(row: &audit::Row<'_>) -> Result<Row, SqlFault> {
    let lease_id = match row.blob_or_null(2)? {
        Some(_) => Some(store::bytes_or_bug(row, 2)?),
        None => None,
    };
    Ok(Row {
        name: row.text(0)?,
        fence: row.integer(1)?,
        lease_id,
        holder: row.text_or_null(3)?,
        request_key: row.text_or_null(4)?,
        since_us: store::micros_or_null(row, 5)?.unwrap_or_default(),
        until_us: store::micros_or_null(row, 6)?.unwrap_or_default(),
    })
}

pub(super) fn row(view: &View<'_>, scope: &Scope, name: &str) -> Result<Option<Row>, SqlFault> {
    view.within(scope.rows()).one(&BY_NAME, params![name], read)
}

pub(super) fn row_or_new(tx: &Tx<'_>, scope: &Scope, name: &str) -> Result<Row, SqlFault> {
    if let Some(row) = row(tx, scope, name)? {
        return Ok(row);
    }
    tx.within(scope.rows()).run(&ADD, params![name])?;
    row(tx, scope, name)?.ok_or(SqlFault::Malformed { column: 0 })
}

pub(super) fn save(tx: &Tx<'_>, scope: &Scope, row: &Row) -> Result<(), SqlFault> {
    let params = params![
        row.name.as_str(),
        row.fence,
        row.lease_id.as_ref(),
        row.holder.as_ref(),
        row.request_key.as_ref(),
        big(row.since_us),
        big(row.until_us)
    ];
    tx.within(scope.rows()).run(&SAVE, params).map(drop)
}

pub(super) fn is_latest(tx: &Tx<'_>, scope: &Scope, name: &str, fence: i64) -> Result<bool, SqlFault> {
    Ok(tx.within(scope.rows()).one(&LATEST, params![name, fence], |_| Ok(()))?.is_some())
}

pub(super) fn held(
    view: &View<'_>,
    scope: &Scope,
    after: &str,
    now_us: u64,
    rows_max: usize,
) -> Result<Vec<Lease>, SqlFault> {
    let rows = view.within(scope.rows()).all(&HELD, params![after, big(now_us), big(rows_max)], read)?;
    Ok(rows.iter().filter_map(|row| row.lease(scope)).collect())
}

pub(super) fn draw(tx: &Tx<'_>, scope: &Scope, name: &str) -> Result<i64, SqlFault> {
    row_or_new(tx, scope, name)?;
    let ticket = tx.within(scope.rows()).one(&DRAW, params![name], |row| row.integer(0))?;
    Ok(ticket.unwrap_or_default())
}

pub(super) fn stand(
    tx: &Tx<'_>,
    wish: &LeaseRequest,
    ticket: i64,
    lease_id: &[u8; 16],
    until_us: u64,
) -> Result<(), SqlFault> {
    let params = params![
        wish.name.as_str(),
        ticket,
        lease_id,
        wish.holder.as_str(),
        wish.request_key.as_ref(),
        big(micros(wish.ttl)),
        big(until_us)
    ];
    tx.within(wish.scope.rows()).run(&STAND, params).map(drop)
}

pub(super) fn leave(
    tx: &Tx<'_>,
    scope: &Scope,
    name: &str,
    ticket: i64,
    now_us: u64,
) -> Result<(), SqlFault> {
    tx.within(scope.rows()).run(&LEAVE, params![name, ticket, big(now_us)]).map(drop)
}

pub(super) fn before(
    view: &View<'_>,
    scope: &Scope,
    name: &str,
    ticket: i64,
    now_us: u64,
) -> Result<bool, SqlFault> {
    let count =
        view.within(scope.rows()).one(&BEFORE, params![name, ticket, big(now_us)], |row| row.integer(0))?;
    Ok(count.unwrap_or_default() > 0)
}

pub(super) fn waiting(view: &View<'_>, scope: &Scope, name: &str, now_us: u64) -> Result<i64, SqlFault> {
    let count = view.within(scope.rows()).one(&WAITING, params![name, big(now_us)], |row| row.integer(0))?;
    Ok(count.unwrap_or_default())
}

/// Gives up every place in line: whoever stood there died with their process.
pub(super) fn clear_lines(tx: &Tx<'_>) -> Result<usize, SqlFault> {
    tx.run(&CLEAR_LINES, params![])
}

/// Forgets names that nobody has held since then and nobody waits for.
pub(super) fn forget_free(tx: &Tx<'_>, until_us: u64, rows_max: usize) -> Result<usize, SqlFault> {
    tx.run(&RAISE_FLOOR, params![big(until_us)])?;
    tx.run(&FORGET_FREE, params![big(until_us), big(rows_max)])
}
