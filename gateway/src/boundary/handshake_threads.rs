//! Threads on which TLS handshakes are computed, apart from those that serve: a flood of handshakes then waits for itself.
//! Who enters: the listener, with the handshake of each new connection.
//! What leaves: the handshake's outcome, to the connection's own task.

use std::io;
use std::num::NonZero;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::task::AbortOnDropHandle;

/// The threads; they are let go when this is dropped.
pub(super) struct HandshakeThreads {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl HandshakeThreads {
    /// Half as many as there are processors: a signature of a certificate, a key exchange and the checks of a chain take half a
    /// millisecond of one, and whoever is connected already should find another that is free.
    pub(super) fn start() -> io::Result<Self> {
        let threads = (std::thread::available_parallelism().map_or(1, NonZero::get) / 2).max(1);
        let runtime =
            Builder::new_multi_thread().worker_threads(threads).thread_name("handshakes").build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Computes one. Its sockets stay with the runtime that accepted them; only what is computed is computed here.
    pub(super) fn compute<F>(&self, handshake: F) -> AbortOnDropHandle<F::Output>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        AbortOnDropHandle::new(self.handle.spawn(handshake))
    }
}

impl Drop for HandshakeThreads {
    fn drop(&mut self) {
        // A runtime that is waited for cannot be dropped on a thread of another one.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_handshake_is_computed_on_threads_of_its_own_and_ends_with_whoever_waits_for_it() {
        let threads = HandshakeThreads::start().unwrap();
        let name = threads.compute(async { std::thread::current().name().map(str::to_owned) }).await.unwrap();
        assert_eq!(name.as_deref(), Some("handshakes"));
        let (held, dropped) = tokio::sync::oneshot::channel::<()>();
        drop(threads.compute(async move {
            std::future::pending::<()>().await;
            drop(held);
        }));
        assert!(dropped.await.is_err(), "a handshake went on that nobody waits for");
    }
}
