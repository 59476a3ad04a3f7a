//! Reading a body: bounded in bytes and in time.
//! Who enters: a request whose caller has passed the guard.
//! What leaves: the whole body, or a problem; never memory that grows with what a peer sends.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use super::bodies::Room;
use crate::api::{Code, Problem};
use crate::limits::{BODY_BYTES_MAX, BODY_DISCARDED_BYTES_MAX, BODY_WAIT_MAX};

const SHORTLY: Duration = Duration::from_secs(1);

/// Reads the body of a request, as far as there is room for it.
///
/// # Errors
/// `body_too_large`, `overloaded`, `body_timeout`, `not_json`, or `bad_request` when the peer stops half-way.
pub(super) async fn read(headers: &HeaderMap, body: Incoming, room: &mut Room) -> Result<Bytes, Problem> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    if body.size_hint().lower() > BODY_BYTES_MAX as u64 {
        // Whoever waits for our word before sending has not sent anything yet.
        if !headers.contains_key(http::header::EXPECT) {
            discard(body).await;
        }
        return Err(too_large());
    }
    expect_json(headers)?;
    if !room.grow_to(usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX)) {
        return Err(no_room());
    }
    match tokio::time::timeout(BODY_WAIT_MAX, collect(body, room)).await {
        Ok(read) => read,
        Err(_) => Err(Problem::new(
            Code::BodyTimeout,
            format!("send the whole body within {} seconds", BODY_WAIT_MAX.as_secs()),
        )),
    }
}

/// Frames arrive one by one. A body that fits in its first frame, as most do, is not copied.
async fn collect(mut body: Incoming, room: &mut Room) -> Result<Bytes, Problem> {
    let mut pieces = Pieces::default();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|_| Problem::new(Code::BadRequest, "the body ended before its time; send it again"))?;
        let Ok(data) = frame.into_data() else { continue };
        let bytes = pieces.bytes + data.len();
        if bytes > BODY_BYTES_MAX {
            discard(body).await;
            return Err(too_large());
        }
        if pieces.bytes == 0 && body.is_end_stream() {
            return if room.grow_to(bytes) { Ok(data) } else { Err(no_room()) };
        }
        pieces.add(&data, room).ok_or_else(no_room)?;
    }
    pieces.join(room).ok_or_else(no_room)
}

/// A body that comes in several frames. A frame would keep the whole buffer alive that it was read into, and one buffer that
/// grows leaves behind, in each size that it had, memory that bodies of other sizes cannot use; pieces of one size do neither.
#[derive(Default)]
struct Pieces {
    pieces: Vec<Vec<u8>>,
    bytes: usize,
}

const PIECE_BYTES: usize = 32 << 10;

impl Pieces {
    /// Copies more of the body; nothing if there is no room for it.
    fn add(&mut self, mut data: &[u8], room: &mut Room) -> Option<()> {
        self.bytes += data.len();
        while !data.is_empty() {
            match self.pieces.last_mut().filter(|piece| piece.len() < PIECE_BYTES) {
                Some(piece) => {
                    let (now, later) = data.split_at(data.len().min(PIECE_BYTES - piece.len()));
                    piece.extend_from_slice(now);
                    data = later;
                }
                None => {
                    room.grow_to((self.pieces.len() + 1) * PIECE_BYTES).then_some(())?;
                    self.pieces.push(Vec::with_capacity(PIECE_BYTES));
                }
            }
        }
        Some(())
    }

    /// The whole body; nothing if there is no room for it beside its pieces.
    fn join(mut self, room: &mut Room) -> Option<Bytes> {
        if self.pieces.len() <= 1 {
            return Some(self.pieces.pop().unwrap_or_default().into());
        }
        room.grow_to(self.pieces.len() * PIECE_BYTES + self.bytes).then_some(())?;
        let whole = self.pieces.concat();
        drop(self.pieces);
        room.shrink_to(whole.len());
        Some(whole.into())
    }
}

/// Reads on for a while and forgets what comes: closed under a client that still writes, a connection loses the refusal.
async fn discard(mut body: Incoming) {
    let mut left = BODY_DISCARDED_BYTES_MAX;
    let reading = async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            let Some(rest) = left.checked_sub(length) else { return };
            left = rest;
        }
    };
    // Over in time or not, the answer is the same.
    let _ = tokio::time::timeout(BODY_WAIT_MAX, reading).await;
}

fn expect_json(headers: &HeaderMap) -> Result<(), Problem> {
    super::semantics::uncoded(headers)?;
    let media_type =
        headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = media_type.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(Code::NotJson, "send the body with `Content-Type: application/json`"))
}

fn no_room() -> Problem {
    let why = "the bodies of this workspace's requests take as much memory as there is for them; nothing was done, try again";
    Problem::new(Code::Overloaded, why).after(SHORTLY)
}

fn too_large() -> Problem {
    Problem::new(
        Code::BodyTooLarge,
        format!("at most {BODY_BYTES_MAX} bytes; sign a digest instead of a large message"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boundary::bodies::Bodies;

    #[test]
    fn a_body_in_pieces_is_the_same_body_and_counted_before_it_is_held() {
        let sent: Vec<u8> =
            (0..200_003_u32).map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[1]).collect();
        for frame in [1, 1_000, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 100_000, sent.len()] {
            let bodies = Bodies::new(BODY_BYTES_MAX);
            let (mut room, mut pieces) = (bodies.room(&None), Pieces::default());
            for data in sent.chunks(frame) {
                pieces.add(data, &mut room).unwrap();
                let held: usize = pieces.pieces.iter().map(Vec::capacity).sum();
                assert_eq!(bodies.taken(), held, "frames of {frame}");
            }
            let whole = pieces.join(&mut room).unwrap();
            assert!(whole == sent, "frames of {frame}");
            assert_eq!(bodies.taken(), sent.len());
        }
    }

    #[test]
    fn without_room_nothing_is_held() {
        let bodies = Bodies::new(PIECE_BYTES + PIECE_BYTES / 2);
        let (mut room, mut pieces) = (bodies.room(&None), Pieces::default());
        let data = vec![0; PIECE_BYTES];
        assert!(pieces.add(&data, &mut room).is_some() && pieces.add(&data, &mut room).is_none());
        assert_eq!(bodies.taken(), PIECE_BYTES);
        let mut wide = Bodies::new(PIECE_BYTES * 3).room(&None);
        let mut pieces = Pieces::default();
        pieces.add(&[0; PIECE_BYTES * 2], &mut wide).unwrap();
        assert!(pieces.join(&mut wide).is_none(), "there is no room for it twice");
    }
}
