//! Workspaces and the API keys with which programs act in them.
//! Who enters: operators (workspaces), members with access scopes (API keys of their own workspace).
//! What leaves: rows, and an API key's secret exactly once.

pub mod routes;
pub mod store;
pub mod wire;

use audit::{Told, Tx};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use self::store::{ApiKeyRow, WorkspaceRow};
use super::ground::{Ground, LedgerRefused, Telling, written};
use super::roster::{ApiKeyCard, Roster};
use crate::api::guard::{Permit, Standing, may};
use crate::api::{OperatorPermit, Origin, Scopes};
use crate::custody::Custody;
use crate::ids::{ApiKeyId, Name, WorkspaceId};
use crate::moment::Moment;
use crate::refused_by_ledger;

/// Why a command on workspaces or API keys was refused.
#[derive(Debug, thiserror::Error)]
pub enum WorkspacesRefused {
    /// The name is taken.
    #[error("there is a workspace named {0} already")]
    NameTaken(Name),
    /// No such workspace, or it is in that state already.
    #[error("no such workspace, or it is so already")]
    NothingToChange,
    /// No such active API key in this workspace.
    #[error("no such active API key")]
    NoSuchApiKey,
    /// The new key would be allowed more than its maker.
    #[error("an API key cannot give what it does not have: {0:?}")]
    MoreThanOwn(Vec<crate::api::Scope>),
    /// A new key needs at least one scope.
    #[error("an empty list of scopes")]
    NoScopes,
    /// The end lies in the past.
    #[error("the end lies in the past")]
    EndsInThePast,
    /// The credentials were revoked between the guard and the transaction.
    #[error("the credentials no longer stand")]
    NoLongerStands,
    /// The data key could not be made or opened.
    #[error("the workspace's data key cannot be used")]
    DataKey(#[source] crate::custody::CustodyRefused),
    /// The ledger did not take or give it.
    #[error(transparent)]
    Ledger(#[from] LedgerRefused),
}
refused_by_ledger!(WorkspacesRefused);

/// What a new API key should be.
#[derive(Debug)]
pub struct NewApiKey {
    /// Its name.
    pub name: Name,
    /// What it may do.
    pub scopes: Scopes,
    /// When it ends.
    pub expires: Option<Moment>,
}

/// A new API key with its secret, which is shown this once and stored nowhere.
pub struct IssuedApiKey {
    /// The row.
    pub row: ApiKeyRow,
    /// The whole text to send as the bearer token.
    pub secret: Zeroizing<String>,
    /// The entry.
    pub seq: u64,
}

/// The service.
pub struct Workspaces {
    ground: Ground,
    roster: Roster,
    custody: Custody,
}

impl Workspaces {
    /// The service on its ground.
    pub fn new(ground: Ground, roster: Roster, custody: Custody) -> Self {
        Self { ground, roster, custody }
    }

    /// Fills the roster at start.
    ///
    /// # Errors
    /// The ledger gave nothing.
    pub async fn load(&self) -> Result<(), WorkspacesRefused> {
        for row in self.list().await? {
            self.roster.put_workspace(row.id, row.name, row.open);
        }
        let rows = self
            .ground
            .read::<_, WorkspacesRefused>(|view| store::roster(view).map_err(WorkspacesRefused::from))
            .await?;
        for row in rows {
            // A list that gives nothing is not put on the roster: its key is as good as unknown.
            let Some(scopes) = row.scopes else { continue };
            let (id, workspace, expires) = (row.id, row.workspace, row.expires);
            self.roster
                .put_api_key(row.hash, ApiKeyCard { id, workspace, scopes, expires, last_used: 0.into() });
        }
        Ok(())
    }

    /// Makes a workspace with its own data key.
    ///
    /// # Errors
    /// The name is taken, or the ledger or custody said no.
    pub async fn create(
        &self,
        by: &OperatorPermit,
        origin: &Origin,
        name: Name,
    ) -> Result<(u64, WorkspaceRow), WorkspacesRefused> {
        let id = WorkspaceId::new(&self.ground.dice).map_err(|_| LedgerRefused::Fault(None))?;
        let data_key = self.custody.new_data_key(&id).map_err(WorkspacesRefused::DataKey)?;
        let row = WorkspaceRow { id: id.clone(), name: name.clone(), open: true, created: self.ground.now() };
        let telling = Telling::of(by.actor(), Some(&id), origin);
        let kept = row.clone();
        let recorded = self
            .ground
            .write::<_, WorkspacesRefused>(move |tx| {
                store::insert(tx, &kept.id, &kept.name, &data_key, kept.created)
                    .map_err(|fault| taken_or(fault, &kept.name))?;
                let after = json!({ "name": kept.name.as_str(), "state": "open" });
                Ok(Told::new(
                    (),
                    telling.entry("workspace.create", kept.id.as_str(), |detail| detail.after(after)),
                ))
            })
            .await?;
        self.roster.put_workspace(id, name, true);
        Ok((recorded.seq(), row))
    }

    /// All workspaces.
    ///
    /// # Errors
    /// The ledger gave nothing.
    pub async fn list(&self) -> Result<Vec<WorkspaceRow>, WorkspacesRefused> {
        self.ground
            .read::<_, WorkspacesRefused>(|view| store::all(view).map_err(WorkspacesRefused::from))
            .await
    }

    /// Closes a workspace to its programs, or opens it again.
    ///
    /// # Errors
    /// There is none, or it is so already.
    pub async fn set_open(
        &self,
        by: &OperatorPermit,
        origin: &Origin,
        id: WorkspaceId,
        open: bool,
    ) -> Result<u64, WorkspacesRefused> {
        let telling = Telling::of(by.actor(), Some(&id), origin);
        let of = id.clone();
        let recorded = self
            .ground
            .write::<_, WorkspacesRefused>(move |tx| {
                let name = store::set_state(tx, &of, open)?.ok_or(WorkspacesRefused::NothingToChange)?;
                let (action, before, after) = if open {
                    ("workspace.open", "closed", "open")
                } else {
                    ("workspace.close", "open", "closed")
                };
                let entry = telling.entry(action, of.as_str(), |detail| {
                    detail.before(json!({ "state": before })).after(json!({ "state": after }))
                });
                Ok(Told::new(name, entry))
            })
            .await?;
        let seq = recorded.seq();
        let name = recorded.into_value();
        self.roster.put_workspace(id, name, open);
        Ok(seq)
    }

    /// Makes an API key. Nobody can give what they do not have.
    ///
    /// # Errors
    /// Scopes beyond the maker's, an end in the past, or the ledger's refusal.
    pub async fn issue_api_key(
        &self,
        by: &Permit<may::AccessManage>,
        origin: &Origin,
        new: NewApiKey,
    ) -> Result<IssuedApiKey, WorkspacesRefused> {
        let missing = by.lacks(&new.scopes);
        if !missing.is_empty() {
            return Err(WorkspacesRefused::MoreThanOwn(missing));
        }
        let now = self.ground.now();
        if new.expires.is_some_and(|end| end <= now) {
            return Err(WorkspacesRefused::EndsInThePast);
        }
        let id = ApiKeyId::new(&self.ground.dice);
        let (secret, hash) = self.new_secret();
        let row = ApiKeyRow {
            id: id.clone(),
            name: new.name,
            scopes: Some(new.scopes.clone()),
            active: true,
            created: now,
            expires: new.expires,
            last_used: None,
        };
        let telling = Telling::of(by.actor(), Some(by.workspace()), origin);
        let (kept, workspace, standing) = (row.clone(), by.workspace().clone(), by.standing().clone());
        let recorded = self.ground.write::<_, WorkspacesRefused>(move |tx| {
            confirm(tx, &workspace, &standing, now)?;
            store::insert_api_key(tx, &workspace, &kept, &hash)?;
            let after = json!({ "name": kept.name.as_str(), "scopes": kept.scopes.as_ref().map(Scopes::stored), "expires": kept.expires });
            Ok(Told::new((), telling.entry("api_key.create", kept.id.as_str(), |detail| detail.after(after))))
        }).await?;
        let card = ApiKeyCard {
            id,
            workspace: by.workspace().clone(),
            scopes: new.scopes,
            expires: new.expires,
            last_used: 0.into(),
        };
        self.roster.put_api_key(hash, card);
        Ok(IssuedApiKey { row, secret, seq: recorded.seq() })
    }

    /// The workspace's API keys.
    ///
    /// # Errors
    /// The ledger gave nothing.
    pub async fn api_keys(&self, by: &Permit<may::AccessRead>) -> Result<Vec<ApiKeyRow>, WorkspacesRefused> {
        let workspace = by.workspace().clone();
        self.ground
            .read::<_, WorkspacesRefused>(move |view| {
                store::api_keys(view, &workspace).map_err(WorkspacesRefused::from)
            })
            .await
    }

    /// Revokes an API key: once this has answered, nothing is done with it any more.
    ///
    /// # Errors
    /// There is no such active key in this workspace.
    pub async fn revoke_api_key(
        &self,
        by: &Permit<may::AccessManage>,
        origin: &Origin,
        id: ApiKeyId,
    ) -> Result<u64, WorkspacesRefused> {
        let telling = Telling::of(by.actor(), Some(by.workspace()), origin);
        let (of, workspace) = (id.clone(), by.workspace().clone());
        let recorded = self
            .ground
            .write::<_, WorkspacesRefused>(move |tx| {
                let name =
                    store::revoke_api_key(tx, &workspace, &of)?.ok_or(WorkspacesRefused::NoSuchApiKey)?;
                let before = json!({ "name": name.as_str(), "state": "active" });
                let entry = telling.entry("api_key.revoke", of.as_str(), |detail| {
                    detail.before(before).after(json!({ "state": "revoked" }))
                });
                Ok(Told::new((), entry))
            })
            .await?;
        self.roster.drop_api_key(&id);
        Ok(recorded.seq())
    }

    /// Opens the workspace's data key, to seal or open its rows.
    ///
    /// # Errors
    /// No such workspace, or the key does not open.
    pub async fn data_key(&self, id: &WorkspaceId) -> Result<hsm::custody::DataKey, WorkspacesRefused> {
        let of = id.clone();
        let stored = self
            .ground
            .read::<_, WorkspacesRefused>(move |view| {
                store::data_key(view, &of).map_err(WorkspacesRefused::from)
            })
            .await?;
        let (wrapped, version) = stored.ok_or(WorkspacesRefused::NothingToChange)?;
        self.custody.open_data_key(id, version, &wrapped).map_err(WorkspacesRefused::DataKey)
    }

    /// Writes down when API keys were last used. Not an act of anyone, so there is no entry.
    ///
    /// # Errors
    /// The ledger did not take it; the next call tries again with what is new.
    pub async fn note_last_used(&self) -> Result<(), WorkspacesRefused> {
        let used = self.roster.take_last_used();
        if used.is_empty() {
            return Ok(());
        }
        let write = self.ground.ledger.write_unaudited("when an API key was last used", move |tx| {
            used.iter()
                .try_for_each(|(workspace, id, at)| store::set_last_used(tx, workspace, id, *at))
                .map_err(WorkspacesRefused::from)
        });
        written(write.await)
    }

    /// `ck_` and 32 random bytes, and the hash under which they are known.
    fn new_secret(&self) -> (Zeroizing<String>, [u8; 32]) {
        let mut bytes = Zeroizing::new([0u8; 32]);
        self.ground.dice.fill(bytes.as_mut());
        let secret = Zeroizing::new(format!("ck_{}", URL_SAFE_NO_PAD.encode(bytes.as_ref())));
        let hash = Sha256::digest(secret.as_bytes()).into();
        (secret, hash)
    }
}

/// Checks, inside a transaction, that the permit's API key has not been revoked since the guard saw it.
///
/// # Errors
/// It no longer stands.
pub fn confirm(
    tx: &Tx<'_>,
    workspace: &WorkspaceId,
    standing: &Standing,
    now: Moment,
) -> Result<(), WorkspacesRefused> {
    match standing {
        Standing::Operator => Ok(()),
        Standing::Program { api_key, .. } if store::api_key_stands(tx, workspace, api_key, now)? => Ok(()),
        Standing::Program { .. } => Err(WorkspacesRefused::NoLongerStands),
    }
}

fn taken_or(fault: audit::SqlFault, name: &Name) -> WorkspacesRefused {
    if fault.is_duplicate() { WorkspacesRefused::NameTaken(name.clone()) } else { fault.into() }
}
