//! What the devices service keeps: clients and the hashes of their certificates.
//! Who enters: the commands, inside a ledger transaction or view.
//! What leaves: rows as types. No other service can run these statements.

use std::str::FromStr;

use audit::{Row, Schema, SqlFault, Statement, Table, Tx, View, params};

use crate::api::CertificateHash;
use crate::ids::{ClientId, Name, WorkspaceId};
use crate::malformed::Malformed;
use crate::moment::Moment;
use crate::services::columns::{bytes, moment, typed};

const SERVICE: &str = "devices";

/// The service's tables and statements.
pub static SCHEMA: Schema = Schema {
    service: SERVICE,
    tables: &[Table { name: "clients", tenant: true }],
    migrations: &[include_str!("schema/0001.sql"), include_str!("schema/0002.sql")],
    statements: &[&INSERT, &ENROL, &CLIENTS, &ALL, &REVOKE, &STANDS, &REVOKE_ISSUED, &REVOKE_ALL, &ISSUED],
};

static INSERT: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO clients (workspace, id, name, state, serial, created_us, not_after_us, authority)
     VALUES (?1, ?2, ?3, 'drafted', ?4, ?5, ?6, ?7)",
);
static ENROL: Statement = Statement::tenant(
    SERVICE,
    "UPDATE clients SET state = 'enrolled', certificate_hash = ?3 WHERE workspace = ?1 AND id = ?2 AND state = 'drafted'",
);
static CLIENTS: Statement = Statement::tenant(
    SERVICE,
    "SELECT id, name, state, serial, certificate_hash, created_us, not_after_us, authority FROM clients
     WHERE workspace = ?1 ORDER BY id",
);
static ALL: Statement = Statement::across_workspaces(
    SERVICE,
    "the certificate decides the workspace, so the roster is filled before any is known",
    "SELECT workspace, id, state, certificate_hash, not_after_us FROM clients WHERE certificate_hash IS NOT NULL",
);
static REVOKE: Statement = Statement::tenant(
    SERVICE,
    "UPDATE clients SET state = 'revoked' WHERE workspace = ?1 AND id = ?2 AND state = 'enrolled' RETURNING certificate_hash",
);
static REVOKE_ALL: Statement = Statement::tenant(
    SERVICE,
    "UPDATE clients SET state = 'revoked' WHERE workspace = ?1 AND state IN ('drafted', 'enrolled')",
);
static STANDS: Statement = Statement::tenant(
    SERVICE,
    "SELECT 1 FROM clients WHERE workspace = ?1 AND id = ?2 AND state = 'enrolled' AND not_after_us > ?3",
);
static REVOKE_ISSUED: Statement = Statement::across_workspaces(
    SERVICE,
    "a CA issues for every workspace, and retiring it revokes what it issued in all of them",
    "UPDATE clients SET state = 'revoked'
     WHERE state <> 'revoked' AND (authority = ?1 OR (authority IS NULL AND ?2 = 1))
     RETURNING workspace, id, certificate_hash",
);
static ISSUED: Statement = Statement::across_workspaces(
    SERVICE,
    "whoever retires a CA wants to know how many clients, of whatever workspace, still need it",
    "SELECT authority, COUNT(*) FROM clients WHERE state = 'enrolled' GROUP BY authority",
);

/// Where a client stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// Its certificate is not signed yet.
    Drafted,
    /// It may connect.
    Enrolled,
    /// It may not connect any more.
    Revoked,
}

impl ClientState {
    /// As stored and shown.
    pub fn text(self) -> &'static str {
        match self {
            Self::Drafted => "drafted",
            Self::Enrolled => "enrolled",
            Self::Revoked => "revoked",
        }
    }
}

impl FromStr for ClientState {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        [Self::Drafted, Self::Enrolled, Self::Revoked]
            .into_iter()
            .find(|state| state.text() == text)
            .ok_or(Malformed { expected: "client state" })
    }
}

/// A client row.
#[derive(Clone, Debug)]
pub struct ClientRow {
    /// Its id.
    pub id: ClientId,
    /// Its name.
    pub name: Name,
    /// Where it stands.
    pub state: ClientState,
    /// The certificate's serial number.
    pub serial: String,
    /// The certificate's hash.
    pub certificate: Option<CertificateHash>,
    /// When it was made.
    pub created: Moment,
    /// When the certificate ends.
    pub not_after: Moment,
    /// The CA that issued it; `None` is the first.
    pub authority: Option<CertificateHash>,
}

