//! Whether the ledger agrees with itself: its newest part before it takes a write, and all of it while it runs.
//! Who enters: recovery, in one view; the background check and exports, a thousand rows at a time.
//! What leaves: how long the tail beyond the last checkpoint is, or what does not agree.

use crate::append::{STORED_HEIGHTS, Tip, load_tip, signed};
use crate::check::{Finding, RowBytes, Walk};
use crate::checkpoint::Checkpoint;
use crate::export::AnchorFacts;
use crate::fault::SqlFault;
use crate::leaf::{Hash, Leaf};
use crate::merkle::{Frontier, Nodes};
use crate::note::NoteKey;
use crate::proving::{NoProof, StoredTree};
use crate::refused::Freeze;
use crate::rows::{self, ROWS, Stopped};
use crate::sealing::store::AnchorRow;
use crate::tx::{Session, View};
use crate::verify::Trust;
use crate::verify::seals::{Demands, Halted, Seals, Steps, compare_told};

/// Rows looked at before every start, however well they are sealed: enough to notice a clumsy edit, few enough
/// to be ready within a second. The rest is for the background check and the offline verifier.
const ROWS_AT_START: u64 = 65_536;
/// Rows of the whole log that are looked at in one snapshot: as long as one is open, the write-ahead log cannot begin anew.
pub(crate) const ROWS_AT_ONCE: u64 = 1_024;

/// What the look found, when all is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    /// Entries beyond the last confirmed checkpoint.
    pub(crate) rows: u64,
}

/// Why the look ended.
pub(crate) enum Unwell {
    /// Something does not agree: freeze.
    Freeze(Freeze),
    /// The database did not answer.
    Fault(SqlFault),
}

