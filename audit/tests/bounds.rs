//! Promises about bounds and doors: full queues, batches with a bad apple, migrations that were edited, files let go.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

mod common;

use std::sync::mpsc;

use std::sync::Arc;
use std::time::Duration;

use audit::double::{Call, Failing, MemoryAnchor};
use audit::{
    Anchor, Answer, Attestation, Entry, HardwareFault, Ledger, OpenRefused, ReadRefused, Reading, Schema,
    SchemaRefused, Sealing, SqlFault, Statement, Step, Table, Tier, Told, WriteRefused, params,
};
use common::sealed::Sealed;
use common::{ADD, House, TOUCH, workspace};
use tokio::sync::Notify;

/// Holds the writer inside a closure until the returned end is dropped or told to go on.
async fn hold_writer(ledger: &Ledger) -> (mpsc::Sender<()>, tokio::task::JoinHandle<()>) {
    let (go, wait) = mpsc::channel::<()>();
    let (entered, inside) = tokio::sync::oneshot::channel();
    let (mut entered, ledger) = (Some(entered), ledger.clone());
    let held = tokio::spawn(async move {
        let work = move |_: &mut audit::Tx<'_>| {
            entered.take().map(|entered| entered.send(()));
            let _ = wait.recv();
            Ok::<_, SqlFault>(())
        };
        ledger.write_unaudited("holds the writer for a test", work).await.unwrap();
    });
    inside.await.unwrap();
    (go, held)
}

fn add(
    ledger: &Ledger,
    id: &str,
    fail: bool,
) -> tokio::task::JoinHandle<Result<u64, WriteRefused<SqlFault>>> {
    let (ledger, id) = (ledger.clone(), id.to_owned());
    tokio::spawn(async move {
        let work = move |tx: &mut audit::Tx<'_>| {
            tx.within(&workspace("a")).run(&ADD, params![&id, 1])?;
            if fail { Err(SqlFault::Several) } else { Ok(Told::new((), Entry::new("note.add").object(&id))) }
        };
        ledger.write(work).await.map(|recorded| recorded.seq())
    })
}

