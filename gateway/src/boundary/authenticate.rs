//! From what a request shows to who asks: certificate, API key, peer credentials.
//! Who enters: the connection's peer and the request's headers.
//! What leaves: a `Caller`, or the problem that tells what is missing.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;
use sha2::{Digest, Sha256};

use super::trace::Trust;
use crate::api::{
    ApiKeyStanding, Caller, CertificateHash, Client, ClientStanding, Code, Directory, Operator, Problem,
    Program,
};

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A client over mutual TLS.
    Remote {
        /// Its address as the kernel saw it.
        address: SocketAddr,
        /// The certificate that its handshake proved.
        certificate: CertificateHash,
    },
    /// A local process.
    Local {
        /// The user id behind it (`SO_PEERCRED`).
        uid: u32,
    },
}

impl Peer {
    /// Whether the peer's trace goes on here. A new kind of peer has to decide this.
    pub fn trust(&self) -> Trust {
        match self {
            Self::Remote { .. } | Self::Local { .. } => Trust::Continue,
        }
    }
}

/// The header in which an operator names a workspace.
pub const WORKSPACE_HEADER: &str = "chancery-workspace";

/// Finds out who asks.
///
/// # Errors
/// Which credential is missing, unknown, expired, revoked, or does not go with the other.
pub fn authenticate(peer: &Peer, headers: &HeaderMap, directory: &dyn Directory) -> Result<Caller, Problem> {
    match peer {
        Peer::Local { uid } => operator(*uid, headers, directory),
        Peer::Remote { certificate, .. } => {
            let client = enrolled(certificate, directory)?;
            match bearer(headers)? {
                None => Ok(Caller::Client(client)),
                Some(secret) => program(client, secret, directory),
            }
        }
    }
}

fn operator(uid: u32, headers: &HeaderMap, directory: &dyn Directory) -> Result<Caller, Problem> {
    let acting_in = match headers.get(WORKSPACE_HEADER) {
        None => None,
        Some(value) => {
            let named = value.to_str().ok().and_then(|text| directory.workspace(text));
            Some(named.ok_or_else(|| {
                Problem::new(
                    Code::NotFound,
                    "no workspace of that name or id; `chancery workspace list` shows them",
                )
            })?)
        }
    };
    Ok(Caller::Operator(Operator { uid, acting_in }))
}

fn enrolled(certificate: &CertificateHash, directory: &dyn Directory) -> Result<Client, Problem> {
    match directory.client(certificate) {
        ClientStanding::Enrolled(client) if directory.is_open(&client.workspace) => Ok(client),
        ClientStanding::Enrolled(_) => {
            Err(Problem::new(Code::WorkspaceClosed, "this workspace is closed; ask its owner"))
        }
        ClientStanding::Expired => {
            Err(Problem::new(Code::ClientExpired, "enrol a new certificate with `chancery client enroll`"))
        }
        ClientStanding::Revoked => {
            Err(Problem::new(Code::ClientRevoked, "enrol a new certificate with `chancery client enroll`"))
        }
        ClientStanding::Unknown => Err(Problem::new(
            Code::ClientUnknown,
            format!(
                "an operator enrols clients with `chancery client enroll`; this certificate is {certificate}"
            ),
        )),
    }
}

/// The text after `Bearer`; more than one `Authorization` header is refused rather than chosen from.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(http::header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::new(Code::BadRequest, "send one Authorization header"));
    }
    let text = value.to_str().unwrap_or_default();
    let secret = text
        .split_once(' ')
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        // As many blanks as somebody likes (RFC 9110 section 11.4).
        .map(|(_, secret)| secret.trim_matches(' '));
    secret.map(Some).ok_or_else(|| {
        Problem::new(Code::ApiKeyUnknown, "send the API key as `Authorization: Bearer ck_...`")
    })
}

fn program(client: Client, secret: &str, directory: &dyn Directory) -> Result<Caller, Problem> {
    // The stored hash is of 256 random bits: looking it up by its own hash gives a timing observer nothing to walk along.
    let hash: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
    match directory.api_key(&hash) {
        ApiKeyStanding::Active { workspace, .. } if workspace != client.workspace => Err(Problem::new(
            Code::WorkspaceMismatch,
            "use an API key of the workspace that the client certificate was issued for",
        )),
        ApiKeyStanding::Active { id, scopes, .. } => {
            Ok(Caller::Program(Program { client, api_key: id, scopes }))
        }
        ApiKeyStanding::Expired => Err(Problem::new(Code::ApiKeyExpired, "create a new API key")),
        ApiKeyStanding::Unknown => {
            Err(Problem::new(Code::ApiKeyUnknown, "check the API key; it may have been revoked"))
        }
    }
}

/// The caller's real address: the connection's own, unless that is a proxy we trust; then the rightmost
/// address in `X-Forwarded-For` that no trusted proxy has.
pub fn real_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpAddr]) -> IpAddr {
    if !trusted.contains(&peer) {
        return peer;
    }
    let told = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let hops: Vec<&str> = told.flat_map(|line| line.split(',')).map(str::trim).collect();
    for hop in hops.iter().rev() {
        match hop.parse::<IpAddr>() {
            Ok(address) if trusted.contains(&address) => {}
            Ok(address) => return address,
            Err(_) => return peer,
        }
    }
    peer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("x-forwarded-for", line.parse().unwrap());
        }
        headers
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_stranger_cannot_choose_its_address() {
        assert_eq!(
            real_address(ip("203.0.113.9"), &headers(&["10.0.0.1"]), &[ip("10.0.0.2")]),
            ip("203.0.113.9")
        );
    }

    #[test]
    fn behind_trusted_proxies_the_rightmost_untrusted_hop_counts() {
        let trusted = [ip("10.0.0.2"), ip("10.0.0.3")];
        let lines = headers(&["1.2.3.4, 198.51.100.7", "10.0.0.3"]);
        assert_eq!(real_address(ip("10.0.0.2"), &lines, &trusted), ip("198.51.100.7"));
    }

    #[test]
    fn a_hop_that_is_no_address_leaves_the_proxy_as_the_caller() {
        assert_eq!(
            real_address(ip("10.0.0.2"), &headers(&["1.2.3.4, unknown"]), &[ip("10.0.0.2")]),
            ip("10.0.0.2")
        );
    }

    #[test]
    fn two_authorization_headers_are_refused() {
        let mut headers = HeaderMap::new();
        headers.append("authorization", "Bearer a".parse().unwrap());
        assert_eq!(bearer(&headers).ok().flatten(), Some("a"));
        headers.append("authorization", "Bearer b".parse().unwrap());
        assert!(bearer(&headers).is_err());
    }
}
