//! Workflow runs as people and programs meet them: listed, shown, approved, called off, and led on when they are stuck.
//! Who enters: members of a workspace with their scopes; operators, with a verb and a reason.
//! What leaves: runs in words and pictures; votes and verbs, each told on the ledger.

pub mod routes;
pub mod shown;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use sagas::limits::PAGE_ROWS_MAX;
use sagas::{Detail, End, Filter, HistoryLine, SagaId, SagaKey, Scope, StartRefused, State, Summary, Verb};

use crate::api::guard::{Permit, may, scope_missing};
use crate::api::{Offer, OperatorPermit, Origin, Problem};
use crate::ids::WorkspaceId;
use crate::moment::Moment;
use crate::refused_by_ledger;
use crate::runner::RunRefused;
use crate::services::credentials::{self, Withdrawn};
use crate::services::ground::{Ground, LedgerRefused, Signal, Telling, was_read, written};
use crate::services::signing::approvals::{self, Ballot, Decision, Pending, Vote};

/// Why nothing was shown or done.
#[derive(Debug, thiserror::Error)]
pub enum RunsRefused {
    /// No such run in this workspace.
    #[error("no such workflow")]
    NoSuchRun,
    /// Nothing waits for a vote.
    #[error("the workflow does not wait for approval")]
    NoVote,
    /// The voter has seen another request, or another policy.
    #[error("the vote is about another request or policy")]
    Stale,
    /// The time to agree is over.
    #[error("the time to agree ended {0}")]
    TooLate(Moment),
    /// Nobody approves what they asked for.
    #[error("nobody approves what they asked for")]
    OwnRequest,
    /// The engine said no.
    #[error(transparent)]
    Run(#[from] RunRefused),
    /// The ledger did not take or give it.
    #[error(transparent)]
    Ledger(#[from] LedgerRefused),
}
refused_by_ledger!(RunsRefused);

/// A run with what its approvers need to know.
#[derive(Debug)]
pub struct Shown {
    /// The run.
    pub detail: Detail,
    /// What waits for a vote, if anything ever did.
    pub pending: Option<Pending>,
    /// The votes, and of those that do not count any more, why.
    pub votes: Vec<(Vote, Option<String>)>,
    /// Why whoever asked may not ask any more: then nothing will be done, whatever others say.
    pub withdrawn: Option<String>,
}

/// The room.
pub struct Runs {
    ground: Ground,
    offers: Vec<Offer>,
}

impl Runs {
    /// The room on its ground, with what members may start by name.
    pub fn new(ground: Ground, offers: Vec<Offer>) -> Arc<Self> {
        Arc::new(Self { ground, offers })
    }

    /// Forgets runs that have been over for so long, with the votes about them.
    ///
    /// # Errors
    /// The ledger did not take it; the next round tries again.
    pub async fn sweep(&self, kept: Duration) -> Result<(), RunsRefused> {
        let Ok(engine) = self.ground.runner.engine() else { return Ok(()) };
        let swept = engine.sweep(kept, approvals::forget).await;
        written::<usize, LedgerRefused>(swept.map_err(|refused| refused.map(LedgerRefused::from)))?;
        Ok(())
    }

    /// What members may start by name.
    pub fn offers(&self) -> &[Offer] {
        &self.offers
    }

    /// Starts an offered workflow.
    ///
    /// # Errors
    /// There is none of this name, its own scope is missing, or its input is not right.
    pub async fn start(
        &self,
        by: &Permit<may::WorkflowsManage>,
        origin: &Origin,
        name: &str,
        input: serde_json::Value,
    ) -> Result<SagaKey, Problem> {
        let offer = self.offers.iter().find(|offer| offer.workflow == name);
        let offer = offer.ok_or_else(|| RunRefused::Start(StartRefused::NoSuchWorkflow(name.to_owned())))?;
        if !by.has(offer.scope) {
            return Err(scope_missing(offer.scope));
        }
        let plan = offer.prepare(by.workspace().clone(), input).await?;
        Ok(self.ground.launch::<RunsRefused>(Telling::member(by, origin), offer.workflow, &plan).await?)
    }

    /// The end of a run, if it comes while its caller has patience.
    ///
    /// # Errors
    /// Nothing runs, or the ledger gave nothing.
    pub async fn end(&self, key: &SagaKey, patience: Duration) -> Result<Option<End>, RunsRefused> {
        let end = self.ground.runner.engine()?.wait(key, patience).await;
        was_read(end.map_err(|refused| refused.map(RunsRefused::from)))
    }

    /// A page of runs, the newest first; of one workspace, or of all and the appliance's own.
    ///
    /// # Errors
    /// Nothing runs, or the ledger gave nothing.
    pub async fn list(&self, filter: Filter) -> Result<Vec<Summary>, RunsRefused> {
        let listed = self.ground.runner.engine()?.list(filter).await;
        was_read(listed.map_err(|refused| refused.map(RunsRefused::from)))
    }

    /// One run.
    ///
    /// # Errors
    /// There is none of this id here.
    pub async fn show(&self, scope: Option<&WorkspaceId>, id: SagaId) -> Result<Shown, RunsRefused> {
        let shown = self.ground.runner.engine()?.show(&key(scope, id)).await;
        let shown = was_read::<_, RunsRefused>(shown.map_err(|refused| refused.map(RunsRefused::from)))?;
        let detail = shown.ok_or(RunsRefused::NoSuchRun)?;
        let Some(workspace) = scope.cloned() else {
            return Ok(Shown { detail, pending: None, votes: Vec::new(), withdrawn: None });
        };
        let now = self.ground.now();
        self.ground
            .read::<_, RunsRefused>(move |view| {
                let pending = approvals::pending(view, &workspace, &id.to_string())?;
                let votes = approvals::standing(view, &workspace, &id.to_string(), now)?;
                let mut detail = detail;
                detail.advice.splice(0..0, advice(&detail.summary, pending.as_ref()));
                let requester = pending.as_ref().map(|pending| &pending.requester);
                let withdrawn = requester
                    .map(|requester| credentials::withdrawn(view, &workspace, requester, None, now))
                    .transpose()?;
                Ok(Shown { detail, pending, votes, withdrawn: withdrawn.flatten().map(Withdrawn::words) })
            })
            .await
    }

    /// Calls a run off. It unwinds, unless its pivot lies behind it.
    ///
    /// # Errors
    /// It is over, or past its pivot.
    pub async fn cancel(
        &self,
        by: &Permit<may::WorkflowsManage>,
        origin: &Origin,
        id: SagaId,
        reason: &str,
    ) -> Result<(), RunsRefused> {
        self.ground.cancel(Telling::member(by, origin), &key(Some(by.workspace()), id), reason).await
    }

    /// Says yes or no to a request that waits for approval.
    ///
    /// # Errors
    /// Nothing waits, the voter has seen something else, it is the voter's own request, or the time to agree is over.
    pub async fn vote(
        &self,
        by: &Permit<may::Approve>,
        origin: &Origin,
        id: SagaId,
        ballot: Ballot,
        decision: Decision,
    ) -> Result<(), RunsRefused> {
        let workspace = by.workspace().clone();
        let pending = self.pending(&workspace, id).await?;
        if pending.ballot != ballot {
            return Err(RunsRefused::Stale);
        }
        if by.actor().is_same_hand(&pending.requester) {
            return Err(RunsRefused::OwnRequest);
        }
        // A no is heard as long as there is something to stop, also in a time lock or a grace after the time to agree.
        if decision == Decision::Approve && pending.expires <= self.ground.now() {
            return Err(RunsRefused::TooLate(pending.expires));
        }
        let vote = Signal { name: decision.text(), dedupe: by.actor().to_string(), payload: &ballot };
        self.ground.signal(Telling::member(by, origin), &key(Some(&workspace), id), vote).await
    }

    /// Brings a run what it waits for. Whether it is the right thing is for the run to say.
    ///
    /// # Errors
    /// It waits for nothing of the kind.
    pub async fn deliver(
        &self,
        by: &Permit<may::KeysManage>,
        origin: &Origin,
        id: SagaId,
        signal: &'static str,
        payload: &(impl serde::Serialize + Sync),
    ) -> Result<(), RunsRefused> {
        // One delivery for each request: what did not read may be sent again.
        let delivery = Signal { name: signal, dedupe: origin.request.to_string(), payload };
        self.ground.signal(Telling::member(by, origin), &key(Some(by.workspace()), id), delivery).await
    }

    /// What was done by the workflows that a request started, whoever drove them. Where none runs, nothing is known.
    ///
    /// # Errors
    /// The ledger gave nothing.
    pub async fn history(&self, _: &OperatorPermit, request: &str) -> Result<Vec<HistoryLine>, RunsRefused> {
        let Ok(engine) = self.ground.runner.engine() else { return Ok(Vec::new()) };
        was_read(engine.history(request).await.map_err(|refused| refused.map(RunsRefused::from)))
    }

    async fn pending(&self, workspace: &WorkspaceId, id: SagaId) -> Result<Pending, RunsRefused> {
        let workspace = workspace.clone();
        let pending = self
            .ground
            .read::<_, RunsRefused>(move |view| Ok(approvals::pending(view, &workspace, &id.to_string())?));
        pending.await?.ok_or(RunsRefused::NoVote)
    }

    /// Leads a stuck run on.
    ///
    /// # Errors
    /// It is not stuck in the way this verb is for.
    pub async fn lead(
        &self,
        by: &OperatorPermit,
        scope: Option<&WorkspaceId>,
        origin: &Origin,
        id: SagaId,
        verb: Verb,
        reason: &str,
    ) -> Result<(), RunsRefused> {
        self.ground.lead(Telling::operator(by, scope, origin), &key(scope, id), verb, reason).await
    }
}

impl Runs {
    /// The workspace of a stuck run, for an operator who names none: one that is being founded can be entered by nobody yet.
    ///
    /// # Errors
    /// Nothing runs, or the ledger gave nothing.
    pub async fn workspace_of_stuck(&self, id: SagaId) -> Result<Option<WorkspaceId>, RunsRefused> {
        let id = id.to_string();
        for state in [State::StuckForward, State::StuckUndo] {
            let filter = Filter { state: Some(state), rows_max: PAGE_ROWS_MAX, ..Filter::default() };
            if let Some(run) = self.list(filter).await?.into_iter().find(|run| run.id == id) {
                return Ok(run.workspace.and_then(|workspace| workspace.parse().ok()));
            }
        }
        Ok(None)
    }
}

/// What those who are asked can do.
fn advice(run: &Summary, pending: Option<&Pending>) -> Vec<String> {
    let waits_at = run.step.filter(|_| run.state == State::Waiting.as_str());
    match (pending, waits_at) {
        (Some(pending), Some(step)) if step == pending.step => vec![
            "`approve`, if you did not ask for it and agree to exactly this".to_owned(),
            "`refuse` to end it".to_owned(),
        ],
        (Some(_), Some(TIME_LOCK)) => vec!["`refuse` to veto it while its time lock runs".to_owned()],
        _ => Vec::new(),
    }
}

/// The wait in which a change that was agreed to can be vetoed.
const TIME_LOCK: &str = "signing.await_timelock";

fn key(scope: Option<&WorkspaceId>, id: SagaId) -> SagaKey {
    let scope = scope.map_or(Scope::Appliance, |workspace| Scope::Workspace(workspace.on_ledger().clone()));
    SagaKey { scope, id }
}
