//! The proof maker: a receipt for one entry, computed from evidence alone, without the appliance.
//! Who enters: an auditor with an export or a ledger file, and the number of an entry.
//! What leaves: the same receipt the appliance would give, or the entry itself, to be read.

use std::collections::HashMap;
use std::convert::Infallible;

use crate::check::{Finding, Walk};
use crate::checkpoint::{Checkpoint, Proof};
use crate::export::AnchorFacts;
use crate::leaf::{Hash, leaf_hash};
use crate::merkle::{self, Nodes};
use crate::note::Note;
use crate::receipt::Receipt;

use super::source::{Source, Unreadable};
use super::{Evidence, Stop};

/// Why there is no receipt.
#[derive(Debug, thiserror::Error)]
pub enum NotProvable {
    /// The evidence cannot be read.
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    /// The evidence has no such entry.
    #[error("there is no entry {0}")]
    NoEntry(u64),
    /// No checkpoint covers it.
    #[error("no checkpoint covers entry {0}")]
    NotCovered(u64),
    /// The payload was left out of the export.
    #[error("the payload of entry {0} was left out of this export")]
    Withheld(u64),
    /// The evidence does not verify.
    #[error(transparent)]
    Finding(#[from] Finding),
}

/// A leaf, with its salt and payload where the evidence has them.
pub type Kept = (Vec<u8>, Option<(Vec<u8>, Vec<u8>)>);

/// A receipt for entry `seq` under the first checkpoint that covers it.
pub fn prove(source: &Source, seq: u64) -> Result<Receipt, NotProvable> {
    if let Source::Excerpt(excerpt) = source {
        return excerpt.receipt(seq);
    }
    let anchor = covering(source, seq)?;
    let bad = |why: String| Finding::Seal(format!("checkpoint {}: {why}", anchor.line.k));
    let note = Note::parse(anchor.note.as_bytes()).map_err(|why| bad(why.to_string()))?;
    let checkpoint = Checkpoint::parse(note.text()).map_err(|why| bad(why.to_string()))?;
    let (nodes, (leaf, sealed)) = collect(source, seq, checkpoint.size)?;
    let Ok(path) = merkle::prove_inclusion(&nodes, seq, checkpoint.size);
    let (salt, payload) = sealed.ok_or(NotProvable::Withheld(seq))?;
    if !merkle::check_inclusion(&leaf_hash(&leaf), seq, checkpoint.size, &path, &checkpoint.root) {
        return Err(bad("its signed root is not the one these entries give".into()).into());
    }
    Ok(Receipt { leaf, salt, payload, proof: Proof { index: seq, path, note } })
}

/// The leaf of one entry, with salt and payload where the evidence has them.
pub fn entry(source: &Source, seq: u64) -> Result<Kept, NotProvable> {
    if let Source::Excerpt(excerpt) = source {
        let Receipt { leaf, salt, payload, .. } = excerpt.receipt(seq)?;
        return Ok((leaf, Some((salt, payload))));
    }
    let mut found = None;
    let _ = source.each(seq, |evidence| -> Result<(), ()> {
        found = Some(owned(&evidence));
        Err(())
    })?;
    found.ok_or(NotProvable::NoEntry(seq))
}

fn covering(source: &Source, seq: u64) -> Result<AnchorFacts, NotProvable> {
    let mut k = 0;
    while let Some(anchor) = source.anchor_after(k)? {
        if anchor.line.size > seq {
            return Ok(anchor);
        }
        k = anchor.line.k;
    }
    Err(NotProvable::NotCovered(seq))
}

fn owned(evidence: &Evidence<'_>) -> Kept {
    match evidence {
        Evidence::Row(row) => (row.leaf.to_vec(), Some((row.salt.to_vec(), row.payload.to_vec()))),
        Evidence::Leaf(leaf, sealed) => {
            (leaf.to_vec(), sealed.map(|(salt, payload)| (salt.to_vec(), payload.to_vec())))
        }
    }
}

/// The hashes a path can need: all subtrees of 256 and more, and the small ones near the entry and near the end.
struct KeptNodes(HashMap<(u32, u64), Hash>);

impl Nodes for KeptNodes {
    type Fault = Infallible;

    fn subtree(&self, height: u32, index: u64) -> Result<Hash, Infallible> {
        // Every node that a path asks for was kept; a wrong one would only make the path fail its check.
        Ok(self.0.get(&(height, index)).copied().unwrap_or_default())
    }
}

fn collect(source: &Source, seq: u64, size: u64) -> Result<(KeptNodes, Kept), NotProvable> {
    let mut walk = Walk::genesis(source.origin());
    let mut nodes = HashMap::new();
    let mut kept = None;
    let near = |leaf: u64| leaf / 256 == seq / 256 || leaf / 256 == (size - 1) / 256;
    let walked = source.each(0, |evidence| -> Result<(), Option<Stop>> {
        let at = walk.tip().size();
        if at == size {
            return Err(None);
        }
        let leaf = match &evidence {
            Evidence::Row(row) => row.leaf,
            Evidence::Leaf(leaf, _) => leaf,
        };
        let keep = |height: u32, place: u64, hash: &Hash| {
            if height >= 8 || near(place << height) {
                nodes.insert((height, place), *hash);
            }
        };
        walk.leaf(leaf, keep).map_err(|finding| Some(Stop::Finding(finding)))?;
        if at == seq {
            kept = Some(owned(&evidence));
        }
        Ok(())
    })?;
    match walked {
        Ok(()) | Err(None) => {}
        Err(Some(Stop::Finding(finding))) => return Err(finding.into()),
        Err(Some(Stop::Unreadable(unreadable))) => return Err(unreadable.into()),
    }
    Ok((KeptNodes(nodes), kept.ok_or(NotProvable::NoEntry(seq))?))
}
