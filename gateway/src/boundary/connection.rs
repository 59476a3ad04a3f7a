//! One connection: HTTP/1.1 or h2 over any byte stream, with a limit on everything a peer can make us hold.
//! Who enters: a stream whose handshake is done, and the peer behind it.
//! What leaves: requests to the gate, one after the other or many at once.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, header};
use hyper::body::{Body, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::authenticate::Peer;
use super::framing::{Mark, TwoLengths, Watched};
use super::gate::Gate;
use crate::limits::{
    CONNECTION_AGE_MAX, CONNECTION_WINDOW_BYTES, FIRST_BYTES_WAIT_MAX, HEADER_BYTES_MAX, HEADER_FIELDS_MAX,
    HEADER_WAIT_MAX, PING_EVERY, PING_WAIT_MAX, RESET_STREAMS_MAX, STREAM_WINDOW_BYTES, STREAMS_MAX,
    UNSENT_WAIT_MAX,
};
use crate::unsent::Unsent;

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
    let seen = mark.clone();
    let unsent = gate.answers().connection();
    let counter = unsent.counter();
    let line = gate.line(&peer);
    let patience = Patience { age: gate.jittered(CONNECTION_AGE_MAX), ..Patience::default() };
    let answer = move |mut request: Request<Incoming>| {
        let (gate, peer, counter, line) =
            (Arc::clone(&gate), Arc::clone(&peer), counter.clone(), line.clone());
        // The parser has dropped one of the two lengths by now; the mark still knows of it.
        if request.headers().contains_key(header::TRANSFER_ENCODING) && seen.take() {
            request.extensions_mut().insert(TwoLengths);
        }
        async move {
            // Whoever does not take what it asked for waits with what it asks for next.
            counter.room().await;
            Ok::<_, Infallible>(line.begin(Box::pin(gate.answer(&peer, request, &counter))).await)
        }
    };
    run(stream, &mark, &unsent, answer, patience, stopping, cut).await;
}

/// How long a peer may say nothing, in each of the ways there are.
#[derive(Clone, Copy, Debug)]
struct Patience {
    first_bytes: Duration,
    header: Duration,
    ping_every: Duration,
    ping: Duration,
    /// Taking nothing of an answer.
    unsent: Duration,
    /// Being connected at all.
    age: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first_bytes: FIRST_BYTES_WAIT_MAX,
            header: HEADER_WAIT_MAX,
            ping_every: PING_EVERY,
            ping: PING_WAIT_MAX,
            unsent: UNSENT_WAIT_MAX,
            age: CONNECTION_AGE_MAX,
        }
    }
}

async fn run<S, A, F, B>(
    stream: Watched<S>,
    mark: &Mark,
    unsent: &Unsent,
    answer: A,
    patience: Patience,
    stopping: &CancellationToken,
    cut: &CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F,
    F: Future<Output = Result<Response<B>, Infallible>> + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let builder = builder(patience);
    let connection = builder.serve_connection(TokioIo::new(stream), service_fn(answer));
    tokio::pin!(connection);
    // Nothing in the parser starts a clock before it knows which HTTP it is.
    let silent = async {
        tokio::time::sleep(patience.first_bytes).await;
        if mark.has_spoken() {
            std::future::pending::<()>().await;
        }
    };
    let untaken = async {
        tokio::select! {
            () = unsent.cut() => tracing::info!("no room for answers that peers do not take; the greatest was cut"),
            () = unsent.stalled(patience.unsent) => tracing::debug!("a peer takes nothing of its answers; connection closed"),
        }
    };
    tokio::pin!(untaken);
    tokio::select! {
        ended = connection.as_mut() => return log_end(ended),
        () = silent => return tracing::debug!("a peer said nothing; connection closed"),
        () = &mut untaken => return,
        () = cut.cancelled() => return,
        () = stopping.cancelled() => {}
        () = tokio::time::sleep(patience.age) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::select! {
        ended = connection => log_end(ended),
        () = untaken => {}
        () = cut.cancelled() => {}
    }
}

fn builder(patience: Patience) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.header)
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
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(patience.ping_every)
        .keep_alive_timeout(patience.ping);
    builder
}