async fn queued(ledger: &Ledger, count: usize) {
    while ledger.health().queued_writes < count {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_loses_nothing_it_took() {
    let house = House::new();
    let ledger = house.try_open(|options| options.limits.queue_writes_max = 2).unwrap();
    let (go, held) = hold_writer(&ledger).await;
    let taken = [add(&ledger, "one", false), add(&ledger, "two", false)];
    queued(&ledger, 2).await;
    let refused = add(&ledger, "three", false).await.unwrap();
    assert!(matches!(refused, Err(WriteRefused::Overloaded)), "{refused:?}");
    go.send(()).unwrap();
    held.await.unwrap();
    for write in taken {
        write.await.unwrap().unwrap();
    }
    assert_eq!(house.count(&ledger, "a").await, 2);
}

#[tokio::test]
async fn one_batch_is_one_commit_and_a_bad_apple_in_it_spoils_only_itself() {
    let house = House::new();
    let ledger = house.open();
    let (go, held) = hold_writer(&ledger).await;
    let commits = ledger.health().commits;
    let mut writes = Vec::new();
    for (n, (id, fail)) in [("one", false), ("two", true), ("three", false), ("one", false), ("five", false)]
        .into_iter()
        .enumerate()
    {
        writes.push(add(&ledger, id, fail));
        queued(&ledger, n + 1).await;
    }
    go.send(()).unwrap();
    held.await.unwrap();
    let mut told = Vec::new();
    for write in writes {
        told.push(write.await.unwrap());
    }
    assert!(
        matches!(told[..], [Ok(0), Err(WriteRefused::Rejected(SqlFault::Several)), Ok(1), Err(_), Ok(2)]),
        "{told:?}"
    );
    let Err(WriteRefused::Rejected(duplicate)) = &told[3] else { panic!("{told:?}") };
    assert!(duplicate.is_duplicate(), "it saw the row of the job before it in the same batch");
    assert_eq!(ledger.health().commits, commits + 2, "one for the holder, one for the batch");
    assert_eq!((house.count(&ledger, "a").await, ledger.health().entries), (3, 3));
}

#[tokio::test]
async fn a_closure_that_swallows_its_fault_does_not_hide_it() {
    let house = House::new();
    let ledger = house.open();
    house.add(&ledger, "a", "one").await;
    let work = |tx: &mut audit::Tx<'_>| {
        let swallowed = tx.within(&workspace("a")).run(&ADD, params!["one", 1]);
        assert!(swallowed.is_err());
        let touched = tx.within(&workspace("a")).run(&TOUCH, params!["one", 9])?;
        Ok::<_, SqlFault>(Told::new(touched, Entry::new("note.touch")))
    };
    assert_eq!(ledger.write(work).await.unwrap().into_value(), 1);
}

#[tokio::test]
async fn a_panicking_reader_serves_the_next_read() {
    let house = House::new();
    let ledger = house.open();
    for _ in 0..8 {
        let panicked = ledger.read(|_| -> Result<(), SqlFault> { panic!("on purpose") }).await;
        assert!(matches!(panicked, Err(ReadRefused::Panicked)));
    }
    assert_eq!(house.count(&ledger, "a").await, 0);
}

#[tokio::test]
async fn a_closed_ledger_finishes_what_it_took_and_takes_nothing_more() {
    let house = House::new();
    let ledger = house.open();
    let (go, held) = hold_writer(&ledger).await;
    let taken = add(&ledger, "one", false);
    queued(&ledger, 1).await;
    let closing = tokio::spawn(ledger.clone().close());
    tokio::task::yield_now().await;
    go.send(()).unwrap();
    closing.await.unwrap();
    held.await.unwrap();
    assert_eq!(taken.await.unwrap().unwrap(), 0);
    assert!(matches!(add(&ledger, "two", false).await.unwrap(), Err(WriteRefused::Closed)));
    assert_eq!(house.count(&house.open(), "a").await, 1);
}

#[tokio::test]
async fn a_closed_ledger_is_one_whole_file_that_may_be_copied() {
    let house = House::new();
    let ledger = house.open();
    house.add(&ledger, "a", "one").await;
    assert_eq!(house.count(&ledger, "a").await, 1);
    ledger.close().await;
    let mut log = house.path().into_os_string();
    log.push("-wal");
    assert!(!std::path::Path::new(&log).exists(), "a part of the ledger stayed in the write-ahead log");
}

#[tokio::test]
async fn a_ledger_that_is_only_dropped_lets_go_of_its_file() {
    let house = House::new();
    let ledger = house.open();
    house.add(&ledger, "a", "one").await;
    drop(ledger);
    let again = loop {
        match house.try_open(|_| {}) {
            Ok(ledger) => break ledger,
            Err(OpenRefused::InUse { .. }) => tokio::task::yield_now().await,
            Err(other) => panic!("{other:?}"),
        }
    };
    assert_eq!(again.health().entries, 1);
}

const MAKE: &[&str] = &["CREATE TABLE box (id TEXT PRIMARY KEY)"];
const GROWN: &[&str] = &["CREATE TABLE box (id TEXT PRIMARY KEY)", "ALTER TABLE box ADD COLUMN size BIGINT"];
const BOX: &[Table] = &[Table { name: "box", tenant: false }];

fn schema(tables: &'static [Table], migrations: &'static [&'static str]) -> &'static Schema {
    Box::leak(Box::new(Schema { service: "boxes", tables, migrations, statements: &[] }))
}

fn opened(house: &House, schema: &'static Schema) -> Result<Ledger, OpenRefused> {
    house.try_open(|options| options.schemas = vec![schema])
}

#[tokio::test]
async fn a_released_migration_that_was_edited_or_is_gone_stops_the_opening() {
    let house = House::new();
    opened(&house, schema(BOX, MAKE)).unwrap().close().await;
    opened(&house, schema(BOX, GROWN)).unwrap().close().await;
    let refused = opened(&house, schema(BOX, MAKE)).unwrap_err();
    assert!(matches!(refused, OpenRefused::MigrationChanged { service: "boxes", step: 2 }), "{refused}");
    let refused = opened(&house, schema(BOX, &["CREATE TABLE box (id TEXT)"])).unwrap_err();
    assert!(matches!(refused, OpenRefused::MigrationChanged { service: "boxes", step: 1 }), "{refused}");
}

#[tokio::test]
async fn a_ledger_of_the_first_schema_gets_the_later_steps_and_goes_on() {
    let house = House::new();
    let ledger = house.open();
    house.add(&ledger, "a", "one").await;
    ledger.close().await;
    // Back to how the first release left it: its step alone, and none of the triggers of later ones.
    let conn = rusqlite::Connection::open(house.path()).unwrap();
    let later: Vec<String> = {
        let mut find = conn.prepare("SELECT name FROM sqlite_master WHERE name LIKE '%_once'").unwrap();
        find.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    assert_eq!(later.len(), 7, "{later:?}");
    let mut undo: String = later.iter().map(|name| format!("DROP TRIGGER {name};")).collect();
    undo += "DROP TRIGGER schema_step_is_kept; DROP TRIGGER schema_step_is_fixed;
        DELETE FROM schema_step WHERE service = 'ledger' AND step > 1";
    conn.execute_batch(&undo).unwrap();
    const REPLACE: &str = "INSERT OR REPLACE INTO entry SELECT seq, time_us, workspace, 'forged', action, object, \
        outcome, request_id, leaf, salt, payload, chain FROM entry WHERE seq = 0";
    conn.execute_batch("BEGIN").unwrap();
    conn.execute_batch(REPLACE).unwrap();
    conn.execute_batch("ROLLBACK").unwrap();
    drop(conn);
    let ledger = house.open();
    house.add(&ledger, "a", "two").await;
    assert_eq!((house.count(&ledger, "a").await, ledger.health().entries), (2, 2));
    // With the ledger running, and over a connection of the attacker's own.
    let conn = rusqlite::Connection::open(house.path()).unwrap();
    assert_eq!(conn.execute_batch(REPLACE).unwrap_err().to_string(), "an entry is never replaced");
    ledger.close().await;
}

#[tokio::test]
async fn a_migration_makes_only_the_tables_its_service_declared() {
    for script in [
        &["CREATE TABLE other (id TEXT PRIMARY KEY)"],
        &["DROP TABLE anchor"],
        &["DELETE FROM entry"],
        &["CREATE TABLE box (id TEXT PRIMARY KEY); UPDATE log SET origin = 'mine'"],
        &["PRAGMA writable_schema = ON"],
        &["ATTACH '/tmp/elsewhere.db' AS elsewhere"],
    ] {
        let refused = opened(&House::new(), schema(BOX, script)).unwrap_err();
        assert!(
            matches!(refused, OpenRefused::Statement { service: "boxes", .. }),
            "{script:?}: {refused:?}"
        );
    }
}

#[tokio::test]
async fn schemas_that_contradict_each_other_stop_the_opening() {
    static OF_NOTES: Statement = Statement::appliance("notes", "SELECT 1 FROM box");
    static LISTED: Schema =
        Schema { service: "boxes", tables: BOX, migrations: MAKE, statements: &[&OF_NOTES] };
    static SHARED: Schema = Schema {
        service: "boxes",
        tables: &[Table { name: "note", tenant: true }],
        migrations: &[],
        statements: &[],
    };
    static LEDGER: Schema = Schema { service: "ledger", tables: &[], migrations: &[], statements: &[] };
    static LATE: Schema = Schema {
        service: "boxes",
        tables: BOX,
        migrations: &["CREATE TABLE box (id TEXT REFERENCES box (id) DEFERRABLE INITIALLY DEFERRED)"],
        statements: &[],
    };
    let refused =
        |schema: &'static Schema| match House::new().try_open(|options| options.schemas.push(schema)) {
            Err(OpenRefused::Schema(refused)) => refused,
            other => panic!("{other:?}"),
        };
    assert!(matches!(
        refused(&LISTED),
        SchemaRefused::ForeignStatement { schema: "boxes", service: "notes", .. }
    ));
    assert_eq!(
        refused(&SHARED),
        SchemaRefused::SharedTable { table: "note", first: "notes", second: "boxes" }
    );
    assert_eq!(refused(&LEDGER), SchemaRefused::Twice { service: "ledger", what: "ledger" });
    assert_eq!(refused(&LATE), SchemaRefused::Deferred { service: "boxes" });
}

#[test]
fn an_origin_that_no_log_can_have_is_refused() {
    for origin in ["", "https://a.example/audit", "a b", "a+b", "a\nb"] {
        let refused = House::new().try_open(|options| options.origin = origin.into()).unwrap_err();
        assert!(matches!(refused, OpenRefused::BadOrigin(_)), "{origin:?}");
    }
}

/// An anchor that, asked for its word about a step, says so and waits: what is done until then is done between the
/// step and its confirmation.
struct Pausing {
    inner: MemoryAnchor,
    asked: Notify,
    go_on: Notify,
}

impl Pausing {
    fn over(inner: &MemoryAnchor) -> Arc<Self> {
        Arc::new(Self { inner: inner.clone(), asked: Notify::new(), go_on: Notify::new() })
    }
}

impl Anchor for Pausing {
    fn tier(&self) -> Tier {
        self.inner.tier()
    }
    fn read(&self) -> Answer<'_, Reading> {
        self.inner.read()
    }
    fn advance(&self, step: Step) -> Answer<'_, ()> {
        self.inner.advance(step)
    }
    fn attest(&self, qualifying: [u8; 32]) -> Answer<'_, Option<Attestation>> {
        Box::pin(async move {
            self.asked.notify_one();
            self.go_on.notified().await;
            self.inner.attest(qualifying).await
        })
    }
    fn count_start(&self) -> Answer<'_, Option<u64>> {
        self.inner.count_start()
    }
}

