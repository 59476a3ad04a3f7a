//! The walk: row after row, columns against the leaf, leaf against chain, leaf into tree. One walk for all who check.
//! Who enters: recovery with the newest rows, the verifier with every row of a database or an export.
//! What leaves: the tree's right edge and the chain's end as they truly are, or the first finding.

use crate::append::Tip;
use crate::leaf::{Hash, Leaf, leaf_hash, next_chain, payload_commit};
use crate::query::StoredEntry;

/// One row as stored: every column, so that a new one cannot be forgotten here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowBytes<'a> {
    pub(crate) seq: u64,
    pub(crate) time_us: u64,
    pub(crate) workspace: &'a str,
    pub(crate) actor: &'a str,
    pub(crate) action: &'a str,
    pub(crate) object: &'a str,
    pub(crate) outcome: &'a str,
    pub(crate) request_id: &'a str,
    pub(crate) leaf: &'a [u8],
    pub(crate) salt: &'a [u8],
    pub(crate) payload: &'a [u8],
    pub(crate) chain: &'a [u8],
}

/// The columns of `entry` that the walk binds to the leaf, in the order of the table.
#[cfg(test)]
pub(crate) const BOUND_COLUMNS: [&str; 12] = [
    "seq",
    "time_us",
    "workspace",
    "actor",
    "action",
    "object",
    "outcome",
    "request_id",
    "leaf",
    "salt",
    "payload",
    "chain",
];

/// Something that does not agree. Each message says what was expected and what was found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Finding {
    /// A row was deleted, added or moved.
    #[error("entry {expected} is missing: the next row is entry {found}")]
    Gap {
        /// The number that should come.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// The stored bytes are no leaf.
    #[error("entry {seq}: {why}")]
    NotALeaf {
        /// Which entry.
        seq: u64,
        /// Why.
        why: String,
    },
    /// A column was edited.
    #[error("entry {seq}: column `{column}` says `{shown}`, the signed leaf says `{signed}`")]
    Column {
        /// Which entry.
        seq: u64,
        /// Which column.
        column: &'static str,
        /// What the column shows.
        shown: String,
        /// What the leaf says.
        signed: String,
    },
    /// The leaf is of another log.
    #[error("entry {seq} belongs to the log `{found}`, expected `{expected}`")]
    Origin {
        /// Which entry.
        seq: u64,
        /// This log.
        expected: String,
        /// The leaf's log.
        found: String,
    },
    /// Salt or payload were exchanged.
    #[error("entry {seq}: its payload is not the one that the signed leaf commits to")]
    Payload {
        /// Which entry.
        seq: u64,
    },
    /// The leaf does not stand on the entry before it.
    #[error(
        "entry {seq}: its leaf stands on the chain value {found}, the entries before it end in {expected}"
    )]
    Chain {
        /// Which entry.
        seq: u64,
        /// What the entries before end in.
        expected: String,
        /// What the leaf says.
        found: String,
    },
    /// A stored value of the tree is not what the rows give.
    #[error("{what} is {found}, the entries give {expected}")]
    Stored {
        /// Which value.
        what: String,
        /// What the entries give.
        expected: String,
        /// What is stored.
        found: String,
    },
    /// A checkpoint, anchor or key does not agree with the rest.
    #[error("{0}")]
    Seal(String),
}

/// A walk along the log.
#[derive(Debug, Clone)]
pub(crate) struct Walk {
    origin: String,
    tip: Tip,
}

impl Walk {
    /// From the first entry.
    pub(crate) fn genesis(origin: &str) -> Self {
        Self { origin: origin.to_owned(), tip: Tip::genesis(origin) }
    }

    /// From where a tip says that the log stands.
    pub(crate) fn from(origin: &str, tip: Tip) -> Self {
        Self { origin: origin.to_owned(), tip }
    }

    /// Where the walk has come to.
    pub(crate) fn tip(&self) -> &Tip {
        &self.tip
    }

