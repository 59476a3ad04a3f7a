//! One connection: HTTP/1.1 or h2 over any byte stream, with a limit on everything a peer can make us hold.
//! Who enters: a stream whose handshake is done, and the peer behind it.
//! What leaves: requests to the gate, one after the other or many at once.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::authenticate::Peer;
use super::framing::{TwoLengths, Watched};
use super::gate::Gate;
use crate::limits::{
    HEADER_BYTES_MAX, HEADER_FIELDS_MAX, HEADER_WAIT_MAX, PING_EVERY, PING_WAIT_MAX, RESET_STREAMS_MAX,
    STREAM_WINDOW_BYTES, STREAMS_MAX,
};

/// Serves a connection until its peer leaves, `stopping` asks it to finish, or `cut` ends it at once.
pub async fn serve<S>(
    stream: S,
    peer: Peer,
    gate: Arc<Gate>,
    stopping: &CancellationToken,
    cut: &CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let peer = Arc::new(peer);
    let (stream, mark) = Watched::new(stream);
    let service = service_fn(move |mut request: Request<Incoming>| {
        let (gate, peer) = (Arc::clone(&gate), Arc::clone(&peer));
        // The parser has dropped one of the two lengths by now; the mark still knows of it.
        if request.headers().contains_key(header::TRANSFER_ENCODING) && mark.take() {
            request.extensions_mut().insert(TwoLengths);
        }
        async move { Ok::<_, Infallible>(gate.answer(&peer, request).await) }
    });
    let builder = builder();
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return log_end(ended),
        () = cut.cancelled() => return,
        () = stopping.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        ended = connection => log_end(ended),
        () = cut.cancelled() => {}
    }
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_WAIT_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .max_headers(HEADER_FIELDS_MAX)
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX as u32)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(RESET_STREAMS_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(STREAM_WINDOW_BYTES)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_WAIT_MAX);
    builder
}

fn log_end(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(why) = ended {
        tracing::debug!(%why, "connection ended");
    }
}
