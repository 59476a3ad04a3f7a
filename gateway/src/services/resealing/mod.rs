//! The master key sealed anew, to the state in which the machine is now and the registers that the configuration names now.
//! Who enters: operators, before and after an update that changes what the TPM measures.
//! What leaves: a wrapped master key in place of the one before, of which nothing stays in the files; an entry that tells of it.

pub mod routes;
pub mod wire;

use audit::{Told, Tx};
use serde_json::json;
use tokio::sync::Mutex;

use super::ground::{Ground, LedgerRefused, Say, Telling};
use crate::api::{OperatorPermit, Origin, Reply};
use crate::appliance::master::{self, MasterRefused};
use crate::appliance::{Facts, Tokens, store};
use crate::custody::{Custody, CustodyRefused};
use crate::refused_by_ledger;

/// Why nothing was sealed anew.
#[derive(Debug, thiserror::Error)]
pub enum ResealRefused {
    /// The appliance has no TPM, and nothing is sealed to a machine.
    #[error("no TPM is configured, and nothing is sealed to this machine")]
    NoTpm,
    /// The master key is not there.
    #[error(transparent)]
    Custody(#[from] CustodyRefused),
    /// A token or TPM did not do it.
    #[error("the master key was not sealed anew")]
    Master(#[from] MasterRefused),
    /// What was sealed anew does not open.
    #[error("what was sealed anew does not open; the key stays sealed as it was")]
    Unproven,
    /// The facts of the appliance cannot be read or written.
    #[error("the record of the appliance's own facts cannot be used")]
    Record,
    /// The ledger did not take it.
    #[error(transparent)]
    Ledger(#[from] LedgerRefused),
}
refused_by_ledger!(ResealRefused);

/// What the master key is sealed to now.
#[derive(Clone, Debug)]
pub struct Resealed {
    /// The registers; none seals to the chip alone.
    pub pcrs: Vec<u8>,
}

/// The service.
pub struct Resealing {
    ground: Ground,
    tokens: Tokens,
    custody: Custody,
    /// The registers that the TPM's worker seals to; nothing without a TPM.
    pcrs: Option<Vec<u8>>,
    // One at a time, so that what is recorded last was also made last.
    turn: Mutex<()>,
}

impl Resealing {
    /// The service on its ground. `pcrs` are those of the configuration that the workers were started with.
    pub fn new(ground: Ground, tokens: Tokens, custody: Custody, pcrs: Option<Vec<u8>>) -> Self {
        Self { ground, tokens, custody, pcrs, turn: Mutex::default() }
    }

    /// Seals the master key to the present state, sees that it opens, and keeps it in place of the one before.
    ///
    /// # Errors
    /// There is no TPM, or token, TPM or ledger did not do it; then the key is sealed as it was.
    pub async fn reseal(
        &self,
        by: &OperatorPermit,
        origin: &Origin,
        say: impl Say<Resealed>,
    ) -> Result<Reply, ResealRefused> {
        let pcrs = self.pcrs.clone().ok_or(ResealRefused::NoTpm)?;
        let _turn = self.turn.lock().await;
        let log = self.ground.ledger.origin().to_owned();
        let own = self.custody.master_key()?;
        let sealed = master::wrap(&self.tokens, &log, own).await?;
        let back = master::unwrap(&self.tokens, &log, &sealed).await?;
        if !own.lend(|own| back.lend(|back| own == back)) {
            return Err(ResealRefused::Unproven);
        }
        let telling = Telling::operator(by, None, origin);
        let act = move |tx: &mut Tx<'_>, telling: &Telling| {
            replace_master(tx, &sealed)?;
            let after = json!({ "pcrs": pcrs });
            let entry = telling.entry("appliance.reseal", "appliance", |detail| detail.after(after));
            Ok(Told::new(Resealed { pcrs: pcrs.clone() }, entry))
        };
        // If we stop before this commit, the key is sealed as it was; after it, as it is now. Both open in the present state.
        let (reply, recorded) = self.ground.answer::<_, ResealRefused>(telling, act, say).await?;
        tracing::info!(pcrs = ?recorded.into_value().pcrs, "the master key is sealed anew");
        Ok(reply)
    }
}

fn replace_master(tx: &Tx<'_>, sealed: &[u8]) -> Result<(), ResealRefused> {
    let kept = store::get(tx, store::FACTS)?.ok_or(ResealRefused::Record)?;
    let mut facts: Facts = serde_json::from_slice(&kept).map_err(|_| ResealRefused::Record)?;
    sealed.clone_into(&mut facts.master);
    let facts = serde_json::to_vec(&facts).map_err(|_| ResealRefused::Record)?;
    Ok(store::supersede(tx, store::FACTS, &facts)?)
}
