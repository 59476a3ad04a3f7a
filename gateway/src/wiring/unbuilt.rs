//! Why a house cannot stand, and whether starting again by itself could help.
//! Who enters: the wiring, when a part is missing or refuses.
//! What leaves: one reason with its causes, for the command line and the service manager.

use std::path::PathBuf;

use hsm::StartRefused;
use sagas::EngineRefused;

use super::doors::UpstreamsRefused;
use crate::appliance::BadRecord;
use crate::appliance::init::InitRefused;
use crate::appliance::master::MasterRefused;
use crate::appliance::succession::LineUnusable;
use crate::routing::Unroutable;
use crate::services::devices::DevicesRefused;
use crate::services::ground::LedgerRefused;
use crate::services::keys::KeysRefused;
use crate::services::workspaces::WorkspacesRefused;
use crate::workflows::Undefined;
use audit::RecoverRefused;

/// Why the house cannot stand.
#[derive(Debug, thiserror::Error)]
pub enum Unbuilt {
    /// The token or TPM did not start.
    #[error("the {which} did not start")]
    Token {
        /// Which one.
        which: &'static str,
        /// Why.
        #[source]
        source: StartRefused,
    },
    /// The ledger was not opened.
    #[error("the ledger was not opened")]
    Ledger(#[source] audit::OpenRefused),
    /// There is no appliance in this state directory, or only half of one.
    #[error("there is no complete appliance in {0}; `chancery init` makes one in an empty state directory")]
    NoAppliance(PathBuf),
    /// An initialisation was cut off here.
    #[error(
        "`chancery init` was cut off in {0} and made nothing whole; run it again, it takes away what it left"
    )]
    HalfMade(PathBuf),
    /// A record of the appliance cannot be used.
    #[error(transparent)]
    Record(#[from] BadRecord),
    /// The recorded certificate authorities cannot be used.
    #[error("the recorded certificate authorities cannot be used")]
    Authorities(#[from] LineUnusable),
    /// The master key was not unwrapped.
    #[error("the master key was not unwrapped")]
    Master(#[source] MasterRefused),
    /// The appliance was not made.
    #[error(transparent)]
    Init(#[from] InitRefused),
    /// The ledger's recovery met with a fault, not with a verdict.
    #[error("the ledger could not be verified")]
    Recover(#[source] RecoverRefused),
    /// The clients were not loaded.
    #[error("the clients cannot be loaded")]
    Devices(#[from] DevicesRefused),
    /// The workspaces were not loaded.
    #[error("the workspaces cannot be loaded")]
    Workspaces(#[from] WorkspacesRefused),
    /// Orders that were left open could not be settled.
    #[error("the keys cannot be loaded")]
    Keys(#[from] KeysRefused),
    /// The workflows do not fit together: a fault of this build.
    #[error(transparent)]
    Workflows(#[from] Undefined),
    /// The workflows of the last run could not be taken up.
    #[error("the workflows were not taken up")]
    Engine(#[source] EngineRefused),
    /// Two services claim one path.
    #[error(transparent)]
    Routes(#[from] Unroutable),
    /// An upstream, or the collector of traces, cannot be spoken to.
    #[error("an upstream cannot be served")]
    Upstreams(#[from] UpstreamsRefused),
    /// The ledger gave nothing.
    #[error(transparent)]
    Read(#[from] LedgerRefused),
}
crate::refused_by_ledger!(UnbuiltRead);

impl Unbuilt {
    /// Starting again without a change by a person would do harm or no good.
    pub fn needs_a_person(&self) -> bool {
        match self {
            Self::Token { source, .. } => {
                !source.may_heal()
                    || matches!(source, StartRefused::PinFile { .. } | StartRefused::PinLastTry)
            }
            Self::Master(refused) => !refused.may_heal(),
            Self::NoAppliance(_) | Self::HalfMade(_) | Self::Record(_) | Self::Authorities(_) => true,
            Self::Ledger(refused) => matches!(
                refused,
                audit::OpenRefused::Foreign { .. } | audit::OpenRefused::MigrationChanged { .. }
            ),
            _ => false,
        }
    }

    /// What is late, full or away comes by itself, and is waited for. Everything else ends the start.
    pub fn may_heal(&self) -> bool {
        match self {
            Self::Token { source, .. } => source.may_heal(),
            Self::Master(refused) => refused.may_heal(),
            Self::Ledger(refused) => is_for_want_of_space(refused),
            // Read and written by now, so it is ours and whole: the hardware went away again, or the disk is full.
            Self::Recover(_)
            | Self::Read(_)
            | Self::Devices(_)
            | Self::Workspaces(_)
            | Self::Keys(_)
            | Self::Engine(_) => true,
            _ => false,
        }
    }
}

/// The disk is full, as files and as the engine say it: it needs room for what it maps, and for its log, before it reads a page.
fn is_for_want_of_space(refused: &audit::OpenRefused) -> bool {
    match refused {
        audit::OpenRefused::File { source, .. } => {
            matches!(source.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
        }
        audit::OpenRefused::Database { source, .. } | audit::OpenRefused::Statement { source, .. } => {
            source.is_for_want_of_space()
        }
        _ => false,
    }
}

/// Carries a read's fault to [`Unbuilt`].
#[derive(Debug, thiserror::Error)]
pub(super) enum UnbuiltRead {
    #[error(transparent)]
    Ledger(#[from] LedgerRefused),
}
