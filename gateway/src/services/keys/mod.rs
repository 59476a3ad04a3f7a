//! Signing keys: made in the token, versioned, taken out of use, destroyed after notice.
//! Who enters: members with key scopes; signing, which asks for cards and counts uses.
//! What leaves: rows and public keys. A record is never deleted, whatever the token says.

pub mod backup;
mod counters;
pub mod destruction;
pub mod faults;
pub mod incoming;
pub mod making;
pub mod offers;
pub mod ring;
pub mod rotation;
pub mod routes;
pub mod state;
pub mod store;
pub mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use audit::{EntryFilter, EntryOrder, EntryScope, SqlFault, Told, Tx, View};
use hsm::{Custody, KeyId, KeyKind, KeyRef, Token, TokenError};
use sagas::{SagaId, SagaKey, Scope};
use serde::Serialize;
use serde_json::json;

use self::destruction::DestructionPlan;
use self::making::NewKeyPlan;

use self::ring::{KeyCard, KeyRing};
use self::rotation::RotationPlan;
use self::state::{KeyEvent, KeyState, WrongState};
use self::store::{KeyRow, VersionRow};
use super::ground::{Ground, LedgerRefused, Telling};
use super::workspaces::{self, Workspaces, WorkspacesRefused};
use crate::api::Origin;
use crate::api::guard::{Permit, may};
use crate::crypto::{PinnedKey, Unusable};
use crate::custody::{CustodyRefused, Place};
use crate::ids::{Name, RequestId, SigningKeyId, WorkspaceId};
use crate::limits::{DESTRUCTION_NOTICE_MAX, DESTRUCTION_NOTICE_MIN, ROTATION_OVERLAP_MAX};
use crate::refused_by_ledger;
use crate::runner::{Ran, RunRefused};
use crate::services::policy::Policy;
use crate::signer::SigningKey;

