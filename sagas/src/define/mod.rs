//! The room of definitions: what a workflow is, written down once, step after step, with types that hold.
//! Who enters: authors of workflows.
//! What leaves: a `Definition` whose every step knows the state its predecessor leaves behind, and nothing later.

mod child;
mod definition;
mod fan;
mod hash;
pub mod pinned;
mod remote;
pub(crate) mod step;
mod undo;
mod wait;

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use audit::{Told, Tx};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use child::{Child, ChildFinishing, ChildStep};
pub use definition::{Definition, DefinitionRefused};
pub use fan::{FanActing, FanGathering, FanOut, FanProbing, FanStep};
pub use remote::{Acting, Ordering, Ordinary, PivotCall, Probing, Remote, RemoteStep};
pub use undo::Undo;
pub use wait::{Wait, WaitStep};

use crate::context::StepContext;
use crate::lock::Lock;
use crate::refusal::{Never, Reason, Refused};
use step::{Act, Given, Role, Step, StepUndo, read, reads_as, written};

/// Where definitions begin.
///
/// ```
/// # use audit::Told;
/// # use sagas::{Never, Refused, Undo, Workflow};
/// let definition = Workflow::define("door.paint")
///     .version(1)
///     .input::<String>()
///     .local("reserve", |_, cx, door, ()| Ok(Told::new(7_u64, cx.entry("door.reserve", door.as_str()))),
///         Undo::local(|_, cx, door: &String, (): &()| Ok(Told::new((), cx.entry("door.release", door.as_str())))))
///     .local("mix", |_, cx, _, pots: &u64| Ok(Told::new(pots + 1, cx.entry("paint.mix", "blue"))),
///         Undo::none("mixed paint keeps"))
///     .pivot_local("paint", |_, cx, door, pots| match *pots {
///         8 => Ok(Told::new(*pots, cx.entry("door.paint", door.as_str()))),
///         _ => Err(Refused::business("no_paint", "there is not enough paint")),
///     })
///     .build();
/// assert!(definition.is_ok());
/// ```
///
/// A step sees what the step before it left behind, and nothing that a step after it will. This does not compile,
/// since `reserve` leaves a number and not a text:
///
/// ```compile_fail
/// # use audit::Told;
/// # use sagas::{Never, Refused, Undo, Workflow};
/// let definition = Workflow::define("door.paint")
///     .version(1)
///     .input::<String>()
///     .local("reserve", |_, cx, door, ()| Ok(Told::new(7_u64, cx.entry("door.reserve", door.as_str()))),
///         Undo::none("nothing"))
///     .local("mix", |_, cx, _, pots| Ok(Told::new(0_u64, cx.entry("paint.mix", pots.as_str()))),
///         Undo::none("nothing"))
///     .pivot_local("paint", |_, cx, door, _| Ok(Told::new((), cx.entry("door.paint", door.as_str()))))
///     .build();
/// ```
///
/// After the pivot no rule can say no. This does not compile either:
///
/// ```compile_fail
/// # use audit::Told;
/// # use sagas::{Never, Refused, Undo, Workflow};
/// let definition = Workflow::define("door.paint")
///     .version(1)
///     .input::<String>()
///     .local("reserve", |_, cx, door, ()| Ok(Told::new(7_u64, cx.entry("door.reserve", door.as_str()))),
///         Undo::none("nothing"))
///     .pivot_local("paint", |_, cx, door, _| Ok(Told::new((), cx.entry("door.paint", door.as_str()))))
///     .local("dry", |_, cx, door, ()| match door.as_str() {
///         "wet" => Err(Refused::business("wet", "it is still wet")),
///         _ => Ok(Told::new((), cx.entry("door.dry", door.as_str()))),
///     })
///     .build();
/// ```
///
/// Nor does a definition without a pivot, which has no `build`:
///
/// ```compile_fail
/// # use audit::Told;
/// # use sagas::{Never, Refused, Undo, Workflow};
/// let definition = Workflow::define("door.paint")
///     .version(1)
///     .input::<String>()
///     .local("reserve", |_, cx, door, ()| Ok(Told::new(7_u64, cx.entry("door.reserve", door.as_str()))),
///         Undo::none("nothing"))
///     .build();
/// ```
#[derive(Debug)]
pub struct Workflow;

