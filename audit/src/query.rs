//! The reading desk: entries by filter, and single entries.
//! Who enters: the audit service and the sealing, inside a view.
//! What leaves: entries as they were written, found by an index of their workspace.

use rusqlite::Row as SqlRow;

use crate::append::signed;
use crate::entry::Workspace;
use crate::fault::SqlFault;
use crate::tx::View;

/// Entries in one answer, whatever was asked for.
const ENTRIES_MAX: u32 = 1_000;

/// Whose entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum EntryScope {
    /// Everyone's, and the appliance's own.
    #[default]
    Everything,
    /// One workspace's.
    Workspace(Workspace),
}

/// Which way to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EntryOrder {
    /// By rising number.
    #[default]
    OldestFirst,
    /// By falling number.
    NewestFirst,
}

/// Which entries to show.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EntryFilter {
    /// Whose.
    pub scope: EntryScope,
    /// Only this act.
    pub action: Option<String>,
    /// Only about this thing.
    pub object: Option<String>,
    /// Only by this actor.
    pub actor: Option<String>,
    /// Only of this request.
    pub request_id: Option<String>,
    /// Told at this time or later, in microseconds since 1970.
    pub since_us: Option<u64>,
    /// Told before this time.
    pub until_us: Option<u64>,
    /// Beyond this number, in the direction of reading: the cursor of the next page.
    pub after_seq: Option<u64>,
    /// Which way.
    pub order: EntryOrder,
    /// How many at most; never more than 1,000, and 1,000 when 0.
    pub limit: u32,
}

/// An entry as it stands in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEntry {
    /// Its number.
    pub seq: u64,
    /// When, as the machine told.
    pub time_us: u64,
    /// In which workspace; empty for the appliance.
    pub workspace: String,
    /// Who.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub object: String,
    /// How it ended: `done`, `denied` or `failed`.
    pub outcome: String,
    /// The request that caused it.
    pub request_id: String,
    /// The detail: one JSON object.
    pub payload: Vec<u8>,
    /// The salt of its commitment.
    pub salt: Vec<u8>,
    /// The leaf, verbatim.
    pub leaf: Vec<u8>,
    /// The chain value after it.
    pub chain: Vec<u8>,
}

macro_rules! page {
    ($from:literal, $order:literal) => {
        concat!(
            "SELECT seq, time_us, workspace, actor, action, object, outcome, request_id, payload, salt, leaf, chain \
             FROM entry ", $from,
            " AND (?2 IS NULL OR action = ?2) AND (?3 IS NULL OR object = ?3) AND (?4 IS NULL OR actor = ?4)
              AND (?5 IS NULL OR request_id = ?5) AND (?6 IS NULL OR time_us >= ?6) AND (?7 IS NULL OR time_us < ?7)
              AND seq > ?8 AND seq < ?9 ORDER BY seq ", $order, " LIMIT ?10"
        )
    };
}

macro_rules! pages {
    ($($name:ident = $from:literal;)+) => {$(
        const $name: [&str; 2] = [page!($from, "ASC"), page!($from, "DESC")];
    )+};
}

// One text for each index that can lead, so that a workspace's filter never scans another's entries.
pages! {
    EVERYTHING = "NOT INDEXED WHERE ?1 IS NULL";
    OF_WORKSPACE = "INDEXED BY entry_by_workspace WHERE workspace = ?1";
    BY_OBJECT = "INDEXED BY entry_by_object WHERE workspace = ?1 AND object = ?3";
    BY_ACTOR = "INDEXED BY entry_by_actor WHERE workspace = ?1 AND actor = ?4";
    BY_ACTION = "INDEXED BY entry_by_action WHERE workspace = ?1 AND action = ?2";
    BY_REQUEST = "INDEXED BY entry_by_request WHERE workspace = ?1 AND request_id = ?5 AND request_id <> ''";
}

/// Every text a filter can become, for the proof that none of a workspace's scans.
#[cfg(test)]
pub(crate) const OF_ONE_WORKSPACE: [[&str; 2]; 5] =
    [OF_WORKSPACE, BY_OBJECT, BY_ACTOR, BY_ACTION, BY_REQUEST];

/// Numbers between which a page lies, both exclusive.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    after: i64,
    before: i64,
}

