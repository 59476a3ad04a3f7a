//! Publishing: an event goes into the outbox in the transaction of what it tells of, which must tell the ledger as well.
//! Who enters: steps and undos through their context, and the engine.
//! What leaves: a row that commits with its entry or not at all; or why it is a defect to publish here.

use audit::{SqlFault, Tx};
use serde_json::Value as Json;

use super::rows::{self, Row};
use super::{PLACES, Topic};
use crate::context::{Origin, StepContext};
use crate::ids::{EffectId, Phase, SagaKey};
use crate::limits::EVENT_BYTES_MAX;
use crate::refusal::Refused;

/// Why an event was not published. All but the last are defects of whoever publishes.
#[derive(Debug, thiserror::Error)]
pub enum NotPublished {
    /// Publish where an entry is told: an event without its entry could not be proven.
    #[error("`{topic}` was published in a write that tells no entry")]
    Untold {
        /// About what.
        topic: Topic,
    },
    /// Put what is large where it belongs, and name it.
    #[error("`{topic}` has {bytes} bytes of facts, more than {EVENT_BYTES_MAX}")]
    TooLong {
        /// About what.
        topic: Topic,
        /// How many it has.
        bytes: usize,
    },
    /// One transaction has no more places than that.
    #[error("`{topic}` has no place among the events of its transaction, which are {PLACES} already")]
    Crowded {
        /// About what.
        topic: Topic,
    },
    /// The database did not do it.
    #[error("the database did not run a statement")]
    Sql(#[from] SqlFault),
}

impl<B> From<NotPublished> for Refused<B> {
    fn from(not: NotPublished) -> Self {
        match not {
            NotPublished::Sql(fault) => Self::Sql(fault),
            not => Self::Bug(not.to_string()),
        }
    }
}

/// What is published, before it has its number.
pub(super) struct News<'a> {
    pub(super) topic: Topic,
    pub(super) subject: &'a str,
    pub(super) body: Json,
    pub(super) saga: &'a SagaKey,
    pub(super) workflow: &'a str,
    pub(super) origin: &'a Origin,
    /// The step's act that says it; the engine's own news have their once from the saga's row.
    pub(super) act: Option<EffectId>,
    pub(super) withdraws: Option<u64>,
    pub(super) now_us: u64,
}

impl News<'_> {
    /// Puts it down under the transaction's next number.
    pub(super) fn publish(&self, tx: &Tx<'_>) -> Result<(), NotPublished> {
        let topic = self.topic;
        let body = self.body.to_string();
        if body.len() > EVENT_BYTES_MAX {
            return Err(NotPublished::TooLong { topic, bytes: body.len() });
        }
        let entry = tx.entry().ok_or(NotPublished::Untold { topic })?;
        let number = rows::next(tx, entry)?.ok_or(NotPublished::Crowded { topic })?;
        rows::insert(tx, &Row { number, body: &body, news: self })?;
        Ok(())
    }
}

/// Whether this very transaction has published anything so far.
pub(crate) fn has_published(tx: &Tx<'_>) -> Result<bool, SqlFault> {
    let Some(entry) = tx.entry() else { return Ok(false) };
    Ok(rows::next(tx, entry)? != Some(entry * PLACES + 1))
}

impl StepContext {
    /// Publishes what this step brings about. Said again by the same act, it is said once. Before the pivot that is for
    /// steps whose undo [withdraws](Self::withdraw) it.
    ///
    /// # Errors
    /// What makes it a defect to publish this here, or what the database said.
    pub fn publish(&self, tx: &Tx<'_>, topic: Topic, subject: &str, facts: Json) -> Result<(), NotPublished> {
        self.news(topic, subject, facts).publish(tx)
    }

    /// Publishes, in an undo, that what its step has published under `withdrawn` does not hold.
    ///
    /// # Errors
    /// As for [`publish`](Self::publish).
    pub fn withdraw(
        &self,
        tx: &Tx<'_>,
        (topic, withdrawn): (Topic, Topic),
        subject: &str,
        facts: Json,
    ) -> Result<(), NotPublished> {
        let said = EffectId::of(self.saga.id, self.place, Phase::Do);
        let withdraws = rows::said(tx, &self.saga, &said, (withdrawn, subject))?;
        News { withdraws, ..self.news(topic, subject, facts) }.publish(tx)
    }

    fn news<'a>(&'a self, topic: Topic, subject: &'a str, body: Json) -> News<'a> {
        News {
            topic,
            subject,
            body,
            saga: &self.saga,
            workflow: self.workflow,
            origin: &self.origin,
            act: Some(self.act()),
            withdraws: None,
            now_us: self.now_us,
        }
    }
}
