//! The items of a fan-out: each ordered, called, probed and recorded on its own, a few at a time.
//! Who enters: a saga at a fan-out step whose items are laid out.
//! What leaves: the outcomes of all of them in one commit; or the first word that stops them, with the others kept.

use std::collections::VecDeque;
use std::sync::Arc;

use audit::{Recorded, Told, WriteRefused};
use tokio::task::JoinSet;

use super::Inner;
use super::commit::Stop;
use super::drive::Counted;
use super::forward::Outcome;
use super::live::Live;
use super::seen::{Deed, found_word, word};
use super::turn::Moved;
use crate::define::step::{Act, FanCalls, Given, Order};
use crate::ids::Phase;
use crate::limits::{ITEMS_IN_FLIGHT, ITEMS_SEEN_MAX};
use crate::refusal::{Finding, Later, Reason, Refused, RemoteFault};
use crate::seal::Plain;
use crate::store::{self, ItemRow, ItemState};

/// Why an item's rows did not move.
#[derive(Debug)]
enum NoItem {
    /// The saga is another engine's, or the item was done already.
    Gone,
    Refused(Refused<Reason>),
}

impl From<audit::SqlFault> for NoItem {
    fn from(fault: audit::SqlFault) -> Self {
        Self::Refused(Refused::Sql(fault))
    }
}

/// How one item ended this time.
enum ItemEnd {
    Done,
    LetGo,
    NotNow,
    Fault(RemoteFault),
}

impl Inner {
    /// Takes every item that is not done, then gathers; after a crash it finds here what is left.
    pub(crate) async fn all_items(self: &Arc<Self>, live: &Live) -> Result<Moved, Stop> {
        let place = live.row.cursor;
        let Some(Act::FanOut(calls)) = live.step().map(|step| step.act.clone()) else {
            return self.stuck(live, "bug", format!("step {place} has no items")).await;
        };
        let given = match live.given(place) {
            Ok(given) => given,
            Err(why) => return self.stuck(live, "bug", why).await,
        };
        let items = match (calls.items)(&given) {
            Ok(items) => items,
            Err(why) => return self.stuck(live, "bug", why).await,
        };
        let rows = self.item_rows(live).await?;
        if rows.len() != items.len() {
            let why = format!("{} items were laid out, {} follow from the state", rows.len(), items.len());
            return self.stuck(live, "bug", why).await;
        }
        let open = rows.into_iter().filter(|row| row.state != ItemState::Done);
        let work: VecDeque<_> =
            open.filter_map(|row| Some((Arc::new(items.get(row.item)?.clone()), row))).collect();
        let others = work.iter().filter(|(_, row)| row.item >= ITEMS_SEEN_MAX).count();
        let (began, began_us) = (self.parts.clock.monotonic(), self.now_us());
        let taken = self.take_items(live, &calls, &given, work).await;
        let took = self.parts.clock.monotonic().saturating_sub(began);
        self.tell_others(live, others, (began_us, took));
        match taken {
            ItemEnd::Done => self.gather(live).await,
            ItemEnd::LetGo => Err(Stop::LetGo),
            ItemEnd::NotNow => Err(Stop::NotNow),
            ItemEnd::Fault(fault) => self.item_fault(live, fault).await,
        }
    }

    async fn take_items(
        self: &Arc<Self>,
        live: &Live,
        calls: &FanCalls,
        given: &Given,
        mut work: VecDeque<(Arc<Plain>, ItemRow)>,
    ) -> ItemEnd {
        let mut running = JoinSet::new();
        let mut worst = ItemEnd::Done;
        loop {
            if self.is_closing() && !work.is_empty() {
                worst = ItemEnd::LetGo;
            }
            while running.len() < ITEMS_IN_FLIGHT && matches!(worst, ItemEnd::Done) {
                let Some((item, row)) = work.pop_front() else { break };
                let (inner, live, calls, given) = (self.clone(), live.clone(), calls.clone(), given.clone());
                running.spawn(async move { inner.take_item(&live, &calls, given, item, row).await });
            }
            // Those in flight are finished before anything is decided about the others.
            match running.join_next().await {
                None => return worst,
                Some(Ok(ItemEnd::Done)) => {}
                Some(Ok(end)) => worst = worse(worst, end),
                Some(Err(why)) => {
                    worst = worse(
                        worst,
                        ItemEnd::Fault(RemoteFault::Bug(format!("an item's task failed: {why}"))),
                    );
                }
            }
        }
    }

