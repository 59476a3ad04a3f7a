//! Promises about bounds and doors: full queues, batches with a bad apple, migrations that were edited, files let go.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

mod common;

use std::sync::mpsc;

use audit::{
    Entry, Ledger, OpenRefused, ReadRefused, Schema, SchemaRefused, SqlFault, Statement, Table, Told,
    WriteRefused, params,
};
use common::{ADD, House, TOUCH, workspace};

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
