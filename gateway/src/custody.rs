//! The master key in the daemon's hands, and what is sealed under it.
//! Who enters: services, with a workspace and the place a secret belongs to.
//! What leaves: wrapped data keys and ciphertexts that open in their own place only.

use std::sync::Arc;

use hsm::custody::{Binding, DataKey, MasterKey, SealFault};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::ids::WorkspaceId;

/// A secret could not be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[error("the secret in {place} cannot be sealed or opened")]
pub struct CustodyRefused {
    place: &'static str,
    #[source]
    fault: CustodyFault,
}

#[derive(Debug, thiserror::Error)]
enum CustodyFault {
    #[error("the master key has not been unwrapped yet; the hardware that does it is away")]
    Locked,
    #[error(transparent)]
    Seal(#[from] SealFault),
}

/// The master key; cheap to clone, wiped when the last clone goes.
#[derive(Clone, Debug)]
pub struct Custody {
    master: Option<Arc<MasterKey>>,
}

/// Where a ciphertext belongs.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    table: &'static str,
    row: &'a str,
    purpose: &'static str,
}

/// Data keys carry their version in the row; there is one so far.
const DATA_KEY_VERSION: u32 = 1;

impl Custody {
    /// Over the unwrapped master key.
    pub fn new(master: MasterKey) -> Self {
        Self { master: Some(Arc::new(master)) }
    }

    /// Without the master key, whose hardware is away: nothing can be sealed or opened.
    pub fn locked() -> Self {
        Self { master: None }
    }

    fn master(&self, place: &'static str) -> Result<&MasterKey, CustodyRefused> {
        self.master.as_deref().ok_or(CustodyRefused { place, fault: CustodyFault::Locked })
    }

    /// The master key itself, to be wrapped once more.
    ///
    /// # Errors
    /// It is not there.
    pub fn master_key(&self) -> Result<&MasterKey, CustodyRefused> {
        self.master("appliance")
    }

    /// A fresh data key for a workspace, wrapped for its row.
    ///
    /// # Errors
    /// No randomness, or memory cannot be locked.
    pub fn new_data_key(&self, workspace: &WorkspaceId) -> Result<Vec<u8>, CustodyRefused> {
        let sealed = self.master("workspaces")?.new_data_key(&data_key_place(workspace, DATA_KEY_VERSION));
        sealed.map(|(_, wrapped)| wrapped).map_err(refused_in("workspaces"))
    }

    /// Opens a workspace's data key.
    ///
    /// # Errors
    /// It was wrapped for another workspace, or under another master key.
    pub fn open_data_key(
        &self,
        workspace: &WorkspaceId,
        version: i64,
        wrapped: &[u8],
    ) -> Result<DataKey, CustodyRefused> {
        let version = u32::try_from(version).unwrap_or(0);
        let opened = self.master("workspaces")?.open_data_key(wrapped, &data_key_place(workspace, version));
        opened.map_err(refused_in("workspaces"))
    }
}

impl Custody {
    /// Seals a secret of the appliance itself: under a data key made for it alone, which travels with it.
    ///
    /// # Errors
    /// No randomness, or memory cannot be locked.
    pub fn seal_own(&self, row: &str, plain: &[u8]) -> Result<OwnSecret, CustodyRefused> {
        let refused = refused_in("appliance");
        let (key, wrapped_key) =
            self.master("appliance")?.new_data_key(&own_place(row, "data key")).map_err(&refused)?;
        let sealed = key.seal(plain, &own_place(row, "secret")).map_err(&refused)?;
        Ok(OwnSecret { wrapped_key, sealed })
    }

    /// Opens a secret of the appliance itself.
    ///
    /// # Errors
    /// It belongs elsewhere, or was changed.
    pub fn open_own(&self, row: &str, secret: &OwnSecret) -> Result<Zeroizing<Vec<u8>>, CustodyRefused> {
        let refused = refused_in("appliance");
        let key = self
            .master("appliance")?
            .open_data_key(&secret.wrapped_key, &own_place(row, "data key"))
            .map_err(&refused)?;
        key.open(&secret.sealed, &own_place(row, "secret")).map_err(&refused)
    }
}

