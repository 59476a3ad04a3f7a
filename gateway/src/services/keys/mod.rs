//! Signing keys: made in the token, versioned, taken out of use, destroyed after notice.
//! Who enters: members with key scopes; signing, which asks for cards and counts uses.
//! What leaves: rows and public keys. A record is never deleted, whatever the token says.

mod counters;
mod destroy;
mod make;
pub mod ring;
pub mod routes;
pub mod state;
pub mod store;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use audit::{Told, Tx};
use hsm::{KeyKind, Token, TokenError};
use serde_json::json;

use self::ring::{KeyCard, KeyRing};
use self::state::{KeyEvent, KeyState, WrongState};
use self::store::{KeyRow, VersionRow};
use super::ground::{Ground, LedgerRefused, Telling};
use super::workspaces::{self, Workspaces, WorkspacesRefused};
use crate::api::Origin;
use crate::api::guard::{Permit, may};
use crate::crypto::Unusable;
use crate::custody::CustodyRefused;
use crate::ids::{Name, SigningKeyId, WorkspaceId};
use crate::refused_by_ledger;

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
    /// Not possible in the key's state.
    #[error(transparent)]
    WrongState(#[from] WrongState),
    /// The key changed in the same moment.
    #[error("the key changed at the same moment")]
    Raced,
    /// The key has as many versions as it may have.
    #[error("the key has all the versions it may have")]
    TooManyVersions,
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

/// A change of state that members ask for.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// Out of use.
    Disable,
    /// Back into use.
    Enable,
    /// To be destroyed after this notice.
    ScheduleDestruction(Duration),
    /// The destruction is called off.
    KeepAfterAll,
}

/// The service.
pub struct Keys {
    ground: Ground,
    workspaces: Arc<Workspaces>,
    token: Token,
    ring: KeyRing,
}

impl Keys {
    /// The service on its ground.
    pub fn new(ground: Ground, workspaces: Arc<Workspaces>, token: Token) -> Self {
        Self { ground, workspaces, token, ring: KeyRing::default() }
    }

    /// Makes a key in the token: on order, made, recorded. Each step has its entry.
    ///
    /// # Errors
    /// The name is taken, or token or ledger did not do it.
    pub async fn create(
        &self,
        by: &Permit<may::KeysManage>,
        origin: &Origin,
        name: Name,
        kind: KeyKind,
    ) -> Result<(u64, KeyWithVersions), KeysRefused> {
        let telling = Telling::of(by.actor(), Some(by.workspace()), origin);
        let row = KeyRow {
            id: SigningKeyId::new(&self.ground.dice),
            name,
            kind,
            state: KeyState::Creating,
            latest: 1,
            uses: 0,
            destroy_after: None,
            created: self.ground.now(),
        };
        let order = self.order_of(by.workspace(), &row, 1);
        self.begin_key(by, &telling, row.clone(), order.clone()).await?;
        let seq = self.make(&telling, &row, order).await?;
        Ok((seq, self.find(by.workspace(), row.id.as_str()).await?))
    }

    /// Makes a new version that signs from now on; the old ones go on verifying.
    ///
    /// # Errors
    /// The key is not enabled, or token or ledger did not do it.
    pub async fn rotate(
        &self,
        by: &Permit<may::KeysManage>,
        origin: &Origin,
        selector: &str,
    ) -> Result<(u64, KeyWithVersions), KeysRefused> {
        let telling = Telling::of(by.actor(), Some(by.workspace()), origin);
        let found = self.find(by.workspace(), selector).await?;
        let next = found.versions.last().map_or(1, |last| last.version + 1);
        let order = self.order_of(by.workspace(), &found.row, next);
        self.begin_version(by, &telling, &found.row, order.clone()).await?;
        let seq = self.make(&telling, &found.row, order).await?;
        Ok((seq, self.find(by.workspace(), found.row.id.as_str()).await?))
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
        let (action, event, destroy_after) = change.parts(now)?;
        let telling = Telling::of(by.actor(), Some(by.workspace()), origin);
        let (workspace, standing, selector) =
            (by.workspace().clone(), by.standing().clone(), selector.to_owned());
        let recorded = self
            .ground
            .write::<_, KeysRefused>(move |tx| {
                workspaces::confirm(tx, &workspace, &standing, now)?;
                let row = store::key(tx, &workspace, &selector)?.ok_or(KeysRefused::NoSuchKey)?;
                let next = row.state.after(event)?;
                if !store::set_state(tx, &workspace, &row.id, row.state, next, destroy_after)? {
                    return Err(KeysRefused::Raced);
                }
                let after = json!({ "state": next.text(), "destroy_after": destroy_after });
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
            let blob = self.open_blob(workspace, &version).await?;
            versions.push((version, blob));
        }
        let card = Arc::new(KeyCard::new(found.row, versions)?);
        self.ring.put(workspace, selector, Arc::clone(&card));
        Ok(card)
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

/// Counts uses of a key in the transaction that authorises them, and refuses if it is not enabled.
///
/// # Errors
/// The key's state, as the database has it now.
pub fn count_uses(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    key: &SigningKeyId,
    uses: i64,
) -> Result<i64, KeysRefused> {
    if let Some(counter) = store::count_uses(tx, workspace, key, uses)? {
        return Ok(counter);
    }
    let row = store::key(tx, workspace, key.as_str())?.ok_or(KeysRefused::NoSuchKey)?;
    Err(WrongState { state: row.state }.into())
}

impl Change {
    fn parts(
        self,
        now: crate::moment::Moment,
    ) -> Result<(&'static str, KeyEvent, Option<crate::moment::Moment>), KeysRefused> {
        use crate::limits::{DESTRUCTION_NOTICE_MAX, DESTRUCTION_NOTICE_MIN};
        Ok(match self {
            Self::Disable => ("key.disable", KeyEvent::Disable, None),
            Self::Enable => ("key.enable", KeyEvent::Enable, None),
            Self::KeepAfterAll => ("key.keep", KeyEvent::KeepAfterAll, None),
            Self::ScheduleDestruction(notice)
                if (DESTRUCTION_NOTICE_MIN..=DESTRUCTION_NOTICE_MAX).contains(&notice) =>
            {
                ("key.schedule_destruction", KeyEvent::ScheduleDestruction, Some(now.plus(notice)))
            }
            Self::ScheduleDestruction(_) => return Err(KeysRefused::Notice),
        })
    }
}
