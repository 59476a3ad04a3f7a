//! Events as programs and people follow them: what workflows have brought about, and how far they have come.
//! Who enters: members of a workspace, for its own; operators, for all; the housekeeping, with the clock.
//! What leaves: pages in the order of commits, at once or as soon as there is something; events whose time is over.

pub mod routes;
pub mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use audit::ReadRefused;
use sagas::outbox::{self, Page, Wanted, Withheld};
use tokio_util::sync::CancellationToken;

use crate::limits::ANSWER_WAIT_MAX;
use crate::metrics::Metrics;
use crate::refused_by_ledger;
use crate::runner::RunRefused;
use crate::services::ground::{Ground, LedgerRefused, was_read, written};

/// Why nothing was shown or swept.
#[derive(Debug, thiserror::Error)]
pub enum EventsRefused {
    /// Some that the reader has not seen are gone.
    #[error("events up to {kept_after} are gone")]
    Gone {
        /// The cursor that shows everything that is still kept.
        kept_after: u64,
        /// The first that is still kept.
        oldest: Option<u64>,
    },
    /// The cursor is after every event there ever was.
    #[error("the cursor is after the newest event")]
    Ahead {
        /// The newest.
        newest: u64,
    },
    /// No workflow runs, so nothing happens.
    #[error(transparent)]
    Run(#[from] RunRefused),
    /// The ledger did not take or give it.
    #[error(transparent)]
    Ledger(#[from] LedgerRefused),
}
refused_by_ledger!(EventsRefused);

impl From<Withheld> for EventsRefused {
    fn from(withheld: Withheld) -> Self {
        match withheld {
            Withheld::Gone { kept_after, oldest } => Self::Gone { kept_after, oldest },
            Withheld::Ahead { newest } => Self::Ahead { newest },
            Withheld::Sql(fault) => fault.into(),
        }
    }
}

/// The room.
pub struct Events {
    ground: Ground,
    metrics: Metrics,
    stopping: CancellationToken,
}

impl Events {
    /// The room on its ground. Nobody is kept waiting in a house that stops.
    pub fn new(ground: Ground, metrics: Metrics, stopping: CancellationToken) -> Arc<Self> {
        Arc::new(Self { ground, metrics, stopping })
    }

    /// A page of events: at once, or as soon as there is one, within the reader's patience and the request's time.
    ///
    /// # Errors
    /// The cursor does not fit, nothing runs, or the ledger gave nothing.
    pub async fn page(
        &self,
        wanted: Wanted,
        patience: Option<Duration>,
        until: Instant,
    ) -> Result<Page, EventsRefused> {
        let left = until.saturating_duration_since(Instant::now()).saturating_sub(ANSWER_WAIT_MAX);
        let patience = patience.unwrap_or_default().min(left);
        let engine = self.ground.runner.engine()?;
        let page = tokio::select! {
            page = engine.events(wanted.clone(), patience) => page,
            () = self.stopping.cancelled() => engine.events(wanted, Duration::ZERO).await,
        };
        was_read(page.map_err(|refused: ReadRefused<Withheld>| refused.map(EventsRefused::from)))
    }

    /// Lets go of the events whose time is over, and says how old the oldest is that stays.
    ///
    /// # Errors
    /// The ledger did not take it; the next round tries again.
    pub async fn sweep(&self, kept: Duration) -> Result<(), EventsRefused> {
        let kept_us = u64::try_from(kept.as_micros()).unwrap_or(u64::MAX);
        let now_us = self.ground.clock.unix_us();
        let before_us = now_us.saturating_sub(kept_us);
        let why = "events whose time is over; what they tell of stands on the ledger";
        let sweep = move |tx: &mut audit::Tx<'_>| Ok(outbox::sweep(tx, before_us)?);
        let oldest_us = loop {
            let swept = written::<_, EventsRefused>(self.ground.ledger.write_unaudited(why, sweep).await)?;
            if swept.gone == 0 {
                break swept.oldest_us;
            }
        };
        let age = Duration::from_micros(oldest_us.map_or(0, |oldest_us| now_us.saturating_sub(oldest_us)));
        self.metrics.set("events", "oldest_seconds", age.as_secs_f64());
        Ok(())
    }
}
