//! The last lines of the log that tell of a request, in memory: what the log says, where a request is followed.
//! Who enters: every line, as the log's own formatter writes it, so that nothing stands here that the log would not show.
//! What leaves: the lines of one request or trace, the oldest first.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tracing_subscriber::fmt::MakeWriter;

use crate::limits::LOG_BYTES_KEPT_MAX;
use crate::moment::Moment;

/// The lines; cheap to clone.
#[derive(Clone, Default)]
pub struct Lines {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<Box<str>>,
    bytes: usize,
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When it was written.
    pub time: Moment,
    /// The request it tells of.
    pub request: String,
    /// Level, message and fields, in one line.
    pub what: String,
    /// The part of the code that wrote it.
    pub target: String,
}

/// How the log's formatter begins the field that makes a line one of a request.
const OF_A_REQUEST: &str = "\"request_id\":\"req_";
/// What [`LogLine`] tells by itself.
const OWN_FIELDS: [&str; 5] = ["timestamp", "level", "target", "message", "span"];

impl Lines {
    /// The lines of this request or trace.
    pub fn of(&self, id: &str) -> Vec<LogLine> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.lines.iter().filter(|line| line.contains(id)).filter_map(|line| read(line, id)).collect()
    }

    fn keep(&self, line: &str) {
        if !line.contains(OF_A_REQUEST) || line.len() > LOG_BYTES_KEPT_MAX {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += line.len();
        kept.lines.push_back(line.into());
        while kept.bytes > LOG_BYTES_KEPT_MAX {
            let oldest = kept.lines.pop_front();
            kept.bytes -= oldest.map_or(kept.bytes, |line| line.len());
        }
    }
}

/// A line as a value, if it is of this request or trace and does not only mention it.
fn read(line: &str, id: &str) -> Option<LogLine> {
    let fields: Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| fields[name].as_str().unwrap_or_default();
    // In the span, unless the line names its request itself.
    let of = |name: &str| fields["span"][name].as_str().or_else(|| fields[name].as_str());
    if !["request_id", "trace_id"].into_iter().any(|name| of(name) == Some(id)) {
        return None;
    }
    let more = fields.as_object()?.iter().filter(|(name, _)| !OWN_FIELDS.contains(&name.as_str()));
    let more: String = more.map(|(name, value)| format!(" {name}={value}")).collect();
    Some(LogLine {
        time: text("timestamp").parse().ok()?,
        request: of("request_id")?.to_owned(),
        what: format!("{} {}{more}", text("level"), text("message")),
        target: text("target").to_owned(),
    })
}

/// The formatter writes a whole line at once.
impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Ok(text) = std::str::from_utf8(line) {
            self.keep(text);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn logged(work: impl FnOnce()) -> Lines {
        let lines = Lines::default();
        let layer = super::super::in_json().with_writer(lines.clone());
        tracing::subscriber::with_default(
            tracing_subscriber::layer::SubscriberExt::with(tracing_subscriber::registry(), layer),
            work,
        );
        lines
    }

    fn of_a_request(id: &str) -> tracing::Span {
        tracing::info_span!("request", request_id = id, trace_id = TRACE)
    }

    #[test]
    fn lines_of_a_request_are_found_by_it_and_by_its_trace_and_others_are_not_kept() {
        let lines = logged(|| {
            tracing::warn!("nobody asked");
            of_a_request("req_1").in_scope(|| tracing::warn!(why = "away", "the token did not do it"));
            of_a_request("req_2").in_scope(|| tracing::info!(other = "req_1", "refused"));
            tracing::info!(request_id = "req_3", "by itself");
        });
        let [line] = &lines.of("req_1")[..] else { panic!("{:?}", lines.of("req_1")) };
        assert_eq!(line.what, "WARN the token did not do it why=\"away\"");
        assert_eq!((line.request.as_str(), line.target.ends_with("lines::tests")), ("req_1", true));
        let requests: Vec<_> = lines.of(TRACE).into_iter().map(|line| line.request).collect();
        assert_eq!(requests, ["req_1", "req_2"]);
        assert_eq!(lines.of("req_3").len(), 1, "without a span");
        assert_eq!(lines.kept.lock().unwrap().lines.len(), 3);
    }

    #[test]
    fn the_memory_for_lines_is_bounded_in_bytes_and_the_oldest_go_first() {
        let long = "x".repeat(LOG_BYTES_KEPT_MAX / 16);
        let lines = logged(|| {
            for round in 0..40 {
                of_a_request("req_1").in_scope(|| tracing::warn!(round, long, "again"));
            }
            of_a_request("req_1").in_scope(|| tracing::warn!(long = long.repeat(17), "too long to keep"));
        });
        let kept = lines.of("req_1");
        assert!((10..16).contains(&kept.len()), "{}", kept.len());
        assert!(kept[0].what.contains("round=") && !kept[0].what.contains("round=0 "));
        assert!(kept.last().unwrap().what.contains("round=39"));
        let kept = lines.kept.lock().unwrap();
        assert_eq!(kept.bytes, kept.lines.iter().map(|line| line.len()).sum::<usize>());
        assert!(kept.bytes <= LOG_BYTES_KEPT_MAX);
    }
}
