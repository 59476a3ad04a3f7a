//! The log of each saga, its fan-out items and its inbox: what was tried, what came of it, what was heard.
//! Who enters: commits of the engine, each with the rows it adds.
//! What leaves: states to go on from, items still to do, signals not yet heard, pages for people.

use audit::{Row, SqlFault, Statement, Tx, View, params};

use super::SERVICE;
use super::columns::{big, count, micros, small};
use super::saga::Trouble;
use crate::ids::{Phase, SagaKey};

/// What a line of the log tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogKind {
    /// A call was ordered.
    Intent,
    /// A step, or an undo, was taken.
    Done,
    /// An attempt did not work.
    Failed,
    /// There was nothing to undo, or a person left it out.
    Skipped,
}

impl LogKind {
    /// The word in rows and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }

    fn from_word(word: &str) -> Option<Self> {
        [Self::Intent, Self::Done, Self::Failed, Self::Skipped].into_iter().find(|it| it.as_str() == word)
    }
}

/// A line to write.
#[derive(Clone, Debug)]
pub(crate) struct LogLine {
    pub(crate) step: usize,
    pub(crate) phase: Phase,
    pub(crate) kind: LogKind,
    pub(crate) attempt: u32,
    pub(crate) out_sealed: Option<Vec<u8>>,
    pub(crate) trouble: Option<Trouble>,
}

/// A line as it stands, without what is sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRow {
    /// Its place in the saga's log.
    pub seq: u64,
    /// Which step.
    pub step: usize,
    /// Forward, or back.
    pub phase: Phase,
    /// What it tells.
    pub kind: LogKind,
    /// At which attempt.
    pub attempt: u32,
    /// Why it did not work.
    pub error: Option<String>,
    /// When, in microseconds since 1970.
    pub at_us: u64,
    /// Which taking over of the saga wrote it. It never falls: an engine that was taken over from writes nothing more.
    pub epoch: i64,
}

pub(crate) static APPEND: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO saga_log (workspace, saga, seq, step, phase, kind, round, attempt, epoch, out_sealed, error_code, error, at_us)
     VALUES (?1, ?2, COALESCE((SELECT MAX(earlier.seq) FROM saga_log AS earlier WHERE earlier.workspace = ?1 AND earlier.saga = ?2), 0) + 1,
        ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
);
pub(crate) static OUTS: Statement = Statement::tenant(
    SERVICE,
    "SELECT step, out_sealed FROM saga_log
     WHERE workspace = ?1 AND saga = ?2 AND phase = 'do' AND kind = 'done' ORDER BY seq",
);
pub(crate) static PAGE: Statement = Statement::tenant(
    SERVICE,
    "SELECT seq, step, phase, kind, attempt, error, at_us, epoch FROM saga_log
     WHERE workspace = ?1 AND saga = ?2 AND seq > ?3 ORDER BY seq LIMIT ?4",
);
pub(crate) static BEGUN: Statement = Statement::tenant(
    SERVICE,
    "SELECT at_us FROM saga_log
     WHERE workspace = ?1 AND saga = ?2 AND step = ?3 AND round = ?4 AND phase = 'do' AND kind = 'intent'
     ORDER BY seq DESC LIMIT 1",
);
pub(crate) static LAST: Statement = Statement::tenant(
    SERVICE,
    "SELECT COALESCE(MAX(seq), 0) FROM saga_log WHERE workspace = ?1 AND saga = ?2",
);
pub(crate) static FORGET_LOG: Statement =
    Statement::tenant(SERVICE, "DELETE FROM saga_log WHERE workspace = ?1 AND saga = ?2");
pub(crate) static FORGET_ITEMS: Statement =
    Statement::tenant(SERVICE, "DELETE FROM saga_item WHERE workspace = ?1 AND saga = ?2");
pub(crate) static FORGET_SIGNALS: Statement =
    Statement::tenant(SERVICE, "DELETE FROM saga_signal WHERE workspace = ?1 AND saga = ?2");
