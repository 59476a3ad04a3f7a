//! Problems of the services' own rules.
//! Who enters: each service's refusal.
//! What leaves: problems that say what the caller can do about it.

use ::audit::{NoProof, SealRefused};

use super::{SOON, chain};
use crate::api::{Code, Problem};
use crate::appliance::master::MasterRefused;
use crate::ca::CaRefused;
use crate::services::audit::AuditRefused;
use crate::services::devices::DevicesRefused;
use crate::services::ground::LedgerRefused;
use crate::services::keys::KeysRefused;
use crate::services::resealing::ResealRefused;
use crate::services::signing::SigningRefused;
use crate::services::succession::SuccessionRefused;
use crate::services::workspaces::WorkspacesRefused;

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

impl From<ResealRefused> for Problem {
    fn from(refused: ResealRefused) -> Self {
        match refused {
            ResealRefused::NoTpm => Self::new(
                Code::TokenCannot,
                "no TPM is configured, so nothing is sealed to this machine's state and nothing has to be sealed anew",
            ),
            ResealRefused::Master(
                MasterRefused::Token { source, .. } | MasterRefused::Tpm { source, .. },
            ) => source.into(),
            fault @ (ResealRefused::Master(MasterRefused::Key(_))
            | ResealRefused::Custody(_)
            | ResealRefused::Unproven
            | ResealRefused::Record) => Self::internal(&chain(&fault)),
            ResealRefused::Ledger(refused) => refused.into(),
        }
    }
}

impl From<DevicesRefused> for Problem {
    fn from(refused: DevicesRefused) -> Self {
        match refused {
            DevicesRefused::NoSuchClient => {
                Self::new(Code::NotFound, "no such enrolled client in this workspace")
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
            KeysRefused::NoSuchKey => Self::new(Code::NotFound, "no such key in this workspace"),
            KeysRefused::NoSuchVersion => Self::new(Code::NotFound, "the key has no such version"),
            KeysRefused::WrongState(wrong) => Self::new(Code::KeyUnusable, format!("{wrong}")),
            KeysRefused::OnlyVerifies { .. } => {
                Self::new(Code::KeyUnusable, format!("{refused}; sign with the latest version"))
            }
            KeysRefused::Fenced => {
                Self::new(Code::Fenced, format!("{refused}; nothing was signed, ask again"))
            }
            KeysRefused::Raced => {
                Self::new(Code::WrongState, "the key changed at the same moment; look at it and try again")
            }
            KeysRefused::TokenCannot(what) => Self::new(
                Code::TokenCannot,
                format!("this token makes no {what}; `chancery token probe` shows what it can do"),
            ),
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
            KeysRefused::Record(fault) => Self::internal(&fault),
            KeysRefused::Sealing(fault) => Self::internal(&chain(&fault)),
            KeysRefused::Workspace(refused) => refused.into(),
            KeysRefused::Ledger(refused) => refused.into(),
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
            AuditRefused::Seal(SealRefused::Frozen(freeze)) => {
                LedgerRefused::Frozen(std::sync::Arc::new(freeze)).into()
            }
            AuditRefused::Seal(fault) => Self::internal(&chain(&fault)),
            AuditRefused::Run(refused) => refused.into(),
            AuditRefused::Ledger(refused) => refused.into(),
        }
    }
}
