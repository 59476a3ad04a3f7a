//! The locks of sagas: claimed all at once with the start, granted in the order of their tickets, given back with the end.
//! Who enters: the engine, inside the transaction that starts or ends a saga.
//! What leaves: claims that are held or queued, and the sagas that a release lets go on.

use audit::{Row, SqlFault, Statement, Tx, View, params};
use serde::{Deserialize, Serialize};

use super::{Blocker, HeldLock, Lock};
use crate::ids::{SagaKey, Scope};
use crate::limits::LOCKS_LISTED_MAX;
use crate::store::{self, SERVICE, big, saga_id};

pub(crate) static TICKET: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO saga_lock (workspace, name, tickets)
     VALUES (?1, ?2, 1 + COALESCE((SELECT tickets FROM saga_lock_floor WHERE workspace = ?1), 0))
     ON CONFLICT (workspace, name) DO UPDATE SET tickets = saga_lock.tickets + 1 RETURNING tickets",
);
pub(crate) static AHEAD: Statement = Statement::tenant(
    SERVICE,
    "SELECT saga_workspace, saga, held, since_us FROM saga_lock_claim
     WHERE workspace = ?1 AND name = ?2 AND ticket < ?3 AND (exclusive = 1 OR ?4 = 1) ORDER BY ticket LIMIT 1",
);
pub(crate) static CLAIM: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO saga_lock_claim (workspace, name, ticket, saga_workspace, saga, exclusive, held, since_us)
     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
);
pub(crate) static HOLD: Statement = Statement::tenant(
    SERVICE,
    "UPDATE saga_lock_claim SET held = 1, since_us = ?4 WHERE workspace = ?1 AND name = ?2 AND ticket = ?3",
);
pub(crate) static RELEASE: Statement = Statement::tenant(
    SERVICE,
    "DELETE FROM saga_lock_claim WHERE workspace = ?1 AND name = ?2 AND ticket = ?3",
);
pub(crate) static QUEUED: Statement = Statement::tenant(
    SERVICE,
    "SELECT saga_workspace, saga, ticket FROM saga_lock_claim
     WHERE workspace = ?1 AND name = ?2 AND held = 0 ORDER BY ticket",
);
pub(crate) static LOCKS_OF: Statement = Statement::tenant(
    SERVICE,
    "SELECT locks FROM saga WHERE workspace = ?1 AND id = ?2 AND state = 'pending'",
);

pub(crate) static ALL: Statement = Statement::across_workspaces(
    SERVICE,
    "an operator sees which workflow holds what, in every workspace",
    "SELECT saga_workspace, saga, workspace, name, exclusive, held, since_us, ticket FROM saga_lock_claim
     ORDER BY workspace, name, ticket LIMIT ?1",
);

// A name that nobody claims is one of those that are made up for a nonce or a round, or will be made again at need.
pub(crate) static RAISE_FLOOR: Statement = Statement::across_workspaces(
    SERVICE,
    "how far the tickets of names came that go is noted for each workspace",
    "INSERT INTO saga_lock_floor (workspace, tickets)
     SELECT workspace, MAX(tickets) FROM saga_lock WHERE NOT EXISTS (SELECT 1 FROM saga_lock_claim AS claim
        WHERE claim.workspace = saga_lock.workspace AND claim.name = saga_lock.name) GROUP BY workspace
     ON CONFLICT (workspace) DO UPDATE SET tickets = MAX(saga_lock_floor.tickets, excluded.tickets)",
);
pub(crate) static FORGET_FREE: Statement = Statement::across_workspaces(
    SERVICE,
    "names of locks that no workflow claims go, in every workspace",
    "DELETE FROM saga_lock WHERE NOT EXISTS (SELECT 1 FROM saga_lock_claim AS claim
        WHERE claim.workspace = saga_lock.workspace AND claim.name = saga_lock.name)",
);

/// Forgets the names of locks that nobody claims. They are as many as were claimed since the last time.
pub(crate) fn forget_free(tx: &Tx<'_>) -> Result<usize, SqlFault> {
    tx.run(&RAISE_FLOOR, params![])?;
    tx.run(&FORGET_FREE, params![])
}

/// Every claim, those that wait included.
pub(crate) fn all(view: &View<'_>) -> Result<Vec<HeldLock>, SqlFault> {
    view.all(&ALL, params![big(LOCKS_LISTED_MAX)], |row| {
        Ok(HeldLock {
            saga: key(row)?,
            scope: store::scope(row, 2)?,
            name: row.text(3)?,
            exclusive: row.flag(4)?,
            held: row.flag(5)?,
            since_us: store::micros(row, 6)?,
            fence: row.integer(7)?,
        })
    })
}

/// A claim as the saga's row remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    across: bool,
    name: String,
    exclusive: bool,
    /// The place in the queue, and the fence.
    pub(crate) ticket: i64,
}

