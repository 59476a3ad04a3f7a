//! The stair from table rows to the walk: reads entries in order and hands each on without copying it.
//! Who enters: recovery, the background check and the offline verifier, each over its own connection.
//! What leaves: rows as borrowed bytes.

use crate::append::signed;
use crate::check::{Finding, RowBytes};
use crate::fault::SqlFault;

/// Every column of an entry, in the order `row_bytes` expects.
pub(crate) const ROWS: &str = "SELECT seq, time_us, workspace, actor, action, object, outcome, request_id, leaf, \
    salt, payload, chain FROM entry WHERE seq >= ?1 ORDER BY seq";

/// Why a walk ended early.
pub(crate) enum Stopped<E> {
    /// The database did not answer.
    Fault(SqlFault),
    /// A row holds something else than a row can hold: nobody wrote that through the ledger.
    Malformed(Finding),
    /// The visitor had a reason.
    By(E),
}

/// Hands every row from `first` on to `visit`.
pub(crate) fn each<E>(
    rows: &mut rusqlite::Statement<'_>,
    first: u64,
    mut visit: impl FnMut(&RowBytes<'_>) -> Result<(), E>,
) -> Result<(), Stopped<E>> {
    let fault = |error: rusqlite::Error| Stopped::Fault(error.into());
    // From the very beginning also means from below zero, where only a forged row can be.
    let bound = if first == 0 { i64::MIN } else { signed(first) };
    rows.raw_bind_parameter(1, bound).map_err(fault)?;
    let mut rows = rows.raw_query();
    let mut seq = first;
    while let Some(row) = rows.next().map_err(fault)? {
        let malformed =
            |why: rusqlite::Error| Finding::NotALeaf { seq, why: format!("its row is malformed: {why}") };
        let bytes = row_bytes(row).map_err(|why| Stopped::Malformed(malformed(why)))?;
        visit(&bytes).map_err(Stopped::By)?;
        seq += 1;
    }
    Ok(())
}

fn row_bytes<'r>(row: &'r rusqlite::Row<'_>) -> rusqlite::Result<RowBytes<'r>> {
    let text = |column| row.get_ref(column).and_then(|it| Ok(it.as_str()?));
    let blob = |column| row.get_ref(column).and_then(|it| Ok(it.as_blob()?));
    Ok(RowBytes {
        seq: row.get::<_, i64>(0)?.cast_unsigned(),
        time_us: row.get::<_, i64>(1)?.cast_unsigned(),
        workspace: text(2)?,
        actor: text(3)?,
        action: text(4)?,
        object: text(5)?,
        outcome: text(6)?,
        request_id: text(7)?,
        leaf: blob(8)?,
        salt: blob(9)?,
        payload: blob(10)?,
        chain: blob(11)?,
    })
}
