//! Making a key version: the order goes on the ledger, the token makes the key, the outcome goes on the ledger.
//! Who enters: create and rotate; recovery at start, with orders that a crash left open.
//! What leaves: a version whose attributes the token's worker has read back, or an order marked as not made.

use std::time::Instant;

use audit::{Outcome, Told};
use hsm::{KeyId, NewKey};
use serde_json::json;

use super::state::KeyEvent;
use super::store::{self, KeyRow, Made, OpenOrder, VersionRow};
use super::{Keys, KeysRefused};
use crate::api::guard::{Permit, may};
use crate::custody::Place;
use crate::hardware::sweep;
use crate::ids::WorkspaceId;
use crate::limits::{KEY_VERSIONS_MAX, TOKEN_GENERATE_WAIT_MAX};
use crate::services::ground::Telling;
use crate::services::workspaces;

impl Keys {
    /// An order under a name in the token that nobody else uses.
    pub(super) fn order_of(&self, workspace: &WorkspaceId, row: &KeyRow, version: i64) -> OpenOrder {
        let token_key = KeyId(self.ground.dice.throw());
        OpenOrder { workspace: workspace.clone(), key: row.id.clone(), version, token_key }
    }

    /// If we stop after this, recovery finds the order, destroys what the token may hold under its name, and closes it.
    pub(super) async fn begin_key(
        &self,
        by: &Permit<may::KeysManage>,
        telling: &Telling,
        row: KeyRow,
        order: OpenOrder,
    ) -> Result<(), KeysRefused> {
        let (telling, workspace, standing) = (telling.clone(), by.workspace().clone(), by.standing().clone());
        self.ground.write::<_, KeysRefused>(move |tx| {
            workspaces::confirm(tx, &workspace, &standing, row.created)?;
            store::insert(tx, &workspace, &row).map_err(|fault| {
                if fault.is_duplicate() { KeysRefused::NameTaken(row.name.clone()) } else { fault.into() }
            })?;
            store::order_version(tx, &order, row.created)?;
            let after = json!({ "name": row.name.as_str(), "kind": row.kind.name(), "version": 1, "token_key": order.token_key.to_string() });
            Ok(Told::new((), telling.entry("key.order", row.id.as_str(), |detail| detail.after(after))))
        }).await.map(drop)
    }

    pub(super) async fn begin_version(
        &self,
        by: &Permit<may::KeysManage>,
        telling: &Telling,
        row: &KeyRow,
        order: OpenOrder,
    ) -> Result<(), KeysRefused> {
        if order.version > KEY_VERSIONS_MAX {
            return Err(KeysRefused::TooManyVersions);
        }
        let now = self.ground.now();
        let (telling, standing, row) = (telling.clone(), by.standing().clone(), row.clone());
        self.ground
            .write::<_, KeysRefused>(move |tx| {
                workspaces::confirm(tx, &order.workspace, &standing, now)?;
                let present =
                    store::key(tx, &order.workspace, row.id.as_str())?.ok_or(KeysRefused::NoSuchKey)?;
                // Only a key that could be disabled, that is an enabled one, gets a new version.
                present.state.after(KeyEvent::Disable)?;
                store::order_version(tx, &order, now)
                    .map_err(|fault| if fault.is_duplicate() { KeysRefused::Raced } else { fault.into() })?;
                let after = json!({ "version": order.version, "token_key": order.token_key.to_string() });
                Ok(Told::new((), telling.entry("key.order", row.id.as_str(), |detail| detail.after(after))))
            })
            .await
            .map(drop)
    }

    /// Has the token make what is on order, and records what came of it.
    pub(super) async fn make(
        &self,
        telling: &Telling,
        row: &KeyRow,
        order: OpenOrder,
    ) -> Result<u64, KeysRefused> {
        let label = format!("chancery {} {} v{}", order.workspace, row.name, order.version);
        let deadline = Instant::now() + TOKEN_GENERATE_WAIT_MAX;
        match self.token.generate(order.token_key, row.kind, &label, deadline).await {
            Ok(new) => self.record_made(telling, row, order, new).await,
            Err(error) => {
                // What the token may hold under the order's name is destroyed before the order is closed.
                self.close_order(telling, order).await?;
                Err(KeysRefused::Token(error))
            }
        }
    }

