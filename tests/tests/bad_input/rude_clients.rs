//! Clients that stall, hang up half-way, open too much or speak HTTP/2 badly on purpose.
//! Who enters: raw TLS streams with a good certificate, and TCP connections without any.
//! What leaves: a closed connection in bounded time; good clients are served all the while.

use std::time::Duration;

use promises::{Appliance, GIVEN_UP, Member, Protocol, get, within};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const STREAMS_MAX: u32 = 128;
/// Of the handshakes of one address 192 may stall at a time; each newcomer takes the place of the oldest.
const STALLED_MIN: usize = 170;
/// Those who stall are cut after ten seconds. A machine that needs longer for what happens meanwhile tries again so often.
const TRIES: usize = 5;

async fn raw(house: &Appliance, member: &Member, protocol: Protocol) -> TlsStream<TcpStream> {
    house.door().tls(member.identity.client_config(protocol)).await.unwrap()
}

async fn others_are_served(member: &Member) {
    within("a good client's answer", GIVEN_UP, member.ask(get("/v1/keys"))).await.expect(200);
}

/// Whether the other side still keeps this open and has said nothing.
async fn is_held(stream: &mut (impl AsyncRead + Unpin)) -> bool {
    tokio::task::yield_now().await;
    tokio::time::timeout(Duration::ZERO, stream.read(&mut [0])).await.is_err()
}

/// Six hundred connections, more than there are places for one address and for all; half of them begin a handshake and stop in
/// the middle of the first record.
async fn stall(house: &Appliance) -> Vec<TcpStream> {
    let mut stalled = Vec::new();
    for at in 0..600 {
        let mut stream = TcpStream::connect(house.door().address()).await.unwrap();
        if at % 2 == 0 {
            stream.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.unwrap();
        }
        stalled.push(stream);
    }
    stalled
}

#[tokio::test]
async fn stalled_handshakes_are_cut_and_others_are_served_meanwhile() {
    let mut house = Appliance::start().await;
    let member = house.member("acme").await;
    others_are_served(&member).await;
    let before = house.daemon().descriptors();
    for _ in 0..TRIES {
        let mut stalled = stall(&house).await;
        for _ in 0..5 {
            others_are_served(&member).await;
            member.connect(Protocol::H1).await;
        }
        // Nobody was cut for their time yet, only for their number: no good client waited for a place that time had freed.
        let mut held = 0;
        for stream in &mut stalled {
            held += usize::from(is_held(stream).await);
        }
        for stream in &mut stalled {
            let _ = within("a stalled handshake is cut", GIVEN_UP, stream.read(&mut [0])).await;
        }
        if held >= STALLED_MIN {
            drop(stalled);
            let daemon = house.daemon();
            let back = || async { (daemon.descriptors() <= before + 2).then_some(()) };
            promises::eventually("the descriptors come back", GIVEN_UP, back).await;
            return;
        }
    }
    panic!("good clients were served only when those who stall had been cut");
}

#[tokio::test]
async fn a_stalled_body_is_cut_with_408_and_others_are_served_meanwhile() {
    let house = Appliance::start().await;
    let member = house.member("acme").await;
    let head = format!(
        "POST /v1/keys HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{\"name\"",
        member.secret
    );
    for _ in 0..TRIES {
        let mut slow = raw(&house, &member, Protocol::H1).await;
        slow.write_all(head.as_bytes()).await.unwrap();
        others_are_served(&member).await;
        if !is_held(&mut slow).await {
            continue;
        }
        let mut answer = vec![0; 4096];
        let reading = slow.read(&mut answer);
        let length = within("an answer to the stalled body", GIVEN_UP, reading).await.unwrap();
        let text = String::from_utf8_lossy(&answer[..length]).into_owned();
        assert!(text.starts_with("HTTP/1.1 408"), "{text}");
        return assert!(text.contains("body_timeout"), "{text}");
    }
    panic!("others were served only when the stalled body had been cut");
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
    for stream in &mut dribbling {
        assert!(is_held(stream).await, "others were served only when those who dribble had been cut");
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
    let _ = within("the half-closed connection ends", GIVEN_UP, stream.read_to_end(&mut rest)).await;
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
        within("a stream is refused", GIVEN_UP, refused).await,
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
    let stormed = within("the storm", GIVEN_UP, storm).await;
    let ended =
        within("the connection ends", GIVEN_UP, until_frame(&mut stream, |kind, _, _| kind == GOAWAY)).await;
    assert!(stormed.is_err() || ended, "twenty thousand resets were put up with");
    others_are_served(&member).await;
}
