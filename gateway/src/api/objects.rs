//! Reads JSON in which an object is an object: the library would also take an array of the fields' values, a second way to say a thing.
//! Who enters: the text of a body.
//! What leaves: a value; or where the body is not as the route describes it, and in what, in words of HTTP and JSON and no others.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};

use super::problem::{Code, Problem};
use crate::malformed::in_words;

/// A byte order mark, which some programs put before JSON and which RFC 8259 section 8.1 forbids.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The body as a value.
///
/// # Errors
/// `bad_body`, with the place and what would be right there.
pub(super) fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let bad = |words: String| Problem::new(Code::BadBody, words);
    if bytes.is_empty() {
        return Err(bad("the body is empty; send a JSON object".to_owned()));
    }
    if bytes.starts_with(BYTE_ORDER_MARK) {
        return Err(bad(
            "the body begins with a byte order mark (EF BB BF), which is no JSON; leave it out".to_owned()
        ));
    }
    if std::str::from_utf8(bytes).is_err() {
        return Err(bad("the body is not UTF-8, and so no JSON".to_owned()));
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let mut track = serde_path_to_error::Track::new();
    let read = T::deserialize(Objects(serde_path_to_error::Deserializer::new(&mut json, &mut track)));
    let path = track.path();
    match read.and_then(|value| json.end().map(|()| value)) {
        Ok(value) => Ok(value),
        Err(why) if why.is_data() => Err(misfit(&words(&why), pointer(&path))),
        Err(why) => Err(bad(broken(&why, bytes))),
    }
}

/// What the reader says, without its own words for places.
fn words(why: &serde_json::Error) -> String {
    let text = why.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(words, _)| words.to_owned())
}

/// JSON that is not what the route takes.
fn misfit(why: &str, pointer: String) -> Problem {
    match pointer.is_empty() {
        true => Problem::new(Code::BadBody, format!("the body {}", in_words(why))),
        false => Problem::new(Code::BadBody, format!("`{pointer}` {}", in_words(why))).at(pointer),
    }
}

/// What is no JSON at all.
fn broken(why: &serde_json::Error, bytes: &[u8]) -> String {
    if words(why).contains("recursion limit") {
        return "the body is nested too deeply".to_owned();
    }
    match why.is_eof() {
        true => format!("the body is no JSON: it ends in the middle, after {} bytes", bytes.len()),
        false => format!("the body is no JSON: byte {} does not belong there", offset(why, bytes)),
    }
}

/// Counted from 1, as a person counts.
fn offset(why: &serde_json::Error, bytes: &[u8]) -> usize {
    let lines = bytes.split(|byte| *byte == b'\n').take(why.line().saturating_sub(1));
    lines.map(|line| line.len() + 1).sum::<usize>() + why.column().max(1)
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let segment = |segment: &Segment| match segment {
        Segment::Seq { index } => Some(format!("/{index}")),
        Segment::Map { key } => Some(format!("/{}", key.replace('~', "~0").replace('/', "~1"))),
        Segment::Enum { .. } | Segment::Unknown => None,
    };
    path.iter().filter_map(segment).collect()
}

/// A reader, and everything below it, for which no array passes for an object.
struct Objects<D>(D);

/// What reads with it.
struct Only<V>(V);

/// The same where an object is asked for.
struct OnlyObject<V>(V);

struct Seed<S>(S);

struct Access<A>(A);

/// The fields of an object, each name once: of two with one name a reader takes the first, another the last.
struct Fields<A> {
    fields: A,
    seen: BTreeSet<String>,
}

impl<A> Fields<A> {
    fn of(fields: A) -> Self {
        Self { fields, seen: BTreeSet::new() }
    }
}

macro_rules! forwarded {
    ($($method:ident)*) => { $(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.0.$method(Only(visitor))
        }
    )* };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Objects<D> {
    type Error = D::Error;

    forwarded! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16
        deserialize_u32 deserialize_u64 deserialize_f32 deserialize_f64 deserialize_char deserialize_str deserialize_string
        deserialize_bytes deserialize_byte_buf deserialize_option deserialize_unit deserialize_seq deserialize_map
        deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_unit_struct(name, Only(visitor))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_newtype_struct(name, Only(visitor))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple(len, Only(visitor))
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_tuple_struct(name, len, Only(visitor))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_struct(name, fields, OnlyObject(visitor))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }
}

