//! The path of a request, made plain once: what is matched is what a service sees and what an upstream is sent.
//! Who enters: the path as it came, with whatever somebody hid in it.
//! What leaves: a path of plain segments; or a refusal, for a path that two readers could read differently.

use std::borrow::Cow;

/// A path that has one reading: it begins with a slash, has no empty segment, no dots to climb on, no encoded
/// separator, and no slash at its end. `/a/` is `/a`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainPath<'a>(Cow<'a, str>);

/// Why a path is refused rather than guessed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathRefused {
    /// Not a path: `*`, or a bare authority.
    #[error("the target is not a path; it begins with a slash")]
    NotAPath,
    /// `//`.
    #[error("the path has an empty segment; write one slash where there are two")]
    EmptySegment,
    /// `.` or `..`, plain or encoded.
    #[error("the path has a segment of dots; write the path that is meant")]
    Dots,
    /// `%2f`, `%5c` or `%00`, or a bare backslash.
    #[error("the path hides a separator or a zero byte; separators cannot be part of a name")]
    HiddenSeparator,
    /// A percent sign without two hexadecimal digits, or a control character.
    #[error("the path is not well encoded")]
    Encoding,
    /// What is encoded is not UTF-8.
    #[error("the path is not UTF-8")]
    NotUtf8,
}

impl<'a> PlainPath<'a> {
    /// Makes a path plain.
    ///
    /// # Errors
    /// Somebody could read it differently.
    pub fn of(path: &'a str) -> Result<Self, PathRefused> {
        let Some(inside) = path.strip_prefix('/') else { return Err(PathRefused::NotAPath) };
        let inside = inside.strip_suffix('/').unwrap_or(inside);
        if inside.is_empty() {
            return if path.len() <= 1 {
                Ok(Self(Cow::Borrowed("/")))
            } else {
                Err(PathRefused::EmptySegment)
            };
        }
        let mut encoded = false;
        for segment in inside.split('/') {
            encoded |= check(segment)?;
        }
        let trimmed = &path[..=inside.len()];
        Ok(Self(if encoded { Cow::Owned(rewrite(trimmed)) } else { Cow::Borrowed(trimmed) }))
    }

    /// As it is matched and forwarded.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks one segment; says whether it has anything encoded.
fn check(segment: &str) -> Result<bool, PathRefused> {
    if segment.is_empty() {
        return Err(PathRefused::EmptySegment);
    }
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'%' && byte != b'\\';
    if segment.bytes().all(plain) {
        return if climbs(segment.as_bytes()) { Err(PathRefused::Dots) } else { Ok(false) };
    }
    let decoded = decode(segment)?;
    if decoded.iter().any(|byte| byte.is_ascii_control()) {
        return Err(PathRefused::Encoding);
    }
    std::str::from_utf8(&decoded).map_err(|_| PathRefused::NotUtf8)?;
    // With its dots decoded, `%2e%2e` is what it wanted to hide; and an encoded dot elsewhere serves nobody.
    let dots = segment.as_bytes().windows(3).any(|three| three.eq_ignore_ascii_case(b"%2e"));
    if dots || climbs(&decoded) { Err(PathRefused::Dots) } else { Ok(true) }
}

/// Dots alone, or before a semicolon: some servers cut off what follows it before they climb.
fn climbs(segment: &[u8]) -> bool {
    matches!(segment.split(|byte| *byte == b';').next(), Some(b"." | b".."))
}

fn decode(segment: &str) -> Result<Vec<u8>, PathRefused> {
    let mut bytes = segment.bytes();
    let mut decoded = Vec::with_capacity(segment.len());
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => match (bytes.next().and_then(hex_digit), bytes.next().and_then(hex_digit)) {
                (Some(high), Some(low)) => match high << 4 | low {
                    b'/' | b'\\' | 0 => return Err(PathRefused::HiddenSeparator),
                    byte => byte,
                },
                _ => return Err(PathRefused::Encoding),
            },
            b'\\' => return Err(PathRefused::HiddenSeparator),
            // What is not ASCII has to be encoded, or the next hop may read it in another character set.
            byte if !byte.is_ascii_graphic() => return Err(PathRefused::Encoding),
            byte => byte,
        };
        decoded.push(byte);
    }
    Ok(decoded)
}

