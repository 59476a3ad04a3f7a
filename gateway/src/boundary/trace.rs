//! Following a request: its id, and the W3C trace context it came with.
//! Who enters: a request's headers.
//! What leaves: the ids that stand in the answer, the log and the ledger (W3C Trace Context level 1, section 3.2).

use std::fmt;

use http::HeaderMap;

use crate::dice::Dice;
use crate::ids::RequestId;
use crate::moment::Moment;

/// The position of this request in a trace that may have begun elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: [u8; 16],
    span: [u8; 8],
    sampled: bool,
}

/// The ids by which one request is followed.
#[derive(Clone, Debug)]
pub struct Followed {
    /// Our own id.
    pub request: RequestId,
    /// The trace it belongs to, with our span as the parent of what comes next.
    pub trace: TraceContext,
    /// The vendor's part of the trace context, passed on as it came.
    pub state: Option<String>,
}

const TRACE_STATE_BYTES_MAX: usize = 512;

impl TraceContext {
    /// Reads `traceparent`; anything that is not exactly right counts as absent.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let version_is_known = version == "00" && parts.next().is_none();
        let version_is_newer =
            version.len() == 2 && version > "00" && version < "ff" && is_lower_hex(version);
        if !(version_is_known || version_is_newer)
            || flags.len() != 2
            || ![trace, span, flags].iter().all(|t| is_lower_hex(t))
        {
            return None;
        }
        let trace: [u8; 16] = hex::decode(trace).ok()?.try_into().ok()?;
        let span: [u8; 8] = hex::decode(span).ok()?.try_into().ok()?;
        let flags = u8::from_str_radix(flags, 16).ok()?;
        (trace != [0; 16] && span != [0; 8]).then_some(Self { trace, span, sampled: flags & 1 == 1 })
    }

    fn new(dice: &Dice) -> Self {
        let mut trace: [u8; 16] = dice.throw();
        trace[0] |= 1; // never all zero, which means "no trace"
        Self { trace, span: [0; 8], sampled: false }
    }

    fn next_span(mut self, dice: &Dice) -> Self {
        self.span = dice.throw();
        self.span[0] |= 1;
        self
    }

    /// The trace's id, as logs name it.
    pub fn trace_id(&self) -> String {
        hex::encode(self.trace)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = if self.sampled { "01" } else { "00" };
        write!(f, "00-{}-{}-{flags}", hex::encode(self.trace), hex::encode(self.span))
    }
}

fn is_lower_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Takes up the caller's trace, or begins one, and names the request.
pub fn follow(headers: &HeaderMap, now: Moment, dice: &Dice) -> Followed {
    let mut parents = headers.get_all("traceparent").iter();
    let came = match (parents.next(), parents.next()) {
        (Some(only), None) => only.to_str().ok().and_then(TraceContext::parse),
        _ => None,
    };
    let state = came.as_ref().and_then(|_| headers.get("tracestate")?.to_str().ok());
    let state = state.filter(|text| text.len() <= TRACE_STATE_BYTES_MAX).map(str::to_owned);
    let trace = came.unwrap_or_else(|| TraceContext::new(dice)).next_span(dice);
    Followed { request: RequestId::at(now, dice), trace, state }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_good_parent_reads_back_as_itself() {
        assert_eq!(TraceContext::parse(GOOD).map(|context| context.to_string()).as_deref(), Some(GOOD));
    }

    #[test]
    fn a_newer_version_with_more_fields_is_understood_as_ours() {
        let newer = "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
        assert!(TraceContext::parse(newer).is_some());
    }

    #[test]
    fn anything_not_exactly_right_counts_as_absent() {
        for text in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
    }
}
