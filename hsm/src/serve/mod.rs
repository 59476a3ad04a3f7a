//! The worker's loop: frames in, calls on lanes, answers out. The same for every kind of token, the double included.
//! Enters: the daemon's socket, a board to mark begun calls on, and a way to connect a back-end.
//! Leaves: answers in batches; an end when the daemon hangs up or the device is lost.

mod board;
mod ceremony;
mod line;

use std::io::{self, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::backend::{Backend, Fault, Lane, Rotate};
use crate::config::TokenConfig;
use crate::error::StartRefused;
use crate::key::RootPin;
use crate::protocol::{
    Answer, Call, Garbled, Greeting, Hello, Reply, Request, Secret, VERSION, monotonic_ns, push_frame,
};
use crate::scheme::KeyKind;
use line::{Inbox, Line, Outbox};

pub use board::{Board, LANES_MAX};

/// How a worker's life ended, for its log line.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// The daemon closed its end; the device was left in order.
    #[error("the daemon hung up")]
    HungUp,
    /// The token could not be opened; the daemon was told.
    #[error("the token was not opened: {0}")]
    Refused(StartRefused),
    /// The socket failed.
    #[error("the daemon's socket failed")]
    Socket(#[from] io::Error),
    /// The daemon sent something else than frames.
    #[error("the daemon's frames do not parse; daemon and worker must come from one release")]
    Garbled(#[from] Garbled),
}

/// Serves one token until the daemon hangs up.
pub fn serve(
    mut socket: UnixStream,
    board: Board,
    connect: impl FnOnce(&TokenConfig, Option<&RootPin>) -> Result<Box<dyn Backend>, StartRefused>,
) -> Ended {
    let mut inbox = Inbox::default();
    match greet(&mut socket, &mut inbox, connect) {
        Ok((backend, lanes)) => work(&socket, &board, &mut inbox, backend, lanes),
        Err(ended) => ended,
    }
}

type Opened = (Box<dyn Backend>, Vec<Box<dyn Lane>>);

fn greet(
    socket: &mut UnixStream,
    inbox: &mut Inbox,
    connect: impl FnOnce(&TokenConfig, Option<&RootPin>) -> Result<Box<dyn Backend>, StartRefused>,
) -> Result<Opened, Ended> {
    let hello: Hello = inbox.wait_for_one(socket)?.ok_or(Ended::HungUp)?;
    let opened = read_config(&hello).and_then(|config| {
        let mut backend = connect(&config, hello.root.as_ref())?;
        let lanes = backend.lanes().map_err(|fault| StartRefused::Device(told(&fault)))?;
        Ok((backend, lanes))
    });
    let greeting = match &opened {
        Ok((backend, _)) => Greeting::Ready(Box::new(backend.probe())),
        Err(refused) => Greeting::Refused(refused.clone()),
    };
    let mut frame = Vec::new();
    push_frame(&mut frame, &greeting)?;
    socket.write_all(&frame)?;
    opened.map_err(Ended::Refused)
}

fn read_config(hello: &Hello) -> Result<TokenConfig, StartRefused> {
    let refuse =
        |fault: &str| StartRefused::Worker { worker: "chancery-hsm".to_owned(), fault: fault.to_owned() };
    if hello.version != VERSION {
        return Err(refuse("it is of another release than the daemon; install both from one package"));
    }
    serde_json::from_str(&hello.config).map_err(|_| refuse("it cannot read the daemon's configuration"))
}

fn told(fault: &Fault) -> String {
    match fault {
        Fault::Refused(refusal) => refusal.to_string(),
        Fault::Lost { why, .. } => why.clone(),
        other => format!("{other:?}"),
    }
}

fn work(
    socket: &UnixStream,
    board: &Board,
    inbox: &mut Inbox,
    backend: Box<dyn Backend>,
    lanes: Vec<Box<dyn Lane>>,
) -> Ended {
    let line = Line::default();
    let outbox = Outbox::new(socket);
    let ended = std::thread::scope(|scope| {
        for (place, lane) in lanes.into_iter().take(LANES_MAX).enumerate() {
            let (line, outbox) = (&line, &outbox);
            scope.spawn(move || run_lane(lane, place, board, line, outbox));
        }
        let ended = feed(socket, inbox, &line);
        line.close();
        ended
    });
    backend.close();
    ended
}

/// Reads requests and puts them in line until the daemon hangs up.
fn feed(mut socket: &UnixStream, inbox: &mut Inbox, line: &Line) -> Ended {
    loop {
        let mut batch = Vec::new();
        loop {
            match inbox.take::<Request>() {
                Ok(Some(request)) => batch.push(request),
                Ok(None) => break,
                Err(garbled) => return garbled.into(),
            }
        }
        line.add(batch);
        match inbox.fill(&mut socket) {
            Ok(0) => return Ended::HungUp,
            Ok(_) => {}
            Err(fault) => return fault.into(),
        }
    }
}

/// One thread, one session: takes the next call in line until there is none and will be none.
fn run_lane(mut lane: Box<dyn Lane>, place: usize, board: &Board, line: &Line, outbox: &Outbox<'_>) {
    let mut last = Duration::ZERO;
    let mut pace = Pace::default();
    while let Some((request, behind)) = line.next(|| outbox.flush()) {
        outbox.flush_if_due(last, behind);
        // If we stop before this mark, the daemon finds the call not begun and hands it to the next worker.
        if board.mark(place, request.number).is_err() {
            // A board that takes no marks would let a begun call pass for one that never began. Not begun, this one and those behind it
            // go to the next worker, whose board is new.
            outbox.flush();
            outbox.hang_up();
            break;
        }
        // Marked first, then looked at the clock: the daemon, which looks in the other order, then knows that a call not marked at its
        // deadline never begins.
        let begun = Instant::now();
        let kind = kind_signed_with(&request.call);
        let result = if pace.is_in_time(kind, request.deadline_ns) {
            let result = perform(lane.as_mut(), request.call);
            last = begun.elapsed();
            pace.took(kind, last);
            result
        } else {
            Err(Fault::Expired)
        };
        let lost = matches!(result, Err(Fault::Lost { .. }));
        outbox.push(&Answer { number: request.number, result });
        if lost {
            outbox.flush();
            outbox.hang_up();
            break;
        }
    }
}

/// How long a signature by each kind of key took last, so that one is not begun that cannot end in time: begun, its outcome would be
/// unknown; not begun, it may safely be sent again.
#[derive(Default)]
struct Pace([Duration; KeyKind::ALL.len()]);

impl Pace {
    fn is_in_time(&mut self, kind: Option<KeyKind>, deadline_ns: u64) -> bool {
        let left = Duration::from_nanos(deadline_ns.saturating_sub(monotonic_ns()));
        let Some(kind) = kind else { return !left.is_zero() };
        let expected = &mut self.0[kind as usize];
        let in_time = left > *expected;
        if !in_time {
            // One slow signature must not bar the next ones for ever; but to forget it at once would begin the next in vain.
            *expected -= *expected / 8;
        }
        in_time
    }

    fn took(&mut self, kind: Option<KeyKind>, time: Duration) {
        if let Some(kind) = kind {
            self.0[kind as usize] = time;
        }
    }
}

const fn kind_signed_with(call: &Call) -> Option<KeyKind> {
    match call {
        Call::Sign { key, .. } => Some(key.kind),
        _ => None,
    }
}

fn perform(lane: &mut dyn Lane, call: Call) -> Result<Reply, Fault> {
    Ok(match call {
        Call::Sign { key, scheme, input } => Reply::Bytes(lane.sign(&key, scheme, &input)?),
        Call::Hmac { key, data } => Reply::Tag(lane.hmac_sha256(&key, &data)?),
        Call::Generate { id, kind, label } => Reply::NewKey(lane.generate(id, kind, &label)?),
        Call::GenerateHmacKey { id, label } => Reply::HmacKey(lane.generate_hmac_key(id, &label)?),
        Call::Find { id } => Reply::Found(lane.find(id)?),
        Call::Destroy { key } => lane.destroy(&key).map(|()| Reply::Done)?,
        Call::DestroyHmacKey { key } => lane.destroy_hmac_key(&key).map(|()| Reply::Done)?,
        Call::Random { len } => Reply::Bytes(lane.random(len)?),
        Call::EnsureRoot => Reply::Root(lane.ensure_root()?),
        Call::MakeRoot { tag } => Reply::Root(lane.make_root(tag)?),
        Call::UnmakeRoot { tag } => lane.unmake_root(tag).map(|()| Reply::Done)?,
        Call::SucceedRoot { id } => Reply::Root(rotating(lane)?.succeed_root(&id)?),
        Call::DestroyRoot { id } => rotating(lane)?.destroy_root(&id).map(|()| Reply::Done)?,
        Call::Wrap { secret, aad } => Reply::Bytes(lane.wrap(&secret.0, &aad)?),
        Call::Unwrap { wrapped, aad } => {
            Reply::Secret(Secret(std::mem::take(&mut *lane.unwrap(&wrapped, &aad)?)))
        }
        Call::AnchorRead => Reply::Anchor(lane.read()?),
        Call::AnchorAdvance { step } => lane.advance(&step).map(|()| Reply::Done)?,
        Call::AnchorAttest { qualifying } => {
            Reply::Attestation(lane.attest().map(|power| power.certify_anchor(qualifying)).transpose()?)
        }
        Call::AnchorCount => Reply::Count(lane.attest().map(|power| power.count()).transpose()?),
        Call::Quote { nonce } => Reply::Quote(lane.attest().map(|power| power.quote(nonce)).transpose()?),
        Call::Ceremony(ceremony) => ceremony::perform(lane, *ceremony)?,
    })
}

fn rotating(lane: &mut dyn Lane) -> Result<&mut dyn Rotate, Fault> {
    lane.rotate().ok_or_else(|| Fault::Unsupported { what: "succession of root keys".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn what_is_past_its_deadline_is_not_begun() {
        for kind in [None, Some(KeyKind::P256)] {
            let mut pace = Pace::default();
            assert!(!pace.is_in_time(kind, 0) && !pace.is_in_time(kind, monotonic_ns()), "{kind:?}");
            assert!(pace.is_in_time(kind, monotonic_ns() + 3600 * SECOND), "{kind:?}");
        }
    }

    #[test]
    fn what_cannot_end_in_time_is_not_begun_and_one_slow_signature_is_forgotten() {
        let mut pace = Pace::default();
        pace.took(Some(KeyKind::Rsa4096), Duration::from_secs(7200));
        let soon = || monotonic_ns() + 3600 * SECOND;
        assert!(!pace.is_in_time(Some(KeyKind::Rsa4096), soon()));
        assert!(pace.is_in_time(Some(KeyKind::P256), soon()), "each kind has its own pace");
        assert!((0..100).any(|_| pace.is_in_time(Some(KeyKind::Rsa4096), soon())), "barred for ever");
    }
}
