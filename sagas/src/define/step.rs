//! A step as the engine carries it: what its author wrote, with the types folded into bytes.
//! Who enters: the typed rooms beside this one.
//! What leaves: closures over the sealed state's plain bytes, which the engine calls and never looks into.

use std::any::Any;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use audit::{Entry, Recorded, Told, Tx};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::context::StepContext;
use crate::refusal::{Finding, Reason, Refused, RemoteFault, Ruling};
use crate::seal::Plain;
use crate::signal::Signal;

/// A future the engine can hold.
pub(crate) type Held<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// An order that was recorded, its type folded away.
pub(crate) type Order = Box<dyn Any + Send>;

/// What a step works on: the saga's input, and the state before the step.
#[derive(Clone)]
pub(crate) struct Given {
    pub(crate) input: Arc<Plain>,
    pub(crate) before: Arc<Plain>,
}

impl Given {
    /// Both, as the types that the definition's author gave them.
    pub(crate) fn read<I: DeserializeOwned, B: DeserializeOwned>(&self) -> Result<(I, B), String> {
        Ok((read(&self.input, "input")?, read(&self.before, "state before the step")?))
    }
}

/// Reads a value that an earlier step, perhaps of an earlier process, wrote.
pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, String> {
    serde_json::from_slice(bytes).map_err(|why| format!("the {what} does not read back: {why}"))
}

/// Writes a value for a later step.
pub(crate) fn written<T: Serialize>(value: &T) -> Result<Plain, String> {
    serde_json::to_vec(value).map(Zeroizing::new).map_err(|why| format!("a state does not serialise: {why}"))
}

/// What a transaction's closure of a step answers.
pub(crate) type InTx<T> = Result<T, Refused<Reason>>;

