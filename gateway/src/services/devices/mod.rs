//! Clients: the machines and programs that may connect, each by a certificate from the appliance's own CA.
//! Who enters: operators, to enrol and revoke; members, to see their workspace's clients.
//! What leaves: certificates. A private key is made where it will live and never comes here.

pub mod routes;
pub mod store;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use audit::{Entry, SqlFault, Told, Tx};
use sagas::StepContext;
use serde_json::json;

use self::store::ClientRow;
use super::ground::{Ground, LedgerRefused, Telling};
use super::roster::Roster;
use crate::api::guard::{Permit, Standing, may};
use crate::api::{CertificateHash, Client, ClientStanding, HangUp, OperatorPermit, Origin};
use crate::ca::{Authority, CaRefused, Draft, Subject, complete};
use crate::ids::{ClientId, Name, WorkspaceId};
use crate::refused_by_ledger;
use crate::signer::Signer;

/// Why a command on clients was refused.
#[derive(Debug, thiserror::Error)]
pub enum DevicesRefused {
    /// No such enrolled client in this workspace.
    #[error("no such enrolled client")]
    NoSuchClient,
    /// The certificate was not made.
    #[error("no certificate was issued")]
    Certificate(#[source] CaRefused),
    /// The client was revoked between the guard and the transaction.
    #[error("the client certificate no longer stands")]
    NoLongerStands,
    /// The ledger did not take or give it.
    #[error(transparent)]
    Ledger(#[from] LedgerRefused),
}
refused_by_ledger!(DevicesRefused);

/// What a new client should be.
#[derive(Debug)]
pub struct NewClient {
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// Its name.
    pub name: Name,
    /// Its certificate signing request, PEM.
    pub csr_pem: String,
    /// How long the certificate lives.
    pub lives: Duration,
}

/// A client with its new certificate.
#[derive(Debug)]
pub struct EnrolledClient {
    /// The row.
    pub row: ClientRow,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
    /// The entry that tells of the enrolment's end.
    pub seq: u64,
}

/// The service.
pub struct Devices {
    ground: Ground,
    roster: Roster,
    authority: Authority,
    signer: Signer,
    register: Arc<dyn HangUp>,
}

impl Devices {
    /// The service on its ground.
    pub fn new(
        ground: Ground,
        roster: Roster,
        authority: Authority,
        signer: Signer,
        register: Arc<dyn HangUp>,
    ) -> Self {
        Self { ground, roster, authority, signer, register }
    }

    /// Fills the roster at start.
    ///
    /// # Errors
    /// The ledger gave nothing.
    pub async fn load(&self) -> Result<(), DevicesRefused> {
        let rows = self
            .ground
            .read::<_, DevicesRefused>(|view| store::roster(view).map_err(DevicesRefused::from))
            .await?;
        for row in rows {
            let client = Client { id: row.id, workspace: row.workspace };
            let standing =
                if row.enrolled { ClientStanding::Enrolled(client) } else { ClientStanding::Revoked };
            self.roster.put_client(row.certificate, standing);
        }
        Ok(())
    }

    /// The CA's certificate, DER.
    pub fn authority(&self) -> &[u8] {
        self.authority.certificate()
    }

    /// Issues a certificate for a new client.
    ///
    /// # Errors
    /// The request is not right, or the token or ledger did not do it.
    pub async fn enrol(
        &self,
        by: &OperatorPermit,
        origin: &Origin,
        new: NewClient,
    ) -> Result<EnrolledClient, DevicesRefused> {
        let now = self.ground.now();
        let subject = Subject {
            common_name: new.name.as_str(),
            organization: new.workspace.as_str(),
            from: now,
            lives: new.lives,
        };
        let draft = self
            .authority
            .draft_client(&new.csr_pem, &subject, &self.ground.dice)
            .map_err(DevicesRefused::Certificate)?;
        let mut row = ClientRow {
            id: ClientId::new(&self.ground.dice),
            name: new.name,
            state: "drafted".to_owned(),
            serial: draft.serial.clone(),
            certificate: None,
            created: now,
            not_after: draft.not_after,
        };
        let telling = Telling::of(by.actor(), Some(&new.workspace), origin);
        let certificate = self.issue(&telling, &new.workspace, &row, draft, origin).await?;
        let hash = CertificateHash::of(&certificate);
        let seq = self.finish(telling, &new.workspace, &row, hash).await?;
        let client = Client { id: row.id.clone(), workspace: new.workspace };
        self.roster.put_client(hash, ClientStanding::Enrolled(client));
        (row.state, row.certificate) = ("enrolled".to_owned(), Some(hash));
        Ok(EnrolledClient { row, certificate, seq })
    }

    /// Records that this very certificate is to be signed, then has it signed.
    /// If we stop in between, a drafted row stays behind that no certificate matches.
    async fn issue(
        &self,
        telling: &Telling,
        workspace: &WorkspaceId,
        row: &ClientRow,
        draft: Draft,
        origin: &Origin,
    ) -> Result<Vec<u8>, DevicesRefused> {
        let order = self.authority.order(&draft, origin.deadline);
        let (kept, workspace, telling) = (row.clone(), workspace.clone(), telling.clone());
        let recorded = self
            .ground
            .write::<_, DevicesRefused>(move |tx| {
                store::insert(tx, &workspace, &kept)?;
                let after =
                    json!({ "name": kept.name.as_str(), "serial": kept.serial, "not_after": kept.not_after });
                let entry = telling.entry("client.draft", kept.id.as_str(), |detail| detail.after(after));
                Ok(Told::new(order.clone(), entry))
            })
            .await?;
        complete(&self.signer, recorded, draft).await.map_err(DevicesRefused::Certificate)
    }

    async fn finish(
        &self,
        telling: Telling,
        workspace: &WorkspaceId,
        row: &ClientRow,
        hash: CertificateHash,
    ) -> Result<u64, DevicesRefused> {
        let (id, workspace) = (row.id.clone(), workspace.clone());
        let recorded = self
            .ground
            .write::<_, DevicesRefused>(move |tx| {
                if !store::enrol(tx, &workspace, &id, &hash)? {
                    return Err(DevicesRefused::NoSuchClient);
                }
                let after = json!({ "state": "enrolled", "certificate": hash.to_string() });
                Ok(Told::new((), telling.entry("client.enrol", id.as_str(), |detail| detail.after(after))))
            })
            .await?;
        Ok(recorded.seq())
    }

    /// The clients of a workspace.
    ///
    /// # Errors
    /// The ledger gave nothing.
    pub async fn list(&self, by: &Permit<may::AccessRead>) -> Result<Vec<ClientRow>, DevicesRefused> {
        let workspace = by.workspace().clone();
        self.ground
            .read::<_, DevicesRefused>(move |view| {
                store::clients(view, &workspace).map_err(DevicesRefused::from)
            })
            .await
    }

    /// Revokes a client: once this has answered, its certificate does nothing and its open connections are gone.
    ///
    /// # Errors
    /// There is no such enrolled client in this workspace.
    pub async fn revoke(
        &self,
        by: &Permit<may::AccessManage>,
        origin: &Origin,
        id: ClientId,
    ) -> Result<u64, DevicesRefused> {
        let telling = Telling::of(by.actor(), Some(by.workspace()), origin);
        let workspace = by.workspace().clone();
        let recorded = self
            .ground
            .write::<_, DevicesRefused>(move |tx| {
                let hash = store::revoke(tx, &workspace, &id)?.ok_or(DevicesRefused::NoSuchClient)?;
                let before = json!({ "state": "enrolled", "certificate": hash.to_string() });
                let entry = telling.entry("client.revoke", id.as_str(), |detail| {
                    detail.before(before).after(json!({ "state": "revoked" }))
                });
                Ok(Told::new(hash, entry))
            })
            .await?;
        let hash = *recorded.value();
        self.roster.put_client(hash, ClientStanding::Revoked);
        self.register.hang_up(&hash);
        Ok(recorded.seq())
    }
}

/// Revokes every client of a workspace that is shredded.
///
/// # Errors
/// The ledger did not do it.
pub fn revoke_all(tx: &Tx<'_>, cx: &StepContext, workspace: &WorkspaceId) -> Result<Entry, SqlFault> {
    let clients = store::revoke_all(tx, workspace)?;
    let after = json!({ "clients_revoked": clients });
    Ok(cx.entry_with("client.revoke_all", workspace.as_str(), |detail| detail.after(after)))
}

impl Devices {
    /// Puts the revoked clients of a workspace on the roster, and hangs up on them.
    ///
    /// # Errors
    /// The ledger gave nothing.
    pub async fn refresh(&self, workspace: &WorkspaceId) -> Result<(), DevicesRefused> {
        let of = workspace.clone();
        let rows = self.ground.read::<_, DevicesRefused>(move |view| Ok(store::clients(view, &of)?)).await?;
        for hash in rows.iter().filter(|row| row.state == "revoked").filter_map(|row| row.certificate) {
            self.roster.put_client(hash, ClientStanding::Revoked);
            self.register.hang_up(&hash);
        }
        Ok(())
    }
}

/// Checks, inside a transaction, that the permit's certificate has not been revoked since the guard saw it.
///
/// # Errors
/// It no longer stands.
pub fn confirm(tx: &Tx<'_>, workspace: &WorkspaceId, standing: &Standing) -> Result<(), DevicesRefused> {
    match standing {
        Standing::Operator => Ok(()),
        Standing::Program { client, .. } if store::stands(tx, workspace, client)? => Ok(()),
        Standing::Program { .. } => Err(DevicesRefused::NoLongerStands),
    }
}
