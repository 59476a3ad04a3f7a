//! The room of opening: take the lock, open the file, bring tables up to date, prove statements, start threads.
//! Who enters: `Ledger::open` with its options.
//! What leaves: a ledger whose threads run and whose every registered statement is known to be permitted.

use std::cell::Cell;
use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex};

use rusqlite::config::DbConfig;
use rusqlite::hooks::Wal as EngineWal;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use crate::append::{Appender, Tip, begin_tip, load_tip};
use crate::fault::SqlFault;
use crate::gather::Pace;
use crate::job::Job;
use crate::leaf::sha256;
use crate::ledger::{Ledger, LedgerOptions, Standing};
use crate::lock;
use crate::readers::{self, ReadJob};
use crate::refused::OpenRefused;
use crate::registry::{Behalf, Owner, Registry, authorizer};
use crate::schema;
use crate::shared::{Core, Doors, Shared};
use crate::tx::Session;
use crate::writer::{Wal, Writer};

pub(crate) fn open(options: LedgerOptions) -> Result<Ledger, OpenRefused> {
    check_origin(&options.origin)?;
    let lock = lock::take(&options.path)?;
    let mut schemas = vec![&schema::LEDGER];
    schemas.extend(&options.schemas);
    let registry = Arc::new(Registry::new(&schemas)?);
    let database = |source| OpenRefused::Database { path: options.path.clone(), source };

    let mut session =
        connect(&options.path, &registry, Some(options.limits.wal_bytes_max)).map_err(database)?;
    sync_directory(&options.path)?;
    migrate(&session, &schemas, &options.path)?;
    let tip = settle_origin(&session, &options)?;
    prove_statements(&session)?;
    let sessions = (0..options.limits.readers.max(1)).map(|_| connect(&options.path, &registry, None));
    let sessions = sessions.collect::<Result<Vec<_>, _>>().map_err(database)?;

    let (writes, write_queue) = sync_channel(options.limits.queue_writes_max);
    let (reads, read_queue) = sync_channel(options.limits.queue_reads_max);
    let standing = if options.dangerous_without_recovery { Standing::Open } else { Standing::Unverified };
    let core = Core::new(options.origin.clone(), options.clock.clone(), options.limits, standing, tip.size());
    let core = Arc::new(core);
    watch_wal(&mut session, core.figures.wal_pages.clone()).map_err(database)?;
    let appender = Appender::new(options.origin, options.clock, options.random, tip);

    let writer = Writer {
        session,
        appender,
        core: core.clone(),
        pace: Pace::default(),
        wal: Wal::default(),
        _lock: lock,
    };
    let shared = Arc::new(Shared::new(core.clone(), Doors { writes, reads }));
    start(&shared, &core, writer, write_queue, sessions, read_queue)
        .map_err(|source| OpenRefused::File { path: options.path, source })?;
    Ok(Ledger { shared })
}

fn check_origin(origin: &str) -> Result<(), OpenRefused> {
    let bad = |it: char| it.is_whitespace() || it.is_control() || it == '+';
    if origin.is_empty() || origin.len() > 255 || origin.contains(bad) || origin.contains("://") {
        return Err(OpenRefused::BadOrigin(origin.to_owned()));
    }
    Ok(())
}

/// Opens a connection: the writer's with the bound of its write-ahead log, a reader's without.
fn connect(path: &Path, registry: &Arc<Registry>, writes: Option<u64>) -> Result<Session, SqlFault> {
    let access = if writes.is_some() {
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE
    } else {
        OpenFlags::SQLITE_OPEN_READ_ONLY
    };
    let mut conn = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    if let Some(wal_bytes_max) = writes {
        // FULL, because with NORMAL a power loss may take acknowledged commits, which after an anchor looks
        // exactly like a rollback. The automatic checkpoint is off: see `Writer::fold_wal`.
        conn.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 0;
             PRAGMA secure_delete = ON; PRAGMA foreign_keys = ON; PRAGMA cache_size = -32768; PRAGMA temp_store = MEMORY;",
        )?;
        // Begun anew, a log that had grown beyond its bound gives the disk back what it took.
        let size_max = i64::try_from(wal_bytes_max).unwrap_or(i64::MAX);
        conn.pragma_update(None, "journal_size_limit", size_max)?;
    } else {
        conn.execute_batch("PRAGMA query_only = ON; PRAGMA cache_size = -8192; PRAGMA temp_store = MEMORY;")?;
    }
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    // One plan for each text, whatever is bound to it. Else the engine compiles a cached statement anew for new values.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    conn.set_prepared_statement_cache_capacity(registry.statements().count() + 64);
    let behalf = Behalf::default();
    conn.authorizer(Some(authorizer(registry.clone(), behalf.clone())))?;
    Ok(Session { conn, registry: registry.clone(), behalf, erased: Cell::new(false) })
}

fn sync_directory(path: &Path) -> Result<(), OpenRefused> {
    let directory = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)
        .and_then(|directory| directory.sync_all())
        .map_err(|source| OpenRefused::File { path: directory.into(), source })
}