macro_rules! visits {
    ($($method:ident($kind:ty))*) => { $(
        fn $method<E: Error>(self, value: $kind) -> Result<V::Value, E> { self.0.$method(value) }
    )* };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Only<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    visits! {
        visit_bool(bool) visit_i64(i64) visit_i128(i128) visit_u64(u64) visit_u128(u128) visit_f64(f64) visit_char(char) visit_str(&str)
        visit_borrowed_str(&'de str) visit_string(String) visit_bytes(&[u8]) visit_borrowed_bytes(&'de [u8]) visit_byte_buf(Vec<u8>)
    }

    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }

    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Objects(inner))
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Objects(inner))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Access(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Fields::of(fields))
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for OnlyObject<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Fields::of(fields))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Seed<S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Objects(inner))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Access<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Seed(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

/// A key that is read, and whose name is kept.
struct Named<'a, S> {
    seed: S,
    name: &'a mut String,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Named<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        *self.name = String::deserialize(inner)?;
        self.seed.deserialize(self.name.as_str().into_deserializer())
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Fields<A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let mut name = String::new();
        let key = self.fields.next_key_seed(Named { seed, name: &mut name })?;
        match key.is_some() && self.seen.contains(&name) {
            true => Err(A::Error::custom(format_args!("duplicate field `{name}`"))),
            false => {
                self.seen.insert(name);
                Ok(key)
            }
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.fields.next_value_seed(Seed(seed))
    }

    fn size_hint(&self) -> Option<usize> {
        self.fields.size_hint()
    }
}

/// A value that was read before, such as the input of a workflow, by the same rule.
///
/// # Errors
/// As for a body.
pub(super) fn from_value<T: DeserializeOwned>(value: serde_json::Value) -> Result<T, Problem> {
    let mut track = serde_path_to_error::Track::new();
    let read = T::deserialize(Objects(serde_path_to_error::Deserializer::new(
        value.into_deserializer(),
        &mut track,
    )));
    let path = track.path();
    read.map_err(|why: serde_json::Error| misfit(&why.to_string(), pointer(&path)))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "read and never looked at")]
    struct Order {
        scheme: String,
        #[serde(default)]
        limit: Option<Limit>,
        #[serde(default)]
        items: Vec<Limit>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code, reason = "read and never looked at")]
    struct Limit {
        uses: u64,
    }

    fn told(text: &str) -> (String, Option<String>) {
        let problem = read::<Order>(text.as_bytes()).expect_err(text);
        assert_eq!(problem.code, Code::BadBody);
        (problem.detail, problem.pointer)
    }

    #[test]
    fn objects_are_read_at_every_depth() {
        let order = read::<Order>(br#"{"scheme":"x","limit":{"uses":1},"items":[{"uses":2}]}"#);
        assert_eq!(order.map(|order| order.items.len()).ok(), Some(1));
    }

    #[test]
    fn no_array_passes_for_an_object_at_any_depth() {
        for text in [r#"["x",null,[]]"#, r#"{"scheme":"x","limit":[1]}"#, r#"{"scheme":"x","items":[[2]]}"#] {
            let (words, _) = told(text);
            assert!(words.contains("must be an object"), "{text}: {words}");
            assert!(serde_json::from_str::<Order>(text).is_ok(), "{text} shows nothing");
            let value = serde_json::from_str(text).unwrap();
            assert!(from_value::<Order>(value).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_without_the_words_of_the_reader() {
        for (text, words, pointer) in [
            ("{\"scheme\":1}", "is the number `1`, and must be text", Some("/scheme")),
            (
                "{\"scheme\":\"x\",\"items\":[{\"uses\":1},{\"uses\":\"two\"}]}",
                "must be a whole number",
                Some("/items/1/uses"),
            ),
            ("{}", "`scheme` is missing", None),
            ("{\"schema\":\"x\"}", "`schema` is unknown", None),
            ("{\"scheme\":\"a\",\"scheme\":\"b\"}", "`scheme` stands twice", None),
            ("{\"scheme\":\"a\"", "it ends in the middle, after 13 bytes", None),
            ("{\n\"scheme\":nope}", "byte 13", None),
            ("nonsense", "byte 2", None),
            ("", "is empty", None),
            ("\u{feff}{}", "byte order mark", None),
        ] {
            let (told, at) = told(text);
            assert!(told.contains(words), "{text}: {told}");
            if let Some(pointer) = pointer {
                assert_eq!(at.as_deref(), Some(pointer), "{text}: {told}");
            }
            for word in ["line", "column", "expected", "ident", "struct", "serde"] {
                assert!(!told.contains(word), "{text}: {told}");
            }
        }
    }
}
