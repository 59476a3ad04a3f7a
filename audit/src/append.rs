//! The room where entries become rows: leaf, chain and tree grow together, inside the writer's transaction.
//! Who enters: the writer, with the entries of a job that went well.
//! What leaves: their numbers; rows, nodes and tree state written but not yet committed.

use std::sync::Arc;

use crate::entry::Entry;
use crate::fault::SqlFault;
use crate::job::Settled;
use crate::leaf::{Hash, Leaf, genesis_chain, leaf_hash, next_chain, payload_commit};
use crate::merkle::Frontier;
use crate::outside::{Clock, Random};
use crate::tx::Session;

/// Bytes of one short field, so that a leaf stays far below the 65,535 bytes a tile can hold.
const FIELD_BYTES_MAX: usize = 1_024;
/// Bytes of one payload; longer evidence belongs in a table, with its hash in the payload.
const PAYLOAD_BYTES_MAX: usize = 256 * 1_024;
/// Nodes are stored at heights that are multiples of this: one row for each 256 below it.
pub(crate) const STORED_HEIGHTS: u32 = 8;
const SALTS: usize = 64;

/// Where the log ends: size and peaks of the tree, and the last chain value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tip {
    pub(crate) frontier: Frontier,
    pub(crate) chain: Hash,
}

impl Tip {
    pub(crate) fn genesis(origin: &str) -> Self {
        Self { frontier: Frontier::default(), chain: genesis_chain(origin) }
    }

    pub(crate) fn size(&self) -> u64 {
        self.frontier.size()
    }
}

/// Why entries were not appended.
pub(crate) enum NotAppended {
    /// Only this job is at fault: undo it and go on.
    Job(Settled),
    /// The transaction cannot go on.
    Fault(SqlFault),
}

impl From<SqlFault> for NotAppended {
    fn from(fault: SqlFault) -> Self {
        Self::Fault(fault)
    }
}

/// Turns entries into rows. Keeps the committed tip, and the one that will be true when the commit succeeds.
pub(crate) struct Appender {
    origin: String,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    committed: Tip,
    next: Tip,
    leaf: Vec<u8>,
    salts: Vec<[u8; 32]>,
}

impl Appender {
    pub(crate) fn new(origin: String, clock: Arc<dyn Clock>, random: Arc<dyn Random>, tip: Tip) -> Self {
        let next = tip.clone();
        Self {
            origin,
            clock,
            random,
            committed: tip,
            next,
            leaf: Vec::with_capacity(1_024),
            salts: Vec::new(),
        }
    }

    /// How many entries there will be when the open transaction commits.
    pub(crate) fn size(&self) -> u64 {
        self.next.size()
    }

    /// The transaction is durable.
    pub(crate) fn commit(&mut self) {
        self.committed.clone_from(&self.next);
    }

    /// The transaction was undone.
    pub(crate) fn undo(&mut self) {
        self.next.clone_from(&self.committed);
    }

    /// Appends the entries of one job and says the number of the first.
    pub(crate) fn append(
        &mut self,
        session: &Session,
        first: &Entry,
        rest: &[Entry],
    ) -> Result<u64, NotAppended> {
        let seq = self.next.size();
        // All bounds first: a job is appended whole or not at all.
        let payloads = std::iter::once(first).chain(rest).map(bounded_payload).collect::<Result<Vec<_>, _>>();
        let payloads = payloads.map_err(NotAppended::Job)?;
        while self.salts.len() < payloads.len() {
            self.draw_salts()?;
        }
        for (entry, payload) in std::iter::once(first).chain(rest).zip(&payloads) {
            let salt = self.salts.pop().unwrap_or_default();
            self.append_one(session, entry, payload, &salt)?;
        }
        Ok(seq)
    }

    fn append_one(
        &mut self,
        session: &Session,
        entry: &Entry,
        payload: &[u8],
        salt: &[u8; 32],
    ) -> Result<(), SqlFault> {
        let workspace = entry.workspace.as_ref().map_or("", |it| it.as_str());
        let leaf = Leaf {
            seq: self.next.size(),
            time_us: self.clock.unix_us(),
            origin: &self.origin,
            workspace,
            actor: &entry.actor,
            action: &entry.action,
            object: &entry.object,
            outcome: entry.outcome.as_str(),
            request_id: &entry.request_id,
            payload_commit: payload_commit(salt, payload),
            prev_chain: self.next.chain,
        };
        self.leaf.clear();
        leaf.encode(&mut self.leaf);
        let hash = leaf_hash(&self.leaf);
        self.next.chain = next_chain(&self.next.chain, &hash);
        insert_entry(session, &leaf, &self.leaf, salt, payload, &self.next.chain)?;
        let mut stored = Ok(());
        self.next.frontier.push(hash, |height, place, hash| {
            if height > 0 && height.is_multiple_of(STORED_HEIGHTS) && stored.is_ok() {
                stored = insert_node(session, height, place, hash);
            }
        });
        stored
    }

