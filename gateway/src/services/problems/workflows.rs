//! Problems of workflows and locks.
//! Who enters: refusals of the engine, of runs, of leases.
//! What leaves: problems that name what is in the way.

use sagas::lock::lease::LeaseRefused;
use sagas::{SignalRefused, StartRefused, VerbRefused};

use super::{SHORTLY, SOON, chain};
use crate::api::{Code, Problem};
use crate::events::EventsRefused;
use crate::leases::LeasesRefused;
use crate::runner::RunRefused;
use crate::runs::RunsRefused;
use crate::services::ground::LedgerRefused;

impl From<RunRefused> for Problem {
    fn from(refused: RunRefused) -> Self {
        match refused {
            RunRefused::NotRunning => Self::new(
                Code::LedgerFrozen,
                "no workflow runs while the ledger takes no writes; the operator sees why with `chancery status`",
            ),
            RunRefused::Start(refused) => start_refused(refused),
            RunRefused::Signal(refused) => signal_refused(refused),
            RunRefused::Verb(refused) => match refused {
                VerbRefused::NoSuchSaga => Self::new(Code::NotFound, "no such workflow here"),
                refused => Self::new(Code::WrongState, refused.to_string()),
            },
            RunRefused::Undone { code, words } => {
                let known = Code::ALL.iter().find(|known| known.text() == code);
                Self::new(known.copied().unwrap_or(Code::WorkflowFailed), words)
            }
            RunRefused::Result(fault) => Self::internal(&fault),
        }
    }
}

fn start_refused(refused: StartRefused) -> Problem {
    match refused {
        StartRefused::NoSuchWorkflow(_) => Problem::new(Code::NotFound, refused.to_string()),
        StartRefused::BadInput { .. } => Problem::new(Code::Invalid, refused.to_string()),
        StartRefused::Locked(_) => {
            Problem::new(Code::ResourceLocked, format!("{refused}; wait for its end, or call it off"))
                .after(SOON)
        }
        // The workspace's key comes from the ledger, and the ledger may be closing or overloaded.
        StartRefused::Seal(why) => {
            tracing::warn!(%why, "a workflow was not started");
            Problem::new(Code::Overloaded, "nothing was started, try again").after(SHORTLY)
        }
        refused => Problem::internal(&chain(&refused)),
    }
}

fn signal_refused(refused: SignalRefused) -> Problem {
    match refused {
        SignalRefused::NoSuchSaga => Problem::new(Code::NotFound, "no such workflow here"),
        SignalRefused::Sql(_) => Problem::internal(&chain(&refused)),
        refused => Problem::new(Code::WrongState, refused.to_string()),
    }
}

impl From<RunsRefused> for Problem {
    fn from(refused: RunsRefused) -> Self {
        match refused {
            RunsRefused::NoSuchRun => Self::new(Code::NotFound, "no such workflow in this workspace"),
            RunsRefused::NoVote => Self::new(Code::WrongState, "the workflow does not wait for approval"),
            RunsRefused::Stale => Self::new(
                Code::StaleApproval,
                "the vote names another request or policy than the one that waits; look at it again",
            ),
            RunsRefused::TooLate(_) => {
                Self::new(Code::ApprovalExpired, format!("{refused}; it has to be asked for again"))
            }
            RunsRefused::OwnRequest => {
                Self::new(Code::OwnRequest, "nobody approves what they asked for; ask somebody else")
            }
            RunsRefused::Run(refused) => refused.into(),
            RunsRefused::Ledger(refused) => refused.into(),
        }
    }
}

impl From<EventsRefused> for Problem {
    fn from(refused: EventsRefused) -> Self {
        match refused {
            EventsRefused::Gone { kept_after, oldest } => {
                let first = oldest.map_or_else(|| "none is kept".to_owned(), |oldest| format!("the first still kept is {oldest}"));
                Self::new(
                    Code::EventsGone,
                    format!("events up to {kept_after} are gone, {first}; look at how things stand, then go on with after={kept_after}"),
                )
            }
            EventsRefused::Ahead { newest } => Self::new(
                Code::Invalid,
                format!("the newest event is {newest}, so this cursor is not of this feed; if the appliance was restored, look at how things stand and go on with after={newest}"),
            )
            .at("/after"),
            EventsRefused::Run(refused) => refused.into(),
            EventsRefused::Ledger(refused) => refused.into(),
        }
    }
}

impl From<LeasesRefused> for Problem {
    fn from(refused: LeasesRefused) -> Self {
        match refused {
            LeasesRefused::Lease(refused @ LeaseRefused::Held { .. }) => {
                Self::new(Code::LockHeld, format!("{refused}; ask again, or stand in line with wait_seconds"))
                    .after(SHORTLY)
            }
            LeasesRefused::Lease(LeaseRefused::Expired) => Self::new(
                Code::LeaseExpired,
                "whatever you protect with it may be another's by now; acquire it anew and mind the new fence",
            ),
            LeasesRefused::Lease(LeaseRefused::Bad(words)) => Self::new(Code::Invalid, words),
            LeasesRefused::Lease(refused @ LeaseRefused::InLine) => {
                Self::new(Code::LockHeld, format!("{refused}; ask again, or stand in line with wait_seconds"))
                    .after(SHORTLY)
            }
            LeasesRefused::Lease(refused @ LeaseRefused::Crowded) => {
                Self::new(Code::Overloaded, refused.to_string()).after(SOON)
            }
            LeasesRefused::Lease(LeaseRefused::NotAllowed(why)) => match why.downcast::<LedgerRefused>() {
                Ok(refused) => Self::from(*refused),
                Err(why) => Self::internal(&why),
            },
            LeasesRefused::Lease(refused) => Self::internal(&chain(&refused)),
            LeasesRefused::Ledger(refused) => refused.into(),
        }
    }
}
