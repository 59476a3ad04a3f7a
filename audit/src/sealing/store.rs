//! The sealing's own shelf: rows of anchors and service starts.
//! Who enters: `Sealing`, inside a view or a transaction of the ledger.
//! What leaves: what was begun, what was confirmed, and the memory that the judge weighs.

use crate::append::{load_tip, signed};
use crate::fault::SqlFault;
use crate::hardware::{Attestation, Reading};
use crate::leaf::Hash;
use crate::sealing::verdict::{Mark, Memory};
use crate::tx::{Session, View};

/// An anchor row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AnchorRow {
    pub(crate) k: u64,
    pub(crate) size: u64,
    pub(crate) note: String,
    pub(crate) before: Hash,
    pub(crate) after: Hash,
    pub(crate) tier: String,
}

impl AnchorRow {
    pub(crate) fn mark(&self) -> Mark {
        Mark { k: self.k, before: self.before, after: self.after }
    }
}

/// What the TPM said first, and by which key: later statements must be about the same index, by the same key.
pub(crate) struct FirstAttested {
    pub(crate) statement: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

/// The tier of checkpoints that no hardware counter holds.
pub(crate) const SIGNATURE_ONLY: &str = "signature";

/// Where the log ends, as sealing needs it.
pub(crate) struct LogEnd {
    pub(crate) size: u64,
    pub(crate) root: Hash,
    /// The action of the last entry; the entry that tells of an anchor does not by itself ask for another.
    pub(crate) last_action: String,
}

macro_rules! anchors {
    ($rest:literal) => {
        concat!("SELECT k, size, note, before, after, tier FROM anchor WHERE ", $rest)
    };
}

impl View<'_> {
    pub(crate) fn log_end(&self) -> Result<Option<LogEnd>, SqlFault> {
        let Some(tip) = load_tip(self.session)? else { return Ok(None) };
        let Some(last) = tip.size().checked_sub(1) else { return Ok(None) };
        let last_action = self.entry(last)?.map(|it| it.action).unwrap_or_default();
        Ok(Some(LogEnd { size: tip.size(), root: tip.frontier.root(), last_action }))
    }

    pub(crate) fn pending_anchor(&self) -> Result<Option<AnchorRow>, SqlFault> {
        one_anchor(self.session, anchors!("state = 'pending'"))
    }

    /// A step that was begun for the hardware and not confirmed.
    pub(crate) fn pending_step(&self) -> Result<Option<AnchorRow>, SqlFault> {
        one_anchor(self.session, anchors!("state = 'pending' AND tier <> 'signature'"))
    }

    pub(crate) fn last_anchor(&self) -> Result<Option<AnchorRow>, SqlFault> {
        one_anchor(self.session, anchors!("state = 'confirmed' ORDER BY k DESC LIMIT 1"))
    }

    /// The last confirmed step that hardware took; checkpoints that were only signed do not count.
    pub(crate) fn last_step(&self) -> Result<Option<AnchorRow>, SqlFault> {
        one_anchor(
            self.session,
            anchors!("state = 'confirmed' AND tier <> 'signature' ORDER BY k DESC LIMIT 1"),
        )
    }

    pub(crate) fn memory(&self, reading: &Reading) -> Result<Memory, SqlFault> {
        let (counter, start_pending) = self.starts()?;
        Ok(Memory {
            last: self.last_step()?.map(|row| row.mark()),
            pending: self.pending_step()?.map(|row| row.mark()),
            older: self.step_with_value(reading)?,
            identity: self.pinned_identity()?,
            counter,
            start_pending: start_pending.is_some(),
        })
    }

    fn step_with_value(&self, reading: &Reading) -> Result<Option<u64>, SqlFault> {
        let Some(head) = reading.head else { return Ok(None) };
        const FIND: &str =
            "SELECT k FROM anchor WHERE state = 'confirmed' AND tier <> 'signature' AND after = ?1";
        let mut find = self.session.own(FIND)?;
        find.raw_bind_parameter(1, &head[..])?;
        let mut rows = find.raw_query();
        Ok(rows.next()?.map(|row| row.get::<_, i64>(0)).transpose()?.map(i64::cast_unsigned))
    }

    pub(crate) fn pinned_identity(&self) -> Result<Option<Vec<u8>>, SqlFault> {
        const FIND: &str = "SELECT identity FROM anchor WHERE identity IS NOT NULL ORDER BY k LIMIT 1";
        let mut find = self.session.own(FIND)?;
        let mut rows = find.raw_query();
        Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
    }

    /// Statement and key of the first attested step. The name of an index is the same on every TPM; the key is not.
    pub(crate) fn first_attested(&self) -> Result<Option<FirstAttested>, SqlFault> {
        const FIND: &str = "SELECT statement, ak FROM anchor WHERE ak IS NOT NULL ORDER BY k LIMIT 1";
        let mut find = self.session.own(FIND)?;
        let mut rows = find.raw_query();
        let Some(row) = rows.next()? else { return Ok(None) };
        Ok(Some(FirstAttested { statement: row.get(0)?, key: row.get(1)? }))
    }

