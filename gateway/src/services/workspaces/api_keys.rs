//! API keys: made, listed, revoked; what a program shows beside its certificate.
//! Who enters: members with access scopes, for their own workspace.
//! What leaves: rows, and an API key's secret exactly once.

use audit::{Told, Tx};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::store::{self, ApiKeyRow};
use super::{Workspaces, WorkspacesRefused};
use crate::api::guard::{Permit, may};
use crate::api::{Origin, Reply, Scopes};
use crate::ids::{ApiKeyId, Name};
use crate::moment::Moment;
use crate::services::ground::{Say, Telling, written};
use crate::services::roster::ApiKeyCard;

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
}

impl Workspaces {
    /// Makes an API key. Nobody can give what they do not have.
    ///
    /// # Errors
    /// Scopes beyond the maker's, an end in the past, or the ledger's refusal.
    pub async fn issue_api_key(
        &self,
        by: &Permit<may::AccessManage>,
        origin: &Origin,
        new: NewApiKey,
        say: impl Say<IssuedApiKey>,
    ) -> Result<Reply, WorkspacesRefused> {
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
        let workspace = by.workspace().clone();
        let act = move |tx: &mut Tx<'_>, telling: &Telling| {
            store::insert_api_key(tx, &workspace, &row, &hash)?;
            let after = json!({ "name": row.name.as_str(), "scopes": row.scopes.as_ref().map(Scopes::stored), "expires": row.expires });
            let entry = telling.entry("api_key.create", row.id.as_str(), |detail| detail.after(after));
            Ok(Told::new(IssuedApiKey { row: row.clone(), secret: secret.clone() }, entry))
        };
        let telling = Telling::member(by, origin);
        let (reply, _) = self.ground.answer::<_, WorkspacesRefused>(telling, act, say).await?;
        let card = ApiKeyCard {
            id,
            workspace: by.workspace().clone(),
            scopes: new.scopes,
            expires: new.expires,
            last_used: 0.into(),
        };
        self.roster.put_api_key(hash, card);
        Ok(reply)
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
        say: impl Say<()>,
    ) -> Result<Reply, WorkspacesRefused> {
        let (of, workspace) = (id.clone(), by.workspace().clone());
        let act = move |tx: &mut Tx<'_>, telling: &Telling| {
            let name = store::revoke_api_key(tx, &workspace, &of)?.ok_or(WorkspacesRefused::NoSuchApiKey)?;
            let before = json!({ "name": name.as_str(), "state": "active" });
            let entry = telling.entry("api_key.revoke", of.as_str(), |detail| {
                detail.before(before).after(json!({ "state": "revoked" }))
            });
            Ok(Told::new((), entry))
        };
        let telling = Telling::member(by, origin);
        let (reply, _) = self.ground.answer::<_, WorkspacesRefused>(telling, act, say).await?;
        self.roster.drop_api_key(&id);
        Ok(reply)
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
