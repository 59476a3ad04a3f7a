//! The comparison: two pieces of evidence about one log, side by side.
//! Who enters: an auditor with an export of last month and one of today.
//! What leaves: whether one continues the other, or the first entry at which they part.

use serde::Serialize;

use crate::leaf::leaf_hash;

use super::Evidence;
use super::source::{Source, Unreadable};

/// Leaves fetched at a time from the second source.
const CHUNK: u64 = 4_096;

/// How two logs stand to each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "relation")]
pub enum Relation {
    /// The same entries.
    Same {
        /// How many.
        entries: u64,
    },
    /// The second goes on where the first ends.
    Continues {
        /// Entries in both.
        shared: u64,
        /// Entries only in the second.
        more: u64,
    },
    /// The second ends where the first goes on: it is older, or was cut.
    Shorter {
        /// Entries in both.
        shared: u64,
        /// Entries only in the first.
        missing: u64,
    },
    /// They part: two histories of one log.
    Forked {
        /// The first entry that differs.
        at: u64,
    },
    /// They are different logs.
    Strangers {
        /// The first log.
        first: String,
        /// The second log.
        second: String,
    },
}

/// Compares leaf by leaf. It does not verify either; do that first.
pub fn compare(first: &Source, second: &Source) -> Result<Relation, Unreadable> {
    if first.origin() != second.origin() {
        let (first, second) = (first.origin().to_owned(), second.origin().to_owned());
        return Ok(Relation::Strangers { first, second });
    }
    let mut theirs = Chunks { source: second, start: 0, hashes: Vec::new() };
    let mut shared = 0;
    let mut first_size = 0;
    let mut parted = None;
    let _ = first.each(0, |evidence| -> Result<(), ()> {
        let at = first_size;
        first_size += 1;
        match theirs.hash(at) {
            Err(unreadable) => parted = Some(Err(unreadable)),
            Ok(Some(hash)) if hash == hash_of(&evidence) => shared += 1,
            Ok(Some(_)) => parted = Some(Ok(Relation::Forked { at })),
            Ok(None) => {}
        }
        if parted.is_some() { Err(()) } else { Ok(()) }
    })?;
    if let Some(parted) = parted {
        return parted;
    }
    let more = theirs.count_from(shared)?;
    Ok(match (first_size - shared, more) {
        (0, 0) => Relation::Same { entries: shared },
        (0, more) => Relation::Continues { shared, more },
        (missing, _) => Relation::Shorter { shared, missing },
    })
}

fn hash_of(evidence: &Evidence<'_>) -> [u8; 32] {
    match evidence {
        Evidence::Row(row) => leaf_hash(row.leaf),
        Evidence::Leaf(leaf, _) => leaf_hash(leaf),
    }
}

/// Leaf hashes of the second source, fetched in chunks so that neither log is ever held whole.
struct Chunks<'s> {
    source: &'s Source,
    start: u64,
    hashes: Vec<[u8; 32]>,
}

impl Chunks<'_> {
    fn hash(&mut self, at: u64) -> Result<Option<[u8; 32]>, Unreadable> {
        if at >= self.start + self.hashes.len() as u64
            && (self.hashes.is_empty() || self.hashes.len() as u64 == CHUNK)
        {
            self.start = at;
            self.hashes.clear();
            let hashes = &mut self.hashes;
            let _ = self.source.each(at, |evidence| {
                hashes.push(hash_of(&evidence));
                if hashes.len() as u64 == CHUNK { Err(()) } else { Ok(()) }
            })?;
        }
        Ok(usize::try_from(at - self.start).ok().and_then(|at| self.hashes.get(at).copied()))
    }

    fn count_from(&self, first: u64) -> Result<u64, Unreadable> {
        let mut count = 0;
        let _ = self.source.each(first, |_| -> Result<(), ()> {
            count += 1;
            Ok(())
        })?;
        Ok(count)
    }
}

impl std::fmt::Display for Relation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Same { entries } => write!(f, "SAME  both have the same {entries} entries"),
            Self::Continues { shared, more } => {
                write!(f, "CONTINUES  the second has all {shared} entries of the first, and {more} more")
            }
            Self::Shorter { shared, missing } => {
                write!(
                    f,
                    "SHORTER  the second has {shared} entries of the first and lacks the last {missing}"
                )
            }
            Self::Forked { at } => write!(f, "FORKED  the two histories part at entry {at}"),
            Self::Strangers { first, second } => {
                write!(f, "STRANGERS  `{first}` and `{second}` are different logs")
            }
        }
    }
}