    async fn take_item(
        self: &Arc<Self>,
        live: &Live,
        calls: &FanCalls,
        given: Given,
        item: Arc<Plain>,
        row: ItemRow,
    ) -> ItemEnd {
        let mut cx = live.context(live.row.cursor, Phase::Do, row.attempt + 1, self.now_us());
        cx.effect = cx.effect.item(row.item);
        cx.item = Some(row.item);
        if row.state == ItemState::Ordered {
            let probe = (calls.probe)(cx.clone(), given.clone(), item.clone());
            let probe = self.watched_item(Deed::Probe, &cx, found_word, async move { Ok(probe.await) });
            match self.bounded(live, calls.within, probe).await {
                Ok(Finding::Applied(out)) => return self.item_done(live, &row, &out).await,
                Ok(Finding::NotApplied | Finding::Unfinished(_)) => {}
                Ok(Finding::Unknown(why)) => return ItemEnd::Fault(RemoteFault::Unknown(why)),
                Err(fault) => return ItemEnd::Fault(fault),
            }
        }
        let mut row = row;
        row.attempt += 1;
        row.state = ItemState::Ordered;
        let order = match self.order_item(live, calls, &given, &cx, &item, &row).await {
            Ok(order) => order,
            Err(end) => return end,
        };
        let call = self.watched_item(Deed::Run, &cx.clone(), word, (calls.act)(cx, given, item, order));
        match self.bounded(live, calls.within, call).await {
            Ok(out) => self.item_done(live, &row, &out).await,
            Err(fault) => ItemEnd::Fault(fault),
        }
    }

    async fn order_item(
        self: &Arc<Self>,
        live: &Live,
        calls: &FanCalls,
        given: &Given,
        cx: &crate::StepContext,
        item: &Arc<Plain>,
        row: &ItemRow,
    ) -> Result<Recorded<Order>, ItemEnd> {
        if self.is_halted() {
            return Err(ItemEnd::LetGo);
        }
        #[cfg(any(test, feature = "double"))]
        if self.refused_writes.is_next() {
            return Err(ItemEnd::NotNow);
        }
        let (saga, order, given, cx, item, row) =
            (live.clone(), calls.order.clone(), given.clone(), cx.clone(), item.clone(), row.clone());
        let written = self.parts.ledger.write(move |tx| {
            let (key, epoch) = (saga.key().clone(), saga.row.epoch);
            if !store::set_item(tx, &key, saga.row.cursor, &row, epoch)? {
                return Err(NoItem::Gone);
            }
            match &order {
                Some(order) => order(tx, &cx, &given, &item).map_err(NoItem::Refused),
                None => {
                    let entry = saga.entry("workflow.call", |detail| {
                        detail
                            .with("step", cx.step)
                            .with("item", row.item)
                            .with("effect", cx.effect.to_string())
                    });
                    Ok(Told::new((), entry).boxed())
                }
            }
        });
        self.item_written(live, written.await)
    }

    async fn item_done(self: &Arc<Self>, live: &Live, row: &ItemRow, out: &Plain) -> ItemEnd {
        if self.is_halted() {
            return ItemEnd::LetGo;
        }
        #[cfg(any(test, feature = "double"))]
        if self.refused_writes.is_next() {
            return ItemEnd::NotNow;
        }
        let mut row = ItemRow { state: ItemState::Done, ..row.clone() };
        row.out_sealed = match live.seal(&item_place(live.row.cursor, row.item), out) {
            Ok(sealed) => Some(sealed),
            Err(why) => return ItemEnd::Fault(RemoteFault::unknown(why.to_string())),
        };
        let saga = live.clone();
        let why = "an item's outcome, told by its order before and by the step after";
        let written = self.parts.ledger.write_unaudited(why, move |tx| {
            match store::set_item(tx, saga.key(), saga.row.cursor, &row, saga.row.epoch)? {
                true => Ok(()),
                false => Err(NoItem::Gone),
            }
        });
        match self.item_written(live, written.await) {
            Ok(()) => ItemEnd::Done,
            Err(end) => end,
        }
    }

