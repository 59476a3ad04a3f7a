//! A sealed house: a ledger with keys and an anchor made of memory, and the hand of a thief.

use std::path::Path;
use std::sync::Arc;

use audit::double::{MemoryAnchor, MemorySealer};
use audit::leaf::{genesis_chain, leaf_hash, next_chain};
use audit::{Ledger, NoteKey, RecoverRefused, Sealer, Sealing, Tier, WriteRefused};

use super::House;

pub const ORIGIN: &str = "test.example/audit/0001";

pub struct Sealed {
    pub house: House,
    pub sealer: Arc<MemorySealer>,
    pub anchor: MemoryAnchor,
}

impl Sealed {
    pub fn new(tier: Tier) -> Self {
        Self {
            house: House::new(),
            sealer: Arc::new(MemorySealer::new(ORIGIN)),
            anchor: MemoryAnchor::new(tier),
        }
    }

    pub fn open(&self) -> (Ledger, Sealing) {
        let ledger = self.house.try_open(|options| options.dangerous_without_recovery = false).unwrap();
        let sealing = Sealing::new(ledger.clone(), self.sealer.clone(), Some(Arc::new(self.anchor.clone())));
        (ledger, sealing)
    }

    pub async fn start(&self) -> (Ledger, Sealing) {
        let (ledger, sealing) = self.open();
        sealing.recover().await.unwrap();
        (ledger, sealing)
    }

    pub async fn refused(&self) -> String {
        let (ledger, sealing) = self.open();
        let refused = sealing.recover().await.unwrap_err();
        assert!(matches!(refused, RecoverRefused::Frozen(_)), "{refused:?}");
        let write =
            ledger.write(|_| Ok::<_, audit::SqlFault>(audit::Told::new((), audit::Entry::new("x")))).await;
        assert!(matches!(write, Err(WriteRefused::Frozen(_))), "a frozen ledger took a write");
        ledger.read(|view| view.size()).await.expect("a frozen ledger reads");
        ledger.close().await;
        refused.to_string()
    }

    pub fn keys(&self) -> &[NoteKey] {
        self.sealer.keys()
    }

    /// A ledger with two sealed checkpoints and a tail of two entries, closed.
    pub async fn with_history(tier: Tier) -> Self {
        let sealed = Self::new(tier);
        let (ledger, sealing) = sealed.start().await;
        for round in 0..2 {
            for n in 0..5 {
                sealed.house.add(&ledger, "a", &format!("{round}-{n}")).await;
            }
            sealing.seal().await.unwrap();
        }
        sealed.house.add(&ledger, "a", "tail-1").await;
        sealed.house.add(&ledger, "a", "tail-2").await;
        drop(sealing);
        ledger.close().await;
        sealed
    }

    pub fn edit(&self, sql: &str) {
        edit(&self.house.path(), sql);
    }

    /// Cuts the log to its first entries, so that what is stored of its end fits them.
    pub fn cut_to(&self, size: u64) {
        self.edit(&format!("DELETE FROM entry WHERE seq >= {size}"));
        let conn = rusqlite::Connection::open(self.house.path()).unwrap();
        let (mut chain, mut tree) = (genesis_chain(ORIGIN), audit::merkle::Frontier::default());
        let mut find = conn.prepare("SELECT leaf FROM entry ORDER BY seq").unwrap();
        for leaf in find.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap() {
            let hash = leaf_hash(&leaf.unwrap());
            chain = next_chain(&chain, &hash);
            tree.push(hash, |_, _, _| {});
        }
        let state = rusqlite::params![tree.size().cast_signed(), chain, tree.peaks().concat()];
        conn.execute("UPDATE tree_state SET size = ?1, chain = ?2, peaks = ?3", state).unwrap();
    }
}

/// Edits the file as its thief would: triggers dropped first, put back never.
pub fn edit(path: &Path, sql: &str) {
    let conn = rusqlite::Connection::open(path).unwrap();
    let triggers: Vec<String> = {
        let mut find = conn.prepare("SELECT name FROM sqlite_master WHERE type = 'trigger'").unwrap();
        find.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    };
    for trigger in triggers {
        conn.execute_batch(&format!("DROP TRIGGER {trigger}")).unwrap();
    }
    conn.execute_batch(sql).unwrap();
}

pub fn copy_ledger(from: &Path, to: &Path) {
    let conn = rusqlite::Connection::open(from).unwrap();
    conn.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(conn);
    std::fs::copy(from, to).unwrap();
    // A write-ahead log that the newer file left behind would be played onto the older one and make it the newer again.
    for suffix in ["-wal", "-shm"] {
        let mut log = to.as_os_str().to_owned();
        log.push(suffix);
        let _ = std::fs::remove_file(log);
    }
}
