//! Where an act came from: what its entry tells of it, and what must still stand when it is written.
//! Who enters: permits and the origin of their request.
//! What leaves: entries that name actor, request and workspace in one way.

use std::sync::Arc;

use audit::{Detail, Entry, Tx};
use sagas::lock::lease::fence_guard;
use sagas::{SagaKey, Scope};

use super::refused::LedgerRefused;
use crate::api::caller::Fence;
use crate::api::guard::{Permit, Standing};
use crate::api::{Actor, Caller, Once, OperatorPermit, Origin};
use crate::ids::WorkspaceId;
use crate::traces::here;

/// Where an act came from, as its entry tells it: everything but what was done.
#[derive(Clone, Debug)]
pub struct Telling {
    actor: Actor,
    workspace: Option<WorkspaceId>,
    request: String,
    ip: Option<String>,
    user_agent: String,
    once: Option<Arc<Once>>,
    fences: Vec<Fence>,
    standing: Option<Standing>,
}

impl Telling {
    /// For an act that an operator asked for, in a workspace if it concerns one.
    pub fn operator(by: &OperatorPermit, workspace: Option<&WorkspaceId>, origin: &Origin) -> Self {
        Self::of(by.actor(), workspace, origin, None)
    }

    /// For an act that a member asked for, whose credentials must still stand when it is written.
    pub fn member<A>(by: &Permit<A>, origin: &Origin) -> Self {
        Self::of(by.actor(), Some(by.workspace()), origin, Some(by.standing().clone()))
    }

    /// For an answer that was given again: nothing changes, so nothing has to stand.
    pub fn repeated(to: &Caller, workspace: Option<&WorkspaceId>, origin: &Origin) -> Self {
        Self::of(&Actor::from(to), workspace, origin, None)
    }

    fn of(
        actor: &Actor,
        workspace: Option<&WorkspaceId>,
        origin: &Origin,
        standing: Option<Standing>,
    ) -> Self {
        Self {
            actor: actor.clone(),
            workspace: workspace.cloned(),
            request: origin.request.to_string(),
            ip: origin.ip.map(|ip| ip.to_string()),
            user_agent: origin.user_agent.clone(),
            once: origin.once.clone(),
            fences: origin.fences.clone(),
            standing,
        }
    }

    /// For an act of the appliance itself.
    pub fn own(workspace: Option<&WorkspaceId>) -> Self {
        Self {
            actor: Actor::Appliance,
            workspace: workspace.cloned(),
            request: String::new(),
            ip: None,
            user_agent: String::new(),
            once: None,
            fences: Vec::new(),
            standing: None,
        }
    }

    /// The same act's sequel, which follows whatever has become of the credentials and the request behind it.
    #[must_use]
    pub fn sequel(self) -> Self {
        Self { standing: None, once: None, fences: Vec::new(), ..self }
    }

    /// The workspace that the act is told in.
    pub fn workspace(&self) -> Option<&WorkspaceId> {
        self.workspace.as_ref()
    }

    /// The request's claim on its idempotency key, if it has one.
    pub(super) fn request(&self) -> &str {
        &self.request
    }

    pub(super) fn once(&self) -> Option<&Arc<Once>> {
        self.once.as_ref()
    }

    /// Makes a workflow the answer to the request, in the transaction that starts or turns it.
    pub(super) fn answered_by(&self, tx: &mut Tx<'_>, workflow: &SagaKey) -> Result<(), LedgerRefused> {
        self.once().map_or(Ok(()), |once| once.attach(tx, workflow)).map_err(LedgerRefused::Claim)
    }

    /// Where the act takes place, as workflows name it.
    pub(super) fn scope(&self) -> Scope {
        match &self.workspace {
            Some(workspace) => Scope::Workspace(workspace.on_ledger().clone()),
            None => Scope::Appliance,
        }
    }

    /// What must still stand when a member's act is written.
    pub(super) fn standing(&self) -> Option<(&WorkspaceId, &Standing)> {
        self.workspace.as_ref().zip(self.standing.as_ref())
    }

    /// Looks whether the leases under which the act is carried out are still the latest of their names.
    pub(super) fn under_latest_fences(&self, tx: &Tx<'_>) -> Result<(), LedgerRefused> {
        let scope = self.scope();
        self.fences.iter().try_for_each(|carried| {
            fence_guard(tx, &scope, carried.name.as_str(), carried.fence).map_err(LedgerRefused::from)
        })
    }

    /// Who asked, from where and in which trace, as workflows keep it.
    pub fn origin(&self) -> sagas::Origin {
        sagas::Origin {
            actor: self.actor.to_string(),
            request: self.request.clone(),
            traceparent: here().map(|here| here.context().to_string()),
            ip: self.ip.clone(),
            user_agent: self.user_agent.clone(),
        }
    }

    /// The same act, told in a workspace that it concerns.
    #[must_use]
    pub fn within(&self, workspace: &WorkspaceId) -> Self {
        Self { workspace: Some(workspace.clone()), ..self.clone() }
    }

    /// An entry about `object`, with `detail` filled in by the command.
    pub fn entry(
        &self,
        action: &'static str,
        object: impl Into<String>,
        detail: impl FnOnce(Detail) -> Detail,
    ) -> Entry {
        let mut facts = Detail::new();
        if let Some(ip) = &self.ip {
            facts = facts.ip(ip);
        }
        if !self.user_agent.is_empty() {
            facts = facts.user_agent(&self.user_agent);
        }
        let entry = Entry::new(action).actor(self.actor.to_string()).object(object).request(&self.request);
        let entry = match &self.workspace {
            Some(workspace) => entry.workspace(workspace.on_ledger()),
            None => entry,
        };
        entry.detail(detail(facts))
    }
}
