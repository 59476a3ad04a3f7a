//! The room of the tree: RFC 6962 over leaf hashes, without any store of its own.
//! Who enters: the writer, one leaf hash at a time; provers, who can fetch stored nodes; checkers, with a proof.
//! What leaves: roots, inclusion and consistency proofs, and plain yes or no about proofs of others.

use crate::leaf::{Hash, sha256};

/// The root of no entries at all.
pub fn empty_root() -> Hash {
    sha256(&[])
}

/// Two nodes under one.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[1], left, right])
}

/// The right edge of a growing tree: one hash per complete subtree, largest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Frontier {
    size: u64,
    peaks: Vec<Hash>,
}

impl Frontier {
    /// Of a tree of `size` leaves with these peaks; there is one peak for each bit set in `size`.
    pub fn from_peaks(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (peaks.len() == size.count_ones() as usize).then_some(Self { size, peaks })
    }

    /// How many leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Complete subtrees, largest first.
    pub fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// Adds a leaf; each subtree it completes is shown to `completed` as (height, index, hash).
    pub fn push(&mut self, leaf: Hash, mut completed: impl FnMut(u32, u64, &Hash)) {
        let mut hash = leaf;
        let mut height = 0;
        completed(0, self.size, &hash);
        while self.size >> height & 1 == 1 {
            if let Some(left) = self.peaks.pop() {
                hash = node_hash(&left, &hash);
            }
            height += 1;
            completed(height, self.size >> height, &hash);
        }
        self.peaks.push(hash);
        self.size += 1;
    }

    /// The root over all leaves so far.
    pub fn root(&self) -> Hash {
        let mut peaks = self.peaks.iter().rev();
        let Some(last) = peaks.next() else { return empty_root() };
        peaks.fold(*last, |right, left| node_hash(left, &right))
    }
}

/// Where a prover finds hashes of complete subtrees.
pub trait Nodes {
    /// Why it could not.
    type Fault;
    /// The hash of the subtree of 2^height leaves that starts at leaf `index << height`.
    fn subtree(&self, height: u32, index: u64) -> Result<Hash, Self::Fault>;
}

/// Root of the leaves `start..end`, where `start` is a multiple of the largest power of two that fits.
fn range_root<N: Nodes>(nodes: &N, start: u64, end: u64) -> Result<Hash, N::Fault> {
    let mut frontier: Option<Hash> = None;
    // Complete subtrees of the range from its right end to its left: the small ones fold into the large.
    let mut end = end;
    while start < end {
        let height = (end - start).trailing_zeros();
        end -= 1 << height;
        let left = nodes.subtree(height, end >> height)?;
        frontier = Some(match frontier {
            None => left,
            Some(right) => node_hash(&left, &right),
        });
    }
    Ok(frontier.unwrap_or_else(empty_root))
}

/// The root of the first `size` leaves.
pub fn root<N: Nodes>(nodes: &N, size: u64) -> Result<Hash, N::Fault> {
    range_root(nodes, 0, size)
}

/// The path of `index` in the tree of `size` leaves, from leaf to root. `index` must be below `size`.
pub fn prove_inclusion<N: Nodes>(nodes: &N, index: u64, size: u64) -> Result<Vec<Hash>, N::Fault> {
    let (mut start, mut end) = (0, size);
    let mut path = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            path.push(range_root(nodes, middle, end)?);
            end = middle;
        } else {
            path.push(range_root(nodes, start, middle)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(path)
}

/// Proof that the first `old` of `new` leaves are unchanged. Empty when `old` is 0 or equals `new`.
pub fn prove_consistency<N: Nodes>(nodes: &N, old: u64, new: u64) -> Result<Vec<Hash>, N::Fault> {
    if old == 0 || old >= new {
        return Ok(Vec::new());
    }
    let (mut start, mut end, mut rest) = (0, new, old);
    let mut proof = Vec::new();
    // Walk down to the subtree that ends exactly at `old`; collect what lies beside the way.
    while rest != end - start {
        let middle = start + split(end - start);
        if rest <= middle - start {
            proof.push(range_root(nodes, middle, end)?);
            end = middle;
        } else {
            proof.push(range_root(nodes, start, middle)?);
            rest -= middle - start;
            start = middle;
        }
    }
    if start != 0 {
        proof.push(range_root(nodes, start, end)?);
    }
    proof.reverse();
    Ok(proof)
}

/// The largest power of two below `size`; `size` is at least 2.
fn split(size: u64) -> u64 {
    1 << (u64::BITS - 1 - (size - 1).leading_zeros())
}

/// Whether `proof` leads from the leaf at `index` to `root` in a tree of `size` leaves (RFC 9162, 2.1.3.2).
pub fn check_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut node, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether `proof` shows that the tree (`old`, `old_root`) is a prefix of (`new`, `new_root`) (RFC 9162, 2.1.4.2).
pub fn check_consistency(old: u64, old_root: &Hash, new: u64, new_root: &Hash, proof: &[Hash]) -> bool {
    if old > new {
        return false;
    }
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    if old == 0 {
        return proof.is_empty() && *old_root == empty_root();
    }
    let whole = old.is_power_of_two().then_some(old_root);
    let mut hashes = whole.into_iter().chain(proof);
    let Some(first) = hashes.next() else { return false };
    let (mut node, mut last) = (old - 1, new - 1);
    let shift = node.trailing_ones();
    node >>= shift;
    last >>= shift;
    let (mut from_old, mut from_new) = (*first, *first);
    for sibling in hashes {
        if last == 0 {
            return false;
        }
        if node & 1 == 1 || node == last {
            from_old = node_hash(sibling, &from_old);
            from_new = node_hash(sibling, &from_new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            from_new = node_hash(&from_new, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    last == 0 && from_old == *old_root && from_new == *new_root
}
