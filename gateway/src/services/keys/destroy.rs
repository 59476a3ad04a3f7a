//! Destruction that fell due: announced on the ledger, carried out in the token, and told when it is done.
//! Who enters: the housekeeping loop.
//! What leaves: keys whose private halves are gone. Their records and public keys stay for ever.

use std::time::Instant;

use audit::Told;
use serde_json::json;

use super::state::{KeyEvent, KeyState};
use super::store::{self, KeyRow};
use super::{Keys, KeysRefused};
use crate::ids::{SigningKeyId, WorkspaceId};
use crate::limits::TOKEN_CALL_WAIT_MAX;
use crate::services::ground::Telling;

impl Keys {
    /// Destroys the keys whose notice is over. A key that the token does not answer for stays due.
    ///
    /// # Errors
    /// The ledger gave or took nothing.
    pub async fn destroy_due(&self) -> Result<usize, KeysRefused> {
        let now = self.ground.now();
        let due = self
            .ground
            .read::<_, KeysRefused>(move |view| store::due(view, now).map_err(KeysRefused::from))
            .await?;
        let mut gone = 0;
        for (workspace, id) in due {
            gone += usize::from(self.destroy_one(&workspace, &id).await?);
        }
        Ok(gone)
    }

    async fn destroy_one(&self, workspace: &WorkspaceId, id: &SigningKeyId) -> Result<bool, KeysRefused> {
        let found = self.find(workspace, id.as_str()).await?;
        if found.row.state == KeyState::DestructionPending {
            // If we stop after this, the key is found `destroying` and due again, and the rest is done once more.
            self.advance(workspace, &found.row, KeyEvent::NoticeOver, "key.destroy.begin").await?;
        }
        let card = self.card(workspace, id.as_str()).await?;
        for version in card.versions.values() {
            if let Err(error) = self.token.destroy(&version.key, Instant::now() + TOKEN_CALL_WAIT_MAX).await {
                tracing::warn!(%error, key = %id, "destruction will be tried again");
                return Ok(false);
            }
        }
        let row = KeyRow { state: KeyState::Destroying, ..found.row };
        self.advance(workspace, &row, KeyEvent::Gone, "key.destroy").await?;
        Ok(true)
    }

    async fn advance(
        &self,
        workspace: &WorkspaceId,
        row: &KeyRow,
        event: KeyEvent,
        action: &'static str,
    ) -> Result<(), KeysRefused> {
        let next = row.state.after(event)?;
        let destroy_after = row.destroy_after.filter(|_| next == KeyState::Destroying);
        let (telling, of, row) = (Telling::own(Some(workspace)), workspace.clone(), row.clone());
        self.ground
            .write::<_, KeysRefused>(move |tx| {
                if !store::set_state(tx, &of, &row.id, row.state, next, destroy_after)? {
                    return Err(KeysRefused::Raced);
                }
                if next == KeyState::Destroyed {
                    store::drop_blobs(tx, &of, &row.id)?;
                }
                let (before, after) = (json!({ "state": row.state.text() }), json!({ "state": next.text() }));
                Ok(Told::new(
                    (),
                    telling.entry(action, row.id.as_str(), |detail| detail.before(before).after(after)),
                ))
            })
            .await?;
        self.ring.forget(workspace);
        Ok(())
    }
}
