//! Traces: how one request is followed through the house, and beyond it in both directions.
//! Who enters: the gate with a caller's trace context; every room that names its part of the work.
//! What leaves: contexts for answers and upstreams, journeys for `chancery trace`, and spans for a collector.

pub mod context;
pub mod kept;
pub mod otlp;
pub mod trail;

pub use context::{TraceContext, TraceState};
pub use kept::Traces;
pub use trail::{Beginning, Journey, Trail, here, spanned};
