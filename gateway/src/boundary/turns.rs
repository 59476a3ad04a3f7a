//! Turns on the processor: of what one workspace asks for, only so much is looked at at once as there are threads. What a
//! connection brings in one go would otherwise stand before everybody else's requests in the runtime's queue.
//! Who enters: connections, with the workspace of their certificate; each of their requests.
//! What leaves: the request's outcome; until it waits for something for the first time, it is computed in its turn.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;

use crate::compartments::Owner;

/// All workspaces that are connected; cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Turns(Arc<Mutex<HashMap<Owner, Weak<Semaphore>>>>);

/// The turns of one workspace; cheap to clone. They are kept as long as any of its connections is.
#[derive(Clone)]
pub(super) struct Line(Arc<Semaphore>);

impl Turns {
    /// The line in which the requests of this workspace stand, on whichever connection they come.
    pub(super) fn line(&self, owner: &Owner) -> Line {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(owner).and_then(Weak::upgrade) {
            return Line(line);
        }
        lines.retain(|_, line| line.strong_count() > 0);
        let threads = tokio::runtime::Handle::current().metrics().num_workers();
        let line = Arc::new(Semaphore::new(threads));
        lines.insert(owner.clone(), Arc::downgrade(&line));
        Line(line)
    }
}

impl Line {
    /// Waits for a turn, and computes in it until the work waits for the first time: all that a refusal takes, and what stands
    /// before the body, the ledger and the token, which have bounds of their own.
    pub(super) async fn begin<T>(&self, mut work: impl Future<Output = T> + Unpin) -> T {
        // Nobody closes a line.
        let mut turn = self.0.acquire().await.ok();
        // To the end of the runtime's queue: what others brought meanwhile stands before it, and the rest of its own line behind.
        tokio::task::yield_now().await;
        poll_fn(|context| {
            let polled = Pin::new(&mut work).poll(context);
            turn = None;
            polled
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::task::{JoinSet, yield_now};

    use super::*;
    use crate::dice::Dice;
    use crate::ids::WorkspaceId;

    fn somebody() -> Owner {
        Some(WorkspaceId::new(&Dice::system()).unwrap())
    }

    /// On one thread: a thousand requests of one workspace are there, and then one of another's comes.
    #[tokio::test]
    async fn whoever_comes_after_a_thousand_of_another_workspace_waits_for_a_turn_or_two() {
        let (turns, looked_at) = (Turns::default(), Arc::new(AtomicUsize::new(0)));
        let mut all = JoinSet::new();
        let greedy = turns.line(&somebody());
        for _ in 0..1000 {
            let (line, looked_at) = (greedy.clone(), Arc::clone(&looked_at));
            all.spawn(async move {
                line.begin(Box::pin(async { looked_at.fetch_add(1, Ordering::SeqCst) })).await
            });
        }
        // Every one of them has come to its line.
        yield_now().await;
        let before = looked_at.load(Ordering::SeqCst);
        let other = turns.line(&somebody());
        let after =
            tokio::spawn(
                async move { other.begin(Box::pin(async { looked_at.load(Ordering::SeqCst) })).await },
            )
            .await
            .unwrap();
        assert!(after - before <= 16, "{} were looked at first", after - before);
        assert_eq!(all.join_all().await.len(), 1000);
    }

    #[tokio::test]
    async fn what_waits_has_left_its_turn_to_the_next() {
        let turns = Turns::default();
        let owner = somebody();
        let (line, same) = (turns.line(&owner), turns.line(&owner));
        let waiting = tokio::spawn(async move { line.begin(std::future::pending::<()>()).await });
        yield_now().await;
        same.begin(std::future::ready(())).await;
        assert!(!waiting.is_finished());
        waiting.abort();
        drop((waiting.await, same));
        turns.line(&somebody());
        assert_eq!(turns.0.lock().unwrap().len(), 1, "a line is kept of those who have left");
    }
}