fn log_end(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(why) = ended {
        tracing::debug!(%why, "connection ended");
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::unsent::Answers;

    const MOMENT: Duration = Duration::from_millis(20);
    const FOR_EVER: Duration = Duration::from_secs(3600);
    const PATIENT: Patience = Patience {
        first_bytes: FOR_EVER,
        header: FOR_EVER,
        ping_every: FOR_EVER,
        ping: FOR_EVER,
        unsent: FOR_EVER,
        age: FOR_EVER,
    };

    /// A peer of a connection that is served with this patience.
    fn peer(patience: Patience) -> DuplexStream {
        answered(patience, Bytes::from_static(b"here"), Answers::default())
    }

    /// One that is always answered with the same, counted here.
    fn answered(patience: Patience, body: Bytes, answers: Answers) -> DuplexStream {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (far, mark) = Watched::new(far);
        tokio::spawn(async move {
            let unsent = answers.connection();
            let counter = unsent.counter();
            let answer = |_: Request<Incoming>| {
                let body = counter.whole(body.clone());
                async { Ok(Response::new(body)) }
            };
            let never = CancellationToken::new();
            run(far, &mark, &unsent, answer, patience, &never, &never).await;
        });
        near
    }

    /// Reads until the other side closes, however long that takes: a connection that is never closed fails by the test's own end.
    async fn closed(mut peer: DuplexStream) -> Vec<u8> {
        let mut all = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(60), peer.read_to_end(&mut all)).await;
        // Closed in the middle of what the peer says is closed as well.
        let _ = read.expect("the connection was never closed");
        all
    }

    #[tokio::test]
    async fn a_header_that_never_ends_is_cut() {
        let mut peer = peer(Patience { header: MOMENT, ..PATIENT });
        peer.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX-Slow: ").await.unwrap();
        closed(peer).await;
    }

    #[tokio::test]
    async fn a_peer_that_answers_no_ping_is_cut() {
        let mut peer = peer(Patience { ping_every: MOMENT, ping: MOMENT, ..PATIENT });
        // The preface and empty settings, and then nothing, not even to our ping.
        peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let said = closed(peer).await;
        let ping = [0, 0, 8, 6];
        assert!(said.windows(4).any(|head| head == ping), "it was not even asked");
    }

    #[tokio::test]
    async fn a_peer_that_does_not_say_which_http_it_speaks_is_cut() {
        for beginning in [&b""[..], b"P", b"PRI * HT", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"] {
            let mut peer = peer(Patience { first_bytes: MOMENT, ..PATIENT });
            peer.write_all(beginning).await.unwrap();
            closed(peer).await;
        }
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_of_its_answer_is_cut_and_nothing_of_it_is_kept() {
        let answers = Answers::default();
        let body = Bytes::from(vec![b'x'; 1 << 20]);
        let mut peer = answered(Patience { unsent: MOMENT, ..PATIENT }, body, answers.clone());
        peer.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        // The other side has closed when what we write goes nowhere.
        while peer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(MOMENT).await;
        }
        assert_eq!(answers.bytes(), 0);
    }

    #[tokio::test]
    async fn an_old_connection_is_ended_in_good_order() {
        let mut peer = peer(Patience { age: MOMENT, ..PATIENT });
        peer.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let said = String::from_utf8(closed(peer).await).unwrap();
        assert!(said.is_empty() || said.ends_with("here"), "an answer was broken off: {said}");
    }

    #[tokio::test]
    async fn a_peer_that_has_spoken_keeps_its_connection() {
        let mut peer = peer(Patience { first_bytes: MOMENT, ..PATIENT });
        for _ in 0..3 {
            peer.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"here") {
                let mut byte = [0];
                peer.read_exact(&mut byte).await.expect("it was cut");
                answer.extend_from_slice(&byte);
            }
            tokio::time::sleep(MOMENT * 2).await;
        }
    }
}
