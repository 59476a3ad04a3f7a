//! How an upstream behaves: well, slowly, or badly, and on which side of its effect.
//! In comes a knob's position, and a request.
//! Out goes an answer, a broken connection, or nothing for ever.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;

use super::{Never, Seen};

/// An answer.
pub(super) type Answer = Response<BoxBody<Bytes, Broken>>;

/// The connection breaks, or the stream is reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("broken on purpose")]
pub(super) struct Broken;

/// A knob's position.
#[derive(Clone, Debug, Default)]
pub enum Behaviour {
    /// Takes effect and answers 200 with the target.
    #[default]
    Well,
    /// Takes effect and answers so many bytes, in pieces without a length.
    Long(usize),
    /// Answers with these headers.
    Saying(Vec<(&'static str, &'static str)>),
    /// Answers with this status, without effect.
    FailBefore(u16),
    /// Takes effect, and then answers with this status.
    FailAfter(u16),
    /// Breaks off, without effect.
    ResetBefore,
    /// Takes effect, and then breaks off.
    ResetAfter,
    /// Never answers, without effect.
    HangBefore,
    /// Takes effect, and never answers.
    HangAfter,
    /// Waits so long, takes effect, answers 200.
    Slow(Duration),
    /// Takes effect, begins a long answer, and breaks off.
    BreakInAnswer,
    /// Takes effect, begins a long answer, and goes on for ever without a byte more.
    HangInAnswer,
}

const PIECE_BYTES: usize = 16 << 10;

impl Behaviour {
    /// Whether the request does what it was sent for.
    pub(super) fn takes_effect(&self) -> bool {
        !matches!(self, Self::FailBefore(_))
    }

    /// What happens before it is read.
    pub(super) async fn before(&self) -> Result<(), Broken> {
        match self {
            Self::ResetBefore => Err(Broken),
            Self::HangBefore => std::future::pending().await,
            Self::Slow(wait) => {
                tokio::time::sleep(*wait).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// What happens once it took effect.
    pub(super) async fn after(&self, seen: &Seen) -> Result<Answer, Broken> {
        match self {
            Self::ResetAfter => Err(Broken),
            Self::HangAfter => std::future::pending().await,
            Self::FailBefore(status) | Self::FailAfter(status) => Ok(whole(*status, "as told")),
            Self::Long(bytes) => Ok(pieces(*bytes, End::Well)),
            Self::BreakInAnswer => Ok(pieces(8 * PIECE_BYTES, End::Broken)),
            Self::HangInAnswer => Ok(pieces(8 * PIECE_BYTES, End::Never)),
            Self::Saying(lines) => {
                let mut answer = whole(200, &seen.target);
                for (name, value) in lines {
                    answer
                        .headers_mut()
                        .append(HeaderName::from_static(name), HeaderValue::from_static(value));
                }
                Ok(answer)
            }
            Self::Well | Self::Slow(_) | Self::ResetBefore | Self::HangBefore => Ok(whole(200, &seen.target)),
        }
    }
}

fn whole(status: u16, text: &str) -> Answer {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes())).map_err(|never: Never| match never {});
    let mut answer = Response::new(body.boxed());
    *answer.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}

enum End {
    Well,
    Broken,
    Never,
}

fn pieces(bytes: usize, end: End) -> Answer {
    let (sender, mut receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut left = bytes;
        while left > 0 {
            let piece = left.min(PIECE_BYTES);
            left -= piece;
            if sender.send(Ok(Frame::data(Bytes::from(vec![b'x'; piece])))).await.is_err() {
                return;
            }
        }
        match end {
            End::Well => {}
            End::Broken => drop(sender.send(Err(Broken)).await),
            End::Never => sender.closed().await,
        }
    });
    let stream = StreamBody::new(Pieces::new(move |cx: &mut std::task::Context<'_>| receiver.poll_recv(cx)));
    Response::new(BodyExt::boxed(stream))
}

/// A stream made of a function that is polled.
struct Pieces<F>(F);

impl<F> Pieces<F> {
    fn new(poll: F) -> Self {
        Self(poll)
    }
}

impl<F, T> futures_core::Stream for Pieces<F>
where
    F: FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>> + Unpin,
{
    type Item = T;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<T>> {
        (self.0)(cx)
    }
}
