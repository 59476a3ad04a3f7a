//! Clients: the machines and programs that may connect, each by a certificate from the appliance's own CA.
//! Who enters: operators, to enrol and revoke; members, to see their workspace's clients.
//! What leaves: certificates. A private key is made where it will live and never comes here.

pub mod routes;
pub mod store;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use audit::{Entry, SqlFault, Told, Tx, View};
use sagas::StepContext;
use serde_json::json;

use self::store::{ClientRow, ClientState};
use super::ground::{Ground, LedgerRefused, Say, Telling};
use super::roster::Roster;
use crate::api::guard::{Permit, may};
use crate::api::{CertificateHash, Client, ClientStanding, HangUp, OperatorPermit, Origin, Reply};
use crate::appliance::succession;
use crate::ca::authorities::Authorities;
use crate::ca::{CaRefused, Draft, Subject, complete};
use crate::crypto::pem;
use crate::ids::{ClientId, Name, WorkspaceId};
use crate::refused_by_ledger;
use crate::signer::{SignOrder, Signer};

/// Why a command on clients was refused.
#[derive(Debug, thiserror::Error)]
pub enum DevicesRefused {
    /// No such enrolled client in this workspace.
    #[error("no such enrolled client")]
    NoSuchClient,
    /// The certificate was not made.
    #[error("no certificate was issued")]
    Certificate(#[source] CaRefused),
    /// The CA was retired while the certificate was being made.
    #[error("the CA was retired while the certificate was being made")]
    AuthorityRetired,
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
#[derive(Clone, Debug)]
pub struct EnrolledClient {
    /// The row.
    pub row: ClientRow,
    /// The certificate, DER.
    pub certificate: Vec<u8>,
}

/// The service.
pub struct Devices {
    ground: Ground,
    roster: Roster,
    authorities: Authorities,
    signer: Signer,
    register: Arc<dyn HangUp>,
}

impl Devices {
    /// The service on its ground.
    pub fn new(
        ground: Ground,
        roster: Roster,
        authorities: Authorities,
        signer: Signer,
        register: Arc<dyn HangUp>,
    ) -> Self {
        Self { ground, roster, authorities, signer, register }
    }

    /// Fills the roster at start.
    ///
    /// # Errors
    /// The ledger gave nothing.
    pub async fn load(&self) -> Result<(), DevicesRefused> {
        let (rows, as_of) =
            self.ground.read::<_, DevicesRefused>(|view| Ok((store::roster(view)?, view.size()?))).await?;
        for row in rows {
            let client = Client { id: row.id, workspace: row.workspace };
            let standing =
                if row.enrolled { ClientStanding::Enrolled(client) } else { ClientStanding::Revoked };
            self.roster.put_client_end(row.certificate, row.not_after);
            self.roster.put_client(row.certificate, standing, as_of);
        }
        Ok(())
    }

    /// The certificates of the trusted CAs, PEM, oldest first.
    pub fn bundle(&self) -> String {
        self.authorities.present().trusted().map(|one| pem("CERTIFICATE", one.certificate())).collect()
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
        say: impl Say<EnrolledClient>,
    ) -> Result<Reply, DevicesRefused> {
        let now = self.ground.now();
        let subject = Subject {
            common_name: new.name.as_str(),
            organization: new.workspace.as_str(),
            from: now,
            lives: new.lives,
        };
        let authority = self.authorities.present().client_issuer().clone();
        let draft = authority
            .draft_client(&new.csr_pem, &subject, &self.ground.dice)
            .map_err(DevicesRefused::Certificate)?;
        let row = ClientRow {
            id: ClientId::new(&self.ground.dice),
            name: new.name,
            state: ClientState::Drafted,
            serial: draft.serial.clone(),
            certificate: None,
            created: now,
            not_after: draft.not_after,
            authority: Some(authority.fingerprint()),
        };
        let telling = Telling::operator(by, Some(&new.workspace), origin);
        let order = authority.order(&draft, origin.deadline);
        let certificate = self.issue(&telling, &new.workspace, &row, draft, order).await?;
        let client = Client { id: row.id.clone(), workspace: new.workspace };
        let hash = CertificateHash::of(&certificate);
        let row = ClientRow { state: ClientState::Enrolled, certificate: Some(hash), ..row };
        self.roster.put_client_end(hash, row.not_after);
        let (reply, as_of) = self.finish(telling, &client, EnrolledClient { row, certificate }, say).await?;
        self.roster.put_client(hash, ClientStanding::Enrolled(client), as_of);
        Ok(reply)
    }

    /// Records that this very certificate is to be signed, then has it signed.
    /// If we stop in between, a drafted row stays behind that no certificate matches.
    async fn issue(
        &self,
        telling: &Telling,
        workspace: &WorkspaceId,
        row: &ClientRow,
        draft: Draft,
        order: SignOrder,
    ) -> Result<Vec<u8>, DevicesRefused> {
        let (kept, workspace) = (row.clone(), workspace.clone());
        let recorded = self
            .ground
            .write::<_, DevicesRefused>(telling.clone(), move |tx, telling| {
                confirm_issuer(tx, kept.authority)?;
                store::insert(tx, &workspace, &kept)?;
                let after = json!({ "name": kept.name.as_str(), "serial": kept.serial, "not_after": kept.not_after, "authority": kept.authority });
                let entry = telling.entry("client.draft", kept.id.as_str(), |detail| detail.after(after));
                Ok(Told::new(order.clone(), entry))
            })
            .await?;
        complete(&self.signer, recorded, draft).await.map_err(DevicesRefused::Certificate)
    }

    async fn finish(
        &self,
        telling: Telling,
        client: &Client,
        enrolled: EnrolledClient,
        say: impl Say<EnrolledClient>,
    ) -> Result<(Reply, u64), DevicesRefused> {
        let (client, hash) = (client.clone(), CertificateHash::of(&enrolled.certificate));
        let act = move |tx: &mut Tx<'_>, telling: &Telling| {
            // A draft that is gone was revoked together with its CA.
            if !store::enrol(tx, &client.workspace, &client.id, &hash)? {
                return Err(DevicesRefused::AuthorityRetired);
            }
            let after = json!({ "state": "enrolled", "certificate": hash.to_string() });
            let entry = telling.entry("client.enrol", client.id.as_str(), |detail| detail.after(after));
            Ok(Told::new(enrolled.clone(), entry))
        };
        let (reply, recorded) = self.ground.answer::<_, DevicesRefused>(telling, act, say).await?;
        Ok((reply, recorded.seq() + 1))
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
        say: impl Say<CertificateHash>,
    ) -> Result<Reply, DevicesRefused> {
        let workspace = by.workspace().clone();
        let act = move |tx: &mut Tx<'_>, telling: &Telling| {
            let hash = store::revoke(tx, &workspace, &id)?.ok_or(DevicesRefused::NoSuchClient)?;
            let before = json!({ "state": "enrolled", "certificate": hash.to_string() });
            let entry = telling.entry("client.revoke", id.as_str(), |detail| {
                detail.before(before).after(json!({ "state": "revoked" }))
            });
            Ok(Told::new(hash, entry))
        };
        let telling = Telling::member(by, origin);
        let (reply, recorded) = self.ground.answer::<_, DevicesRefused>(telling, act, say).await?;
        self.cut_off(&[*recorded.value()]);
        Ok(reply)
    }

