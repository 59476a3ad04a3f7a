//! What the headers of a request ask for: its patience, its place in the queue, the form of its answer, the fences under
//! which it is to be carried out.
//! Who enters: a request whose head is complete, and who sent it.
//! What leaves: its origin as handler and entry will know it; wishes that were understood.

use std::time::Duration;

use http::HeaderMap;

use super::gate::Arrived;
use crate::api::caller::Fence;
use crate::api::{Caller, Code, Origin, Problem, Scope};
use crate::limits::{FENCES_MAX, REQUEST_WAIT_DEFAULT, REQUEST_WAIT_MAX, USER_AGENT_BYTES_MAX};

/// A client's own patience, in milliseconds.
const DEADLINE_HEADER: &str = "chancery-deadline-ms";
/// Leases that must be the latest of their names when the request is carried out.
const FENCE_HEADER: &str = "chancery-fence";

impl Arrived<'_> {
    /// Where the request came from, as its handler and its entry will know it.
    pub(super) fn origin(&self, caller: Option<&Caller>) -> Result<Origin, Problem> {
        let headers = &self.head.headers;
        let wait = patience(headers)?;
        let urgent = matches!(caller, Some(Caller::Program(program)) if program.scopes.include(Scope::Priority))
            && headers.get("priority").is_some_and(|value| is_urgent(value.as_bytes()));
        let user_agent = headers.get(http::header::USER_AGENT);
        let user_agent = user_agent.map(|value| printable(value.as_bytes())).unwrap_or_default();
        let (request, fences) = (self.followed.request.clone(), fences(headers)?);
        Ok(Origin {
            request,
            ip: self.ip,
            user_agent,
            deadline: self.begun + wait,
            urgent,
            fences,
            once: None,
        })
    }
}

fn patience(headers: &HeaderMap) -> Result<Duration, Problem> {
    let Some(value) = headers.get(DEADLINE_HEADER) else { return Ok(REQUEST_WAIT_DEFAULT) };
    let millis = value.to_str().ok().and_then(|text| text.parse::<u64>().ok()).filter(|millis| *millis > 0);
    let millis = millis.ok_or_else(|| {
        Problem::new(Code::BadRequest, "Chancery-Deadline-Ms is a whole number of milliseconds above zero")
    })?;
    Ok(Duration::from_millis(millis).min(REQUEST_WAIT_MAX))
}

/// `nightly=42`, several with commas between them.
fn fences(headers: &HeaderMap) -> Result<Vec<Fence>, Problem> {
    let lines = headers.get_all(FENCE_HEADER).into_iter().map(|value| value.to_str().unwrap_or_default());
    let fences: Option<Vec<_>> = lines.flat_map(|line| line.split(',')).map(fence).collect();
    fences.filter(|fences| fences.len() <= FENCES_MAX).ok_or_else(|| {
        let detail =
            format!("Chancery-Fence is NAME=FENCE of a lease, at most {FENCES_MAX} with commas between them");
        Problem::new(Code::BadRequest, detail)
    })
}

fn fence(text: &str) -> Option<Fence> {
    let (name, fence) = text.trim().split_once('=')?;
    Some(Fence { name: name.parse().ok()?, fence: fence.parse().ok()? })
}

/// RFC 9218: urgency 0 to 2 is more urgent than the default of 3.
fn is_urgent(value: &[u8]) -> bool {
    value.windows(3).any(|part| matches!(part, b"u=0" | b"u=1" | b"u=2"))
}

fn printable(bytes: &[u8]) -> String {
    let kept = bytes.iter().take(USER_AGENT_BYTES_MAX);
    kept.map(|byte| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '?' }).collect()
}

pub(super) fn wants_text(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|text| text.starts_with("text/plain"))
}

/// RFC 7240 section 4.3: a preference that cannot be read is no error, and is left aside.
pub(super) fn wait_preferred(headers: &HeaderMap) -> Option<Duration> {
    let preferences = headers.get_all("prefer").into_iter().filter_map(|value| value.to_str().ok());
    let mut words = preferences.flat_map(|text| text.split(',')).map(str::trim);
    let seconds = words.find_map(|word| word.strip_prefix("wait=")?.parse::<u64>().ok())?;
    Some(Duration::from_secs(seconds).min(REQUEST_WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_agent_cannot_bring_control_characters_into_the_log() {
        assert_eq!(printable(b"curl/8\x1b[31m\n"), "curl/8?[31m?");
    }

    #[test]
    fn a_deadline_is_bounded_and_zero_is_refused() {
        let headers =
            |text: &str| HeaderMap::from_iter([(DEADLINE_HEADER.parse().unwrap(), text.parse().unwrap())]);
        assert_eq!(patience(&headers("99999999")).unwrap(), REQUEST_WAIT_MAX);
        for text in ["0", "-1", "1.5", "soon"] {
            assert!(patience(&headers(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn a_fence_is_a_name_and_a_number_and_anything_else_is_refused() {
        let read = |text: &str| {
            fences(&HeaderMap::from_iter([(FENCE_HEADER.parse().unwrap(), text.parse().unwrap())]))
        };
        assert!(fences(&HeaderMap::new()).unwrap().is_empty());
        let both = read("nightly=42, weekly=7").unwrap();
        assert_eq!(both.iter().map(|fence| fence.fence).collect::<Vec<_>>(), [42, 7]);
        assert_eq!(both[0].name.as_str(), "nightly");
        for text in ["", "nightly", "nightly=", "=1", "nightly=x", "Nightly=1", "a=1,,b=2", "a=1,"] {
            assert!(read(text).is_err(), "{text}");
        }
        let many = ["a=1"; FENCES_MAX + 1].join(",");
        assert!(read(&many).is_err());
    }
}
