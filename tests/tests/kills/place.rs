//! Where a run stood when the power went: read from the ledger's file as it was left, before anybody starts again.
//! Who enters: a round, with a dead daemon.
//! What leaves: a place in words, the same for the same commit; whether locks are held; what the log of a run says.

use std::path::Path;

use promises::{Appliance, evidence};
use rusqlite::{Connection, OptionalExtension, Row};

/// A run as its rows tell it.
pub(crate) struct Place {
    state: String,
    cursor: u32,
    doubt: bool,
    cancelled: bool,
    signals: (u32, u32),
    items: (u32, u32),
    last: Option<(u32, String)>,
}

const RUNS: &str = "SELECT COUNT(*) FROM saga WHERE workflow = ?1";
const RUN: &str = "SELECT workspace, id, state, cursor, doubt, cancel FROM saga WHERE workflow = ?1 ORDER BY id DESC LIMIT 1";
const SIGNALS: &str = "SELECT COALESCE(SUM(consumed), 0), COALESCE(SUM(1 - consumed), 0) FROM saga_signal WHERE workspace = ?1 AND saga = ?2";
const ITEMS: &str =
    "SELECT COALESCE(SUM(state = 'done'), 0), COUNT(*) FROM saga_item WHERE workspace = ?1 AND saga = ?2";
/// The last line of each commit: lines of one commit have one moment. One that says that there was nothing to undo is passed
/// over if the commit has another.
const COMMITS: &str =
    "SELECT step, phase || ' ' || kind, MAX((kind <> 'skipped') * 1000000 + seq) FROM saga_log
    WHERE workspace = ?1 AND saga = ?2 GROUP BY at_us ORDER BY at_us";

/// The newest run of a workflow, if the file has more than so many.
pub(crate) fn of(house: &Appliance, workflow: &str, earlier: u32) -> Option<Place> {
    let ledger = left_behind(house);
    let runs: u32 = ledger.query_row(RUNS, [workflow], |row| row.get(0)).expect("the ledger reads");
    if runs <= earlier {
        return None;
    }
    let found = ledger.query_row(RUN, [workflow], |row| {
        let key: (String, Vec<u8>) = (row.get(0)?, row.get(1)?);
        let pair = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
        Ok(Place {
            state: row.get(2)?,
            cursor: row.get(3)?,
            doubt: row.get(4)?,
            cancelled: row.get(5)?,
            signals: ledger.query_row(SIGNALS, (&key.0, &key.1), pair)?,
            items: ledger.query_row(ITEMS, (&key.0, &key.1), pair)?,
            last: last_words(&ledger, &key).pop(),
        })
    });
    found.optional().expect("the ledger reads")
}

/// What the last word of each commit of the newest run was, from its log.
pub(crate) fn commits_of(house: &Appliance, workflow: &str, steps: &[String]) -> Vec<String> {
    let ledger = left_behind(house);
    let key: (String, Vec<u8>) =
        ledger.query_row(RUN, [workflow], |row| Ok((row.get(0)?, row.get(1)?))).expect("a run");
    last_words(&ledger, &key).iter().map(|line| after(line, steps)).collect()
}

fn last_words(ledger: &Connection, key: &(String, Vec<u8>)) -> Vec<(u32, String)> {
    let mut lines = ledger.prepare(COMMITS).expect("a log");
    let words = lines.query_map((&key.0, &key.1), |row| Ok((row.get(0)?, row.get(1)?))).expect("lines");
    words.map(|line| line.expect("a line")).collect()
}

/// Locks that any run holds or waits for.
pub(crate) fn locks(house: &Appliance) -> u32 {
    let count = "SELECT COUNT(*) FROM saga_lock_claim";
    left_behind(house).query_row(count, [], |row| row.get(0)).expect("the ledger reads")
}

/// A copy, for opening the file itself would tidy it up.
fn left_behind(house: &Appliance) -> Connection {
    let copy = evidence::copy_ledger(house, Path::new(&house.path("left-behind")));
    Connection::open(copy).expect("the ledger opens")
}

impl Place {
    /// In words; the steps' names come from whoever knows the definition.
    pub(crate) fn words(&self, steps: &[String]) -> String {
        let mut words = match self.state.as_str() {
            over @ ("succeeded" | "compensated") => over.to_owned(),
            // The cursor stands behind the step that is undone next.
            "unwinding" => format!("unwinding {}", step(steps, self.cursor.saturating_sub(1))),
            state => format!("{state} at {}", step(steps, self.cursor)),
        };
        if self.doubt {
            words.push_str(", in doubt");
        }
        if self.cancelled {
            words.push_str(", cancelled");
        }
        match self.items {
            (_, 0) => {}
            (done, all) if done == all => words.push_str(", all items done"),
            // Which of them came first is not the same in every round.
            _ => words.push_str(", items under way"),
        }
        let (heard, unheard) = self.signals;
        if heard + unheard > 0 {
            words.push_str(&format!(", {heard} heard and {unheard} not"));
        }
        if let Some(last) = &self.last {
            words.push_str(&after(last, steps));
        }
        words
    }
}

fn after((place, what): &(u32, String), steps: &[String]) -> String {
    format!(", after {what} {}", step(steps, *place))
}

fn step(steps: &[String], place: u32) -> String {
    match steps.get(place as usize) {
        Some(name) => name.clone(),
        None if steps.is_empty() => format!("step {}", place + 1),
        None => "the end".to_owned(),
    }
}
