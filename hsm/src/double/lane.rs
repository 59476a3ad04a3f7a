//! One session of the double: every call passes the scripted faults on its way in and out.
//! Enters: calls from the worker's loop.
//! Leaves: what the script wants.

use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use zeroize::Zeroizing;

use super::keys::{SoftKey, broken, random};
use super::{DoubleFault, Held, SERIAL, Shared, Stop};
use crate::anchor::{AnchorReading, AnchorStep};
use crate::backend::{Anchor, Attest, Backup, Fault, Import, Keys, Lane, Rotate, Seal};
use crate::error::Refusal;
use crate::key::{
    Custody, Fingerprint, HmacKeyRef, KeyFault, KeyId, KeyRef, NewKey, Presence, PublicKey, RootKey, RootTag,
};
use crate::scheme::{KeyKind, Scheme};

pub(super) struct DoubleLane {
    shared: Arc<Shared>,
    stop: Arc<Stop>,
}

impl DoubleLane {
    pub(super) const fn new(shared: Arc<Shared>, stop: Arc<Stop>) -> Self {
        Self { shared, stop }
    }

    /// Does the work between the two places where a fault may strike.
    pub(super) fn strike<T>(&self, work: impl FnOnce(&mut Held) -> Result<T, Fault>) -> Result<T, Fault> {
        let lost = |harmless| Err(Fault::Lost { why: "the double was told to fail".to_owned(), harmless });
        let fault = {
            let mut held = self.shared.lock();
            if held.unplugged {
                return lost(true);
            }
            held.faults.pop_front()
        };
        match fault {
            None => work(&mut self.shared.lock()),
            Some(DoubleFault::Refuse(refusal)) => Err(refusal.into()),
            Some(DoubleFault::LoseBefore) => lost(true),
            Some(DoubleFault::LoseAfter) => work(&mut self.shared.lock()).and_then(|_| lost(false)),
            Some(DoubleFault::HangBefore) => {
                self.stop.hang();
                lost(true)
            }
            Some(DoubleFault::HangAfter) => {
                let done = work(&mut self.shared.lock());
                self.stop.hang();
                done.and_then(|_| lost(false))
            }
            Some(DoubleFault::DieBefore) => {
                self.stop.strike();
                lost(true)
            }
            Some(DoubleFault::DieAfter) => {
                let done = work(&mut self.shared.lock());
                self.stop.strike();
                done.and_then(|_| lost(false))
            }
            // Left for `sign` to find.
            Some(DoubleFault::WrongSignature) => {
                let mut held = self.shared.lock();
                held.faults.push_front(DoubleFault::WrongSignature);
                work(&mut held)
            }
        }
    }
}

impl Lane for DoubleLane {
    fn attest(&mut self) -> Option<&mut dyn Attest> {
        None
    }

    fn rotate(&mut self) -> Option<&mut dyn Rotate> {
        Some(self)
    }

    fn import(&mut self) -> Option<&mut dyn Import> {
        Some(self)
    }

    fn backup(&mut self) -> Option<&mut dyn Backup> {
        Some(self)
    }
}

impl Keys for DoubleLane {
    fn generate(&mut self, id: KeyId, kind: KeyKind, _label: &str) -> Result<NewKey, Fault> {
        self.strike(|held| super::ceremony::make(held, id, kind, Custody::NonExtractable))
    }

    fn find(&mut self, id: KeyId) -> Result<Option<PublicKey>, Fault> {
        self.strike(|held| Ok(held.keys.get(&id).map(|key| key.public.clone())))
    }

    fn presence(&mut self, id: KeyId) -> Result<Presence, Fault> {
        self.strike(|held| {
            Ok(match held.keys.get(&id) {
                Some(key) => Presence::Whole(key.public.clone()),
                None if held.halves.contains(&id) => Presence::Half,
                None => Presence::Absent,
            })
        })
    }

