//! The one place where refusals of services become problems that callers see.
//! Who enters: every service's refusal.
//! What leaves: stable codes, words that say what to do next, times to come back; causes go to the log only.

use std::time::Duration;

use ::audit::{NoProof, SealRefused};
use hsm::{Refusal, TokenError};
use sagas::lock::lease::LeaseRefused;
use sagas::{SignalRefused, StartRefused, VerbRefused};

use super::audit::AuditRefused;
use super::devices::DevicesRefused;
use super::ground::LedgerRefused;
use super::keys::KeysRefused;
use super::signing::SigningRefused;
use super::succession::SuccessionRefused;
use super::workspaces::WorkspacesRefused;
use crate::admission::Shed;
use crate::api::{Code, Problem};
use crate::appliance::succession::LineRefused;
use crate::ca::CaRefused;
use crate::crypto::VerifyRefused;
use crate::leases::LeasesRefused;
use crate::limits::AUTHORITIES_TRUSTED_MAX;
use crate::runner::RunRefused;
use crate::runs::RunsRefused;
use crate::signer::SignFailed;

const SHORTLY: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(5);

impl From<LedgerRefused> for Problem {
    fn from(refused: LedgerRefused) -> Self {
        let frozen = |detail: &str| Self::new(Code::LedgerFrozen, detail);
        match refused {
            LedgerRefused::Frozen(_) => frozen(
                "the ledger does not agree with its anchor; nothing is signed or changed. The operator sees why with `chancery status`",
            ),
            LedgerRefused::Waiting => {
                frozen("the ledger waits for its anchor; nothing was changed, try again").after(SOON)
            }
            LedgerRefused::Overloaded => {
                Self::new(Code::Overloaded, "nothing was changed, try again").after(SHORTLY)
            }
            LedgerRefused::NoSpace => {
                frozen("no space is left for the ledger; nothing was changed. The operator has to make room")
                    .after(SOON)
            }
            LedgerRefused::Lost => {
                frozen("the disk under the ledger failed; whether this was written shows after a restart")
            }
            LedgerRefused::Closed => {
                Self::new(Code::Stopping, "try another appliance, or again in a moment").after(SOON)
            }
            LedgerRefused::TooLong { field, bytes_max } => Self::new(
                Code::Invalid,
                format!("{field} of the entry would be too long; it may have {bytes_max} bytes"),
            ),
            LedgerRefused::Fault(fault) => match fault {
                Some(fault) => Self::internal(&chain(&fault)),
                None => Self::internal(&"the ledger could not do it"),
            },
        }
    }
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        let log = || tracing::warn!(%error, "the token did not do it");
        match &error {
            TokenError::Busy { .. } | TokenError::Expired => {
                Self::new(Code::Overloaded, "the token is busy; nothing was done, send it again")
                    .after(SHORTLY)
            }
            TokenError::Gone { retry_after } => {
                Self::new(Code::TokenUnavailable, "the token is away; nothing was done, send it again later")
                    .after(*retry_after)
            }
            TokenError::OutcomeUnknown => {
                log();
                Self::new(Code::OutcomeUnknown, "the token was lost during the call. Nothing was handed out; look at the ledger before sending it again").after(SOON)
            }
            TokenError::Unsupported { .. } => {
                Self::new(Code::TokenCannot, "`chancery token probe` shows what it can do")
            }
            TokenError::Refused(Refusal::TokenFull) => {
                log();
                Self::new(
                    Code::TokenUnavailable,
                    "the token is full; the operator has to destroy unused keys",
                )
                .after(SOON)
            }
            TokenError::Refused(_) | TokenError::WrongKey { .. } | TokenError::KeyMissing { .. } => {
                log();
                Self::new(
                    Code::TokenUnavailable,
                    "the token refused; the operator sees why in the log under this request id",
                )
                .after(SOON)
            }
        }
    }
}

impl From<Shed> for Problem {
    fn from(shed: Shed) -> Self {
        Self::new(
            Code::Overloaded,
            "the queue is longer than this request's time; nothing was written or signed",
        )
        .after(shed.retry_after)
    }
}

