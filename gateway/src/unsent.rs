//! Answers that their peers have not taken yet: counted for each connection and over all, because a peer that asks and does not
//! read would otherwise make us hold whatever it asked for.
//! Who enters: connections when they begin; the bytes of each answer.
//! What leaves: the same bytes, counted until nothing holds them any more; the order to end a connection whose peer takes nothing.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::limits::{UNSENT_BYTES_MAX, UNSENT_CONNECTION_BYTES_MAX};

/// All answers of one listener; cheap to clone.
#[derive(Clone, Default)]
pub struct Answers(Arc<All>);

#[derive(Default)]
struct All {
    bytes: AtomicUsize,
    connections: Mutex<Connections>,
}

#[derive(Default)]
struct Connections {
    next: u64,
    open: HashMap<u64, Arc<Count>>,
}

/// The answers of one connection.
pub struct Unsent {
    all: Arc<All>,
    number: u64,
    count: Arc<Count>,
}

struct Count {
    bytes: AtomicUsize,
    /// Grows with each piece that is taken.
    taken: AtomicU64,
    room: Notify,
    cut: CancellationToken,
}

/// Where the bytes of one answer are counted; cheap to clone.
#[derive(Clone)]
pub struct Counter {
    all: Arc<All>,
    count: Arc<Count>,
}

/// Bytes that are counted as long as anything holds a part of them.
struct Held {
    bytes: Bytes,
    counter: Counter,
}

/// A whole answer, handed out in pieces, so that it is seen how far its peer has come.
pub struct Counted {
    rest: Bytes,
    counter: Counter,
}

/// A frame of HTTP/2 as peers like it, and a record of TLS.
const PIECE_BYTES: usize = 16 << 10;

impl Answers {
    /// For a new connection.
    pub fn connection(&self) -> Unsent {
        let count = Count {
            bytes: AtomicUsize::new(0),
            taken: AtomicU64::new(0),
            room: Notify::new(),
            cut: CancellationToken::new(),
        };
        let count = Arc::new(count);
        let mut connections = self.0.connections();
        connections.next += 1;
        let number = connections.next;
        connections.open.insert(number, Arc::clone(&count));
        drop(connections);
        Unsent { all: Arc::clone(&self.0), number, count }
    }

    /// Bytes that are held now, over all connections.
    pub fn bytes(&self) -> usize {
        self.0.bytes.load(Ordering::Relaxed)
    }
}

impl All {
    fn connections(&self) -> MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever lets most wait pays, and nobody who reads.
    fn cut_the_greatest(&self) {
        let connections = self.connections();
        let uncut = connections.open.values().filter(|count| !count.cut.is_cancelled());
        if let Some(greatest) = uncut.max_by_key(|count| count.bytes.load(Ordering::Relaxed)) {
            greatest.cut.cancel();
        }
    }
}

impl Unsent {
    /// Where the connection's answers are counted.
    pub fn counter(&self) -> Counter {
        Counter { all: Arc::clone(&self.all), count: Arc::clone(&self.count) }
    }

    /// Comes when the connection holds more than any other and there is no room left.
    pub async fn cut(&self) {
        self.count.cut.cancelled().await;
    }

    /// Comes when the peer has taken nothing for so long although there is something to take.
    pub async fn stalled(&self, patience: Duration) {
        loop {
            let before = self.count.taken.load(Ordering::Relaxed);
            tokio::time::sleep(patience).await;
            let holds = self.count.bytes.load(Ordering::Relaxed) > 0;
            if holds && self.count.taken.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.all.connections().open.remove(&self.number);
    }
}

impl Counter {
    /// Waits until the peer has taken enough of what it asked for before to be given more.
    pub async fn room(&self) {
        loop {
            let more = self.count.room.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            if self.count.bytes.load(Ordering::Relaxed) < UNSENT_CONNECTION_BYTES_MAX {
                return;
            }
            more.await;
        }
    }

    /// The same bytes, counted.
    pub fn hold(&self, bytes: Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes;
        }
        self.count.bytes.fetch_add(bytes.len(), Ordering::Relaxed);
        let all = self.all.bytes.fetch_add(bytes.len(), Ordering::Relaxed) + bytes.len();
        let held = Bytes::from_owner(Held { bytes, counter: self.clone() });
        if all > UNSENT_BYTES_MAX {
            self.all.cut_the_greatest();
        }
        held
    }

    /// A whole answer, counted.
    pub fn whole(&self, bytes: Bytes) -> Counted {
        Counted { rest: self.hold(bytes), counter: self.clone() }
    }

    /// The peer has taken a piece.
    pub fn taken(&self) {
        self.count.taken.fetch_add(1, Ordering::Relaxed);
    }
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let Counter { all, count } = &self.counter;
        all.bytes.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        count.bytes.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        self.counter.taken();
        count.room.notify_waiters();
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::convert::Infallible>>> {
        let own = self.get_mut();
        if own.rest.is_empty() {
            return Poll::Ready(None);
        }
        own.counter.taken();
        let piece = own.rest.split_to(own.rest.len().min(PIECE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(bytes: usize) -> Bytes {
        Bytes::from(vec![7; bytes])
    }

    #[tokio::test]
    async fn an_answer_is_counted_until_its_last_part_is_gone() {
        let answers = Answers::default();
        let connection = answers.connection();
        let mut whole = connection.counter().whole(some(3 * PIECE_BYTES));
        assert_eq!(answers.bytes(), 3 * PIECE_BYTES);
        let mut pieces = Vec::new();
        while let Some(Ok(frame)) = std::future::poll_fn(|cx| Pin::new(&mut whole).poll_frame(cx)).await {
            pieces.push(frame.into_data().unwrap());
        }
        assert!(whole.is_end_stream());
        drop(whole);
        assert_eq!((pieces.len(), answers.bytes()), (3, 3 * PIECE_BYTES), "all of it is held by its pieces");
        pieces.truncate(1);
        assert_eq!(answers.bytes(), 3 * PIECE_BYTES, "one piece holds all of it");
        drop(pieces);
        assert_eq!(answers.bytes(), 0);
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_no_more_until_it_does() {
        let answers = Answers::default();
        let connection = answers.connection();
        let counter = connection.counter();
        counter.room().await;
        let unread = counter.hold(some(UNSENT_CONNECTION_BYTES_MAX));
        let next = counter.clone();
        let waits = tokio::spawn(async move { next.room().await });
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!waits.is_finished());
        drop(unread);
        waits.await.unwrap();
    }

    #[tokio::test]
    async fn over_all_whoever_lets_most_wait_is_cut_and_nobody_else() {
        let answers = Answers::default();
        let connections: Vec<_> = (0..3).map(|_| answers.connection()).collect();
        let small = UNSENT_BYTES_MAX / 4;
        let held: Vec<_> = [small, 2 * small, small]
            .iter()
            .zip(&connections)
            .map(|(bytes, connection)| connection.counter().hold(some(*bytes)))
            .collect();
        assert!(connections.iter().all(|connection| !connection.count.cut.is_cancelled()));
        let more = connections[0].counter().hold(some(1));
        let cut: Vec<_> = connections.iter().map(|connection| connection.count.cut.is_cancelled()).collect();
        assert_eq!(cut, [false, true, false]);
        drop((held, more, connections));
        assert_eq!(answers.bytes(), 0);
        assert!(answers.0.connections().open.is_empty());
    }
}
