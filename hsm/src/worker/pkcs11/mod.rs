//! The PKCS#11 back-end: keys in a token behind a vendor's module.
//! Enters: a module's path, a token's serial, a PIN file.
//! Leaves: a [`Backend`] with one logged-in session per lane.

mod anchor;
mod backup;
mod connect;
mod encode;
mod fault;
mod import;
mod incoming;
mod keks;
mod keys;
mod once;
mod pin;
mod probe;
mod roots;
mod sign;
mod survey;
mod templates;
mod trial;
mod wrap;

pub(crate) use connect::connect;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use cryptoki::context::Pkcs11;
use cryptoki::object::ObjectHandle;
use cryptoki::session::{Session, SessionState};
use cryptoki::slot::Slot;
use hsm::backend::{Attest, Backend, Backup, Fault, Import, Lane, Rotate};
use hsm::{Fingerprint, KeyId, Probe, RootPin, RootTag};

use self::once::OneCall;

/// A module, opened and logged in.
struct Token {
    module: Pkcs11,
    /// The session that holds the login: closing the last session logs out.
    sentinel: Session,
    lanes: Vec<Box<dyn Lane>>,
    probe: Probe,
}

impl Backend for Token {
    fn probe(&self) -> Probe {
        self.probe.clone()
    }

    fn lanes(&mut self) -> Result<Vec<Box<dyn Lane>>, Fault> {
        Ok(std::mem::take(&mut self.lanes))
    }

    fn close(self: Box<Self>) {
        let _ = self.sentinel.logout();
        // Whatever it answers, the process ends next.
        let _ = self.module.finalize();
    }
}

/// One thread's session.
struct Desk {
    session: Session,
    once: OneCall,
    shared: Arc<Shared>,
}

/// What all sessions of one worker's life share.
struct Shared {
    module: Pkcs11,
    slot: Slot,
    serial: String,
    label: Option<String>,
    /// Makes, finds and destroys one at a time: modules race in their object lists, and answer with general errors or crashes.
    objects: Mutex<()>,
    handles: RwLock<HashMap<KeyId, Handle>>,
    /// Whose root and anchor are meant, and what is known of the root.
    root: Mutex<Known>,
}

/// What is known of the appliance's root key.
#[derive(Clone)]
struct Known {
    tag: RootTag,
    /// As recorded. No other is taken for it, whatever it is named.
    pin: Option<RootPin>,
    /// The newest one's number, once it has been looked up.
    newest: Option<u8>,
}

/// A key looked up and checked once in this worker's life.
#[derive(Clone, Copy)]
struct Handle {
    object: ObjectHandle,
    fingerprint: Fingerprint,
}

impl Shared {
    fn objects(&self) -> MutexGuard<'_, ()> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.root.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cached(&self, id: KeyId) -> Option<Handle> {
        self.handles.read().unwrap_or_else(PoisonError::into_inner).get(&id).copied()
    }

    fn cache(&self, id: KeyId, handle: Handle) {
        let mut handles = self.handles.write().unwrap_or_else(PoisonError::into_inner);
        if handles.len() >= HANDLES_MAX {
            handles.clear();
        }
        handles.insert(id, handle);
    }

    fn forget(&self, id: KeyId) {
        self.handles.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

impl Desk {
    /// Asked before "there is none" is believed. A module whose token was pulled out or logged out lists no private objects either, and
    /// some never list them again; only a fresh worker then knows.
    fn confirm_presence(&self) -> Result<(), Fault> {
        let lost = |why: String| Err(Fault::Lost { why, harmless: true });
        match self.shared.module.get_token_info(self.shared.slot) {
            Ok(info) if connect::is_meant(&info, &self.shared.serial, self.shared.label.as_deref()) => {}
            Ok(_) => return lost("another token stands in the slot".to_owned()),
            Err(error) => return lost(format!("the token is gone: {}", fault::name(&error))),
        }
        match self.session.get_session_info() {
            Ok(session) if session.session_state() == SessionState::RwUser => Ok(()),
            Ok(_) => lost("the token logged us out".to_owned()),
            Err(error) => lost(format!("the session is gone: {}", fault::name(&error))),
        }
    }

    /// What to answer for a key that is not found.
    fn missing(&self, id: KeyId) -> Fault {
        self.confirm_presence().err().unwrap_or(Fault::KeyMissing { id })
    }
}

impl Lane for Desk {
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

/// 64 bytes each; more keys than this are looked up again now and then.
const HANDLES_MAX: usize = 65_536;
