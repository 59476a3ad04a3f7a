//! The one way in which the engine writes: a turn inside a transaction, told or honestly bookkeeping.
//! Who enters: the driver, with what the turn shall do.
//! What leaves: the saga as it now is, with the evidence of an order; or why it did not come about.

use std::sync::Arc;
use std::time::Duration;

use audit::{Recorded, Told, WriteRefused};

use super::Inner;
use super::live::Live;
use super::turn::{Halt, Moved, Turn};
use crate::define::step::Order;
use crate::outbox;
use crate::refusal::{Reason, Refused};

/// Why a commit of the driver did not come about.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Another engine has the saga, or this one is closing: say nothing and let go.
    LetGo,
    /// The copy at hand is older than the row: read it again before anything else.
    Stale,
    /// The step at this place said no.
    Refused(usize, Refused<Reason>),
    /// Something that cannot be.
    Bug(String),
    /// A closure panicked.
    Panicked,
    /// The ledger does not take writes at the moment.
    NotNow,
}

/// Whether a commit tells; it must, unless it only keeps the engine's own books.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Telling {
    Told,
    Bookkeeping,
}

impl Inner {
    /// One commit of a saga.
    pub(crate) async fn commit<W>(
        self: &Arc<Self>,
        live: &Live,
        work: W,
    ) -> Result<(Moved, Option<Recorded<Order>>), Stop>
    where
        W: Fn(&mut Turn<'_, '_>) -> Result<(), Halt> + Send + Sync + 'static,
    {
        if self.is_halted() {
            return Err(Stop::LetGo);
        }
        #[cfg(any(test, feature = "double"))]
        if self.refused_writes.is_next() {
            return Err(Stop::NotNow);
        }
        let began = self.parts.clock.monotonic();
        let began_us = self.now_us();
        let outcome = self.commit_told_or_not(live, Arc::new(work)).await;
        let took = self.parts.clock.monotonic().saturating_sub(began);
        match &outcome {
            Ok((moved, _)) => self.after_commit(moved, took),
            Err(Stop::Refused(place, refused)) => self.tell_refused(live, *place, refused, (began_us, took)),
            Err(_) => {}
        }
        outcome
    }

    async fn commit_told_or_not<W>(
        &self,
        live: &Live,
        work: Arc<W>,
    ) -> Result<(Moved, Option<Recorded<Order>>), Stop>
    where
        W: Fn(&mut Turn<'_, '_>) -> Result<(), Halt> + Send + Sync + 'static,
    {
        let mut kind = Telling::Told;
        loop {
            let (env, live, now_us, work) = (self.env.clone(), live.clone(), self.now_us(), work.clone());
            match kind {
                Telling::Told => {
                    let outcome =
                        self.parts.ledger.write(move |tx| told(tx, &env, &live, now_us, &*work)).await;
                    match outcome {
                        Ok(recorded) => {
                            let (moved, order) = recorded.split();
                            return Ok((moved, Some(order)));
                        }
                        Err(WriteRefused::Rejected(No::Untold)) => kind = Telling::Bookkeeping,
                        Err(refused) => return Err(stop(refused)),
                    }
                }
                Telling::Bookkeeping => {
                    let why = "an attempt that is in the saga's log and was told of before, or a timer";
                    let written = self
                        .parts
                        .ledger
                        .write_unaudited(why, move |tx| untold(tx, &env, &live, now_us, &*work));
                    match written.await {
                        Ok(moved) => return Ok((moved, None)),
                        // Between the two looks a signal came or a moment passed: now there is something to tell.
                        Err(WriteRefused::Rejected(No::Told)) => kind = Telling::Told,
                        Err(refused) => return Err(stop(refused)),
                    }
                }
            }
        }
    }