    async fn record_made(
        &self,
        telling: &Telling,
        row: &KeyRow,
        order: OpenOrder,
        new: NewKey,
    ) -> Result<u64, KeysRefused> {
        let sealed_blob = self.seal_blob(&order, &new.key.blob).await?;
        let provenance = serde_json::to_string(&new.provenance).unwrap_or_default();
        let made =
            Made { fingerprint: new.key.fingerprint, spki: new.public.spki_der, sealed_blob, provenance };
        let (telling, workspace, row) = (telling.clone(), order.workspace.clone(), row.clone());
        let recorded = self.ground.write::<_, KeysRefused>(move |tx| {
            if !store::make_version(tx, &order, &made)? {
                return Err(KeysRefused::Raced);
            }
            if order.version == 1 {
                store::set_state(tx, &order.workspace, &row.id, row.state, row.state.after(KeyEvent::Made)?, None)?;
            }
            let after = json!({ "version": order.version, "fingerprint": made.fingerprint.to_string(), "provenance": made.provenance });
            let action = if order.version == 1 { "key.create" } else { "key.rotate" };
            Ok(Told::new((), telling.entry(action, row.id.as_str(), |detail| detail.after(after))))
        }).await?;
        self.ring.forget(&workspace);
        Ok(recorded.seq())
    }

    /// Destroys whatever the token holds under the order's name, then records that nothing came of the order.
    async fn close_order(&self, telling: &Telling, order: OpenOrder) -> Result<(), KeysRefused> {
        if !sweep(&self.token, order.token_key).await {
            // The token is away. The order stays open; recovery at the next start closes it.
            return Ok(());
        }
        let telling = telling.clone();
        let recorded = self
            .ground
            .write::<_, KeysRefused>(move |tx| {
                store::drop_version(tx, &order)?;
                let row =
                    store::key(tx, &order.workspace, order.key.as_str())?.ok_or(KeysRefused::NoSuchKey)?;
                if let Ok(failed) = row.state.after(KeyEvent::NotMade) {
                    store::set_state(tx, &order.workspace, &row.id, row.state, failed, None)?;
                }
                let after = json!({ "version": order.version, "state": "not_made" });
                let entry = telling
                    .entry("key.order_closed", row.id.as_str(), |detail| detail.after(after))
                    .outcome(Outcome::Failed);
                Ok(Told::new((), entry))
            })
            .await?;
        tracing::warn!(seq = recorded.seq(), "a key on order was not made");
        Ok(())
    }

    /// Closes the orders that a crash left open. The appliance's own act, so it tells it under its own name.
    ///
    /// # Errors
    /// The ledger gave or took nothing.
    pub async fn recover(&self) -> Result<(), KeysRefused> {
        let orders = self
            .ground
            .read::<_, KeysRefused>(|view| store::on_order(view).map_err(KeysRefused::from))
            .await?;
        for order in orders {
            let telling = Telling::own(Some(&order.workspace));
            self.close_order(&telling, order).await?;
        }
        Ok(())
    }

    async fn seal_blob(&self, order: &OpenOrder, blob: &[u8]) -> Result<Option<Vec<u8>>, KeysRefused> {
        if blob.is_empty() {
            return Ok(None);
        }
        let data_key = self.workspaces.data_key(&order.workspace).await?;
        let row = row_name(&order.token_key);
        Place::of("key_versions", &row, "token blob")
            .seal(&data_key, &order.workspace, blob)
            .map(Some)
            .map_err(KeysRefused::Sealing)
    }

    /// The blob with which a TPM loads the key; empty where the token keeps the key itself.
    pub(super) async fn open_blob(
        &self,
        workspace: &WorkspaceId,
        version: &VersionRow,
    ) -> Result<Vec<u8>, KeysRefused> {
        let Some(sealed) = version.made.as_ref().and_then(|made| made.sealed_blob.as_ref()) else {
            return Ok(Vec::new());
        };
        let data_key = self.workspaces.data_key(workspace).await?;
        let row = row_name(&version.token_key);
        Place::of("key_versions", &row, "token blob")
            .open(&data_key, workspace, sealed)
            .map_err(KeysRefused::Sealing)
    }
}

/// A version's row, named by what never changes and is never used twice.
fn row_name(token_key: &KeyId) -> String {
    token_key.to_string()
}
