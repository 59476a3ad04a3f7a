//! Those who wait for the end of a saga: told in the moment it is durable.
//! Who enters: callers with patience; the engine with a commit or an end.
//! What leaves: the end, its result opened, at most once to each; a nudge at every commit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use audit::{ReadRefused, SqlFault};
use tokio::sync::oneshot;

use super::Inner;
use super::bells::Bells;
use super::live::Live;
use crate::ids::SagaKey;
use crate::state::State;
use crate::store::{self, SagaRow};

/// How a saga ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Succeeded, compensated or abandoned.
    pub state: State,
    /// What its last step left behind, while that is kept.
    pub result: Option<serde_json::Value>,
    /// Why it did not succeed: a stable code.
    pub code: Option<String>,
    /// The same in words.
    pub error: Option<String>,
}

/// Who waits for what.
#[derive(Default)]
pub(crate) struct Waiters {
    ends: Mutex<HashMap<SagaKey, Vec<oneshot::Sender<End>>>>,
    /// Rung at each commit of a saga.
    pub(crate) commits: Bells<SagaKey>,
}

impl Waiters {
    fn listen(&self, key: &SagaKey) -> oneshot::Receiver<End> {
        let (tell, hear) = oneshot::channel();
        let mut waiting = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let list = waiting.entry(key.clone()).or_default();
        list.retain(|it| !it.is_closed());
        list.push(tell);
        hear
    }

    /// Whoever holds this while waiting leaves nothing behind, however the wait comes to its end.
    fn guest<'a>(&'a self, key: &'a SagaKey) -> Guest<'a> {
        Guest { waiters: self, key }
    }

    fn tidy(&self, key: &SagaKey) {
        let mut waiting = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(list) = waiting.get_mut(key) {
            list.retain(|it| !it.is_closed());
            if list.is_empty() {
                waiting.remove(key);
            }
        }
    }

    pub(crate) fn tell(&self, live: &Live) {
        let waiting = self.ends.lock().unwrap_or_else(PoisonError::into_inner).remove(live.key());
        let Some(waiting) = waiting else { return };
        let result = live.fold.last().cloned().flatten();
        let result = result
            .filter(|_| live.row.state == State::Succeeded)
            .and_then(|plain| serde_json::from_slice(&plain).ok());
        let end = end(&live.row, result);
        for caller in waiting {
            // Who no longer waits is not told.
            let _ = caller.send(end.clone());
        }
    }
}

/// Someone who waits for a saga.
struct Guest<'a> {
    waiters: &'a Waiters,
    key: &'a SagaKey,
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.waiters.tidy(self.key);
    }
}

impl Inner {
    pub(crate) async fn wait(
        self: &Arc<Self>,
        key: &SagaKey,
        at_most: Duration,
    ) -> Result<Option<End>, ReadRefused<SqlFault>> {
        let _guest = self.waiters.guest(key);
        // Listening comes before looking, so that an end in between is not missed.
        let hear = self.waiters.listen(key);
        if let Some(end) = self.end_of(key).await? {
            return Ok(Some(end));
        }
        Ok(tokio::time::timeout(at_most, hear).await.ok().and_then(Result::ok))
    }

    /// As [`wait`](Self::wait), but only until `seen` says so after one of the saga's commits.
    pub(crate) async fn wait_or<F: Future<Output = bool> + Send>(
        self: &Arc<Self>,
        key: &SagaKey,
        at_most: Duration,
        seen: impl Fn() -> F + Send,
    ) -> Result<Option<End>, ReadRefused<SqlFault>> {
        let commits = self.waiters.commits.listen(key);
        let looked = async {
            loop {
                let next = commits.next();
                if seen().await {
                    return;
                }
                next.await;
            }
        };
        tokio::select! {
            biased;
            end = self.wait(key, at_most) => end,
            () = looked => Ok(None),
        }
    }

    /// The end of a saga that is over.
    pub(crate) async fn end_of(
        self: &Arc<Self>,
        key: &SagaKey,
    ) -> Result<Option<End>, ReadRefused<SqlFault>> {
        let wanted = key.clone();
        let row = self.parts.ledger.read(move |view| store::saga(view, &wanted)).await?;
        let Some(row) = row.filter(|row| row.state.is_over()) else { return Ok(None) };
        let result = self.result_of(&row).await;
        Ok(Some(end(&row, result)))
    }

    pub(crate) async fn result_of(&self, row: &SagaRow) -> Option<serde_json::Value> {
        let sealed = row.result_sealed.as_ref()?;
        let def = self.parts.catalog.pinned(&row.workflow, row.version, &row.def_hash)?;
        let cipher = self.cipher_of(&row.key, def.appliance_seal).await.ok()?;
        let plain = cipher.open(&Self::place(&row.key, "result"), sealed).ok()?;
        serde_json::from_slice(&plain).ok()
    }
}

fn end(row: &SagaRow, result: Option<serde_json::Value>) -> End {
    let trouble = row.trouble.as_ref().filter(|_| row.state != State::Succeeded);
    End {
        state: row.state,
        result,
        code: trouble.map(|it| it.code.clone()),
        error: trouble.map(|it| it.words.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Scope;

    #[test]
    fn whoever_stops_waiting_leaves_nothing_behind() {
        let (waiters, key) =
            (Waiters::default(), SagaKey { scope: Scope::Appliance, id: crate::SagaId::new(0, [0; 10]) });
        let guest = waiters.guest(&key);
        let (hear, followed) = (waiters.listen(&key), waiters.commits.listen(&key));
        drop(waiters.guest(&key));
        let kept = || (waiters.ends.lock().unwrap().len(), waiters.commits.count());
        assert_eq!(kept(), (1, 1), "another who leaves takes nothing from those who stay");
        drop((hear, followed));
        drop(guest);
        assert_eq!(kept(), (0, 0));
    }
}