    pub(crate) fn after_commit(self: &Arc<Self>, moved: &Moved, took: Duration) {
        let row = &moved.live.row;
        self.tell_taken(moved, took);
        self.parts.observer.committed(&row.key, &row.workflow, took);
        self.ring(&row.key);
        moved.woken.iter().for_each(|key| self.nudge(key));
        if row.state.is_over() {
            let age = Duration::from_micros(row.updated_us.saturating_sub(row.created_us));
            self.parts.observer.ended(&row.workflow, row.state, age);
            self.waiters.tell(&moved.live);
        }
        if row.state.is_stuck() {
            tracing::warn!(saga = %row.key.id, workflow = row.workflow, state = row.state.as_str(),
                why = row.trouble.as_ref().map(|it| it.words.as_str()), "a workflow needs a person");
            self.parts.observer.stuck(&row.workflow, true);
        }
    }
}

/// Why a closure came back empty.
#[derive(Debug)]
enum No {
    Halt(Halt),
    /// The commit has nothing to tell; it goes as bookkeeping.
    Untold,
    /// The commit has something to tell, so it is more than bookkeeping.
    Told,
}

impl From<Halt> for No {
    fn from(halt: Halt) -> Self {
        Self::Halt(halt)
    }
}

fn told(
    tx: &mut audit::Tx<'_>,
    env: &Arc<super::parts::Env>,
    live: &Live,
    now_us: u64,
    work: &dyn Fn(&mut Turn<'_, '_>) -> Result<(), Halt>,
) -> Result<Told<(Moved, Order)>, No> {
    let mut turn = Turn::new(tx, env, live.clone(), now_us);
    work(&mut turn)?;
    let (moved, told) = turn.save()?;
    match told {
        Some(told) => Ok(told.beside(moved)),
        None if outbox::has_published(tx).map_err(Halt::from)? => {
            let why = "a step published an event in a commit of which it tells nothing";
            Err(Halt::Bug(why.to_owned()).into())
        }
        None => Err(No::Untold),
    }
}

fn untold(
    tx: &mut audit::Tx<'_>,
    env: &Arc<super::parts::Env>,
    live: &Live,
    now_us: u64,
    work: &dyn Fn(&mut Turn<'_, '_>) -> Result<(), Halt>,
) -> Result<Moved, No> {
    let mut turn = Turn::new(tx, env, live.clone(), now_us);
    // What comes to words or to an event only now belongs where it can be told; and so does whatever else is met here.
    work(&mut turn).map_err(|_| No::Told)?;
    match turn.save().map_err(|_| No::Told)? {
        (moved, None) => Ok(moved),
        (_, Some(_)) => Err(No::Told),
    }
}

fn stop(refused: WriteRefused<No>) -> Stop {
    match refused {
        WriteRefused::Rejected(No::Halt(Halt::Stale)) => Stop::Stale,
        WriteRefused::Rejected(No::Halt(Halt::Refused(place, refused))) => Stop::Refused(place, refused),
        WriteRefused::Rejected(No::Halt(Halt::Sql(fault))) => match fault {
            // The disk is full, or another program holds the database: that heals, and no person need look at it.
            audit::SqlFault::DiskFull(_) | audit::SqlFault::Busy(_) => Stop::NotNow,
            fault => Stop::Bug(fault.to_string()),
        },
        WriteRefused::Rejected(No::Halt(Halt::Bug(why))) => Stop::Bug(why),
        WriteRefused::Rejected(No::Untold | No::Told) => Stop::Bug("a commit was told wrongly".to_owned()),
        WriteRefused::Panicked => Stop::Panicked,
        WriteRefused::EntryTooLong { field, bytes, bytes_max } => {
            Stop::Bug(format!("{field} of an entry has {bytes} bytes, more than {bytes_max}"))
        }
        // What is durable shows after a restart; until then nothing more is claimed.
        WriteRefused::Lost | WriteRefused::Closed => Stop::LetGo,
        WriteRefused::Unverified
        | WriteRefused::Frozen(_)
        | WriteRefused::Unanchored { .. }
        | WriteRefused::Overloaded
        | WriteRefused::NoSpace
        | WriteRefused::NoRandomness => Stop::NotNow,
    }
}
