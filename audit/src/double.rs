//! Hardware made of memory, for tests: a sealer and an anchor that can fail before and after taking effect.
//! Who enters: the tests of this crate and of those that use it.
//! What leaves: real signatures, believable attestations, and every kind of trouble on request.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};

use crate::hardware::{Anchor, Answer, Attestation, HardwareFault, Reading, Sealer, Step, Tier};
use crate::note::{KeyKind, NoteKey, p256_spki};
use crate::shared::unpoisoned;

/// When a call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failing {
    /// Nothing happened.
    Before,
    /// It took effect, and the answer was lost.
    After,
}

/// Which call fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `Anchor::read`.
    Read,
    /// `Anchor::advance`.
    Advance,
    /// `Anchor::attest`.
    Attest,
    /// `Anchor::count_start`.
    CountStart,
    /// `Sealer::sign`.
    Sign,
}

type Faults = Arc<Mutex<VecDeque<(Call, Failing)>>>;

fn fails(faults: &Faults, call: Call, when: Failing) -> Result<(), HardwareFault> {
    let mut faults = unpoisoned(faults);
    let Some(at) = faults.iter().position(|planned| *planned == (call, when)) else { return Ok(()) };
    faults.remove(at);
    Err(match when {
        Failing::Before => HardwareFault::Unavailable("on request".to_owned()),
        Failing::After => HardwareFault::OutcomeUnknown("on request".to_owned()),
    })
}

/// A sealer with an Ed25519 key named after the log and a P-256 key named `<origin>/tpm`.
pub struct MemorySealer {
    keys: Vec<NoteKey>,
    ed25519: Ed25519KeyPair,
    p256: EcdsaKeyPair,
    faults: Faults,
    signatures: AtomicU64,
}

impl MemorySealer {
    /// New keys for a log.
    pub fn new(origin: &str) -> Self {
        let ed25519 = ok(Ed25519KeyPair::generate());
        let p256 = ok(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING));
        let keys = vec![
            ok(NoteKey::new(origin, KeyKind::Ed25519, ed25519.public_key().as_ref().to_vec())),
            ok(NoteKey::new(format!("{origin}/tpm"), KeyKind::EcdsaP256, spki(&p256))),
        ];
        Self { keys, ed25519, p256, faults: Faults::default(), signatures: AtomicU64::new(0) }
    }

    /// Plans a failure of the next such call.
    pub fn fail(&self, call: Call, when: Failing) {
        unpoisoned(&self.faults).push_back((call, when));
    }

    /// Signatures made so far.
    pub fn signatures(&self) -> u64 {
        self.signatures.load(Ordering::Relaxed)
    }
}

impl Sealer for MemorySealer {
    fn keys(&self) -> &[NoteKey] {
        &self.keys
    }

    fn sign<'a>(&'a self, key: usize, text: &'a [u8]) -> Answer<'a, Vec<u8>> {
        Box::pin(async move {
            fails(&self.faults, Call::Sign, Failing::Before)?;
            self.signatures.fetch_add(1, Ordering::Relaxed);
            let signature = match key {
                0 => self.ed25519.sign(text).as_ref().to_vec(),
                _ => ok(self.p256.sign(&SystemRandom::new(), text)).as_ref().to_vec(),
            };
            fails(&self.faults, Call::Sign, Failing::After)?;
            Ok(signature)
        })
    }
}

/// What a memory anchor holds; copy it and put it back to play a rolled-back machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnchorState {
    /// What `read` answers.
    pub reading: Reading,
    /// Times it was written.
    pub writes: u64,
}

/// An anchor in memory. Clones share one state, as two processes share one TPM.
#[derive(Clone)]
pub struct MemoryAnchor {
    tier: Tier,
    state: Arc<Mutex<AnchorState>>,
    ak: Arc<EcdsaKeyPair>,
    faults: Faults,
}

