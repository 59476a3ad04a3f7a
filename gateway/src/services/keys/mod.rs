//! Signing keys: made in the token, versioned, taken out of use, destroyed after notice.
//! Who enters: members with key scopes; signing, which asks for cards and counts uses.
//! What leaves: rows and public keys. A record is never deleted, whatever the token says.

pub mod backup;
mod blobs;
mod commands;
pub mod conditions;
mod counters;
pub mod destruction;
pub mod faults;
pub mod incoming;
pub mod making;
pub mod offers;
pub mod restoring;
pub mod ring;
pub mod rotation;
pub mod routes;
pub mod state;
pub mod store;
pub mod wire;

use std::path::PathBuf;
use std::sync::Arc;

use audit::{SqlFault, Told, Tx, View};
use hsm::{Custody, KeyRef, SharedToken};
use sagas::Refused;
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use self::commands::Changed;
use self::conditions::Conditions;
use self::ring::{KeyCard, KeyRing};
use self::state::{KeyEvent, KeyState, WrongState};
use self::store::{KeyRow, VersionRow};
use super::ground::{Ground, LedgerRefused, Say, Telling};
use super::workspaces::{Workspaces, WorkspacesRefused};
use crate::api::guard::{Permit, may};
use crate::api::{Code, Origin, Reply};
use crate::crypto::{PinnedKey, Unusable};
use crate::custody::CustodyRefused;
use crate::ids::{Name, SigningKeyId, WorkspaceId};
use crate::refused_by_ledger;
use crate::runner::RunRefused;
use crate::signer::SigningKey;