    fn examine(&mut self, key: &KeyRef) -> Result<Vec<KeyFault>, Fault> {
        self.strike(|held| {
            Ok(match held.keys.get(&key.id) {
                Some(found) if found.public.fingerprint() == key.fingerprint => Vec::new(),
                Some(_) => vec![KeyFault::PrivateMismatch, KeyFault::PublicMismatch],
                None => vec![KeyFault::PrivateMissing, KeyFault::PublicMissing],
            })
        })
    }

    fn destroy_half(&mut self, id: KeyId) -> Result<(), Fault> {
        self.strike(|held| {
            if held.keys.contains_key(&id) {
                return Err(Refusal::KeyExists { id }.into());
            }
            held.halves.remove(&id);
            Ok(())
        })
    }

    fn sign(&mut self, key: &KeyRef, scheme: Scheme, input: &[u8]) -> Result<Vec<u8>, Fault> {
        let known = |held: &mut Held| {
            let found = held.keys.get(&key.id).cloned().ok_or(Fault::KeyMissing { id: key.id })?;
            check(key, &found)?;
            let mut made = found.sign(scheme, input)?;
            held.signatures_made += 1;
            if held.faults.front() == Some(&DoubleFault::WrongSignature) {
                held.faults.pop_front();
                made[0] ^= 1;
            }
            Ok(made)
        };
        self.strike(known)
    }

    fn destroy(&mut self, key: &KeyRef) -> Result<(), Fault> {
        self.strike(|held| {
            if let Some(found) = held.keys.get(&key.id) {
                check(key, found)?;
                held.keys.remove(&key.id);
            }
            Ok(())
        })
    }

    fn generate_hmac_key(&mut self, id: KeyId, _label: &str) -> Result<HmacKeyRef, Fault> {
        self.strike(|held| {
            let key = match held.hmac_keys.get(&id) {
                Some(key) => *key,
                None => random()?,
            };
            held.hmac_keys.insert(id, key);
            Ok(HmacKeyRef { id, check: Fingerprint(tag(&key, HmacKeyRef::CHECK_TEXT)), blob: Vec::new() })
        })
    }

    fn hmac_sha256(&mut self, key: &HmacKeyRef, data: &[u8]) -> Result<[u8; 32], Fault> {
        self.strike(|held| {
            let secret = held.hmac_keys.get(&key.id).ok_or(Fault::KeyMissing { id: key.id })?;
            let found = Fingerprint(tag(secret, HmacKeyRef::CHECK_TEXT));
            if found != key.check {
                return Err(Fault::WrongKey { id: key.id, expected: key.check, found });
            }
            Ok(tag(secret, data))
        })
    }

    fn destroy_hmac_key(&mut self, key: &HmacKeyRef) -> Result<(), Fault> {
        self.strike(|held| {
            held.hmac_keys.remove(&key.id);
            Ok(())
        })
    }

    fn random(&mut self, len: usize) -> Result<Vec<u8>, Fault> {
        self.strike(|_| {
            let mut bytes = vec![0; len];
            aws_lc_rs::rand::fill(&mut bytes).map_err(|_| broken("no randomness"))?;
            Ok(bytes)
        })
    }
}

impl Seal for DoubleLane {
    fn ensure_root(&mut self) -> Result<RootKey, Fault> {
        self.strike(|held| {
            let newest = held.roots.keys().next_back().copied();
            match newest {
                Some(number) => Ok(RootKey { id: vec![number], created: false, check: Vec::new() }),
                None => make_root(held, 1),
            }
        })
    }

    fn make_root(&mut self, _tag: RootTag) -> Result<RootKey, Fault> {
        self.ensure_root()
    }

    fn unmake_root(&mut self, _tag: RootTag) -> Result<(), Fault> {
        self.strike(|held| {
            held.roots.clear();
            held.anchor = AnchorReading::default();
            Ok(())
        })
    }

