//! The worker's loop: frames in, calls on lanes, answers out. The same for every kind of token, the double included.
//! Enters: the daemon's socket, a board to mark begun calls on, and a way to connect a back-end.
//! Leaves: answers in batches; an end when the daemon hangs up or the device is lost.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroize;

use crate::backend::{Backend, Fault, Lane};
use crate::config::TokenConfig;
use crate::error::StartRefused;
use crate::protocol::{
    Answer, Call, Garbled, Greeting, Hello, Reply, Request, Secret, VERSION, next_frame, push_frame,
};

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

/// Where a worker marks what it has begun, so that after its death the daemon can tell which calls never started. One number per lane,
/// in memory that both processes hold.
#[derive(Debug)]
pub struct Board(File);

impl Board {
    /// A board on a file in memory.
    ///
    /// # Errors
    /// When the kernel gives no memory file.
    pub fn blank() -> io::Result<Self> {
        let file = rustix::fs::memfd_create("chancery-begun", rustix::fs::MemfdFlags::CLOEXEC)?;
        Ok(Self(File::from(file)))
    }

    /// Another hold on the same board.
    ///
    /// # Errors
    /// When descriptors have run out.
    pub fn share(&self) -> io::Result<File> {
        self.0.try_clone()
    }

    /// The highest number any lane has begun; calls begin in their order, so every higher one has not.
    #[must_use]
    pub fn highest(&self) -> u64 {
        let mut bytes = [0; 8 * LANES_MAX];
        let read = self.0.read_at(&mut bytes, 0).unwrap_or(0);
        let (numbers, _) = bytes[..read].as_chunks::<8>();
        numbers.iter().map(|number| u64::from_le_bytes(*number)).max().unwrap_or(0)
    }

    fn mark(&self, lane: usize, number: u64) -> io::Result<()> {
        self.0.write_all_at(&number.to_le_bytes(), 8 * lane as u64)
    }
}

impl From<File> for Board {
    fn from(file: File) -> Self {
        Self(file)
    }
}

/// Serves one token until the daemon hangs up.
pub fn serve(
    mut socket: UnixStream,
    board: Board,
    connect: impl FnOnce(&TokenConfig) -> Result<Box<dyn Backend>, StartRefused>,
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
    connect: impl FnOnce(&TokenConfig) -> Result<Box<dyn Backend>, StartRefused>,
) -> Result<Opened, Ended> {
    let hello: Hello = inbox.wait_for_one(socket)?.ok_or(Ended::HungUp)?;
    let opened = read_config(&hello).and_then(|config| {
        let mut backend = connect(&config)?;
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
    while let Some((request, behind)) = line.next(|| outbox.flush()) {
        outbox.flush_if_due(last, behind);
        // If we stop before this mark, the daemon finds the call not begun and hands it to the next worker.
        if board.mark(place, request.number).is_err() {
            break;
        }
        let begun = Instant::now();
        let result = perform(lane.as_mut(), request.call);
        last = begun.elapsed();
        let lost = matches!(result, Err(Fault::Lost { .. }));
        outbox.push(&Answer { number: request.number, result });
        if lost {
            outbox.flush();
            outbox.hang_up();
            break;
        }
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
    })
}

/// Bytes read from the daemon, not yet taken as frames.
#[derive(Default)]
struct Inbox {
    bytes: Vec<u8>,
    at: usize,
}

impl Inbox {
    fn take<T: serde::de::DeserializeOwned>(&mut self) -> Result<Option<T>, Garbled> {
        next_frame(&self.bytes, &mut self.at)
    }

    fn fill(&mut self, socket: &mut impl Read) -> io::Result<usize> {
        let rest = self.bytes.len() - self.at;
        self.bytes.copy_within(self.at.., 0);
        self.bytes[rest..].zeroize();
        self.at = 0;
        self.bytes.resize(rest + READ_BYTES, 0);
        let read = loop {
            match socket.read(&mut self.bytes[rest..]) {
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.bytes.truncate(rest + read.as_ref().unwrap_or(&0));
        read
    }

    fn wait_for_one<T: serde::de::DeserializeOwned>(
        &mut self,
        socket: &mut impl Read,
    ) -> Result<Option<T>, Ended> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(Some(frame));
            }
            if self.fill(socket)? == 0 {
                return Ok(None);
            }
        }
    }
}

