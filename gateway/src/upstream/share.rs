//! What an upstream keeps for each workspace apart: its connections, its endpoints' rota, its budget of retries.
//! Who enters: requests, each with whose it is.
//! What leaves: the workspace's share. A late answer to one workspace's request reaches no other, and who brings endpoints to fail
//! leaves them out for itself alone.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper_util::client::legacy::Client;

use super::budget::Budget;
use super::connector::Connector;
use super::rota::Rota;
use super::sent::Sent;
use crate::ids::WorkspaceId;

/// What belongs to one workspace.
pub(super) struct Share {
    pub(super) client: Client<Connector, Sent>,
    rota: Mutex<Rota>,
    budget: Mutex<Budget>,
}

/// All shares of an upstream.
pub(super) struct Shares {
    make: Box<dyn Fn() -> Share + Send + Sync>,
    known: Mutex<HashMap<WorkspaceId, (Instant, Arc<Share>)>>,
}

/// Shares kept at once; beyond it the one that was used longest ago goes, once nobody uses it.
const KNOWN_MAX: usize = 1_024;

impl Share {
    pub(super) fn new(client: Client<Connector, Sent>, endpoints: usize) -> Self {
        Self { client, rota: Mutex::new(Rota::new(endpoints)), budget: Mutex::default() }
    }

    pub(super) fn rota(&self) -> MutexGuard<'_, Rota> {
        self.rota.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shares {
    pub(super) fn new(make: impl Fn() -> Share + Send + Sync + 'static) -> Self {
        Self { make: Box::new(make), known: Mutex::default() }
    }

    /// The workspace's share.
    pub(super) fn of(&self, workspace: &WorkspaceId) -> Arc<Share> {
        let mut known = self.known();
        if known.len() >= KNOWN_MAX && !known.contains_key(workspace) {
            let idle = known.iter().filter(|(_, (_, share))| Arc::strong_count(share) == 1);
            let oldest = idle.min_by_key(|(_, (used, _))| *used).map(|(workspace, _)| workspace.clone());
            oldest.into_iter().for_each(|workspace| drop(known.remove(&workspace)));
        }
        let make = || (Instant::now(), Arc::new((self.make)()));
        let (used, share) = known.entry(workspace.clone()).or_insert_with(make);
        *used = Instant::now();
        Arc::clone(share)
    }

    /// Endpoints that are left out at the moment for those who miss most of them.
    pub(super) fn endpoints_out(&self, now: Duration) -> usize {
        self.known().values().map(|(_, share)| share.rota().out(now)).max().unwrap_or(0)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<WorkspaceId, (Instant, Arc<Share>)>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
