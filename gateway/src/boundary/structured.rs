//! Structured fields (RFC 9651): a dictionary is read as its grammar has it, or not at all.
//! Who enters: the lines of a header, joined.
//! What leaves: one member as a whole number or a truth; everything else is walked over by its own rules.

/// A member's value, as far as anybody here asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Item {
    Integer(i64),
    Boolean(bool),
    Other,
}

/// The last member of this name in a dictionary (section 4.2.2); `None` too where the text is no dictionary.
pub(super) fn member(text: &[u8], name: &str) -> Option<Item> {
    let mut rest = Rest(text);
    let mut found = None;
    rest.skip(b" ");
    while !rest.0.is_empty() {
        let key = rest.key()?;
        let value = if rest.takes(b'=') { rest.item_or_list()? } else { Item::Boolean(true) };
        rest.parameters()?;
        if key == name.as_bytes() {
            found = Some(value);
        }
        rest.skip(b" \t");
        if !rest.0.is_empty() {
            rest.takes(b',').then_some(())?;
            rest.skip(b" \t");
            // A comma that nothing follows.
            rest.0.first()?;
        }
    }
    rest.skip(b" ");
    rest.0.is_empty().then_some(found).flatten()
}

/// What is left to read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn takes(&mut self, byte: u8) -> bool {
        let is_next = self.0.first() == Some(&byte);
        if is_next {
            self.0 = &self.0[1..];
        }
        is_next
    }

    fn skip(&mut self, bytes: &[u8]) {
        self.run_of(|byte| bytes.contains(&byte));
    }

    fn run_of(&mut self, fits: impl Fn(u8) -> bool) -> &'a [u8] {
        let length = self.0.iter().position(|byte| !fits(*byte)).unwrap_or(self.0.len());
        let (read, rest) = self.0.split_at(length);
        self.0 = rest;
        read
    }

    fn key(&mut self) -> Option<&'a [u8]> {
        self.0.first().filter(|byte| byte.is_ascii_lowercase() || **byte == b'*')?;
        Some(
            self.run_of(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.*".contains(&byte)),
        )
    }

    fn item_or_list(&mut self) -> Option<Item> {
        if !self.takes(b'(') {
            return self.bare_item();
        }
        loop {
            self.skip(b" ");
            if self.takes(b')') {
                return Some(Item::Other);
            }
            self.bare_item()?;
            self.parameters()?;
            self.0.first().filter(|byte| b" )".contains(byte))?;
        }
    }

    fn parameters(&mut self) -> Option<()> {
        while self.takes(b';') {
            self.skip(b" ");
            self.key()?;
            if self.takes(b'=') {
                self.bare_item()?;
            }
        }
        Some(())
    }

    fn bare_item(&mut self) -> Option<Item> {
        let first = *self.0.first()?;
        match first {
            b'-' | b'0'..=b'9' => return self.number(),
            b'?' => {
                self.next();
                return match self.next()? {
                    b'0' => Some(Item::Boolean(false)),
                    b'1' => Some(Item::Boolean(true)),
                    _ => None,
                };
            }
            b'"' => self.string()?,
            b':' => {
                self.next();
                self.run_of(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
                self.takes(b':').then_some(())?;
            }
            b'@' => {
                self.next();
                matches!(self.number()?, Item::Integer(_)).then_some(())?;
            }
            b'%' => self.display_string()?,
            b'*' => self.token(),
            _ if first.is_ascii_alphabetic() => self.token(),
            _ => return None,
        }
        Some(Item::Other)
    }

    /// Fifteen digits at most, or twelve and up to three behind a point (section 4.2.4).
    fn number(&mut self) -> Option<Item> {
        let sign = if self.takes(b'-') { -1 } else { 1 };
        let whole = self.run_of(|byte| byte.is_ascii_digit());
        if self.takes(b'.') {
            let fraction = self.run_of(|byte| byte.is_ascii_digit());
            return ((1..=12).contains(&whole.len()) && (1..=3).contains(&fraction.len()))
                .then_some(Item::Other);
        }
        let digits = std::str::from_utf8(whole).ok().filter(|digits| (1..=15).contains(&digits.len()))?;
        Some(Item::Integer(sign * digits.parse::<i64>().ok()?))
    }

    fn string(&mut self) -> Option<()> {
        self.next();
        loop {
            match self.next()? {
                b'"' => return Some(()),
                b'\\' => self.next().filter(|byte| b"\"\\".contains(byte)).map(drop)?,
                0x20..=0x7e => {}
                _ => return None,
            }
        }
    }

    /// `%"f%c3%bc"` (section 4.2.10): lower-case hex digits, and UTF-8 in the end.
    fn display_string(&mut self) -> Option<()> {
        self.next();
        self.takes(b'"').then_some(())?;
        let mut text = Vec::new();
        loop {
            match self.next()? {
                b'"' => return std::str::from_utf8(&text).is_ok().then_some(()),
                b'%' => {
                    let digits = [self.next()?, self.next()?];
                    let upper = digits.iter().any(u8::is_ascii_uppercase);
                    let digits = std::str::from_utf8(&digits).ok().filter(|_| !upper)?;
                    text.push(u8::from_str_radix(digits, 16).ok()?);
                }
                byte @ 0x20..=0x7e => text.push(byte),
                _ => return None,
            }
        }
    }

    fn token(&mut self) {
        self.run_of(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dictionary_is_read_by_its_grammar() {
        for (text, found) in [
            ("u=1", Some(Item::Integer(1))),
            ("  u=1 ", Some(Item::Integer(1))),
            ("i, u=0", Some(Item::Integer(0))),
            ("a=(1 \"x\";q u);p=2 , u=2", Some(Item::Integer(2))),
            ("u=5, u=1", Some(Item::Integer(1))),
            ("u=1, u=5", Some(Item::Integer(5))),
            ("u=1;why=\"late\"", Some(Item::Integer(1))),
            ("u=-1", Some(Item::Integer(-1))),
            ("u=10", Some(Item::Integer(10))),
            ("u", Some(Item::Boolean(true))),
            ("u=?0", Some(Item::Boolean(false))),
            ("u=1.0", Some(Item::Other)),
            ("u=(1)", Some(Item::Other)),
            ("u=one", Some(Item::Other)),
            ("d=@1659578233, b=:aGk=:, s=\"\\\"\\\\\", n=%\"f%c3%bc\", u=1", Some(Item::Integer(1))),
            ("", None),
            ("xu=1", None),
            ("a=\"u=1\"", None),
            ("a;u=1", None),
        ] {
            assert_eq!(member(text.as_bytes(), "u"), found, "{text}");
        }
    }

    /// Section 4.2: where parsing fails, the whole field is left aside.
    #[test]
    fn what_is_no_dictionary_has_no_members() {
        for text in [
            "u=1,",
            "u=1,,i",
            ",u=1",
            "u=1 i",
            "U=1",
            "u=1, 9=2",
            "u=",
            "u=1;",
            "u=1;Q",
            "u=(1",
            "u=(1(2))",
            "u=1, a=\"x",
            "u=1, a=\"\\x\"",
            "u=1, b=:a",
            "u=1, b=:?:",
            "u=1, t=?2",
            "u=1, n=1234567890123456",
            "u=1, n=1.",
            "u=1, n=1.0000",
            "u=1, n=1234567890123.0",
            "u=1, n=-",
            "u=1, d=@1.5",
            "u=1, s=\u{fc}",
            "u=1, d=%\"%C3\"",
            "u=1, d=%\"%ff\"",
            "u=1, d=%x",
            "\tu=1",
            "u=1\u{0}",
        ] {
            assert_eq!(member(text.as_bytes(), "u"), None, "{text}");
        }
    }
}
