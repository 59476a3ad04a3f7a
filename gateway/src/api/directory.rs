//! What the boundary asks of the service that knows clients and API keys.
//! Who enters: certificate hashes, API key hashes, workspace names.
//! What leaves: their standing at this moment, from memory, never a wait.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::caller::{Client, Scopes};
use crate::ids::{ApiKeyId, WorkspaceId};
use crate::malformed::Malformed;

/// SHA-256 of a certificate's DER bytes: the only name by which we know a certificate. Written as hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CertificateHash(pub [u8; 32]);

impl CertificateHash {
    /// Of a certificate as it came in the handshake.
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

impl fmt::Display for CertificateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for CertificateHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for CertificateHash {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash)
            .map_err(|_| Malformed { expected: "certificate hash (64 hex digits)" })?;
        Ok(Self(hash))
    }
}

impl TryFrom<String> for CertificateHash {
    type Error = Malformed;

    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<CertificateHash> for String {
    fn from(hash: CertificateHash) -> Self {
        hash.to_string()
    }
}

/// Where a certificate stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientStanding {
    /// Enrolled and good.
    Enrolled(Client),
    /// Enrolled, and its time is over.
    Expired,
    /// Enrolled once, and revoked.
    Revoked,
    /// Never enrolled here.
    Unknown,
}

impl ClientStanding {
    /// It is hung up on before it has said anything.
    pub fn is_shut_out(&self) -> bool {
        !matches!(self, Self::Enrolled(_))
    }
}

/// Where an API key stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiKeyStanding {
    /// Good.
    Active {
        /// The key's id.
        id: ApiKeyId,
        /// Its workspace.
        workspace: WorkspaceId,
        /// What it allows.
        scopes: Scopes,
    },
    /// Its time is over.
    Expired,
    /// Unknown or revoked: the caller is told no more.
    Unknown,
}

/// Clients and API keys as they stand now.
pub trait Directory: Send + Sync {
    /// Looks up a certificate.
    fn client(&self, certificate: &CertificateHash) -> ClientStanding;
    /// Looks up an API key by the SHA-256 of its whole text.
    fn api_key(&self, hash: &[u8; 32]) -> ApiKeyStanding;
    /// Finds a workspace by id or name.
    fn workspace(&self, text: &str) -> Option<WorkspaceId>;
    /// Is the workspace open for business?
    fn is_open(&self, workspace: &WorkspaceId) -> bool;
}

/// Closes what a revoked certificate still holds open.
pub trait HangUp: Send + Sync {
    /// Closes every open connection that was made with it.
    fn hang_up(&self, certificate: &CertificateHash);
}
