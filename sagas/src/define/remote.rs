//! A step outside: an order that is recorded, a call that may be lost, a probe that finds out.
//! Who enters: authors of definitions, answering in this order: how long, what order, which call, which probe.
//! What leaves: a step whose every call carries evidence that its order is durable.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use audit::{Entry, Recorded, Told, Tx};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::step::{ActRun, Given, Held, OrderRun, RemoteCalls, read, reads_as, written};
use crate::context::StepContext;
use crate::refusal::{
    Finding, Never, PivotFault, PivotProbe, Probe, Reason, Refused, RemoteFault, Untouched,
};

/// A call whose outcome can be taken back, or that is made after the pivot.
#[derive(Debug)]
pub enum Ordinary {}

/// The call that cannot be taken back: it says "nothing happened" only with an [`Untouched`].
#[derive(Debug)]
pub enum PivotCall {}

type Types<I, B, R, K> = PhantomData<fn(I, B, R, K)>;
type OrderedTypes<I, B, R, O, K> = PhantomData<fn(I, B, R, O, K)>;

/// The beginning of a remote step: how long may one call take?
pub struct Remote<I, B, R, K = Ordinary>(Types<I, B, R, K>);

/// Then: is there an order to record, or is the engine's own entry enough?
pub struct Ordering<I, B, R, K = Ordinary> {
    within: Duration,
    types: Types<I, B, R, K>,
}

/// Then: what is the call?
pub struct Acting<I, B, R, O, K = Ordinary> {
    within: Duration,
    order: Option<Arc<OrderRun>>,
    types: OrderedTypes<I, B, R, O, K>,
}

/// Then: how does one find out whether the call happened?
pub struct Probing<I, B, A, K = Ordinary> {
    within: Duration,
    order: Option<Arc<OrderRun>>,
    act: Arc<ActRun>,
    types: Types<I, B, A, K>,
}

/// A finished remote step.
pub struct RemoteStep<I, B, A> {
    pub(crate) calls: RemoteCalls,
    types: PhantomData<fn(I, B, A)>,
}

impl<I, B, R, K> Remote<I, B, R, K> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }

    /// One call, and one probe, takes at most this long; then its outcome counts as unknown.
    pub fn within(self, within: Duration) -> Ordering<I, B, R, K> {
        Ordering { within, types: PhantomData }
    }
}

impl<I, B, R, K> Ordering<I, B, R, K>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
    R: Into<Reason> + Send + 'static,
{
    /// Rows and entries of the order, in the commit that the call needs as evidence. It runs for each attempt, and the
    /// step's undo takes its rows back; a pivot has none, so what its order leaves is an earlier step's to undo.
    pub fn order<O, F>(self, order: F) -> Acting<I, B, R, O, K>
    where
        O: Send + 'static,
        F: Fn(&mut Tx<'_>, &StepContext, &I, &B) -> Result<Told<O>, Refused<R>> + Send + Sync + 'static,
    {
        let run = move |tx: &mut Tx<'_>, cx: &StepContext, given: &Given| {
            let (input, before) = given.read::<I, B>().map_err(Refused::Bug)?;
            Ok(order(tx, cx, &input, &before).map_err(Refused::widen)?.boxed())
        };
        Acting { within: self.within, order: Some(Arc::new(run)), types: PhantomData }
    }

    fn unordered(self) -> Acting<I, B, R, (), K> {
        Acting { within: self.within, order: None, types: PhantomData }
    }
}

