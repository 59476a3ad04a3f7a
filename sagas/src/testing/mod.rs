//! The room where definitions are proven: doubles of clock, dice and seal, faults on request, and the harness that
//! takes every step of a definition through everything that can go wrong.
//! Who enters: tests of this crate and of those whose workflows run here. What leaves: a proof, or the cell that failed.

mod cells;
pub mod inject;
mod prove;
mod rounds;
mod told;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use audit::{Boot, Clock, Ledger, NoRandomness, Random, SqlFault, Workspace};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

pub use cells::{Cell, Coverage, expected_cells};
pub use prove::{Heard, Proof, World, prove};

use crate::define::Definition;
use crate::ids::{EffectId, Phase, SagaId, SagaKey};
use crate::seal::{Cipher, CipherAnswer, Plain, Seal, SealFault};
use crate::store;

/// The same definition under another version, as if it had been written down a second time.
pub fn renumbered(mut definition: Definition, version: u32) -> Definition {
    definition.version = version;
    definition
}

/// The same definition under another name.
pub fn renamed(mut definition: Definition, name: &'static str) -> Definition {
    definition.name = name;
    definition
}

/// The name of an effect that no step has had.
pub fn effect_of_nothing() -> EffectId {
    EffectId::of(SagaId::new(0, [0; 10]), 0, Phase::Do)
}

/// Which kinds of sealed bytes a saga still has.
pub async fn sealed_columns(ledger: &Ledger, key: &SagaKey) -> Vec<&'static str> {
    let key = key.clone();
    let read = move |view: &audit::View<'_>| {
        let row = store::saga(view, &key)?;
        let row = row.as_ref();
        let outs = store::outs(view, &key)?.iter().any(|(_, sealed)| sealed.is_some());
        let places = row.map_or(0, |row| row.cursor);
        let mut items = false;
        for place in 0..=places {
            items |= store::items(view, &key, place)?.iter().any(|item| item.out_sealed.is_some());
        }
        let kinds = [
            ("input", row.is_some_and(|row| row.input_sealed.is_some())),
            ("result", row.is_some_and(|row| row.result_sealed.is_some())),
            ("states", outs),
            ("items", items),
        ];
        Ok::<_, SqlFault>(kinds.into_iter().filter_map(|(name, there)| there.then_some(name)).collect())
    };
    ledger.read(read).await.unwrap_or_else(|_| vec!["unreadable"])
}

/// A clock that its test moves.
#[derive(Debug)]
pub struct TestClock {
    unix_us: AtomicU64,
    uptime_us: AtomicU64,
    boots: AtomicU64,
    start: Instant,
}

impl TestClock {
    /// A clock that stands at a moment long ago.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            unix_us: AtomicU64::new(1_700_000_000_000_000),
            uptime_us: AtomicU64::new(0),
            boots: AtomicU64::new(1),
            start: Instant::now(),
        })
    }

    /// Puts the wall clock forward, as a false time server would; no time passes.
    pub fn put_forward(&self, by: Duration) {
        self.unix_us.fetch_add(test_micros(by), Ordering::SeqCst);
    }

    /// Puts the wall clock back; no time passes.
    pub fn put_back(&self, by: Duration) {
        self.unix_us.fetch_sub(test_micros(by), Ordering::SeqCst);
    }

    /// The machine was off for so long, by a wall clock that goes on meanwhile, and boots.
    pub fn reboot(&self, off: Duration) {
        self.unix_us.fetch_add(test_micros(off), Ordering::SeqCst);
        self.uptime_us.store(0, Ordering::SeqCst);
        self.boots.fetch_add(1, Ordering::SeqCst);
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        self.unix_us.fetch_add(test_micros(by), Ordering::SeqCst);
        self.uptime_us.fetch_add(test_micros(by), Ordering::SeqCst);
    }
}

fn test_micros(by: Duration) -> u64 {
    u64::try_from(by.as_micros()).unwrap_or(u64::MAX / 4)
}

impl Clock for TestClock {
    fn unix_us(&self) -> u64 {
        self.unix_us.load(Ordering::SeqCst)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    fn boot(&self) -> Boot {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.boots.load(Ordering::SeqCst).to_be_bytes());
        Boot { id, uptime: Duration::from_micros(self.uptime_us.load(Ordering::SeqCst)) }
    }
}

/// Randomness that can be told apart and nothing else.
#[derive(Debug, Default)]
pub struct TestDice(AtomicU64);

impl TestDice {
    /// Dice that begin somewhere else than others.
    pub fn seeded(seed: u64) -> Self {
        Self(AtomicU64::new(seed << 32))
    }
}

impl Random for TestDice {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), NoRandomness> {
        for chunk in bytes.chunks_mut(32) {
            let count = self.0.fetch_add(1, Ordering::SeqCst);
            chunk.copy_from_slice(&Sha256::digest(count.to_be_bytes())[..chunk.len()]);
        }
        Ok(())
    }
}

/// A seal that hides nothing, but binds to its place as the real one does.
#[derive(Debug, Default)]
pub struct TestSeal;

impl Seal for TestSeal {
    fn cipher<'a>(&'a self, scope: Option<&'a Workspace>) -> CipherAnswer<'a> {
        let key = scope.map_or_else(String::new, ToString::to_string);
        Box::pin(async move { Ok(Arc::new(TestCipher(key)) as Arc<dyn Cipher>) })
    }
}

struct TestCipher(String);

impl TestCipher {
    fn tag(&self, place: &str, bytes: &[u8]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.0.as_bytes());
        hash.update([0]);
        hash.update(place.as_bytes());
        hash.update([0]);
        hash.update(bytes);
        hash.finalize().into()
    }
}

impl Cipher for TestCipher {
    fn seal(&self, place: &str, plain: &[u8]) -> Result<Vec<u8>, SealFault> {
        let turned: Vec<u8> = plain.iter().map(|byte| byte ^ 0x5a).collect();
        Ok([&self.tag(place, plain)[..], &turned].concat())
    }

    fn open(&self, place: &str, sealed: &[u8]) -> Result<Plain, SealFault> {
        let (tag, turned) = sealed.split_at_checked(32).ok_or(SealFault::DoesNotOpen)?;
        let plain: Plain = Zeroizing::new(turned.iter().map(|byte| byte ^ 0x5a).collect());
        if self.tag(place, &plain) == tag { Ok(plain) } else { Err(SealFault::DoesNotOpen) }
    }
}

/// A world outside that outlives every crash: effects by id, applied once however often they are asked for.
#[derive(Debug, Default)]
pub struct Outside {
    effects: Mutex<HashMap<EffectId, String>>,
    calls: AtomicU64,
}

impl Outside {
    /// Makes an effect; a repetition gives what the first gave.
    pub fn apply(&self, effect: EffectId, what: &str) -> String {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let mut effects = self.effects.lock().unwrap_or_else(PoisonError::into_inner);
        effects.entry(effect).or_insert_with(|| what.to_owned()).clone()
    }

    /// What there is under an id.
    pub fn find(&self, effect: EffectId) -> Option<String> {
        self.effects.lock().unwrap_or_else(PoisonError::into_inner).get(&effect).cloned()
    }

    /// Takes an effect back; nothing happens where there is none.
    pub fn undo(&self, effect: EffectId) {
        self.effects.lock().unwrap_or_else(PoisonError::into_inner).remove(&effect);
    }

    /// Every effect there is now, in order.
    pub fn all(&self) -> Vec<String> {
        let effects = self.effects.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<String> = effects.values().cloned().collect();
        all.sort();
        all
    }

    /// How often it was asked to make one.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }
}