/// Decodes what needs no encoding and writes the rest with capitals (RFC 3986 sections 6.2.2.1 and 6.2.2.2).
fn rewrite(path: &str) -> String {
    let mut made = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find('%') {
        made.push_str(&rest[..at]);
        let code = &rest[at + 1..at + 3];
        match u8::from_str_radix(code, 16) {
            Ok(byte) if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') => {
                made.push(char::from(byte));
            }
            _ => {
                made.push('%');
                made.push_str(&code.to_ascii_uppercase());
            }
        }
        rest = &rest[at + 3..];
    }
    made.push_str(rest);
    made
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(path: &str) -> Result<String, PathRefused> {
        PlainPath::of(path).map(|path| path.as_str().to_owned())
    }

    #[test]
    fn hostile_paths_are_refused_each_for_its_reason() {
        for (path, why) in [
            ("", PathRefused::NotAPath),
            ("*", PathRefused::NotAPath),
            ("a/b", PathRefused::NotAPath),
            ("//", PathRefused::EmptySegment),
            ("/a//b", PathRefused::EmptySegment),
            ("//a", PathRefused::EmptySegment),
            ("/a//", PathRefused::EmptySegment),
            ("/a/../b", PathRefused::Dots),
            ("/./a", PathRefused::Dots),
            ("/a/..", PathRefused::Dots),
            ("/a/%2e%2E/b", PathRefused::Dots),
            ("/a/.%2e/b", PathRefused::Dots),
            ("/a/x%2ejson", PathRefused::Dots),
            ("/a/..;/b", PathRefused::Dots),
            ("/a/..;x=1/b", PathRefused::Dots),
            ("/a/..%3b/b", PathRefused::Dots),
            ("/a%2fb", PathRefused::HiddenSeparator),
            ("/a%2Fb", PathRefused::HiddenSeparator),
            ("/a%5cb", PathRefused::HiddenSeparator),
            ("/a%5Cb", PathRefused::HiddenSeparator),
            ("/a%00", PathRefused::HiddenSeparator),
            ("/a\\b", PathRefused::HiddenSeparator),
            ("/a%", PathRefused::Encoding),
            ("/a%4", PathRefused::Encoding),
            ("/a%zz", PathRefused::Encoding),
            ("/a%0d%0aX", PathRefused::Encoding),
            ("/a%7f", PathRefused::Encoding),
            ("/\u{e9}", PathRefused::Encoding),
            ("/a%ff", PathRefused::NotUtf8),
            ("/a%c0%af", PathRefused::NotUtf8),
        ] {
            assert_eq!(plain(path), Err(why), "{path:?}");
        }
    }

    #[test]
    fn a_slash_at_the_end_means_the_same_as_none() {
        assert_eq!(plain("/v1/keys/"), plain("/v1/keys"));
        assert_eq!(plain("/"), Ok("/".to_owned()));
    }

    #[test]
    fn what_needs_no_encoding_is_decoded_and_the_rest_written_in_one_way() {
        assert_eq!(plain("/%61%70i/%e2%82%ac/a%20b"), Ok("/api/%E2%82%AC/a%20b".to_owned()));
        assert_eq!(plain("/a.b;v=1/..c/..."), Ok("/a.b;v=1/..c/...".to_owned()));
        // A percent sign that was itself encoded stays so: `%252f` never becomes a separator.
        assert_eq!(plain("/a%252fb"), Ok("/a%252fb".to_owned()));
    }

    proptest! {
        #[test]
        fn what_is_plain_stays_as_it_is(path in "/[a-z./%25e\\-]{0,24}") {
            if let Ok(once) = plain(&path) {
                prop_assert_eq!(plain(&once), Ok(once.clone()));
                prop_assert!(once == "/" || !once.ends_with('/'));
                prop_assert!(!once.contains("//") && !once.split('/').any(|part| part == "." || part == ".."));
            }
        }

        #[test]
        fn no_path_whatsoever_makes_it_panic(path in "\\PC{0,32}") {
            let _ = plain(&path);
        }
    }
}
