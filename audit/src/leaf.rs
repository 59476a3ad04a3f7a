//! The room of exact bytes: how one entry becomes a leaf, and how each leaf stands on the one before.
//! Who enters: the writer with a fresh entry, the verifier with stored bytes.
//! What leaves: leaf bytes, leaf hashes, payload commitments and chain values; nothing here knows of a database.

use sha2::{Digest, Sha256};

/// A SHA-256 value.
pub type Hash = [u8; 32];

const LEAF_TAG: &[u8] = b"chancery.audit.leaf.v1\n";
const PAYLOAD_TAG: &[u8] = b"chancery.audit.payload.v1\n";
const CHAIN_TAG: &[u8] = b"chancery.audit.chain.v1\n";
const GENESIS_TAG: &[u8] = b"chancery.audit.genesis.v1\n";

/// The short fields of an entry as they stand in the leaf, borrowed from wherever they are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf<'a> {
    /// Place in the log, from 0; also the index in the tree.
    pub seq: u64,
    /// Microseconds since 1970 as the machine told them.
    pub time_us: u64,
    /// The log this leaf belongs to.
    pub origin: &'a str,
    /// Empty for an act on the appliance itself.
    pub workspace: &'a str,
    /// Who did it.
    pub actor: &'a str,
    /// What was done.
    pub action: &'a str,
    /// To what.
    pub object: &'a str,
    /// How it ended.
    pub outcome: &'a str,
    /// The request that caused it.
    pub request_id: &'a str,
    /// Commitment to salt and payload.
    pub payload_commit: Hash,
    /// Chain value after the entry before.
    pub prev_chain: Hash,
}

/// These bytes are not a leaf: which part is missing or wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a leaf: {0}")]
pub struct NotALeaf(&'static str);

impl<'a> Leaf<'a> {
    /// Appends the exact bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(LEAF_TAG);
        out.extend_from_slice(&self.seq.to_be_bytes());
        out.extend_from_slice(&self.time_us.to_be_bytes());
        let texts = [
            self.origin,
            self.workspace,
            self.actor,
            self.action,
            self.object,
            self.outcome,
            self.request_id,
        ];
        for text in texts {
            length_prefixed(out, text.as_bytes());
        }
        out.extend_from_slice(&self.payload_commit);
        out.extend_from_slice(&self.prev_chain);
    }

    /// Reads the exact bytes back; anything left over, missing or not UTF-8 is refused.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, NotALeaf> {
        let mut rest = bytes.strip_prefix(LEAF_TAG).ok_or(NotALeaf("it does not start with the leaf tag"))?;
        let seq = u64::from_be_bytes(*fixed(&mut rest)?);
        let time_us = u64::from_be_bytes(*fixed(&mut rest)?);
        let mut texts = [""; 7];
        for text in &mut texts {
            *text = prefixed_text(&mut rest)?;
        }
        let [origin, workspace, actor, action, object, outcome, request_id] = texts;
        let payload_commit = *fixed(&mut rest)?;
        let prev_chain = *fixed(&mut rest)?;
        if !rest.is_empty() {
            return Err(NotALeaf("bytes follow its end"));
        }
        Ok(Self {
            seq,
            time_us,
            origin,
            workspace,
            actor,
            action,
            object,
            outcome,
            request_id,
            payload_commit,
            prev_chain,
        })
    }
}

/// `u32 length | bytes`.
pub(crate) fn length_prefixed(out: &mut Vec<u8>, bytes: &[u8]) {
    // Every field is held to a few kilobytes before it comes here, so the length always fits.
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn fixed<'a, const N: usize>(rest: &mut &'a [u8]) -> Result<&'a [u8; N], NotALeaf> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or(NotALeaf("it ends too early"))?;
    *rest = tail;
    Ok(head)
}

fn prefixed_text<'a>(rest: &mut &'a [u8]) -> Result<&'a str, NotALeaf> {
    let length = u32::from_be_bytes(*fixed(rest)?) as usize;
    let (text, tail) = rest.split_at_checked(length).ok_or(NotALeaf("a field is longer than the leaf"))?;
    *rest = tail;
    std::str::from_utf8(text).map_err(|_| NotALeaf("a field is not UTF-8"))
}

/// Commitment to a payload; the salt keeps short payloads from being guessed.
pub fn payload_commit(salt: &[u8; 32], payload: &[u8]) -> Hash {
    sha256(&[PAYLOAD_TAG, salt, payload])
}

/// RFC 6962 leaf hash.
pub fn leaf_hash(leaf: &[u8]) -> Hash {
    sha256(&[&[0], leaf])
}

/// The chain value before the first entry.
pub fn genesis_chain(origin: &str) -> Hash {
    sha256(&[GENESIS_TAG, origin.as_bytes()])
}

/// The chain value after one more entry.
pub fn next_chain(previous: &Hash, leaf_hash: &Hash) -> Hash {
    sha256(&[CHAIN_TAG, previous, leaf_hash])
}

/// SHA-256 over parts laid end to end.
pub(crate) fn sha256(parts: &[&[u8]]) -> Hash {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part);
    }
    hasher.finalize().into()
}