impl MemoryAnchor {
    /// A fresh anchor that was set up and never written.
    pub fn new(tier: Tier) -> Self {
        let counter = (tier == Tier::TpmNv).then_some(7);
        let identity = [&[0x00, 0x0b][..], &[0xe1; 32]].concat();
        let reading = Reading { identity, counter, ..Reading::default() };
        Self {
            tier,
            state: Arc::new(Mutex::new(AnchorState { reading, writes: 0 })),
            ak: Arc::new(ok(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING))),
            faults: Faults::default(),
        }
    }

    /// Another machine's anchor, brought to the same state: only its attestation key differs.
    pub fn impostor(&self) -> Self {
        Self { ak: Self::new(self.tier).ak, ..self.clone() }
    }

    /// The public part of its attestation key, SPKI DER.
    pub fn attestation_key(&self) -> Vec<u8> {
        spki(&self.ak)
    }

    /// A copy of what it holds.
    pub fn state(&self) -> AnchorState {
        unpoisoned(&self.state).clone()
    }

    /// Puts back a copy, or something made up.
    pub fn set_state(&self, state: AnchorState) {
        *unpoisoned(&self.state) = state;
    }

    /// Plans a failure of the next such call.
    pub fn fail(&self, call: Call, when: Failing) {
        unpoisoned(&self.faults).push_back((call, when));
    }

    fn call<T>(&self, call: Call, act: impl FnOnce(&mut AnchorState) -> T) -> Result<T, HardwareFault> {
        fails(&self.faults, call, Failing::Before)?;
        let answer = act(&mut unpoisoned(&self.state));
        fails(&self.faults, call, Failing::After)?;
        Ok(answer)
    }

    fn statement(&self, reading: &Reading, qualifying: &[u8; 32]) -> Vec<u8> {
        let mut statement = vec![0xff, 0x54, 0x43, 0x47, 0x80, 0x14];
        let sized = |statement: &mut Vec<u8>, bytes: &[u8]| {
            statement.extend_from_slice(&u16::try_from(bytes.len()).unwrap_or_default().to_be_bytes());
            statement.extend_from_slice(bytes);
        };
        sized(&mut statement, &[0x5a; 34]);
        sized(&mut statement, qualifying);
        // Clock, resets, restarts, safe, firmware.
        statement.extend_from_slice(&[0; 25]);
        sized(&mut statement, &reading.identity);
        statement.extend_from_slice(&[0, 0]);
        sized(&mut statement, &reading.head.unwrap_or_default());
        statement
    }
}

impl Anchor for MemoryAnchor {
    fn tier(&self) -> Tier {
        self.tier
    }

    fn read(&self) -> Answer<'_, Reading> {
        Box::pin(async { self.call(Call::Read, |state| state.reading.clone()) })
    }

    fn advance(&self, step: Step) -> Answer<'_, ()> {
        Box::pin(async move {
            self.call(Call::Advance, |state| {
                let before = state.reading.head.unwrap_or_default();
                state.reading.head = Some(crate::extend(&before, &step.digest));
                state.reading.steps = (self.tier == Tier::TokenObject).then_some(step.k);
                state.writes += 1;
            })
        })
    }

    fn attest(&self, qualifying: [u8; 32]) -> Answer<'_, Option<Attestation>> {
        Box::pin(async move {
            let reading = self.call(Call::Attest, |state| state.reading.clone())?;
            if self.tier == Tier::TokenObject {
                return Ok(None);
            }
            let statement = self.statement(&reading, &qualifying);
            let signature = ok(self.ak.sign(&SystemRandom::new(), &statement)).as_ref().to_vec();
            Ok(Some(Attestation { statement, signature, key: spki(&self.ak) }))
        })
    }

    fn count_start(&self) -> Answer<'_, Option<u64>> {
        Box::pin(async {
            self.call(Call::CountStart, |state| {
                state.reading.counter = state.reading.counter.map(|counter| counter + 1);
                state.reading.counter
            })
        })
    }
}

fn spki(pair: &EcdsaKeyPair) -> Vec<u8> {
    p256_spki(&ok(<[u8; 65]>::try_from(pair.public_key().as_ref())))
}

#[allow(clippy::panic, reason = "a double that cannot be made ends its test")]
fn ok<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|why| panic!("the double could not be made: {why:?}"))
}