fn migrate(session: &Session, schemas: &[&'static crate::Schema], path: &Path) -> Result<(), OpenRefused> {
    let database = |source| OpenRefused::Database { path: path.into(), source };
    session.behalf.migration_of(Owner::LEDGER);
    session.conn.execute_batch(schema::STEPS).map_err(|it| database(it.into()))?;
    for (place, schema) in schemas.iter().enumerate() {
        for (at, script) in schema.migrations.iter().enumerate() {
            match recorded_step(session, schema.service, at + 1).map_err(database)? {
                Some(hash) if hash == sha256(&[script.as_bytes()]) => {}
                Some(_) => {
                    return Err(OpenRefused::MigrationChanged { service: schema.service, step: at + 1 });
                }
                None => run_step(session, Owner::nth(place), schema.service, at + 1, script)?,
            }
        }
        if recorded_step(session, schema.service, schema.migrations.len() + 1).map_err(database)?.is_some() {
            let step = schema.migrations.len() + 1;
            return Err(OpenRefused::MigrationChanged { service: schema.service, step });
        }
    }
    Ok(())
}

fn recorded_step(session: &Session, service: &str, step: usize) -> Result<Option<[u8; 32]>, SqlFault> {
    let mut find = session.own("SELECT script_hash FROM schema_step WHERE service = ?1 AND step = ?2")?;
    find.raw_bind_parameter(1, service)?;
    find.raw_bind_parameter(2, step as i64)?;
    let mut rows = find.raw_query();
    Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
}

fn run_step(
    session: &Session,
    owner: Owner,
    service: &'static str,
    step: usize,
    script: &'static str,
) -> Result<(), OpenRefused> {
    let attempt = || -> Result<(), SqlFault> {
        session.own("BEGIN IMMEDIATE")?.raw_execute()?;
        session.behalf.migration_of(owner);
        session.conn.execute_batch(script)?;
        let mut record =
            session.own("INSERT INTO schema_step (service, step, script_hash) VALUES (?1, ?2, ?3)")?;
        record.raw_bind_parameter(1, service)?;
        record.raw_bind_parameter(2, step as i64)?;
        record.raw_bind_parameter(3, &sha256(&[script.as_bytes()])[..])?;
        record.raw_execute()?;
        session.own("COMMIT")?.raw_execute()?;
        Ok(())
    };
    attempt().map_err(|fault| OpenRefused::Statement { service, sql: script, source: fault })
}

/// A new file gets the configured origin; an old one must have it already.
fn settle_origin(session: &Session, options: &LedgerOptions) -> Result<Tip, OpenRefused> {
    let attempt = || -> Result<(String, Tip), SqlFault> {
        let stored: Option<String> = {
            let mut find = session.own("SELECT origin FROM log WHERE one = 1")?;
            let mut rows = find.raw_query();
            rows.next()?.map(|row| row.get(0)).transpose()?
        };
        if let Some(origin) = stored {
            let tip = load_tip(session)?.unwrap_or_else(|| Tip::genesis(&origin));
            return Ok((origin, tip));
        }
        let tip = Tip::genesis(&options.origin);
        session.own("BEGIN IMMEDIATE")?.raw_execute()?;
        let mut name = session.own("INSERT INTO log (one, origin) VALUES (1, ?1)")?;
        name.raw_bind_parameter(1, &options.origin)?;
        name.raw_execute()?;
        begin_tip(session, &tip)?;
        session.own("COMMIT")?.raw_execute()?;
        Ok((options.origin.clone(), tip))
    };
    let path = options.path.clone();
    match attempt() {
        Ok((found, _)) if found != options.origin => {
            Err(OpenRefused::Foreign { path, expected: options.origin.clone(), found })
        }
        Ok((_, tip)) => Ok(tip),
        Err(source) => Err(OpenRefused::Database { path, source }),
    }
}

/// Compiles every registered statement on behalf of its service, so that a slip shows at start and not at 3 a.m.
fn prove_statements(session: &Session) -> Result<(), OpenRefused> {
    for (owner, statement) in session.registry.statements() {
        session.behalf.of(owner);
        let compiled = session.conn.prepare_cached(statement.sql).map(drop);
        compiled.map_err(|source| OpenRefused::Statement {
            service: statement.service,
            sql: statement.sql,
            source: source.into(),
        })?;
    }
    Ok(())
}

/// Keeps count of the pages in the write-ahead log, as the engine tells them after each commit.
fn watch_wal(session: &mut Session, pages: Arc<AtomicU64>) -> Result<(), SqlFault> {
    session.conn.wal_hook(Some(move |_: &mut EngineWal, now: i32| {
        pages.store(u64::try_from(now).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }))?;
    Ok(())
}

fn start(
    shared: &Arc<Shared>,
    core: &Arc<Core>,
    writer: Writer,
    writes: Receiver<Box<dyn Job>>,
    sessions: Vec<Session>,
    reads: Receiver<ReadJob>,
) -> std::io::Result<()> {
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        let (ended, end) = oneshot::channel::<()>();
        shared.watch_end(end);
        let life = move || {
            work();
            drop(ended);
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(life).map(drop)
    };
    spawn("ledger-writer", Box::new(move || writer.serve(&writes)))?;
    let reads = Arc::new(Mutex::new(reads));
    for session in sessions {
        let (reads, core) = (reads.clone(), core.clone());
        spawn("ledger-reader", Box::new(move || readers::serve(&session, &core.snapshots, &reads)))?;
    }
    Ok(())
}