impl From<VerifyRefused> for Problem {
    fn from(refused: VerifyRefused) -> Self {
        match refused {
            VerifyRefused::Scheme { kind, scheme } => {
                let known: Vec<_> = kind.schemes().iter().map(|scheme| scheme.name()).collect();
                Self::new(
                    Code::SchemeMismatch,
                    format!("a {kind} key does not sign with {scheme}, but with {}", known.join(", ")),
                )
                .at("/scheme")
            }
            VerifyRefused::DigestLength { scheme, expected: 0, .. } => {
                Self::new(Code::DigestLength, format!("{scheme} signs messages; send `message`"))
                    .at("/digest")
            }
            VerifyRefused::DigestLength { scheme, expected, found } => Self::new(
                Code::DigestLength,
                format!("{scheme} takes a digest of {expected} bytes, this one has {found}"),
            )
            .at("/digest"),
            VerifyRefused::Signature => Self::new(Code::Invalid, "the signature does not verify"),
        }
    }
}

impl From<SignFailed> for Problem {
    fn from(failed: SignFailed) -> Self {
        match failed {
            SignFailed::Token(error) => error.into(),
            SignFailed::Withheld(_) => Self::new(
                Code::TokenUnavailable,
                "the token gave a wrong signature, which was withheld; the operator has to look at it",
            )
            .after(SOON),
        }
    }
}

impl From<WorkspacesRefused> for Problem {
    fn from(refused: WorkspacesRefused) -> Self {
        match refused {
            WorkspacesRefused::NameTaken(name) => {
                Self::new(Code::NameTaken, format!("there is a workspace named {name}; choose another name"))
                    .at("/name")
            }
            WorkspacesRefused::NothingToChange => {
                Self::new(Code::WrongState, "there is no such workspace, or it is so already")
            }
            WorkspacesRefused::NoSuchApiKey => {
                Self::new(Code::NotFound, "no such active API key in this workspace")
            }
            WorkspacesRefused::MoreThanOwn(missing) => {
                let missing: Vec<_> = missing.iter().map(|scope| scope.text()).collect();
                Self::new(
                    Code::ScopeMissing,
                    format!("an API key cannot give what it does not have: {}", missing.join(", ")),
                )
                .at("/scopes")
            }
            WorkspacesRefused::NoScopes => {
                Self::new(Code::Invalid, "name at least one scope; an empty list allows nothing")
            }
            WorkspacesRefused::EndsInThePast => {
                Self::new(Code::Invalid, "the end lies in the past").at("/expires")
            }
            WorkspacesRefused::NoLongerStands => {
                Self::new(Code::ApiKeyUnknown, "the API key was revoked or has expired")
            }
            WorkspacesRefused::DataKey(fault) => Self::internal(&chain(&fault)),
            WorkspacesRefused::NoDataKey => {
                Self::new(Code::WrongState, "the workspace is being founded, or was shredded")
            }
            WorkspacesRefused::Token(error) => error.into(),
            WorkspacesRefused::Grace => {
                Self::new(Code::Invalid, "the grace is 1 to 90 days").at("/grace_days")
            }
            WorkspacesRefused::NoQuorum => {
                Self::new(Code::Invalid, "at least one other operator has to agree").at("/approvals")
            }
            WorkspacesRefused::Run(refused) => refused.into(),
            WorkspacesRefused::Ledger(refused) => refused.into(),
        }
    }
}

impl From<DevicesRefused> for Problem {
    fn from(refused: DevicesRefused) -> Self {
        match refused {
            DevicesRefused::NoSuchClient => {
                Self::new(Code::NotFound, "no such enrolled client in this workspace")
            }
            DevicesRefused::NoLongerStands => {
                Self::new(Code::ClientRevoked, "the client certificate was revoked")
            }
            DevicesRefused::Certificate(CaRefused::Request(_)) => Self::new(
                Code::Invalid,
                "not a PKCS#10 request in PEM, signed by its own P-256, P-384, Ed25519 or RSA key",
            )
            .at("/csr"),
            DevicesRefused::Certificate(refused) => refused.into(),
            DevicesRefused::AuthorityRetired => Self::new(
                Code::WrongState,
                "the CA was retired while it made this certificate, which is good for nothing; enrol again",
            ),
            DevicesRefused::Ledger(refused) => refused.into(),
        }
    }
}

