//! The first look: before the ledger takes a write, does it at least agree with itself?
//! Who enters: recovery, in a view; the background check, which looks at everything.
//! What leaves: how long the tail beyond the last checkpoint is, or what does not agree.

use crate::append::{Tip, load_tip, signed};
use crate::check::{Finding, Walk};
use crate::checkpoint::Checkpoint;
use crate::fault::SqlFault;
use crate::leaf::Hash;
use crate::merkle::{Frontier, Nodes};
use crate::note::NoteKey;
use crate::proving::{NoProof, StoredTree};
use crate::refused::Freeze;
use crate::rows::{self, ROWS, Stopped};
use crate::sealing::store::AnchorRow;
use crate::tx::{Session, View};

/// Rows looked at before every start, however well they are sealed: enough to notice a clumsy edit, few enough
/// to be ready within a second. The rest is for the background check and the offline verifier.
const ROWS_AT_START: u64 = 65_536;

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

/// Looks at the newest rows, the tree's edge and the last checkpoint; at every row when `whole`.
pub(crate) fn examine(view: &View<'_>, origin: &str, keys: &[NoteKey], whole: bool) -> Result<Tail, Unwell> {
    let stored = load_tip(view.session)?.ok_or_else(|| disagree("the end of the log", "a row", "none"))?;
    let last = view.last_anchor()?;
    let sealed = last.as_ref().map_or(0, |row| row.size);
    if sealed > stored.size() {
        let (expected, found) = (format!("at least {sealed} entries"), format!("{}", stored.size()));
        return Err(disagree("the log is shorter than its last checkpoint", &expected, &found));
    }
    let first = if whole { 0 } else { sealed.min(stored.size().saturating_sub(ROWS_AT_START)) };
    let walked = walk_from(view.session, origin, first)?;
    if walked != stored {
        let (expected, found) = (describe(&walked), describe(&stored));
        return Err(disagree("the stored end of the log", &expected, &found));
    }
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

fn hole(why: NoProof) -> Unwell {
    match why {
        NoProof::Fault(fault) => Unwell::Fault(fault),
        other => disagree("the stored tree", "a whole tree", &other.to_string()),
    }
}

fn found(finding: &Finding) -> Unwell {
    disagree("an entry", "an unchanged entry", &finding.to_string())
}

fn disagree(what: &str, expected: &str, found: &str) -> Unwell {
    Unwell::Freeze(Freeze {
        what: what.to_owned(),
        expected: expected.to_owned(),
        found: found.to_owned(),
        advice: "someone changed the file; reads still work, run chancery-audit verify on it".to_owned(),
    })
}