    /// One row of a database further.
    pub(crate) fn row(
        &mut self,
        row: &RowBytes<'_>,
        completed: impl FnMut(u32, u64, &Hash),
    ) -> Result<(), Finding> {
        let expected = self.tip.size();
        if row.seq != expected {
            return Err(Finding::Gap { expected, found: row.seq });
        }
        let leaf = self.leaf(row.leaf, completed)?;
        compare_columns(row, &leaf)?;
        check_payload(row.seq, &leaf, row.salt, row.payload)?;
        if row.chain != self.tip.chain {
            let (expected, found) = (hex::encode(self.tip.chain), hex::encode(row.chain));
            return Err(Finding::Stored {
                what: format!("the chain value of entry {}", row.seq),
                expected,
                found,
            });
        }
        Ok(())
    }

    /// One leaf further: number, origin, chain; into the tree.
    pub(crate) fn leaf<'a>(
        &mut self,
        bytes: &'a [u8],
        completed: impl FnMut(u32, u64, &Hash),
    ) -> Result<Leaf<'a>, Finding> {
        let seq = self.tip.size();
        let leaf = Leaf::decode(bytes).map_err(|why| Finding::NotALeaf { seq, why: why.to_string() })?;
        if leaf.seq != seq {
            return Err(Finding::Gap { expected: seq, found: leaf.seq });
        }
        if leaf.origin != self.origin {
            let (expected, found) = (self.origin.clone(), leaf.origin.to_owned());
            return Err(Finding::Origin { seq, expected, found });
        }
        if leaf.prev_chain != self.tip.chain {
            let (expected, found) = (hex::encode(self.tip.chain), hex::encode(leaf.prev_chain));
            return Err(Finding::Chain { seq, expected, found });
        }
        let hash = leaf_hash(bytes);
        self.tip.chain = next_chain(&self.tip.chain, &hash);
        self.tip.frontier.push(hash, completed);
        Ok(leaf)
    }
}

/// Salt and payload against the commitment in the leaf.
pub(crate) fn check_payload(seq: u64, leaf: &Leaf<'_>, salt: &[u8], payload: &[u8]) -> Result<(), Finding> {
    match <&[u8; 32]>::try_from(salt) {
        Ok(salt) if payload_commit(salt, payload) == leaf.payload_commit => Ok(()),
        _ => Err(Finding::Payload { seq }),
    }
}

/// One entry by itself: whether its columns and its payload are what its leaf says.
pub(crate) fn check_stored(entry: &StoredEntry) -> Result<(), Finding> {
    let seq = entry.seq;
    let leaf = Leaf::decode(&entry.leaf).map_err(|why| Finding::NotALeaf { seq, why: why.to_string() })?;
    if leaf.seq != seq {
        return Err(Finding::Gap { expected: seq, found: leaf.seq });
    }
    let row = RowBytes {
        seq,
        time_us: entry.time_us,
        workspace: &entry.workspace,
        actor: &entry.actor,
        action: &entry.action,
        object: &entry.object,
        outcome: &entry.outcome,
        request_id: &entry.request_id,
        leaf: &entry.leaf,
        salt: &entry.salt,
        payload: &entry.payload,
        chain: &entry.chain,
    };
    compare_columns(&row, &leaf)?;
    check_payload(seq, &leaf, &entry.salt, &entry.payload)
}

fn compare_columns(row: &RowBytes<'_>, leaf: &Leaf<'_>) -> Result<(), Finding> {
    let texts = [
        ("workspace", row.workspace, leaf.workspace),
        ("actor", row.actor, leaf.actor),
        ("action", row.action, leaf.action),
        ("object", row.object, leaf.object),
        ("outcome", row.outcome, leaf.outcome),
        ("request_id", row.request_id, leaf.request_id),
    ];
    for (column, shown, signed) in texts {
        if shown != signed {
            let (shown, signed) = (shown.to_owned(), signed.to_owned());
            return Err(Finding::Column { seq: row.seq, column, shown, signed });
        }
    }
    if row.time_us != leaf.time_us {
        let (shown, signed) = (row.time_us.to_string(), leaf.time_us.to_string());
        return Err(Finding::Column { seq: row.seq, column: "time_us", shown, signed });
    }
    Ok(())
}
