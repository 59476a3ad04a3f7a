//! The body of a forwarded request: streamed with a bound, or kept whole where it may be sent again.
//! Who enters: the caller's body.
//! What leaves: its frames to the upstream; and afterwards, whose fault it was that they ended early.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::Notify;

use crate::limits::REPLAY_BYTES_MAX;

/// A body that can be given to one attempt after another, as long as none of it has been sent.
#[derive(Clone)]
pub(super) enum Load {
    /// All of it is here, since then.
    Whole(Bytes, Instant),
    /// It is still with the caller.
    Streamed(Arc<Mutex<Stream>>),
}

pub(super) struct Stream {
    incoming: Option<Incoming>,
    hint: SizeHint,
    left: u64,
    state: Flow,
    ended: Option<Instant>,
    end: Arc<Notify>,
}

/// How far a streamed body has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// Nothing of it was asked for: it can be sent by another attempt.
    Untouched,
    /// The upstream takes it.
    Flowing,
    /// The upstream would take more, and the caller sends nothing.
    WaitsForCaller,
    /// All of it has gone.
    Ended,
    /// The caller broke off.
    CallerLeft,
    /// It was longer than allowed.
    TooLong,
}

/// Why a body was refused before anything was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Untaken {
    TooLong,
    CallerLeft,
}

/// A body as one attempt sends it.
pub(super) enum Sent {
    Whole(Full<Bytes>),
    Streamed(Arc<Mutex<Stream>>, Option<Incoming>),
}

impl Load {
    /// Takes the caller's body in: whole if the request may be repeated and the body is short, else as it comes.
    pub(super) async fn take(body: Incoming, bytes_max: u64, repeatable: bool) -> Result<Self, Untaken> {
        if body.is_end_stream() {
            return Ok(Self::Whole(Bytes::new(), Instant::now()));
        }
        let hint = body.size_hint();
        if hint.lower() > bytes_max {
            return Err(Untaken::TooLong);
        }
        let short = hint.upper().is_some_and(|upper| upper <= REPLAY_BYTES_MAX as u64);
        if repeatable && short {
            let whole = body.collect().await.map_err(|_| Untaken::CallerLeft)?;
            return Ok(Self::Whole(whole.to_bytes(), Instant::now()));
        }
        let stream = Stream {
            incoming: Some(body),
            hint,
            left: bytes_max,
            state: Flow::Untouched,
            ended: None,
            end: Arc::default(),
        };
        Ok(Self::Streamed(Arc::new(Mutex::new(stream))))
    }

    /// For one attempt.
    pub(super) fn send(&self) -> Sent {
        match self {
            Self::Whole(bytes, _) => Sent::Whole(Full::new(bytes.clone())),
            Self::Streamed(stream) => Sent::Streamed(Arc::clone(stream), None),
        }
    }

    /// How far it has come.
    pub(super) fn flow(&self) -> Flow {
        match self {
            Self::Whole(..) => Flow::Ended,
            Self::Streamed(stream) => lock(stream).state,
        }
    }

    /// Since when all of it has come.
    pub(super) fn ended(&self) -> Option<Instant> {
        match self {
            Self::Whole(_, since) => Some(*since),
            Self::Streamed(stream) => lock(stream).ended,
        }
    }

    /// Comes when the last of it comes; never, if that was before.
    pub(super) async fn comes_to_its_end(&self) {
        match self {
            Self::Streamed(stream) => {
                let end = {
                    let stream = lock(stream);
                    stream.ended.is_none().then(|| Arc::clone(&stream.end))
                };
                match end {
                    Some(end) => end.notified().await,
                    None => std::future::pending().await,
                }
            }
            Self::Whole(..) => std::future::pending().await,
        }
    }

    /// It can be sent by another attempt.
    pub(super) fn is_here(&self) -> bool {
        matches!(self, Self::Whole(..)) || self.flow() == Flow::Untouched
    }
}

fn lock(stream: &Mutex<Stream>) -> MutexGuard<'_, Stream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The body ended before its time, so the upstream must not take it for complete.
#[derive(Debug, thiserror::Error)]
#[error("the caller's body ended early")]
pub(super) struct EndedEarly;

impl Body for Sent {
    type Data = Bytes;
    type Error = EndedEarly;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, EndedEarly>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Streamed(stream, incoming) => {
                let mut stream = lock(stream);
                if let Some(first) = stream.incoming.take() {
                    *incoming = Some(first);
                }
                match incoming {
                    Some(incoming) => stream.poll(incoming, cx),
                    None => Poll::Ready(Some(Err(EndedEarly))),
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Streamed(stream, _) => lock(stream).state == Flow::Ended,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Streamed(stream, None) => lock(stream).hint,
            Self::Streamed(_, Some(incoming)) => incoming.size_hint(),
        }
    }
}

impl Stream {
    fn poll(
        &mut self,
        incoming: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, EndedEarly>>> {
        loop {
            let (state, said) = match Pin::new(&mut *incoming).poll_frame(cx) {
                Poll::Pending => (Flow::WaitsForCaller, Poll::Pending),
                Poll::Ready(None) => (Flow::Ended, Poll::Ready(None)),
                Poll::Ready(Some(Err(_))) => (Flow::CallerLeft, Poll::Ready(Some(Err(EndedEarly)))),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    // Trailers are not forwarded: few expect them, and they come after every check.
                    Err(_) => continue,
                    Ok(data) => match self.left.checked_sub(data.len() as u64) {
                        None => (Flow::TooLong, Poll::Ready(Some(Err(EndedEarly)))),
                        Some(left) => {
                            self.left = left;
                            let state = if incoming.is_end_stream() { Flow::Ended } else { Flow::Flowing };
                            (state, Poll::Ready(Some(Ok(Frame::data(data)))))
                        }
                    },
                },
            };
            self.state = state;
            if state == Flow::Ended && self.ended.is_none() {
                self.ended = Some(Instant::now());
                // Kept for whoever begins to wait only now.
                self.end.notify_one();
            }
            return said;
        }
    }
}
