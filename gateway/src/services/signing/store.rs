//! What the signing service keeps: policies, the uses of their limits, requests, claims; and approvals.
//! Who enters: the service's rules, inside a ledger transaction or view.
//! What leaves: rows as types. No other service can run these statements.

use std::str::FromStr;

use audit::{Row, Schema, SqlFault, Statement, Table, Tx, View, params};
use sagas::SagaId;

use super::approvals;
use super::policies::PolicyScope;
use crate::api::Actor;
use crate::ids::{SigningKeyId, WorkspaceId};
use crate::malformed::Malformed;
use crate::moment::Moment;
use crate::services::columns::typed;
use crate::services::policy::Policy;

pub(super) const SERVICE: &str = "signing";

/// The service's tables and statements.
pub static SCHEMA: Schema = Schema {
    service: SERVICE,
    tables: &[
        Table { name: "approval_requests", tenant: true },
        Table { name: "approvals", tenant: true },
        Table { name: "policies", tenant: true },
        Table { name: "policy_uses", tenant: true },
        Table { name: "policy_reservations", tenant: true },
        Table { name: "signing_requests", tenant: true },
        Table { name: "signing_claims", tenant: true },
    ],
    migrations: &[
        include_str!("schema/0001.sql"),
        include_str!("schema/0002.sql"),
        include_str!("schema/0003.sql"),
    ],
    statements: &[
        &approvals::OPEN,
        &approvals::REQUEST,
        &approvals::VOTE,
        &approvals::VOTES,
        &approvals::LAPSE,
        &approvals::FORGET_VOTES,
        &approvals::FORGET_REQUEST,
        &ACTIVE,
        &POLICIES,
        &NEWEST_VERSION,
        &STAGE,
        &SET_POLICY,
        &RETIRE,
        &DROP_POLICY,
        &COUNT,
        &GIVE_BACK,
        &DROP_UNUSED,
        &USED,
        &RESERVE,
        &RESERVED,
        &MOVE_RESERVATION,
        &DROP_RESERVATIONS,
        &OPEN_REQUEST,
        &CLOSE_REQUEST,
        &REQUESTS,
        &CLAIM,
        &CLAIMED_BY,
        &UNCLAIM,
        &UNCLAIM_ONE,
    ],
};

static ACTIVE: Statement = Statement::tenant(
    SERVICE,
    "SELECT id, scope, version, state, body, staged_by FROM policies
     WHERE workspace = ?1 AND state = 'active' AND scope IN ('workspace', ?2) ORDER BY scope",
);
static POLICIES: Statement = Statement::tenant(
    SERVICE,
    "SELECT id, scope, version, state, body, staged_by FROM policies WHERE workspace = ?1 ORDER BY version, id",
);
static NEWEST_VERSION: Statement =
    Statement::tenant(SERVICE, "SELECT COALESCE(MAX(version), 0) FROM policies WHERE workspace = ?1");
static STAGE: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO policies (workspace, id, scope, version, state, body, digest, staged_by, staged_us)
     VALUES (?1, ?2, ?3, 0, 'staged', ?4, ?5, ?6, ?7)",
);
static SET_POLICY: Statement = Statement::tenant(
    SERVICE,
    "UPDATE policies SET state = 'active', version = ?3 WHERE workspace = ?1 AND id = ?2 AND state = 'staged'",
);
static RETIRE: Statement = Statement::tenant(
    SERVICE,
    "UPDATE policies SET state = 'retired' WHERE workspace = ?1 AND scope = ?2 AND state = 'active'",
);
// Only what never bound anybody is dropped: a change that was called off, a policy of a key that never came to be.
static DROP_POLICY: Statement =
    Statement::tenant(SERVICE, "DELETE FROM policies WHERE workspace = ?1 AND id = ?2");
