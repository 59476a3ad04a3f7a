//! How long a handler is waited for, and who says how it did: the task it runs in; or, if that cannot speak, whoever oversees it.
//! Who enters: the gate, with a handler that runs and its pass.
//! What leaves: the handler's answer, if it came in time; one verdict in any case, also on a handler that blocks its thread.

use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::{JoinError, JoinHandle};

use crate::api::{Effect, Problem, Reply};
use crate::compartments::{Pass, Verdict, Word};

/// A handler watches its own deadline; with this much more it has hung.
const GRACE: Duration = Duration::from_millis(200);
/// And with this much more its own task is not heard any longer.
const LAST_GRACE: Duration = Duration::from_millis(50);

/// What a handler answers, unless its time is over.
pub(super) type Answer = Option<Result<Reply, Problem>>;

/// How long a handler is waited for, and what becomes of it then.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    pub(super) effect: Effect,
    pub(super) until: Instant,
    /// It had so much time that not to answer is a failure. With less, the caller was impatient.
    pub(super) fair: bool,
}

impl Patience {
    fn lost(self) -> Verdict {
        if self.fair { Verdict::Failure } else { Verdict::Neutral }
    }
}

/// Waits for a handler as long as it may take, and says how it did. What changes something keeps its place until it is
/// over, however late that is: a service whose handlers hang fills its own compartment and no other.
pub(super) async fn attend(
    answering: impl Future<Output = Result<Reply, Problem>>,
    mut pass: Pass,
    patience: Patience,
) -> Answer {
    tokio::pin!(answering);
    match tokio::time::timeout_at((patience.until + GRACE).into(), answering.as_mut()).await {
        Ok(answer) => {
            pass.verdict(Verdict::Success);
            Some(answer)
        }
        Err(_) => {
            pass.verdict(patience.lost());
            if patience.effect == Effect::Changes {
                let _ = answering.await;
            }
            None
        }
    }
}

/// Sees a handler's task from outside. It has a word of its own, for a handler that blocks its thread keeps its task from
/// looking at the clock.
pub(super) struct Overseer {
    watch: Option<Watch>,
}

struct Watch {
    task: JoinHandle<Answer>,
    word: Word,
    patience: Patience,
}

impl Overseer {
    pub(super) fn over(task: JoinHandle<Answer>, word: Word, patience: Patience) -> Self {
        Self { watch: Some(Watch { task, word, patience }) }
    }

    /// How the task ended; nothing if it did not in time.
    pub(super) async fn outcome(mut self) -> Option<Result<Answer, JoinError>> {
        let outcome = self.watch.as_mut()?.outcome().await;
        self.watch = None;
        outcome
    }
}

impl Watch {
    async fn outcome(&mut self) -> Option<Result<Answer, JoinError>> {
        let end = self.patience.until + GRACE + LAST_GRACE;
        let outcome = tokio::time::timeout_at(end.into(), &mut self.task).await;
        if outcome.is_err() {
            self.word.give(self.patience.lost());
        }
        outcome.ok()
    }
}

/// A client that goes leaves nobody to wait, and a handler that blocks would be judged by nobody. Watching ends with the
/// task, so there are never more who watch than there are places.
impl Drop for Overseer {
    fn drop(&mut self) {
        if let (Some(mut watch), Ok(runtime)) = (self.watch.take(), Handle::try_current()) {
            runtime.spawn(async move { watch.outcome().await });
        }
    }
}
