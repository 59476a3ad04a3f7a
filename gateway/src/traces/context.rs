//! The W3C trace context: `traceparent` and `tracestate`, read strictly and written anew for each hop.
//! Who enters: header values of callers, randomness.
//! What leaves: our place in a trace (Trace Context level 1, sections 3.2 and 3.3; the random flag of level 2).

use std::fmt;

use crate::dice::Dice;

/// A place in a trace that may have begun elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace: [u8; 16],
    span: SpanId,
    flags: u8,
}

/// The name of one span within its trace.
pub type SpanId = [u8; 8];

/// The vendors' part of the context, in their order; ours is put first on the way out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceState {
    members: Vec<(String, String)>,
}

const SAMPLED: u8 = 0x01;
const RANDOM: u8 = 0x02;
const PARENT_CHARS: usize = 55;
const STATE_MEMBERS_MAX: usize = 32;
const STATE_CHARS_MAX: usize = 512;
/// Our key in `tracestate`.
const OWN_KEY: &str = "chancery";

impl TraceContext {
    /// Reads `traceparent`; anything that is not exactly right counts as absent.
    pub fn parse(text: &str) -> Option<Self> {
        let (version, rest) = text.split_once('-')?;
        let known = version == "00" && text.len() == PARENT_CHARS;
        // A newer version may say more, after another dash; what we know of it stands in the same place (section 3.2.4).
        let newer = is_lower_hex(version, 2)
            && version != "00"
            && version != "ff"
            && (text.len() == PARENT_CHARS || text.as_bytes().get(PARENT_CHARS) == Some(&b'-'));
        if !(known || newer) {
            return None;
        }
        let mut parts = rest.get(..PARENT_CHARS - 3)?.split('-');
        let (trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?);
        let well_formed = parts.next().is_none()
            && is_lower_hex(trace, 32)
            && is_lower_hex(span, 16)
            && is_lower_hex(flags, 2);
        if !well_formed {
            return None;
        }
        let trace: [u8; 16] = hex::decode(trace).ok()?.try_into().ok()?;
        let span: SpanId = hex::decode(span).ok()?.try_into().ok()?;
        let flags = u8::from_str_radix(flags, 16).ok()? & (SAMPLED | RANDOM);
        (trace != [0; 16] && span != [0; 8]).then_some(Self { trace, span, flags })
    }

    /// A trace that begins here. Its id is random in every bit, and says so.
    pub fn begin(dice: &Dice) -> Self {
        let mut trace: [u8; 16] = dice.throw();
        trace[0] |= 1; // never all zero, which means "no trace"
        Self { trace, span: span_id(dice), flags: RANDOM }
    }

    /// The same trace, one hop further.
    #[must_use]
    pub fn next(self, dice: &Dice) -> Self {
        Self { span: span_id(dice), ..self }
    }

    /// The same trace at another of our spans.
    #[must_use]
    pub fn at(self, span: SpanId) -> Self {
        Self { span, ..self }
    }

    /// The same with our own word on whether it is recorded.
    #[must_use]
    pub fn sampled(self, sampled: bool) -> Self {
        let flags = if sampled { self.flags | SAMPLED } else { self.flags & !SAMPLED };
        Self { flags, ..self }
    }

    /// Somebody records this trace.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// The span.
    pub fn span(&self) -> SpanId {
        self.span
    }

    /// The trace's id, as logs name it.
    pub fn trace_id(&self) -> String {
        hex::encode(self.trace)
    }
}

fn span_id(dice: &Dice) -> SpanId {
    let mut span: SpanId = dice.throw();
    span[0] |= 1;
    span
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", hex::encode(self.trace), hex::encode(self.span), self.flags)
    }
}

impl TraceState {
    /// Reads `tracestate`, all its lines in order; one bad member spoils the whole, as half a state may mislead.
    pub fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Self {
        let lines: Vec<&str> = lines.collect();
        if lines.iter().map(|line| line.len() + 1).sum::<usize>() > STATE_CHARS_MAX + 1 {
            return Self::default();
        }
        let mut members: Vec<(String, String)> = Vec::new();
        for member in lines.iter().flat_map(|line| line.split(',')).map(|text| text.trim_matches([' ', '\t']))
        {
            if member.is_empty() {
                continue;
            }
            let Some((key, value)) =
                member.split_once('=').filter(|(key, value)| is_key(key) && is_value(value))
            else {
                return Self::default();
            };
            if members.iter().any(|(known, _)| known == key) {
                return Self::default();
            }
            members.push((key.to_owned(), value.to_owned()));
        }
        if members.len() > STATE_MEMBERS_MAX { Self::default() } else { Self { members } }
    }

