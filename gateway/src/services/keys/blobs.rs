//! What a TPM needs to load a key: kept sealed under the workspace's data key, bound to the version's row.
//! Who enters: new keys on their way into the table; cards on their way to the signer.
//! What leaves: sealed bytes for the table; the blob itself in memory only.

use hsm::KeyId;

use super::{Keys, KeysRefused};
use crate::custody::Place;
use crate::ids::WorkspaceId;

impl Keys {
    /// Seals what a TPM needs to load a key; where the token keeps the key itself there is nothing.
    pub(super) async fn seal_blob(
        &self,
        workspace: &WorkspaceId,
        token_key: &KeyId,
        blob: &[u8],
    ) -> Result<Option<Vec<u8>>, KeysRefused> {
        if blob.is_empty() {
            return Ok(None);
        }
        let data_key = self.workspaces.data_key(workspace).await?;
        // A version's row is named by what never changes and is never used twice.
        let sealed =
            Place::of("key_versions", &token_key.to_string(), "token blob").seal(&data_key, workspace, blob);
        sealed.map(Some).map_err(KeysRefused::Sealing)
    }

    /// The blob with which a TPM loads the key; empty where the token keeps the key itself.
    pub(super) async fn open_sealed(
        &self,
        workspace: &WorkspaceId,
        token_key: &KeyId,
        sealed: Option<&[u8]>,
    ) -> Result<Vec<u8>, KeysRefused> {
        let Some(sealed) = sealed else { return Ok(Vec::new()) };
        let data_key = self.workspaces.data_key(workspace).await?;
        let opened = Place::of("key_versions", &token_key.to_string(), "token blob")
            .open(&data_key, workspace, sealed);
        opened.map_err(KeysRefused::Sealing)
    }
}