/// A definition with a name and no input yet.
#[derive(Debug)]
pub struct Named {
    name: &'static str,
    version: u32,
}

/// Steps here can be undone.
#[derive(Debug)]
pub enum BeforePivot {}

/// Steps here are taken until they are done.
#[derive(Debug)]
pub enum AfterPivot {}

/// A definition in the making: its input is `I`, and the last step so far leaves `B` behind.
pub struct Builder<I, B, Stage> {
    made: Definition,
    types: PhantomData<fn(I, B, Stage)>,
}

impl Workflow {
    /// A workflow with this name, such as `key.rotate`.
    pub fn define(name: &'static str) -> Named {
        Named { name, version: 0 }
    }
}

impl Named {
    /// Its version, from 1. A definition that was ever used is not edited: it gets a new version beside it.
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// What it is started with.
    pub fn input<I: Serialize + DeserializeOwned + Send + 'static>(self) -> Builder<I, (), BeforePivot> {
        Builder::of(Definition {
            name: self.name,
            version: self.version,
            deadline: None,
            appliance_seal: false,
            steps: Vec::new(),
            locks: None,
            check_input: reads_as::<I>,
        })
    }
}

impl<I, B, Stage> Builder<I, B, Stage> {
    fn of(made: Definition) -> Self {
        Self { made, types: PhantomData }
    }

    fn then<A, Next>(
        mut self,
        name: &'static str,
        role: Role,
        act: Act,
        undo: StepUndo,
    ) -> Builder<I, A, Next> {
        self.made.steps.push(Step { name, role, act, undo });
        Builder::of(self.made)
    }
}

impl<I: DeserializeOwned + 'static, B, Stage> Builder<I, B, Stage> {
    /// What no two of them may work on at once. All are taken with the start, and given back with the end.
    pub fn locks(mut self, locks: impl Fn(&I) -> Vec<Lock> + Send + Sync + 'static) -> Self {
        self.made.locks = Some(Arc::new(move |input| Ok(locks(&read::<I>(input, "input")?))));
        self
    }

    /// How long it may take until its pivot; then it unwinds.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.made.deadline = Some(deadline);
        self
    }

    /// Its states are sealed under the appliance's key: for one that destroys its workspace's own.
    pub fn sealed_by_appliance(mut self) -> Self {
        self.made.appliance_seal = true;
        self
    }
}