impl EntryFilter {
    /// The text whose index leads to what is asked about.
    fn leading(&self) -> [&'static str; 2] {
        match (&self.request_id, &self.object, &self.actor, &self.action) {
            (Some(id), ..) if !id.is_empty() => BY_REQUEST,
            (_, Some(_), ..) => BY_OBJECT,
            (_, _, Some(_), _) => BY_ACTOR,
            (_, _, _, Some(_)) => BY_ACTION,
            _ => OF_WORKSPACE,
        }
    }

    fn in_order(&self, texts: [&'static str; 2]) -> &'static str {
        texts[usize::from(self.order == EntryOrder::NewestFirst)]
    }

    fn bounds(&self) -> Bounds {
        match (self.after_seq, self.order) {
            (None, _) => Bounds { after: -1, before: i64::MAX },
            (Some(seq), EntryOrder::OldestFirst) => Bounds { after: signed(seq), before: i64::MAX },
            (Some(seq), EntryOrder::NewestFirst) => Bounds { after: -1, before: signed(seq) },
        }
    }

    fn limit(&self) -> u32 {
        if self.limit == 0 { ENTRIES_MAX } else { self.limit.min(ENTRIES_MAX) }
    }

    /// Sorts what several workspaces gave, keeps one page, and narrows the bounds to what could still enter it.
    fn keep_page(&self, entries: &mut Vec<StoredEntry>, bounds: &mut Bounds) {
        match self.order {
            EntryOrder::OldestFirst => entries.sort_unstable_by_key(|entry| entry.seq),
            EntryOrder::NewestFirst => entries.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.seq)),
        }
        let limit = self.limit() as usize;
        entries.truncate(limit);
        let Some(last) = entries.get(limit - 1).map(|entry| signed(entry.seq)) else { return };
        match self.order {
            EntryOrder::OldestFirst => bounds.before = last,
            EntryOrder::NewestFirst => bounds.after = last,
        }
    }
}

