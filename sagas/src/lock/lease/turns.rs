//! Turns in line: one try at a lease, a place behind those who came first, the end of patience.
//! Who enters: requests for leases, with the ticket they have drawn.
//! What leaves: a lease, a place in line, or who is in the way.

use std::time::Duration;

use audit::{SqlFault, Told, Tx, WriteRefused};

use super::rows::{self, Row};
use super::words::{Lease, LeaseRefused, LeaseRequest};
use super::{Leases, allowed, entry};
use crate::limits::LEASE_WAITING_MAX;

/// What one try at a lease gave.
pub(super) enum Tried {
    Got(Lease),
    InLine { ticket: i64, retry_us: u64 },
}

impl Leases {
    /// One try, which takes a place in line if it has to wait.
    pub(super) async fn attempt(
        &self,
        request: &LeaseRequest,
        lease_id: [u8; 16],
        ticket: Option<i64>,
        until_us: u64,
    ) -> Result<Tried, WriteRefused<LeaseRefused>> {
        let (wish, now_us) = (request.clone(), self.clock.unix_us());
        let may = self.may.clone();
        let written = self.ledger.write(move |tx| {
            allowed(tx, may.as_ref()).map_err(No::Refused)?;
            try_once(tx, &wish, lease_id, ticket, until_us, now_us)
        });
        match written.await {
            Ok(got) => Ok(Tried::Got(got.into_value())),
            Err(WriteRefused::Rejected(No::InLine { ticket: Some(ticket), retry_us })) => {
                Ok(Tried::InLine { ticket, retry_us })
            }
            Err(WriteRefused::Rejected(No::InLine { ticket: None, .. })) => {
                self.line_up(request, lease_id, until_us).await
            }
            Err(refused) => Err(refused.map(No::refused)),
        }
    }

    async fn line_up(
        &self,
        request: &LeaseRequest,
        lease_id: [u8; 16],
        until_us: u64,
    ) -> Result<Tried, WriteRefused<LeaseRefused>> {
        let (wish, now_us) = (request.clone(), self.clock.unix_us());
        let why = "a place in line changes nothing that is protected; the lease itself is told";
        let written = self.ledger.write_unaudited(why, move |tx| {
            if rows::waiting(tx, &wish.scope, &wish.name, now_us)? >= LEASE_WAITING_MAX {
                return Err(LeaseRefused::Crowded);
            }
            let ticket = rows::draw(tx, &wish.scope, &wish.name)?;
            rows::stand(tx, &wish, ticket, &lease_id, until_us)?;
            Ok(ticket)
        });
        Ok(Tried::InLine { ticket: written.await?, retry_us: 0 })
    }

    /// The end of a caller's patience: out of the line, unless it came free in the last moment.
    pub(super) async fn give_up(
        &self,
        request: &LeaseRequest,
        lease_id: [u8; 16],
        ticket: Option<i64>,
    ) -> Result<Lease, WriteRefused<LeaseRefused>> {
        if let Some(row) = self.step_out(request, ticket).await? {
            return Err(WriteRefused::Rejected(row.held_by_another()));
        }
        let at_once = LeaseRequest { wait: Duration::ZERO, ..request.clone() };
        match self.attempt(&at_once, lease_id, None, 0).await? {
            Tried::Got(lease) => Ok(lease),
            Tried::InLine { .. } => Err(WriteRefused::Rejected(LeaseRefused::InLine)),
        }
    }

    /// Leaves the line to those behind, and says who holds the name now.
    pub(super) async fn step_out(
        &self,
        request: &LeaseRequest,
        ticket: Option<i64>,
    ) -> Result<Option<Row>, WriteRefused<LeaseRefused>> {
        let Some(ticket) = ticket else { return Ok(None) };
        let (wish, now_us) = (request.clone(), self.clock.unix_us());
        let why = "a place in line that was given up; nothing that is protected changed";
        let written = self.ledger.write_unaudited(why, move |tx| {
            rows::leave(tx, &wish.scope, &wish.name, ticket, now_us)?;
            Ok(rows::row(tx, &wish.scope, &wish.name)?.filter(|row| row.until_us > now_us))
        });
        let row = written.await;
        self.queue.leave(&request.scope, &request.name, Some(ticket));
        self.queue.call_first(&request.scope, &request.name);
        row
    }
}

/// Why one try gave nothing.
#[derive(Debug)]
enum No {
    Refused(LeaseRefused),
    /// Someone holds it or stands before us; `ticket` if we have a place already.
    InLine {
        ticket: Option<i64>,
        retry_us: u64,
    },
}

impl No {
    fn refused(self) -> LeaseRefused {
        match self {
            Self::Refused(refused) => refused,
            Self::InLine { .. } => LeaseRefused::InLine,
        }
    }
}

impl From<SqlFault> for No {
    fn from(fault: SqlFault) -> Self {
        Self::Refused(LeaseRefused::Sql(fault))
    }
}

fn try_once(
    tx: &mut Tx<'_>,
    wish: &LeaseRequest,
    lease_id: [u8; 16],
    ticket: Option<i64>,
    until_us: u64,
    now_us: u64,
) -> Result<Told<Lease>, No> {
    let mut row = rows::row_or_new(tx, &wish.scope, &wish.name)?;
    let held = row.lease_id.is_some() && row.until_us > now_us;
    let same = wish.request_key.is_some() && row.request_key == wish.request_key && row.is_of(&wish.holder);
    if held && same {
        let lease = row.lease(&wish.scope).ok_or(No::Refused(LeaseRefused::Expired))?;
        let told = entry("lock.acquire_again", &wish.scope, &lease, &wish.origin);
        return Ok(Told::new(lease, told));
    }
    let before = rows::before(tx, &wish.scope, &wish.name, ticket.unwrap_or(i64::MAX), now_us)?;
    if held || before {
        let retry_us = if held { row.until_us } else { until_us };
        return match (wish.wait.is_zero(), ticket) {
            (true, _) if held => Err(No::Refused(row.held_by_another())),
            (true, _) => Err(No::Refused(LeaseRefused::InLine)),
            (false, ticket) => Err(No::InLine { ticket, retry_us }),
        };
    }
    if let Some(ticket) = ticket {
        rows::leave(tx, &wish.scope, &wish.name, ticket, now_us)?;
    }
    row.grant(wish, lease_id, now_us);
    rows::save(tx, &wish.scope, &row)?;
    let lease = row.lease(&wish.scope).ok_or(No::Refused(LeaseRefused::Expired))?;
    let told = entry("lock.acquire", &wish.scope, &lease, &wish.origin);
    Ok(Told::new(lease, told))
}
