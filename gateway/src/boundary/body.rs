//! Reading a body: bounded in bytes and in time.
//! Who enters: a request whose caller has passed the guard.
//! What leaves: the whole body, or a problem; never memory that grows with what a peer sends.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
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

/// Frames arrive one by one. A body that fits in its first frame, as most do, is not copied; those of others would keep the
/// whole buffer alive that they were read into, so they are copied into one of their own, which is counted before it is made.
async fn collect(mut body: Incoming, room: &mut Room) -> Result<Bytes, Problem> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame
            .map_err(|_| Problem::new(Code::BadRequest, "the body ended before its time; send it again"))?;
        let Ok(data) = frame.into_data() else { continue };
        let bytes = whole.len() + data.len();
        if bytes > BODY_BYTES_MAX {
            discard(body).await;
            return Err(too_large());
        }
        if whole.is_empty() && body.is_end_stream() {
            return if room.grow_to(bytes) { Ok(data) } else { Err(no_room()) };
        }
        if bytes > whole.capacity() {
            let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
            let capacity = bytes.saturating_add(announced.max(whole.len())).min(BODY_BYTES_MAX);
            // While it is copied it is there twice.
            if !room.grow_to(whole.capacity() + capacity) {
                return Err(no_room());
            }
            let mut larger = BytesMut::with_capacity(capacity);
            larger.extend_from_slice(&whole);
            whole = larger;
            room.shrink_to(capacity);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
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
