//! The worker's inbox, line and outbox: bytes become calls, wait their turn, and leave as answers.
//! Enters: frames from the daemon; answers from the lanes.
//! Leaves: calls in the order they came; answers in batches.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use zeroize::Zeroize;

use super::Ended;
use crate::backend::Fault;
use crate::protocol::{Answer, Garbled, Request, next_frame, push_frame};

/// Bytes read from the daemon, not yet taken as frames.
#[derive(Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    at: usize,
    filled: usize,
}

impl Inbox {
    pub(super) fn take<T: serde::de::DeserializeOwned>(&mut self) -> Result<Option<T>, Garbled> {
        next_frame(&self.bytes[..self.filled], &mut self.at)
    }

    pub(super) fn fill(&mut self, socket: &mut impl Read) -> io::Result<usize> {
        self.make_room();
        let read = loop {
            match socket.read(&mut self.bytes[self.filled..]) {
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.filled += read.as_ref().unwrap_or(&0);
        read
    }

    /// Moves what is not taken yet to the front, and wipes what was: a frame may have held a secret.
    fn make_room(&mut self) {
        let rest = self.filled - self.at;
        self.bytes.copy_within(self.at..self.filled, 0);
        self.bytes[rest..self.filled].zeroize();
        (self.at, self.filled) = (0, rest);
        if self.bytes.len() < rest + READ_BYTES {
            self.bytes.resize(rest + READ_BYTES, 0);
        }
    }

    pub(super) fn wait_for_one<T: serde::de::DeserializeOwned>(
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
pub(super) struct Line {
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
    pub(super) fn add(&self, batch: Vec<Request>) {
        let mut waiting = lock(&self.waiting);
        let wake = waiting.idle.min(batch.len());
        waiting.requests.extend(batch);
        drop(waiting);
        (0..wake).for_each(|_| self.arrived.notify_one());
    }

    /// The next call, and how many stand behind it. Runs `before_rest` before the thread goes to sleep.
    pub(super) fn next(&self, before_rest: impl Fn()) -> Option<(Request, usize)> {
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

    pub(super) fn close(&self) {
        lock(&self.waiting).closed = true;
        self.arrived.notify_all();
    }
}

/// Answers not yet written. Under load several leave in one write; none waits for a slow call behind it.
pub(super) struct Outbox<'a> {
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
    pub(super) fn new(socket: &'a UnixStream) -> Self {
        Self { batch: Mutex::default(), socket: Mutex::new(socket) }
    }

    pub(super) fn push(&self, answer: &Answer) {
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
    pub(super) fn flush_if_due(&self, next_call: Duration, behind: usize) {
        let batch = lock(&self.batch);
        let Some(since) = batch.since else { return };
        if batch.answers > behind / 4 || since.elapsed() + next_call > ANSWER_AGE_MAX {
            drop(batch);
            self.flush();
        }
    }

    pub(super) fn flush(&self) {
        let mut socket = lock(&self.socket);
        let mut bytes = {
            let mut batch = lock(&self.batch);
            batch.since = None;
            batch.answers = 0;
            std::mem::take(&mut batch.bytes)
        };
        // A daemon that is gone is noticed by the reader; what cannot be delivered is its to resolve.
        let _ = socket.write_all(&bytes);
        bytes.as_mut_slice().zeroize();
    }

    pub(super) fn hang_up(&self) {
        let _ = lock(&self.socket).shutdown(Shutdown::Both);
    }
}

/// A lane that panicked has hung up already; what it left in line is still in order.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// No answer waits longer for company; a busy token keeps its callers waiting longer than this by itself.
const ANSWER_AGE_MAX: Duration = Duration::from_millis(2);

/// One read takes what a full window of usual requests needs.
const READ_BYTES: usize = 64 << 10;
