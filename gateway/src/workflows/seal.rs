//! What workflows keep is sealed: under the workspace's data key, or under keys of the appliance's own.
//! Who enters: the engine, with a scope, a place and bytes.
//! What leaves: ciphertexts that open in their own place only.

use std::sync::Arc;

use hsm::custody::DataKey;
use sagas::{Cipher, CipherAnswer, Plain, Seal, SealFault};

use crate::custody::{Custody, OwnSecret, Place};
use crate::ids::WorkspaceId;
use crate::services::workspaces::Workspaces;

/// Finds the key for a scope.
pub struct StateSeal {
    workspaces: Arc<Workspaces>,
    custody: Custody,
}

impl StateSeal {
    /// Over the workspaces' keys and the master key.
    pub fn new(workspaces: Arc<Workspaces>, custody: Custody) -> Self {
        Self { workspaces, custody }
    }
}

impl Seal for StateSeal {
    fn cipher<'a>(&'a self, scope: Option<&'a audit::Workspace>) -> CipherAnswer<'a> {
        Box::pin(async move {
            let Some(scope) = scope else {
                let cipher: Arc<dyn Cipher> = Arc::new(OwnCipher(self.custody.clone()));
                return Ok(cipher);
            };
            let unavailable = |why: &dyn std::fmt::Display| SealFault::Unavailable(why.to_string());
            let workspace: WorkspaceId = scope.as_str().parse().map_err(|why| unavailable(&why))?;
            let key = self.workspaces.data_key(&workspace).await.map_err(|why| unavailable(&why))?;
            let cipher: Arc<dyn Cipher> = Arc::new(WorkspaceCipher { workspace, key });
            Ok(cipher)
        })
    }
}

struct WorkspaceCipher {
    workspace: WorkspaceId,
    key: Arc<DataKey>,
}

impl Cipher for WorkspaceCipher {
    fn seal(&self, place: &str, plain: &[u8]) -> Result<Vec<u8>, SealFault> {
        let sealed = Place::of("saga", place, "state").seal(&self.key, &self.workspace, plain);
        sealed.map_err(|why| SealFault::Unavailable(why.to_string()))
    }

    fn open(&self, place: &str, sealed: &[u8]) -> Result<Plain, SealFault> {
        let opened = Place::of("saga", place, "state").open(&self.key, &self.workspace, sealed);
        opened.map(Plain::new).map_err(|_| SealFault::DoesNotOpen)
    }
}

struct OwnCipher(Custody);

impl Cipher for OwnCipher {
    fn seal(&self, place: &str, plain: &[u8]) -> Result<Vec<u8>, SealFault> {
        let unavailable = |why: &dyn std::fmt::Display| SealFault::Unavailable(why.to_string());
        let sealed = self.0.seal_own(place, plain).map_err(|why| unavailable(&why))?;
        serde_json::to_vec(&sealed).map_err(|why| unavailable(&why))
    }

    fn open(&self, place: &str, sealed: &[u8]) -> Result<Plain, SealFault> {
        let sealed: OwnSecret = serde_json::from_slice(sealed).map_err(|_| SealFault::DoesNotOpen)?;
        self.0.open_own(place, &sealed).map_err(|_| SealFault::DoesNotOpen)
    }
}
