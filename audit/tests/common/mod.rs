//! A small house around a ledger: one directory, one clock that can be set, one service that keeps notes.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of the house")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail loudly")]

pub mod sealed;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use audit::{
    Clock, Entry, Ledger, LedgerLimits, LedgerOptions, MachineRandom, OpenRefused, Schema, SqlFault,
    Statement, Table, Told, Workspace, params,
};

pub static ADD: Statement =
    Statement::tenant("notes", "INSERT INTO note (workspace, id, body) VALUES (?1, ?2, ?3)");
pub static COUNT: Statement = Statement::tenant("notes", "SELECT COUNT(*) FROM note WHERE workspace = ?1");
pub static TOUCH: Statement =
    Statement::tenant("notes", "UPDATE note SET body = ?3 WHERE workspace = ?1 AND id = ?2");
pub static COUNT_ALL: Statement =
    Statement::across_workspaces("notes", "figures for the operator", "SELECT COUNT(*) FROM note");
pub static STRAY: Statement = Statement::appliance("notes", "SELECT 1");

pub static NOTES: Schema = Schema {
    service: "notes",
    tables: &[Table { name: "note", tenant: true }],
    migrations: &["CREATE TABLE note (workspace TEXT NOT NULL, id TEXT NOT NULL, body BIGINT NOT NULL,
        PRIMARY KEY (workspace, id)) WITHOUT ROWID"],
    statements: &[&ADD, &COUNT, &COUNT_ALL, &TOUCH],
};

static STEAL: Statement = Statement::tenant("thief", "SELECT body FROM note WHERE workspace = ?1");
pub static NOTES_FOREIGN: Schema =
    Schema { service: "thief", tables: &[], migrations: &[], statements: &[&STEAL] };

/// A clock that says what it is told to say.
#[derive(Debug, Default)]
pub struct SetClock(AtomicU64);

impl SetClock {
    pub fn set(&self, time_us: u64) {
        self.0.store(time_us, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn unix_us(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::SeqCst))
    }

    fn boot(&self) -> audit::Boot {
        audit::Boot { id: [1; 16], uptime: self.monotonic() }
    }
}

pub struct House {
    pub directory: tempfile::TempDir,
    pub clock: Arc<SetClock>,
}

impl House {
    pub fn new() -> Self {
        let clock = Arc::new(SetClock::default());
        clock.set(1_700_000_000_000_000);
        Self { directory: tempfile::tempdir().unwrap(), clock }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("ledger.db")
    }

    pub fn options(&self) -> LedgerOptions {
        LedgerOptions {
            path: self.path(),
            origin: "test.example/audit/0001".into(),
            schemas: vec![&NOTES],
            clock: self.clock.clone(),
            random: Arc::new(MachineRandom),
            limits: LedgerLimits { readers: 2, ..LedgerLimits::default() },
            dangerous_without_recovery: true,
        }
    }

    pub fn try_open(&self, adjust: impl FnOnce(&mut LedgerOptions)) -> Result<Ledger, OpenRefused> {
        let mut options = self.options();
        adjust(&mut options);
        Ledger::open(options)
    }

    pub fn open(&self) -> Ledger {
        self.try_open(|_| {}).unwrap()
    }

    pub async fn add(&self, ledger: &Ledger, in_workspace: &str, id: &str) -> u64 {
        let (owner, id) = (workspace(in_workspace), id.to_owned());
        let recorded = ledger
            .write(move |tx| {
                tx.within(&owner).run(&ADD, params![&id, 1])?;
                let entry = Entry::new("note.add").workspace(&owner).actor("user:alice").object(&id);
                Ok::<_, SqlFault>(Told::new((), entry.request(format!("req-{id}"))))
            })
            .await
            .unwrap();
        recorded.seq()
    }

    pub async fn count(&self, ledger: &Ledger, in_workspace: &str) -> i64 {
        let owner = workspace(in_workspace);
        let count = ledger.read(move |view| view.within(&owner).one(&COUNT, params![], |row| row.integer(0)));
        count.await.unwrap().unwrap()
    }

    pub async fn told_times(&self, ledger: &Ledger) -> Vec<(u64, u64)> {
        let filter = audit::EntryFilter { limit: 100, ..audit::EntryFilter::default() };
        let entries = ledger.read(move |view| view.entries(&filter)).await.unwrap();
        entries.iter().map(|it| (it.seq, it.time_us)).collect()
    }
}

pub fn workspace(id: &str) -> Workspace {
    Workspace::new(id).unwrap()
}
