//! Signing: admitted, authorised on the ledger, signed in the token, verified, answered. In that order, always.
//! Who enters: members with the scope `sign`, with a message or a digest.
//! What leaves: verified signatures, each with the entry and the use count that were written before the key was touched.

pub mod agreement;
pub mod approvals;
mod batch;
pub mod bundle;
pub mod changes;
pub mod offers;
pub mod order;
pub mod policies;
pub mod requests;
pub mod routes;
pub mod store;
pub mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use audit::{Outcome, Recorded, Told};
use hsm::TokenError;
use sagas::SagaKey;
use serde_json::json;

use self::order::{Prepared, SignCommand, Target, Unrecorded, VerifyCommand};
use self::policies::{Effective, LimitTime, PolicyRefused, PolicyScope};
use self::requests::{Made, RequestPlan};
use self::store::PolicyRow;
use super::ground::{Ground, LedgerRefused, Telling};
use super::keys::{Keys, KeysRefused};
use crate::admission::{Admission, Shed};
use crate::api::Origin;
use crate::api::guard::{Permit, may};
use crate::crypto::VerifyRefused;
use crate::ids::WorkspaceId;
use crate::moment::Moment;
use crate::refused_by_ledger;
use crate::runner::{Ran, RunRefused};
use crate::signer::{SignFailed, SignOrder, Signer};

