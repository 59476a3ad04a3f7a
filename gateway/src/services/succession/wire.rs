//! The JSON of certificate authorities.
//! Who enters: what the commands give back.
//! What leaves: answers.

use schemars::JsonSchema;
use serde::Serialize;

use super::{Member, Retired, Rotated};
use crate::ca::authorities::Standing;
use crate::crypto::pem;
use crate::moment::Moment;

/// A certificate authority of this appliance.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Authority {
    /// SHA-256 of its certificate, as hex: its name.
    pub fingerprint: String,
    /// `trusted`, or `retired`.
    pub state: &'static str,
    /// What new certificates it issues: `clients`, `server`, both or none.
    pub issues: Vec<&'static str>,
    /// How many enrolled clients have a certificate of it.
    pub clients: u64,
    /// When it was made.
    pub made: Moment,
    /// When its certificate ends.
    pub not_after: Moment,
    /// When it was retired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retired: Option<Moment>,
    /// Its certificate, PEM.
    pub certificate: String,
}

/// The certificate authorities of this appliance, oldest first.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AuthorityList {
    /// The authorities.
    pub authorities: Vec<Authority>,
}

/// The new authority.
#[derive(Debug, Serialize, JsonSchema)]
pub struct NewAuthority {
    /// The fingerprint of its certificate.
    pub fingerprint: String,
    /// New connections are accepted with its certificates already; if not yet, they will be in a moment.
    pub in_use: bool,
}

/// What a retirement did.
#[derive(Debug, Serialize, JsonSchema)]
pub struct RetiredAuthority {
    /// The fingerprint of its certificate.
    pub fingerprint: String,
    /// How many clients were revoked with it.
    pub clients_revoked: usize,
    /// Handshakes refuse its certificates already; if not yet, requests are refused until they do.
    pub in_use: bool,
}

impl From<Member> for Authority {
    fn from(member: Member) -> Self {
        let (state, retired) = match member.standing {
            Standing::Trusted => ("trusted", None),
            Standing::Retired { at } => ("retired", Some(at)),
        };
        let issues = [(member.issues_clients, "clients"), (member.issues_server, "server")];
        Self {
            fingerprint: member.authority.fingerprint().to_string(),
            state,
            issues: issues.into_iter().filter_map(|(issues, what)| issues.then_some(what)).collect(),
            clients: member.clients,
            made: member.authority.made(),
            not_after: member.authority.not_after(),
            retired,
            certificate: pem("CERTIFICATE", member.authority.certificate()),
        }
    }
}

impl From<&Rotated> for NewAuthority {
    fn from(rotated: &Rotated) -> Self {
        Self { fingerprint: rotated.fingerprint.to_string(), in_use: rotated.in_use }
    }
}

impl From<&Retired> for RetiredAuthority {
    fn from(retired: &Retired) -> Self {
        let Retired { fingerprint, clients_revoked, in_use } = *retired;
        Self { fingerprint: fingerprint.to_string(), clients_revoked, in_use }
    }
}
