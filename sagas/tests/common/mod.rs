//! A small world for the tests: things in the ledger's database, effects outside, and five workflows over both.
//! Who enters: the tests of this crate.
//! What leaves: definitions that mean something, and a world that can be compared before and after.
#![allow(
    dead_code,
    unreachable_pub,
    unused_imports,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "not every test uses all of it; tests may fail loudly"
)]

mod people;
mod workflows;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use audit::{
    Clock, Ledger, LedgerLimits, LedgerOptions, Schema, Statement, Table, Told, Tx, Workspace, params,
};
use sagas::testing::{Heard, Outside, TestClock, TestDice, TestSeal, World};
use sagas::{
    Catalog, Deaf, Definition, EngineParts, Refused, SagaLimits, Scope, StartRequest, StepContext, Undo,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value as Json, json};

pub use people::{end, engine, operator, request, until, vote};
pub use workflows::*;

pub const SECOND: Duration = Duration::from_secs(1);

const SERVICE: &str = "samples";
pub static SAMPLES: Schema = Schema {
    service: SERVICE,
    tables: &[Table { name: "thing", tenant: true }],
    migrations: &[
        "CREATE TABLE thing (workspace TEXT NOT NULL, name TEXT NOT NULL, puts BIGINT NOT NULL, PRIMARY KEY (workspace, name))",
    ],
    statements: &[&PUT, &DROP, &THINGS],
};
static PUT: Statement = Statement::tenant(
    SERVICE,
    "INSERT INTO thing (workspace, name, puts) VALUES (?1, ?2, 1) ON CONFLICT (workspace, name) DO UPDATE SET puts = thing.puts + 1",
);
static DROP: Statement = Statement::tenant(SERVICE, "DELETE FROM thing WHERE workspace = ?1 AND name = ?2");
static THINGS: Statement =
    Statement::tenant(SERVICE, "SELECT name, puts FROM thing WHERE workspace = ?1 ORDER BY name");

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Input {
    pub round: u64,
}

/// What steps leave behind: a word that grows, so that a wrong state shows.
pub type Trail = String;

pub fn acme() -> Workspace {
    Workspace::new("acme").unwrap()
}

pub fn scope() -> Scope {
    Scope::Workspace(acme())
}

fn name(input: &Input, what: &str) -> String {
    format!("r{}/{what}", input.round)
}

/// Puts a thing; putting it twice shows in the world.
pub fn put(
    what: &'static str,
) -> impl Fn(&mut Tx<'_>, &StepContext, &Input, &Trail) -> Result<Told<Trail>, Refused> + Send + Sync + 'static
{
    move |tx, cx, input, before| {
        tx.within(&acme()).run(&PUT, params![name(input, what)])?;
        Ok(Told::new(format!("{before}{what}"), cx.entry("thing.put", name(input, what))))
    }
}

pub fn put_thing(tx: &mut Tx<'_>, name: &str) -> Result<(), audit::SqlFault> {
    tx.within(&acme()).run(&PUT, params![name]).map(drop)
}

pub fn drop_thing(tx: &mut Tx<'_>, name: &str) -> Result<(), audit::SqlFault> {
    tx.within(&acme()).run(&DROP, params![name]).map(drop)
}

pub fn things_in(view: &audit::View<'_>) -> Result<Vec<(String, i64)>, audit::SqlFault> {
    view.within(&acme()).all(&THINGS, params![], |row| Ok((row.text(0)?, row.integer(1)?)))
}

fn put_from(
    tx: &mut Tx<'_>,
    cx: &StepContext,
    input: &Input,
    what: &str,
) -> Result<audit::Entry, audit::SqlFault> {
    tx.within(&acme()).run(&PUT, params![name(input, what)])?;
    Ok(cx.entry("thing.put", name(input, what)))
}

pub fn drop_it<B: serde::de::DeserializeOwned + Send + 'static>(what: &'static str) -> Undo<Input, B> {
    Undo::local(move |tx, cx, input: &Input, _: &B| {
        tx.within(&acme()).run(&DROP, params![name(input, what)])?;
        Ok(Told::new((), cx.entry("thing.drop", name(input, what))))
    })
}

/// A directory, a ledger in it, a clock, and a world outside.
pub struct Sample {
    pub dir: tempfile::TempDir,
    pub ledger: Mutex<Option<Ledger>>,
    pub clock: Arc<TestClock>,
    pub dice: Arc<TestDice>,
    pub outside: Arc<Outside>,
    pub workflow: &'static str,
    pub others: Vec<fn() -> Definition>,
}

impl Sample {
    pub fn new(workflow: &'static str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = TestClock::new();
        let dice = Arc::new(TestDice::default());
        let ledger = open(dir.path().join("ledger.db"), clock.clone());
        Self {
            dir,
            ledger: Mutex::new(Some(ledger)),
            clock,
            dice,
            outside: Arc::default(),
            workflow,
            others: Vec::new(),
        }
    }

    pub fn ledger(&self) -> Ledger {
        self.ledger.lock().unwrap().clone().unwrap()
    }

    pub fn parts_with(&self, definitions: Vec<Definition>) -> EngineParts {
        EngineParts { catalog: Catalog::new(definitions).unwrap(), ..self.parts() }
    }

    pub async fn things(&self) -> Vec<(String, i64)> {
        self.ledger().read(things_in).await.unwrap()
    }
}

pub fn open(path: PathBuf, clock: Arc<dyn Clock>) -> Ledger {
    Ledger::open(LedgerOptions {
        path,
        origin: "saga.example/log".to_owned(),
        schemas: vec![&SAMPLES, &sagas::SCHEMA],
        clock,
        random: Arc::new(audit::MachineRandom),
        limits: LedgerLimits { readers: 1, ..LedgerLimits::default() },
        dangerous_without_recovery: true,
    })
    .unwrap()
}

impl World for Sample {
    fn request(&self, round: u64) -> StartRequest {
        StartRequest::new(self.workflow, scope(), &Input { round }).unwrap()
    }

    fn answer(&self, step: &str, _: u64) -> Vec<Heard> {
        if step != "approval" {
            return Vec::new();
        }
        let vote = |vote: u32| Heard { name: "approve", dedupe: vote.to_string(), payload: json!(vote) };
        vec![vote(1), vote(2)]
    }

    async fn snapshot(&self, round: u64) -> Json {
        let mine = format!("r{round}/");
        let things: Vec<_> = self.things().await;
        let things: Vec<_> =
            things.iter().filter_map(|(name, puts)| Some((name.strip_prefix(&mine)?, puts))).collect();
        let outside = self.outside.all();
        let outside: Vec<_> = outside.iter().filter_map(|it| it.strip_prefix(&mine)).collect();
        json!({ "things": things, "outside": outside })
    }

    fn parts(&self) -> EngineParts {
        EngineParts {
            ledger: self.ledger(),
            catalog: Catalog::default(),
            seal: Arc::new(TestSeal),
            clock: self.clock.clone(),
            random: self.dice.clone(),
            limits: SagaLimits { poll: Duration::from_millis(20), ..SagaLimits::default() },
            observer: Arc::new(Deaf),
        }
    }

    fn others(&self) -> Vec<Definition> {
        self.others.iter().map(|define| define()).collect()
    }

    fn clock(&self) -> Arc<TestClock> {
        self.clock.clone()
    }

    async fn reopen(&self) {
        let ledger = self.ledger.lock().unwrap().take().unwrap();
        ledger.close().await;
        *self.ledger.lock().unwrap() = Some(open(self.dir.path().join("ledger.db"), self.clock.clone()));
    }
}
