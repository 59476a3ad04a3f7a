//! How keys stand in their token: objects that are missing, doubled or not theirs, found before anybody needs the key.
//! Who enters: a round over all keys after each start of a worker, after a key that was not found, and now and then.
//! What leaves: faults by key, for whoever shows a key and for operators. Nothing here repairs or removes anything.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use hsm::{KeyFault, KeyId, KeyRef, Token, TokenError, TokenState};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::store::{self, Examined};
use super::{Keys, KeysRefused};
use crate::ids::WorkspaceId;
use crate::limits::{
    KEY_FAULTS_SHOWN_MAX, KEYS_EXAMINED_AGAIN_AFTER, KEYS_EXAMINED_EVERY, KEYS_EXAMINED_PAGE,
    KEYS_FAULTY_EXAMINED_EVERY, TOKEN_CALL_WAIT_MAX,
};

/// What the last round found; cheap to clone.
#[derive(Clone, Default)]
pub struct Conditions {
    faulty: Arc<RwLock<BTreeMap<KeyId, Condition>>>,
}

/// A key of which something is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Condition {
    /// `None`: the appliance's own.
    workspace: Option<WorkspaceId>,
    key: String,
    name: String,
    version: i64,
    faults: Vec<KeyFault>,
}

/// One thing that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct FaultShown {
    /// `private_missing`, `private_mismatch`, `private_doubled`, `public_missing`, `public_mismatch` or `public_doubled`.
    #[schemars(extend("enum" = ["private_missing", "private_mismatch", "private_doubled", "public_missing", "public_mismatch", "public_doubled"]))]
    pub code: &'static str,
    /// Nothing is signed with the key until it is repaired.
    pub prevents_use: bool,
    /// What it means and what to do.
    pub detail: &'static str,
}

/// A key of which something is not as it should be, as operators see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct KeyShown {
    /// Whose it is; absent for the appliance's own keys.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// Its id.
    pub key: String,
    /// Its name.
    pub name: String,
    /// Which version.
    pub version: i64,
    /// Its CKA_ID in the token, as hex.
    pub token_key: String,
    /// It signs nevertheless.
    pub usable: bool,
    /// What is not as it should be.
    pub faults: Vec<FaultShown>,
}

impl FaultShown {
    fn of(fault: KeyFault) -> Self {
        Self { code: fault.name(), prevents_use: fault.prevents_use(), detail: fault.advice() }
    }
}

impl Condition {
    fn usable(&self) -> bool {
        !self.faults.iter().any(|fault| fault.prevents_use())
    }
}

impl Conditions {
    /// What is not as it should be about the key of this name in the token.
    pub fn of(&self, key: &KeyId) -> Vec<FaultShown> {
        let faulty = self.faulty.read().unwrap_or_else(PoisonError::into_inner);
        faulty.get(key).map(|it| it.faults.iter().copied().map(FaultShown::of).collect()).unwrap_or_default()
    }

    /// How many keys sign nothing, and of how many others something is not as it should be.
    pub fn count(&self) -> (usize, usize) {
        let faulty = self.faulty.read().unwrap_or_else(PoisonError::into_inner);
        let usable = faulty.values().filter(|condition| condition.usable()).count();
        (faulty.len() - usable, usable)
    }

    /// The keys concerned, those that sign nothing first.
    pub fn list(&self) -> Vec<KeyShown> {
        let faulty = self.faulty.read().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = faulty.iter().map(|(id, condition)| condition.shown(*id)).collect();
        list.sort_by_key(|one| one.usable);
        list.truncate(KEY_FAULTS_SHOWN_MAX);
        list
    }

    fn replace(&self, found: BTreeMap<KeyId, Condition>) {
        let mut faulty = self.faulty.write().unwrap_or_else(PoisonError::into_inner);
        for (id, condition) in &found {
            if faulty.get(id) != Some(condition) {
                let faults = condition.faults.iter().map(|fault| fault.name()).collect::<Vec<_>>().join(", ");
                let (key, version, usable) = (&condition.key, condition.version, condition.usable());
                tracing::warn!(key, version, token_key = %id, usable, faults, "a key is not as it should be in the token");
            }
        }
        *faulty = found;
    }
}

