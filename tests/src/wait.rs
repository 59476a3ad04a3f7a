//! Waiting for a condition, never for a time.
//! Who enters: tests, with a question that is asked until the answer is yes.
//! What leaves: the answer; or a failure that names what did not come true.

use std::future::Future;
use std::time::{Duration, Instant};

/// Between two questions: short against every bound that tests assert, long enough to leave a core to the daemon.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// When a test gives up on what should come at once. It says when to stop waiting and measures nothing: a machine that is ten
/// times as busy passes too, and how long something takes is for `make bench`.
pub const GIVEN_UP: Duration = Duration::from_secs(60);

/// Asks until there is an answer, and says how long it took; fails when the patience is over.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    patience: Duration,
    mut ask: impl FnMut() -> F,
) -> (T, Duration) {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask().await {
            return (answer, begun.elapsed());
        }
        assert!(begun.elapsed() < patience, "{what}: not within {patience:?}");
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Lets something finish in time, or fails.
pub async fn within<T>(what: &str, patience: Duration, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(patience, work).await {
        Ok(done) => done,
        Err(_) => panic!("{what}: not within {patience:?}"),
    }
}