    /// What follows a recorded revocation: the certificates do nothing from now on, and their connections end.
    pub fn cut_off(&self, certificates: &[CertificateHash]) {
        for certificate in certificates {
            // Nothing comes after a revocation, so it needs no number of its own.
            self.roster.put_client(*certificate, ClientStanding::Revoked, u64::MAX);
            self.register.hang_up(certificate);
        }
    }
}

/// Revokes every client that a CA issued and tells each workspace of its own; inside the transaction that retires it.
///
/// # Errors
/// The ledger did not do it.
pub fn revoke_issued(
    tx: &Tx<'_>,
    authority: &CertificateHash,
    is_first: bool,
    telling: &Telling,
) -> Result<(Vec<CertificateHash>, Vec<Entry>), SqlFault> {
    let rows = store::revoke_issued(tx, authority, is_first)?;
    let entries = rows.iter().map(|row| {
        let before = json!({ "certificate": row.certificate });
        let after = json!({ "state": "revoked", "authority_retired": authority });
        let telling = telling.within(&row.workspace);
        telling.entry("client.revoke", row.id.as_str(), |detail| detail.before(before).after(after))
    });
    let entries = entries.collect();
    Ok((rows.into_iter().filter_map(|row| row.certificate).collect(), entries))
}

/// How many enrolled clients each CA has; `None` is the first.
///
/// # Errors
/// The ledger gave nothing.
pub fn issued(view: &View<'_>) -> Result<Vec<(Option<CertificateHash>, u64)>, SqlFault> {
    store::issued(view)
}

fn confirm_issuer(tx: &Tx<'_>, authority: Option<CertificateHash>) -> Result<(), DevicesRefused> {
    match authority {
        Some(authority) if !succession::is_trusted(tx, &authority)? => Err(DevicesRefused::AuthorityRetired),
        _ => Ok(()),
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
        for hash in
            rows.iter().filter(|row| row.state == ClientState::Revoked).filter_map(|row| row.certificate)
        {
            self.roster.put_client(hash, ClientStanding::Revoked, u64::MAX);
            self.register.hang_up(&hash);
        }
        Ok(())
    }
}
