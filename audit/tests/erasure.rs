//! Promises about what is erased: it is gone from the bytes of the files, the write-ahead log's included.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

mod common;

use std::path::Path;
use std::time::Duration;

use audit::{Entry, Ledger, Schema, SqlFault, Statement, Table, Told, params};
use common::House;

static PUT: Statement = Statement::appliance("safe", "INSERT INTO safe (id, secret) VALUES (?1, ?2)");
static WIPE: Statement = Statement::appliance("safe", "UPDATE safe SET secret = x'' WHERE id = ?1").erasing();
static DROP: Statement = Statement::appliance("safe", "DELETE FROM safe WHERE id = ?1").erasing();
static SAFE: Schema = Schema {
    service: "safe",
    tables: &[Table { name: "safe", tenant: false }],
    migrations: &["CREATE TABLE safe (id TEXT NOT NULL PRIMARY KEY, secret BLOB NOT NULL)"],
    statements: &[&PUT, &WIPE, &DROP],
};

/// No two pieces of it are alike, so that any piece found is one of it.
fn secret(len: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) | 1;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    })
    .take(len)
    .collect()
}

/// How many pieces of 16 bytes of the secret stand in the ledger's files.
fn pieces_left(path: &Path, secret: &[u8]) -> usize {
    let mut wal = path.as_os_str().to_owned();
    wal.push("-wal");
    let files = [std::fs::read(path).unwrap(), std::fs::read(wal).unwrap_or_default()].concat();
    let whole = secret.chunks_exact(16);
    whole.filter(|piece| files.windows(16).any(|window| window == *piece)).count()
}

async fn run(ledger: &Ledger, statement: &'static Statement, id: &'static str, value: Option<Vec<u8>>) {
    let work = move |tx: &mut audit::Tx<'_>| {
        match &value {
            Some(value) => tx.run(statement, params![id, value.as_slice()])?,
            None => tx.run(statement, params![id])?,
        };
        Ok::<_, SqlFault>(Told::new((), Entry::new("safe.changed").object(id)))
    };
    ledger.write(work).await.unwrap();
}

#[tokio::test]
async fn what_is_erased_is_gone_from_database_and_log() {
    let house = House::new();
    let ledger = house.try_open(|options| options.schemas = vec![&SAFE]).unwrap();
    // One that fits a page, and one that takes pages of its own.
    let (small, large) = (secret(200, 3), secret(20_000, 5));
    run(&ledger, &PUT, "small", Some(small.clone())).await;
    run(&ledger, &PUT, "large", Some(large.clone())).await;
    assert!(pieces_left(&house.path(), &small) > 0 && pieces_left(&house.path(), &large) > 0);
    run(&ledger, &WIPE, "small", None).await;
    // The second one comes while the log has just been emptied, so it waits for a commit after the pause.
    run(&ledger, &DROP, "large", None).await;
    house.clock.set(1_700_000_000_000_000 + 3_600_000_000);
    run(&ledger, &PUT, "another", Some(vec![1])).await;
    // The answer comes before the log is emptied; the next answer comes after.
    run(&ledger, &PUT, "one more", Some(vec![1])).await;
    assert_eq!(pieces_left(&house.path(), &small), 0, "the small one is still there");
    assert_eq!(pieces_left(&house.path(), &large), 0, "the large one is still there");
    ledger.close().await;
}

#[tokio::test]
async fn what_a_reader_holds_is_erased_once_he_has_gone() {
    let house = House::new();
    let ledger = house
        .try_open(|options| {
            options.schemas = vec![&SAFE];
            options.limits.wal_readers_wait_max = Duration::from_millis(1);
        })
        .unwrap();
    let secret = secret(200, 7);
    run(&ledger, &PUT, "held", Some(secret.clone())).await;
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let (entered, inside) = tokio::sync::oneshot::channel();
    let reading = tokio::spawn({
        let ledger = ledger.clone();
        let mut entered = Some(entered);
        async move {
            let read = ledger.read(move |view| {
                let size = view.size()?;
                entered.take().map(|entered| entered.send(()));
                let _ = wait.recv();
                Ok::<_, SqlFault>(size)
            });
            read.await.unwrap();
        }
    });
    inside.await.unwrap();
    run(&ledger, &WIPE, "held", None).await;
    go.send(()).unwrap();
    reading.await.unwrap();
    house.clock.set(1_700_000_000_000_000 + 3_600_000_000);
    for id in ["first", "second"] {
        run(&ledger, &PUT, id, Some(vec![1])).await;
    }
    assert_eq!(pieces_left(&house.path(), &secret), 0);
    ledger.close().await;
}
