//! The body of an upstream's answer: a short one is taken in whole, a long one is handed on piece by piece.
//! Who enters: the upstream's body, with the place it holds in the compartment.
//! What leaves: bytes for the caller, bounded in number and time; when it is over, a verdict on the upstream.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::sync::mpsc;

use crate::compartments::{Pass, Verdict};
use crate::unsent::{Counted, Counter};

/// An answer's body on its way to the caller.
pub enum AnsweredBody {
    /// All of it is here.
    Whole(Counted),
    /// It is still coming.
    Coming {
        /// Its pieces.
        pieces: mpsc::Receiver<Piece>,
        /// The length, where the upstream told it.
        length: Option<u64>,
        /// Where it is seen that the caller takes some.
        unsent: Counter,
    },
}

/// A piece of an answer. Without an end among them the answer is not whole.
#[derive(Debug)]
pub enum Piece {
    /// Bytes.
    Data(Bytes),
    /// That was all.
    End,
}

/// The answer broke off after its beginning had been handed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the upstream's answer broke off")]
pub struct BrokenOff;

/// Up to this length an answer is taken in whole, so that an upstream that dies in the middle costs a clear refusal.
const WHOLE_BYTES_MAX: u64 = 64 << 10;
/// Pieces between the upstream and a slow caller.
const PIECES_AHEAD: usize = 4;

/// Takes an answer's body in: whole, or ready to be handed on.
pub(super) async fn take(body: Incoming, bytes_max: u64) -> Result<Taken, BrokenOff> {
    if body.is_end_stream() {
        return Ok(Taken::Whole(Bytes::new()));
    }
    let hint = body.size_hint();
    if hint.lower() > bytes_max {
        return Err(BrokenOff);
    }
    match hint.upper() {
        Some(upper) if upper <= WHOLE_BYTES_MAX => {
            let whole = body.collect().await.map_err(|_| BrokenOff)?;
            Ok(Taken::Whole(whole.to_bytes()))
        }
        _ => Ok(Taken::Coming(
            Limited::new(body, usize::try_from(bytes_max).unwrap_or(usize::MAX)),
            hint.exact(),
        )),
    }
}

/// A body that has been looked at.
pub(super) enum Taken {
    Whole(Bytes),
    Coming(Limited<Incoming>, Option<u64>),
}

impl Taken {
    /// Makes it the caller's. The place is kept, and the verdict waits, until the last byte has come or the time is up:
    /// a caller that reads slowly keeps neither for longer.
    pub(super) fn hand_on(
        self,
        mut pass: Pass,
        verdict: Verdict,
        until: Instant,
        unsent: &Counter,
    ) -> AnsweredBody {
        match self {
            Self::Whole(bytes) => {
                pass.verdict(verdict);
                AnsweredBody::Whole(unsent.whole(bytes))
            }
            Self::Coming(body, length) => {
                let (sender, pieces) = mpsc::channel(PIECES_AHEAD);
                let (way, counter) = (Way { sender, unsent: unsent.clone() }, unsent.clone());
                tokio::spawn(async move { pass.verdict(pump(body, way, verdict, until).await) });
                AnsweredBody::Coming { pieces, length, unsent: counter }
            }
        }
    }
}

/// The way to the caller.
struct Way {
    sender: mpsc::Sender<Piece>,
    unsent: Counter,
}

/// Carries an answer over, and says what that tells of the upstream.
async fn pump(mut body: Limited<Incoming>, way: Way, verdict: Verdict, until: Instant) -> Verdict {
    let until = until.into();
    // An upstream that had to wait for its caller did not have its time.
    let mut late = Verdict::Failure;
    loop {
        let (piece, last) = match tokio::time::timeout_at(until, body.frame()).await {
            Err(_) => return late,
            // It broke off, or was too long.
            Ok(Some(Err(_))) => return Verdict::Failure,
            Ok(None) => (Piece::End, true),
            Ok(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => (Piece::Data(way.unsent.hold(data)), false),
                // Trailers are not forwarded.
                Err(_) => continue,
            },
        };
        if way.sender.capacity() == 0 {
            late = Verdict::Neutral;
        }
        match tokio::time::timeout_at(until, way.sender.send(piece)).await {
            Ok(Ok(())) if last => return verdict,
            Ok(Ok(())) => {}
            // The caller has gone, or reads too slowly: that is not the upstream's fault.
            _ => return Verdict::Neutral,
        }
    }
}

impl Body for AnsweredBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Coming { pieces, length, unsent } => pieces.poll_recv(cx).map(|piece| match piece {
                Some(Piece::Data(data)) => {
                    unsent.taken();
                    *length = length.map(|left| left.saturating_sub(data.len() as u64));
                    Some(Ok(Frame::data(data)))
                }
                Some(Piece::End) => None,
                None => Some(Err(BrokenOff)),
            }),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Coming { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Coming { length: Some(length), .. } => SizeHint::with_exact(*length),
            Self::Coming { .. } => SizeHint::default(),
        }
    }
}
