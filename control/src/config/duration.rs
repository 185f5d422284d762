//! Durations as people write them in configurations: `60s`, `1m`, `1h 30m`, and Go's `10m0s`.

use serde::Serializer;
use vl3lb_common::Duration;

/// What a rejected duration is told.
pub(super) const FORM: &str = "a duration such as 500ms, 60s, 10m0s or 1h30m";

/// Units, longest name first so that `ms` is not read as `m`. Nanoseconds each.
const UNITS: [(&str, f64); 9] = [
    ("ms", 1e6),
    ("us", 1e3),
    ("µs", 1e3),
    ("ns", 1.0),
    ("s", 1e9),
    ("m", 60e9),
    ("h", 3600e9),
    ("d", 86_400e9),
    ("w", 604_800e9),
];

/// Reads a sequence of decimal numbers with units, or a bare `0`. `None` if it is anything else or
/// too long to be meant.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos = 0.0;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .filter(|&digits| digits > 0)?;
        let (number, tail) = rest.split_at(digits);
        let number: f64 = number.parse().ok()?;
        let (name, unit) = UNITS.iter().find(|(name, _)| tail.starts_with(name))?;
        nanos += number * unit;
        rest = tail[name.len()..].trim_start();
    }
    Duration::try_from_secs_f64(nanos / 1e9)
        .ok()
        .filter(|duration| *duration <= Duration::from_secs(100 * 365 * 86_400))
}

/// Writes a duration so that [`parse`] reads it back: `2h4m`, `60s` as `1m`, `0s`. Parts below a
/// microsecond are left out.
pub fn format(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let parts = [
        (seconds / 3600, "h"),
        (seconds / 60 % 60, "m"),
        (seconds % 60, "s"),
        (u64::from(duration.subsec_millis()), "ms"),
        (u64::from(duration.subsec_micros() % 1000), "us"),
    ];
    let text: String = parts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// For `#[serde(serialize_with)]`.
pub(super) fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format(*duration))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_spellings_of_both_worlds() {
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
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "60",
            "s",
            "1x",
            "1m s",
            "-1s",
            "1..5s",
            "1e9s",
            "99999w99999w",
            "m1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for text in ["2h4m", "1m", "1h30m", "500ms", "0s", "1m0s", "1s250us"] {
            let duration = parse(text).unwrap();
            assert_eq!(parse(&format(duration)), Some(duration), "{text}");
        }
        assert_eq!(format(Duration::from_secs(7_440)), "2h4m");
    }
}
