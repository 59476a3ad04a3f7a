//! Columns into types, and types into columns, where the database knows integers, text and bytes only.
//! Who enters: rows and values of this crate's tables.
//! What leaves: ids, moments and counts, or the fault that a column has not the form it was given.

use audit::{Row, SqlFault};

use crate::ids::{SagaId, Scope};

pub(crate) fn micros(row: &Row<'_>, column: usize) -> Result<u64, SqlFault> {
    u64::try_from(row.integer(column)?).map_err(|_| SqlFault::Malformed { column })
}

pub(crate) fn micros_or_null(row: &Row<'_>, column: usize) -> Result<Option<u64>, SqlFault> {
    row.integer_or_null(column)?
        .map(|us| u64::try_from(us).map_err(|_| SqlFault::Malformed { column }))
        .transpose()
}

pub(crate) fn count(row: &Row<'_>, column: usize) -> Result<usize, SqlFault> {
    usize::try_from(row.integer(column)?).map_err(|_| SqlFault::Malformed { column })
}

pub(crate) fn small(row: &Row<'_>, column: usize) -> Result<u32, SqlFault> {
    u32::try_from(row.integer(column)?).map_err(|_| SqlFault::Malformed { column })
}

pub(crate) fn bytes_or_bug<const N: usize>(row: &Row<'_>, column: usize) -> Result<[u8; N], SqlFault> {
    row.blob(column)?.try_into().map_err(|_| SqlFault::Malformed { column })
}

pub(crate) fn saga_id(row: &Row<'_>, column: usize) -> Result<SagaId, SqlFault> {
    bytes_or_bug(row, column).map(SagaId)
}

pub(crate) fn scope(row: &Row<'_>, column: usize) -> Result<Scope, SqlFault> {
    Scope::of_rows(&row.text(column)?).map_err(|_| SqlFault::Malformed { column })
}

/// A count or a moment for a BIGINT; what does not fit has long overflown what it counts.
pub(crate) fn big(number: impl TryInto<i64>) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
