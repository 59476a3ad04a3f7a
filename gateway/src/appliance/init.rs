//! Making an appliance: root key, master key, log keys, CA; the first entries of its ledger; the first seal.
//! Who enters: `chancery init`, once in the life of a state directory.
//! What leaves: a ledger whose first entries tell what was made. A half-made one is refused by every later start.

use std::time::Instant;

use audit::Told;
use hsm::custody::MasterKey;
use hsm::{KeyId, KeyKind, Token, TokenError};
use serde_json::json;

use super::master::{self, MasterRefused};
use super::{BadRecord, Facts, OwnKey, Tokens, store};
use crate::ca::{self, CaRefused, Subject};
use crate::dice::Dice;
use crate::limits::TOKEN_GENERATE_WAIT_MAX;
use crate::metrics::Metrics;
use crate::moment::Moment;
use crate::sealing::Keeper;
use crate::services::ground::{Ground, LedgerRefused, Telling};
use crate::signer::Signer;

/// Why no appliance was made.
#[derive(Debug, thiserror::Error)]
pub enum InitRefused {
    /// This state directory has one already.
    #[error("this state directory holds an appliance already; `chancery serve` starts it")]
    Done,
    /// The token did not make a key.
    #[error("the token did not make the {which} key")]
    Key {
        /// Which one.
        which: &'static str,
        /// Why.
        #[source]
        source: TokenError,
    },
    /// The master key was not wrapped.
    #[error("the master key was not made")]
    Master(#[source] MasterRefused),
    /// A new key cannot be used.
    #[error(transparent)]
    Record(#[from] BadRecord),
    /// The CA's certificate was not made.
    #[error("the CA's certificate was not made")]
    Ca(#[source] CaRefused),
    /// The log was not sealed for the first time.
    #[error("the ledger was not sealed")]
    Seal(#[source] audit::SealRefused),
    /// The ledger did not take it.
    #[error("the ledger did not take it")]
    Ledger(#[from] LedgerRefused),
}
crate::refused_by_ledger!(InitRefused);

/// Makes the keys of a new appliance. Nothing is on the ledger yet, as it cannot be sealed without them.
///
/// # Errors
/// The tokens did not do it.
pub async fn make_facts(tokens: &Tokens, dice: &Dice, origin: &str) -> Result<Facts, InitRefused> {
    let root = tokens.keys.ensure_root(soon()).await;
    let root = root.map_err(|source| InitRefused::Key { which: "root", source })?.pin();
    let tpm_root = match &tokens.tpm {
        Some(tpm) => {
            let made = tpm.ensure_root(soon()).await;
            Some(made.map_err(|source| InitRefused::Key { which: "storage root", source })?.pin())
        }
        None => None,
    };
    let log_kind =
        if tokens.keys.probe().kinds.contains(&KeyKind::Ed25519) { KeyKind::Ed25519 } else { KeyKind::P256 };
    let make = |token: Token, kind, which| own_key(token, KeyId(dice.throw()), kind, which);
    let log = make(tokens.keys.clone(), log_kind, "log").await?;
    let ca = make(tokens.keys.clone(), KeyKind::P256, "CA").await?;
    let tpm_log = match &tokens.tpm {
        Some(tpm) => Some(make(tpm.clone(), KeyKind::P256, "TPM log").await?),
        None => None,
    };
    let fresh = MasterKey::generate().map_err(|fault| InitRefused::Master(MasterRefused::Key(fault)))?;
    let master = master::wrap(tokens, origin, &fresh).await.map_err(InitRefused::Master)?;
    Ok(Facts { ca, log, tpm_log, master, root: Some(root), tpm_root })
}

async fn own_key(token: Token, id: KeyId, kind: KeyKind, which: &'static str) -> Result<OwnKey, InitRefused> {
    let label = format!("chancery appliance {which}");
    let new = token
        .generate(id, kind, &label, soon())
        .await
        .map_err(|source| InitRefused::Key { which, source })?;
    Ok(OwnKey { key: new.key, spki_der: new.public.spki_der })
}

/// Records the facts and makes the CA's certificate. The ledger is open and vouched for by now.
///
/// # Errors
/// Token or ledger did not do it; the state directory is then of no use.
pub async fn record(
    ground: &Ground,
    tokens: &Tokens,
    facts: &Facts,
    keeper: &Keeper,
) -> Result<(), InitRefused> {
    let (now, telling) = (ground.now(), Telling::own(None));
    let public = facts.ca.public();
    let subject = Subject {
        common_name: "Chancery CA",
        organization: ground.ledger.origin(),
        from: now,
        lives: ca::AUTHORITY_LIVES,
    };
    let draft = ca::draft_authority(&public, &subject, &ground.dice).map_err(InitRefused::Ca)?;
    let order = ca::order(&facts.ca.signing("CA")?, &draft, soon());
    let kept = serde_json::to_vec(facts).map_err(|_| BadRecord { which: "own" })?;
    let summary = describe(facts, now);
    let recorded = ground.write::<_, InitRefused>(telling.clone(), move |tx, telling| {
        store::put(tx, store::FACTS, &kept)?;
        Ok(Told::new(
            order.clone(),
            telling.entry("appliance.init", "appliance", |detail| detail.after(summary.clone())),
        ))
    });
    let signer = Signer::new(tokens.keys.clone(), Metrics::default());
    let certificate = ca::complete(&signer, recorded.await?, draft).await.map_err(InitRefused::Ca)?;
    let hash = crate::api::CertificateHash::of(&certificate);
    ground
        .write::<_, InitRefused>(telling, move |tx, telling| {
            store::put(tx, store::CA_CERTIFICATE, &certificate)?;
            let after = json!({ "certificate": hash.to_string() });
            Ok(Told::new((), telling.entry("appliance.ca", "ca", |detail| detail.after(after))))
        })
        .await?;
    keeper.seal().await.map(drop).map_err(InitRefused::Seal)
}

fn describe(facts: &Facts, now: Moment) -> serde_json::Value {
    json!({
        "made": now,
        "log_key": facts.log.key.fingerprint.to_string(),
        "tpm_log_key": facts.tpm_log.as_ref().map(|own| own.key.fingerprint.to_string()),
        "ca_key": facts.ca.key.fingerprint.to_string(),
    })
}

fn soon() -> Instant {
    Instant::now() + TOKEN_GENERATE_WAIT_MAX
}
