//! Numbers and durations in texts and arguments.

use std::time::Duration;

/// Powers of 1000 with their letters, largest first.
const POWERS: [(f64, &str); 3] = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
/// Units of time in seconds, largest first.
const TIMES: [(f64, &str); 4] = [(1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")];

/// An argument that is no number or duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NumberError {
    #[error("allowed is a positive number, such as 500000, 500k or 1.5M")]
    Count,
    #[error("allowed is a whole number from 1 to {most}, such as 64000, 64k or 1M")]
    Whole { most: u64 },
    #[error("allowed is a duration such as 10s, 250ms or 1m30s, or a number of seconds")]
    Duration,
}

/// A count or a rate with three digits: `812`, `49.8k`, `5.00M`.
pub(crate) fn short(value: f64) -> String {
    // A value that rounds up to 1000 of a unit takes the next one.
    match POWERS.iter().find(|(power, _)| value.abs() >= power * 0.9995) {
        Some((power, letter)) => format!("{}{letter}", three_digits(value / power)),
        None if value.fract().abs() < 1e-9 => format!("{value:.0}"),
        None => three_digits(value),
    }
}

/// A count: as [`short`].
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(crate) fn count(value: u64) -> String {
    short(value as f64)
}

/// A time with its own unit: `88us`, `1.92ms`, `2.10s`.
pub(crate) fn time(seconds: f64) -> String {
    let (unit, name) = TIMES
        .into_iter()
        .find(|(unit, _)| seconds >= unit * 0.9995)
        .unwrap_or((1e-9, "ns"));
    let value = seconds / unit;
    if unit < 1e-3 {
        format!("{value:.0}{name}")
    } else {
        format!("{}{name}", three_digits(value))
    }
}

/// A share of 1 as a percentage: `0.016%`, `71%`.
pub(crate) fn percent(ratio: f64) -> String {
    let percent = ratio * 100.0;
    if percent == 0.0 || percent >= 9.95 {
        format!("{percent:.0}%")
    } else if percent >= 0.0995 {
        format!("{percent:.2}%")
    } else {
        format!("{percent:.4}%")
    }
}

fn three_digits(value: f64) -> String {
    match value.abs() {
        0.0..9.995 => format!("{value:.2}"),
        9.995..99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// Reads a positive count or rate: `500000`, `500k`, `1.5M`.
pub(crate) fn parse_count(text: &str) -> Result<f64, NumberError> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" | "m" => 1e6,
        "G" | "g" => 1e9,
        _ => return Err(NumberError::Count),
    };
    let number = digits.parse::<f64>().ok().map(|number| number * factor);
    number
        .filter(|number| number.is_finite() && *number > 0.0)
        .ok_or(NumberError::Count)
}

/// Reads a whole count from 1 to `most`: as [`parse_count`].
pub(crate) fn parse_whole(text: &str, most: u64) -> Result<u64, NumberError> {
    let number = parse_count(text).ok().filter(|number| number.fract() == 0.0);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "whole and positive; larger ones become u64::MAX"
    )]
    let whole = number.map(|number| number as u64);
    whole
        .filter(|whole| (1..=most).contains(whole))
        .ok_or(NumberError::Whole { most })
}

/// Reads a duration: `10s`, `250ms`, `1m30s`, or seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, NumberError> {
    let seconds = text.parse::<f64>().ok();
    let seconds = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds
        .or_else(|| humantime::parse_duration(text).ok())
        .ok_or(NumberError::Duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_three_digits() {
        for (value, text) in [
            (0.0, "0"),
            (7.0, "7"),
            (812.0, "812"),
            (999.96, "1.00k"),
            (49_812.0, "49.8k"),
            (499_000.0, "499k"),
            (5_000_000.0, "5.00M"),
            (1.5e9, "1.50G"),
            (0.256, "0.26"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn times_have_their_unit() {
        for (seconds, text) in [
            (0.0, "0ns"),
            (850e-9, "850ns"),
            (88e-6, "88us"),
            (412.4e-6, "412us"),
            (1.9e-3, "1.90ms"),
            (61.25e-3, "61.2ms"),
            (0.25, "250ms"),
            (2.1, "2.10s"),
        ] {
            assert_eq!(time(seconds), text);
        }
    }

    #[test]
    fn shares_are_percentages() {
        for (ratio, text) in [
            (0.0, "0%"),
            (0.000_162, "0.0162%"),
            (0.05, "5.00%"),
            (0.712, "71%"),
        ] {
            assert_eq!(percent(ratio), text);
        }
    }

    #[test]
    fn counts_are_read_with_their_letter() {
        for (text, value) in [
            ("500000", Some(500_000.0)),
            ("500k", Some(500_000.0)),
            ("1.5M", Some(1_500_000.0)),
            ("0", None),
            ("-1", None),
            ("k", None),
            ("5x", None),
            ("", None),
            ("inf", None),
            ("nan", None),
        ] {
            assert_eq!(parse_count(text).ok(), value, "{text:?}");
        }
    }

    #[test]
    fn whole_counts_have_a_limit() {
        for (text, value) in [
            ("1", Some(1)),
            ("64k", Some(64_000)),
            ("100M", Some(100_000_000)),
            ("101M", None),
            ("0.5", None),
            ("1e30", None),
            ("0", None),
        ] {
            assert_eq!(parse_whole(text, 100_000_000).ok(), value, "{text:?}");
        }
    }

    #[test]
    fn durations_are_read_with_their_unit_or_in_seconds() {
        for (text, millis) in [
            ("10s", Some(10_000)),
            ("250ms", Some(250)),
            ("1m30s", Some(90_000)),
            ("0.5", Some(500)),
            ("0", Some(0)),
            ("-1", None),
            ("ten", None),
        ] {
            assert_eq!(
                parse_duration(text).ok(),
                millis.map(Duration::from_millis),
                "{text:?}"
            );
        }
    }
}
