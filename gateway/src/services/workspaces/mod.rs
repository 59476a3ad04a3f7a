//! Workspaces and the API keys with which programs act in them.
//! Who enters: operators (workspaces), members with access scopes (API keys of their own workspace).
//! What leaves: rows, and an API key's secret exactly once.

mod api_keys;
pub mod closing;
mod data_keys;
pub mod founding;
pub mod routes;
pub mod state;
pub mod store;
pub mod wire;

pub use api_keys::{IssuedApiKey, NewApiKey};

use std::sync::Mutex;
use std::time::{Duration, Instant};

use audit::{EntryFilter, EntryOrder, EntryScope, Told, Tx};
use hsm::{SharedToken, TokenError};
use sagas::SagaKey;
use serde_json::json;

use self::closing::ClosingPlan;
use self::founding::FoundingPlan;
use self::state::WorkspaceState;
use self::store::WorkspaceRow;
use super::ground::{Ground, LedgerRefused, Say, Telling};
use super::roster::{ApiKeyCard, Roster, WorkspaceStanding};
use crate::api::{OperatorPermit, Origin, Reply};
use crate::custody::Custody;
use crate::ids::{Name, WorkspaceId};
use crate::limits::{SHRED_GRACE_MAX, SHRED_GRACE_MIN};
use crate::refused_by_ledger;
use crate::runner::{Ran, RunRefused};