/// Why a command on keys was refused.
#[derive(Debug, thiserror::Error)]
pub enum KeysRefused {
    /// No such key in this workspace.
    #[error("no such key")]
    NoSuchKey,
    /// No such version, or the token has not made it.
    #[error("no such version")]
    NoSuchVersion,
    /// A later version, or a restored copy, signs in its place.
    #[error("version {version} only verifies; a later one has taken over")]
    OnlyVerifies {
        /// Which.
        version: i64,
    },
    /// Another version has taken over since the caller looked at the key.
    #[error("another version of the key has taken over since")]
    Fenced,
    /// Not possible in the key's state.
    #[error(transparent)]
    WrongState(#[from] WrongState),
    /// The key changed in the same moment.
    #[error("the key changed at the same moment")]
    Raced,
    /// The overlap is too long.
    #[error("the overlap is out of bounds")]
    Overlap,
    /// The workflow that carries the command.
    #[error(transparent)]
    Run(#[from] RunRefused),
    /// The token makes no such keys, as its probe says.
    #[error("the token makes no {0}")]
    TokenCannot(String),
    /// The key was made never to leave the token.
    #[error("the key was made never to leave the token")]
    NotRecoverable,
    /// No such backup in this workspace.
    #[error("no such backup")]
    NoSuchBackup,
    /// The notice is too short or too long.
    #[error("the notice is out of bounds")]
    Notice,
    /// The record of a key cannot be used.
    #[error("the key's record cannot be used")]
    Record(#[source] Unusable),
    /// The key's blob cannot be sealed or opened.
    #[error("the key's blob cannot be sealed or opened")]
    Sealing(#[source] CustodyRefused),
    /// Credentials or the workspace's data key.
    #[error(transparent)]
    Workspace(#[from] WorkspacesRefused),
    /// The ledger did not take or give it.
    #[error(transparent)]
    Ledger(#[from] LedgerRefused),
}
refused_by_ledger!(KeysRefused);

/// A key with its versions, as members see it.
#[derive(Debug)]
pub struct KeyWithVersions {
    /// The key.
    pub row: KeyRow,
    /// Its versions, oldest first.
    pub versions: Vec<VersionRow>,
}

impl KeyWithVersions {
    /// The version that signs, and the fingerprint of its public key, if the token has made it.
    pub fn latest(&self) -> Option<(i64, String)> {
        Some((self.row.latest, self.fingerprint(self.row.latest)?))
    }

    /// The fingerprint of a version's public key, if the token has made it.
    pub fn fingerprint(&self, version: i64) -> Option<String> {
        let found = self.versions.iter().find(|it| it.version == version)?;
        Some(found.made.as_ref()?.fingerprint.to_string())
    }

    /// Whether the key may ever leave the token, as its newest version says.
    pub fn custody(&self) -> Custody {
        let newest = self.versions.iter().rev().find_map(|version| version.made.as_ref());
        let provenance =
            newest.and_then(|made| serde_json::from_str::<hsm::Provenance>(&made.provenance).ok());
        provenance.map(|it| it.custody).unwrap_or_default()
    }
}

/// A change of state that members ask for.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// Out of use.
    Disable,
    /// Back into use.
    Enable,
}

/// The service.
pub struct Keys {
    ground: Ground,
    workspaces: Arc<Workspaces>,
    token: SharedToken,
    ring: KeyRing,
    conditions: Conditions,
    /// Where backups are written.
    backups: PathBuf,
}

impl Keys {
    /// The service on its ground.
    pub fn new(ground: Ground, workspaces: Arc<Workspaces>, token: SharedToken, backups: PathBuf) -> Self {
        let (ring, conditions) = (KeyRing::default(), Conditions::default());
        Self { ground, workspaces, token, ring, conditions, backups }
    }

    /// Forgets what the signing path remembers of a workspace's keys, because one of them changed.
    pub fn forget(&self, workspace: &WorkspaceId) {
        self.ring.forget(workspace);
    }

    /// Changes a key's state.
    ///
    /// # Errors
    /// Not possible in its present state, or the ledger did not take it.
    pub async fn change(
        &self,
        by: &Permit<may::KeysManage>,
        origin: &Origin,
        selector: &str,
        change: Change,
        say: impl Say<KeyWithVersions>,
    ) -> Result<Reply, KeysRefused> {
        let (action, event) = change.parts();
        let (workspace, selector) = (by.workspace().clone(), selector.to_owned());
        let act = move |tx: &mut Tx<'_>, telling: &Telling| {
            let row = store::key(tx, &workspace, &selector)?.ok_or(KeysRefused::NoSuchKey)?;
            let next = row.state.after(event)?;
            if !store::set_state(tx, &workspace, &row.id, row.state, next, None)? {
                return Err(KeysRefused::Raced);
            }
            let after = json!({ "state": next.text() });
            let entry = telling.entry(action, row.id.as_str(), |detail| {
                detail.before(json!({ "state": row.state.text() })).after(after)
            });
            Ok(Told::new(found(tx, &workspace, row.id.as_str())?, entry))
        };
        let telling = Telling::member(by, origin);
        let (reply, _) = self.ground.answer::<_, KeysRefused>(telling, act, say).await?;
        self.ring.forget(by.workspace());
        Ok(reply)
    }

    /// A page of the workspace's keys, by id.
    ///
    /// # Errors
    /// The ledger gave nothing.
    pub async fn list(
        &self,
        by: &Permit<may::KeysRead>,
        after: String,
        limit: usize,
    ) -> Result<Vec<KeyRow>, KeysRefused> {
        let workspace = by.workspace().clone();
        self.ground
            .read::<_, KeysRefused>(move |view| {
                store::keys(view, &workspace, &after, limit).map_err(KeysRefused::from)
            })
            .await
    }

    /// A key with its versions and public keys.
    ///
    /// # Errors
    /// There is none.
    pub async fn show(
        &self,
        by: &Permit<may::KeysRead>,
        selector: &str,
    ) -> Result<KeyWithVersions, KeysRefused> {
        self.find(by.workspace(), selector).await
    }

    /// The card with which signing and verifying work.
    ///
    /// # Errors
    /// There is no such key, or its record cannot be used.
    pub async fn card(&self, workspace: &WorkspaceId, selector: &str) -> Result<Arc<KeyCard>, KeysRefused> {
        if let Some(card) = self.ring.find(workspace, selector) {
            return Ok(card);
        }
        let found = self.find(workspace, selector).await?;
        let mut versions = Vec::new();
        for version in found.versions {
            let sealed = version.made.as_ref().and_then(|made| made.sealed_blob.as_deref());
            let blob = self.open_sealed(workspace, &version.token_key, sealed).await?;
            versions.push((version, blob));
        }
        let card = Arc::new(KeyCard::new(found.row, versions)?);
        self.ring.put(workspace, selector, Arc::clone(&card));
        Ok(card)
    }

    async fn find(&self, workspace: &WorkspaceId, selector: &str) -> Result<KeyWithVersions, KeysRefused> {
        let (workspace, selector) = (workspace.clone(), selector.to_owned());
        self.ground.read::<_, KeysRefused>(move |view| found(view, &workspace, &selector)).await
    }
}

fn found(view: &View<'_>, workspace: &WorkspaceId, selector: &str) -> Result<KeyWithVersions, KeysRefused> {
    let row = store::key(view, workspace, selector)?.ok_or(KeysRefused::NoSuchKey)?;
    let versions = store::versions(view, workspace, &row.id)?;
    Ok(KeyWithVersions { row, versions })
}

/// The version of a key that is to sign, as this very transaction has it. What a TPM loads it from stays sealed.
///
/// # Errors
/// There is none, or its record cannot be used.
pub fn signing_key(
    view: &View<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
    version: i64,
) -> Result<SigningKey, KeysRefused> {
    let row = store::key(view, workspace, key.as_str())?.ok_or(KeysRefused::NoSuchKey)?;
    let mut versions = store::versions(view, workspace, &row.id)?.into_iter();
    let found = versions.rfind(|it| it.version == version && version <= row.latest);
    let (id, made) = found.and_then(|it| Some((it.token_key, it.made?))).ok_or(KeysRefused::NoSuchVersion)?;
    if version < row.latest {
        return Err(KeysRefused::OnlyVerifies { version });
    }
    let pinned = PinnedKey::new(row.kind, &made.spki).map_err(KeysRefused::Record)?;
    Ok(SigningKey {
        key: KeyRef { id, kind: row.kind, fingerprint: made.fingerprint, blob: Vec::new() }
            .knowing(&made.spki),
        pinned,
    })
}

/// What a key's refusal means to a step.
pub fn rule(refused: KeysRefused) -> Refused {
    match refused {
        KeysRefused::Ledger(LedgerRefused::Fault(Some(fault))) => Refused::Sql(fault),
        KeysRefused::NoSuchKey | KeysRefused::NoSuchVersion => {
            Refused::business(Code::NotFound, refused.to_string())
        }
        KeysRefused::WrongState(_) | KeysRefused::OnlyVerifies { .. } => {
            Refused::business(Code::KeyUnusable, refused.to_string())
        }
        KeysRefused::Fenced => Refused::business(Code::Fenced, format!("{refused}; ask again")),
        other => Refused::Bug(other.to_string()),
    }
}

/// A version of a key as those who approve are shown it.
///
/// # Errors
/// There is none, or the token has not made it.
pub fn described(
    view: &View<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
    version: i64,
) -> Result<Described, KeysRefused> {
    let found = found(view, workspace, key.as_str())?;
    let row = found.row;
    let made = found.versions.into_iter().find(|it| it.version == version).and_then(|it| it.made);
    let fingerprint = made.ok_or(KeysRefused::NoSuchVersion)?.fingerprint.to_string();
    let latest = row.latest;
    Ok(Described {
        id: row.id,
        name: row.name,
        kind: row.kind.name().to_owned(),
        version,
        fingerprint,
        latest,
    })
}

/// The version of a key that signs now, as [`described`].
///
/// # Errors
/// As there.
pub fn described_latest(
    view: &View<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
) -> Result<Described, KeysRefused> {
    let latest = store::key(view, workspace, key.as_str())?.ok_or(KeysRefused::NoSuchKey)?.latest;
    described(view, workspace, key, latest)
}

/// A version of a key, by everything that tells it from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Described {
    /// The key's id.
    pub id: SigningKeyId,
    /// The key's name.
    pub name: Name,
    /// The key's kind.
    pub kind: String,
    /// The version.
    pub version: i64,
    /// SHA-256 of its public key.
    pub fingerprint: String,
    /// The version that signs where nobody says another.
    pub latest: i64,
}

impl Described {
    /// In words.
    pub fn words(&self) -> String {
        format!("version {} of the key `{}`", self.version, self.name)
    }
}

/// How many keys of a workspace are not yet destroyed.
///
/// # Errors
/// The ledger cannot be read.
pub fn standing(view: &View<'_>, workspace: &WorkspaceId) -> Result<i64, SqlFault> {
    store::standing(view, workspace)
}

/// Counts uses of a key in the transaction that authorises them, and refuses if it is not enabled, or another version has
/// taken over since the caller read its fence.
///
/// # Errors
/// The key's state, as the database has it now.
pub fn count_uses(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
    uses: i64,
    fence: i64,
) -> Result<i64, KeysRefused> {
    if let Some(counter) = store::count_uses(tx, workspace, key, uses, fence)? {
        return Ok(counter);
    }
    let row = store::key(tx, workspace, key.as_str())?.ok_or(KeysRefused::NoSuchKey)?;
    if row.state == KeyState::Enabled {
        return Err(KeysRefused::Fenced);
    }
    Err(WrongState { state: row.state }.into())
}

impl Change {
    fn parts(self) -> (&'static str, KeyEvent) {
        match self {
            Self::Disable => ("key.disable", KeyEvent::Disable),
            Self::Enable => ("key.enable", KeyEvent::Enable),
        }
    }
}
