//! The reading room: a few threads, each with its own read-only connection, taking reads from one queue.
//! Who enters: closures that only look.
//! What leaves: one answer each, from one consistent snapshot.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

use tokio::sync::oneshot;

use crate::fault::SqlFault;
use crate::gate::SnapshotGate;
use crate::refused::ReadRefused;
use crate::shared::unpoisoned;
use crate::tx::{Session, View};

/// A read, ready to be run by any reader; told the fault instead when no snapshot could be had.
pub(crate) type ReadJob = Box<dyn FnOnce(Result<&View<'_>, SqlFault>) + Send>;

/// Wraps a closure and the place where its answer is awaited.
pub(crate) fn job<T, E, W>(work: W, answer: oneshot::Sender<Result<T, ReadRefused<E>>>) -> ReadJob
where
    T: Send + 'static,
    E: Send + 'static,
    W: FnOnce(&View<'_>) -> Result<T, E> + Send + 'static,
{
    Box::new(move |view| {
        let result = match view {
            Ok(view) => match catch_unwind(AssertUnwindSafe(|| work(view))) {
                Ok(Ok(found)) => Ok(found),
                Ok(Err(why)) => Err(ReadRefused::Rejected(why)),
                Err(_) => Err(ReadRefused::Panicked),
            },
            Err(fault) => Err(ReadRefused::Failed(fault)),
        };
        let _ = answer.send(result);
    })
}

/// A reader's life: until the ledger takes the door away.
pub(crate) fn serve(session: &Session, snapshots: &SnapshotGate, queue: &Arc<Mutex<Receiver<ReadJob>>>) {
    loop {
        let next = unpoisoned(queue).recv();
        let Ok(job) = next else { return };
        read(session, snapshots, job);
    }
}

fn read(session: &Session, snapshots: &SnapshotGate, job: ReadJob) {
    let _snapshot = snapshots.enter();
    if let Err(fault) = session.own("BEGIN").and_then(|mut begin| Ok(begin.raw_execute()?)) {
        return job(Err(fault));
    }
    job(Ok(&View { session }));
    // Ends the snapshot. Nothing was changed, so nothing can be lost by a failure here.
    let _ = session.own("ROLLBACK").map(|mut end| end.raw_execute());
}