#[tokio::test]
async fn an_entry_that_shares_a_commit_with_a_seal_waits_for_the_next_seal() {
    let sealed = Sealed::new(Tier::TpmNv);
    let (ledger, sealing) = sealed.start().await;
    drop(sealing);
    let anchor = Pausing::over(&sealed.anchor);
    let sealing = Arc::new(Sealing::new(ledger.clone(), sealed.sealer.clone(), Some(anchor.clone())));
    let seal = || {
        let sealing = sealing.clone();
        tokio::spawn(async move { sealing.seal().await.unwrap().size })
    };
    sealed.house.add(&ledger, "a", "before").await;
    let first = seal();
    anchor.asked.notified().await;
    let (go, held) = hold_writer(&ledger).await;
    anchor.go_on.notify_one();
    queued(&ledger, 1).await;
    sealed.house.clock.set(1_700_000_010_000_000);
    let beside = add(&ledger, "beside", false);
    queued(&ledger, 2).await;
    let commits = ledger.health().commits;
    go.send(()).unwrap();
    held.await.unwrap();
    assert_eq!((beside.await.unwrap().unwrap(), first.await.unwrap()), (3, 2));
    assert_eq!(ledger.health().commits, commits + 2, "the holder's commit, and one for seal and entry");
    sealed.house.clock.set(1_700_000_013_000_000);
    let health = ledger.health();
    assert_eq!((health.unanchored_rows, health.unanchored_for), (1, Duration::from_secs(3)));
    let next = seal();
    anchor.asked.notified().await;
    anchor.go_on.notify_one();
    assert_eq!(next.await.unwrap(), 4, "the next seal covers it");
    let health = ledger.health();
    assert_eq!((health.unanchored_rows, health.unanchored_for), (0, Duration::ZERO));
}

