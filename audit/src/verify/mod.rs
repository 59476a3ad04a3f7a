//! The verifier: everything is computed anew from the rows, and whatever is stored must agree with it.
//! Who enters: `chancery-audit`, and tests, with evidence and the keys they trust.
//! What leaves: a report that says what holds, by whose word, and what is not shown.

mod archive;
mod compare;
mod database;
mod excerpt;
mod prove;
mod report;
pub(crate) mod seals;
mod source;

use crate::append::STORED_HEIGHTS;
use crate::check::{Finding, RowBytes, Walk, check_payload};
use crate::checkpoint::Checkpoint;
use crate::fault::SqlFault;
use crate::leaf::Hash;
use crate::note::NoteKey;
use seals::{Demands, Halted, Seals};

pub use archive::Export;
pub use compare::{Relation, compare};
pub use database::Database;
pub use excerpt::Excerpt;
pub use prove::{Kept, NotProvable, entry, prove};
pub use report::{Extent, Report};
pub(crate) use source::Evidence;
pub use source::{Source, Unreadable, spki_of_pem};

/// By whose word the checkpoints are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// Keys that the auditor brought.
    Pinned,
    /// Keys that came with the evidence.
    Bundled,
    /// None: only the log's agreement with itself.
    ChainOnly,
}

impl Trust {
    /// In words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pinned => "pinned keys",
            Self::Bundled => "bundled keys",
            Self::ChainOnly => "chain only",
        }
    }
}

/// What the auditor brings along.
#[derive(Debug, Default)]
pub struct Terms {
    /// Verifier keys written down at enrolment.
    pub keys: Vec<NoteKey>,
    /// The attestation key, SPKI DER.
    pub ak: Option<Vec<u8>>,
    /// The first checkpoint that the TPM holds, where a key of the TPM is given and the log is older than its TPM.
    pub hardware_since: Option<u64>,
    /// A checkpoint kept from an earlier visit: the log must contain it.
    pub known: Option<Checkpoint>,
}

/// Why a walk ended.
pub(crate) enum Stop {
    Finding(Finding),
    Unreadable(Unreadable),
}

impl From<Finding> for Stop {
    fn from(finding: Finding) -> Self {
        Self::Finding(finding)
    }
}

impl From<Halted<Unreadable>> for Stop {
    fn from(halted: Halted<Unreadable>) -> Self {
        match halted {
            Halted::Finding(finding) => Self::Finding(finding),
            Halted::Fault(unreadable) => Self::Unreadable(unreadable),
        }
    }
}

impl From<Unreadable> for Stop {
    fn from(unreadable: Unreadable) -> Self {
        Self::Unreadable(unreadable)
    }
}

/// Verifies the whole of `source`, or each entry of an excerpt. `progress` is told the number of entries done, every few thousand.
pub fn verify(source: &Source, terms: &Terms, progress: impl FnMut(u64)) -> Result<Report, Unreadable> {
    if let Source::Excerpt(excerpt) = source {
        return excerpt.verify(terms, progress);
    }
    let bundled = source.bundled_keys()?;
    let (keys, trust) = match (terms.keys.is_empty(), bundled.is_empty()) {
        (false, _) => (terms.keys.clone(), Trust::Pinned),
        (true, false) => (bundled, Trust::Bundled),
        (true, true) => (bundled, Trust::ChainOnly),
    };
    let demands = Demands {
        origin: source.origin().to_owned(),
        keys,
        trust,
        ak: terms.ak.clone(),
        hardware_since: terms.hardware_since.unwrap_or(1),
        newest_told: matches!(source, Source::Database(_)),
    };
    let seals = Seals::new(demands, source.export_ak()?);
    let nodes = StoredNodes::new(source)?;
    let mut visit = Visit {
        source,
        walk: Walk::genesis(source.origin()),
        seals,
        nodes,
        known: terms.known.as_ref(),
        withheld: 0,
        completed: Vec::new(),
        progress,
    };
    let finding = match visit.whole(source) {
        Ok(()) => None,
        Err(Stop::Finding(finding) | Stop::Unreadable(Unreadable::Malformed(finding))) => Some(finding),
        Err(Stop::Unreadable(unreadable)) => return Err(unreadable),
    };
    Ok(Report::new(source, trust, &visit.walk, visit.seals.seen, visit.withheld, terms, finding))
}

struct Visit<'s, P> {
    source: &'s Source,
    walk: Walk,
    seals: Seals,
    nodes: StoredNodes<'s>,
    known: Option<&'s Checkpoint>,
    withheld: u64,
    completed: Vec<(u32, u64, Hash)>,
    progress: P,
}

