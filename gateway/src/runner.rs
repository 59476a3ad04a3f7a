//! Where workflows run: the engine's place in the house, filled once the ledger is vouched for.
//! Who enters: services with a wish or a question; the wiring, once, with the engine.
//! What leaves: the engine; how a workflow ended; why it was not started.

use std::sync::{Arc, OnceLock};

use sagas::{End, Engine, SignalRefused, StartRefused, State, VerbRefused};

/// The engine's place; cheap to clone. It stays empty while the ledger takes no writes.
#[derive(Clone, Default)]
pub struct Runner {
    engine: Arc<OnceLock<Engine>>,
}

/// Why a workflow was not started, signalled or led, or why it did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum RunRefused {
    /// The ledger does not take writes, so nothing runs.
    #[error("no workflow runs while the ledger takes no writes")]
    NotRunning,
    /// It was not started.
    #[error("the workflow was not started")]
    Start(#[source] StartRefused),
    /// The signal was not taken.
    #[error("the signal was not taken")]
    Signal(#[source] SignalRefused),
    /// A person's verb was not carried out.
    #[error("the verb was not carried out")]
    Verb(#[source] VerbRefused),
    /// It ended without success: what it had done was undone.
    #[error("the workflow ended without success: {words}")]
    Undone {
        /// A stable word.
        code: String,
        /// Why.
        words: String,
    },
    /// What it left behind cannot be read.
    #[error("the workflow's result cannot be read")]
    Result(#[source] serde_json::Error),
}

/// How far a workflow has come when its caller's patience ends.
#[derive(Debug)]
pub enum Ran<T> {
    /// It succeeded and left this behind.
    Done(T),
    /// It goes on.
    Going,
}

impl Runner {
    /// Puts the engine in its place. A second one would be a fault of the wiring, and is dropped.
    pub fn install(&self, engine: Engine) {
        if self.engine.set(engine).is_err() {
            tracing::error!("a second engine was built and is not used");
        }
    }

    /// The engine.
    ///
    /// # Errors
    /// It does not run.
    pub fn engine(&self) -> Result<&Engine, RunRefused> {
        self.engine.get().ok_or(RunRefused::NotRunning)
    }

    /// Finishes what is between two commits, and lets the rest go on at the next start.
    pub async fn close(&self) {
        if let Some(engine) = self.engine.get() {
            engine.clone().close().await;
        }
    }
}

/// What an end means to whoever waited for it.
///
/// # Errors
/// It did not succeed, or its result does not read as a `T`.
pub fn ended<T: serde::de::DeserializeOwned>(end: Option<End>) -> Result<Ran<T>, RunRefused> {
    let Some(end) = end else { return Ok(Ran::Going) };
    if end.state != State::Succeeded {
        let code = end.code.unwrap_or_else(|| end.state.as_str().to_owned());
        let words = end.error.unwrap_or_else(|| "it was let go of by an operator".to_owned());
        return Err(RunRefused::Undone { code, words });
    }
    serde_json::from_value(end.result.unwrap_or_default()).map(Ran::Done).map_err(RunRefused::Result)
}
