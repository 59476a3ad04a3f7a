//! Commands on keys that take many steps: started as workflows, and waited for as long as the request has time.
//! Who enters: members with the scope `keys:manage`.
//! What leaves: the key as the workflow has left it, or the workflow that goes on.

use std::time::Duration;

use audit::{EntryFilter, EntryOrder, EntryScope};
use hsm::{Custody, KeyKind, Power};
use sagas::{SagaId, SagaKey, Scope};
use serde::Serialize;

use super::destruction::DestructionPlan;
use super::making::NewKeyPlan;
use super::rotation::RotationPlan;
use super::state::{KeyState, WrongState};
use super::{KeyWithVersions, Keys, KeysRefused};
use crate::api::Origin;
use crate::api::guard::{Permit, may};
use crate::ids::{Name, RequestId, SigningKeyId, WorkspaceId};
use crate::limits::{DESTRUCTION_NOTICE_MAX, DESTRUCTION_NOTICE_MIN, ROTATION_OVERLAP_MAX};
use crate::runner::Ran;
use crate::services::ground::Telling;
use crate::services::policy::Policy;

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

impl Keys {
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
        self.refuse_unable(kind, custody)?;
        let key = SigningKeyId::new(&self.ground.dice);
        let plan = NewKeyPlan { workspace: by.workspace().clone(), key, name, kind, custody, policy };
        self.run(by, origin, "key.generate", &plan, plan.key.clone()).await
    }

    /// What the token cannot make is refused before anybody asks it: some answer with errors that look like a broken device. A token
    /// that has not been opened yet has told nothing.
    fn refuse_unable(&self, kind: KeyKind, custody: Custody) -> Result<(), KeysRefused> {
        let probe = self.token.probe();
        if probe.backend.is_empty() {
            return Ok(());
        }
        if !probe.kinds.contains(&kind) {
            return Err(KeysRefused::TokenCannot(format!("{kind} keys")));
        }
        if custody == Custody::Recoverable && !probe.powers.contains(&Power::Backup) {
            return Err(KeysRefused::TokenCannot("keys that can be backed up".to_owned()));
        }
        Ok(())
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
        self.refuse_unable(found.row.kind, found.custody())?;
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
        let found = self.find(by.workspace(), selector).await?;
        let (version, fingerprint) = found.latest().ok_or(KeysRefused::NoSuchVersion)?;
        let key = found.row.id;
        let plan = DestructionPlan {
            workspace: by.workspace().clone(),
            key: key.clone(),
            version,
            fingerprint,
            reason,
            notice_seconds: notice.as_secs(),
        };
        // It takes days, so nobody waits for its end: only until the key is out of use.
        let workflow = self.launch(by, origin, "key.destroy", &plan).await?;
        let held = || self.is_held(by.workspace(), &key, true);
        self.ground.progress::<SigningKeyId, KeysRefused, _>(&workflow, origin.deadline, held).await?;
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
        let telling = Telling::member(by, origin);
        self.ground.cancel::<KeysRefused>(telling, &workflow, "the key is to be kept").await?;
        let free = || self.is_held(by.workspace(), &row.id, false);
        // Its end without success is what was asked for; how the key stands is seen below.
        let _ = self.ground.progress::<SigningKeyId, KeysRefused, _>(&workflow, origin.deadline, free).await;
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
        self.ground.launch(Telling::member(by, origin), workflow, plan).await
    }

    /// Whether the key stands under a workflow, or does not, as wanted.
    async fn is_held(&self, workspace: &WorkspaceId, key: &SigningKeyId, wanted: bool) -> bool {
        let found = self.find(workspace, key.as_str()).await;
        found.is_ok_and(|found| found.row.workflow.is_some() == wanted)
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
}
