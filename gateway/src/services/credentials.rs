//! The credentials behind an act, looked at again in the transaction that carries it out.
//! Who enters: every write on behalf of a member; every order of a workflow, and every vote on one, by whoever is behind it.
//! What leaves: a refusal, if API key, certificate or workspace no longer stand as they did when the act was asked for.

use audit::{SqlFault, Tx, View};
use sagas::{Refused, StepContext};

use super::devices::store as devices;
use super::ground::LedgerRefused;
use super::workspaces::store as workspaces;
use crate::api::guard::Standing;
use crate::api::{Actor, Code, Scope};
use crate::ids::{ApiKeyId, ClientId, WorkspaceId};
use crate::moment::Moment;

/// Why somebody may no longer act in a workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withdrawn {
    /// The workspace is closed to its programs.
    Workspace,
    /// The API key was revoked, or has ended.
    ApiKey,
    /// The client certificate was revoked, or has ended.
    Client,
    /// The API key lacks the scope.
    Scope(Scope),
}

impl Withdrawn {
    /// What has happened, after the name of whoever it happened to.
    pub fn words(self) -> String {
        match self {
            Self::Workspace => "acts in a workspace that is closed".to_owned(),
            Self::ApiKey => "has an API key that was revoked or has expired".to_owned(),
            Self::Client => "has a client certificate that was revoked or has expired".to_owned(),
            Self::Scope(scope) => format!("lacks the scope `{}`", scope.text()),
        }
    }

    fn code(self) -> Code {
        match self {
            Self::Workspace => Code::WorkspaceClosed,
            Self::ApiKey | Self::Client | Self::Scope(_) => Code::RequesterWithdrawn,
        }
    }
}

/// Checks that workspace, API key and certificate still stand. For an operator the kernel vouches, and an operator also acts
/// in a closed workspace: nobody else could put it in order.
///
/// # Errors
/// Which of them no longer stands, or that the ledger could not be read.
pub fn confirm(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    standing: &Standing,
    now: Moment,
) -> Result<(), LedgerRefused> {
    let Standing::Program { client, api_key } = standing else { return Ok(()) };
    match program(tx, workspace, (client, api_key), None, now)? {
        None => Ok(()),
        Some(Withdrawn::Workspace) => Err(LedgerRefused::WorkspaceClosed),
        Some(Withdrawn::ApiKey | Withdrawn::Scope(_)) => Err(LedgerRefused::ApiKeyWithdrawn),
        Some(Withdrawn::Client) => Err(LedgerRefused::ClientWithdrawn),
    }
}

/// Why an actor may no longer act in a workspace, with a scope if one is needed; nothing if it still may.
///
/// # Errors
/// The ledger cannot be read.
pub fn withdrawn(
    view: &View<'_>,
    workspace: &WorkspaceId,
    actor: &Actor,
    scope: Option<Scope>,
    now: Moment,
) -> Result<Option<Withdrawn>, SqlFault> {
    match actor {
        Actor::Program { client, api_key } => program(view, workspace, (client, api_key), scope, now),
        // Without an API key nothing is asked for and nothing is voted on.
        Actor::Client(_) => Ok(Some(Withdrawn::ApiKey)),
        Actor::Operator(_) | Actor::Appliance => Ok(None),
    }
}

/// Checks, in a step that makes a run's request come true, that whoever asked for it could still ask for it.
///
/// # Errors
/// The requester lost an API key, a certificate or an open workspace meanwhile: the run turns round.
pub fn confirm_requester(view: &View<'_>, cx: &StepContext, workspace: &WorkspaceId) -> Result<(), Refused> {
    let requester = actor(&cx.origin.actor)?;
    match withdrawn(view, workspace, &requester, None, now(cx))? {
        None => Ok(()),
        Some(why) => {
            let words = format!("it was asked for by {requester}, who {}; nothing was done", why.words());
            Err(Refused::business(why.code(), words))
        }
    }
}

/// Who it is that a run or a signal names.
///
/// # Errors
/// Nobody could have this name, which is a fault of ours.
pub fn actor<B>(text: &str) -> Result<Actor, Refused<B>> {
    text.parse().map_err(|why| Refused::Bug(format!("`{text}` is nobody: {why}")))
}

/// The time of a step.
pub fn now(cx: &StepContext) -> Moment {
    Moment::from_micros(i64::try_from(cx.now_us).unwrap_or(i64::MAX))
}

fn program(
    view: &View<'_>,
    workspace: &WorkspaceId,
    (client, api_key): (&ClientId, &ApiKeyId),
    scope: Option<Scope>,
    now: Moment,
) -> Result<Option<Withdrawn>, SqlFault> {
    if !workspaces::is_open(view, workspace)? {
        return Ok(Some(Withdrawn::Workspace));
    }
    let Some(scopes) = workspaces::standing_api_key(view, workspace, api_key, now)? else {
        return Ok(Some(Withdrawn::ApiKey));
    };
    if !devices::stands(view, workspace, client, now)? {
        return Ok(Some(Withdrawn::Client));
    }
    Ok(scope.filter(|scope| !scopes.include(*scope)).map(Withdrawn::Scope))
}