    /// The counter as last confirmed, and the number of a start that was begun and not confirmed.
    pub(crate) fn starts(&self) -> Result<(Option<u64>, Option<u64>), SqlFault> {
        const CONFIRMED: &str = "SELECT counter FROM service_start WHERE state = 'confirmed' AND counter IS NOT NULL \
            ORDER BY number DESC LIMIT 1";
        let counter = self.first_number(CONFIRMED)?;
        let pending = self.first_number("SELECT number FROM service_start WHERE state = 'pending'")?;
        Ok((counter, pending))
    }

    fn first_number(&self, sql: &'static str) -> Result<Option<u64>, SqlFault> {
        let mut find = self.session.own(sql)?;
        let mut rows = find.raw_query();
        Ok(rows.next()?.map(|row| row.get::<_, i64>(0)).transpose()?.map(i64::cast_unsigned))
    }

    pub(crate) fn begin_anchor(&self, row: &AnchorRow) -> Result<(), SqlFault> {
        const BEGIN: &str = "INSERT INTO anchor (k, size, note, before, after, tier, state) \
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, 'pending')";
        let mut begin = self.session.own(BEGIN)?;
        begin.raw_bind_parameter(1, signed(row.k))?;
        begin.raw_bind_parameter(2, signed(row.size))?;
        begin.raw_bind_parameter(3, &row.note)?;
        begin.raw_bind_parameter(4, &row.before[..])?;
        begin.raw_bind_parameter(5, &row.after[..])?;
        begin.raw_bind_parameter(6, &row.tier)?;
        begin.raw_execute()?;
        Ok(())
    }

    pub(crate) fn confirm_anchor(
        &self,
        k: u64,
        reading: &Reading,
        attestation: Option<&Attestation>,
    ) -> Result<(), SqlFault> {
        const CONFIRM: &str = "UPDATE anchor SET state = 'confirmed', counter = ?2, identity = ?3, statement = ?4, \
            signature = ?5, ak = ?6 WHERE k = ?1 AND state = 'pending'";
        let mut confirm = self.session.own(CONFIRM)?;
        let identity = (!reading.identity.is_empty()).then_some(&reading.identity);
        confirm.raw_bind_parameter(1, signed(k))?;
        confirm.raw_bind_parameter(2, reading.counter.map(signed))?;
        confirm.raw_bind_parameter(3, identity)?;
        confirm.raw_bind_parameter(4, attestation.map(|it| &it.statement))?;
        confirm.raw_bind_parameter(5, attestation.map(|it| &it.signature))?;
        confirm.raw_bind_parameter(6, attestation.map(|it| &it.key))?;
        match confirm.raw_execute()? {
            1 => Ok(()),
            _ => Err(SqlFault::Several),
        }
    }

    pub(crate) fn begin_start(&self, counter: Option<u64>) -> Result<u64, SqlFault> {
        const BEGIN: &str = "INSERT INTO service_start (number, counter_before, state) \
            SELECT COALESCE(MAX(number), 0) + 1, ?1, 'pending' FROM service_start RETURNING number";
        let mut begin = self.session.own(BEGIN)?;
        begin.raw_bind_parameter(1, counter.map(signed))?;
        let mut rows = begin.raw_query();
        let number = rows.next()?.map(|row| row.get::<_, i64>(0)).transpose()?.unwrap_or_default();
        while rows.next()?.is_some() {}
        Ok(number.cast_unsigned())
    }

    pub(crate) fn confirm_start(&self, number: u64, counter: Option<u64>) -> Result<(), SqlFault> {
        const CONFIRM: &str = "UPDATE service_start SET state = 'confirmed', counter = ?2 WHERE number = ?1";
        let mut confirm = self.session.own(CONFIRM)?;
        confirm.raw_bind_parameter(1, signed(number))?;
        confirm.raw_bind_parameter(2, counter.map(signed))?;
        confirm.raw_execute()?;
        Ok(())
    }
}

fn one_anchor(session: &Session, sql: &'static str) -> Result<Option<AnchorRow>, SqlFault> {
    let mut find = session.own(sql)?;
    let mut rows = find.raw_query();
    let Some(row) = rows.next()? else { return Ok(None) };
    let (k, size): (i64, i64) = (row.get(0)?, row.get(1)?);
    Ok(Some(AnchorRow {
        k: k.cast_unsigned(),
        size: size.cast_unsigned(),
        note: row.get(2)?,
        before: row.get(3)?,
        after: row.get(4)?,
        tier: row.get(5)?,
    }))
}
