//! The ring: keys as the signing path needs them, parsed once and kept until they change.
//! Who enters: signing, with a key's id or name; the keys service, after each change.
//! What leaves: cards. A card's state is only a hint: the count of uses in the ledger decides.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use hsm::KeyRef;

use super::KeysRefused;
use super::store::{KeyRow, VersionRow};
use crate::crypto::PinnedKey;
use crate::ids::WorkspaceId;
use crate::signer::SigningKey;

/// A key with the versions that the token holds.
#[derive(Debug)]
pub struct KeyCard {
    /// The row as it was when the card was made.
    pub row: KeyRow,
    /// Versions that can verify; the latest signs while the key is enabled.
    pub versions: BTreeMap<i64, Arc<SigningKey>>,
}

/// A workspace's cards, each under the id or name it was asked for by.
type Selected = HashMap<String, Arc<KeyCard>>;

/// Cards by workspace and selector; cheap to clone.
#[derive(Clone, Default)]
pub struct KeyRing {
    cards: Arc<RwLock<HashMap<WorkspaceId, Selected>>>,
}

/// Cards kept for one workspace; past it the workspace's cards are read anew.
const CARDS_PER_WORKSPACE_MAX: usize = 4096;

impl KeyRing {
    /// The card, if it is on the ring.
    pub fn find(&self, workspace: &WorkspaceId, selector: &str) -> Option<Arc<KeyCard>> {
        self.cards.read().unwrap_or_else(PoisonError::into_inner).get(workspace)?.get(selector).cloned()
    }

    /// Puts a card on the ring under the selector it was asked for by.
    pub fn put(&self, workspace: &WorkspaceId, selector: &str, card: Arc<KeyCard>) {
        let mut cards = self.cards.write().unwrap_or_else(PoisonError::into_inner);
        let own = cards.entry(workspace.clone()).or_default();
        if own.len() >= CARDS_PER_WORKSPACE_MAX {
            own.clear();
        }
        own.insert(selector.to_owned(), card);
    }

    /// Forgets a workspace's cards, because one of them changed. Changes are rare, reading anew is cheap.
    pub fn forget(&self, workspace: &WorkspaceId) {
        self.cards.write().unwrap_or_else(PoisonError::into_inner).remove(workspace);
    }
}

impl KeyCard {
    /// A card from its rows; blobs come already opened.
    ///
    /// # Errors
    /// A recorded public key cannot be read.
    pub fn new(row: KeyRow, versions: Vec<(VersionRow, Vec<u8>)>) -> Result<Self, KeysRefused> {
        let mut cards = BTreeMap::new();
        for (version, blob) in versions {
            // What is announced and does not sign yet is not on the card.
            let Some(made) = version.made.filter(|_| version.version <= row.latest) else { continue };
            let pinned = PinnedKey::new(row.kind, &made.spki).map_err(KeysRefused::Record)?;
            let key = KeyRef { id: version.token_key, kind: row.kind, fingerprint: made.fingerprint, blob };
            let key = key.knowing(&made.spki);
            cards.insert(version.version, Arc::new(SigningKey { key, pinned }));
        }
        Ok(Self { row, versions: cards })
    }
}