/// Why a command on keys was refused.
#[derive(Debug, thiserror::Error)]
pub enum KeysRefused {
    /// The name is taken in this workspace.
    #[error("there is a key named {0} already")]
    NameTaken(Name),
    /// No such key in this workspace.
    #[error("no such key")]
    NoSuchKey,
    /// No such version, or the token has not made it.
    #[error("no such version")]
    NoSuchVersion,
    /// A restored copy signs in its place.
    #[error("version {version} was replaced by a restored copy and never signs again")]
    Replaced {
        /// Which.
        version: i64,
    },
    /// A copy has taken over since the caller looked at the key.
    #[error("a restored copy of the key has taken over since")]
    Fenced,
    /// Not possible in the key's state.
    #[error(transparent)]
    WrongState(#[from] WrongState),
    /// The key changed in the same moment.
    #[error("the key changed at the same moment")]
    Raced,
    /// The key has as many versions as it may have.
    #[error("the key has all the versions it may have")]
    TooManyVersions,
    /// The overlap is too long.
    #[error("the overlap is out of bounds")]
    Overlap,
    /// The workflow that carries the command.
    #[error(transparent)]
    Run(#[from] RunRefused),
    /// The key was made never to leave the token.
    #[error("the key was made never to leave the token")]
    NotRecoverable,
    /// No such backup in this workspace.
    #[error("no such backup")]
    NoSuchBackup,
    /// The notice is too short or too long.
    #[error("the notice is out of bounds")]
    Notice,
    /// The token did not do it, or we do not know.
    #[error("the token did not do it")]
    Token(#[source] TokenError),
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

/// What became of a command that runs as a workflow.
#[derive(Debug)]
pub struct Changed {
    /// The newest entry about the key, once the workflow is done.
    pub seq: Option<u64>,
    /// The workflow.
    pub workflow: SagaKey,
    /// The key as it is now; absent while the workflow goes on.
    pub key: Option<KeyWithVersions>,
}

impl KeyWithVersions {
    /// Whether the key may ever leave the token, as its newest version says.
    pub fn custody(&self) -> Custody {
        let newest = self.versions.iter().rev().find_map(|version| version.made.as_ref());
        let provenance =
            newest.and_then(|made| serde_json::from_str::<hsm::Provenance>(&made.provenance).ok());
        provenance.map(|it| it.custody).unwrap_or_default()
    }
}

/// Between two looks at a key that a workflow is about to change.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

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
    token: Token,
    ring: KeyRing,
    /// Where backups are written.
    backups: PathBuf,
}

impl Keys {
    /// The service on its ground.
    pub fn new(ground: Ground, workspaces: Arc<Workspaces>, token: Token, backups: PathBuf) -> Self {
        Self { ground, workspaces, token, ring: KeyRing::default(), backups }
    }

    /// Makes a key in the token, step by step; a step that fails undoes those before it.
    ///
    /// # Errors
    /// The name is taken, or token or ledger did not do it.
    pub async fn create(
        &self,
        by: &Permit<may::KeysManage>,
        origin: &Origin,
        name: Name,
        kind: KeyKind,
        custody: Custody,
        policy: Option<Policy>,
    ) -> Result<Changed, KeysRefused> {
        let key = SigningKeyId::new(&self.ground.dice);
        let plan = NewKeyPlan { workspace: by.workspace().clone(), key, name, kind, custody, policy };
        self.run(by, origin, "key.generate", &plan, plan.key.clone()).await
    }

    /// Makes a new version, announces it, and lets it sign after the overlap; the old ones go on verifying.
    ///
    /// # Errors
    /// The key is not enabled, or token or ledger did not do it.
    pub async fn rotate(
        &self,
        by: &Permit<may::KeysManage>,
        origin: &Origin,
        selector: &str,
        overlap: Duration,
    ) -> Result<Changed, KeysRefused> {
        if overlap > ROTATION_OVERLAP_MAX {
            return Err(KeysRefused::Overlap);
        }
        let found = self.find(by.workspace(), selector).await?;
        let key = found.row.id.clone();
        let plan = RotationPlan {
            workspace: by.workspace().clone(),
            key: key.clone(),
            custody: found.custody(),
            overlap_seconds: overlap.as_secs(),
        };
        self.run(by, origin, "key.rotate", &plan, key).await
    }

    /// Takes a key out of use and destroys it after approvals and notice.
    ///
    /// # Errors
    /// Not possible in its present state, or the notice is out of bounds.
    pub async fn schedule_destruction(
        &self,
        by: &Permit<may::KeysManage>,
        origin: &Origin,
        selector: &str,
        notice: Duration,
        reason: String,
    ) -> Result<Changed, KeysRefused> {
        if !(DESTRUCTION_NOTICE_MIN..=DESTRUCTION_NOTICE_MAX).contains(&notice) {
            return Err(KeysRefused::Notice);
        }
        let key = self.find(by.workspace(), selector).await?.row.id;
        let plan = DestructionPlan {
            workspace: by.workspace().clone(),
            key: key.clone(),
            reason,
            notice_seconds: notice.as_secs(),
        };
        // It takes days, so nobody waits for its end: only until the key is out of use.
        let workflow = self.launch(by, origin, "key.destroy", &plan).await?;
        tokio::select! {
            // An end so soon is a refusal.
            ended = self.ground.outcome::<SigningKeyId, KeysRefused>(&workflow, origin.deadline) => drop(ended?),
            () = self.until(by.workspace(), &key, origin.deadline, |row| row.workflow.is_some()) => {}
        }
        self.seen(workflow, by.workspace(), &key, origin).await
    }

    /// Calls the destruction of a key off: it stands again as it stood before.
    ///
    /// # Errors
    /// Its destruction is not scheduled, or can no longer be called off.
    pub async fn keep(
        &self,
        by: &Permit<may::KeysManage>,
        origin: &Origin,
        selector: &str,
    ) -> Result<Changed, KeysRefused> {
        let row = self.find(by.workspace(), selector).await?.row;
        let pending = row.state == KeyState::DestructionPending;
        let workflow = row.workflow.as_ref().filter(|_| pending).and_then(|id| id.parse().ok());
        let id: SagaId = workflow.ok_or(KeysRefused::WrongState(WrongState { state: row.state }))?;
        let workflow = SagaKey { scope: Scope::Workspace(by.workspace().on_ledger().clone()), id };
        let telling = Telling::of(by.actor(), Some(by.workspace()), origin);
        self.ground.cancel::<KeysRefused>(&workflow, telling.origin(), "the key is to be kept").await?;
        self.until(by.workspace(), &row.id, origin.deadline, |row| row.workflow.is_none()).await;
        self.seen(workflow, by.workspace(), &row.id, origin).await
    }

    /// Starts a workflow about a key and waits for its end, as long as the request has time.
    async fn run(
        &self,
        by: &Permit<may::KeysManage>,
        origin: &Origin,
        workflow: &'static str,
        plan: &(impl Serialize + Sync),
        key: SigningKeyId,
    ) -> Result<Changed, KeysRefused> {
        let workflow = self.launch(by, origin, workflow, plan).await?;
        match self.ground.outcome::<SigningKeyId, KeysRefused>(&workflow, origin.deadline).await? {
            Ran::Going => Ok(Changed { seq: None, workflow, key: None }),
            Ran::Done(_) => self.seen(workflow, by.workspace(), &key, origin).await,
        }
    }

    /// The key as the workflow has left it so far.
    async fn seen(
        &self,
        workflow: SagaKey,
        workspace: &WorkspaceId,
        key: &SigningKeyId,
        origin: &Origin,
    ) -> Result<Changed, KeysRefused> {
        let found = self.find(workspace, key.as_str()).await?;
        let seq = self.newest_entry(workspace, key, &origin.request).await?;
        Ok(Changed { seq, workflow, key: Some(found) })
    }

    async fn launch(
        &self,
        by: &Permit<may::KeysManage>,
        origin: &Origin,
        workflow: &'static str,
        plan: &(impl Serialize + Sync),
    ) -> Result<SagaKey, KeysRefused> {
        let wish = Telling::of(by.actor(), Some(by.workspace()), origin).wish(workflow, plan)?;
        let (workspace, standing, now) = (by.workspace().clone(), by.standing().clone(), self.ground.now());
        let check = move |tx: &mut Tx<'_>| Ok(workspaces::confirm(tx, &workspace, &standing, now)?);
        self.ground.launch(wish, check).await
    }

    /// Waits until the key is as wanted, at most until the deadline; how it is then is for the caller to see.
    async fn until(
        &self,
        workspace: &WorkspaceId,
        key: &SigningKeyId,
        deadline: Instant,
        wanted: impl Fn(&KeyRow) -> bool,
    ) {
        while Instant::now() < deadline {
            let found = self.find(workspace, key.as_str()).await;
            if found.is_ok_and(|found| wanted(&found.row)) {
                return;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// The newest entry of this request: about the key, or else about the workflow that it touched.
    async fn newest_entry(
        &self,
        workspace: &WorkspaceId,
        key: &SigningKeyId,
        request: &RequestId,
    ) -> Result<Option<u64>, KeysRefused> {
        let of_request = EntryFilter {
            scope: EntryScope::Workspace(workspace.on_ledger().clone()),
            request_id: Some(request.to_string()),
            order: EntryOrder::NewestFirst,
            limit: 1,
            ..EntryFilter::default()
        };
        let about_key = EntryFilter { object: Some(key.to_string()), ..of_request.clone() };
        self.ground
            .read::<_, KeysRefused>(move |view| {
                let found = view.entries(&about_key)?;
                let found = if found.is_empty() { view.entries(&of_request)? } else { found };
                Ok(found.first().map(|entry| entry.seq))
            })
            .await
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
    ) -> Result<(u64, KeyWithVersions), KeysRefused> {
        let now = self.ground.now();
        let (action, event) = change.parts();
        let telling = Telling::of(by.actor(), Some(by.workspace()), origin);
        let (workspace, standing, selector) =
            (by.workspace().clone(), by.standing().clone(), selector.to_owned());
        let recorded = self
            .ground
            .write::<_, KeysRefused>(move |tx| {
                workspaces::confirm(tx, &workspace, &standing, now)?;
                let row = store::key(tx, &workspace, &selector)?.ok_or(KeysRefused::NoSuchKey)?;
                let next = row.state.after(event)?;
                if !store::set_state(tx, &workspace, &row.id, row.state, next, None)? {
                    return Err(KeysRefused::Raced);
                }
                let after = json!({ "state": next.text() });
                let entry = telling.entry(action, row.id.as_str(), |detail| {
                    detail.before(json!({ "state": row.state.text() })).after(after)
                });
                Ok(Told::new(row.id, entry))
            })
            .await?;
        self.ring.forget(by.workspace());
        let seq = recorded.seq();
        Ok((seq, self.find(by.workspace(), recorded.value().as_str()).await?))
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

    /// Seals what a TPM needs to load a key; where the token keeps the key itself there is nothing.
    async fn seal_blob(
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
    async fn open_sealed(
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

    async fn find(&self, workspace: &WorkspaceId, selector: &str) -> Result<KeyWithVersions, KeysRefused> {
        let (workspace, selector) = (workspace.clone(), selector.to_owned());
        self.ground
            .read::<_, KeysRefused>(move |view| {
                let row = store::key(view, &workspace, &selector)?.ok_or(KeysRefused::NoSuchKey)?;
                let versions = store::versions(view, &workspace, &row.id)?;
                Ok(KeyWithVersions { row, versions })
            })
            .await
    }
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
    if found.as_ref().is_some_and(|it| it.replaced) {
        return Err(KeysRefused::Replaced { version });
    }
    let (id, made) = found.and_then(|it| Some((it.token_key, it.made?))).ok_or(KeysRefused::NoSuchVersion)?;
    let pinned = PinnedKey::new(row.kind, &made.spki).map_err(KeysRefused::Record)?;
    Ok(SigningKey {
        key: KeyRef { id, kind: row.kind, fingerprint: made.fingerprint, blob: Vec::new() },
        pinned,
    })
}

/// How many keys of a workspace are not yet destroyed.
///
/// # Errors
/// The ledger cannot be read.
pub fn standing(view: &View<'_>, workspace: &WorkspaceId) -> Result<i64, SqlFault> {
    store::standing(view, workspace)
}

/// Counts uses of a key in the transaction that authorises them, and refuses if it is not enabled, or was taken over by a copy
/// since the caller read its fence.
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
