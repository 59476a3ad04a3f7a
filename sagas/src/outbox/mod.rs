//! The outbox: what has happened, written down in the transaction that brought it about, for those who follow it.
//! Who enters: steps with facts, through their context; the engine with each change of a saga's state; readers with a cursor.
//! What leaves: events in the order of commits, each with the number of its ledger entry; or the word that some are gone.

mod feed;
mod life;
mod publish;
mod rows;

use std::fmt;

use crate::ids::{SagaId, Scope};

pub(crate) use feed::page;
pub use feed::{Page, Swept, Wanted, Withheld, sweep};
pub use life::LIFE;
pub(crate) use life::Life;
pub use publish::NotPublished;
pub(crate) use publish::has_published;
pub(crate) use rows::STATEMENTS;

/// Places for events within one transaction. A number is the entry's, times this, and the place, from 1.
pub(crate) const PLACES: u64 = 1_000;

/// What an event is about, in words between dots, such as `key.rotated`. It is part of the API for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(&'static str);

impl Topic {
    /// This topic.
    pub const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// An event as it stands in the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// Its number, which is its cursor too.
    pub number: u64,
    /// Whose it is.
    pub scope: Scope,
    /// What it is about.
    pub topic: String,
    /// What it happened to, named as entries name their object.
    pub subject: String,
    /// The facts.
    pub body: serde_json::Value,
    /// The workflow in which it happened.
    pub workflow: String,
    /// Which run of it.
    pub saga: SagaId,
    /// The event that this one takes back. None where it takes nothing back, or where that one is gone.
    pub withdraws: Option<u64>,
    /// The request behind the workflow, or empty.
    pub request: String,
    /// Its trace.
    pub trace: Option<String>,
    /// When, in microseconds since 1970. Order is by number.
    pub at_us: u64,
}

impl Published {
    /// The first ledger entry of the transaction in which it happened.
    pub fn entry(&self) -> u64 {
        self.number / PLACES
    }
}
