//! The proving desk: roots, paths and receipts from the stored tree.
//! Who enters: the audit service and the sealing, inside a view.
//! What leaves: proofs computed from at most 256 rows per level, and nothing its receiver would have to refuse.

use crate::append::{STORED_HEIGHTS, load_tip, signed};
use crate::checkpoint::{Checkpoint, Proof};
use crate::fault::SqlFault;
use crate::leaf::{Hash, leaf_hash};
use crate::merkle::{self, Nodes, node_hash};
use crate::note::Note;
use crate::receipt::Receipt;
use crate::tx::{Session, View};

/// A checkpoint as the ledger keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// Which step of the anchor, from 1.
    pub k: u64,
    /// Entries covered.
    pub size: u64,
    /// The signed note, ready to be handed out.
    pub note: String,
    /// What holds it: `tpm-nv`, `token-object` or `signature`.
    pub tier: String,
}

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum NoProof {
    /// Ask for what is in the log.
    #[error("there are no {asked} entries; the log has {size}")]
    Beyond {
        /// The size or number asked for.
        asked: u64,
        /// What there is.
        size: u64,
    },
    /// Wait for the next checkpoint.
    #[error("no confirmed checkpoint covers entry {0} yet")]
    NotCovered(u64),
    /// A stored hash is missing.
    #[error("the tree has a hole at height {height}, place {place}; verify the ledger with chancery-audit")]
    Hole {
        /// Height over the leaves.
        height: u32,
        /// Place at that height.
        place: u64,
    },
    /// What is stored does not lead to the signed root.
    #[error(
        "the stored tree does not lead to the signed root over {0} entries; verify the ledger with chancery-audit"
    )]
    Contradiction(u64),
    /// The database did not answer.
    #[error("the ledger cannot be read")]
    Fault(#[from] SqlFault),
}

impl View<'_> {
    /// How many entries there are.
    pub fn size(&self) -> Result<u64, SqlFault> {
        Ok(load_tip(self.session)?.map_or(0, |tip| tip.size()))
    }

    /// The root over the first `size` entries, from the stored tree.
    pub fn root(&self, size: u64) -> Result<Hash, NoProof> {
        self.within_log(size)?;
        merkle::root(&StoredTree(self.session), size)
    }

    /// The path from an entry to the root over the first `size` entries.
    pub fn inclusion(&self, seq: u64, size: u64) -> Result<Vec<Hash>, NoProof> {
        self.within_log(size)?;
        if seq >= size {
            return Err(NoProof::Beyond { asked: seq, size });
        }
        merkle::prove_inclusion(&StoredTree(self.session), seq, size)
    }

    /// That the first `old` entries are a prefix of the first `new`.
    pub fn consistency(&self, old: u64, new: u64) -> Result<Vec<Hash>, NoProof> {
        self.within_log(new)?;
        if old > new {
            return Err(NoProof::Beyond { asked: old, size: new });
        }
        merkle::prove_consistency(&StoredTree(self.session), old, new)
    }

    /// The newest confirmed checkpoint.
    pub fn latest_checkpoint(&self) -> Result<Option<StoredCheckpoint>, SqlFault> {
        self.checkpoint(
            "SELECT k, size, note, tier FROM anchor WHERE state = 'confirmed' AND size > ?1 \
            ORDER BY k DESC LIMIT 1",
            0,
        )
    }

    /// The first confirmed checkpoint that covers an entry.
    pub fn checkpoint_covering(&self, seq: u64) -> Result<Option<StoredCheckpoint>, SqlFault> {
        self.checkpoint(
            "SELECT k, size, note, tier FROM anchor WHERE state = 'confirmed' AND size > ?1 \
            ORDER BY size LIMIT 1",
            seq,
        )
    }

    /// Everything one needs to check elsewhere that an entry was recorded.
    pub fn receipt(&self, seq: u64) -> Result<Receipt, NoProof> {
        let size = self.size()?;
        let entry = self.entry(seq)?.ok_or(NoProof::Beyond { asked: seq, size })?;
        let covering = self.checkpoint_covering(seq)?.ok_or(NoProof::NotCovered(seq))?;
        let path = self.inclusion(seq, covering.size)?;
        let contradiction = || NoProof::Contradiction(covering.size);
        let note = Note::parse(covering.note.as_bytes()).map_err(|_| contradiction())?;
        let checkpoint = Checkpoint::parse(note.text()).map_err(|_| contradiction())?;
        // Never hand out what the receiver would have to refuse: it would look like our forgery.
        if !merkle::check_inclusion(&leaf_hash(&entry.leaf), seq, checkpoint.size, &path, &checkpoint.root) {
            return Err(contradiction());
        }
        let proof = Proof { index: seq, path, note };
        Ok(Receipt { leaf: entry.leaf, salt: entry.salt, payload: entry.payload, proof })
    }

    fn checkpoint(&self, sql: &'static str, beyond: u64) -> Result<Option<StoredCheckpoint>, SqlFault> {
        let mut find = self.session.own(sql)?;
        find.raw_bind_parameter(1, signed(beyond))?;
        let mut rows = find.raw_query();
        let Some(row) = rows.next()? else { return Ok(None) };
        let (k, size): (i64, i64) = (row.get(0)?, row.get(1)?);
        let (k, size) = (k.cast_unsigned(), size.cast_unsigned());
        Ok(Some(StoredCheckpoint { k, size, note: row.get(2)?, tier: row.get(3)? }))
    }

    fn within_log(&self, asked: u64) -> Result<(), NoProof> {
        match self.size()? {
            size if asked > size => Err(NoProof::Beyond { asked, size }),
            _ => Ok(()),
        }
    }
}