impl From<CaRefused> for Problem {
    fn from(refused: CaRefused) -> Self {
        match refused {
            CaRefused::Signing(failed) => failed.into(),
            CaRefused::Request(fault) | CaRefused::Writing(fault) => Self::internal(&fault),
            unreadable @ CaRefused::Unreadable => Self::internal(&unreadable),
        }
    }
}

impl From<LineRefused> for Problem {
    fn from(refused: LineRefused) -> Self {
        match refused {
            LineRefused::NoSuchAuthority => {
                Self::new(Code::NotFound, "no CA has this fingerprint; `chancery ca list` shows them all")
            }
            LineRefused::RetiredAlready => Self::new(Code::WrongState, "this CA is retired already"),
            LineRefused::OnlyTrusted => Self::new(
                Code::OnlyTrustedCa,
                "without it no client could connect; `chancery ca rotate` makes a successor first",
            ),
            LineRefused::UnderWay | LineRefused::NotOnOrder => Self::new(
                Code::WrongState,
                "the CAs are being changed at this moment; see what came of it with `chancery ca list`, then try again",
            )
            .after(SHORTLY),
            LineRefused::TooManyTrusted => Self::new(
                Code::WrongState,
                format!("{AUTHORITIES_TRUSTED_MAX} CAs are trusted already; retire one with `chancery ca retire`"),
            ),
        }
    }
}

impl From<SuccessionRefused> for Problem {
    fn from(refused: SuccessionRefused) -> Self {
        match refused {
            SuccessionRefused::Line(refused) => refused.into(),
            SuccessionRefused::Token(error) => error.into(),
            SuccessionRefused::Unsettled => Self::new(
                Code::TokenUnavailable,
                "an earlier rotation has to be settled with the token first, and it is away; send it again later",
            )
            .after(SOON),
            SuccessionRefused::Certificate(refused) => refused.into(),
            SuccessionRefused::Unusable(fault) => Self::internal(&chain(&fault)),
            SuccessionRefused::Ledger(refused) => refused.into(),
        }
    }
}

impl From<KeysRefused> for Problem {
    fn from(refused: KeysRefused) -> Self {
        match refused {
            KeysRefused::NameTaken(name) => {
                Self::new(Code::NameTaken, format!("there is a key named {name}; choose another name"))
                    .at("/name")
            }
            KeysRefused::NoSuchKey => Self::new(Code::NotFound, "no such key in this workspace"),
            KeysRefused::NoSuchVersion => Self::new(Code::NotFound, "the key has no such version"),
            KeysRefused::WrongState(wrong) => Self::new(Code::KeyUnusable, format!("{wrong}")),
            KeysRefused::Replaced { .. } => {
                Self::new(Code::KeyUnusable, format!("{refused}; sign with the latest version"))
            }
            KeysRefused::Fenced => {
                Self::new(Code::Fenced, format!("{refused}; nothing was signed, ask again"))
            }
            KeysRefused::Raced => {
                Self::new(Code::WrongState, "the key changed at the same moment; look at it and try again")
            }
            KeysRefused::TooManyVersions => {
                Self::new(Code::WrongState, "the key has all the versions it may have; create a new key")
            }
            KeysRefused::NotRecoverable => Self::new(
                Code::NotRecoverable,
                "the key was made never to leave the token; only keys made with `recoverable` can be backed up",
            ),
            KeysRefused::NoSuchBackup => Self::new(Code::NotFound, "no such backup in this workspace"),
            KeysRefused::Notice => Self::new(Code::Invalid, "the notice is 1 to 90 days").at("/days"),
            KeysRefused::Overlap => {
                Self::new(Code::BadRequest, "the overlap is at most 90 days").at("/overlap_seconds")
            }
            KeysRefused::Run(refused) => refused.into(),
            KeysRefused::Token(error) => error.into(),
            KeysRefused::Record(fault) => Self::internal(&fault),
            KeysRefused::Sealing(fault) => Self::internal(&chain(&fault)),
            KeysRefused::Workspace(refused) => refused.into(),
            KeysRefused::Ledger(refused) => refused.into(),
        }
    }
}

