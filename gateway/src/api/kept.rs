//! Answers as they are kept for those who send the same request again.
//! Who enters: replies and refusals that are answers; what was kept of them.
//! What leaves: what may be kept, and for how long; the same reply again, byte for byte.

use bytes::Bytes;
use sagas::Plain;
use sagas::idempotency::{Answer, Replay};

use super::{Problem, Reply};

/// The header that names an answer's entry.
pub const ENTRY_HEADER: &str = "chancery-entry";
const CONTENT_TYPE: &str = "content-type";
/// The member that an answer shows once, and that is left out of what is kept for long.
const SHOWN_ONCE: &str = "secret";

/// What is kept of an answer.
pub struct Kept {
    /// For as long as any.
    pub answer: Answer,
    /// The whole body with what it shows once, for a short while.
    pub with_secret: Option<Plain>,
}

impl Kept {
    /// Of a reply.
    pub fn of(reply: &Reply) -> Self {
        let headers = [
            (CONTENT_TYPE, Some(reply.media_type.to_owned())),
            (ENTRY_HEADER, reply.entry.map(|entry| entry.to_string())),
        ];
        let headers =
            headers.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        let (status, location) = (reply.status, reply.location.clone());
        let answer = |body| Answer { status, headers, body, location };
        match without_secret(&reply.body) {
            Some(body) => Self { answer: answer(body), with_secret: Some(Plain::new(reply.body.to_vec())) },
            None => Self { answer: answer(reply.body.to_vec()), with_secret: None },
        }
    }

    /// Of a refusal by a rule, which is an answer like any other.
    pub fn of_refusal(problem: &Problem, request: &str) -> Self {
        let body = serde_json::to_vec(&problem.clone().document(request)).unwrap_or_default();
        let headers = vec![(CONTENT_TYPE.to_owned(), "application/problem+json".to_owned())];
        let answer = Answer { status: problem.code.status(), headers, body, location: None };
        Self { answer, with_secret: None }
    }
}

/// The reply that was given before. Of a long one, only where its result can be read; none, where not even that was kept.
pub fn given_again(replay: Replay) -> Option<Reply> {
    let Replay { answer, whole, .. } = replay;
    if !whole {
        return Some(Reply::empty().at(answer.location?).replayed());
    }
    let header = |name: &str| kept_header(&answer, name);
    let media_type = match header(CONTENT_TYPE) {
        Some("application/json") => "application/json",
        Some("application/problem+json") => "application/problem+json",
        Some(text) if text.starts_with("text/plain") => "text/plain; charset=utf-8",
        _ => "",
    };
    let entry = header(ENTRY_HEADER).and_then(|text| text.parse().ok());
    Some(Reply {
        status: answer.status,
        media_type,
        body: answer.body.into(),
        location: answer.location,
        entry,
        replayed: true,
    })
}

/// A header that was kept with an answer.
pub fn kept_header<'a>(answer: &'a Answer, name: &str) -> Option<&'a str> {
    answer.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
}

/// The same body without what it shows once; `None` where it shows nothing once.
fn without_secret(body: &Bytes) -> Option<Vec<u8>> {
    let mut value: serde_json::Value = serde_json::from_slice(body).ok()?;
    value.as_object_mut()?.remove(SHOWN_ONCE)?;
    value.as_object_mut()?.insert("secret_available".to_owned(), false.into());
    serde_json::to_vec(&value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_that_was_kept_is_the_same_reply() {
        let reply = Reply::json(201, &serde_json::json!({ "name": "release" })).unwrap();
        let reply = reply.at("/v1/keys/release".to_owned()).told_in(7);
        let Kept { answer, with_secret } = Kept::of(&reply);
        assert!(with_secret.is_none());
        let again = given_again(Replay { answer, whole: true, secret_available: None }).unwrap();
        assert_eq!((again.status, &again.body, again.entry), (201, &reply.body, Some(7)));
        assert_eq!((again.location, again.media_type), (reply.location, "application/json"));
        assert!(again.replayed);
    }

    #[test]
    fn what_is_shown_once_is_kept_apart_from_what_is_kept_for_long() {
        let reply = Reply::json(201, &serde_json::json!({ "id": "ak_1", "secret": "ck_s3cret" })).unwrap();
        let Kept { answer, with_secret } = Kept::of(&reply);
        let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
        assert_eq!(body, serde_json::json!({ "id": "ak_1", "secret_available": false }));
        assert_eq!(with_secret.map(|secret| secret.to_vec()), Some(reply.body.to_vec()));
    }

    #[test]
    fn of_a_long_answer_the_place_is_given_again_and_without_one_nothing() {
        let answer = Answer { status: 200, headers: Vec::new(), body: Vec::new(), location: None };
        let long = |answer| given_again(Replay { answer, whole: false, secret_available: None });
        assert!(long(answer.clone()).is_none());
        let placed = long(Answer { location: Some("/v1/x".to_owned()), ..answer }).unwrap();
        assert_eq!(placed.location.as_deref(), Some("/v1/x"));
    }
}
