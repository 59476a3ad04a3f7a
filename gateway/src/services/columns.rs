//! Reading columns that hold ids, names and moments.
//! Who enters: the `store` of every service, row by row.
//! What leaves: typed values; a column without its form is a fault, never a guess.

use std::str::FromStr;

use audit::{Row, SqlFault};

use crate::moment::Moment;

/// An id or name of ours.
pub(super) fn typed<T: FromStr>(row: &Row<'_>, column: usize) -> Result<T, SqlFault> {
    row.text(column)?.parse().map_err(|_| SqlFault::Malformed { column })
}

/// A moment.
pub(super) fn moment(row: &Row<'_>, column: usize) -> Result<Moment, SqlFault> {
    row.integer(column).map(Moment::from_micros)
}

/// A moment that may be absent.
pub(super) fn moment_or_none(row: &Row<'_>, column: usize) -> Result<Option<Moment>, SqlFault> {
    Ok(row.integer_or_null(column)?.map(Moment::from_micros))
}

/// Bytes of a fixed length.
pub(super) fn bytes<const N: usize>(row: &Row<'_>, column: usize) -> Result<[u8; N], SqlFault> {
    row.blob(column)?.try_into().map_err(|_| SqlFault::Malformed { column })
}