/// The tree as stored: leaves in the entries, then one node for each 256 below it.
pub(crate) struct StoredTree<'s>(pub(crate) &'s Session);

impl Nodes for StoredTree<'_> {
    type Fault = NoProof;

    fn subtree(&self, height: u32, index: u64) -> Result<Hash, NoProof> {
        let above = height % STORED_HEIGHTS;
        let stored = height - above;
        let (first, count) = (index << above, 1_u64 << above);
        let mut level = self.row(stored, first, count)?;
        if level.len() as u64 != count {
            return Err(NoProof::Hole { height: stored, place: first + level.len() as u64 });
        }
        for _ in 0..above {
            level = level.as_chunks::<2>().0.iter().map(|[left, right]| node_hash(left, right)).collect();
        }
        level.first().copied().ok_or(NoProof::Hole { height, place: index })
    }
}

impl StoredTree<'_> {
    /// Stored nodes of one height side by side, as many of them as there are.
    pub(crate) fn row(&self, height: u32, first: u64, count: u64) -> Result<Vec<Hash>, SqlFault> {
        if height == 0 { self.leaves(first, count) } else { self.nodes(height, first, count) }
    }

    fn leaves(&self, first: u64, count: u64) -> Result<Vec<Hash>, SqlFault> {
        let mut find = self.0.own("SELECT leaf FROM entry WHERE seq >= ?1 AND seq < ?2 ORDER BY seq")?;
        find.raw_bind_parameter(1, signed(first))?;
        find.raw_bind_parameter(2, signed(first + count))?;
        let mut rows = find.raw_query();
        let mut hashes = Vec::new();
        while let Some(row) = rows.next()? {
            let leaf = row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?;
            hashes.push(leaf_hash(leaf));
        }
        Ok(hashes)
    }

    fn nodes(&self, height: u32, first: u64, count: u64) -> Result<Vec<Hash>, SqlFault> {
        const FIND: &str =
            "SELECT hash FROM tree_node WHERE height = ?1 AND place >= ?2 AND place < ?3 ORDER BY place";
        let mut find = self.0.own(FIND)?;
        find.raw_bind_parameter(1, height)?;
        find.raw_bind_parameter(2, signed(first))?;
        find.raw_bind_parameter(3, signed(first + count))?;
        let mut rows = find.raw_query();
        let mut hashes = Vec::new();
        while let Some(row) = rows.next()? {
            hashes.push(row.get(0)?);
        }
        Ok(hashes)
    }
}
