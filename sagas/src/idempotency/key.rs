//! The key itself, as the header brings it: a structured-field string, or the same without quotes.
//! Who enters: the bytes of one header line.
//! What leaves: a key of 1 to 255 visible characters, or why it is none.

/// What a client calls one request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key(String);

/// Why a header is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAKey {
    /// Send 1 to 255 characters.
    #[error("an idempotency key has 1 to 255 characters")]
    Length,
    /// Send visible ASCII; a UUID will do.
    #[error("an idempotency key has visible ASCII characters only")]
    Character,
    /// Close the quotes, and escape only quotes and backslashes.
    #[error("an idempotency key in quotes is one structured-field string")]
    Quotes,
}

const BYTES_MAX: usize = 255;

impl Key {
    /// Reads the value of one header line; two lines are the boundary's to refuse.
    ///
    /// # Errors
    /// Why it is no key.
    pub fn parse(header: &[u8]) -> Result<Self, NotAKey> {
        let text = std::str::from_utf8(header).map_err(|_| NotAKey::Character)?;
        let text = text.trim_matches([' ', '\t']);
        let key = match text.strip_prefix('"') {
            Some(quoted) => unquoted(quoted)?,
            None => text.to_owned(),
        };
        if key.is_empty() || key.len() > BYTES_MAX {
            return Err(NotAKey::Length);
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NotAKey::Character);
        }
        if !text.starts_with('"') && key.contains(['"', '\\', ',', ';']) {
            // Without quotes these begin something else: parameters, a second item.
            return Err(NotAKey::Quotes);
        }
        Ok(Self(key))
    }

    /// The key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn unquoted(quoted: &str) -> Result<String, NotAKey> {
    let mut key = String::new();
    let mut rest = quoted.chars();
    loop {
        match rest.next() {
            Some('\\') => match rest.next() {
                Some(escaped @ ('"' | '\\')) => key.push(escaped),
                _ => return Err(NotAKey::Quotes),
            },
            Some('"') => return if rest.as_str().is_empty() { Ok(key) } else { Err(NotAKey::Quotes) },
            Some(plain) => key.push(plain),
            None => return Err(NotAKey::Quotes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(header: &str) -> Result<String, NotAKey> {
        Key::parse(header.as_bytes()).map(|key| key.0)
    }

    #[test]
    fn quoted_and_bare_keys_are_one_and_the_same() {
        assert_eq!(key("\"8e03978e-40d5\""), Ok("8e03978e-40d5".to_owned()));
        assert_eq!(key("8e03978e-40d5"), key("\"8e03978e-40d5\""));
        assert_eq!(key("  \"a\"\t"), key("a"));
        assert_eq!(key(r#""a\"b\\c""#), Ok(r#"a"b\c"#.to_owned()));
    }

    #[test]
    fn what_is_no_key_is_refused_and_never_mended() {
        let cases = [
            ("", NotAKey::Length),
            ("\"\"", NotAKey::Length),
            ("\"a", NotAKey::Quotes),
            ("\"a\"b", NotAKey::Quotes),
            ("\"a\";x=1", NotAKey::Quotes),
            ("a, b", NotAKey::Character),
            ("a,b", NotAKey::Quotes),
            ("a\"b", NotAKey::Quotes),
            (r#""a\n""#, NotAKey::Quotes),
            ("\"a b\"", NotAKey::Character),
            ("grün", NotAKey::Character),
        ];
        for (header, why) in cases {
            assert_eq!(key(header), Err(why), "{header}");
        }
        assert_eq!(key(&"k".repeat(255)).map(|key| key.len()), Ok(255));
        assert_eq!(key(&"k".repeat(256)), Err(NotAKey::Length));
        assert_eq!(Key::parse(&[0xff]), Err(NotAKey::Character));
    }
}
