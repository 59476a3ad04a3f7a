//! Following a request: its id, its place in a trace, and the trail of what the house does for it.
//! Who enters: a request's headers, and whether its peer's word on traces is taken.
//! What leaves: the ids that stand in the answer, the log and the ledger; a trail that the gate closes.

use std::sync::Arc;

use http::HeaderMap;

use crate::dice::Dice;
use crate::ids::RequestId;
use crate::moment::Moment;
use crate::traces::{Beginning, TraceContext, TraceState, Traces, Trail};

/// What one request is followed by.
pub struct Followed {
    /// Our own id.
    pub request: RequestId,
    /// The trace it belongs to, with our first span as the parent of what comes next.
    pub trace: TraceContext,
    /// The vendors' part of the trace context.
    pub state: TraceState,
    /// What is done for it.
    pub trail: Arc<Trail>,
}

/// Whether a peer's trace goes on here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It does: the peer is known to us.
    Continue,
    /// A new trace begins, with a link to theirs: whoever is not known must not choose our ids.
    Restart,
}

/// Takes up the caller's trace, or begins one, and names the request.
pub fn follow(headers: &HeaderMap, trust: Trust, now: Moment, dice: &Dice, traces: &Traces) -> Followed {
    let came = parent(headers);
    // Without a good parent the vendors' part means nothing (section 3.3.1).
    let state = match (&came, trust) {
        (Some(_), Trust::Continue) => {
            let lines = headers.get_all("tracestate").iter();
            lines.map(|value| value.to_str()).collect::<Result<Vec<_>, _>>().unwrap_or_default()
        }
        _ => Vec::new(),
    };
    let state = TraceState::parse(state.into_iter());
    let (trace, parent, link) = match (came, trust) {
        (Some(came), Trust::Continue) => (came.next(dice), Some(came), None),
        (came, _) => (TraceContext::begin(dice), None, came),
    };
    let trace = trace.sampled(traces.record(parent.map(|parent| parent.is_sampled()), now));
    let request = RequestId::at(now, dice);
    let beginning = Beginning {
        request: request.clone(),
        context: trace,
        parent: parent.map(|parent| parent.span()),
        link,
        at: now,
    };
    Followed { request, trace, state, trail: Trail::begin(traces, beginning) }
}

/// The one `traceparent`; two are as good as none.
fn parent(headers: &HeaderMap) -> Option<TraceContext> {
    let mut parents = headers.get_all("traceparent").iter();
    match (parents.next(), parents.next()) {
        (Some(only), None) => only.to_str().ok().and_then(TraceContext::parse),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn followed(lines: &[(&'static str, &str)], trust: Trust) -> Followed {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        follow(&headers, trust, Moment::from_micros(0), &Dice::system(), &Traces::default())
    }

    #[test]
    fn a_known_peers_trace_goes_on_with_a_span_of_our_own() {
        let ours = followed(&[("traceparent", PARENT), ("tracestate", "vendor=1")], Trust::Continue);
        assert_eq!(ours.trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(ours.trace.to_string() != PARENT && ours.trace.is_sampled());
        assert!(ours.state.with_own(ours.trace.span()).ends_with(",vendor=1"));
    }

    #[test]
    fn a_stranger_does_not_choose_our_ids() {
        let ours = followed(&[("traceparent", PARENT), ("tracestate", "vendor=1")], Trust::Restart);
        assert_ne!(ours.trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(ours.state, TraceState::default());
    }

    #[test]
    fn a_bad_or_doubled_parent_begins_a_new_trace_without_the_vendors_part() {
        for lines in [
            &[("traceparent", "00-0-0-00"), ("tracestate", "vendor=1")][..],
            &[("traceparent", PARENT), ("traceparent", PARENT), ("tracestate", "vendor=1")][..],
            &[("tracestate", "vendor=1")][..],
        ] {
            let ours = followed(lines, Trust::Continue);
            assert_ne!(ours.trace.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
            assert_eq!(ours.state, TraceState::default(), "{lines:?}");
        }
    }
}
