//! Following what happens: pages of the outbox, and patience until there is one.
//! Who enters: readers with a cursor, and with time.
//! What leaves: a page, as soon as it has an event or the time is over.

use std::time::Duration;

use audit::ReadRefused;
use tokio::time::{Instant, timeout_at};

use super::Engine;
use crate::outbox::{self, Page, Wanted, Withheld};

impl Engine {
    /// A page of events. An empty one is given only when the patience is over.
    ///
    /// # Errors
    /// Why the cursor does not fit, or why the ledger could not be read.
    pub async fn events(
        &self,
        mut wanted: Wanted,
        patience: Duration,
    ) -> Result<Page, ReadRefused<Withheld>> {
        let inner = self.inner();
        let (listener, until) = (inner.news.listen(&wanted.scope), Instant::now() + patience);
        loop {
            // Listening comes before looking, so that an event in between is not missed.
            let next = listener.next();
            let asked = wanted.clone();
            let page = inner.parts.ledger.read(move |view| outbox::page(view, &asked)).await?;
            if !page.events.is_empty() || timeout_at(until, next).await.is_err() {
                return Ok(page);
            }
            // What was looked at once is not looked at again.
            wanted.after = Some(page.next);
        }
    }
}
