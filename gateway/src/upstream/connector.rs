//! How the pool gets its connections: by the one dialer, to the endpoint that the request names.
//! Who enters: the pool, with the address of a request that was put there by us.
//! What leaves: a connection of the configured protocol; a failure here means that nothing of the request was sent.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tower_service::Service;

use crate::dial::{Dialer, Place, Stream};

/// Dials for the pool.
#[derive(Clone)]
pub(super) struct Connector {
    dialer: Dialer,
    h2: bool,
}

/// A connection of the pool.
pub(super) struct Line {
    stream: TokioIo<Stream>,
    h2: bool,
}

impl Connector {
    pub(super) fn new(dialer: Dialer, h2: bool) -> Self {
        Self { dialer, h2 }
    }
}

impl Service<Uri> for Connector {
    type Response = Line;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Line>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { dialer, h2 } = self.clone();
        Box::pin(async move {
            let place = place(&uri).ok_or_else(|| io::Error::other("not an endpoint's address"))?;
            let stream = dialer.dial(&place).await?;
            Ok(Line { stream: TokioIo::new(stream), h2 })
        })
    }
}

fn place(uri: &Uri) -> Option<Place> {
    let authority = uri.authority()?;
    format!("{}://{authority}", uri.scheme_str()?).parse().ok()
}

impl Connection for Line {
    fn connected(&self) -> Connected {
        let connected = Connected::new();
        if self.h2 { connected.negotiated_h2() } else { connected }
    }
}

impl hyper::rt::Read for Line {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Line {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
