//! What services do with workflows: start one, wait for its end, turn it round, lead it on, send it what it waits for.
//! Who enters: acts with their telling.
//! What leaves: runs; how they ended; why nothing was started, turned round or heard.

use std::future::{Future, ready};
use std::time::Instant;

use audit::SqlFault;
use sagas::{SagaKey, SignalRequest, StartRequest, Verb};
use serde::Serialize;

use super::refused::{LedgerRefused, was_read};
use super::{Ground, Telling};
use crate::runner::{Ran, RunRefused, ended};

/// What a workflow waits for.
pub struct Signal<'a, P> {
    /// Its name.
    pub name: &'static str,
    /// What makes two of them one.
    pub dedupe: String,
    /// What it carries.
    pub payload: &'a P,
}

impl Ground {
    /// Starts a workflow on behalf of whoever asked.
    ///
    /// # Errors
    /// Why it was not started.
    pub async fn launch<E>(
        &self,
        telling: Telling,
        workflow: &str,
        plan: &(impl Serialize + Sync),
    ) -> Result<SagaKey, E>
    where
        E: From<LedgerRefused> + From<RunRefused> + Send + 'static,
    {
        let engine = self.runner.engine()?;
        let request = StartRequest::new(workflow, telling.scope(), plan).map_err(RunRefused::Start)?;
        let start = engine.prepare(request.origin(telling.origin())).await.map_err(RunRefused::Start)?;
        let key = start.key().clone();
        // If we stop after this, the next start of the engine finds the row and goes on.
        let of = key.clone();
        self.write::<_, E>(telling, move |tx, telling| {
            let started = start.commit(tx).map_err(RunRefused::Start)?;
            telling.answered_by(tx, &of)?;
            Ok(started)
        })
        .await?;
        engine.nudge(&key);
        Ok(key)
    }

    /// Waits for a workflow's end, as long as its caller has patience.
    ///
    /// # Errors
    /// It ended without success, or the ledger gave nothing.
    pub async fn outcome<T, E>(&self, key: &SagaKey, until: Instant) -> Result<Ran<T>, E>
    where
        T: serde::de::DeserializeOwned,
        E: From<LedgerRefused> + From<RunRefused> + From<SqlFault>,
    {
        self.progress(key, until, || ready(false)).await
    }

    /// Waits until a workflow has come so far as `seen` says, which is asked after each of its commits, or has ended.
    ///
    /// # Errors
    /// It ended without success, or the ledger gave nothing.
    pub async fn progress<T, E, F>(
        &self,
        key: &SagaKey,
        until: Instant,
        seen: impl Fn() -> F + Send,
    ) -> Result<Ran<T>, E>
    where
        T: serde::de::DeserializeOwned,
        E: From<LedgerRefused> + From<RunRefused> + From<SqlFault>,
        F: Future<Output = bool> + Send,
    {
        let engine = self.runner.engine()?;
        let patience = until.saturating_duration_since(Instant::now());
        let end = engine.wait_or(key, patience, seen).await;
        let end = was_read::<_, E>(end.map_err(|refused| refused.map(E::from)))?;
        Ok(ended(end)?)
    }

    /// Asks a workflow to turn round.
    ///
    /// # Errors
    /// It is over or past its pivot, or the ledger did not take it.
    pub async fn cancel<E>(&self, telling: Telling, key: &SagaKey, reason: &str) -> Result<(), E>
    where
        E: From<LedgerRefused> + From<RunRefused> + Send + 'static,
    {
        let engine = self.runner.engine()?;
        let cancelling = engine.prepare_cancel(key, telling.origin(), reason);
        let of = key.clone();
        self.write::<_, E>(telling, move |tx, telling| {
            telling.answered_by(tx, &of)?;
            Ok(cancelling.commit(tx).map_err(RunRefused::Verb)?)
        })
        .await?;
        engine.nudge(key);
        Ok(())
    }

    /// Leads a stuck workflow on.
    ///
    /// # Errors
    /// It is not stuck in the way this verb is for, or the ledger did not take it.
    pub async fn lead<E>(&self, telling: Telling, key: &SagaKey, verb: Verb, reason: &str) -> Result<(), E>
    where
        E: From<LedgerRefused> + From<RunRefused> + Send + 'static,
    {
        let engine = self.runner.engine()?;
        let leading = engine.prepare_lead(key, verb, telling.origin(), reason).await;
        let leading = leading.map_err(RunRefused::Verb)?;
        let of = key.clone();
        let led = self.write::<_, E>(telling, move |tx, telling| {
            telling.answered_by(tx, &of)?;
            Ok(leading.commit(tx).map_err(RunRefused::Verb)?)
        });
        engine.led(led.await?.into_value());
        Ok(())
    }

    /// Brings a workflow what it waits for.
    ///
    /// # Errors
    /// It will not hear it, or the ledger did not take it.
    pub async fn signal<E>(
        &self,
        telling: Telling,
        key: &SagaKey,
        signal: Signal<'_, impl Serialize>,
    ) -> Result<(), E>
    where
        E: From<LedgerRefused> + From<RunRefused> + Send + 'static,
    {
        let engine = self.runner.engine()?;
        let Signal { name, dedupe, payload } = signal;
        let request = SignalRequest::new(key.clone(), name, dedupe, payload).map_err(RunRefused::Signal)?;
        let signalling = engine.prepare_signal(request.origin(telling.origin())).await;
        let signalling = signalling.map_err(RunRefused::Signal)?;
        let of = key.clone();
        self.write::<_, E>(telling, move |tx, telling| {
            telling.answered_by(tx, &of)?;
            Ok(signalling.commit(tx).map_err(RunRefused::Signal)?)
        })
        .await?;
        engine.nudge(key);
        Ok(())
    }
}