impl From<SqlFault> for Unwell {
    fn from(fault: SqlFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<rusqlite::Error> for Unwell {
    fn from(error: rusqlite::Error) -> Self {
        Self::Fault(error.into())
    }
}

/// Looks at the newest rows, the tree's edge and the last checkpoint.
pub(crate) fn examine_newest(view: &View<'_>, origin: &str, keys: &[NoteKey]) -> Result<Tail, Unwell> {
    let stored = load_tip(view.session)?.ok_or_else(|| disagree("the end of the log", "a row", "none"))?;
    let last = view.last_anchor()?;
    let sealed = last.as_ref().map_or(0, |row| row.size);
    if sealed > stored.size() {
        let (expected, found) = (format!("at least {sealed} entries"), format!("{}", stored.size()));
        return Err(disagree("the log is shorter than its last checkpoint", &expected, &found));
    }
    let first = sealed.min(stored.size().saturating_sub(ROWS_AT_START));
    let walked = walk_from(view.session, origin, first)?;
    if walked != stored {
        let (expected, found) = (describe(&walked), describe(&stored));
        return Err(disagree("the stored end of the log", &expected, &found));
    }
    check_told(view, last.as_ref().map_or(0, |row| row.k))?;
    if let Some(row) = last {
        check_seal(view, origin, keys, &row)?;
    }
    Ok(Tail { rows: stored.size() - sealed })
}

fn describe(tip: &Tip) -> String {
    format!(
        "{} entries with root {} and chain {}",
        tip.size(),
        hex::encode(tip.frontier.root()),
        hex::encode(tip.chain)
    )
}

fn walk_from(session: &Session, origin: &str, first: u64) -> Result<Tip, Unwell> {
    let mut walk = Walk::from(origin, tip_before(session, origin, first)?);
    let mut all = session.own(ROWS)?;
    match rows::each(&mut all, first, |row| walk.row(row, |_, _, _| {})) {
        Ok(()) => Ok(walk.tip().clone()),
        Err(Stopped::Fault(fault)) => Err(Unwell::Fault(fault)),
        Err(Stopped::By(finding) | Stopped::Malformed(finding)) => Err(found(&finding)),
    }
}

/// Where the log stood before entry `first`, by what is stored.
fn tip_before(session: &Session, origin: &str, first: u64) -> Result<Tip, Unwell> {
    let Some(previous) = first.checked_sub(1) else { return Ok(Tip::genesis(origin)) };
    let tree = StoredTree(session);
    let mut peaks = Vec::new();
    let mut start = 0;
    for height in (0..u64::BITS).rev().filter(|height| first >> height & 1 == 1) {
        peaks.push(tree.subtree(height, start >> height).map_err(hole)?);
        start += 1 << height;
    }
    let mut find = session.own("SELECT chain FROM entry WHERE seq = ?1")?;
    find.raw_bind_parameter(1, signed(previous))?;
    let mut rows = find.raw_query();
    let chain: Option<Hash> = rows.next()?.map(|row| row.get(0)).transpose()?;
    let chain = chain.ok_or_else(|| found(&Finding::Gap { expected: previous, found: first }))?;
    let frontier = Frontier::from_peaks(first, peaks).unwrap_or_default();
    Ok(Tip { frontier, chain })
}

fn check_seal(view: &View<'_>, origin: &str, keys: &[NoteKey], row: &AnchorRow) -> Result<(), Unwell> {
    let what = format!("checkpoint {}", row.k);
    let (checkpoint, _) = Checkpoint::open(row.note.as_bytes(), keys).map_err(|why| {
        disagree(&what, "a checkpoint signed by the keys of this appliance", &why.to_string())
    })?;
    // The log may have been sealed before a key was added, so not all keys must have signed; those that are
    // required of a checkpoint are the verifier's policy.
    if checkpoint.origin != origin || checkpoint.size != row.size {
        let found = format!("{} of {} entries", checkpoint.origin, checkpoint.size);
        return Err(disagree(&what, &format!("{origin} of {} entries", row.size), &found));
    }
    let root = view.root(row.size).map_err(hole)?;
    if root != checkpoint.root {
        let (expected, found) = (hex::encode(checkpoint.root), hex::encode(root));
        return Err(disagree(&format!("the root over {} entries", row.size), &expected, &found));
    }
    Ok(())
}

/// A step and the entry that tells of it commit together. So the newest of both are the same step, or one of the two was
/// taken away: the entry with the end of the log, or the step to have it taken again.
fn check_told(view: &View<'_>, last: u64) -> Result<(), Unwell> {
    // By its index, from the newest backwards. Only the ledger itself tells of anchors, so it is in no workspace.
    const NEWEST: &str = "SELECT seq, object, payload FROM entry WHERE workspace = '' AND action = 'audit.anchor' \
        ORDER BY seq DESC LIMIT 1";
    let mut find = view.session.own(NEWEST)?;
    let mut rows = find.raw_query();
    let newest = match rows.next()? {
        Some(row) => Some((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, String>(1)?, row.get(2)?)),
        None => None,
    };
    let expected = (last > 0).then(|| format!("checkpoint/{last}"));
    let told = newest.as_ref().map(|(_, object, _): &(u64, String, Vec<u8>)| object);
    if expected.as_ref() != told {
        let named = |what: Option<&String>| what.map_or("none".to_owned(), Clone::clone);
        let what = "the newest checkpoint that an entry tells of";
        return Err(disagree(what, &named(expected.as_ref()), &named(told)));
    }
    match (newest, last.checked_sub(1).map(|before| view.anchor_after(before)).transpose()?.flatten()) {
        (Some((seq, _, payload)), Some(step)) => {
            compare_told(&step, None, seq, &payload).map_err(|it| found(&it))
        }
        _ => Ok(()),
    }
}

/// A look at everything that stood in the ledger when it began, some rows at a time: entries, stored tree, checkpoints,
/// steps and the TPM's statements about them.
pub(crate) struct Examination {
    /// Entries that there were.
    end: u64,
    /// The last step that was confirmed. Later ones are told of by later entries, and may cover earlier ones.
    last: u64,
    walk: Walk,
    seals: Seals,
}

/// The steps that were confirmed when an examination began.
struct StepsUpTo<'v> {
    view: &'v View<'v>,
    last: u64,
}

impl Steps for StepsUpTo<'_> {
    type Fault = SqlFault;
    fn after(&self, k: u64) -> Result<Option<AnchorFacts>, SqlFault> {
        if k < self.last { self.view.anchor_after(k) } else { Ok(None) }
    }
}

impl Examination {
    /// Remembers how far the ledger has come. `keys` are the sealer's own, and which of them must have signed a step goes
    /// by its tier: a key may be younger than the log.
    pub(crate) fn begin(view: &View<'_>, origin: &str, keys: &[NoteKey]) -> Result<Self, Unwell> {
        let stored =
            load_tip(view.session)?.ok_or_else(|| disagree("the end of the log", "a row", "none"))?;
        let demands = Demands {
            origin: origin.to_owned(),
            keys: keys.to_vec(),
            trust: Trust::Bundled,
            ak: None,
            hardware_since: u64::MAX,
            newest_told: true,
        };
        Ok(Self {
            end: stored.size(),
            last: view.last_anchor()?.map_or(0, |row| row.k),
            walk: Walk::genesis(origin),
            seals: Seals::new(demands, None),
        })
    }

