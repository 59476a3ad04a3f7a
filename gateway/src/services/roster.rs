//! The roster: certificates, API keys and workspaces as they stand now, in memory.
//! Who enters: the services that own the rows, after each commit; the boundary, on each request.
//! What leaves: standings without a wait, as of the newest commit that was told. A revocation is answered only after the
//! roster knows it.

use std::collections::{HashMap, HashSet};
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

/// What is known, each fact under the number of the ledger's entry that made it so. Commits are told here in any order: a
/// fact under a lower number than the one that is known is from before it, and is not taken.
#[derive(Default)]
struct Lists {
    clients: HashMap<CertificateHash, (u64, ClientStanding)>,
    client_ends: HashMap<CertificateHash, Moment>,
    api_keys: HashMap<[u8; 32], Arc<ApiKeyCard>>,
    /// API keys that are gone for good, so that none is put back by whoever made it and was told late.
    revoked_api_keys: HashSet<ApiKeyId>,
    workspaces: HashMap<WorkspaceId, KnownWorkspace>,
}

/// A workspace as the roster holds it.
struct KnownWorkspace {
    as_of: u64,
    name: Name,
    standing: WorkspaceStanding,
}

/// Where a workspace stands, as far as the roster has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkspaceStanding {
    /// Its programs act.
    Open,
    /// They do not, until it is opened again.
    Closed,
    /// Never again: its API keys are gone for good.
    Shredded,
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

    /// A certificate was enrolled or revoked by the entry of this number. Once revoked it stays so.
    pub fn put_client(&self, certificate: CertificateHash, standing: ClientStanding, as_of: u64) {
        let mut lists = self.write();
        let known = lists.clients.get(&certificate);
        if known.is_none_or(|(at, known)| *at <= as_of && *known != ClientStanding::Revoked)
            || standing == ClientStanding::Revoked
        {
            lists.clients.insert(certificate, (as_of, standing));
        }
    }

    /// A certificate counts until then, whatever becomes of it before. Told before it is enrolled.
    pub fn put_client_end(&self, certificate: CertificateHash, end: Moment) {
        self.write().client_ends.insert(certificate, end);
    }

    /// An API key was made. One that was revoked meanwhile, or whose workspace was shredded, stays away.
    pub fn put_api_key(&self, hash: [u8; 32], card: ApiKeyCard) {
        let mut lists = self.write();
        let workspace = lists.workspaces.get(&card.workspace);
        let shredded = workspace.is_some_and(|it| it.standing == WorkspaceStanding::Shredded);
        if !shredded && !lists.revoked_api_keys.contains(&card.id) {
            lists.api_keys.insert(hash, Arc::new(card));
        }
    }

    /// An API key was revoked.
    pub fn drop_api_key(&self, id: &ApiKeyId) {
        let mut lists = self.write();
        lists.api_keys.retain(|_, card| card.id != *id);
        lists.revoked_api_keys.insert(id.clone());
    }

    /// A workspace was made, closed, opened again or shredded by the entry of this number, or stood so as of it.
    pub fn put_workspace(&self, id: WorkspaceId, name: Name, standing: WorkspaceStanding, as_of: u64) {
        let mut lists = self.write();
        if lists.workspaces.get(&id).is_some_and(|known| known.as_of > as_of) {
            return;
        }
        if standing == WorkspaceStanding::Shredded {
            lists.api_keys.retain(|_, card| card.workspace != id);
        }
        lists.workspaces.insert(id, KnownWorkspace { as_of, name, standing });
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
        match lists.clients.get(certificate).map_or(ClientStanding::Unknown, |(_, standing)| standing.clone())
        {
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
        // What is an id is never taken for a name, even where somebody once chose a name of that form.
        if let Ok(id) = text.parse::<WorkspaceId>()
            && lists.workspaces.contains_key(&id)
        {
            return Some(id);
        }
        lists.workspaces.iter().find(|(_, known)| known.name.as_str() == text).map(|(id, _)| id.clone())
    }

    fn is_open(&self, workspace: &WorkspaceId) -> bool {
        let lists = self.read();
        lists.workspaces.get(workspace).is_some_and(|known| known.standing == WorkspaceStanding::Open)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use audit::Boot;

    use super::*;
    use crate::api::Client;

    struct Still;

    impl Clock for Still {
        fn unix_us(&self) -> u64 {
            1
        }

        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }

        fn boot(&self) -> Boot {
            Boot { id: [0; 16], uptime: Duration::ZERO }
        }
    }

    fn roster() -> Roster {
        Roster::new(Arc::new(Still))
    }

    fn workspace(of: char) -> WorkspaceId {
        format!("ws_{}", of.to_string().repeat(20)).parse().unwrap()
    }

    fn card(workspace: WorkspaceId) -> ApiKeyCard {
        let id = format!("ak_{}", "a".repeat(20)).parse().unwrap();
        ApiKeyCard { id, workspace, scopes: Scopes::LegacyWildcard, expires: None, last_used: 0.into() }
    }

    #[test]
    fn a_workspace_stands_as_the_latest_commit_says_in_whatever_order_commits_are_told() {
        use WorkspaceStanding::{Closed, Open};
        let (id, name) = (workspace('a'), "acme".parse::<Name>().unwrap());
        for (first, second, open) in [((8, Closed), (7, Open), false), ((7, Closed), (8, Open), true)] {
            let roster = roster();
            for (as_of, standing) in [first, second] {
                roster.put_workspace(id.clone(), name.clone(), standing, as_of);
            }
            assert_eq!(roster.is_open(&id), open, "{first:?}, {second:?}");
        }
    }

    #[test]
    fn a_revoked_certificate_stays_revoked_when_its_enrolment_is_told_late() {
        let client =
            Client { id: format!("cl_{}", "a".repeat(20)).parse().unwrap(), workspace: workspace('a') };
        let (roster, hash) = (roster(), CertificateHash([1; 32]));
        roster.put_client(hash, ClientStanding::Revoked, 8);
        roster.put_client(hash, ClientStanding::Enrolled(client.clone()), 7);
        assert_eq!(roster.client(&hash), ClientStanding::Revoked);
        roster.put_client(hash, ClientStanding::Enrolled(client), 9);
        assert_eq!(roster.client(&hash), ClientStanding::Revoked, "for ever");
    }

    #[test]
    fn an_api_key_that_was_revoked_before_it_was_told_is_never_known() {
        let roster = roster();
        let card = card(workspace('a'));
        roster.drop_api_key(&card.id);
        roster.put_api_key([1; 32], card);
        assert_eq!(roster.api_key(&[1; 32]), ApiKeyStanding::Unknown);
    }

    #[test]
    fn a_shredded_workspace_has_no_api_keys_however_late_they_are_told() {
        let (roster, id) = (roster(), workspace('a'));
        roster.put_api_key([1; 32], card(id.clone()));
        roster.put_workspace(id.clone(), "acme".parse().unwrap(), WorkspaceStanding::Shredded, 8);
        roster.put_api_key([2; 32], card(id));
        for hash in [[1; 32], [2; 32]] {
            assert_eq!(roster.api_key(&hash), ApiKeyStanding::Unknown);
        }
    }

    #[test]
    fn an_id_is_never_taken_for_another_workspaces_name() {
        let (roster, good) = (roster(), workspace('a'));
        for of in ['b', 'c', 'd', 'e', 'f', 'g', 'h', 'j'] {
            let named: Name = format!("as-{of}").parse().unwrap();
            roster.put_workspace(workspace(of), named, WorkspaceStanding::Open, 1);
        }
        // Such a name is refused by now; one may stand from before.
        let shadow = good.as_str().parse::<Name>().unwrap();
        roster.put_workspace(workspace('k'), shadow, WorkspaceStanding::Open, 1);
        roster.put_workspace(good.clone(), "good".parse().unwrap(), WorkspaceStanding::Open, 1);
        assert_eq!(roster.workspace(good.as_str()), Some(good.clone()));
        assert_eq!(roster.workspace("good"), Some(good));
    }
}
