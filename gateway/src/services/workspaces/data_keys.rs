//! Data keys: opened through the master key and the workspace's own key in the token, kept in locked memory while they are used.
//! Who enters: whoever seals or opens a workspace's rows.
//! What leaves: the key, until the workspace is shredded.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Instant;

use hsm::Kek;
use hsm::custody::DataKey;

use super::store::{self, DataKeyRow};
use super::{Workspaces, WorkspacesRefused, founding};
use crate::ids::WorkspaceId;
use crate::limits::{DATA_KEYS_OPEN_MAX, TOKEN_CALL_WAIT_MAX};

/// The data key's inner wrapping is bound to this version, whatever lies over it.
const MASTER_WRAPPED: i64 = 1;

/// Data keys in memory, wiped when they go.
#[derive(Default)]
pub(super) struct Opened {
    keys: HashMap<WorkspaceId, Arc<DataKey>>,
    /// Whose key is gone for good. No id is given twice, so none of them comes back.
    shredded: HashSet<WorkspaceId>,
}

impl Opened {
    /// Keeps what the token has opened. One that was shredded while the token was asked is not put back, nor handed out.
    fn keep(&mut self, id: &WorkspaceId, key: &Arc<DataKey>) -> bool {
        if self.shredded.contains(id) {
            return false;
        }
        if self.keys.len() >= DATA_KEYS_OPEN_MAX {
            self.keys.clear();
        }
        self.keys.insert(id.clone(), Arc::clone(key));
        true
    }

    fn shred(&mut self, id: &WorkspaceId) {
        self.keys.remove(id);
        self.shredded.insert(id.clone());
    }
}

impl Workspaces {
    /// The workspace's data key, to seal or open its rows. The token is asked once, and then again after a restart.
    ///
    /// # Errors
    /// No such workspace, it was shredded, or the key does not open.
    pub async fn data_key(&self, id: &WorkspaceId) -> Result<Arc<DataKey>, WorkspacesRefused> {
        if let Some(key) = self.opened().keys.get(id) {
            return Ok(Arc::clone(key));
        }
        let row = self.data_key_row(id).await?;
        let key = Arc::new(match row.version {
            0 => return Err(WorkspacesRefused::NoDataKey),
            store::UNDER_KEK => {
                let kek = row.kek.as_deref().and_then(|kept| self.open_kek(id, kept));
                let kek = kek.ok_or(WorkspacesRefused::NoDataKey)?;
                let deadline = Instant::now() + TOKEN_CALL_WAIT_MAX;
                let inner = self
                    .token
                    .of(id.as_str())
                    .unwrap_under(&kek, &row.wrapped, &founding::bound_to(id), deadline)
                    .await;
                let inner = inner.map_err(WorkspacesRefused::Token)?;
                self.custody.open_data_key(id, MASTER_WRAPPED, &inner).map_err(WorkspacesRefused::DataKey)?
            }
            version => {
                self.custody.open_data_key(id, version, &row.wrapped).map_err(WorkspacesRefused::DataKey)?
            }
        });
        match self.opened().keep(id, &key) {
            true => Ok(key),
            false => Err(WorkspacesRefused::NoDataKey),
        }
    }

    /// The workspace's own key in the token; none for workspaces from before there were such keys.
    pub(super) async fn kek(&self, id: &WorkspaceId) -> Result<Option<Kek>, WorkspacesRefused> {
        match self.data_key_row(id).await?.kek {
            None => Ok(None),
            Some(kept) => self.open_kek(id, &kept).map(Some).ok_or(WorkspacesRefused::NoDataKey),
        }
    }

    async fn data_key_row(&self, id: &WorkspaceId) -> Result<DataKeyRow, WorkspacesRefused> {
        let of = id.clone();
        let row =
            self.ground.read::<_, WorkspacesRefused>(move |view| Ok(store::data_key(view, &of)?)).await?;
        row.ok_or(WorkspacesRefused::NothingToChange)
    }

    pub(super) fn forget_data_key(&self, id: &WorkspaceId) {
        self.opened().shred(id);
    }

    fn opened(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use hsm::custody::MasterKey;

    use super::*;
    use crate::custody::Custody;
    use crate::dice::Dice;

    #[test]
    fn a_key_that_the_token_opens_while_it_is_shredded_is_not_put_back() {
        let custody = Custody::new(MasterKey::generate().unwrap());
        let (mut opened, id) = (Opened::default(), WorkspaceId::new(&Dice::system()).unwrap());
        let wrapped = custody.new_data_key(&id).unwrap();
        let key = Arc::new(custody.open_data_key(&id, MASTER_WRAPPED, &wrapped).unwrap());
        assert!(opened.keep(&id, &key) && opened.keys.contains_key(&id));
        // The token was asked before the shredding, and answers after it.
        opened.shred(&id);
        assert!(!opened.keep(&id, &key), "it is handed out");
        assert!(!opened.keys.contains_key(&id), "it is kept in memory");
        let other = WorkspaceId::new(&Dice::system()).unwrap();
        assert!(opened.keep(&other, &key), "another workspace's is none of it");
    }
}