impl<I, B, R> Ordering<I, B, R>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
    R: Into<Reason> + Send + 'static,
{
    /// The call, when the engine's own entry says enough.
    pub fn act<A, F, Fut>(self, act: F) -> Probing<I, B, A>
    where
        A: Serialize + Send + 'static,
        F: Fn(StepContext, I, B, Recorded<()>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<A, RemoteFault<R>>> + Send + 'static,
    {
        self.unordered().act(act)
    }
}

impl<I, B, R> Ordering<I, B, R, PivotCall>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
    R: Into<Reason> + Send + 'static,
{
    /// The call, when the engine's own entry says enough.
    pub fn act<A, F, Fut>(self, act: F) -> Probing<I, B, A, PivotCall>
    where
        A: Serialize + Send + 'static,
        F: Fn(StepContext, I, B, Recorded<()>, Untouched) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<A, PivotFault<R>>> + Send + 'static,
    {
        self.unordered().act(act)
    }
}

impl<I, B, R, O> Acting<I, B, R, O>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
    R: Into<Reason> + Send + 'static,
    O: Send + 'static,
{
    /// The call. It names its effect by [`StepContext::effect`], so that a repetition can be told.
    pub fn act<A, F, Fut>(self, act: F) -> Probing<I, B, A>
    where
        A: Serialize + Send + 'static,
        F: Fn(StepContext, I, B, Recorded<O>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<A, RemoteFault<R>>> + Send + 'static,
    {
        self.calling(act)
    }
}

impl<I, B, R, O> Acting<I, B, R, O, PivotCall>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
    R: Into<Reason> + Send + 'static,
    O: Send + 'static,
{
    /// The call. Until its first effect it holds the right to say that nothing happened.
    pub fn act<A, F, Fut>(self, act: F) -> Probing<I, B, A, PivotCall>
    where
        A: Serialize + Send + 'static,
        F: Fn(StepContext, I, B, Recorded<O>, Untouched) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<A, PivotFault<R>>> + Send + 'static,
    {
        self.calling(move |cx, input, before, order| {
            let called = act(cx, input, before, order, Untouched::new());
            async move { called.await.map_err(PivotFault::into_fault) }
        })
    }
}

impl<I, B, R, O, K> Acting<I, B, R, O, K>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
    R: Into<Reason> + Send + 'static,
    O: Send + 'static,
{
    fn calling<A, F, Fut>(self, act: F) -> Probing<I, B, A, K>
    where
        A: Serialize + Send + 'static,
        F: Fn(StepContext, I, B, Recorded<O>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<A, RemoteFault<R>>> + Send + 'static,
    {
        let act = Arc::new(act);
        let run = move |cx, given: Given, order: Recorded<super::step::Order>| -> Held<_> {
            let act = act.clone();
            Box::pin(async move {
                let (input, before) = given.read::<I, B>().map_err(RemoteFault::Bug)?;
                let order = order
                    .downcast::<O>()
                    .map_err(|_| RemoteFault::Bug("an order of another type was recorded".to_owned()))?;
                let after = act(cx, input, before, order).await.map_err(RemoteFault::widen)?;
                // The effect happened; only its result cannot be kept. A probe would find the same.
                written(&after).map_err(RemoteFault::Bug)
            })
        };
        Probing { within: self.within, order: self.order, act: Arc::new(run), types: PhantomData }
    }
}

impl<I, B, A> Probing<I, B, A>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
    A: Serialize + DeserializeOwned + Send + 'static,
{
    /// Finds out whether the effect happened, and what came of it. `NotApplied` is a promise.
    pub fn probe<F, Fut>(self, probe: F) -> RemoteStep<I, B, A>
    where
        F: Fn(StepContext, I, B) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Probe<A>> + Send + 'static,
    {
        self.looking(move |cx, input, before| {
            let probed = probe(cx, input, before);
            async move { Finding::from(probed.await) }
        })
    }
}

impl<I, B, A> Probing<I, B, A, PivotCall>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
    A: Serialize + DeserializeOwned + Send + 'static,
{
    /// Finds out how far the pivot has come, part by part.
    pub fn probe<F, Fut>(self, probe: F) -> RemoteStep<I, B, A>
    where
        F: Fn(StepContext, I, B) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = PivotProbe<A>> + Send + 'static,
    {
        self.looking(move |cx, input, before| {
            let probed = probe(cx, input, before);
            async move { probed.await.into_finding() }
        })
    }
}

impl<I, B, A, K> Probing<I, B, A, K>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
    A: Serialize + DeserializeOwned + Send + 'static,
{
    fn looking<F, Fut>(self, probe: F) -> RemoteStep<I, B, A>
    where
        F: Fn(StepContext, I, B) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Finding<A>> + Send + 'static,
    {
        let probe = Arc::new(probe);
        let run = move |cx, given: Given| -> Held<_> {
            let probe = probe.clone();
            Box::pin(async move {
                match given.read::<I, B>() {
                    Ok((input, before)) => probe(cx, input, before).await.try_map(|after| written(&after)),
                    Err(why) => Finding::Unknown(why),
                }
            })
        };
        let calls = RemoteCalls {
            within: self.within,
            order: self.order,
            act: self.act,
            probe: Arc::new(run),
            settle: None,
            check: reads_as::<A>,
        };
        RemoteStep { calls, types: PhantomData }
    }
}

impl<I, B, A> RemoteStep<I, B, A>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
    A: DeserializeOwned + Send + 'static,
{
    /// Rows and entries of the outcome, in the commit that records it. The effect has happened, so no rule can say no.
    pub fn settle<F>(mut self, settle: F) -> Self
    where
        F: Fn(&mut Tx<'_>, &StepContext, &I, &B, &A) -> Result<Vec<Entry>, Refused<Never>>
            + Send
            + Sync
            + 'static,
    {
        self.calls.settle = Some(Arc::new(move |tx, cx, given, after| {
            let (input, before) = given.read::<I, B>().map_err(Refused::Bug)?;
            let after = read::<A>(after, "outcome").map_err(Refused::Bug)?;
            settle(tx, cx, &input, &before, &after).map_err(Refused::widen)
        }));
        self
    }
}