    fn wrap(&mut self, secret: &[u8], aad: &[u8]) -> Result<Vec<u8>, Fault> {
        self.strike(|held| {
            let (number, root) = held.roots.last_key_value().ok_or(Refusal::RootMissing)?;
            Ok([&[*number], seal(root, secret, aad)?.as_slice()].concat())
        })
    }

    fn unwrap(&mut self, wrapped: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
        self.strike(|held| {
            let (number, sealed) = wrapped.split_first().ok_or(Refusal::SealBroken)?;
            open(held.roots.get(number).ok_or(Refusal::SealBroken)?, sealed, aad)
        })
    }
}

impl Rotate for DoubleLane {
    fn succeed_root(&mut self, id: &[u8]) -> Result<RootKey, Fault> {
        self.strike(|held| {
            let next = id.first().and_then(|number| number.checked_add(1)).ok_or(Refusal::RootMissing)?;
            if held.roots.contains_key(&next) {
                return Ok(RootKey { id: vec![next], created: false, check: Vec::new() });
            }
            make_root(held, next)
        })
    }

    fn destroy_root(&mut self, id: &[u8]) -> Result<(), Fault> {
        self.strike(|held| {
            let newest = held.roots.keys().next_back().copied();
            if newest.is_some_and(|newest| id == [newest]) {
                return Err(Refusal::RootInUse.into());
            }
            held.roots.retain(|number, _| id != [*number]);
            Ok(())
        })
    }
}

impl Anchor for DoubleLane {
    fn read(&mut self) -> Result<AnchorReading, Fault> {
        self.strike(|held| {
            let missing = held.anchor.steps.is_none();
            Ok(AnchorReading { missing, identity: SERIAL.as_bytes().to_vec(), ..held.anchor.clone() })
        })
    }

    fn advance(&mut self, step: &AnchorStep) -> Result<(), Fault> {
        self.strike(|held| {
            let head = held.anchor.head.unwrap_or_default();
            if head == step.after && held.anchor.steps == Some(step.k) {
                return Ok(());
            }
            if head != step.before || held.anchor.steps.unwrap_or(0) + 1 != step.k {
                return Err(Refusal::AnchorElsewhere.into());
            }
            held.anchor.head = Some(step.after);
            held.anchor.steps = Some(step.k);
            Ok(())
        })
    }
}

pub(super) fn check(key: &KeyRef, found: &SoftKey) -> Result<(), Fault> {
    let found = found.public.fingerprint();
    if found == key.fingerprint {
        return Ok(());
    }
    Err(Fault::WrongKey { id: key.id, expected: key.fingerprint, found })
}

fn make_root(held: &mut Held, number: u8) -> Result<RootKey, Fault> {
    held.roots.insert(number, random()?);
    Ok(RootKey { id: vec![number], created: true, check: Vec::new() })
}

/// `nonce | AES-256-GCM(secret)`.
pub(super) fn seal(key: &[u8; 32], secret: &[u8], aad: &[u8]) -> Result<Vec<u8>, Fault> {
    let nonce: [u8; NONCE_LEN] = random()?;
    let mut sealed = secret.to_vec();
    cipher(key)?
        .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut sealed)
        .map_err(|_| broken("a secret was not wrapped"))?;
    Ok([nonce.as_slice(), &sealed].concat())
}

pub(super) fn open(key: &[u8; 32], sealed: &[u8], aad: &[u8]) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>().ok_or(Refusal::SealBroken)?;
    let mut opened = Zeroizing::new(sealed.to_vec());
    let (key, nonce) = (cipher(key)?, Nonce::assume_unique_for_key(*nonce));
    let len = key.open_in_place(nonce, Aad::from(aad), &mut opened).map_err(|_| Refusal::SealBroken)?.len();
    opened.truncate(len);
    Ok(opened)
}

fn cipher(root: &[u8; 32]) -> Result<LessSafeKey, Fault> {
    UnboundKey::new(&AES_256_GCM, root)
        .map(LessSafeKey::new)
        .map_err(|_| broken("the root key does not load"))
}

fn tag(key: &[u8; 32], data: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref());
    bytes
}