    /// Whether all was looked at.
    pub(crate) fn is_done(&self) -> bool {
        self.walk.tip().size() == self.end
    }

    /// Looks at some rows more, and at the end of the log behind the last of them.
    pub(crate) fn go_on(mut self, view: &View<'_>) -> Result<Self, Unwell> {
        let steps = StepsUpTo { view, last: self.last };
        self.seals.look(&steps).map_err(halted)?;
        let first = self.walk.tip().size();
        let until = self.end.min(first + ROWS_AT_ONCE);
        let mut all = view.session.own(ROWS)?;
        let walked = rows::each(&mut all, first, |row| match self.walk.tip().size() == until {
            true => Err(None),
            false => self.row(row, &steps).map_err(Some),
        });
        match walked {
            Ok(()) | Err(Stopped::By(None)) => {}
            Err(Stopped::By(Some(unwell))) => return Err(unwell),
            Err(Stopped::Malformed(finding)) => return Err(found(&finding)),
            Err(Stopped::Fault(fault)) => return Err(Unwell::Fault(fault)),
        }
        let size = self.walk.tip().size();
        if size < until {
            return Err(disagree("the log", &format!("at least {} entries", self.end), &size.to_string()));
        }
        if self.is_done() {
            self.finish(view)?;
        }
        Ok(self)
    }

    fn row(&mut self, row: &RowBytes<'_>, steps: &StepsUpTo<'_>) -> Result<(), Unwell> {
        let mut completed = Vec::new();
        let keep = |height: u32, place: u64, hash: &Hash| {
            if height > 0 && height.is_multiple_of(STORED_HEIGHTS) {
                completed.push((height, place, *hash));
            }
        };
        self.walk.row(row, keep).map_err(|finding| found(&finding))?;
        for (height, place, hash) in completed {
            let stored = StoredTree(steps.view.session).row(height, place, 1)?;
            if stored.first() != Some(&hash) {
                let what = format!("the tree node at height {height}, place {place}");
                let stored = stored.first().map_or("missing".to_owned(), hex::encode);
                return Err(disagree(&what, &hex::encode(hash), &stored));
            }
        }
        let leaf = Leaf::decode(row.leaf);
        let leaf = leaf.map_err(|why| found(&Finding::NotALeaf { seq: row.seq, why: why.to_string() }))?;
        self.seals.entry(&leaf, Some(row.payload), &self.walk.tip().frontier, steps).map_err(halted)
    }

    /// The stored end is the one these rows give; where the log has grown since, its stored tree still is.
    fn finish(&mut self, view: &View<'_>) -> Result<(), Unwell> {
        self.seals.end(self.end).map_err(|finding| found(&finding))?;
        let stored =
            load_tip(view.session)?.ok_or_else(|| disagree("the end of the log", "a row", "none"))?;
        let walked = self.walk.tip();
        if stored.size() == self.end && stored != *walked {
            return Err(disagree("the stored end of the log", &describe(walked), &describe(&stored)));
        }
        let (expected, found) = (walked.frontier.root(), view.root(self.end).map_err(hole)?);
        if expected != found {
            let what = format!("the stored tree over {} entries", self.end);
            return Err(disagree(&what, &hex::encode(expected), &hex::encode(found)));
        }
        Ok(())
    }
}

fn halted(halted: Halted<SqlFault>) -> Unwell {
    match halted {
        Halted::Finding(finding) => found(&finding),
        Halted::Fault(fault) => Unwell::Fault(fault),
    }
}

fn hole(why: NoProof) -> Unwell {
    match why {
        NoProof::Fault(fault) => Unwell::Fault(fault),
        other => disagree("the stored tree", "a whole tree", &other.to_string()),
    }
}

fn found(finding: &Finding) -> Unwell {
    Unwell::Freeze(altered(finding))
}

/// Why a ledger with such a finding freezes.
pub(crate) fn altered(finding: &dyn std::fmt::Display) -> Freeze {
    freeze("an entry or a seal", "one that nobody changed", &finding.to_string())
}

fn disagree(what: &str, expected: &str, found: &str) -> Unwell {
    Unwell::Freeze(freeze(what, expected, found))
}

fn freeze(what: &str, expected: &str, found: &str) -> Freeze {
    Freeze {
        what: what.to_owned(),
        expected: expected.to_owned(),
        found: found.to_owned(),
        advice: "someone changed the file; reads still work, run chancery-audit verify on it".to_owned(),
    }
}
