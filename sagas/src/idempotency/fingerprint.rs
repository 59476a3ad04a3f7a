//! What makes two requests the same: method, route, parameters, query, content type and every byte of the body.
//! Who enters: a request as it arrived.
//! What leaves: 32 bytes that another request does not have.

use sha2::{Digest, Sha256};

/// The parts of a request that make it what it is.
#[derive(Clone, Debug, Default)]
pub struct RequestParts<'a> {
    /// Such as `POST`.
    pub method: &'a str,
    /// The route's template, such as `/v1/keys/{key}/sign`.
    pub route: &'a str,
    /// What stands in its braces, in order.
    pub params: &'a [(&'a str, &'a str)],
    /// The query; its order does not matter.
    pub query: &'a [(&'a str, &'a str)],
    /// The content type.
    pub content_type: &'a str,
    /// The version of the API, where the client names one.
    pub api_version: &'a str,
    /// The body as it arrived.
    pub body: &'a [u8],
}

/// The hash of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub(super) [u8; 32]);

impl Fingerprint {
    /// Of a request.
    pub fn of(parts: &RequestParts<'_>) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"idempotency fingerprint 1");
        let mut query = parts.query.to_vec();
        query.sort_unstable();
        let heads = [parts.method, parts.route, parts.content_type, parts.api_version];
        heads.iter().for_each(|part| field(&mut hash, part.as_bytes()));
        for pairs in [parts.params, &query] {
            field(&mut hash, &(pairs.len() as u64).to_be_bytes());
            for (name, value) in pairs {
                field(&mut hash, name.as_bytes());
                field(&mut hash, value.as_bytes());
            }
        }
        field(&mut hash, parts.body);
        Self(hash.finalize().into())
    }
}

/// With its length, so that no two different lists of parts run into one another.
fn field(hash: &mut Sha256, part: &[u8]) {
    hash.update((part.len() as u64).to_be_bytes());
    hash.update(part);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_request_counts_and_the_order_of_its_query_does_not() {
        let params = [("key", "k1")];
        let base = RequestParts {
            method: "POST",
            route: "/v1/keys/{key}/sign",
            params: &params,
            query: &[("a", "1"), ("b", "2")],
            content_type: "application/json",
            api_version: "1",
            body: b"{}",
        };
        let same = RequestParts { query: &[("b", "2"), ("a", "1")], ..base.clone() };
        assert_eq!(Fingerprint::of(&base), Fingerprint::of(&same));
        let others = [
            RequestParts { method: "PATCH", ..base.clone() },
            RequestParts { route: "/v1/keys/{key}/verify", ..base.clone() },
            RequestParts { params: &[("key", "k2")], ..base.clone() },
            RequestParts { query: &[("a", "12"), ("b", "")], ..base.clone() },
            RequestParts { content_type: "text/plain", ..base.clone() },
            RequestParts { api_version: "2", ..base.clone() },
            RequestParts { body: b"{ }", ..base.clone() },
        ];
        assert!(others.iter().all(|other| Fingerprint::of(other) != Fingerprint::of(&base)));
    }
}
