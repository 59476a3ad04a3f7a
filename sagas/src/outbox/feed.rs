//! Reading the outbox: page after page from a cursor on, and the honest word when a cursor no longer fits.
//! Who enters: readers with a cursor; the sweeper with a moment.
//! What leaves: events in order, and the cursor for the next page, which also steps over what nobody asked for.

use audit::{SqlFault, Tx, View};

use super::Published;
use super::rows;
use crate::ids::{SagaId, Scope};
use crate::limits::EVENTS_SWEPT_MAX;

/// Which events a page shows.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of this scope only; of every scope when none is said, which is for operators.
    pub scope: Option<Scope>,
    /// After this number; from the oldest that is kept when none is said.
    pub after: Option<u64>,
    /// Of this topic only, or of all that begin with these words; of all when empty.
    pub topic: String,
    /// Of this saga only.
    pub saga: Option<SagaId>,
    /// At most so many.
    pub rows_max: usize,
}

/// A page of events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The events, in the order of their commits.
    pub events: Vec<Published>,
    /// The cursor for the next page. Everything up to it was looked at, so it moves on also where nothing was found.
    pub next: u64,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum Withheld {
    /// Take note that some were missed, look at how things stand, and go on from `kept_after`.
    #[error("events up to {kept_after} are gone")]
    Gone {
        /// The cursor that shows everything that is still kept.
        kept_after: u64,
        /// The first that is still kept.
        oldest: Option<u64>,
    },
    /// The cursor is of another feed, or of a copy of this appliance that had come further.
    #[error("the newest event is {newest}, and the cursor is after it")]
    Ahead {
        /// The newest event there ever was.
        newest: u64,
    },
    /// The database did not do it.
    #[error("the database did not run a statement")]
    Sql(#[from] SqlFault),
}

/// A page of what stands at one moment.
pub(crate) fn page(view: &View<'_>, wanted: &Wanted) -> Result<Page, Withheld> {
    let rows::Edges { swept, oldest, newest } = rows::edges(view, wanted.scope.as_ref())?;
    let after = match wanted.after {
        Some(after) if after < swept => return Err(Withheld::Gone { kept_after: swept, oldest }),
        Some(after) if after > newest => return Err(Withheld::Ahead { newest }),
        Some(after) => after,
        None => swept,
    };
    let events = rows::page(view, wanted, after)?;
    let full = events.len() >= wanted.rows_max;
    let next = events.last().filter(|_| full).map_or(newest, |last| last.number);
    Ok(Page { events, next })
}

/// What a sweep has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept {
    /// How many events went.
    pub gone: usize,
    /// When the oldest happened that was there, in microseconds since 1970.
    pub oldest_us: Option<u64>,
}

/// Lets go of the oldest events that happened before a moment, some at a time. What follows an event that
/// is kept stays too, whatever the clock said when it happened: a feed has no holes.
///
/// # Errors
/// What the database said.
pub fn sweep(tx: &Tx<'_>, before_us: u64) -> Result<Swept, SqlFault> {
    let oldest = rows::oldest(tx)?;
    // What was written before one whose time is over is older than that, whatever moment it bears: a clock that stood in the
    // future for a while keeps nothing.
    let gone = match rows::over(tx, before_us, EVENTS_SWEPT_MAX)? {
        Some(last) => rows::sweep(tx, last)?,
        None => 0,
    };
    Ok(Swept { gone, oldest_us: oldest })
}
