//! Answers that are given again: counted each time, and told on the ledger now and then, so that a client in a loop cannot
//! fill it and an auditor still sees that a key was used again.
//! Who enters: a replay, with who asked for it.
//! What leaves: a count; an entry for the first replay of a key, the second, the fourth, the eighth.

use std::sync::Arc;

use audit::{Entry, Ledger, SqlFault, Told, Tx, WriteRefused};
use sagas::idempotency::{Claim, Replay};

use super::{Asked, workspace_of};
use crate::api::kept::{ENTRY_HEADER, kept_header};
use crate::services::ground::Telling;

/// A replay that is about to be counted.
pub(super) struct Replayed {
    claim: Claim,
    telling: Telling,
    object: String,
    status: u16,
    /// The entry of what was done the first time.
    first_entry: Option<String>,
}

/// How a replay is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Told,
    Untold,
}

/// Why a count was not committed.
enum No {
    /// Its turn is to be counted in the other way.
    Otherwise(How),
    Sql(SqlFault),
}

impl From<SqlFault> for No {
    fn from(fault: SqlFault) -> Self {
        Self::Sql(fault)
    }
}

impl Replayed {
    pub(super) fn of(claim: &Claim, asked: &Asked<'_>, replay: &Replay) -> Arc<Self> {
        let of = |caller| Telling::repeated(caller, workspace_of(caller), asked.origin);
        // Nobody in particular is let in only where nothing changes, and nothing is given again there.
        let telling = asked.caller.map_or_else(|| Telling::own(None), of);
        Arc::new(Self {
            claim: claim.clone(),
            telling,
            object: format!("route/{} {}", asked.route.method.text(), asked.route.pattern),
            status: replay.answer.status,
            first_entry: kept_header(&replay.answer, ENTRY_HEADER).map(str::to_owned),
        })
    }

    /// Counts it, and tells it if its turn has come. That this did not succeed stops no answer: whoever asks again while
    /// the ledger takes no writes still learns what became of the first request.
    pub(super) async fn count(self: Arc<Self>, ledger: &Ledger) {
        let mut how = How::Untold;
        loop {
            let replay = Arc::clone(&self);
            let counted = match how {
                How::Untold => {
                    let counted = ledger.write_unaudited(
                        "how often an answer was given again, between two that are told",
                        move |tx| replay.tick(tx, How::Untold).map(drop),
                    );
                    counted.await
                }
                How::Told => {
                    let told = ledger.write(move |tx| Ok(Told::new((), replay.entry(replay.tick(tx, how)?))));
                    told.await.map(drop)
                }
            };
            match counted {
                Ok(()) => return,
                // Only if another replay was counted in between, so this comes to an end.
                Err(WriteRefused::Rejected(No::Otherwise(other))) => how = other,
                Err(WriteRefused::Rejected(No::Sql(why))) => {
                    return tracing::debug!(%why, "a replay was not counted");
                }
                Err(_) => return tracing::debug!("the ledger took no count of a replay"),
            }
        }
    }

    fn tick(&self, tx: &mut Tx<'_>, how: How) -> Result<u64, No> {
        let times = self.claim.count_replay(tx)?;
        let due = if times.is_power_of_two() { How::Told } else { How::Untold };
        if due == how { Ok(times) } else { Err(No::Otherwise(due)) }
    }

    fn entry(&self, times: u64) -> Entry {
        self.telling.entry("request.replayed", self.object.clone(), |detail| {
            let detail = detail.with("times", times).with("status", self.status);
            detail.with("first_entry", self.first_entry.clone())
        })
    }
}