static COUNT: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO policy_uses (workspace, scope, window_us, used) VALUES (?1, ?2, ?3, ?4)
     ON CONFLICT (workspace, scope) DO UPDATE SET
         used = CASE WHEN excluded.window_us > policy_uses.window_us THEN excluded.used ELSE policy_uses.used + excluded.used END,
         window_us = CASE WHEN excluded.window_us > policy_uses.window_us THEN excluded.window_us ELSE policy_uses.window_us END
     RETURNING used, window_us",
);
static GIVE_BACK: Statement = Statement::tenant(
    SERVICE,
    "UPDATE policy_uses SET used = used - ?4 WHERE workspace = ?1 AND scope = ?2 AND window_us = ?3",
);
static DROP_UNUSED: Statement =
    Statement::tenant(SERVICE, "DELETE FROM policy_uses WHERE workspace = ?1 AND scope = ?2 AND used <= 0");
static USED: Statement =
    Statement::tenant(SERVICE, "SELECT used, window_us FROM policy_uses WHERE workspace = ?1 AND scope = ?2");
static RESERVE: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO policy_reservations (workspace, workflow, scope, window_us, uses) VALUES (?1, ?2, ?3, ?4, ?5)",
);
static RESERVED: Statement = Statement::tenant(
    SERVICE,
    "SELECT scope, window_us, uses FROM policy_reservations WHERE workspace = ?1 AND workflow = ?2",
);
static MOVE_RESERVATION: Statement = Statement::tenant(
    SERVICE,
    "UPDATE policy_reservations SET window_us = ?4 WHERE workspace = ?1 AND workflow = ?2 AND scope = ?3",
);
static DROP_RESERVATIONS: Statement =
    Statement::tenant(SERVICE, "DELETE FROM policy_reservations WHERE workspace = ?1 AND workflow = ?2");
static OPEN_REQUEST: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO signing_requests (workspace, workflow, key, policy_version) VALUES (?1, ?2, ?3, ?4)",
);
static CLOSE_REQUEST: Statement =
    Statement::tenant(SERVICE, "DELETE FROM signing_requests WHERE workspace = ?1 AND workflow = ?2");
static REQUESTS: Statement = Statement::tenant(
    SERVICE,
    "SELECT workflow, key, policy_version FROM signing_requests WHERE workspace = ?1 ORDER BY workflow",
);
static CLAIM: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO signing_claims (workspace, key, nonce, digest, workflow) VALUES (?1, ?2, ?3, ?4, ?5)
     ON CONFLICT DO NOTHING",
);
static CLAIMED_BY: Statement = Statement::tenant(
    SERVICE,
    "SELECT workflow FROM signing_claims WHERE workspace = ?1 AND key = ?2 AND nonce = ?3 AND digest = ?4",
);
static UNCLAIM: Statement =
    Statement::tenant(SERVICE, "DELETE FROM signing_claims WHERE workspace = ?1 AND workflow = ?2");
static UNCLAIM_ONE: Statement = Statement::tenant(
    SERVICE,
    "DELETE FROM signing_claims WHERE workspace = ?1 AND key = ?2 AND nonce = ?3 AND digest = ?4 AND workflow = ?5",
);

/// A policy as it is kept.
#[derive(Clone, Debug)]
pub struct PolicyRow {
    /// The workflow that put it there.
    pub id: String,
    /// What it is for.
    pub scope: PolicyScope,
    /// Its number, counted through the workspace; 0 while it is staged.
    pub version: i64,
    /// Where it stands.
    pub state: PolicyState,
    /// What it says.
    pub policy: Policy,
    /// Who wanted it.
    pub staged_by: Actor,
}

/// Where a policy stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyState {
    /// Put down, and binding nobody yet.
    Staged,
    /// In force.
    Active,
    /// Another one came in its place.
    Retired,
}

impl PolicyState {
    /// As stored and shown.
    pub fn text(self) -> &'static str {
        match self {
            Self::Staged => "staged",
            Self::Active => "active",
            Self::Retired => "retired",
        }
    }
}

impl FromStr for PolicyState {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        [Self::Staged, Self::Active, Self::Retired]
            .into_iter()
            .find(|state| state.text() == text)
            .ok_or(Malformed { expected: "policy state" })
    }
}

/// What is signed at most once: this content, with this key, under this nonce.
#[derive(Clone, Copy, Debug)]
pub struct ClaimKey<'a> {
    /// The key.
    pub key: &'a SigningKeyId,
    /// What its asker chose.
    pub nonce: &'a str,
    /// The content's digest, as hex.
    pub digest: &'a str,
}