pub(crate) static WIPE_LOG: Statement = Statement::tenant(
    SERVICE,
    "UPDATE saga_log SET out_sealed = NULL WHERE workspace = ?1 AND saga = ?2 AND out_sealed IS NOT NULL",
)
.erasing();
pub(crate) static ADD_ITEM: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO saga_item (workspace, saga, step, item, state, attempt) VALUES (?1, ?2, ?3, ?4, 'waiting', 0)
     ON CONFLICT (workspace, saga, step, item) DO NOTHING",
);
pub(crate) static ITEMS: Statement = Statement::tenant(
    SERVICE,
    "SELECT item, state, attempt, out_sealed FROM saga_item WHERE workspace = ?1 AND saga = ?2 AND step = ?3 ORDER BY item",
);
pub(crate) static SET_ITEM: Statement = Statement::tenant(
    SERVICE,
    "UPDATE saga_item SET state = ?5, attempt = ?6, out_sealed = ?7
     WHERE workspace = ?1 AND saga = ?2 AND step = ?3 AND item = ?4 AND state <> 'done'
        AND EXISTS (SELECT 1 FROM saga WHERE saga.workspace = ?1 AND saga.id = ?2 AND saga.epoch = ?8)",
);
pub(crate) static WIPE_ITEMS: Statement = Statement::tenant(
    SERVICE,
    "UPDATE saga_item SET out_sealed = NULL WHERE workspace = ?1 AND saga = ?2 AND out_sealed IS NOT NULL",
)
.erasing();
pub(crate) static ADD_SIGNAL: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO saga_signal (workspace, saga, seq, name, dedupe, actor, payload_sealed, consumed, at_us)
     VALUES (?1, ?2, COALESCE((SELECT MAX(earlier.seq) FROM saga_signal AS earlier WHERE earlier.workspace = ?1 AND earlier.saga = ?2), 0) + 1,
        ?3, ?4, ?5, ?6, 0, ?7)
     ON CONFLICT (workspace, saga, name, dedupe) DO NOTHING",
);
pub(crate) static INBOX: Statement = Statement::tenant(
    SERVICE,
    "SELECT seq, name, dedupe, actor, payload_sealed, at_us FROM saga_signal
     WHERE workspace = ?1 AND saga = ?2 AND consumed = 0 ORDER BY seq",
);
pub(crate) static INBOX_SIZE: Statement = Statement::tenant(
    SERVICE,
    "SELECT COUNT(*) FROM saga_signal WHERE workspace = ?1 AND saga = ?2 AND consumed = 0",
);
pub(crate) static CONSUME: Statement = Statement::tenant(
    SERVICE,
    "UPDATE saga_signal SET consumed = 1, payload_sealed = NULL WHERE workspace = ?1 AND saga = ?2 AND seq = ?3",
).erasing();
pub(crate) static WIPE_SIGNALS: Statement = Statement::tenant(
    SERVICE,
    "UPDATE saga_signal SET payload_sealed = NULL WHERE workspace = ?1 AND saga = ?2 AND payload_sealed IS NOT NULL",
).erasing();

pub(crate) fn append(
    tx: &Tx<'_>,
    key: &SagaKey,
    line: &LogLine,
    round: u32,
    epoch: i64,
    now_us: u64,
) -> Result<(), SqlFault> {
    let params = params![
        key.id.bytes(),
        big(line.step),
        line.phase.as_str(),
        line.kind.as_str(),
        round,
        line.attempt,
        epoch,
        line.out_sealed.as_ref(),
        line.trouble.as_ref().map(|it| it.code.as_str()),
        line.trouble.as_ref().map(|it| it.words.as_str()),
        big(now_us)
    ];
    tx.within(key.scope.rows()).run(&APPEND, params).map(drop)
}

/// A step, and the sealed state it left behind.
type SealedOut = (usize, Option<Vec<u8>>);

/// The sealed states that steps left behind, in the order of the log: of a step taken twice the later one counts.
pub(crate) fn outs(view: &View<'_>, key: &SagaKey) -> Result<Vec<SealedOut>, SqlFault> {
    view.within(key.scope.rows())
        .all(&OUTS, params![key.id.bytes()], |row| Ok((count(row, 0)?, row.blob_or_null(1)?)))
}

pub(crate) fn log_page(
    view: &View<'_>,
    key: &SagaKey,
    after: u64,
    rows_max: usize,
) -> Result<Vec<LogRow>, SqlFault> {
    view.within(key.scope.rows()).all(&PAGE, params![key.id.bytes(), big(after), big(rows_max)], |row| {
        Ok(LogRow {
            seq: micros(row, 0)?,
            step: count(row, 1)?,
            phase: if row.text(2)? == "do" { Phase::Do } else { Phase::Undo },
            kind: LogKind::from_word(&row.text(3)?).ok_or(SqlFault::Malformed { column: 3 })?,
            attempt: small(row, 4)?,
            error: row.text_or_null(5)?,
            at_us: micros(row, 6)?,
            epoch: row.integer(7)?,
        })
    })
}

/// When a step that is open for long was opened.
pub(crate) fn begun_us(
    view: &View<'_>,
    key: &SagaKey,
    step: usize,
    round: u32,
) -> Result<Option<u64>, SqlFault> {
    let params = params![key.id.bytes(), big(step), round];
    view.within(key.scope.rows()).one(&BEGUN, params, |row| micros(row, 0))
}