/// What a start gets.
pub(crate) struct Claimed {
    pub(crate) claims: Vec<Claim>,
    pub(crate) blocker: Option<Blocker>,
}

impl Claim {
    fn lock(&self) -> Lock {
        Lock { appliance: self.across, name: self.name.clone(), exclusive: self.exclusive }
    }

    fn ahead(&self, tx: &Tx<'_>, saga: &Scope) -> Result<Option<Blocker>, SqlFault> {
        let scope = self.lock().scope(saga);
        let params = params![self.name.as_str(), self.ticket, self.exclusive];
        tx.within(scope.rows()).one(&AHEAD, params, |row| {
            Ok(Blocker {
                lock: self.name.clone(),
                saga: key(row)?,
                held: row.flag(2)?,
                since_us: store::micros(row, 3)?,
            })
        })
    }
}

/// Draws a ticket for each lock, and holds all of them or, if anyone stands before it, none.
pub(crate) fn claim(tx: &Tx<'_>, saga: &SagaKey, locks: &[Lock], now_us: u64) -> Result<Claimed, SqlFault> {
    let mut claims = Vec::with_capacity(locks.len());
    let mut blocker = None;
    for lock in locks {
        let scope = lock.scope(&saga.scope);
        let ticket =
            tx.within(scope.rows()).one(&TICKET, params![lock.name.as_str()], |row| row.integer(0))?;
        let claim = Claim {
            across: lock.appliance,
            name: lock.name.clone(),
            exclusive: lock.exclusive,
            ticket: ticket.unwrap_or_default(),
        };
        if blocker.is_none() {
            blocker = claim.ahead(tx, &saga.scope)?;
        }
        claims.push(claim);
    }
    for claim in &claims {
        let scope = claim.lock().scope(&saga.scope);
        let params = params![
            claim.name.as_str(),
            claim.ticket,
            saga.scope.rows().as_str(),
            saga.id.bytes(),
            claim.exclusive,
            blocker.is_none(),
            big(now_us)
        ];
        tx.within(scope.rows()).run(&CLAIM, params)?;
    }
    Ok(Claimed { claims, blocker })
}

/// Who stands before a saga that waits, if anyone does.
pub(crate) fn blocked(tx: &Tx<'_>, saga: &SagaKey, claims: &[Claim]) -> Result<Option<Blocker>, SqlFault> {
    for claim in claims {
        if let Some(blocker) = claim.ahead(tx, &saga.scope)? {
            return Ok(Some(blocker));
        }
    }
    Ok(None)
}

/// Holds what was queued.
pub(crate) fn hold(tx: &Tx<'_>, saga: &SagaKey, claims: &[Claim], now_us: u64) -> Result<(), SqlFault> {
    claims.iter().try_for_each(|claim| {
        let scope = claim.lock().scope(&saga.scope);
        tx.within(scope.rows()).run(&HOLD, params![claim.name.as_str(), claim.ticket, big(now_us)]).map(drop)
    })
}

/// Gives all claims back and wakes whoever they alone kept waiting; the woken take their locks themselves.
/// `fenced` draws one more ticket for each, so that whatever still believes in the old one is refused.
pub(crate) fn release(
    tx: &Tx<'_>,
    saga: &SagaKey,
    claims: &[Claim],
    now_us: u64,
    fenced: bool,
) -> Result<Vec<SagaKey>, SqlFault> {
    let mut waiting: Vec<SagaKey> = Vec::new();
    for claim in claims {
        let scope = claim.lock().scope(&saga.scope);
        let within = tx.within(scope.rows());
        within.run(&RELEASE, params![claim.name.as_str(), claim.ticket])?;
        if fenced {
            within.one(&TICKET, params![claim.name.as_str()], |_| Ok(()))?;
        }
        for queued in within.all(&QUEUED, params![claim.name.as_str()], key)? {
            if !waiting.contains(&queued) {
                waiting.push(queued);
            }
        }
    }
    let mut woken = Vec::new();
    for queued in waiting {
        let locks = tx
            .within(queued.scope.rows())
            .one(&LOCKS_OF, params![queued.id.bytes()], |row| row.text_or_null(0))?;
        let claims = read(locks.flatten().as_deref());
        if blocked(tx, &queued, &claims)?.is_none() && store::wake(tx, &queued, now_us)? {
            woken.push(queued);
        }
    }
    Ok(woken)
}

/// The claims as a row keeps them.
pub(crate) fn written(claims: &[Claim]) -> Option<String> {
    if claims.is_empty() { None } else { serde_json::to_string(claims).ok() }
}

pub(crate) fn read(locks: Option<&str>) -> Vec<Claim> {
    locks.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn key(row: &Row<'_>) -> Result<SagaKey, SqlFault> {
    Ok(SagaKey { scope: store::scope(row, 0)?, id: saga_id(row, 1)? })
}
