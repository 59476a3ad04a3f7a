//! One request as a handler sees it, and the answer it gives back.
//! Who enters: the boundary, after limits, routing, authentication and guard.
//! What leaves: parsed bodies and queries (unknown fields refused), replies not yet turned into HTTP.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::caller::Origin;
use super::objects;
use super::problem::{Code, Problem};

/// What is left of a request once the boundary has done its part.
#[derive(Debug)]
pub struct Exchange {
    /// Where it came from and how it is followed.
    pub origin: Origin,
    /// The path's parameters, in the order of the pattern.
    pub params: Vec<String>,
    /// The query, still encoded.
    pub query: String,
    /// The caller would rather have text than JSON (`Accept: text/plain`).
    pub wants_text: bool,
    /// How long the caller would rather wait than look again (`Prefer: wait=N`, RFC 7240 section 4.3).
    pub wait: Option<Duration>,
    /// Counts what the request asks for beyond being one request.
    pub meter: Meter,
}

/// The allowance of whoever asks: a batch counts as many requests as it has items.
#[derive(Clone)]
pub struct Meter(Arc<dyn Fn(u32) -> Result<(), Problem> + Send + Sync>);

impl Meter {
    /// Over what takes the worth of so many requests.
    pub fn new(spend: impl Fn(u32) -> Result<(), Problem> + Send + Sync + 'static) -> Self {
        Self(Arc::new(spend))
    }

    /// Counts a batch; being a request, it was counted as one already.
    ///
    /// # Errors
    /// `rate_limited`, with nothing done.
    pub fn batch(&self, items: usize) -> Result<(), Problem> {
        let more = u32::try_from(items).unwrap_or(u32::MAX).saturating_sub(1);
        if more == 0 { Ok(()) } else { (self.0)(more) }
    }
}

impl std::fmt::Debug for Meter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Meter(..)")
    }
}

impl Exchange {
    /// The path parameter at `at`, parsed into the id it must be.
    ///
    /// # Errors
    /// `not_found`: a malformed id names nothing.
    pub fn param<T: std::str::FromStr>(&self, at: usize) -> Result<T, Problem> {
        let text = self.params.get(at).map(String::as_str).unwrap_or_default();
        text.parse().map_err(|_| Problem::new(Code::NotFound, "the path names nothing; check the id"))
    }

    /// The query, parsed (`application/x-www-form-urlencoded`, WHATWG URL section 5.1). Unknown names, names that stand twice and
    /// names without a value are refused: each would leave open which of two readings was meant.
    ///
    /// # Errors
    /// `bad_request`, with what is wrong.
    pub fn query<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let wrong = |why: String| Problem::new(Code::BadRequest, format!("the query: {why}"));
        let mut seen = Vec::new();
        for (name, value) in form_urlencoded::parse(self.query.as_bytes()) {
            if seen.contains(&name) {
                return Err(wrong(format!("`{name}` stands twice; send it once")));
            }
            if value.is_empty() {
                return Err(wrong(format!("`{name}` has no value; leave it out or give it one")));
            }
            seen.push(name);
        }
        serde_html_form::from_str(&self.query)
            .map_err(|why| wrong(crate::malformed::in_words(&why.to_string())))
    }
}

/// What a route takes as its body.
pub trait Body: Sized + Send + 'static {
    /// Reads it from the whole body.
    fn read(bytes: &Bytes) -> Result<Self, Problem>;
    /// Its schema, where there is a body.
    fn schema(generator: &mut SchemaGenerator) -> Option<Schema>;
}

impl Body for () {
    fn read(bytes: &Bytes) -> Result<Self, Problem> {
        if bytes.is_empty() {
            return Ok(());
        }
        Err(Problem::new(Code::BadBody, "this route takes no body; send none"))
    }

    fn schema(_: &mut SchemaGenerator) -> Option<Schema> {
        None
    }
}

/// A JSON body whose type refuses unknown and repeated fields.
pub struct Json<T>(pub T);

impl<T: DeserializeOwned + JsonSchema + Send + 'static> Body for Json<T> {
    fn read(bytes: &Bytes) -> Result<Self, Problem> {
        objects::read(bytes).map(Json)
    }

    fn schema(generator: &mut SchemaGenerator) -> Option<Schema> {
        Some(generator.subschema_for::<T>())
    }
}

/// Says of any outcome that it is done, and no more.
///
/// # Errors
/// None.
pub fn done<T>(_: &T) -> Result<Reply, Problem> {
    Ok(Reply::empty())
}

/// What a handler answers.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The body's media type.
    pub media_type: &'static str,
    /// The body.
    pub body: Bytes,
    /// Where the new thing is (`Location`).
    pub location: Option<String>,
    /// The entry that tells of what was done (`Chancery-Entry`).
    pub entry: Option<u64>,
    /// It was given before, to the same request (`Idempotency-Replayed`).
    pub replayed: bool,
}

impl Reply {
    /// A JSON answer.
    ///
    /// # Errors
    /// Only if a wire type cannot be written as JSON, which is a fault of ours.
    pub fn json<T: Serialize>(status: u16, value: &T) -> Result<Self, Problem> {
        let body = serde_json::to_vec(value).map_err(|why| Problem::internal(&why))?;
        Ok(Self {
            status,
            media_type: "application/json",
            body: body.into(),
            location: None,
            entry: None,
            replayed: false,
        })
    }

    /// A text answer.
    pub fn text(media_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status: 200, media_type, body: body.into(), location: None, entry: None, replayed: false }
    }

    /// Done, and nothing to say.
    pub fn empty() -> Self {
        Self { status: 204, media_type: "", body: Bytes::new(), location: None, entry: None, replayed: false }
    }

    /// Says that it was given before.
    #[must_use]
    pub fn replayed(mut self) -> Self {
        self.replayed = true;
        self
    }

    /// Names the new thing's place.
    #[must_use]
    pub fn at(mut self, location: String) -> Self {
        self.location = Some(location);
        self
    }

    /// Names the entry that tells of it.
    #[must_use]
    pub fn told_in(mut self, seq: u64) -> Self {
        self.entry = Some(seq);
        self
    }
}

/// Free text within its bound.
///
/// # Errors
/// It is longer, with the pointer to it.
pub fn bounded(text: String, bytes_max: usize, pointer: &'static str) -> Result<String, Problem> {
    match text.len() <= bytes_max {
        true => Ok(text),
        false => Err(Problem::new(Code::Invalid, format!("at most {bytes_max} bytes")).at(pointer)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Deserialize, JsonSchema, Debug)]
    #[serde(deny_unknown_fields)]
    struct Order {
        #[serde(rename = "key")]
        _key: String,
    }

    fn read(text: &'static str) -> Result<Json<Order>, Problem> {
        Json::read(&Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn unknown_repeated_and_trailing_fields_are_refused() {
        assert!(read(r#"{"key":"a"}"#).is_ok());
        for text in [
            r#"{"key":"a","kex":1}"#,
            r#"{"key":"a","key":"b"}"#,
            r#"{"key":"a"} x"#,
            "",
            "[]",
            r#"{"key":1}"#,
        ] {
            assert_eq!(read(text).err().map(|problem| problem.code), Some(Code::BadBody), "{text}");
        }
    }

    #[test]
    fn nesting_without_end_is_refused_and_not_followed() {
        let deep = Bytes::from(format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)));
        assert!(Json::<serde_json::Value>::read(&deep).is_err());
    }
}
