//! Making an appliance: root key, master key, log keys, CA; the first entries of its ledger; the first seal.
//! Who enters: `chancery init`, once in the life of a state directory.
//! What leaves: a ledger whose first entries tell what was made; or nothing at all, in the tokens as on the disk.

use std::time::Instant;

use audit::Told;
use hsm::custody::MasterKey;
use hsm::{KeyId, KeyKind, SignInput, Token, TokenError};
use serde_json::json;

use super::draft::{Draft, DraftUnusable};
use super::master::{self, MasterRefused};
use super::{BadRecord, Facts, OwnKey, Tokens, roots, store};
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
    /// The key that a token made does not sign as it should.
    #[error("the {which} key was made, and its signature does not verify; this token cannot be used")]
    Unproven {
        /// Which one.
        which: &'static str,
    },
    /// The anchor in the TPM is another appliance's.
    #[error(
        "the anchor's NV index in the TPM is in use, by another appliance or an earlier one; configure another `anchor_index`, or take that one away with `tpm2_nvundefine`"
    )]
    AnchorTaken,
    /// What is about to be made cannot be written down, or what an earlier try made cannot be taken away.
    #[error("the state directory was not prepared")]
    Draft(#[from] DraftUnusable),
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

/// Refuses a TPM whose anchor is somebody's. An object in a token bears the tag of its appliance and is in nobody's way.
///
/// # Errors
/// It is taken, or cannot be read.
pub async fn refuse_taken_anchor(tokens: &Tokens) -> Result<(), InitRefused> {
    let Some(tpm) = tokens.anchoring_tpm() else { return Ok(()) };
    let read = tpm.anchor_read(soon()).await;
    match read.map_err(|source| InitRefused::Key { which: "anchor", source })?.missing {
        true => Ok(()),
        false => Err(InitRefused::AnchorTaken),
    }
}

/// Makes the keys of a new appliance and proves each power that the appliance will rest on: the root closes and opens, the anchor is kept,
/// each key signs what verifies, the master key comes back. There is no ledger yet, as it cannot be sealed without them.
///
/// # Errors
/// The tokens did not do it.
pub async fn make_facts(
    tokens: &Tokens,
    dice: &Dice,
    draft: &Draft,
    origin: &str,
) -> Result<Facts, InitRefused> {
    let root = tokens.keys.make_root(draft.tag, soon()).await;
    let root = root.map_err(|source| InitRefused::Key { which: "root", source })?.pin();
    let tpm_root = match &tokens.tpm {
        Some(tpm) => {
            let made = tpm.make_root(draft.tag, soon()).await;
            Some(made.map_err(|source| InitRefused::Key { which: "storage root", source })?.pin())
        }
        None => None,
    };
    let log_kind =
        if tokens.keys.probe().kinds.contains(&KeyKind::Ed25519) { KeyKind::Ed25519 } else { KeyKind::P256 };
    let make = |token: Token, id, kind, which| own_key(token, dice, id, kind, which);
    let log = make(tokens.keys.clone(), draft.log, log_kind, "log").await?;
    let ca = make(tokens.keys.clone(), draft.ca, KeyKind::P256, "CA").await?;
    let tpm_log = match &tokens.tpm {
        Some(tpm) => Some(make(tpm.clone(), draft.tpm_log, KeyKind::P256, "TPM log").await?),
        None => None,
    };
    let fresh = MasterKey::generate().map_err(|fault| InitRefused::Master(MasterRefused::Key(fault)))?;
    let master = master::wrap(tokens, origin, &fresh).await.map_err(InitRefused::Master)?;
    let back = master::unwrap(tokens, origin, &master).await.map_err(InitRefused::Master)?;
    if !fresh.lend(|bytes| back.lend(|back| bytes == back)) {
        return Err(InitRefused::Unproven { which: "root" });
    }
    let attestation_key = attestation_key(tokens).await;
    let attestation_key =
        attestation_key.map_err(|source| InitRefused::Key { which: "attestation", source })?;
    Ok(Facts { ca, log, tpm_log, master, root: Some(root), tpm_root, attestation_key })
}

/// The key by which the TPM that holds the anchor signs its statements, SPKI DER.
///
/// # Errors
/// The TPM makes none.
pub async fn attestation_key(tokens: &Tokens) -> Result<Option<Vec<u8>>, TokenError> {
    let Some(tpm) = tokens.anchoring_tpm() else { return Ok(None) };
    let challenge = Dice::system().throw();
    Ok(tpm.quote(challenge, soon()).await?.map(|quote| quote.ak_spki_der))
}

async fn own_key(
    token: Token,
    dice: &Dice,
    id: KeyId,
    kind: KeyKind,
    which: &'static str,
) -> Result<OwnKey, InitRefused> {
    let label = format!("chancery appliance {which}");
    let new = token
        .generate(id, kind, &label, soon())
        .await
        .map_err(|source| InitRefused::Key { which, source })?;
    let challenge = dice.throw::<32>();
    let scheme = kind.schemes()[0];
    let made = token.sign(&new.key, scheme, SignInput::Message(challenge.to_vec()), soon()).await;
    let made = made.map_err(|source| InitRefused::Key { which, source })?;
    match new.public.verifies(scheme, &challenge, &made) {
        true => Ok(OwnKey { key: new.key, spki_der: new.public.spki_der }),
        false => Err(InitRefused::Unproven { which }),
    }
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
        "roots": roots::describe(facts),
    })
}

fn soon() -> Instant {
    Instant::now() + TOKEN_GENERATE_WAIT_MAX
}