/// A secret of the appliance itself, at rest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OwnSecret {
    wrapped_key: Vec<u8>,
    sealed: Vec<u8>,
}

fn refused_in(place: &'static str) -> impl Fn(SealFault) -> CustodyRefused {
    move |fault| CustodyRefused { place, fault: fault.into() }
}

fn own_place<'a>(row: &'a str, purpose: &'a str) -> Binding<'a> {
    Binding { workspace: "", table: "appliance", row, purpose, key_version: DATA_KEY_VERSION }
}

fn data_key_place(workspace: &WorkspaceId, version: u32) -> Binding<'_> {
    Binding {
        workspace: workspace.as_str(),
        table: "workspaces",
        row: workspace.as_str(),
        purpose: "data key",
        key_version: version,
    }
}

impl<'a> Place<'a> {
    /// The place of a row's secret.
    pub fn of(table: &'static str, row: &'a str, purpose: &'static str) -> Self {
        Self { table, row, purpose }
    }

    /// Seals a secret into its place.
    ///
    /// # Errors
    /// No randomness.
    pub fn seal(
        self,
        key: &DataKey,
        workspace: &WorkspaceId,
        plain: &[u8],
    ) -> Result<Vec<u8>, CustodyRefused> {
        key.seal(plain, &self.binding(workspace)).map_err(refused_in(self.table))
    }

    /// Opens a secret in its place.
    ///
    /// # Errors
    /// It belongs elsewhere, or was changed.
    pub fn open(
        self,
        key: &DataKey,
        workspace: &WorkspaceId,
        sealed: &[u8],
    ) -> Result<Vec<u8>, CustodyRefused> {
        let opened = key.open(sealed, &self.binding(workspace));
        opened.map(|plain| plain.to_vec()).map_err(refused_in(self.table))
    }

    fn binding<'b>(&'b self, workspace: &'b WorkspaceId) -> Binding<'b> {
        let Self { table, row, purpose } = *self;
        Binding { workspace: workspace.as_str(), table, row, purpose, key_version: DATA_KEY_VERSION }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dice::Dice;

    fn two() -> (WorkspaceId, WorkspaceId) {
        let dice = Dice::system();
        (WorkspaceId::new(&dice).unwrap(), WorkspaceId::new(&dice).unwrap())
    }

    #[test]
    fn without_the_master_key_nothing_is_sealed_or_opened() {
        let (locked, (ours, _)) = (Custody::locked(), two());
        assert!(locked.new_data_key(&ours).is_err() && locked.open_data_key(&ours, 1, &[]).is_err());
        assert!(locked.seal_own("row", b"secret").is_err());
    }

    #[test]
    fn a_data_key_moved_to_another_workspace_does_not_open() {
        let custody = Custody::new(MasterKey::generate().unwrap());
        let (ours, theirs) = two();
        let wrapped = custody.new_data_key(&ours).unwrap();
        assert!(custody.open_data_key(&ours, 1, &wrapped).is_ok());
        assert!(custody.open_data_key(&theirs, 1, &wrapped).is_err());
        assert!(custody.open_data_key(&ours, 2, &wrapped).is_err());
    }

    #[test]
    fn a_secret_moved_to_another_row_purpose_or_workspace_does_not_open() {
        let custody = Custody::new(MasterKey::generate().unwrap());
        let (ours, theirs) = two();
        let key = custody.open_data_key(&ours, 1, &custody.new_data_key(&ours).unwrap()).unwrap();
        let place = Place::of("key_versions", "a", "token blob");
        let sealed = place.seal(&key, &ours, b"secret").unwrap();
        assert_eq!(place.open(&key, &ours, &sealed).unwrap(), b"secret");
        assert!(place.open(&key, &theirs, &sealed).is_err());
        assert!(Place::of("key_versions", "b", "token blob").open(&key, &ours, &sealed).is_err());
        assert!(Place::of("key_versions", "a", "other").open(&key, &ours, &sealed).is_err());
    }
}
