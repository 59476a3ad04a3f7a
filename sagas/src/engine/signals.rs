//! Sending a signal: a row and a saga that is awake, in one transaction that the caller may share.
//! Who enters: whoever may approve, veto, accept or confirm.
//! What leaves: a signal that is heard once, however often it is sent.

use audit::{Detail, SqlFault, Told, Tx, WriteRefused};
use serde::Serialize;

use super::Engine;
use super::live::{Live, entry_by, sealed_place};
use super::turn::signal_place;
use crate::context::Origin;
use crate::define::step::written;
use crate::ids::SagaKey;
use crate::limits::{SIGNAL_BYTES_MAX, SIGNALS_WAITING_MAX};
use crate::seal::Plain;
use crate::store::{self, SignalRow};

/// A wish to signal a saga.
#[derive(Clone, Debug)]
pub struct SignalRequest {
    key: SagaKey,
    name: String,
    dedupe: String,
    payload: Plain,
    origin: Origin,
}

/// What became of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signalled {
    /// It will be heard.
    New,
    /// It was sent before.
    Repeated,
}

/// Why a saga cannot hear a signal.
#[derive(Debug, thiserror::Error)]
pub enum SignalRefused {
    /// Look at the list.
    #[error("there is no such workflow here")]
    NoSuchSaga,
    /// It is over; nothing will hear.
    #[error("the workflow is over")]
    Over,
    /// Send one that it listens to.
    #[error("`{workflow}` listens to no signal `{name}`")]
    NotHeard {
        /// Which workflow.
        workflow: String,
        /// Which signal.
        name: String,
    },
    /// It was sent before, with the same dedupe text; it is heard once.
    #[error("the signal was sent before")]
    Repeated,
    /// Send a smaller one, or none until these are heard.
    #[error("{0}")]
    TooMuch(String),
    /// The workflow cannot be opened at the moment.
    #[error("the workflow cannot be opened at the moment: {0}")]
    NotNow(String),
    /// The database did not do it.
    #[error("the database did not run a statement")]
    Sql(#[from] SqlFault),
}

impl SignalRequest {
    /// This signal to this saga. `dedupe` is what makes two of them one, such as the approver's id.
    ///
    /// # Errors
    /// Why the payload does not serialise.
    pub fn new(
        key: SagaKey,
        name: impl Into<String>,
        dedupe: impl Into<String>,
        payload: &impl Serialize,
    ) -> Result<Self, SignalRefused> {
        let payload = written(payload).map_err(SignalRefused::TooMuch)?;
        Ok(Self { key, name: name.into(), dedupe: dedupe.into(), payload, origin: Origin::default() })
    }

    /// On whose behalf, by which request.
    pub fn origin(mut self, origin: Origin) -> Self {
        self.origin = origin;
        self
    }
}

/// A signal that has everything but its commit.
#[derive(Clone)]
pub struct Signalling {
    live: Live,
    row: SignalRow,
    origin: Origin,
}

impl Signalling {
    /// Puts it into the inbox and wakes the saga, in the caller's transaction. Tell the engine afterwards with
    /// [`Engine::nudge`].
    ///
    /// # Errors
    /// Why it will not be heard, or that it was sent before.
    pub fn commit(&self, tx: &mut Tx<'_>) -> Result<Told<()>, SignalRefused> {
        let key = self.live.key();
        let row = store::saga(tx, key)?.ok_or(SignalRefused::NoSuchSaga)?;
        if row.state.is_over() {
            return Err(SignalRefused::Over);
        }
        if store::inbox_size(tx, key)? >= SIGNALS_WAITING_MAX {
            return Err(SignalRefused::TooMuch(format!("{SIGNALS_WAITING_MAX} signals wait to be heard")));
        }
        if !store::add_signal(tx, key, &self.row)? {
            return Err(SignalRefused::Repeated);
        }
        // A saga that is stuck has no moment of its own; it hears the signal when a person lets it go on.
        store::wake(tx, key, self.row.at_us)?;
        let name = self.row.name.clone();
        let signal = |detail: Detail| detail.with("signal", name);
        let entry = entry_by(&self.live.row, &self.origin, "workflow.signal", signal);
        Ok(Told::new((), entry))
    }
}

impl Engine {
    /// Prepares a signal for a commit of one's own.
    ///
    /// # Errors
    /// Why it will not be heard.
    pub async fn prepare_signal(&self, request: SignalRequest) -> Result<Signalling, SignalRefused> {
        let SignalRequest { key, name, dedupe, payload, origin } = request;
        if payload.len() > SIGNAL_BYTES_MAX || name.len() > 64 || dedupe.len() > 256 {
            return Err(SignalRefused::TooMuch(format!(
                "a signal has at most {SIGNAL_BYTES_MAX} bytes, its name 64, its dedupe text 256"
            )));
        }
        let live = match self.inner().load(&key).await {
            Ok(Some(live)) => live,
            Ok(None) => return Err(self.not_open(&key).await),
            Err(why) => return Err(SignalRefused::NotNow(why)),
        };
        if !live.def.listens_to(&name) {
            return Err(SignalRefused::NotHeard { workflow: live.row.workflow, name });
        }
        let place = sealed_place(&key, &signal_place(&name, &dedupe));
        let sealed =
            live.cipher.seal(&place, &payload).map_err(|why| SignalRefused::NotNow(why.to_string()))?;
        let row = SignalRow {
            seq: 0,
            name,
            dedupe,
            actor: origin.actor.clone(),
            payload_sealed: Some(sealed),
            at_us: self.inner().now_us(),
        };
        Ok(Signalling { live, row, origin })
    }

    /// Signals a saga.
    ///
    /// # Errors
    /// Why it will not be heard, or why the ledger did not take it.
    pub async fn signal(&self, request: SignalRequest) -> Result<Signalled, WriteRefused<SignalRefused>> {
        let signalling = self.prepare_signal(request).await.map_err(WriteRefused::Rejected)?;
        let key = signalling.live.key().clone();
        match self.inner().parts.ledger.write(move |tx| signalling.commit(tx)).await {
            Ok(_) => {
                self.nudge(&key);
                Ok(Signalled::New)
            }
            Err(WriteRefused::Rejected(SignalRefused::Repeated)) => Ok(Signalled::Repeated),
            Err(refused) => Err(refused),
        }
    }

    async fn not_open(&self, key: &SagaKey) -> SignalRefused {
        match self.inner().end_of(key).await {
            Ok(Some(_)) => SignalRefused::Over,
            _ => SignalRefused::NoSuchSaga,
        }
    }
}
