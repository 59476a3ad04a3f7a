//! Traces: how one request is followed through the house, and beyond it in both directions.
//! Who enters: the gate with a caller's trace context; every room that names its part of the work; the log's lines.
//! What leaves: contexts for answers and upstreams, journeys and lines for `chancery trace`, and spans for a collector.

pub mod context;
pub mod kept;
pub mod lines;
pub mod otlp;
pub mod trail;

pub use context::{TraceContext, TraceState};
pub use kept::Traces;
pub use lines::Lines;
pub use trail::{Beginning, Journey, Trail, here, spanned};

use tracing_subscriber::fmt::Layer;
use tracing_subscriber::fmt::format::{Format, Json, JsonFields};

/// How the log writes JSON, and how its lines are kept: one formatter for both, so that they cannot differ.
pub fn in_json<S>() -> Layer<S, JsonFields, Format<Json>> {
    tracing_subscriber::fmt::layer().json().flatten_event(true).with_span_list(false)
}