/// Calls in the order they came.
#[derive(Default)]
struct Line {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    idle: usize,
    closed: bool,
}

impl Line {
    fn add(&self, batch: Vec<Request>) {
        let mut waiting = lock(&self.waiting);
        let wake = waiting.idle.min(batch.len());
        waiting.requests.extend(batch);
        drop(waiting);
        (0..wake).for_each(|_| self.arrived.notify_one());
    }

    /// The next call, and how many stand behind it. Runs `before_rest` before the thread goes to sleep.
    fn next(&self, before_rest: impl Fn()) -> Option<(Request, usize)> {
        let mut waiting = lock(&self.waiting);
        if waiting.requests.is_empty() && !waiting.closed {
            drop(waiting);
            before_rest();
            waiting = lock(&self.waiting);
        }
        loop {
            if let Some(request) = waiting.requests.pop_front() {
                return Some((request, waiting.requests.len()));
            }
            if waiting.closed {
                return None;
            }
            waiting.idle += 1;
            waiting = self.arrived.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            waiting.idle -= 1;
        }
    }

    fn close(&self) {
        lock(&self.waiting).closed = true;
        self.arrived.notify_all();
    }
}

/// Answers not yet written. Under load several leave in one write; none waits for a slow call behind it.
struct Outbox<'a> {
    batch: Mutex<Batch>,
    socket: Mutex<&'a UnixStream>,
}

#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    answers: usize,
    since: Option<Instant>,
}

impl<'a> Outbox<'a> {
    fn new(socket: &'a UnixStream) -> Self {
        Self { batch: Mutex::default(), socket: Mutex::new(socket) }
    }

    fn push(&self, answer: &Answer) {
        let mut batch = lock(&self.batch);
        if push_frame(&mut batch.bytes, answer).is_err() {
            // Only an answer too long for a frame comes here, and no back-end makes one.
            let why = "the answer is too long for a frame".to_owned();
            let fault = Err(Fault::Lost { why, harmless: false });
            let _ = push_frame(&mut batch.bytes, &Answer { number: answer.number, result: fault });
        }
        batch.answers += 1;
        batch.since.get_or_insert_with(Instant::now);
    }

    /// Writes now, unless so many calls stand in line that a few answers may share a write: then answers wait for at most a quarter of
    /// what the last call in line waits anyway, and never long.
    fn flush_if_due(&self, next_call: Duration, behind: usize) {
        let batch = lock(&self.batch);
        let Some(since) = batch.since else { return };
        if batch.answers > behind / 4 || since.elapsed() + next_call > ANSWER_AGE_MAX {
            drop(batch);
            self.flush();
        }
    }

    fn flush(&self) {
        let mut socket = lock(&self.socket);
        let mut bytes = {
            let mut batch = lock(&self.batch);
            batch.since = None;
            batch.answers = 0;
            std::mem::take(&mut batch.bytes)
        };
        // A daemon that is gone is noticed by the reader; what cannot be delivered is its to resolve.
        let _ = socket.write_all(&bytes);
        bytes.zeroize();
    }

    fn hang_up(&self) {
        let _ = lock(&self.socket).shutdown(Shutdown::Both);
    }
}

/// A lane that panicked has hung up already; what it left in line is still in order.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// More sessions than any token serves at once; bounds the board.
pub const LANES_MAX: usize = 64;

/// No answer waits longer for company; a busy token keeps its callers waiting longer than this by itself.
const ANSWER_AGE_MAX: Duration = Duration::from_millis(2);

/// One read takes what a full window of usual requests needs.
const READ_BYTES: usize = 64 << 10;