    fn item_written<T>(
        self: &Arc<Self>,
        live: &Live,
        written: Result<T, WriteRefused<NoItem>>,
    ) -> Result<T, ItemEnd> {
        match written {
            Ok(value) => {
                self.parts.observer.committed(live.key(), &live.row.workflow, std::time::Duration::ZERO);
                self.ring(live.key());
                Ok(value)
            }
            Err(WriteRefused::Rejected(NoItem::Gone)) => Err(ItemEnd::LetGo),
            Err(WriteRefused::Rejected(NoItem::Refused(refused))) => Err(ItemEnd::Fault(match refused {
                Refused::Business(reason) => RemoteFault::Business(reason),
                Refused::Later(later) => RemoteFault::Later(later),
                Refused::Sql(fault) => RemoteFault::Bug(fault.to_string()),
                Refused::Bug(why) => RemoteFault::Bug(why),
            })),
            Err(WriteRefused::Panicked) => {
                Err(ItemEnd::Fault(RemoteFault::Bug("an item's order panicked".to_owned())))
            }
            Err(WriteRefused::Lost | WriteRefused::Closed) => Err(ItemEnd::LetGo),
            Err(_) => Err(ItemEnd::NotNow),
        }
    }

    async fn gather(self: &Arc<Self>, live: &Live) -> Result<Moved, Stop> {
        let place = live.row.cursor;
        let rows = self.item_rows(live).await?;
        let open = |row: &ItemRow| match &row.out_sealed {
            Some(sealed) => live.open(&item_place(place, row.item), sealed).map_err(|why| why.to_string()),
            None => Err(format!("item {} has no outcome", row.item)),
        };
        match rows.iter().map(open).collect::<Result<Vec<Plain>, String>>() {
            Ok(outs) => match self.go_on(live, Outcome::Gathered(outs)).await {
                Err(stop @ (Stop::LetGo | Stop::NotNow | Stop::Stale)) => Err(stop),
                Err(stop) => self.not_taken(live, stop).await,
                moved => moved,
            },
            Err(why) => self.stuck(live, "bug", why).await,
        }
    }

    async fn item_rows(self: &Arc<Self>, live: &Live) -> Result<Vec<ItemRow>, Stop> {
        let (key, place) = (live.key().clone(), live.row.cursor);
        let rows = self.parts.ledger.read(move |view| store::items(view, &key, place)).await;
        rows.map_err(|refused| match refused {
            audit::ReadRefused::Closed => Stop::LetGo,
            audit::ReadRefused::Overloaded => Stop::NotNow,
            refused => Stop::Bug(refused.to_string()),
        })
    }

    /// The items that are done stay done; the step as a whole waits, turns round, or asks for a person.
    async fn item_fault(self: &Arc<Self>, live: &Live, fault: RemoteFault) -> Result<Moved, Stop> {
        match fault {
            RemoteFault::Later(Later { why, not_before_us }) => {
                self.try_later(live, why, not_before_us, Counted::InOrder).await
            }
            RemoteFault::Unknown(why) => self.doubtful(live, why, None).await,
            RemoteFault::Business(reason) => {
                self.not_taken(live, Stop::Refused(live.row.cursor, Refused::Business(reason))).await
            }
            RemoteFault::Bug(why) => self.stuck(live, "bug", why).await,
        }
    }
}

/// Of two words the one that says more decides.
fn worse(one: ItemEnd, other: ItemEnd) -> ItemEnd {
    let weight = |end: &ItemEnd| match end {
        ItemEnd::Done => 0,
        ItemEnd::NotNow => 1,
        ItemEnd::Fault(RemoteFault::Later(_)) => 2,
        ItemEnd::Fault(RemoteFault::Unknown(_)) => 3,
        ItemEnd::Fault(RemoteFault::Business(_)) => 4,
        ItemEnd::Fault(RemoteFault::Bug(_)) => 5,
        ItemEnd::LetGo => 6,
    };
    if weight(&one) >= weight(&other) { one } else { other }
}

fn item_place(step: usize, item: usize) -> String {
    format!("item/{step}/{item}")
}
