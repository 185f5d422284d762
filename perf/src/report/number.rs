//! Numbers as people read and write them.

use std::time::Duration;

/// Powers of 1000 with their letters, largest first.
const POWERS: [(f64, &str); 3] = [(1e9, "G"), (1e6, "M"), (1e3, "k")];
/// Units of time in seconds, largest first.
const TIMES: [(f64, &str); 4] = [(1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")];

/// A count or a rate with three digits: `812`, `49.8k`, `5.00M`.
pub(crate) fn short(value: f64) -> String {
    // What would round up to 1000 of a unit belongs to the next one.
    match POWERS.iter().find(|(power, _)| value.abs() >= power * 0.9995) {
        Some((power, letter)) => format!("{}{letter}", three_digits(value / power)),
        None if value.fract().abs() < 1e-9 || value.abs() >= 99.95 => format!("{value:.0}"),
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
    if unit < 1e-3 || value >= 99.95 {
        format!("{value:.0}{name}")
    } else if value >= 9.995 {
        format!("{value:.1}{name}")
    } else {
        format!("{value:.2}{name}")
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

/// Reads a count or rate: `500000`, `500k`, `1.5M`.
///
/// # Errors
///
/// Something else, or not positive.
pub(crate) fn parse_count(text: &str) -> Result<f64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" | "m" => 1e6,
        "G" | "g" => 1e9,
        _ => return Err(format!("{text:?}: want a number such as 500000, 500k or 1.5M")),
    };
    digits
        .parse::<f64>()
        .ok()
        .map(|number| number * factor)
        .filter(|number| number.is_finite() && *number > 0.0)
        .ok_or_else(|| format!("{text:?}: want a number such as 500000, 500k or 1.5M"))
}

/// Reads a whole count: as [`parse_count`].
///
/// # Errors
///
/// Something else, or not positive.
pub(crate) fn parse_whole(text: &str) -> Result<u64, String> {
    let number = parse_count(text)?;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked to be whole, positive and small"
    )]
    let whole = number as u64;
    if number.fract() == 0.0 && number < 1e15 {
        Ok(whole)
    } else {
        Err(format!("{text:?}: want a whole number such as 64000, 64k or 1M"))
    }
}

/// Reads a duration: `10s`, `250ms`, `1m30s`, or seconds.
///
/// # Errors
///
/// Something else.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let seconds = text
        .parse::<f64>()
        .ok()
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    match seconds {
        Some(duration) => Ok(duration),
        None => humantime::parse_duration(text)
            .map_err(|_| format!("{text:?}: want a duration such as 10s, 250ms or 1m30s")),
    }
}

/// Rows as right-aligned columns with two spaces between them, the first column left-aligned. All rows have as many
/// cells as the first one.
pub(crate) fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(String::len)
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(index, (cell, &width))| match index {
                0 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

fn three_digits(value: f64) -> String {
    match value.abs() {
        0.0..9.995 => format!("{value:.2}"),
        9.995..99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let rows = [["A", "BB"], ["long", "1"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(aligned(&rows), "A     BB\nlong   1\n");
    }

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
        assert_eq!(parse_whole("64k"), Ok(64_000));
        assert!(parse_whole("0.5").is_err());
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
