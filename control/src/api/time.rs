//! Calendar time, as reports show it.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// A text that is not a time.
#[derive(Debug, Error)]
#[error("{text:?} is not a time, allowed RFC 3339 in UTC: {source}")]
pub struct TimeError {
    text: String,
    source: humantime::TimestampError,
}

/// The end of the year 9999.
const LAST: Duration = Duration::from_millis(253_402_300_799_999);

/// A point in time, written as RFC 3339 in UTC with milliseconds; before 1970 as the begin of that year, after 9999 as the
/// end of that one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub SystemTime);

impl Time {
    /// The current time. Only I/O code calls it; decisions take the time as a parameter.
    pub fn now() -> Self {
        Self(SystemTime::now())
    }

    /// Time passed since `earlier`, zero if that is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.duration_since(earlier.0).unwrap_or_default()
    }

    /// The time `age` before this one.
    pub fn before(self, age: Duration) -> Self {
        Self(self.0.checked_sub(age).unwrap_or(UNIX_EPOCH))
    }

    /// Seconds since 1970, as Prometheus writes timestamps.
    pub fn unix_seconds(self) -> f64 {
        self.0
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs_f64()
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Times of others may be anywhere, and RFC 3339 has years of four digits.
        let shown = self.0.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST);
        humantime::format_rfc3339_millis(shown).fmt(f)
    }
}

impl FromStr for Time {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_rfc3339(text)
            .map(Self)
            .map_err(|source| TimeError {
                text: text.to_owned(),
                source,
            })
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_what_they_print() {
        let time: Time = "2026-11-24T06:12:40.250Z".parse().unwrap();
        assert_eq!(time.to_string(), "2026-11-24T06:12:40.250Z");
        assert_eq!(
            time.before(Duration::from_secs(40)).to_string(),
            "2026-11-24T06:12:00.250Z"
        );
        assert_eq!(time.since(time.before(Duration::from_secs(40))).as_secs(), 40);
        assert!("yesterday".parse::<Time>().is_err());
    }

    #[test]
    fn times_that_rfc_3339_cannot_say_are_the_nearest_that_it_can() {
        let second = Duration::from_secs(1);
        for (time, shown) in [
            (UNIX_EPOCH - second, "1970-01-01T00:00:00.000Z"),
            (UNIX_EPOCH + LAST, "9999-12-31T23:59:59.999Z"),
            (UNIX_EPOCH + LAST + second, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(Time(time).to_string(), shown);
        }
    }
}
