//! Root keys of appliances that were made before they were recorded: looked at once they have proven themselves, and recorded.
//! Who enters: the wiring, after the ledger was vouched for.
//! What leaves: facts by which every later worker knows the root, whatever else bears its name.

use std::time::Instant;

use audit::Told;
use hsm::{RootPin, Token};
use serde_json::json;

use super::init::attestation_key;
use super::{BadRecord, Facts, Tokens, store};
use crate::limits::TOKEN_CALL_WAIT_MAX;
use crate::services::ground::{Ground, LedgerRefused, Telling};

/// Why the roots were not recorded. The appliance works without.
#[derive(Debug, thiserror::Error)]
pub enum RootsUnrecorded {
    /// A token did not name its root.
    #[error("a token did not name its root key")]
    Token(#[from] hsm::TokenError),
    /// The facts cannot be written.
    #[error(transparent)]
    Record(#[from] BadRecord),
    /// The ledger did not take it.
    #[error("the ledger did not take it")]
    Ledger(#[from] LedgerRefused),
}
crate::refused_by_ledger!(RootsUnrecorded);

/// Records the roots that are not recorded yet. They have just opened the master key, so they are the right ones.
///
/// # Errors
/// Token or ledger did not do it; the next start tries again.
pub async fn record(ground: &Ground, tokens: &Tokens, facts: &Facts) -> Result<(), RootsUnrecorded> {
    let complete = facts.root.is_some()
        && (facts.tpm_root.is_some() || tokens.tpm.is_none())
        && (facts.attestation_key.is_some() || tokens.anchoring_tpm().is_none());
    if complete {
        return Ok(());
    }
    let mut facts = facts.clone();
    facts.root = Some(known(&tokens.keys).await?);
    if let Some(tpm) = &tokens.tpm {
        facts.tpm_root = Some(known(tpm).await?);
    }
    if facts.attestation_key.is_none() {
        facts.attestation_key = attestation_key(tokens).await?;
    }
    let kept = serde_json::to_vec(&facts).map_err(|_| BadRecord { which: "own" })?;
    let summary = describe(&facts);
    ground
        .write::<_, RootsUnrecorded>(Telling::own(None), move |tx, telling| {
            store::replace(tx, store::FACTS, &kept)?;
            let told = telling.entry("appliance.roots", "appliance", |detail| detail.after(summary.clone()));
            Ok(Told::new((), told))
        })
        .await
        .map(drop)
}

/// The names under which auditors find them again.
pub fn describe(facts: &Facts) -> serde_json::Value {
    let name = |root: &Option<RootPin>| root.as_ref().map(|root| hex::encode(&root.id));
    json!({
        "root": name(&facts.root), "tpm_root": name(&facts.tpm_root), "attestation_key": facts.attested_by(),
    })
}

async fn known(token: &Token) -> Result<RootPin, hsm::TokenError> {
    let root = token.ensure_root(Instant::now() + TOKEN_CALL_WAIT_MAX).await?;
    token.expect_root(root.pin());
    Ok(root.pin())
}