impl View<'_> {
    /// Entries that pass the filter, in the asked order.
    pub fn entries(&self, filter: &EntryFilter) -> Result<Vec<StoredEntry>, SqlFault> {
        let (bounds, leading) = (filter.bounds(), filter.leading());
        match &filter.scope {
            EntryScope::Workspace(workspace) => self.page(leading, Some(workspace.as_str()), filter, bounds),
            EntryScope::Everything if leading == OF_WORKSPACE => self.page(EVERYTHING, None, filter, bounds),
            EntryScope::Everything => self.entries_across(leading, filter, bounds),
        }
    }

    /// One workspace after another by its index, rather than one scan over the entries of all: a rare actor among
    /// ten million entries is found as fast as a common one.
    fn entries_across(
        &self,
        leading: [&'static str; 2],
        filter: &EntryFilter,
        mut bounds: Bounds,
    ) -> Result<Vec<StoredEntry>, SqlFault> {
        let mut entries = Vec::new();
        for workspace in self.workspaces()? {
            entries.extend(self.page(leading, Some(&workspace), filter, bounds)?);
            filter.keep_page(&mut entries, &mut bounds);
        }
        Ok(entries)
    }

    /// Every workspace with an entry, and the empty one of the appliance; one step of the index each.
    fn workspaces(&self) -> Result<Vec<String>, SqlFault> {
        const NEXT: &str =
            "SELECT MIN(workspace) FROM entry INDEXED BY entry_by_workspace WHERE workspace > ?1";
        let mut workspaces = vec![String::new()];
        loop {
            let mut next = self.session.own(NEXT)?;
            next.raw_bind_parameter(1, workspaces.last())?;
            let mut rows = next.raw_query();
            let found: Option<String> = rows.next()?.map(|row| row.get(0)).transpose()?.flatten();
            match found {
                Some(workspace) => workspaces.push(workspace),
                None => return Ok(workspaces),
            }
        }
    }

    fn page(
        &self,
        texts: [&'static str; 2],
        workspace: Option<&str>,
        filter: &EntryFilter,
        bounds: Bounds,
    ) -> Result<Vec<StoredEntry>, SqlFault> {
        let mut page = self.session.own(filter.in_order(texts))?;
        page.raw_bind_parameter(1, workspace)?;
        let texts = [&filter.action, &filter.object, &filter.actor, &filter.request_id];
        for (at, text) in texts.into_iter().enumerate() {
            page.raw_bind_parameter(2 + at, text.as_deref())?;
        }
        page.raw_bind_parameter(6, filter.since_us.map(signed))?;
        page.raw_bind_parameter(7, filter.until_us.map(signed))?;
        page.raw_bind_parameter(8, bounds.after)?;
        page.raw_bind_parameter(9, bounds.before)?;
        page.raw_bind_parameter(10, filter.limit())?;
        let mut rows = page.raw_query();
        let mut entries = Vec::new();
        while let Some(row) = rows.next()? {
            entries.push(stored_entry(row)?);
        }
        Ok(entries)
    }

    /// One entry, of whichever workspace.
    pub fn entry(&self, seq: u64) -> Result<Option<StoredEntry>, SqlFault> {
        const ONE: &str = "SELECT seq, time_us, workspace, actor, action, object, outcome, request_id, payload, \
            salt, leaf, chain FROM entry WHERE seq = ?1";
        let mut one = self.session.own(ONE)?;
        one.raw_bind_parameter(1, signed(seq))?;
        let mut rows = one.raw_query();
        rows.next()?.map(stored_entry).transpose()
    }
}

fn stored_entry(row: &SqlRow<'_>) -> Result<StoredEntry, SqlFault> {
    Ok(StoredEntry {
        seq: row.get::<_, i64>(0)?.cast_unsigned(),
        time_us: row.get::<_, i64>(1)?.cast_unsigned(),
        workspace: row.get(2)?,
        actor: row.get(3)?,
        action: row.get(4)?,
        object: row.get(5)?,
        outcome: row.get(6)?,
        request_id: row.get(7)?,
        payload: row.get(8)?,
        salt: row.get(9)?,
        leaf: row.get(10)?,
        chain: row.get(11)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::BOUND_COLUMNS;
    use crate::schema;

    fn ledger() -> rusqlite::Connection {
        let conn = rusqlite::Connection::open_in_memory().unwrap();
        conn.execute_batch(schema::STEPS).unwrap();
        schema::LEDGER.migrations.iter().for_each(|script| conn.execute_batch(script).unwrap());
        conn
    }

    #[test]
    fn no_filter_of_a_workspace_scans_the_entries_of_others() {
        let conn = ledger();
        for sql in OF_ONE_WORKSPACE.concat() {
            let mut explain = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
            let mut rows = explain.raw_query();
            let mut lines = Vec::new();
            while let Some(row) = rows.next().unwrap() {
                lines.push(row.get::<_, String>(3).unwrap());
            }
            assert!(lines[0].starts_with("SEARCH entry USING INDEX entry_by_"), "{lines:?}");
            assert!(lines[0].contains("(workspace=?"), "{lines:?}");
            assert_eq!(lines.len(), 1, "no sorting either: {lines:?}");
        }
    }

    #[test]
    fn a_new_column_of_an_entry_must_be_bound_by_the_verifier_first() {
        let conn = ledger();
        let mut find = conn.prepare("SELECT name FROM pragma_table_info('entry')").unwrap();
        let columns: Vec<String> =
            find.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        assert_eq!(columns, BOUND_COLUMNS);
    }

    #[test]
    fn the_tables_refuse_what_no_code_should_try() {
        let conn = ledger();
        conn.execute_batch(
            "INSERT INTO schema_step VALUES ('ledger', 1, x'');
             INSERT INTO entry VALUES (0, 1, '', '', '', '', '', '', x'', x'', x'', x'');
             INSERT INTO tree_node VALUES (8, 0, x'');
             INSERT INTO tree_state VALUES (1, 5, x'', x'');
             INSERT INTO log VALUES (1, 'a');
             INSERT INTO anchor (k, size, note, before, after, tier, state) VALUES (1, 1, '', x'', x'', '', 'pending');
             UPDATE anchor SET state = 'confirmed';
             INSERT INTO anchor (k, size, note, before, after, tier, state) VALUES (2, 2, '', x'', x'', '', 'pending');
             INSERT INTO service_start (number, state) VALUES (1, 'pending');
             UPDATE service_start SET state = 'confirmed';
             INSERT INTO service_start (number, state) VALUES (2, 'pending');",
        )
        .unwrap();
        let replace = |row: &str| format!("INSERT OR REPLACE INTO {row}");
        let (row, anchor, start) = (
            "VALUES (0, 9, '', 'forged', '', '', '', '', x'', x'', x'', x'')",
            "anchor (k, size, note, before, after, tier, state) VALUES",
            "service_start (number, state) VALUES",
        );
        for (sql, why) in [
            ("UPDATE entry SET actor = 'x'".to_owned(), "an entry is never changed"),
            ("DELETE FROM entry".to_owned(), "an entry is never deleted"),
            (replace(&format!("entry {row}")), "an entry is never replaced"),
            (format!("REPLACE INTO entry {row}"), "an entry is never replaced"),
            (format!("INSERT OR IGNORE INTO entry {row}"), "an entry is never replaced"),
            (
                format!("INSERT INTO entry {row} ON CONFLICT (seq) DO UPDATE SET actor = 'x'"),
                "an entry is never replaced",
            ),
            (
                replace("entry SELECT seq, 7, '', '', '', '', '', '', x'', x'', x'', x'' FROM entry"),
                "an entry is never replaced",
            ),
            ("UPDATE OR REPLACE entry SET seq = 0".to_owned(), "an entry is never changed"),
            ("UPDATE tree_node SET place = 1".to_owned(), "a tree node is never changed"),
            ("DELETE FROM tree_node".to_owned(), "a tree node is never deleted"),
            (replace("tree_node VALUES (8, 0, x'01')"), "a tree node is never replaced"),
            ("UPDATE tree_state SET size = 4".to_owned(), "a log never shrinks"),
            ("DELETE FROM tree_state".to_owned(), "a log never ends"),
            (replace("tree_state VALUES (1, 4, x'', x'')"), "a log begins once"),
            ("UPDATE log SET origin = 'b'".to_owned(), "the origin of a log never changes"),
            ("DELETE FROM log".to_owned(), "the origin of a log is kept"),
            (replace("log VALUES (1, 'b')"), "the origin of a log never changes"),
            (
                "UPDATE anchor SET state = 'pending'".to_owned(),
                "an anchor changes once, from pending to confirmed",
            ),
            ("UPDATE anchor SET note = 'x'".to_owned(), "an anchor changes once, from pending to confirmed"),
            ("DELETE FROM anchor".to_owned(), "an anchor is never deleted"),
            (
                replace(&format!("{anchor} (1, 9, 'x', x'', x'', '', 'confirmed')")),
                "an anchor is never replaced",
            ),
            (
                replace(&format!("{anchor} (3, 9, 'x', x'', x'', '', 'pending')")),
                "an anchor is never replaced",
            ),
            (
                "UPDATE service_start SET counter = 9 WHERE number = 1".to_owned(),
                "a start changes once, from pending to confirmed",
            ),
            ("DELETE FROM service_start".to_owned(), "a start is never deleted"),
            (replace(&format!("{start} (1, 'confirmed')")), "a start is never replaced"),
            (replace(&format!("{start} (3, 'pending')")), "a start is never replaced"),
            ("UPDATE schema_step SET step = 2".to_owned(), "a step of the schema never changes"),
            ("DELETE FROM schema_step".to_owned(), "a step of the schema is never forgotten"),
            (replace("schema_step VALUES ('ledger', 1, x'01')"), "a step of the schema is never replaced"),
        ] {
            assert_eq!(conn.execute_batch(&sql).unwrap_err().to_string(), why, "{sql}");
        }
    }

    /// Each table of the ledger's own is held by the test above; a new one has to be added to both.
    #[test]
    fn every_table_of_the_ledger_refuses_to_lose_change_or_replace_a_row() {
        let conn = ledger();
        for table in schema::LEDGER.tables {
            for event in ["DELETE", "UPDATE", "INSERT"] {
                let guards: i64 = conn
                    .query_row(
                        "SELECT COUNT(*) FROM sqlite_master WHERE type = 'trigger' AND tbl_name = ?1 \
                         AND sql LIKE '% BEFORE ' || ?2 || ' ON %RAISE(ABORT%'",
                        [table.name, event],
                        |row| row.get(0),
                    )
                    .unwrap();
                assert_eq!(guards, 1, "{event} on `{}`", table.name);
            }
        }
    }
}