#[tokio::test]
async fn an_entry_written_while_a_seal_is_made_keeps_its_age() {
    let sealed = Sealed::new(Tier::TpmNv);
    let (ledger, sealing) = sealed.start().await;
    sealed.anchor.fail(Call::Advance, Failing::Before);
    sealing.seal().await.unwrap_err();
    sealed.house.clock.set(1_700_000_010_000_000);
    sealed.house.add(&ledger, "a", "meanwhile").await;
    sealed.house.clock.set(1_700_000_070_000_000);
    // The first step is taken and confirmed, and then the hardware is gone: what came meanwhile is a minute old.
    sealed.anchor.fail(Call::Advance, Failing::After);
    let refused = sealing.seal().await.unwrap_err();
    assert!(matches!(refused, audit::SealRefused::Hardware(HardwareFault::OutcomeUnknown(_))), "{refused:?}");
    sealed.anchor.fail(Call::Advance, Failing::Before);
    sealing.seal().await.unwrap_err();
    let health = ledger.health();
    assert_eq!((health.unanchored_rows, health.unanchored_for), (2, Duration::from_secs(60)));
}

/// A read that tells what `seen` saw when its snapshot was open, and then holds it until told to go on.
fn hold_snapshot<T: Send + 'static>(
    ledger: &Ledger,
    seen: impl FnOnce() -> T + Send + 'static,
) -> (mpsc::Sender<()>, tokio::sync::oneshot::Receiver<T>, tokio::task::JoinHandle<()>) {
    let (go, wait) = mpsc::channel::<()>();
    let (entered, inside) = tokio::sync::oneshot::channel();
    let ledger = ledger.clone();
    let held = tokio::spawn(async move {
        let work = move |view: &audit::View<'_>| {
            view.size()?;
            let _ = entered.send(seen());
            let _ = wait.recv();
            Ok::<_, SqlFault>(())
        };
        ledger.read(work).await.unwrap();
    });
    (go, inside, held)
}