/// Uses that are counted and not yet made.
#[derive(Clone, Debug)]
pub struct Reservation {
    /// Of which limit.
    pub scope: PolicyScope,
    /// In which window.
    pub window_us: i64,
    /// How many.
    pub uses: i64,
}

/// A request that is not over.
#[derive(Clone, Debug)]
pub struct RequestRow {
    /// Its workflow.
    pub workflow: SagaId,
    /// Its key.
    pub key: SigningKeyId,
    /// The version of the policy that it was made under.
    pub policy_version: i64,
}

type Sql<T> = Result<T, SqlFault>;

fn policy(row: &Row<'_>) -> Sql<PolicyRow> {
    // A policy that does not read allows nothing: whoever asks is told of the fault.
    let body = serde_json::from_str(&row.text(4)?).map_err(|_| SqlFault::Malformed { column: 4 })?;
    Ok(PolicyRow {
        id: row.text(0)?,
        scope: typed(row, 1)?,
        version: row.integer(2)?,
        state: typed(row, 3)?,
        policy: body,
        staged_by: typed(row, 5)?,
    })
}

pub(super) fn active(view: &View<'_>, workspace: &WorkspaceId, scope: &PolicyScope) -> Sql<Vec<PolicyRow>> {
    view.within(workspace.on_ledger()).all(&ACTIVE, params![scope.as_str()], policy)
}

/// Every policy that the workspace has or had.
///
/// # Errors
/// The ledger cannot be read.
pub fn policies(view: &View<'_>, workspace: &WorkspaceId) -> Sql<Vec<PolicyRow>> {
    view.within(workspace.on_ledger()).all(&POLICIES, params![], policy)
}

pub(super) fn stage(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    (id, scope): (&str, &PolicyScope),
    policy: &Policy,
    (by, at): (&Actor, Moment),
) -> Sql<()> {
    let body = serde_json::to_string(policy).unwrap_or_default();
    let (digest, by) = (policy.digest(), by.to_string());
    let params = params![id, scope.as_str(), body.as_str(), digest.as_str(), by.as_str(), at.micros()];
    tx.within(workspace.on_ledger()).run(&STAGE, params).map(drop)
}

/// Puts a staged policy in the place of the active one, under the workspace's next number.
pub(super) fn activate(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    id: &str,
    scope: &PolicyScope,
) -> Sql<Option<i64>> {
    let within = tx.within(workspace.on_ledger());
    let newest = within.one(&NEWEST_VERSION, params![], |row| row.integer(0))?.unwrap_or_default();
    within.run(&RETIRE, params![scope.as_str()])?;
    let set = within.run(&SET_POLICY, params![id, newest + 1])?;
    Ok((set == 1).then_some(newest + 1))
}

pub(super) fn drop_policy(tx: &Tx<'_>, workspace: &WorkspaceId, id: &str) -> Sql<bool> {
    Ok(tx.within(workspace.on_ledger()).run(&DROP_POLICY, params![id])? > 0)
}

/// Counts uses; how many there are now, and in which window.
pub(super) fn count(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    scope: &PolicyScope,
    window_us: i64,
    uses: i64,
) -> Sql<(i64, i64)> {
    let counted =
        tx.within(workspace.on_ledger()).one(&COUNT, params![scope.as_str(), window_us, uses], |row| {
            Ok((row.integer(0)?, row.integer(1)?))
        });
    counted.map(|counted| counted.unwrap_or((i64::MAX, window_us)))
}

pub(super) fn give_back(tx: &Tx<'_>, workspace: &WorkspaceId, held: &Reservation, uses: i64) -> Sql<()> {
    let within = tx.within(workspace.on_ledger());
    within.run(&GIVE_BACK, params![held.scope.as_str(), held.window_us, uses])?;
    within.run(&DROP_UNUSED, params![held.scope.as_str()]).map(drop)
}