impl<I, B> Builder<I, B, BeforePivot>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
{
    /// A step in one transaction.
    pub fn local<A, F>(self, name: &'static str, run: F, undo: Undo<I, B>) -> Builder<I, A, BeforePivot>
    where
        A: Serialize,
        F: Fn(&mut Tx<'_>, &StepContext, &I, &B) -> Result<Told<A>, Refused<Reason>> + Send + Sync + 'static,
    {
        self.then(name, Role::Undoable, local(run), undo.erased)
    }

    /// A step outside.
    pub fn remote<A>(
        self,
        name: &'static str,
        step: impl FnOnce(Remote<I, B, Reason>) -> RemoteStep<I, B, A>,
        undo: Undo<I, B>,
    ) -> Builder<I, A, BeforePivot> {
        let act = Act::Remote(step(Remote::new()).calls);
        self.then(name, Role::Undoable, act, undo.erased)
    }

    /// A step that waits.
    pub fn wait<A>(
        self,
        name: &'static str,
        step: impl FnOnce(Wait<I, B, Reason>) -> WaitStep<I, B, Reason, A>,
        undo: Undo<I, B>,
    ) -> Builder<I, A, BeforePivot> {
        let act = Act::Wait(step(Wait::new()).calls);
        self.then(name, Role::Undoable, act, undo.erased)
    }

    /// A step outside, of many equal parts.
    pub fn fan_out<A>(
        self,
        name: &'static str,
        step: impl FnOnce(FanOut<I, B, Reason>) -> FanStep<I, B, A>,
        undo: Undo<I, B>,
    ) -> Builder<I, A, BeforePivot> {
        let act = Act::FanOut(step(FanOut::new()).calls);
        self.then(name, Role::Undoable, act, undo.erased)
    }

    /// A step that is a workflow of its own.
    pub fn child<A>(
        self,
        name: &'static str,
        step: impl FnOnce(Child<I, B>) -> ChildStep<I, B, A>,
        undo: Undo<I, B>,
    ) -> Builder<I, A, BeforePivot> {
        let act = Act::Child(step(Child::new()).calls);
        self.then(name, Role::Undoable, act, undo.erased)
    }

    /// The point of no return, in one transaction.
    pub fn pivot_local<A, F>(self, name: &'static str, run: F) -> Builder<I, A, AfterPivot>
    where
        A: Serialize,
        F: Fn(&mut Tx<'_>, &StepContext, &I, &B) -> Result<Told<A>, Refused<Reason>> + Send + Sync + 'static,
    {
        self.then(name, Role::Pivot, local(run), StepUndo::Never)
    }

    /// The point of no return, outside. It may refuse, as long as it certainly did not happen: from its order on it is
    /// passed, until the call or a probe says of the whole that nothing did.
    pub fn pivot_remote<A>(
        self,
        name: &'static str,
        step: impl FnOnce(Remote<I, B, Reason, PivotCall>) -> RemoteStep<I, B, A>,
    ) -> Builder<I, A, AfterPivot> {
        let act = Act::Remote(step(Remote::new()).calls);
        self.then(name, Role::Pivot, act, StepUndo::Never)
    }

    /// The point of no return, outside, of many equal parts: with the first of them it is passed.
    pub fn pivot_fan_out<A>(
        self,
        name: &'static str,
        step: impl FnOnce(FanOut<I, B, Never>) -> FanStep<I, B, A>,
    ) -> Builder<I, A, AfterPivot> {
        let act = Act::FanOut(step(FanOut::new()).calls);
        self.then(name, Role::Pivot, act, StepUndo::Never)
    }
}

impl<I, B> Builder<I, B, AfterPivot>
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
{
    /// A step in one transaction, taken until it is done: no rule can say no.
    pub fn local<A, F>(self, name: &'static str, run: F) -> Builder<I, A, AfterPivot>
    where
        A: Serialize,
        F: Fn(&mut Tx<'_>, &StepContext, &I, &B) -> Result<Told<A>, Refused<Never>> + Send + Sync + 'static,
    {
        self.then(name, Role::Forward, local(run), StepUndo::Never)
    }

    /// A step outside, taken until it is done.
    pub fn remote<A>(
        self,
        name: &'static str,
        step: impl FnOnce(Remote<I, B, Never>) -> RemoteStep<I, B, A>,
    ) -> Builder<I, A, AfterPivot> {
        let act = Act::Remote(step(Remote::new()).calls);
        self.then(name, Role::Forward, act, StepUndo::Never)
    }

    /// A step that waits; its deadline lets the saga go on.
    pub fn wait<A>(
        self,
        name: &'static str,
        step: impl FnOnce(Wait<I, B, Never>) -> WaitStep<I, B, Never, A>,
    ) -> Builder<I, A, AfterPivot> {
        let act = Act::Wait(step(Wait::new()).calls);
        self.then(name, Role::Forward, act, StepUndo::Never)
    }

    /// A step outside, of many equal parts, taken until all are done.
    pub fn fan_out<A>(
        self,
        name: &'static str,
        step: impl FnOnce(FanOut<I, B, Never>) -> FanStep<I, B, A>,
    ) -> Builder<I, A, AfterPivot> {
        let act = Act::FanOut(step(FanOut::new()).calls);
        self.then(name, Role::Forward, act, StepUndo::Never)
    }

    /// The definition, if it is one.
    ///
    /// # Errors
    /// What is missing or too much, by name.
    pub fn build(self) -> Result<Definition, DefinitionRefused> {
        self.made.checked()
    }
}

fn local<I, B, A, R, F>(run: F) -> Act
where
    I: DeserializeOwned + Send + 'static,
    B: DeserializeOwned + Send + 'static,
    A: Serialize,
    R: Into<Reason>,
    F: Fn(&mut Tx<'_>, &StepContext, &I, &B) -> Result<Told<A>, Refused<R>> + Send + Sync + 'static,
{
    Act::Local(Arc::new(move |tx: &mut Tx<'_>, cx: &StepContext, given: &Given| {
        let (input, before) = given.read::<I, B>().map_err(Refused::Bug)?;
        let told = run(tx, cx, &input, &before).map_err(Refused::widen)?;
        Ok((written(told.value()).map_err(Refused::Bug)?, told.discard()))
    }))
}
