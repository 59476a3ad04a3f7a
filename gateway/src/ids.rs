//! Names of things: every id and name that crosses the boundary is one of these types.
//! Who enters: strings, parsed once; dice, for new ids.
//! What leaves: values that are known to be well formed, so no `&str` inside the house means an id.

use std::fmt;
use std::str::FromStr;

use audit::Workspace;

use crate::dice::Dice;
use crate::malformed::Malformed;
use crate::moment::Moment;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const TAIL_CHARS: usize = 20;
/// Milliseconds since 1970 fit into 45 bits until the year 3084.
const TIME_CHARS: usize = 9;

/// Twenty characters of Crockford's base 32: 100 random bits, no look-alikes.
fn random_tail(dice: &Dice) -> String {
    let bytes: [u8; TAIL_CHARS] = dice.throw();
    bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).collect()
}

fn is_tail(text: &str) -> bool {
    text.len() == TAIL_CHARS && text.bytes().all(|byte| ALPHABET.contains(&byte))
}

/// Written and read as its text, by the same rule as everywhere.
macro_rules! as_text {
    ($name:ident) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(from)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// A new one that no one can guess.
            pub fn new(dice: &Dice) -> Self {
                Self(format!(concat!($prefix, "{}"), random_tail(dice)))
            }

            /// As it is written.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Malformed;

            fn from_str(text: &str) -> Result<Self, Malformed> {
                match text.strip_prefix($prefix) {
                    Some(tail) if is_tail(tail) => Ok(Self(text.to_owned())),
                    _ => Err(Malformed { expected: $expected }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        as_text!($name);
    };
}

/// A workspace: one customer, team or system whose keys are its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkspaceId(Workspace);

impl WorkspaceId {
    const PREFIX: &str = "ws_";

    /// A new one that no one can guess.
    ///
    /// # Errors
    /// None in practice: the ledger's own rule for workspaces is wider than ours.
    pub fn new(dice: &Dice) -> Result<Self, Malformed> {
        format!("{}{}", Self::PREFIX, random_tail(dice)).parse()
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// As the ledger knows it.
    pub fn on_ledger(&self) -> &Workspace {
        &self.0
    }
}

impl FromStr for WorkspaceId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let malformed = Malformed { expected: "workspace id (`ws_` and 20 characters)" };
        match text.strip_prefix(Self::PREFIX) {
            Some(tail) if is_tail(tail) => Workspace::new(text).map(Self).map_err(|_| malformed),
            _ => Err(malformed),
        }
    }
}

as_text!(WorkspaceId);

impl fmt::Display for WorkspaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

id!(
    /// A signing key with all its versions.
    SigningKeyId, "key_", "key id (`key_` and 20 characters)"
);
id!(
    /// A client: a machine or program that holds a client certificate.
    ClientId, "cl_", "client id (`cl_` and 20 characters)"
);
id!(
    /// An API key, without its secret.
    ApiKeyId, "ak_", "API key id (`ak_` and 20 characters)"
);
id!(
    /// One request, as the ledger, the log and the answer name it.
    RequestId, "req_", "request id (`req_` and 20 characters)"
);

impl RequestId {
    /// A new one that sorts after earlier ones: nine characters of time, then chance. The ledger's index by request
    /// grows at its end, where random ids would touch a page each.
    pub fn at(now: Moment, dice: &Dice) -> Self {
        let millis = now.micros() / 1000;
        let time = (0..TIME_CHARS)
            .rev()
            .map(|at| ALPHABET[usize::try_from(millis >> (5 * at) & 31).unwrap_or_default()]);
        let chance: [u8; TAIL_CHARS - TIME_CHARS] = dice.throw();
        let tail: String =
            time.chain(chance.map(|byte| ALPHABET[usize::from(byte & 31)])).map(char::from).collect();
        Self(format!("req_{tail}"))
    }
}

const UPSTREAM_NAME_CHARS_MAX: usize = 32;

/// The name of an upstream: 1 to 32 of `a-z 0-9 -`, starting with a letter or digit. It is part of a scope, and so
/// small enough to be copied with it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamName {
    chars: [u8; UPSTREAM_NAME_CHARS_MAX],
    length: u8,
}

impl UpstreamName {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.chars[..usize::from(self.length)]).unwrap_or_default()
    }
}

impl FromStr for UpstreamName {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let all_well = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let length = u8::try_from(text.len()).unwrap_or(u8::MAX);
        if !all_well || text.is_empty() || text.starts_with('-') || text.len() > UPSTREAM_NAME_CHARS_MAX {
            return Err(Malformed {
                expected: "name of an upstream (1 to 32 of a-z, 0-9 and -, starting with a letter or digit)",
            });
        }
        let mut chars = [0; UPSTREAM_NAME_CHARS_MAX];
        chars[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { chars, length })
    }
}

