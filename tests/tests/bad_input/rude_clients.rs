//! Clients that stall, hang up half-way, open too much or speak HTTP/2 badly on purpose.
//! Who enters: raw TLS streams with a good certificate, and TCP connections without any.
//! What leaves: a closed connection in bounded time; good clients are served all the while.

use std::time::{Duration, Instant};

use promises::{Appliance, Member, Protocol, get, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// The limits for handshake and body are ten seconds; a little more for a loaded machine.
const CUT_MAX: Duration = Duration::from_secs(14);
const STREAMS_MAX: u32 = 128;

async fn raw(house: &Appliance, member: &Member, protocol: Protocol) -> TlsStream<TcpStream> {
    house.door().tls(member.identity.client_config(protocol)).await.unwrap()
}

async fn others_are_served(member: &Member) {
    let begun = Instant::now();
    member.ask(get("/v1/keys")).await.expect(200);
    assert!(begun.elapsed() < Duration::from_secs(2), "a good client waited {:?}", begun.elapsed());
}

#[tokio::test]
async fn stalled_handshakes_are_cut_and_others_are_served_meanwhile() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    others_are_served(&member).await;
    let before = house.daemon().descriptors();
    let mut stalled = Vec::new();
    // More than there are places, for one address and for all.
    for _ in 0..600 {
        stalled.push(TcpStream::connect(house.door().address()).await.unwrap());
    }
    // Half of them begin a handshake and stop in the middle of the first record.
    for stream in stalled.iter_mut().step_by(2) {
        stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.unwrap();
    }
    for _ in 0..5 {
        others_are_served(&member).await;
        member.connect(Protocol::H1).await;
    }
    let begun = Instant::now();
    for stream in &mut stalled {
        let mut byte = [0];
        let left = CUT_MAX.saturating_sub(begun.elapsed());
        let _ =
            within("a stalled handshake is cut", left.max(Duration::from_millis(1)), stream.read(&mut byte))
                .await;
    }
    drop(stalled);
    let daemon = house.daemon();
    let back = || async { (daemon.descriptors() <= before + 2).then_some(()) };
    promises::eventually("the descriptors come back", Duration::from_secs(5), back).await;
}

#[tokio::test]
async fn a_stalled_body_is_cut_with_408_and_others_are_served_meanwhile() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let mut slow = raw(&house, &member, Protocol::H1).await;
    let head = format!(
        "POST /v1/keys HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{\"name\"",
        member.secret
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    others_are_served(&member).await;
    let mut answer = vec![0; 4096];
    let length = within("an answer to the stalled body", CUT_MAX, slow.read(&mut answer)).await.unwrap();
    let text = String::from_utf8_lossy(&answer[..length]).into_owned();
    assert!(text.starts_with("HTTP/1.1 408"), "{text}");
    assert!(text.contains("body_timeout"), "{text}");
}

#[tokio::test]
async fn clients_that_dribble_headers_do_not_keep_others_waiting() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    others_are_served(&member).await;
    let quiet = house.daemon().resident();
    let mut dribbling = Vec::new();
    for _ in 0..100 {
        let mut stream = raw(&house, &member, Protocol::H1).await;
        stream.write_all(b"GET /v1/keys HTTP/1.1\r\nHost: local").await.unwrap();
        dribbling.push(stream);
    }
    for _ in 0..10 {
        others_are_served(&member).await;
    }
    let grown = house.daemon().resident().saturating_sub(quiet);
    assert!(grown < 100 << 20, "a hundred dribbling clients cost {grown} bytes");
}

#[tokio::test]
async fn a_half_closed_connection_ends_and_keeps_nothing_open() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let mut stream = raw(&house, &member, Protocol::H1).await;
    stream
        .write_all(b"POST /v1/keys HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{")
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let mut rest = Vec::new();
    // An answer or none: what matters is that the other side lets go.
    let _ = within("the half-closed connection ends", Duration::from_secs(5), stream.read_to_end(&mut rest))
        .await;
    others_are_served(&member).await;
}

#[tokio::test]
async fn a_client_that_hangs_up_after_asking_changes_nothing_for_others() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    for _ in 0..20 {
        let mut stream = raw(&house, &member, Protocol::H1).await;
        stream.write_all(b"GET /v1/keys HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        drop(stream);
    }
    others_are_served(&member).await;
}

/// Frames of RFC 9113 section 4.1, written by hand, for a well-behaved library would not send them.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_HEADERS: u8 = 4;

/// POST / with the body still to come, as HPACK static entries (RFC 7541 appendix A): the stream stays open.
fn open_post(stream: u32) -> Vec<u8> {
    frame(
        HEADERS,
        END_HEADERS,
        stream,
        &[0x83, 0x87, 0x84, 0x41, 0x09, b'l', b'o', b'c', b'a', b'l', b'h', b'o', b's', b't'],
    )
}

async fn h2_by_hand(house: &Appliance, member: &Member) -> TlsStream<TcpStream> {
    let mut stream = raw(house, member, Protocol::H2).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

/// Reads frames until one fits, or the connection ends.
async fn until_frame(stream: &mut TlsStream<TcpStream>, fits: impl Fn(u8, u32, &[u8]) -> bool) -> bool {
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return false;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).await.is_err() {
            return false;
        }
        if fits(head[3], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), &payload) {
            return true;
        }
    }
}

#[tokio::test]
async fn streams_over_the_limit_are_refused_and_others_are_served() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let mut stream = h2_by_hand(&house, &member).await;
    // Unknown paths are answered at once, so the requests that count are those that wait for a body.
    let wait_for_body = |id: u32| {
        let mut block = vec![0x83, 0x87, 0x04, 0x08];
        block.extend(b"/v1/keys");
        block.extend([0x41, 0x09]);
        block.extend(b"localhost");
        let secret = format!("Bearer {}", member.secret);
        block.extend([0x0f, 0x08, secret.len() as u8]);
        block.extend(secret.as_bytes());
        block.extend([0x0f, 0x10, 16]);
        block.extend(b"application/json");
        frame(HEADERS, END_HEADERS, id, &block)
    };
    let sent = async {
        for at in 0..STREAMS_MAX + 8 {
            stream.write_all(&wait_for_body(2 * at + 1)).await?;
        }
        stream.flush().await
    };
    let _ = sent.await;
    let refused = until_frame(&mut stream, |kind, id, payload| {
        (kind == RST_STREAM && id > 2 * STREAMS_MAX && payload.ends_with(&[7])) || kind == GOAWAY
    });
    assert!(
        within("a stream is refused", CUT_MAX, refused).await,
        "all streams were taken, or all were dropped"
    );
    others_are_served(&member).await;
}

#[tokio::test]
async fn rapid_resets_end_the_connection_and_others_are_served() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let mut stream = h2_by_hand(&house, &member).await;
    let storm = async {
        for at in 0..20_000 {
            let id = 2 * at + 1;
            stream.write_all(&open_post(id)).await?;
            stream.write_all(&frame(RST_STREAM, 0, id, &8u32.to_be_bytes())).await?;
        }
        stream.flush().await
    };
    let stormed = within("the storm", CUT_MAX, storm).await;
    let ended =
        within("the connection ends", CUT_MAX, until_frame(&mut stream, |kind, _, _| kind == GOAWAY)).await;
    assert!(stormed.is_err() || ended, "twenty thousand resets were put up with");
    others_are_served(&member).await;
}