/// Why a command on workspaces or API keys was refused.
#[derive(Debug, thiserror::Error)]
pub enum WorkspacesRefused {
    /// The name is taken.
    #[error("there is a workspace named {0} already")]
    NameTaken(Name),
    /// No such workspace, or it is in that state already.
    #[error("no such workspace, or it is so already")]
    NothingToChange,
    /// No such active API key in this workspace.
    #[error("no such active API key")]
    NoSuchApiKey,
    /// The new key would be allowed more than its maker.
    #[error("an API key cannot give what it does not have: {0:?}")]
    MoreThanOwn(Vec<crate::api::Scope>),
    /// A new key needs at least one scope.
    #[error("an empty list of scopes")]
    NoScopes,
    /// The end lies in the past.
    #[error("the end lies in the past")]
    EndsInThePast,
    /// The data key could not be made or opened.
    #[error("the workspace's data key cannot be used")]
    DataKey(#[source] crate::custody::CustodyRefused),
    /// The workspace has no data key: it is being founded, or was shredded.
    #[error("the workspace is being founded, or was shredded")]
    NoDataKey,
    /// The token did not open the data key.
    #[error("the token did not open the workspace's data key")]
    Token(#[source] TokenError),
    /// The grace is out of bounds.
    #[error("the grace is out of bounds")]
    Grace,
    /// Nobody else has to agree.
    #[error("nobody else would have to agree")]
    NoQuorum,
    /// The workflow that carries the command.
    #[error(transparent)]
    Run(#[from] RunRefused),
    /// The ledger did not take or give it.
    #[error(transparent)]
    Ledger(#[from] LedgerRefused),
}
refused_by_ledger!(WorkspacesRefused);

/// A freeze that has not come within this is waiting for something; the caller looks at the workflow.
const SOON: Duration = Duration::from_secs(2);

/// What became of the wish for a workspace.
#[derive(Debug)]
pub enum Founded {
    /// It stands, and this entry tells of it.
    Done(Option<u64>, WorkspaceRow),
    /// The workflow goes on after its caller's patience.
    Going(SagaKey),
}

/// The service.
pub struct Workspaces {
    ground: Ground,
    roster: Roster,
    custody: Custody,
    token: SharedToken,
    /// Data keys that were opened, so that signing does not ask the token each time; wiped when they go.
    opened: Mutex<data_keys::Opened>,
}

impl Workspaces {
    /// The service on its ground.
    pub fn new(ground: Ground, roster: Roster, custody: Custody, token: SharedToken) -> Self {
        Self { ground, roster, custody, token, opened: Mutex::default() }
    }

    /// Fills the roster at start.
    ///
    /// # Errors
    /// The ledger gave nothing.
    pub async fn load(&self) -> Result<(), WorkspacesRefused> {
        let (workspaces, rows, as_of) = self
            .ground
            .read::<_, WorkspacesRefused>(|view| Ok((store::all(view)?, store::roster(view)?, view.size()?)))
            .await?;
        for row in workspaces {
            self.enlist(row, as_of);
        }
        for row in rows {
            // A list that gives nothing is not put on the roster: its key is as good as unknown.
            let Some(scopes) = row.scopes else { continue };
            let (id, workspace, expires) = (row.id, row.workspace, row.expires);
            self.roster
                .put_api_key(row.hash, ApiKeyCard { id, workspace, scopes, expires, last_used: 0.into() });
        }
        Ok(())
    }

    /// Makes a workspace with its own key in the token, step by step; a step that fails undoes those before it.
    ///
    /// # Errors
    /// The name is taken, or token or ledger did not do it.
    pub async fn create(
        &self,
        by: &OperatorPermit,
        origin: &Origin,
        name: Name,
    ) -> Result<Founded, WorkspacesRefused> {
        let id = WorkspaceId::new(&self.ground.dice).map_err(|_| LedgerRefused::Fault(None))?;
        let plan = FoundingPlan { workspace: id.clone(), name };
        let telling = Telling::operator(by, Some(&id), origin);
        let workflow = self.ground.launch::<WorkspacesRefused>(telling, "workspace.create", &plan).await?;
        match self.ground.outcome::<WorkspaceId, WorkspacesRefused>(&workflow, origin.deadline).await? {
            Ran::Going => Ok(Founded::Going(workflow)),
            Ran::Done(_) => {
                let row = self.refresh(&id).await?.ok_or(WorkspacesRefused::NothingToChange)?;
                Ok(Founded::Done(self.newest_entry(&id).await?, row))
            }
        }
    }

    /// Begins to close a workspace for good: frozen at once, shredded when others agreed and then the grace is over.
    ///
    /// # Errors
    /// Grace or quorum are out of bounds, it is not in a state for this, or another workflow holds it.
    pub async fn shred_after(
        &self,
        by: &OperatorPermit,
        origin: &Origin,
        plan: &ClosingPlan,
    ) -> Result<SagaKey, WorkspacesRefused> {
        if !(SHRED_GRACE_MIN..=SHRED_GRACE_MAX).contains(&plan.grace()) {
            return Err(WorkspacesRefused::Grace);
        }
        if plan.approvals == 0 {
            return Err(WorkspacesRefused::NoQuorum);
        }
        let id = plan.workspace.clone();
        let telling = Telling::operator(by, Some(&id), origin);
        let workflow = self.ground.launch::<WorkspacesRefused>(telling, "workspace.close", plan).await?;
        // It takes days, so nobody waits for its end: only for what would end it at once.
        let soon = origin.deadline.min(Instant::now() + SOON);
        let frozen = || async { matches!(self.state_of(&id).await, Ok(Some(WorkspaceState::Closing))) };
        self.ground.progress::<WorkspaceId, WorkspacesRefused, _>(&workflow, soon, frozen).await?;
        self.refresh(&id).await?;
        Ok(workflow)
    }

    /// Puts the workspace on the roster as it stands now, and drops from it what a shredded one leaves behind.
    ///
    /// # Errors
    /// The ledger gave nothing.
    pub async fn refresh(&self, id: &WorkspaceId) -> Result<Option<WorkspaceRow>, WorkspacesRefused> {
        let of = id.clone();
        let (row, as_of) = self
            .ground
            .read::<_, WorkspacesRefused>(move |view| Ok((store::workspace(view, &of)?, view.size()?)))
            .await?;
        if let Some(row) = &row {
            if row.state == WorkspaceState::Shredded {
                self.forget_data_key(id);
            }
            self.enlist(row.clone(), as_of);
        }
        Ok(row)
    }

    /// Puts a workspace on the roster as it stood when the log had so many entries.
    fn enlist(&self, row: WorkspaceRow, as_of: u64) {
        let standing = match row.state {
            WorkspaceState::Creating => return,
            WorkspaceState::Open => WorkspaceStanding::Open,
            WorkspaceState::Closed | WorkspaceState::Closing => WorkspaceStanding::Closed,
            WorkspaceState::Shredded => WorkspaceStanding::Shredded,
        };
        self.roster.put_workspace(row.id, row.name, standing, as_of);
    }

    async fn state_of(&self, id: &WorkspaceId) -> Result<Option<WorkspaceState>, WorkspacesRefused> {
        let of = id.clone();
        self.ground.read::<_, WorkspacesRefused>(move |view| Ok(store::state(view, &of)?)).await
    }

    async fn newest_entry(&self, id: &WorkspaceId) -> Result<Option<u64>, WorkspacesRefused> {
        let filter = EntryFilter {
            scope: EntryScope::Workspace(id.on_ledger().clone()),
            object: Some(id.to_string()),
            order: EntryOrder::NewestFirst,
            limit: 1,
            ..EntryFilter::default()
        };
        let newest = self.ground.read::<_, WorkspacesRefused>(move |view| Ok(view.entries(&filter)?)).await?;
        Ok(newest.first().map(|entry| entry.seq))
    }

    /// All workspaces.
    ///
    /// # Errors
    /// The ledger gave nothing.
    pub async fn list(&self) -> Result<Vec<WorkspaceRow>, WorkspacesRefused> {
        self.ground
            .read::<_, WorkspacesRefused>(|view| store::all(view).map_err(WorkspacesRefused::from))
            .await
    }

    /// Closes a workspace to its programs, or opens it again.
    ///
    /// # Errors
    /// There is none, or it is so already.
    pub async fn set_open(
        &self,
        by: &OperatorPermit,
        origin: &Origin,
        id: WorkspaceId,
        open: bool,
        say: impl Say<Name>,
    ) -> Result<Reply, WorkspacesRefused> {
        let telling = Telling::operator(by, Some(&id), origin);
        let of = id.clone();
        let act = move |tx: &mut Tx<'_>, telling: &Telling| {
            let name = store::set_state(tx, &of, open)?.ok_or(WorkspacesRefused::NothingToChange)?;
            let (action, before, after) = if open {
                ("workspace.open", "closed", "open")
            } else {
                ("workspace.close", "open", "closed")
            };
            let entry = telling.entry(action, of.as_str(), |detail| {
                detail.before(json!({ "state": before })).after(json!({ "state": after }))
            });
            Ok(Told::new(name, entry))
        };
        let (reply, recorded) = self.ground.answer::<_, WorkspacesRefused>(telling, act, say).await?;
        let standing = if open { WorkspaceStanding::Open } else { WorkspaceStanding::Closed };
        // The log has one entry more than the number of its last one.
        let as_of = recorded.seq() + 1;
        self.roster.put_workspace(id, recorded.into_value(), standing, as_of);
        Ok(reply)
    }
}
