//! Carries calls to one worker and its answers back, until it is lost.
//! Enters: a worker that has greeted, and calls in line.
//! Leaves: answers; at the end, what became of every call the worker had in hand.

use std::io;
use std::pin::Pin;
use std::time::Instant;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::Sleep;
use zeroize::Zeroize;

use super::nursery::Life;
use super::queue::Queue;
use super::{Order, Supervisor, retry_after};
use crate::backend::Fault;
use crate::error::TokenError;
use crate::protocol::{Answer, Garbled, Greeting, Hello, monotonic_ns, next_frame, push_frame};
use crate::serve::Board;

/// Why a worker is no longer spoken to.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("its worker ended")]
    HungUp,
    #[error("its worker's socket failed: {0}")]
    Socket(#[from] io::Error),
    #[error("its worker does not keep to the protocol: {0}")]
    Garbled(#[from] Garbled),
    #[error("a call passed its deadline and does not end")]
    Stuck,
    #[error("the device failed: {0}")]
    Device(String),
    #[error("it was closed")]
    Closed,
}

impl Supervisor {
    /// Serves calls through this worker until it breaks or the token closes; then the worker is dead and every call it had is answered
    /// or back in line.
    pub(super) async fn pump(&mut self, mut line: Line, life: Life) -> Broken {
        self.queue.begin_generation();
        let board = life.board();
        let broken = match self.carry(&mut line, &board).await {
            Ok(()) => {
                line.part(&life).await;
                Broken::Closed
            }
            Err(broken) => broken,
        };
        // The board is read only after the worker's death: alive, it could begin another call after we looked.
        let begun = if self.nursery.bury(life).await { board.highest() } else { u64::MAX };
        self.queue.worker_died(begun, retry_after(&self.limits));
        broken
    }

    /// `Ok` when the token is to close and the last call in hand is answered.
    async fn carry(&mut self, line: &mut Line, board: &Board) -> Result<(), Broken> {
        let mut orders = Vec::with_capacity(ORDERS_AT_ONCE);
        let mut timer = Box::pin(tokio::time::sleep_until(self.queue.next_deadline().into()));
        let mut open = true;
        loop {
            line.hand_over(&mut self.queue, self.limits.in_flight_max.max(1))?;
            if !open && self.queue.is_idle() {
                return Ok(());
            }
            tokio::select! {
                biased;
                ready = line.ready() => line.exchange(ready?, &mut self.queue)?,
                count = self.orders.recv_many(&mut orders, ORDERS_AT_ONCE), if open => {
                    open = count > 0;
                    self.gather(&mut orders).await;
                    for order in orders.drain(..) {
                        self.sort(order, &mut timer, &mut open);
                    }
                }
                () = &mut timer => {
                    let now = Instant::now();
                    self.queue.expire(now);
                    if self.queue.is_stuck(now, board, retry_after(&self.limits)) {
                        return Err(Broken::Stuck);
                    }
                    timer.as_mut().reset(self.queue.next_deadline().into());
                }
            }
        }
    }

    /// While the worker has enough to do, lets other tasks add their calls to the batch: one write then carries them all.
    async fn gather(&mut self, orders: &mut Vec<Order>) {
        if self.queue.in_hand() < BUSY {
            return;
        }
        tokio::task::yield_now().await;
        while orders.len() < ORDERS_AT_ONCE
            && let Ok(order) = self.orders.try_recv()
        {
            orders.push(order);
        }
    }

    fn sort(&mut self, order: Order, timer: &mut Pin<Box<Sleep>>, open: &mut bool) {
        match order {
            Order::Call(call) => {
                if tokio::time::Instant::from_std(call.deadline) < timer.deadline() {
                    timer.as_mut().reset(call.deadline.into());
                }
                self.queue.push(*call);
            }
            Order::Close(done) => {
                self.closing = Some(done);
                *open = false;
            }
        }
    }
}

/// The daemon's end of one worker's socket.
pub(super) struct Line {
    socket: UnixStream,
    outgoing: Vec<u8>,
    written: usize,
    incoming: Vec<u8>,
}

impl Line {
    pub(super) fn new(socket: std::os::unix::net::UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = UnixStream::from_std(socket)?;
        Ok(Self { socket, outgoing: Vec::new(), written: 0, incoming: Vec::with_capacity(READ_BYTES) })
    }

    /// Sends the configuration and waits for the worker's first word.
    pub(super) async fn greet(&mut self, hello: Hello) -> Result<Greeting, Broken> {
        push_frame(&mut self.outgoing, &hello)?;
        loop {
            self.write()?;
            let ready = self.ready().await?;
            if ready.is_readable() {
                self.read()?;
            }
            let mut at = 0;
            if let Some(greeting) = next_frame(&self.incoming, &mut at)? {
                self.incoming.drain(..at);
                return Ok(greeting);
            }
        }
    }

    async fn ready(&self) -> io::Result<tokio::io::Ready> {
        let owed = self.written < self.outgoing.len();
        self.socket
            .ready(if owed { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE })
            .await
    }

    /// Fills one batch from the line and writes it at once.
    fn hand_over(&mut self, queue: &mut Queue, in_hand_max: usize) -> Result<(), Broken> {
        // The clock of the wire is read first, so that no deadline comes out later there than here.
        let (now_ns, now) = (monotonic_ns(), Instant::now());
        while queue.in_hand() < in_hand_max && self.outgoing.len() < BATCH_BYTES_MAX {
            let Some((number, call)) = queue.hand_over(now) else { break };
            let left = u64::try_from(call.deadline.duration_since(now).as_nanos()).unwrap_or(u64::MAX);
            let request = RequestRef { number, deadline_ns: now_ns.saturating_add(left), call: &call.call };
            if let Err(garbled) = push_frame(&mut self.outgoing, &request) {
                tracing::warn!(why = %garbled, "a call is too long for the worker");
                let why = "it is longer than the worker takes".to_owned();
                queue.answer(number, Err(TokenError::Refused(crate::Refusal::BadInput(why))));
            }
        }
        self.write()
    }

    fn exchange(&mut self, ready: tokio::io::Ready, queue: &mut Queue) -> Result<(), Broken> {
        if ready.is_writable() {
            self.write()?;
        }
        if ready.is_readable() || ready.is_read_closed() {
            let ended = self.read();
            // Answers that arrived before the end still count.
            self.answer(queue)?;
            ended?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), Broken> {
        while self.written < self.outgoing.len() {
            match self.socket.try_write(&self.outgoing[self.written..]) {
                Ok(count) => self.written += count,
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(fault) if is_hang_up(&fault) => return Err(Broken::HungUp),
                Err(fault) => return Err(fault.into()),
            }
        }
        // A batch may have held a secret on its way to be wrapped.
        self.outgoing.as_mut_slice().zeroize();
        self.outgoing.clear();
        self.written = 0;
        Ok(())
    }

    fn read(&mut self) -> Result<(), Broken> {
        loop {
            self.incoming.reserve(READ_BYTES);
            match self.socket.try_read_buf(&mut self.incoming) {
                Ok(0) => return Err(Broken::HungUp),
                Ok(count) if count < READ_BYTES => return Ok(()),
                Ok(_) => {}
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(fault) if is_hang_up(&fault) => return Err(Broken::HungUp),
                Err(fault) => return Err(fault.into()),
            }
        }
    }

    fn answer(&mut self, queue: &mut Queue) -> Result<(), Broken> {
        let mut at = 0;
        let mut lost = None;
        while let Some(Answer { number, result }) = next_frame(&self.incoming, &mut at)? {
            if let Err(Fault::Lost { why, .. }) = &result {
                lost = Some(why.clone());
            }
            queue.answer(number, result.map_err(outward));
        }
        self.incoming[..at].zeroize();
        self.incoming.drain(..at);
        lost.map_or(Ok(()), |why| Err(Broken::Device(why)))
    }

    /// Hangs up and waits for the worker to leave its device in order; not for long, since it is killed next.
    async fn part(&mut self, life: &Life) {
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write);
        let gone = async {
            while self.socket.readable().await.is_ok() {
                match self.socket.try_read(&mut [0; 64]) {
                    Ok(0) => break,
                    Err(fault) if fault.kind() != io::ErrorKind::WouldBlock => break,
                    _ => {}
                }
            }
        };
        if tokio::time::timeout(PARTING_MAX, gone).await.is_err() {
            tracing::warn!(worker = life.name(), "the worker did not leave in time and is killed");
        }
    }
}

/// A [`crate::protocol::Request`], borrowed.
#[derive(serde::Serialize)]
struct RequestRef<'a> {
    number: u64,
    deadline_ns: u64,
    call: &'a crate::protocol::Call,
}

/// What callers hear of a fault.
fn outward(fault: Fault) -> TokenError {
    match fault {
        Fault::Refused(refusal) => TokenError::Refused(refusal),
        Fault::Expired => TokenError::Expired,
        Fault::KeyMissing { id } => TokenError::KeyMissing { id },
        Fault::WrongKey { id, expected, found } => TokenError::WrongKey { id, expected, found },
        Fault::Unsupported { what } => TokenError::Unsupported { what },
        Fault::Lost { harmless: true, .. } => {
            TokenError::Gone { retry_after: std::time::Duration::from_secs(1) }
        }
        Fault::Lost { harmless: false, .. } => TokenError::OutcomeUnknown,
    }
}

fn is_hang_up(fault: &io::Error) -> bool {
    matches!(fault.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

/// Orders taken from the handles in one go.
const ORDERS_AT_ONCE: usize = 64;

/// With this many calls in hand, a worker does not run dry while a batch is gathered.
const BUSY: usize = 8;

/// One read takes a usual batch of answers.
const READ_BYTES: usize = 16 << 10;

/// A batch stops growing here; more waits until this is written.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// Long enough for C_Finalize on a network token, short enough for a service stop.
const PARTING_MAX: std::time::Duration = std::time::Duration::from_secs(2);
