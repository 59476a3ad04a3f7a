//! How a step is undone, as its author says it.
//! Who enters: authors of definitions, with one of three answers.
//! What leaves: an undo that sees the state before its step and never the step's own output.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use audit::{Told, Tx};
use serde::de::DeserializeOwned;

use super::step::StepUndo;
use crate::context::StepContext;
use crate::refusal::{Never, Refused, RemoteFault};

/// The undo of a step that works on input `I` and state `B`.
///
/// It also runs when nobody knows whether the step happened, and it may run twice: so it finds the effect by
/// [`StepContext::effect`], and does nothing where there is none.
pub struct Undo<I, B> {
    pub(crate) erased: StepUndo,
    types: PhantomData<fn(I, B)>,
}

impl<I, B> Undo<I, B>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
{
    /// There is nothing to undo, for this reason.
    pub fn none(why: &'static str) -> Self {
        Self::of(StepUndo::None(why))
    }

    /// Undone in one transaction.
    pub fn local<F>(undo: F) -> Self
    where
        F: Fn(&mut Tx<'_>, &StepContext, &I, &B) -> Result<Told<()>, Refused<Never>> + Send + Sync + 'static,
    {
        Self::of(StepUndo::Local(Arc::new(move |tx, cx, given| {
            let (input, before) = given.read::<I, B>().map_err(Refused::Bug)?;
            undo(tx, cx, &input, &before).map_err(Refused::widen)
        })))
    }

    /// Undone outside; one call takes at most `within`.
    pub fn remote<F, Fut>(within: Duration, undo: F) -> Self
    where
        F: Fn(StepContext, I, B) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), RemoteFault<Never>>> + Send + 'static,
    {
        let undo = Arc::new(undo);
        let run = move |cx, given: super::step::Given| -> super::step::Held<_> {
            let undo = undo.clone();
            Box::pin(async move {
                let (input, before) = given.read::<I, B>().map_err(RemoteFault::Bug)?;
                undo(cx, input, before).await.map_err(RemoteFault::widen)
            })
        };
        Self::of(StepUndo::Remote { within, run: Arc::new(run) })
    }

    fn of(erased: StepUndo) -> Self {
        Self { erased, types: PhantomData }
    }
}
