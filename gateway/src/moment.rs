//! Moments in time as the house keeps them: microseconds since 1970, written as RFC 3339.
//! Who enters: the clock, stored columns, dates that callers send.
//! What leaves: values that compare, add and print; order never depends on them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use audit::Clock;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::malformed::Malformed;

/// A moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(i64);

impl Moment {
    /// Now, as the clock believes.
    pub fn now(clock: &dyn Clock) -> Self {
        Self(i64::try_from(clock.unix_us()).unwrap_or(i64::MAX))
    }

    /// From a stored column.
    pub fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// For a stored column.
    pub fn micros(self) -> i64 {
        self.0
    }

    /// Later by so much, never past the end of time.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl Moment {
    /// How long it is from here to there; nothing if that is past.
    pub fn until(self, later: Self) -> Duration {
        Duration::from_micros(u64::try_from(later.0.saturating_sub(self.0)).unwrap_or(0))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1000)
            .ok()
            .and_then(|at| at.format(&Rfc3339).ok());
        f.write_str(text.as_deref().unwrap_or("out of range"))
    }
}

impl FromStr for Moment {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let at = OffsetDateTime::parse(text, &Rfc3339).ok();
        let micros = at.and_then(|at| i64::try_from(at.unix_timestamp_nanos() / 1000).ok());
        micros.map(Self).ok_or(Malformed { expected: "time (RFC 3339, such as 2030-01-31T12:00:00Z)" })
    }
}

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Moment {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Moment".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_survives_the_way_to_text_and_back() {
        let moment = Moment::from_micros(1_893_456_000_123_456);
        assert_eq!(moment.to_string(), "2030-01-01T00:00:00.123456Z");
        assert_eq!(moment.to_string().parse(), Ok(moment));
    }

    #[test]
    fn no_stored_number_makes_it_panic() {
        for micros in [i64::MIN, i64::MAX, 0, -1] {
            let _ = Moment::from_micros(micros).plus(Duration::MAX).to_string();
        }
    }
}