/// A ledger whose write-ahead log is bounded at a quarter of a MiB, and waits for its readers as long as they take.
fn narrow(house: &House) -> Ledger {
    let adjust = |options: &mut audit::LedgerOptions| {
        options.limits.wal_bytes_max = 1 << 18;
        options.limits.wal_readers_wait_max = Duration::from_secs(u64::from(u32::MAX));
    };
    house.try_open(adjust).unwrap()
}

/// Writes one by one until the log is as long as asked; the next write may find its writer waiting for readers.
async fn grow_wal(house: &House, ledger: &Ledger, bytes: u64, round: usize) {
    for n in 0.. {
        if ledger.health().wal_bytes >= bytes {
            return;
        }
        house.add(ledger, "a", &format!("{round}-{n}")).await;
    }
}

#[tokio::test]
async fn the_write_ahead_log_begins_anew_between_reads_that_overlap_for_ever() {
    const BOUND: u64 = 1 << 18;
    let house = House::new();
    let ledger = narrow(&house);
    let (mut go, inside, mut held) = hold_snapshot(&ledger, || ());
    inside.await.unwrap();
    for round in 0..4 {
        // Some snapshot is open at every moment: the next one is asked for before the one before it ends.
        grow_wal(&house, &ledger, BOUND, round).await;
        assert!(ledger.health().wal_bytes < 2 * BOUND, "{:?}", ledger.health());
        // Nobody folds the log as long as this snapshot is open, so the writer asks for a moment without any.
        while !ledger.health().reads_held_back {
            tokio::task::yield_now().await;
        }
        let asked = ledger.clone();
        let next = hold_snapshot(&ledger, move || asked.health().wal_restarts);
        go.send(()).unwrap();
        held.await.unwrap();
        let restarts = next.1.await.unwrap();
        assert_eq!(restarts, round as u64 + 1, "the next snapshot was opened before the log was begun anew");
        (go, held) = (next.0, next.2);
        house.add(&ledger, "b", &round.to_string()).await;
        assert!(ledger.health().wal_bytes < BOUND / 4, "{:?}", ledger.health());
    }
    go.send(()).unwrap();
    held.await.unwrap();
    ledger.close().await;
}

