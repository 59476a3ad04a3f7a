//! The JSON of clients and their certificates.
//! Who enters: request bodies, parsed once into commands.
//! What leaves: answers.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::store::ClientRow;
use super::{EnrolledClient, NewClient};
use crate::api::{Code, Problem};
use crate::crypto::pem;
use crate::ids::{Name, WorkspaceId};
use crate::limits::CERTIFICATE_DAYS_MAX;
use crate::moment::Moment;

/// Asks for a client certificate.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EnrolClient {
    /// The client's name.
    pub name: String,
    /// A PKCS#10 certificate signing request in PEM; only its key is used.
    pub csr: String,
    /// How many days the certificate lives; 90 if absent.
    #[serde(default)]
    pub days: Option<u32>,
}

/// A client.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Client {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `drafted`, `enrolled` or `revoked`.
    pub state: &'static str,
    /// The certificate's serial number, as hex.
    pub serial: String,
    /// SHA-256 of the certificate, as hex.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_hash: Option<String>,
    /// The fingerprint of the CA that issued it; absent where that was the appliance's first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// When it was made.
    pub created: Moment,
    /// When the certificate ends.
    pub not_after: Moment,
}

/// A new client with its certificate.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NewClientAnswer {
    /// The client.
    #[serde(flatten)]
    pub client: Client,
    /// The certificate, PEM.
    pub certificate: String,
    /// The certificates of all trusted CAs, PEM, oldest first: they also vouch for the server.
    pub ca: String,
}

/// The clients of a workspace.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ClientList {
    /// The clients.
    pub clients: Vec<Client>,
}

const DAYS_DEFAULT: u32 = 90;

impl EnrolClient {
    /// The command, in its workspace.
    ///
    /// # Errors
    /// A name or a number of days that cannot be.
    pub fn into_command(self, workspace: WorkspaceId) -> Result<NewClient, Problem> {
        let name = Name::chosen(&self.name)
            .map_err(|why| Problem::new(Code::Invalid, format!("{why}")).at("/name"))?;
        let days = self.days.unwrap_or(DAYS_DEFAULT);
        if days == 0 || days > CERTIFICATE_DAYS_MAX {
            let detail = format!("a certificate lives 1 to {CERTIFICATE_DAYS_MAX} days");
            return Err(Problem::new(Code::Invalid, detail).at("/days"));
        }
        let lives = Duration::from_secs(u64::from(days) * 24 * 3600);
        Ok(NewClient { workspace, name, csr_pem: self.csr, lives })
    }
}

impl From<ClientRow> for Client {
    fn from(row: ClientRow) -> Self {
        Self {
            id: row.id.to_string(),
            name: row.name.to_string(),
            state: row.state.text(),
            serial: row.serial,
            certificate_hash: row.certificate.map(|hash| hash.to_string()),
            authority: row.authority.map(|hash| hash.to_string()),
            created: row.created,
            not_after: row.not_after,
        }
    }
}

impl NewClientAnswer {
    /// The answer with the trusted CAs.
    pub fn new(enrolled: EnrolledClient, bundle: String) -> Self {
        Self {
            certificate: pem("CERTIFICATE", &enrolled.certificate),
            ca: bundle,
            client: enrolled.row.into(),
        }
    }
}
