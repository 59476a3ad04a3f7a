//! A step that is a workflow of its own: started in the parent's transaction, waited for, and heard of once.
//! Who enters: authors of definitions: which workflow, with what input, and what its result means.
//! What leaves: a step that is done when the child succeeded, and refuses when the child did not.

use std::marker::PhantomData;
use std::sync::Arc;

use audit::{Entry, Tx};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::step::{ChildCalls, Given, read, reads_as, written};
use crate::context::StepContext;
use crate::refusal::{Never, Refused};

/// The beginning of a child step: which workflow, with what input? It runs in the scope of its parent.
pub struct Child<I, B>(PhantomData<fn(I, B)>);

/// Then: what does its result leave behind?
pub struct ChildFinishing<I, B> {
    workflow: &'static str,
    input: Arc<super::step::ChildInput>,
    types: PhantomData<fn(I, B)>,
}

/// A finished child step.
pub struct ChildStep<I, B, A> {
    pub(crate) calls: ChildCalls,
    types: PhantomData<fn(I, B, A)>,
}

impl<I, B> Child<I, B>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
{
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }

    /// The newest version of this workflow, with this input.
    pub fn start<C, F>(self, workflow: &'static str, input: F) -> ChildFinishing<I, B>
    where
        C: Serialize,
        F: Fn(&I, &B) -> C + Send + Sync + 'static,
    {
        let run = move |given: &Given| {
            let (own, before) = given.read::<I, B>()?;
            written(&input(&own, &before))
        };
        ChildFinishing { workflow, input: Arc::new(run), types: PhantomData }
    }
}

impl<I, B> ChildFinishing<I, B>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
{
    /// What the child's last state means for the parent.
    pub fn finish<C, A, F>(self, finish: F) -> ChildStep<I, B, A>
    where
        C: DeserializeOwned,
        A: Serialize + DeserializeOwned + Send + 'static,
        F: Fn(&mut Tx<'_>, &StepContext, &I, &B, C) -> Result<(A, Vec<Entry>), Refused<Never>>
            + Send
            + Sync
            + 'static,
    {
        let run = move |tx: &mut Tx<'_>, cx: &StepContext, given: &Given, result: &[u8]| {
            let (input, before) = given.read::<I, B>().map_err(Refused::Bug)?;
            let result = read::<C>(result, "child's result").map_err(Refused::Bug)?;
            let (after, entries) = finish(tx, cx, &input, &before, result).map_err(Refused::widen)?;
            Ok((written(&after).map_err(Refused::Bug)?, entries))
        };
        let calls = ChildCalls {
            workflow: self.workflow,
            input: self.input,
            finish: Arc::new(run),
            check: reads_as::<A>,
        };
        ChildStep { calls, types: PhantomData }
    }
}
