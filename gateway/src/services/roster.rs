//! The roster: certificates, API keys and workspaces as they stand now, in memory.
//! Who enters: the services that own the rows, after each commit; the boundary, on each request.
//! What leaves: standings without a wait. A revocation is answered only after the roster knows it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use audit::Clock;

use crate::api::{ApiKeyStanding, CertificateHash, ClientStanding, Directory, Scopes};
use crate::ids::{ApiKeyId, Name, WorkspaceId};
use crate::moment::Moment;

/// An API key as the roster holds it.
#[derive(Debug)]
pub struct ApiKeyCard {
    /// The key.
    pub id: ApiKeyId,
    /// Its workspace.
    pub workspace: WorkspaceId,
    /// What it allows.
    pub scopes: Scopes,
    /// When it ends.
    pub expires: Option<Moment>,
    /// When it was last shown, in microseconds; 0 for never since the start.
    pub last_used: AtomicI64,
}

#[derive(Default)]
struct Lists {
    clients: HashMap<CertificateHash, ClientStanding>,
    client_ends: HashMap<CertificateHash, Moment>,
    api_keys: HashMap<[u8; 32], Arc<ApiKeyCard>>,
    workspaces: HashMap<WorkspaceId, (Name, bool)>,
}

/// The roster; cheap to clone.
#[derive(Clone)]
pub struct Roster {
    lists: Arc<RwLock<Lists>>,
    clock: Arc<dyn Clock>,
    latest: Arc<AtomicI64>,
}

impl Roster {
    /// An empty roster.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { lists: Arc::default(), clock, latest: Arc::default() }
    }

    /// A certificate was enrolled or revoked. Once revoked it stays so, in whatever order two commits are told here.
    pub fn put_client(&self, certificate: CertificateHash, standing: ClientStanding) {
        let mut lists = self.write();
        if lists.clients.get(&certificate) != Some(&ClientStanding::Revoked) {
            lists.clients.insert(certificate, standing);
        }
    }

    /// A certificate counts until then, whatever becomes of it before. Told before it is enrolled.
    pub fn put_client_end(&self, certificate: CertificateHash, end: Moment) {
        self.write().client_ends.insert(certificate, end);
    }

    /// An API key was made.
    pub fn put_api_key(&self, hash: [u8; 32], card: ApiKeyCard) {
        self.write().api_keys.insert(hash, Arc::new(card));
    }

    /// An API key was revoked.
    pub fn drop_api_key(&self, id: &ApiKeyId) {
        self.write().api_keys.retain(|_, card| card.id != *id);
    }

    /// A workspace was shredded: none of its API keys is known any more.
    pub fn drop_api_keys_of(&self, workspace: &WorkspaceId) {
        self.write().api_keys.retain(|_, card| card.workspace != *workspace);
    }

    /// A workspace was made, closed or opened again.
    pub fn put_workspace(&self, id: WorkspaceId, name: Name, open: bool) {
        self.write().workspaces.insert(id, (name, open));
    }

    /// The API keys that were shown since the last call, and when.
    pub fn take_last_used(&self) -> Vec<(WorkspaceId, ApiKeyId, Moment)> {
        let lists = self.read();
        let cards = lists.api_keys.values();
        let used = cards.filter_map(|card| match card.last_used.swap(0, Ordering::Relaxed) {
            0 => None,
            micros => Some((card.workspace.clone(), card.id.clone(), Moment::from_micros(micros))),
        });
        used.collect()
    }

    /// Now, but never before a moment already seen: what has ended stays ended when the machine's clock goes back.
    fn now(&self) -> Moment {
        let now = Moment::now(self.clock.as_ref()).micros();
        Moment::from_micros(self.latest.fetch_max(now, Ordering::Relaxed).max(now))
    }

    fn read(&self) -> RwLockReadGuard<'_, Lists> {
        self.lists.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Lists> {
        self.lists.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Directory for Roster {
    fn client(&self, certificate: &CertificateHash) -> ClientStanding {
        let now = self.now();
        let lists = self.read();
        let over = lists.client_ends.get(certificate).is_some_and(|end| *end <= now);
        match lists.clients.get(certificate).cloned().unwrap_or(ClientStanding::Unknown) {
            ClientStanding::Enrolled(_) if over => ClientStanding::Expired,
            standing => standing,
        }
    }

    fn api_key(&self, hash: &[u8; 32]) -> ApiKeyStanding {
        let Some(card) = self.read().api_keys.get(hash).cloned() else { return ApiKeyStanding::Unknown };
        let now = self.now();
        if card.expires.is_some_and(|end| end <= now) {
            return ApiKeyStanding::Expired;
        }
        card.last_used.store(now.micros().max(1), Ordering::Relaxed);
        ApiKeyStanding::Active {
            id: card.id.clone(),
            workspace: card.workspace.clone(),
            scopes: card.scopes.clone(),
        }
    }

    fn workspace(&self, text: &str) -> Option<WorkspaceId> {
        let lists = self.read();
        let mut known = lists.workspaces.iter();
        known.find(|(id, (name, _))| id.as_str() == text || name.as_str() == text).map(|(id, _)| id.clone())
    }

    fn is_open(&self, workspace: &WorkspaceId) -> bool {
        self.read().workspaces.get(workspace).is_some_and(|(_, open)| *open)
    }
}