    /// As it goes out: ours first, then theirs in their order; what is over the bounds is left out from the right.
    pub fn with_own(&self, span: SpanId) -> String {
        let mut text = format!("{OWN_KEY}={}", hex::encode(span));
        let theirs = self.members.iter().filter(|(key, _)| key != OWN_KEY).take(STATE_MEMBERS_MAX - 1);
        for (key, value) in theirs {
            if text.len() + key.len() + value.len() + 2 > STATE_CHARS_MAX {
                break;
            }
            text = format!("{text},{key}={value}");
        }
        text
    }
}

/// Lower case letters, digits and four marks; a tenant may stand before an `@` (section 3.3.1.3.1).
fn is_key(key: &str) -> bool {
    let plain = |text: &str, chars_max: usize| {
        (1..=chars_max).contains(&text.len())
            && text
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/".contains(&byte))
    };
    let lower = |text: &str| text.starts_with(|c: char| c.is_ascii_lowercase());
    match key.split_once('@') {
        None => plain(key, 256) && lower(key),
        Some((tenant, system)) => plain(tenant, 241) && plain(system, 14) && lower(system),
    }
}

fn is_value(value: &str) -> bool {
    (1..=256).contains(&value.len())
        && value.bytes().all(|byte| (0x20..=0x7e).contains(&byte) && byte != b',' && byte != b'=')
}

fn is_lower_hex(text: &str, chars: usize) -> bool {
    text.len() == chars && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn state(text: &str) -> TraceState {
        TraceState::parse(std::iter::once(text))
    }

    #[test]
    fn a_good_parent_reads_back_as_itself() {
        assert_eq!(TraceContext::parse(GOOD).map(|context| context.to_string()).as_deref(), Some(GOOD));
    }

    #[test]
    fn a_newer_version_with_more_fields_is_understood_as_ours() {
        for newer in
            ["01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", &GOOD.replacen("00", "cc", 1)]
        {
            assert!(TraceContext::parse(newer).is_some(), "{newer}");
        }
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
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01 ",
            "01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01more",
            "0-04bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_trace_that_begins_here_says_that_it_is_random_and_not_yet_recorded() {
        let begun = TraceContext::begin(&Dice::system());
        assert!(begun.to_string().ends_with("-02") && begun.sampled(true).to_string().ends_with("-03"));
        assert_eq!(TraceContext::parse(&begun.to_string()), Some(begun));
    }

    #[test]
    fn our_member_comes_first_and_once_and_theirs_keep_their_order() {
        let came = state("rojo=00f067aa0ba902b7, chancery=old ,congo=t61rcWkgMzE");
        assert_eq!(
            came.with_own([0xab; 8]),
            "chancery=abababababababab,rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"
        );
    }

    #[test]
    fn a_state_with_anything_wrong_is_dropped_whole() {
        let many: Vec<String> = (0..33).map(|at| format!("k{at}=v")).collect();
        for text in [
            "a=1,A=2",
            "a=1,a=2",
            "a",
            "a=1,=2",
            "a=b=c",
            "a=\u{7f}",
            "1a=x",
            &many.join(","),
            &"x".repeat(600),
        ] {
            assert_eq!(state(text), TraceState::default(), "{text}");
        }
        assert_ne!(state("fw529a3039@dt=FfAA,1t@sys=2"), TraceState::default());
    }

    #[test]
    fn what_goes_out_keeps_to_the_bounds() {
        let many: Vec<String> = (0..32).map(|at| format!("k{at}=v")).collect();
        let out = state(&many.join(",")).with_own([1; 8]);
        assert_eq!(out.split(',').count(), 32, "the last makes room for ours");
        let long = state(&format!("a={},b={}", "x".repeat(250), "y".repeat(250))).with_own([1; 8]);
        assert!(long.len() <= 512 && long.contains("a=x") && !long.contains("b=y"), "{long}");
    }
}