impl fmt::Display for UpstreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for UpstreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UpstreamName({self})")
    }
}

/// What names no thing, because it stands for all of them: the scope of a policy for every key of a workspace.
pub const RESERVED_NAME: &str = "workspace";

const NAME_CHARS_MAX: usize = 64;
/// The prefixes of ids have two to four letters so far; names leave room for longer ones.
const ID_PREFIX_CHARS_MAX: usize = 8;

/// A name that people choose: 1 to 64 of `a-z 0-9 - _ .`, starting with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of a new thing. It cannot be taken for an id of whatever kind, nor for the word that stands for all things of
    /// a kind: wherever one argument takes a name or an id, it means one thing. Names that stand from before are read as they are.
    ///
    /// # Errors
    /// It is no name, or one that could be taken for something else.
    pub fn chosen(text: &str) -> Result<Self, Malformed> {
        if text == RESERVED_NAME {
            return Err(Malformed { expected: "name (`workspace` stands for all keys of a workspace)" });
        }
        match looks_like_an_id(text) {
            true => Err(Malformed { expected: "name (this one has the form of an id)" }),
            false => text.parse(),
        }
    }
}

/// A few letters, an underscore, and as many characters as ids have or more.
fn looks_like_an_id(text: &str) -> bool {
    let Some((prefix, tail)) = text.split_once('_') else { return false };
    (1..=ID_PREFIX_CHARS_MAX).contains(&prefix.len())
        && prefix.bytes().all(|byte| byte.is_ascii_lowercase())
        && tail.len() >= TAIL_CHARS
        && tail.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

impl FromStr for Name {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let starts_well = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let all_well = text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.'));
        if starts_well && all_well && text.len() <= NAME_CHARS_MAX {
            Ok(Self(text.to_owned()))
        } else {
            Err(Malformed {
                expected: "name (1 to 64 of a-z, 0-9, -, _ and ., starting with a letter or digit)",
            })
        }
    }
}

as_text!(Name);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_id_reads_back_as_itself() {
        let id = WorkspaceId::new(&Dice::system()).unwrap();
        assert_eq!(id.as_str().parse::<WorkspaceId>(), Ok(id));
    }

    #[test]
    fn a_later_request_sorts_after_an_earlier_one() {
        let at = |micros| RequestId::at(Moment::from_micros(micros), &Dice::system());
        let ids =
            [0, 1000, 32_000, 1_700_000_000_000_000, 1_700_000_000_001_000, 3_000_000_000_000_000].map(at);
        assert!(ids.is_sorted(), "{ids:?}");
        assert!(ids.iter().all(|id| id.as_str().parse::<RequestId>().is_ok()));
    }

    #[test]
    fn an_id_of_another_kind_is_refused() {
        let id = WorkspaceId::new(&Dice::system()).unwrap();
        assert!(id.as_str().parse::<SigningKeyId>().is_err());
    }

    #[test]
    fn no_new_name_can_be_taken_for_an_id_or_a_reserved_word() {
        let dice = Dice::system();
        let ids = [
            WorkspaceId::new(&dice).unwrap().to_string(),
            SigningKeyId::new(&dice).to_string(),
            ClientId::new(&dice).to_string(),
            ApiKeyId::new(&dice).to_string(),
            RequestId::new(&dice).to_string(),
            format!("wf_{}", "0".repeat(32)),
            RESERVED_NAME.to_owned(),
        ];
        for text in ids {
            assert!(Name::chosen(&text).is_err(), "{text}");
            assert!(text.parse::<Name>().is_ok(), "{text} stands from before and is read");
        }
        for text in
            ["release", "key_release", "workspace-2", "ws_short", "a_b_c", "2026_00000000000000000000"]
        {
            assert!(Name::chosen(text).is_ok(), "{text}");
        }
        assert!(Name::chosen("A").is_err());
    }

    #[test]
    fn hostile_names_are_refused() {
        for text in ["", ".x", "-x", "A", "a b", "a/b", "a\0", "é", &"a".repeat(65)] {
            assert!(text.parse::<Name>().is_err(), "{text:?}");
        }
        assert!("release-2026.01_a".parse::<Name>().is_ok());
        for text in ["", "-x", "A", "a_b", "a.b", "a b", &"a".repeat(33)] {
            assert!(text.parse::<UpstreamName>().is_err(), "{text:?}");
        }
        assert_eq!("ledger-2".parse::<UpstreamName>().unwrap().as_str(), "ledger-2");
    }
}