impl<P: FnMut(u64)> Visit<'_, P> {
    fn whole(&mut self, source: &Source) -> Result<(), Stop> {
        if let Some(known) = self.known.filter(|known| known.origin != source.origin()) {
            let (held, here) = (&known.origin, source.origin());
            return Err(Finding::Seal(format!(
                "the checkpoint you hold is of the log `{held}`, this is `{here}`"
            ))
            .into());
        }
        self.known_size(0)?;
        self.seals.look(source)?;
        source.each(0, |evidence| self.one(&evidence))??;
        let size = self.walk.tip().size();
        (self.progress)(size);
        self.seals.end(size)?;
        if let Source::Export(export) = source {
            self.seals.newest(&export.note)?;
        }
        self.stored_end(source)?;
        match self.known {
            Some(known) if known.size > size => Err(Finding::Seal(format!(
                "the log has {size} entries, but the checkpoint you hold covers {}: entries were cut off, or this is an older copy",
                known.size
            ))
            .into()),
            _ => Ok(()),
        }
    }

    fn one(&mut self, evidence: &Evidence<'_>) -> Result<(), Stop> {
        let Self { walk, completed, .. } = self;
        completed.clear();
        let keep = |height: u32, place: u64, hash: &Hash| {
            if height > 0 && height.is_multiple_of(STORED_HEIGHTS) {
                completed.push((height, place, *hash));
            }
        };
        let (leaf, payload) = match evidence {
            Evidence::Row(row) => {
                walk.row(row, keep)?;
                (leaf_of(row)?, Some(row.payload))
            }
            Evidence::Leaf(bytes, sealed) => {
                let leaf = walk.leaf(bytes, keep)?;
                match sealed {
                    Some((salt, payload)) => check_payload(leaf.seq, &leaf, salt, payload)?,
                    None => self.withheld += 1,
                }
                (leaf, sealed.map(|(_, payload)| payload))
            }
        };
        for (height, place, hash) in &self.completed {
            self.nodes.check(*height, *place, hash)?;
        }
        self.seals.entry(&leaf, payload, &self.walk.tip().frontier, self.source)?;
        let size = self.walk.tip().size();
        if size & 0xfff == 0 {
            (self.progress)(size);
        }
        self.known_size(size)
    }

    /// At the size of the checkpoint that the auditor holds, the root must be the one it shows.
    fn known_size(&self, size: u64) -> Result<(), Stop> {
        let Some(known) = self.known.filter(|known| known.size == size) else { return Ok(()) };
        let root = self.walk.tip().frontier.root();
        if known.root == root {
            return Ok(());
        }
        Err(Finding::Seal(format!(
            "the checkpoint you hold over {size} entries has the root {}, these entries give {}: two histories",
            hex::encode(known.root),
            hex::encode(root)
        ))
        .into())
    }

    fn stored_end(&self, source: &Source) -> Result<(), Stop> {
        let Source::Database(database) = source else { return Ok(()) };
        let (walked, stored) = (self.walk.tip(), database.stored_tip()?);
        if stored.as_ref() == Some(walked) {
            return Ok(());
        }
        let found = stored.map_or("missing".to_owned(), |tip| tip_in_words(&tip));
        Err(Finding::Stored {
            what: "the stored end of the log".into(),
            expected: tip_in_words(walked),
            found,
        }
        .into())
    }
}

fn leaf_of<'a>(row: &RowBytes<'a>) -> Result<crate::leaf::Leaf<'a>, Finding> {
    crate::leaf::Leaf::decode(row.leaf)
        .map_err(|why| Finding::NotALeaf { seq: row.seq, why: why.to_string() })
}

fn tip_in_words(tip: &crate::append::Tip) -> String {
    format!("{} entries with root {}", tip.size(), hex::encode(tip.frontier.root()))
}

/// The tree nodes kept beside the entries: in a ledger file's table. An export's tiles are checked by its reader
/// against the signed root, and are made anew from the leaves here.
struct StoredNodes<'s> {
    database: Option<(&'s Database, rusqlite::Statement<'s>)>,
}

impl<'s> StoredNodes<'s> {
    fn new(source: &'s Source) -> Result<Self, Unreadable> {
        let Source::Database(database) = source else { return Ok(Self { database: None }) };
        let find = database.conn.prepare("SELECT hash FROM tree_node WHERE height = ?1 AND place = ?2");
        let find = find.map_err(|fault| database.fault(fault.into()))?;
        Ok(Self { database: Some((database, find)) })
    }

    fn check(&mut self, height: u32, place: u64, hash: &Hash) -> Result<(), Stop> {
        let Some((database, find)) = &mut self.database else { return Ok(()) };
        let mut stored = || -> Result<Option<Vec<u8>>, SqlFault> {
            find.raw_bind_parameter(1, height)?;
            find.raw_bind_parameter(2, crate::append::signed(place))?;
            let mut rows = find.raw_query();
            Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
        };
        let stored = stored().map_err(|fault| database.fault(fault))?;
        if stored.as_deref() == Some(&hash[..]) {
            return Ok(());
        }
        let what = format!("the tree node at height {height}, place {place}");
        let found = stored.map_or("missing".to_owned(), hex::encode);
        Err(Finding::Stored { what, expected: hex::encode(hash), found }.into())
    }
}
