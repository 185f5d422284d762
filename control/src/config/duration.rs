//! Durations in the configuration, the environment, annotations, queries and arguments: `60s`, `1h 30m`, and the
//! spelling of Go, which Network Service Mesh uses: `10m0s`.

use serde::Serializer;
use vl3lb_common::Duration;

/// The valid durations, for errors.
pub const FORM: &str = "a duration such as 500ms, 60s, 10m0s or 1h30m";

/// Longer durations are mistakes. Within it, sums of durations do not overflow.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// humantime 2.4 panics if a carry of nanoseconds overflows the seconds; texts within these limits cannot get there.
const LONGEST_TEXT: usize = 64;
const MOST_DIGITS: usize = 9;

/// Why a text is no duration.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum DurationError {
    #[error("{source}; allowed {FORM}")]
    Syntax {
        #[from]
        source: humantime::DurationError,
    },
    #[error("too long; allowed {FORM}")]
    TooLong,
}

/// Reads a sequence of decimal numbers with units, or a bare `0`.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let digits = text.split(|c: char| !c.is_ascii_digit()).map(str::len).max();
    if text.len() > LONGEST_TEXT || digits > Some(MOST_DIGITS) {
        return Err(DurationError::TooLong);
    }
    let duration = humantime::parse_duration(text.trim())?;
    (duration <= LONGEST)
        .then_some(duration)
        .ok_or(DurationError::TooLong)
}

/// Writes a duration so that [`parse`] reads it back: `2h4m`, `60s` as `1m`, `0s`.
pub fn format(duration: Duration) -> String {
    humantime::format_duration(duration).to_string().replace(' ', "")
}

/// For `#[serde(serialize_with)]`.
pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_spellings_of_people_and_of_go() {
        for (text, millis) in [
            ("60s", 60_000),
            ("1m", 60_000),
            ("10m0s", 600_000),
            ("1h 30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("500ms", 500),
            ("2h4m", 7_440_000),
            ("1d", 86_400_000),
            ("0", 0),
            ("0s", 0),
            (" 5s ", 5_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "60", "s", "1x", "1m s", "-1s", "1..5s", "1e9s", "m1"] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, DurationError::Syntax { .. }), "{text}: {error}");
            assert!(error.to_string().ends_with(FORM), "{text}: {error}");
        }
    }

    #[test]
    fn a_duration_that_would_overflow_is_an_error() {
        for text in [
            "101y",
            "999999999w",
            "99999999999999999999s",
            // A panic in humantime 2.4.
            "18446744073709551615s1000ms",
        ] {
            assert_eq!(parse(text), Err(DurationError::TooLong), "{text}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for text in ["2h4m", "1m", "1h30m", "500ms", "0s", "1s250us", "1day", "7days"] {
            let duration = parse(text).unwrap();
            assert_eq!(format(duration), text);
        }
        assert_eq!(format(parse("1m0s").unwrap()), "1m");
    }
}