/// Nothing secret outlives the saga: states, items and signals lose their sealed bytes.
pub(crate) fn wipe(tx: &Tx<'_>, key: &SagaKey, items: bool, signals: bool) -> Result<(), SqlFault> {
    let within = tx.within(key.scope.rows());
    within.run(&WIPE_LOG, params![key.id.bytes()])?;
    if items {
        within.run(&WIPE_ITEMS, params![key.id.bytes()])?;
    }
    if signals {
        within.run(&WIPE_SIGNALS, params![key.id.bytes()])?;
    }
    Ok(())
}

/// How far one item of a fan-out is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ItemState {
    Waiting,
    Ordered,
    Done,
}

/// One item of a fan-out.
#[derive(Clone, Debug)]
pub(crate) struct ItemRow {
    pub(crate) item: usize,
    pub(crate) state: ItemState,
    pub(crate) attempt: u32,
    pub(crate) out_sealed: Option<Vec<u8>>,
}

impl ItemState {
    fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Ordered => "ordered",
            Self::Done => "done",
        }
    }
}

pub(crate) fn add_items(tx: &Tx<'_>, key: &SagaKey, step: usize, items: usize) -> Result<(), SqlFault> {
    let within = tx.within(key.scope.rows());
    (0..items)
        .try_for_each(|item| within.run(&ADD_ITEM, params![key.id.bytes(), big(step), big(item)]).map(drop))
}

pub(crate) fn items(view: &View<'_>, key: &SagaKey, step: usize) -> Result<Vec<ItemRow>, SqlFault> {
    view.within(key.scope.rows()).all(&ITEMS, params![key.id.bytes(), big(step)], |row| {
        let state = match row.text(1)?.as_str() {
            "waiting" => ItemState::Waiting,
            "ordered" => ItemState::Ordered,
            "done" => ItemState::Done,
            _ => return Err(SqlFault::Malformed { column: 1 }),
        };
        Ok(ItemRow { item: count(row, 0)?, state, attempt: small(row, 2)?, out_sealed: row.blob_or_null(3)? })
    })
}

/// Moves one item on, if the saga is still this engine's and the item not done.
pub(crate) fn set_item(
    tx: &Tx<'_>,
    key: &SagaKey,
    step: usize,
    row: &ItemRow,
    epoch: i64,
) -> Result<bool, SqlFault> {
    let params = params![
        key.id.bytes(),
        big(step),
        big(row.item),
        row.state.as_str(),
        row.attempt,
        row.out_sealed.as_ref(),
        epoch
    ];
    Ok(tx.within(key.scope.rows()).run(&SET_ITEM, params)? == 1)
}

/// A signal in the inbox.
#[derive(Clone, Debug)]
pub(crate) struct SignalRow {
    pub(crate) seq: i64,
    pub(crate) name: String,
    pub(crate) dedupe: String,
    pub(crate) actor: String,
    pub(crate) payload_sealed: Option<Vec<u8>>,
    pub(crate) at_us: u64,
}

/// Puts a signal into the inbox; says whether it is a new one.
pub(crate) fn add_signal(tx: &Tx<'_>, key: &SagaKey, row: &SignalRow) -> Result<bool, SqlFault> {
    let params = params![
        key.id.bytes(),
        row.name.as_str(),
        row.dedupe.as_str(),
        row.actor.as_str(),
        row.payload_sealed.as_ref(),
        big(row.at_us)
    ];
    Ok(tx.within(key.scope.rows()).run(&ADD_SIGNAL, params)? == 1)
}

pub(crate) fn inbox(view: &View<'_>, key: &SagaKey) -> Result<Vec<SignalRow>, SqlFault> {
    view.within(key.scope.rows()).all(&INBOX, params![key.id.bytes()], signal_row)
}

pub(crate) fn inbox_size(view: &View<'_>, key: &SagaKey) -> Result<i64, SqlFault> {
    let size =
        view.within(key.scope.rows()).one(&INBOX_SIZE, params![key.id.bytes()], |row| row.integer(0))?;
    Ok(size.unwrap_or_default())
}

pub(crate) fn consume(tx: &Tx<'_>, key: &SagaKey, seq: i64) -> Result<(), SqlFault> {
    tx.within(key.scope.rows()).run(&CONSUME, params![key.id.bytes(), seq]).map(drop)
}

fn signal_row(row: &Row<'_>) -> Result<SignalRow, SqlFault> {
    Ok(SignalRow {
        seq: row.integer(0)?,
        name: row.text(1)?,
        dedupe: row.text(2)?,
        actor: row.text(3)?,
        payload_sealed: row.blob_or_null(4)?,
        at_us: micros(row, 5)?,
    })
}
