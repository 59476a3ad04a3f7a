//! What the headers of a request ask for: its patience, its place in the queue, the form of its answer, the fences under
//! which it is to be carried out.
//! Who enters: a request whose head is complete, and who sent it.
//! What leaves: its origin as handler and entry will know it; wishes that were understood.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::gate::Arrived;
use super::structured::{self, Item};
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
            && is_urgent(headers);
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

/// RFC 9218: urgency 0 to 2 is more urgent than the default of 3. What cannot be read, or is none, is left aside.
fn is_urgent(headers: &HeaderMap) -> bool {
    let lines: Vec<&[u8]> = headers.get_all("priority").into_iter().map(HeaderValue::as_bytes).collect();
    matches!(structured::member(&lines.join(&b", "[..]), "u"), Some(Item::Integer(0..=2)))
}

fn printable(bytes: &[u8]) -> String {
    let kept = bytes.iter().take(USER_AGENT_BYTES_MAX);
    kept.map(|byte| if (0x20..0x7f).contains(byte) { char::from(*byte) } else { '?' }).collect()
}

/// Text is preferred to JSON (RFC 9110 section 12.5.1). Where both are as welcome, or neither, it is JSON.
pub(super) fn wants_text(headers: &HeaderMap) -> bool {
    let ranges: Vec<&str> = headers
        .get_all(http::header::ACCEPT)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|line| line.split(','))
        .collect();
    weight(&ranges, "text", "plain") > weight(&ranges, "application", "json")
}

/// How welcome a type is, in thousandths: by the range that names it most closely.
fn weight(ranges: &[&str], kind: &str, subtype: &str) -> u16 {
    let fitting = ranges.iter().filter_map(|range| {
        let mut parts = range.split(';').map(str::trim);
        let (own_kind, own_subtype) = parts.next()?.split_once('/')?;
        let exactness = match (own_kind, own_subtype) {
            ("*", "*") => 0,
            (own, "*") if own.eq_ignore_ascii_case(kind) => 1,
            (own, sub) if own.eq_ignore_ascii_case(kind) && sub.eq_ignore_ascii_case(subtype) => 2,
            _ => return None,
        };
        let quality = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        Some((exactness, quality.map_or(Some(1000), thousandths)?))
    });
    fitting.max_by_key(|(exactness, _)| *exactness).map_or(0, |(_, quality)| quality)
}

/// `0.5` (RFC 9110 section 12.4.2).
fn thousandths(text: &str) -> Option<u16> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let digits = part.len() <= 3 && part.bytes().all(|byte| byte.is_ascii_digit());
    match whole {
        "0" if digits => format!("{part:0<3}").parse().ok(),
        "1" if digits && part.bytes().all(|byte| byte == b'0') => Some(1000),
        _ => None,
    }
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

    fn lines(name: &'static str, lines: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, line.parse().unwrap());
        }
        headers
    }

    #[test]
    fn an_urgency_below_three_is_urgent_and_what_is_no_dictionary_is_left_aside() {
        for urgent in [&["u=0"][..], &["u=2, i"], &["i", "u=1"], &["u=7", "u=1"], &["a=\"x\", u=1;b"]] {
            assert!(is_urgent(&lines("priority", urgent)), "{urgent:?}");
        }
        for plain in [
            &[][..],
            &["u=3"],
            &["u=10"],
            &["u=-1"],
            &["u=1.0"],
            &["xu=1"],
            &["a=\"u=1\""],
            &["u=1,"],
            &["u=1", "u=7"],
            &["U=1"],
        ] {
            assert!(!is_urgent(&lines("priority", plain)), "{plain:?}");
        }
    }

    #[test]
    fn text_is_given_where_it_is_more_welcome_than_json() {
        for text in [
            &["text/plain"][..],
            &["Text/Plain;charset=utf-8"],
            &["application/json;q=0.5, text/plain"],
            &["application/json;q=0.5", "text/*;q=0.501"],
            &["*/*;q=0.1, text/plain;q=0.2"],
        ] {
            assert!(wants_text(&lines("accept", text)), "{text:?}");
        }
        for json in [
            &[][..],
            &["*/*"],
            &["application/json"],
            &["text/plain;q=0"],
            &["text/plain;q=0.1, application/json"],
            &["text/plain, application/json"],
            &["text/plain, */*"],
            &["text/html"],
            &["application/xml;q=0.9, image/png"],
            &["text/plain;q=2"],
        ] {
            assert!(!wants_text(&lines("accept", json)), "{json:?}");
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
