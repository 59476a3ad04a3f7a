//! A watch on how HTTP/1.1 messages are framed: two lengths on one message are an attempt to make two readers disagree.
//! Who enters: bytes on their way to the HTTP parser, which would quietly choose one of the lengths.
//! What leaves: the same bytes; and a mark, when a head names both Content-Length and Transfer-Encoding.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Marks a request whose head named two lengths.
#[derive(Clone, Copy, Debug)]
pub struct TwoLengths;

/// Whether the head that was read last named two lengths, and whether the peer has said which HTTP it speaks.
#[derive(Clone, Debug, Default)]
pub struct Mark {
    two_lengths: Arc<AtomicBool>,
    spoken: Arc<AtomicBool>,
}

/// A stream that is watched.
pub struct Watched<S> {
    stream: S,
    watch: Watch,
    mark: Mark,
}

impl Mark {
    /// Takes the mark away, if it is there.
    pub fn take(&self) -> bool {
        self.two_lengths.swap(false, Ordering::AcqRel)
    }

    /// The peer has begun to speak HTTP/1.1, or has finished the preface of HTTP/2. Until then nothing else runs a clock on it.
    pub fn has_spoken(&self) -> bool {
        self.spoken.load(Ordering::Acquire)
    }
}

impl<S> Watched<S> {
    /// Watches a stream.
    pub fn new(stream: S) -> (Self, Mark) {
        let mark = Mark::default();
        (Self { stream, watch: Watch::default(), mark: mark.clone() }, mark)
    }
}

/// What has been seen of the present paragraph. Bodies are read as if they were heads too: one that looks like a head with
/// two lengths can at worst cost its own sender a refusal, while a real head is never missed.
#[derive(Debug, Default)]
struct Watch {
    line: [u8; NAME_BYTES_MAX],
    length: usize,
    content_length: bool,
    transfer_encoding: bool,
    is_h2: bool,
    /// How much of the preface of HTTP/2 the connection began with.
    preface: usize,
    spoken: bool,
}

/// As long as the longer of the two names, and one more.
const NAME_BYTES_MAX: usize = 18;
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// All of it (RFC 9113 section 3.4).
const H2_WHOLE_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Watch {
    /// Reads on; true once a paragraph has ended that named both.
    fn see(&mut self, bytes: &[u8]) -> bool {
        let mut found = false;
        for byte in bytes {
            if self.is_h2 {
                return found;
            }
            match byte {
                b'\n' => found |= self.end_line(),
                b'\r' => {}
                byte => self.add(*byte),
            }
        }
        found
    }

    /// Reads the first bytes until they are the whole preface or another beginning.
    fn listen(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if self.spoken {
                return;
            }
            let fits = H2_WHOLE_PREFACE.get(self.preface) == Some(byte);
            self.preface += 1;
            self.spoken = !fits || self.preface == H2_WHOLE_PREFACE.len();
        }
    }

    fn add(&mut self, byte: u8) {
        if self.length < NAME_BYTES_MAX {
            self.line[self.length] = byte.to_ascii_lowercase();
            self.length += 1;
        }
    }

    fn end_line(&mut self) -> bool {
        let line = &self.line[..self.length];
        let empty = line.is_empty();
        self.is_h2 = line.starts_with(&H2_PREFACE.to_ascii_lowercase());
        self.content_length |= names(line, b"content-length");
        self.transfer_encoding |= names(line, b"transfer-encoding");
        self.length = 0;
        if !empty {
            return false;
        }
        let both = self.content_length && self.transfer_encoding;
        (self.content_length, self.transfer_encoding) = (false, false);
        both
    }
}

/// The line is a field of this name; white space before the colon is refused by the parser itself.
fn names(line: &[u8], name: &[u8]) -> bool {
    line.strip_prefix(name).is_some_and(|rest| rest.first() == Some(&b':'))
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let own = self.get_mut();
        let before = buffer.filled().len();
        let read = Pin::new(&mut own.stream).poll_read(cx, buffer);
        let came = &buffer.filled()[before..];
        own.watch.listen(came);
        if own.watch.spoken {
            own.mark.spoken.store(true, Ordering::Release);
        }
        if own.watch.see(came) {
            own.mark.two_lengths.store(true, Ordering::Release);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(text: &str) -> bool {
        let whole = Watch::default().see(text.as_bytes());
        let mut watch = Watch::default();
        let split = text.as_bytes().iter().filter(|byte| watch.see(&[**byte])).count() > 0;
        assert_eq!(whole, split, "however the bytes arrive");
        whole
    }

    #[test]
    fn two_lengths_in_one_head_are_seen_in_any_order_and_case() {
        for head in [
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\nTRANSFER-ENCODING:chunked\r\nHost: a\r\ncontent-length:0\r\n\r\n",
            "POST / HTTP/1.1\nContent-Length: 5\nTransfer-Encoding: chunked\n\n",
        ] {
            assert!(seen(head), "{head}");
        }
    }

    #[test]
    fn one_length_each_in_two_heads_is_as_it_should_be() {
        assert!(!seen(
            "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\nPOST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        ));
        assert!(!seen("POST / HTTP/1.1\r\nX-Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n"));
    }

    #[test]
    fn http_2_is_left_alone() {
        assert!(!seen("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nContent-Length: 1\r\nTransfer-Encoding: x\r\n\r\n"));
    }
}
