//! Numbers and durations as tables and the status page show them.

use std::time::Duration;

/// The text of an unknown value.
pub(crate) const UNKNOWN: &str = "-";

/// The format of numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Digits {
    /// Three significant digits and a power of 1000.
    #[default]
    Short,
    /// Integers.
    Exact,
}

/// Powers of 1000 with their letters, largest first.
const POWERS: [(f64, &str); 4] = [(1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")];

impl Digits {
    /// A count: `0`, `48`, `41.2k`, `1.7G`.
    #[expect(
        clippy::cast_precision_loss,
        reason = "only three digits are shown of numbers that large"
    )]
    pub(crate) fn count(self, value: u64) -> String {
        match self {
            Self::Exact => value.to_string(),
            Self::Short => short(value as f64),
        }
    }

    /// A rate: as a count, with one decimal below 10.
    pub(crate) fn rate(self, per_second: Option<f64>) -> String {
        match (per_second, self) {
            (None, _) => UNKNOWN.to_owned(),
            (Some(value), Self::Exact) => format!("{value:.0}"),
            (Some(value), Self::Short) => short(value),
        }
    }

    /// A rate of bytes, shown in bits.
    pub(crate) fn bits(self, bytes_per_second: Option<f64>) -> String {
        self.rate(bytes_per_second.map(|bytes| bytes * 8.0))
    }
}

fn short(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude < 0.05 {
        return "0".to_owned();
    }
    // A value that rounds up to 1000 of its unit takes the next unit.
    for (index, (power, letter)) in POWERS.iter().enumerate() {
        if magnitude >= power * 0.9995 {
            let scaled = value / power;
            let next_is_larger = index == 0 || scaled.abs() < 999.5;
            if next_is_larger {
                return format!("{}{letter}", three_digits(scaled));
            }
        }
    }
    if magnitude < 9.95 && (magnitude - magnitude.round()).abs() >= 0.05 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

fn three_digits(value: f64) -> String {
    if value.abs() < 99.95 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// A share of 1 as a percentage: `31%`, and with one or two decimals below 10 and 1: `4.8%`, `0.11%`.
pub(crate) fn percent(ratio: Option<f64>) -> String {
    let Some(ratio) = ratio else {
        return UNKNOWN.to_owned();
    };
    let percent = ratio * 100.0;
    if percent == 0.0 || percent >= 9.95 {
        format!("{percent:.0}%")
    } else if percent >= 0.995 {
        format!("{percent:.1}%")
    } else {
        format!("{percent:.2}%")
    }
}

/// An age or a time left: `0.4s`, `38s`, `4m10s`, `2h03m`, `3d04h`.
pub(crate) fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0 if duration.subsec_millis() >= 100 => format!("0.{}s", duration.subsec_millis() / 100),
        0..60 => format!("{seconds}s"),
        60..3600 if seconds.is_multiple_of(60) => format!("{minutes}m"),
        60..3600 => format!("{minutes}m{}s", seconds % 60),
        3600..86_400 => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

/// [`age`] of a number of seconds that came from JSON.
pub(crate) fn age_seconds(seconds: f64) -> String {
    age(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

/// A short duration with its own unit: `250us`, `1.2ms`, `3.0s`.
pub(crate) fn latency(seconds: Option<f64>) -> String {
    match seconds {
        None => UNKNOWN.to_owned(),
        Some(s) if s < 0.000_999_5 => format!("{:.0}us", s * 1e6),
        Some(s) if s < 0.099_95 => format!("{:.1}ms", s * 1e3),
        Some(s) if s < 0.999_5 => format!("{:.0}ms", s * 1e3),
        Some(s) => format!("{s:.1}s"),
    }
}

/// An integer with commas, for sentences: `48,210`.
pub(crate) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of flows, for sentences: `1 flow`, `48,210 flows`.
pub(crate) fn flows(count: u64) -> String {
    let noun = if count == 1 { "flow" } else { "flows" };
    format!("{} {noun}", grouped(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_three_digits_and_powers_of_1000() {
        for (value, short, exact) in [
            (0, "0", "0"),
            (7, "7", "7"),
            (999, "999", "999"),
            (1_000, "1.0k", "1000"),
            (5_230, "5.2k", "5230"),
            (41_234, "41.2k", "41234"),
            (284_499, "284k", "284499"),
            (999_499, "999k", "999499"),
            (999_500, "1.0M", "999500"),
            (14_000_000, "14.0M", "14000000"),
            (1_700_000_000, "1.7G", "1700000000"),
            (u64::MAX, "18446744T", "18446744073709551615"),
        ] {
            assert_eq!(Digits::Short.count(value), short);
            assert_eq!(Digits::Exact.count(value), exact);
        }
    }

    #[test]
    fn small_rates_keep_a_decimal() {
        for (value, text) in [
            (None, "-"),
            (Some(0.0), "0"),
            (Some(0.01), "0"),
            (Some(0.3), "0.3"),
            (Some(3.1), "3.1"),
            (Some(4.0), "4"),
            (Some(12.4), "12"),
            (Some(999.7), "1.0k"),
            (Some(-1200.0), "-1.2k"),
        ] {
            assert_eq!(Digits::Short.rate(value), text);
        }
        assert_eq!(Digits::Exact.rate(Some(1234.6)), "1235");
        assert_eq!(Digits::Short.bits(Some(137_500.0)), "1.1M");
    }

    #[test]
    fn percentages_show_small_shares() {
        for (ratio, text) in [
            (None, "-"),
            (Some(0.0), "0%"),
            (Some(0.0011), "0.11%"),
            (Some(0.048), "4.8%"),
            (Some(0.31), "31%"),
            (Some(1.0), "100%"),
        ] {
            assert_eq!(percent(ratio), text);
        }
    }

    #[test]
    fn ages_have_their_two_largest_units() {
        for (millis, text) in [
            (0, "0s"),
            (40, "0s"),
            (400, "0.4s"),
            (1_900, "1s"),
            (59_999, "59s"),
            (60_000, "1m"),
            (250_000, "4m10s"),
            (1_080_000, "18m"),
            (7_380_000, "2h03m"),
            (273_600_000, "3d04h"),
        ] {
            assert_eq!(age(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn latencies_have_the_fitting_unit() {
        for (seconds, text) in [
            (None, "-"),
            (Some(0.000_088), "88us"),
            (Some(0.0012), "1.2ms"),
            (Some(0.25), "250ms"),
            (Some(3.0), "3.0s"),
        ] {
            assert_eq!(latency(seconds), text);
        }
    }

    #[test]
    fn sentences_group_digits() {
        for (value, text) in [
            (0, "0"),
            (999, "999"),
            (48_210, "48,210"),
            (1_000_000, "1,000,000"),
        ] {
            assert_eq!(grouped(value), text);
        }
    }

    #[test]
    fn one_flow_is_singular() {
        assert_eq!([0, 1, 48_210].map(flows), ["0 flows", "1 flow", "48,210 flows"]);
    }
}