/// A row for the roster.
#[derive(Debug)]
pub struct RosterRow {
    /// The client's workspace.
    pub workspace: WorkspaceId,
    /// Its id.
    pub id: ClientId,
    /// Not revoked.
    pub enrolled: bool,
    /// The certificate's hash.
    pub certificate: CertificateHash,
    /// When it ends.
    pub not_after: Moment,
}
/// A client that lost its certificate together with the CA that issued it.
#[derive(Clone, Debug)]
pub struct RevokedRow {
    /// The client's workspace.
    pub workspace: WorkspaceId,
    /// Its id.
    pub id: ClientId,
    /// The certificate's hash; `None` if it had not been signed yet.
    pub certificate: Option<CertificateHash>,
}

pub(super) fn insert(tx: &Tx<'_>, workspace: &WorkspaceId, row: &ClientRow) -> Result<(), SqlFault> {
    let (created, not_after) = (row.created.micros(), row.not_after.micros());
    let authority = row.authority.map(|hash| hash.0.to_vec());
    let params = params![row.id.as_str(), row.name.as_str(), &row.serial, created, not_after, authority];
    tx.within(workspace.on_ledger()).run(&INSERT, params).map(drop)
}

pub(super) fn enrol(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    id: &ClientId,
    certificate: &CertificateHash,
) -> Result<bool, SqlFault> {
    Ok(tx.within(workspace.on_ledger()).run(&ENROL, params![id.as_str(), &certificate.0])? == 1)
}

pub(super) fn clients(view: &View<'_>, workspace: &WorkspaceId) -> Result<Vec<ClientRow>, SqlFault> {
    view.within(workspace.on_ledger()).all(&CLIENTS, params![], |row| {
        Ok(ClientRow {
            id: typed(row, 0)?,
            name: typed(row, 1)?,
            state: typed(row, 2)?,
            serial: row.text(3)?,
            certificate: certificate_or_none(row, 4)?,
            created: moment(row, 5)?,
            not_after: moment(row, 6)?,
            authority: certificate_or_none(row, 7)?,
        })
    })
}

pub(super) fn roster(view: &View<'_>) -> Result<Vec<RosterRow>, SqlFault> {
    view.all(&ALL, params![], |row| {
        let (workspace, id) = (typed(row, 0)?, typed(row, 1)?);
        Ok(RosterRow {
            workspace,
            id,
            enrolled: typed::<ClientState>(row, 2)? == ClientState::Enrolled,
            certificate: CertificateHash(bytes(row, 3)?),
            not_after: Moment::from_micros(row.integer(4)?),
        })
    })
}

pub(super) fn revoke(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    id: &ClientId,
) -> Result<Option<CertificateHash>, SqlFault> {
    tx.within(workspace.on_ledger())
        .one(&REVOKE, params![id.as_str()], |row| bytes(row, 0).map(CertificateHash))
}

/// Revokes every client of a CA, in whatever workspace, drafts included.
pub(super) fn revoke_issued(
    tx: &Tx<'_>,
    authority: &CertificateHash,
    is_first: bool,
) -> Result<Vec<RevokedRow>, SqlFault> {
    tx.all(&REVOKE_ISSUED, params![&authority.0, i64::from(is_first)], |row| {
        Ok(RevokedRow {
            workspace: typed(row, 0)?,
            id: typed(row, 1)?,
            certificate: certificate_or_none(row, 2)?,
        })
    })
}

/// How many enrolled clients each CA has; `None` is the first.
pub(super) fn issued(view: &View<'_>) -> Result<Vec<(Option<CertificateHash>, u64)>, SqlFault> {
    view.all(&ISSUED, params![], |row| {
        Ok((certificate_or_none(row, 0)?, u64::try_from(row.integer(1)?).unwrap_or_default()))
    })
}

/// Revokes every client of the workspace; how many stood.
pub(super) fn revoke_all(tx: &Tx<'_>, workspace: &WorkspaceId) -> Result<usize, SqlFault> {
    tx.within(workspace.on_ledger()).run(&REVOKE_ALL, params![])
}

/// Is the client still enrolled, and its certificate still valid, as the database sees it in this very transaction?
///
/// # Errors
/// The database did not do it.
pub fn stands(
    view: &View<'_>,
    workspace: &WorkspaceId,
    id: &ClientId,
    now: Moment,
) -> Result<bool, SqlFault> {
    let params = params![id.as_str(), now.micros()];
    Ok(view.within(workspace.on_ledger()).one(&STANDS, params, |_| Ok(()))?.is_some())
}

fn certificate_or_none(row: &Row<'_>, column: usize) -> Result<Option<CertificateHash>, SqlFault> {
    match row.blob_or_null(column)? {
        None => Ok(None),
        Some(_) => bytes(row, column).map(|hash| Some(CertificateHash(hash))),
    }
}