#[tokio::test]
async fn a_read_that_does_not_end_holds_up_neither_writes_nor_other_reads() {
    let house = House::new();
    let adjust = |options: &mut audit::LedgerOptions| {
        options.limits.wal_bytes_max = 1 << 18;
        options.limits.wal_readers_wait_max = Duration::ZERO;
    };
    let ledger = house.try_open(adjust).unwrap();
    let (go, inside, held) = hold_snapshot(&ledger, || ());
    inside.await.unwrap();
    grow_wal(&house, &ledger, 1 << 20, 0).await;
    assert_eq!(ledger.health().wal_restarts, 0);
    assert!(house.count(&ledger, "a").await > 0);
    go.send(()).unwrap();
    held.await.unwrap();
    ledger.close().await;
}

/// A shelf that stops at two of its files, tells of it, and waits until told to go on.
struct Stopping {
    at: &'static [&'static str],
    reached: mpsc::Sender<()>,
    go_on: mpsc::Receiver<()>,
}

impl audit::export::Shelf for Stopping {
    fn put(&mut self, name: &str, _: &[u8]) -> std::io::Result<()> {
        if self.at.contains(&name) {
            self.reached.send(()).unwrap();
            self.go_on.recv().unwrap();
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_write_ahead_log_begins_anew_while_an_export_runs() {
    let house = House::new();
    let ledger = narrow(&house);
    let sealer = Arc::new(audit::double::MemorySealer::new(common::sealed::ORIGIN));
    let sealing = Sealing::new(ledger.clone(), sealer.clone(), None);
    for n in 0..1_800 {
        house.add(&ledger, "c", &n.to_string()).await;
    }
    sealing.seal().await.unwrap();
    let ((reached, arrived), (go_on, waits)) = (mpsc::channel(), mpsc::channel());
    let shelf = Stopping { at: &["tile/entries/000", "tile/entries/005"], reached, go_on: waits };
    let exporting = {
        let (ledger, keys) = (ledger.clone(), audit::Sealer::keys(&*sealer).to_vec());
        let wanted = audit::export::Wanted::default();
        tokio::spawn(async move { audit::export::export(&ledger, &keys, wanted, shelf).await.map(drop) })
    };
    let arrived = Arc::new(std::sync::Mutex::new(arrived));
    let arrival = || {
        let arrived = arrived.clone();
        tokio::task::spawn_blocking(move || arrived.lock().unwrap().recv().unwrap())
    };
    arrival().await.unwrap();
    let before = ledger.health().wal_restarts;
    // Writes until the writer itself waits for the export's snapshot to end.
    let writing = {
        let ledger = ledger.clone();
        tokio::spawn(async move {
            for n in 0.. {
                let _ = add(&ledger, &format!("meanwhile-{n}"), false).await;
            }
        })
    };
    while !ledger.health().reads_held_back {
        tokio::task::yield_now().await;
    }
    go_on.send(()).unwrap();
    arrival().await.unwrap();
    writing.abort();
    let restarts = ledger.health().wal_restarts;
    assert!(restarts > before, "the export holds one snapshot from beginning to end");
    go_on.send(()).unwrap();
    exporting.await.unwrap().unwrap();
    drop(sealing);
    ledger.close().await;
}
