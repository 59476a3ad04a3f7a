//! Paths of many entries to one root: tiles of 256 nodes are read once and kept while entries near them are proven.
//! Who enters: an excerpt, entry after entry.
//! What leaves: inclusion proofs, from a few tiles in memory.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::append::STORED_HEIGHTS;
use crate::leaf::Hash;
use crate::merkle::{self, Nodes, node_hash};
use crate::proving::{NoProof, StoredTree};

/// A path of a tree of 2^63 leaves passes eight levels of tiles, beside it lie as many at the tree's edge; twice that is plenty.
const TILES_MAX: usize = 32;

/// The stored tree with a memory.
pub(crate) struct Paths<'s> {
    tree: StoredTree<'s>,
    tiles: RefCell<HashMap<(u32, u64), Tile>>,
}

/// The complete nodes of a tile, from its bottom row upwards.
type Tile = Vec<Vec<Hash>>;

impl<'s> Paths<'s> {
    /// Over the stored tree of one snapshot.
    pub(crate) fn over(tree: StoredTree<'s>) -> Self {
        Self { tree, tiles: RefCell::default() }
    }

    /// The path from an entry to the root over the first `size` entries.
    pub(crate) fn inclusion(&self, seq: u64, size: u64) -> Result<Vec<Hash>, NoProof> {
        merkle::prove_inclusion(self, seq, size)
    }

    fn tile(&self, stored: u32, number: u64) -> Result<Tile, NoProof> {
        let mut rows = vec![self.tree.row(stored, number << STORED_HEIGHTS, 1 << STORED_HEIGHTS)?];
        while rows.len() < STORED_HEIGHTS as usize {
            let below = rows.last().map(Vec::as_slice).unwrap_or_default();
            let pairs = below.as_chunks::<2>().0.iter();
            rows.push(pairs.map(|[left, right]| node_hash(left, right)).collect());
        }
        Ok(rows)
    }
}

impl Nodes for Paths<'_> {
    type Fault = NoProof;

    fn subtree(&self, height: u32, index: u64) -> Result<Hash, NoProof> {
        let above = height % STORED_HEIGHTS;
        let across = STORED_HEIGHTS - above;
        let (stored, number) = (height - above, index >> across);
        let mut tiles = self.tiles.borrow_mut();
        if !tiles.contains_key(&(stored, number)) {
            if tiles.len() >= TILES_MAX {
                tiles.clear();
            }
            tiles.insert((stored, number), self.tile(stored, number)?);
        }
        let row = tiles.get(&(stored, number)).and_then(|rows| rows.get(above as usize));
        let place = usize::try_from(index - (number << across)).ok();
        let node = row.zip(place).and_then(|(row, place)| row.get(place));
        node.copied().ok_or(NoProof::Hole { height, place: index })
    }
}