/// How much of a limit is used, and in which window.
///
/// # Errors
/// The ledger cannot be read.
pub fn used(view: &View<'_>, workspace: &WorkspaceId, scope: &PolicyScope) -> Sql<Option<(i64, i64)>> {
    view.within(workspace.on_ledger())
        .one(&USED, params![scope.as_str()], |row| Ok((row.integer(0)?, row.integer(1)?)))
}

pub(super) fn reserve(tx: &Tx<'_>, workspace: &WorkspaceId, workflow: &str, held: &Reservation) -> Sql<()> {
    let params = params![workflow, held.scope.as_str(), held.window_us, held.uses];
    tx.within(workspace.on_ledger()).run(&RESERVE, params).map(drop)
}

/// What a request has reserved.
///
/// # Errors
/// The ledger cannot be read.
pub fn reserved(view: &View<'_>, workspace: &WorkspaceId, workflow: &str) -> Sql<Vec<Reservation>> {
    view.within(workspace.on_ledger()).all(&RESERVED, params![workflow], |row| {
        Ok(Reservation { scope: typed(row, 0)?, window_us: row.integer(1)?, uses: row.integer(2)? })
    })
}

/// Puts a reservation into another window.
pub(super) fn move_reservation(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    workflow: &str,
    held: &Reservation,
) -> Sql<()> {
    let params = params![workflow, held.scope.as_str(), held.window_us];
    tx.within(workspace.on_ledger()).run(&MOVE_RESERVATION, params).map(drop)
}

pub(super) fn open_request(tx: &Tx<'_>, workspace: &WorkspaceId, request: &RequestRow) -> Sql<()> {
    let params = params![request.workflow.to_string(), request.key.as_str(), request.policy_version];
    tx.within(workspace.on_ledger()).run(&OPEN_REQUEST, params).map(drop)
}

/// Forgets a request that is over, with its reservations.
pub(super) fn close_request(tx: &Tx<'_>, workspace: &WorkspaceId, workflow: &str) -> Sql<()> {
    tx.within(workspace.on_ledger()).run(&DROP_RESERVATIONS, params![workflow])?;
    tx.within(workspace.on_ledger()).run(&CLOSE_REQUEST, params![workflow]).map(drop)
}

/// The requests that are not over.
///
/// # Errors
/// The ledger cannot be read.
pub fn requests(view: &View<'_>, workspace: &WorkspaceId) -> Sql<Vec<RequestRow>> {
    view.within(workspace.on_ledger()).all(&REQUESTS, params![], |row| {
        Ok(RequestRow { workflow: typed(row, 0)?, key: typed(row, 1)?, policy_version: row.integer(2)? })
    })
}

/// Claims a content for ever; whose it is if it was claimed before.
pub(super) fn claim(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    claim: ClaimKey<'_>,
    workflow: &str,
) -> Sql<Option<String>> {
    let params = params![claim.key.as_str(), claim.nonce, claim.digest, workflow];
    if tx.within(workspace.on_ledger()).run(&CLAIM, params)? == 1 {
        return Ok(None);
    }
    let owner = claimed_by(tx, workspace, claim)?.unwrap_or_default();
    Ok((owner != workflow).then_some(owner))
}

/// Who claimed a content.
///
/// # Errors
/// The ledger cannot be read.
pub fn claimed_by(view: &View<'_>, workspace: &WorkspaceId, claim: ClaimKey<'_>) -> Sql<Option<String>> {
    let params = params![claim.key.as_str(), claim.nonce, claim.digest];
    view.within(workspace.on_ledger()).one(&CLAIMED_BY, params, |row| row.text(0))
}

pub(super) fn unclaim(tx: &Tx<'_>, workspace: &WorkspaceId, workflow: &str) -> Sql<()> {
    tx.within(workspace.on_ledger()).run(&UNCLAIM, params![workflow]).map(drop)
}

pub(super) fn unclaim_one(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    claim: ClaimKey<'_>,
    workflow: &str,
) -> Sql<()> {
    let params = params![claim.key.as_str(), claim.nonce, claim.digest, workflow];
    tx.within(workspace.on_ledger()).run(&UNCLAIM_ONE, params).map(drop)
}