pub(crate) type LocalRun = dyn Fn(&mut Tx<'_>, &StepContext, &Given) -> InTx<(Plain, Told<()>)> + Send + Sync;
pub(crate) type LocalUndo = dyn Fn(&mut Tx<'_>, &StepContext, &Given) -> InTx<Told<()>> + Send + Sync;
pub(crate) type OrderRun = dyn Fn(&mut Tx<'_>, &StepContext, &Given) -> InTx<Told<Order>> + Send + Sync;
pub(crate) type ActRun =
    dyn Fn(StepContext, Given, Recorded<Order>) -> Held<Result<Plain, RemoteFault>> + Send + Sync;
pub(crate) type ProbeRun = dyn Fn(StepContext, Given) -> Held<Finding<Plain>> + Send + Sync;
pub(crate) type SettleRun =
    dyn Fn(&mut Tx<'_>, &StepContext, &Given, &[u8]) -> InTx<Vec<Entry>> + Send + Sync;
pub(crate) type RemoteUndo = dyn Fn(StepContext, Given) -> Held<Result<(), RemoteFault>> + Send + Sync;
pub(crate) type OpenRun = dyn Fn(&mut Tx<'_>, &StepContext, &Given) -> InTx<Vec<Entry>> + Send + Sync;
pub(crate) type UntilRun = dyn Fn(&Given) -> Result<Duration, String> + Send + Sync;
pub(crate) type SignalRun =
    dyn Fn(&mut Tx<'_>, &StepContext, &Given, &Signal) -> InTx<Ruling<Plain>> + Send + Sync;
pub(crate) type DeadlineRun = dyn Fn(&mut Tx<'_>, &StepContext, &Given) -> InTx<Ruling<Plain>> + Send + Sync;
pub(crate) type ItemsOf = dyn Fn(&Given) -> Result<Vec<Plain>, String> + Send + Sync;
pub(crate) type ItemOrder =
    dyn Fn(&mut Tx<'_>, &StepContext, &Given, &[u8]) -> InTx<Told<Order>> + Send + Sync;
pub(crate) type ItemAct =
    dyn Fn(StepContext, Given, Arc<Plain>, Recorded<Order>) -> Held<Result<Plain, RemoteFault>> + Send + Sync;
pub(crate) type ItemProbe = dyn Fn(StepContext, Given, Arc<Plain>) -> Held<Finding<Plain>> + Send + Sync;
pub(crate) type Gather =
    dyn Fn(&mut Tx<'_>, &StepContext, &Given, &[Plain]) -> InTx<(Plain, Vec<Entry>)> + Send + Sync;
pub(crate) type ChildInput = dyn Fn(&Given) -> Result<Plain, String> + Send + Sync;
pub(crate) type ChildResult =
    dyn Fn(&mut Tx<'_>, &StepContext, &Given, &[u8]) -> InTx<(Plain, Vec<Entry>)> + Send + Sync;

/// One step of a definition.
#[derive(Clone)]
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) role: Role,
    pub(crate) act: Act,
    pub(crate) undo: StepUndo,
}

/// On which side of the point of no return a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Undoable,
    Pivot,
    Forward,
}

/// What taking a step means.
#[derive(Clone)]
pub(crate) enum Act {
    Local(Arc<LocalRun>),
    Remote(RemoteCalls),
    Wait(WaitCalls),
    FanOut(FanCalls),
    Child(ChildCalls),
}

/// What undoing a step means.
#[derive(Clone)]
pub(crate) enum StepUndo {
    /// The reason why there is nothing to undo.
    None(&'static str),
    Local(Arc<LocalUndo>),
    Remote {
        within: Duration,
        run: Arc<RemoteUndo>,
    },
    /// The pivot and what follows it.
    Never,
}

#[derive(Clone)]
pub(crate) struct RemoteCalls {
    pub(crate) within: Duration,
    pub(crate) order: Option<Arc<OrderRun>>,
    pub(crate) act: Arc<ActRun>,
    pub(crate) probe: Arc<ProbeRun>,
    pub(crate) settle: Option<Arc<SettleRun>>,
    pub(crate) check: fn(&[u8]) -> Result<(), String>,
}

#[derive(Clone)]
pub(crate) struct WaitCalls {
    pub(crate) until: Arc<UntilRun>,
    /// Its time protects somebody, so only time that has provably passed counts.
    pub(crate) protective: bool,
    pub(crate) signals: Vec<&'static str>,
    pub(crate) open: Option<Arc<OpenRun>>,
    pub(crate) on_signal: Option<Arc<SignalRun>>,
    pub(crate) at_deadline: Arc<DeadlineRun>,
    pub(crate) check: fn(&[u8]) -> Result<(), String>,
}

#[derive(Clone)]
pub(crate) struct FanCalls {
    pub(crate) within: Duration,
    pub(crate) items: Arc<ItemsOf>,
    pub(crate) order: Option<Arc<ItemOrder>>,
    pub(crate) act: Arc<ItemAct>,
    pub(crate) probe: Arc<ItemProbe>,
    pub(crate) gather: Arc<Gather>,
    pub(crate) check: fn(&[u8]) -> Result<(), String>,
}

#[derive(Clone)]
pub(crate) struct ChildCalls {
    pub(crate) workflow: &'static str,
    pub(crate) input: Arc<ChildInput>,
    pub(crate) finish: Arc<ChildResult>,
    pub(crate) check: fn(&[u8]) -> Result<(), String>,
}

impl Step {
    /// Whether it waits for somebody's protection.
    pub(crate) fn is_protective(&self) -> bool {
        matches!(&self.act, Act::Wait(calls) if calls.protective)
    }

    pub(crate) fn is_local(&self) -> bool {
        matches!(self.act, Act::Local(_))
    }
}

impl Act {
    /// The letter of the kind, as definitions are written down.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Local(_) => "local",
            Self::Remote(_) => "remote",
            Self::Wait(_) => "wait",
            Self::FanOut(_) => "fan_out",
            Self::Child(_) => "child",
        }
    }

    /// How long one call may take, where there is one.
    pub(crate) fn within(&self) -> Option<Duration> {
        match self {
            Self::Remote(calls) => Some(calls.within),
            Self::FanOut(calls) => Some(calls.within),
            Self::Local(_) | Self::Wait(_) | Self::Child(_) => None,
        }
    }

    /// Whether these bytes could be what the step leaves behind: asked of evidence that a person supplies.
    pub(crate) fn check(&self) -> fn(&[u8]) -> Result<(), String> {
        match self {
            Self::Local(_) => |_| Err("a local step has no result of its own; retry it".to_owned()),
            Self::Remote(calls) => calls.check,
            Self::Wait(calls) => calls.check,
            Self::FanOut(calls) => calls.check,
            Self::Child(calls) => calls.check,
        }
    }
}

/// Whether bytes read as a `T`.
pub(crate) fn reads_as<T: DeserializeOwned>(bytes: &[u8]) -> Result<(), String> {
    read::<T>(bytes, "supplied result").map(drop)
}
