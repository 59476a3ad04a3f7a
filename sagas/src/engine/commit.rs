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
use crate::refusal::{Reason, Refused};

/// Why a commit of the driver did not come about.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Another engine has the saga, or this one is closing: say nothing and let go.
    LetGo,
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
        let began = self.parts.clock.monotonic();
        let work = Arc::new(work);
        let mut kind = Telling::Told;
        let moved = loop {
            let (env, live, now_us, work) = (self.env.clone(), live.clone(), self.now_us(), work.clone());
            match kind {
                Telling::Told => {
                    let outcome =
                        self.parts.ledger.write(move |tx| told(tx, &env, &live, now_us, &*work)).await;
                    match outcome {
                        Ok(recorded) => {
                            let (moved, order) = recorded.split();
                            break (moved, Some(order));
                        }
                        Err(WriteRefused::Rejected(No::Untold)) => kind = Telling::Bookkeeping,
                        Err(refused) => return Err(stop(refused)),
                    }
                }
                Telling::Bookkeeping => {
                    let why = "an attempt that is in the saga's log and was told of before, or a timer";
                    let outcome = self
                        .parts
                        .ledger
                        .write_unaudited(why, move |tx| {
                            let mut turn = Turn::new(tx, &env, live.clone(), now_us);
                            work(&mut turn)?;
                            match turn.save()? {
                                (moved, None) => Ok(moved),
                                // Between the two tries something came, such as a signal; it is not taken without its entry.
                                (_, Some(_)) => Err(No::Telling),
                            }
                        })
                        .await;
                    match outcome {
                        Ok(moved) => break (moved, None),
                        Err(WriteRefused::Rejected(No::Telling)) => kind = Telling::Told,
                        Err(refused) => return Err(stop(refused)),
                    }
                }
            }
        };
        let took = self.parts.clock.monotonic().saturating_sub(began);
        self.after_commit(&moved.0, took);
        Ok(moved)
    }

    pub(crate) fn after_commit(self: &Arc<Self>, moved: &Moved, took: Duration) {
        let row = &moved.live.row;
        self.parts.observer.committed(&row.key, &row.workflow, took);
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
    /// The commit has something to tell after all; it goes with its entries.
    Telling,
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
    Ok(told.ok_or(No::Untold)?.beside(moved))
}

fn stop(refused: WriteRefused<No>) -> Stop {
    match refused {
        WriteRefused::Rejected(No::Halt(Halt::Zombie)) => Stop::LetGo,
        WriteRefused::Rejected(No::Halt(Halt::Refused(place, refused))) => Stop::Refused(place, refused),
        WriteRefused::Rejected(No::Halt(Halt::Sql(fault))) => Stop::Bug(fault.to_string()),
        WriteRefused::Rejected(No::Halt(Halt::Bug(why))) => Stop::Bug(why),
        WriteRefused::Rejected(No::Untold | No::Telling) => {
            Stop::Bug("a commit told something, or nothing, in the wrong place".to_owned())
        }
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