/// Why nothing was signed or verified.
#[derive(Debug, thiserror::Error)]
pub enum SigningRefused {
    /// The queue is longer than the request's patience.
    #[error(transparent)]
    Shed(#[from] Shed),
    /// The key, its version or its state.
    #[error(transparent)]
    Key(#[from] KeysRefused),
    /// The input does not fit the key or the scheme.
    #[error(transparent)]
    Input(#[from] VerifyRefused),
    /// A rule of the workspace.
    #[error(transparent)]
    Policy(#[from] PolicyRefused),
    /// The workflow that carries the request.
    #[error(transparent)]
    Run(#[from] RunRefused),
    /// Authorised and recorded, but no signature came of it.
    #[error(transparent)]
    Failed(#[from] SignFailed),
    /// The ledger did not take it.
    #[error(transparent)]
    Ledger(#[from] LedgerRefused),
}
refused_by_ledger!(SigningRefused);

/// A signature with what a receipt will show.
#[derive(Debug)]
pub struct Signed {
    /// In the token's shape.
    pub raw: Vec<u8>,
    /// The key and version that made it.
    pub target: Target,
    /// The entry that authorised it.
    pub seq: u64,
    /// The key's use counter in that entry.
    pub use_number: i64,
}

/// The service.
pub struct Signing {
    ground: Ground,
    keys: Arc<Keys>,
    admission: Admission,
    signer: Signer,
}

impl Signing {
    /// The service on its ground.
    pub fn new(ground: Ground, keys: Arc<Keys>, admission: Admission, signer: Signer) -> Self {
        Self { ground, keys, admission, signer }
    }

    /// Signs one message or digest.
    ///
    /// # Errors
    /// Nothing was signed, or the outcome is not known; the refusal says which.
    pub async fn sign(
        &self,
        by: &Permit<may::Sign>,
        origin: &Origin,
        command: SignCommand,
    ) -> Result<Signed, SigningRefused> {
        let prepared = self.prepare(by, &command).await?;
        let slot = self.admission.admit(by.workspace(), origin.urgent, origin.deadline).await?;
        let attendance = self.ground.ledger.attend();
        let telling = Telling::member(by, origin);
        let (target, authorised) =
            self.authorise(by, &telling, (&command, prepared), origin.deadline).await?;
        let signed = self.act(authorised, target, telling).await;
        drop((slot, attendance));
        signed
    }

    /// The moment by which limits are counted. Where no engine runs the ledger takes no writes, and nothing is counted.
    fn limit_time(&self) -> LimitTime {
        let wall = self.ground.now();
        let proven = self.ground.runner.engine().ok().map(|engine| engine.time().now_us());
        let proven = proven.and_then(|us| i64::try_from(us).ok()).map_or(wall, Moment::from_micros);
        LimitTime { wall, proven }
    }

    /// Asks for a signature that others may have to agree to, and waits for it as long as its caller would.
    ///
    /// # Errors
    /// It was not asked for, or it came to its end without a signature.
    pub async fn request(
        &self,
        by: &Permit<may::Sign>,
        origin: &Origin,
        plan: &RequestPlan,
        patience: Duration,
    ) -> Result<(SagaKey, Ran<Made>), SigningRefused> {
        let telling = Telling::member(by, origin);
        let run = self.ground.launch::<SigningRefused>(telling, "signing.request", plan).await?;
        let made = self.ground.outcome::<Made, SigningRefused>(&run, Instant::now() + patience).await?;
        Ok((run, made))
    }

    /// Every policy that the workspace has or had.
    ///
    /// # Errors
    /// The ledger gave nothing.
    pub async fn policies(&self, by: &Permit<may::KeysRead>) -> Result<Vec<PolicyRow>, SigningRefused> {
        let workspace = by.workspace().clone();
        self.ground.read::<_, SigningRefused>(move |view| Ok(store::policies(view, &workspace)?)).await
    }

    /// What holds for the workspace, or for the key of this id or name.
    ///
    /// # Errors
    /// There is no such key, or the ledger gave nothing.
    pub async fn effective(
        &self,
        by: &Permit<may::KeysRead>,
        scope: &str,
    ) -> Result<(PolicyScope, Effective), SigningRefused> {
        let (workspace, scope) = (by.workspace().clone(), self.scope(by.workspace(), scope).await?);
        let effective = self.ground.read::<_, SigningRefused>(move |view| {
            let effective = policies::effective(view, &workspace, &scope)?;
            Ok((scope, effective))
        });
        effective.await
    }

    /// Verifies a signature against a recorded public key; old versions verify for ever.
    ///
    /// # Errors
    /// There is no such key or version, or the input cannot be verified at all.
    pub async fn verify(
        &self,
        by: &Permit<may::Verify>,
        command: VerifyCommand,
    ) -> Result<(Target, bool), SigningRefused> {
        let card = self.keys.card(by.workspace(), &command.sign.key).await?;
        let raw = command.raw_signature(card.row.kind);
        let prepared = command.sign.prepare(&card)?;
        let verdict = raw.map(|raw| prepared.key.pinned.verify(prepared.scheme, &prepared.input, &raw));
        Ok((prepared.target, matches!(verdict, Ok(Ok(())))))
    }

    /// Authorises with the version that signs now. Should another take over between the card and the transaction, the card is
    /// made anew, once.
    async fn authorise(
        &self,
        by: &Permit<may::Sign>,
        telling: &Telling,
        (command, mut prepared): (&SignCommand, Prepared),
        deadline: Instant,
    ) -> Result<(Target, Recorded<SignOrder>), SigningRefused> {
        let mut looked_again = false;
        loop {
            let target = prepared.target.clone();
            match self.record(by, telling.clone(), prepared.order(deadline)).await {
                Err(SigningRefused::Key(KeysRefused::Fenced)) if !looked_again => looked_again = true,
                recorded => return Ok((target, recorded?)),
            }
            prepared = self.prepare(by, command).await?;
        }
    }

    async fn prepare(
        &self,
        by: &Permit<may::Sign>,
        command: &SignCommand,
    ) -> Result<Prepared, SigningRefused> {
        let card = self.keys.card(by.workspace(), &command.key).await?;
        command.prepare_to_sign(&card)
    }

    /// Writes the authorisation: credentials and key state are checked, and the use is counted, in the entry's own
    /// transaction. If we stop after this, the ledger says that a signature was allowed, and none left the house.
    async fn record(
        &self,
        by: &Permit<may::Sign>,
        telling: Telling,
        order: Unrecorded,
    ) -> Result<Recorded<SignOrder>, SigningRefused> {
        let (workspace, now) = (by.workspace().clone(), self.limit_time());
        let recorded = self
            .ground
            .authorise::<_, SigningRefused>(telling, 1, move |tx, telling| {
                let (key, scheme) = (&order.target.key, order.scheme());
                policies::admit_direct::<SigningRefused>(tx, &workspace, key, scheme, now)?;
                let use_number = order.count(tx, &workspace)?;
                let (order, entry) = order.told(telling, use_number);
                Ok(Told::new(order, entry))
            })
            .await;
        self.look_again_if_fenced(by.workspace(), recorded)
    }

    /// A card under an old fence was made before the copy took over and put on the ring after it; the next one is made anew.
    fn look_again_if_fenced<T>(
        &self,
        workspace: &WorkspaceId,
        authorised: Result<T, SigningRefused>,
    ) -> Result<T, SigningRefused> {
        if let Err(SigningRefused::Key(KeysRefused::Fenced)) = &authorised {
            self.keys.forget(workspace);
        }
        authorised
    }

    /// Takes a recorded order through the one door. A failure gets its own entry.
    async fn act(
        &self,
        authorised: Recorded<SignOrder>,
        target: Target,
        telling: Telling,
    ) -> Result<Signed, SigningRefused> {
        let (seq, use_number) = (authorised.seq(), authorised.value().use_number);
        match self.signer.sign(authorised).await {
            Ok(signature) => Ok(Signed { raw: signature.raw, target, seq: signature.seq, use_number }),
            Err(failed) => {
                self.tell_failure(telling, &target, seq, word_for(&failed), None).await;
                Err(failed.into())
            }
        }
    }

    /// An authorised order whose time ran out before its turn at the token: never sent, told so, and its use of the policy's
    /// limits given back.
    async fn give_up(
        &self,
        authorised: Recorded<SignOrder>,
        target: &Target,
        (telling, counted): (Telling, LimitTime),
        shed: Shed,
    ) -> Result<Signed, SigningRefused> {
        self.tell_failure(telling, target, authorised.seq(), "not_signed", Some(counted)).await;
        Err(shed.into())
    }

    /// Tells a failure; what was counted at a moment and certainly not made is given back.
    async fn tell_failure(
        &self,
        telling: Telling,
        target: &Target,
        seq: u64,
        what: &'static str,
        unmade: Option<LimitTime>,
    ) {
        let (key, workspace) = (target.key.clone(), telling.workspace().cloned());
        let told = self.ground.write::<_, SigningRefused>(telling.sequel(), move |tx, telling| {
            if let Some((counted, workspace)) = unmade.zip(workspace.as_ref()) {
                policies::give_back_direct(tx, workspace, &key, counted)?;
            }
            let object = key.to_string();
            let entry = telling.entry("key.sign_failed", object, |detail| {
                detail.after(json!({ "authorised_in": seq, "outcome": what }))
            });
            Ok(Told::new((), entry.outcome(Outcome::Failed)))
        });
        // The caller learns of the failure in any case; the authorisation stands on the ledger without its sequel.
        if let Err(error) = told.await {
            tracing::error!(%error, seq, "a failed signature could not be told");
        }
    }
}

fn word_for(failed: &SignFailed) -> &'static str {
    match failed {
        SignFailed::Token(TokenError::OutcomeUnknown) => "outcome_unknown",
        SignFailed::Token(_) => "not_signed",
        SignFailed::Withheld(_) => "withheld",
    }
}