impl From<RunRefused> for Problem {
    fn from(refused: RunRefused) -> Self {
        match refused {
            RunRefused::NotRunning => Self::new(
                Code::LedgerFrozen,
                "no workflow runs while the ledger takes no writes; the operator sees why with `chancery status`",
            ),
            RunRefused::Start(refused) => start_refused(refused),
            RunRefused::Claim(_) => Self::new(
                Code::RequestInProgress,
                "another request with this key has gone on with it; ask again",
            )
            .after(SHORTLY),
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
            LeasesRefused::Lease(refused @ LeaseRefused::Crowded) => {
                Self::new(Code::Overloaded, refused.to_string()).after(SOON)
            }
            LeasesRefused::Lease(refused) => Self::internal(&chain(&refused)),
            LeasesRefused::Ledger(refused) => refused.into(),
        }
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
            RunsRefused::OwnRequest => {
                Self::new(Code::OwnRequest, "nobody approves what they asked for; ask somebody else")
            }
            RunsRefused::Run(refused) => refused.into(),
            RunsRefused::ApiKey(refused) => refused.into(),
            RunsRefused::Client(refused) => refused.into(),
            RunsRefused::Ledger(refused) => refused.into(),
        }
    }
}

impl From<SigningRefused> for Problem {
    fn from(refused: SigningRefused) -> Self {
        match refused {
            SigningRefused::Shed(shed) => shed.into(),
            SigningRefused::Key(refused) => refused.into(),
            SigningRefused::Input(refused) => refused.into(),
            SigningRefused::Policy(refused) => Self::new(Code::PolicyRefused, refused.to_string()),
            SigningRefused::Run(refused) => refused.into(),
            SigningRefused::ApiKey(refused) => refused.into(),
            SigningRefused::Client(refused) => refused.into(),
            SigningRefused::Failed(failed) => failed.into(),
            SigningRefused::Ledger(refused) => refused.into(),
        }
    }
}

impl From<AuditRefused> for Problem {
    fn from(refused: AuditRefused) -> Self {
        match refused {
            AuditRefused::NoSuchWorkspace => Self::new(Code::NotFound, "no such workspace"),
            AuditRefused::NoSuchEntry => Self::new(Code::NotFound, "no such entry in this workspace"),
            AuditRefused::NoCheckpoint => Self::new(Code::NotFound, "nothing has been sealed yet"),
            AuditRefused::NotYetSealed { wait } => {
                Self::new(Code::NotYetSealed, "the entry is recorded; ask again when it is sealed")
                    .after(wait)
            }
            AuditRefused::NoProof(NoProof::Beyond { size, .. }) => {
                Self::new(Code::NotFound, format!("the log has {size} entries"))
            }
            AuditRefused::NoProof(fault) => Self::internal(&chain(&fault)),
            AuditRefused::Seal(SealRefused::Empty) => Self::new(Code::WrongState, "the log is empty"),
            AuditRefused::Seal(SealRefused::Hardware(fault)) => {
                tracing::warn!(%fault, "not sealed");
                Self::new(Code::TokenUnavailable, "the hardware did not do its part of the seal; try again")
                    .after(SOON)
            }
            AuditRefused::Seal(fault) => Self::internal(&chain(&fault)),
            AuditRefused::Run(refused) => refused.into(),
            AuditRefused::Ledger(refused) => refused.into(),
        }
    }
}

/// An error with its causes, for the log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