impl Condition {
    fn shown(&self, id: KeyId) -> KeyShown {
        KeyShown {
            workspace: self.workspace.as_ref().map(ToString::to_string),
            key: self.key.clone(),
            name: self.name.clone(),
            version: self.version,
            token_key: id.to_string(),
            usable: self.usable(),
            faults: self.faults.iter().copied().map(FaultShown::of).collect(),
        }
    }
}

/// The token whose keys are examined, the appliance's own among them, and who says that it is time.
pub struct Examination {
    /// The token.
    pub token: Token,
    /// The appliance's own keys in it, as they are now.
    pub own: Box<dyn Fn() -> Vec<(&'static str, KeyRef)> + Send + Sync>,
    /// Rings when a key was not found, or was another.
    pub suspicion: Arc<Notify>,
}

impl Keys {
    /// What the last round found.
    pub fn conditions(&self) -> Conditions {
        self.conditions.clone()
    }

    /// Examines all keys again and again, until the house stops.
    pub async fn keep_examining(self: Arc<Self>, what: Examination, stopping: CancellationToken) {
        let mut states = what.token.watch();
        loop {
            match self.examine_all(&what).await {
                Ok(()) => {}
                // A TPM keeps no keys, so none can be missing from it.
                Err(Unexamined::Token(TokenError::Unsupported { .. })) => return,
                Err(why) => tracing::debug!(%why, "how the keys stand was not found out; another round does"),
            }
            // Whoever asks for a broken key all the time does not keep the token busy with rounds.
            let pause = tokio::time::sleep(KEYS_EXAMINED_AGAIN_AFTER);
            tokio::select! { () = pause => {}, () = stopping.cancelled() => return }
            let every = match self.conditions.count() {
                (0, 0) => KEYS_EXAMINED_EVERY,
                _ => KEYS_FAULTY_EXAMINED_EVERY,
            };
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                () = what.suspicion.notified() => {}
                () = opened(&mut states) => {}
                () = stopping.cancelled() => return,
            }
        }
    }

    /// One round over the versions that sign or will. What was found before stands until a round has come to its end.
    async fn examine_all(&self, what: &Examination) -> Result<(), Unexamined> {
        let mut found = BTreeMap::new();
        for (name, key) in (what.own)() {
            let faults = what.token.examine(&key, soon()).await?;
            let (workspace, name) = (None, name.to_owned());
            let condition = Condition { workspace, key: name.clone(), name, version: 1, faults };
            note(&mut found, key.id, condition);
        }
        let mut after = None;
        loop {
            let from = after.clone();
            let page = self.ground.read::<_, KeysRefused>(move |view| {
                Ok(store::to_examine(view, from.as_ref(), KEYS_EXAMINED_PAGE)?)
            });
            let page = page.await?;
            for one in &page {
                let faults = match what.token.examine(&one.token_key, soon()).await {
                    Ok(faults) => faults,
                    // About this key the token has nothing to say; about the next one it may.
                    Err(TokenError::Refused(_)) => continue,
                    Err(error) => return Err(error.into()),
                };
                note(&mut found, one.token_key.id, Condition::new(one, faults));
            }
            match page.into_iter().next_back() {
                Some(last) => after = Some(last),
                None => break,
            }
        }
        self.conditions.replace(found);
        Ok(())
    }
}

impl Condition {
    fn new(one: &Examined, faults: Vec<KeyFault>) -> Self {
        Self {
            workspace: Some(one.workspace.clone()),
            key: one.key.to_string(),
            name: one.name.to_string(),
            version: one.version,
            faults,
        }
    }
}

/// Why a round came to no end.
#[derive(Debug, thiserror::Error)]
enum Unexamined {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Keys(#[from] KeysRefused),
}

fn note(found: &mut BTreeMap<KeyId, Condition>, id: KeyId, condition: Condition) {
    if !condition.faults.is_empty() {
        found.insert(id, condition);
    }
}

/// Comes back when another worker has opened the token. One that is never opened again is none of this round's business.
async fn opened(states: &mut watch::Receiver<TokenState>) {
    loop {
        if states.changed().await.is_err() {
            return std::future::pending().await;
        }
        if matches!(*states.borrow_and_update(), TokenState::Ready { .. }) {
            return;
        }
    }
}

fn soon() -> Instant {
    Instant::now() + TOKEN_CALL_WAIT_MAX
}