    /// Writes the end of the log; once per transaction, just before its commit.
    pub(crate) fn save_tip(&self, session: &Session) -> Result<(), SqlFault> {
        if self.next == self.committed {
            return Ok(());
        }
        save_tip(session, &self.next)
    }

    fn draw_salts(&mut self) -> Result<(), NotAppended> {
        let mut bytes = [0; 32 * SALTS];
        self.random.fill(&mut bytes).map_err(|_| NotAppended::Job(Settled::NoRandomness))?;
        self.salts.extend(bytes.as_chunks::<32>().0);
        Ok(())
    }
}

fn bounded_payload(entry: &Entry) -> Result<Vec<u8>, Settled> {
    let fields = [
        ("the actor", entry.actor.len()),
        ("the action", entry.action.len()),
        ("the object", entry.object.len()),
        ("the request id", entry.request_id.len()),
    ];
    for (field, bytes) in fields {
        if bytes > FIELD_BYTES_MAX {
            return Err(Settled::EntryTooLong { field, bytes, bytes_max: FIELD_BYTES_MAX });
        }
    }
    let payload = entry.detail.to_payload();
    match payload.len() {
        bytes if bytes > PAYLOAD_BYTES_MAX => {
            Err(Settled::EntryTooLong { field: "the detail", bytes, bytes_max: PAYLOAD_BYTES_MAX })
        }
        _ => Ok(payload),
    }
}

fn insert_entry(
    session: &Session,
    leaf: &Leaf<'_>,
    bytes: &[u8],
    salt: &[u8; 32],
    payload: &[u8],
    chain: &Hash,
) -> Result<(), SqlFault> {
    const INSERT: &str = "INSERT INTO entry (seq, time_us, workspace, actor, action, object, outcome, \
        request_id, leaf, salt, payload, chain) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";
    let mut insert = session.own(INSERT)?;
    insert.raw_bind_parameter(1, signed(leaf.seq))?;
    insert.raw_bind_parameter(2, signed(leaf.time_us))?;
    let texts = [leaf.workspace, leaf.actor, leaf.action, leaf.object, leaf.outcome, leaf.request_id];
    for (at, text) in texts.into_iter().enumerate() {
        insert.raw_bind_parameter(3 + at, text)?;
    }
    for (at, blob) in [bytes, salt, payload, chain].into_iter().enumerate() {
        insert.raw_bind_parameter(9 + at, blob)?;
    }
    insert.raw_execute()?;
    Ok(())
}

fn insert_node(session: &Session, height: u32, place: u64, hash: &Hash) -> Result<(), SqlFault> {
    let mut insert = session.own("INSERT INTO tree_node (height, place, hash) VALUES (?1, ?2, ?3)")?;
    insert.raw_bind_parameter(1, height)?;
    insert.raw_bind_parameter(2, signed(place))?;
    insert.raw_bind_parameter(3, &hash[..])?;
    insert.raw_execute()?;
    Ok(())
}

/// Writes the end of a log that has none yet.
pub(crate) fn begin_tip(session: &Session, tip: &Tip) -> Result<(), SqlFault> {
    put_tip(session, "INSERT INTO tree_state (size, chain, peaks, one) VALUES (?1, ?2, ?3, 1)", tip)
}

fn save_tip(session: &Session, tip: &Tip) -> Result<(), SqlFault> {
    put_tip(session, "UPDATE tree_state SET size = ?1, chain = ?2, peaks = ?3 WHERE one = 1", tip)
}

fn put_tip(session: &Session, sql: &'static str, tip: &Tip) -> Result<(), SqlFault> {
    let mut put = session.own(sql)?;
    put.raw_bind_parameter(1, signed(tip.size()))?;
    put.raw_bind_parameter(2, &tip.chain[..])?;
    put.raw_bind_parameter(3, tip.frontier.peaks().concat())?;
    match put.raw_execute()? {
        1 => Ok(()),
        // A log whose end is gone: what is appended to it would stand on nothing.
        _ => Err(SqlFault::Several),
    }
}

pub(crate) fn load_tip(session: &Session) -> Result<Option<Tip>, SqlFault> {
    tip_of(&mut *session.own(LOAD_TIP)?)
}

/// The same from a bare connection, for the verifier.
pub(crate) fn load_tip_of(conn: &rusqlite::Connection) -> Result<Option<Tip>, SqlFault> {
    tip_of(&mut conn.prepare(LOAD_TIP)?)
}

const LOAD_TIP: &str = "SELECT size, chain, peaks FROM tree_state WHERE one = 1";

fn tip_of(load: &mut rusqlite::Statement<'_>) -> Result<Option<Tip>, SqlFault> {
    let mut rows = load.raw_query();
    let Some(row) = rows.next()? else { return Ok(None) };
    let (size, chain, peaks): (i64, [u8; 32], Vec<u8>) = (row.get(0)?, row.get(1)?, row.get(2)?);
    let (peaks, _) = peaks.as_chunks::<32>();
    Ok(Frontier::from_peaks(size.cast_unsigned(), peaks.to_vec()).map(|frontier| Tip { frontier, chain }))
}

/// BIGINT is signed; times and numbers stay below its half for the next quarter of a million years.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
