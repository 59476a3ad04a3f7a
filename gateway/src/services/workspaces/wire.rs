//! The JSON of workspaces and API keys.
//! Who enters: request bodies, parsed once into commands.
//! What leaves: answers; an API key's secret stands in one of them, once.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::closing::ClosingPlan;
use super::store::{ApiKeyRow, WorkspaceRow};
use super::{IssuedApiKey, NewApiKey, WorkspacesRefused};
use crate::api::exchange::bounded;
use crate::api::{Code, Problem, Scope, Scopes};
use crate::ids::{Name, WorkspaceId};
use crate::limits::REASON_BYTES_MAX;
use crate::moment::Moment;

/// Asks for a workspace.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateWorkspace {
    /// 1 to 64 of a-z, 0-9, -, _ and .
    pub name: String,
}

/// Asks for a workspace to be closed for good.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShredWorkspace {
    /// Why, for those who approve.
    pub reason: String,
    /// Days in which it can be called off, 1 to 90, from the moment in which enough others agreed.
    pub grace_days: u32,
    /// How many other operators have to agree, within 12 hours; 1 if absent, never 0.
    #[serde(default = "one")]
    pub approvals: u32,
}

/// A workflow that goes on after its caller's patience.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "WorkspaceWorkflow")]
pub struct Going {
    /// Its id.
    pub workflow: String,
    /// The workspace.
    pub workspace: String,
}

/// A workspace.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Workspace {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `creating`, `open`, `closed`, `closing` (it will be shredded) or `shredded`.
    pub state: &'static str,
    /// When it was made.
    pub created: Moment,
}

/// All workspaces.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "WorkspaceList")]
pub struct Workspaces {
    /// The workspaces, oldest first.
    pub workspaces: Vec<Workspace>,
}

/// Asks for an API key.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CreateApiKey {
    /// Its name.
    pub name: String,
    /// What it may do; at least one.
    pub scopes: Vec<Scope>,
    /// When it ends; never, if absent.
    #[serde(default)]
    pub expires: Option<Moment>,
}

/// An API key, without its secret.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ApiKey {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What it may do; `*` only on keys that a migration brought.
    pub scopes: Vec<String>,
    /// `active` or `revoked`.
    pub state: &'static str,
    /// When it was made.
    pub created: Moment,
    /// When it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires: Option<Moment>,
    /// When it was last used, to within half a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used: Option<Moment>,
}

/// A new API key with its secret, shown this once.
#[derive(Serialize, JsonSchema)]
pub struct NewApiKeyAnswer {
    /// The key.
    #[serde(flatten)]
    pub key: ApiKey,
    /// What to send as the bearer token. It cannot be shown again.
    pub secret: String,
}

/// The API keys of a workspace.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ApiKeyList {
    /// The keys.
    pub api_keys: Vec<ApiKey>,
}

impl ShredWorkspace {
    /// The plan.
    ///
    /// # Errors
    /// The reason is too long.
    pub fn plan(self, workspace: WorkspaceId) -> Result<ClosingPlan, Problem> {
        let grace_seconds = u64::from(self.grace_days) * 24 * 3600;
        let reason = bounded(self.reason, REASON_BYTES_MAX, "/reason")?;
        Ok(ClosingPlan { workspace, reason, approvals: self.approvals, grace_seconds })
    }
}

fn one() -> u32 {
    1
}

impl TryFrom<CreateApiKey> for NewApiKey {
    type Error = Problem;

    fn try_from(body: CreateApiKey) -> Result<Self, Problem> {
        let name = Name::chosen(&body.name)
            .map_err(|why| Problem::new(Code::Invalid, format!("{why}")).at("/name"))?;
        let scopes = Scopes::listed(body.scopes)
            .ok_or_else(|| Problem::from(WorkspacesRefused::NoScopes).at("/scopes"))?;
        Ok(Self { name, scopes, expires: body.expires })
    }
}

impl From<WorkspaceRow> for Workspace {
    fn from(row: WorkspaceRow) -> Self {
        Self {
            id: row.id.to_string(),
            name: row.name.to_string(),
            state: row.state.text(),
            created: row.created,
        }
    }
}

impl From<ApiKeyRow> for ApiKey {
    fn from(row: ApiKeyRow) -> Self {
        let stored = row.scopes.as_ref().map(Scopes::stored).unwrap_or_default();
        Self {
            id: row.id.to_string(),
            name: row.name.to_string(),
            scopes: stored.split_whitespace().map(str::to_owned).collect(),
            state: if row.active { "active" } else { "revoked" },
            created: row.created,
            expires: row.expires,
            last_used: row.last_used,
        }
    }
}

impl From<&IssuedApiKey> for NewApiKeyAnswer {
    fn from(issued: &IssuedApiKey) -> Self {
        Self { key: issued.row.clone().into(), secret: issued.secret.as_str().to_owned() }
    }
}
