//! A step of many equal parts: each item is ordered, called, probed and resumed on its own.
//! Who enters: authors of definitions: which items, what order for each, which call, which probe, what it all adds up to.
//! What leaves: a step that is done when all its items are, and after a crash goes on with those that are not.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use audit::{Entry, Recorded, Told, Tx};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::step::{
    FanCalls, Given, Held, ItemAct, ItemOrder, ItemProbe, ItemsOf, Order, read, reads_as, written,
};
use crate::context::StepContext;
use crate::refusal::{Finding, Never, Probe, Reason, Refused, RemoteFault};
use crate::seal::Plain;

/// The beginning of a fan-out: how long may one call take, and which items are there?
pub struct FanOut<I, B, R>(PhantomData<fn(I, B, R)>);

type Types<I, B, R, X, O> = PhantomData<fn(I, B, R, X, O)>;

/// Then: the order for one item, or none, and the call.
pub struct FanActing<I, B, R, X, O> {
    within: Duration,
    items: Arc<ItemsOf>,
    order: Option<Arc<ItemOrder>>,
    types: Types<I, B, R, X, O>,
}

/// Then: how does one find out whether an item's call happened?
pub struct FanProbing<I, B, X, Y> {
    within: Duration,
    items: Arc<ItemsOf>,
    order: Option<Arc<ItemOrder>>,
    act: Arc<ItemAct>,
    types: PhantomData<fn(I, B, X, Y)>,
}

/// Then: what does it all add up to?
pub struct FanGathering<I, B, X, Y> {
    probing: FanProbing<I, B, X, Y>,
    probe: Arc<ItemProbe>,
}

/// A finished fan-out.
pub struct FanStep<I, B, A> {
    pub(crate) calls: FanCalls,
    types: PhantomData<fn(I, B, A)>,
}

impl<I, B, R> FanOut<I, B, R>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
    R: Into<Reason> + Send + 'static,
{
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }

    /// One call takes at most `within`. The items follow from input and state alone, the same at every attempt.
    pub fn items<X, F>(self, within: Duration, items: F) -> FanActing<I, B, R, X, ()>
    where
        X: Serialize + DeserializeOwned + Send + 'static,
        F: Fn(&I, &B) -> Vec<X> + Send + Sync + 'static,
    {
        let items = move |given: &Given| {
            let (input, before) = given.read::<I, B>()?;
            items(&input, &before).iter().map(written).collect::<Result<Vec<Plain>, _>>()
        };
        FanActing { within, items: Arc::new(items), order: None, types: PhantomData }
    }
}

impl<I, B, R, X> FanActing<I, B, R, X, ()>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
    R: Into<Reason> + Send + 'static,
    X: DeserializeOwned + Send + 'static,
{
    /// Rows and entries of one item's order, in the commit that its call needs as evidence.
    pub fn order<O, F>(self, order: F) -> FanActing<I, B, R, X, O>
    where
        O: Send + 'static,
        F: Fn(&mut Tx<'_>, &StepContext, &I, &B, &X) -> Result<Told<O>, Refused<R>> + Send + Sync + 'static,
    {
        let run = move |tx: &mut Tx<'_>, cx: &StepContext, given: &Given, item: &[u8]| {
            let (input, before) = given.read::<I, B>().map_err(Refused::Bug)?;
            let item = read::<X>(item, "item").map_err(Refused::Bug)?;
            Ok(order(tx, cx, &input, &before, &item).map_err(Refused::widen)?.boxed())
        };
        FanActing { within: self.within, items: self.items, order: Some(Arc::new(run)), types: PhantomData }
    }
}

impl<I, B, R, X, O> FanActing<I, B, R, X, O>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
    R: Into<Reason> + Send + 'static,
    X: DeserializeOwned + Send + 'static,
    O: Send + 'static,
{
    /// The call for one item.
    pub fn act<Y, F, Fut>(self, act: F) -> FanProbing<I, B, X, Y>
    where
        Y: Serialize + Send + 'static,
        F: Fn(StepContext, I, B, X, Recorded<O>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Y, RemoteFault<R>>> + Send + 'static,
    {
        let act = Arc::new(act);
        let run = move |cx, given: Given, item: Arc<Plain>, order: Recorded<Order>| -> Held<_> {
            let act = act.clone();
            Box::pin(async move {
                let (input, before) = given.read::<I, B>().map_err(RemoteFault::Bug)?;
                let item = read::<X>(&item, "item").map_err(RemoteFault::Bug)?;
                let order = order
                    .downcast::<O>()
                    .map_err(|_| RemoteFault::Bug("an order of another type was recorded".to_owned()))?;
                let out = act(cx, input, before, item, order).await.map_err(RemoteFault::widen)?;
                written(&out).map_err(RemoteFault::Bug)
            })
        };
        FanProbing {
            within: self.within,
            items: self.items,
            order: self.order,
            act: Arc::new(run),
            types: PhantomData,
        }
    }
}

impl<I, B, X, Y> FanProbing<I, B, X, Y>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
    X: DeserializeOwned + Send + 'static,
    Y: Serialize + Send + 'static,
{
    /// Finds out whether one item's effect happened. `NotApplied` is a promise.
    pub fn probe<F, Fut>(self, probe: F) -> FanGathering<I, B, X, Y>
    where
        F: Fn(StepContext, I, B, X) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Probe<Y>> + Send + 'static,
    {
        let probe = Arc::new(probe);
        let run = move |cx, given: Given, item: Arc<Plain>| -> Held<_> {
            let probe = probe.clone();
            Box::pin(async move {
                let read = given.read::<I, B>().and_then(|both| Ok((both, read::<X>(&item, "item")?)));
                match read {
                    Ok(((input, before), item)) => {
                        Finding::from(probe(cx, input, before, item).await).try_map(|out| written(&out))
                    }
                    Err(why) => Finding::Unknown(why),
                }
            })
        };
        FanGathering { probing: self, probe: Arc::new(run) }
    }
}

impl<I, B, X, Y> FanGathering<I, B, X, Y>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
    Y: DeserializeOwned + Send + 'static,
{
    /// What all items together leave behind, with the rows and entries of it.
    pub fn gather<A, F>(self, gather: F) -> FanStep<I, B, A>
    where
        A: Serialize + DeserializeOwned + Send + 'static,
        F: Fn(&mut Tx<'_>, &StepContext, &I, &B, Vec<Y>) -> Result<(A, Vec<Entry>), Refused<Never>>
            + Send
            + Sync
            + 'static,
    {
        let run = move |tx: &mut Tx<'_>, cx: &StepContext, given: &Given, outs: &[Plain]| {
            let (input, before) = given.read::<I, B>().map_err(Refused::Bug)?;
            let outs: Result<Vec<Y>, String> =
                outs.iter().map(|out| read(out, "outcome of an item")).collect();
            let (after, entries) =
                gather(tx, cx, &input, &before, outs.map_err(Refused::Bug)?).map_err(Refused::widen)?;
            Ok((written(&after).map_err(Refused::Bug)?, entries))
        };
        let calls = FanCalls {
            within: self.probing.within,
            items: self.probing.items,
            order: self.probing.order,
            act: self.probing.act,
            probe: self.probe,
            gather: Arc::new(run),
            check: reads_as::<A>,
        };
        FanStep { calls, types: PhantomData }
    }
}
