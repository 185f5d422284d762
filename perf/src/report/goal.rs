//! `--fail-if`: what a result must not be.

use std::fmt;
use std::str::FromStr;

use super::metric::Metric;
use super::number;

/// A condition that makes a result a failure: `p99>1ms`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FailIf {
    pub(crate) metric: Metric,
    comparison: Comparison,
    limit: f64,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// Longer ones first, or `>=` would be read as `>`.
const COMPARISONS: [(&str, Comparison); 4] = [
    (">=", Comparison::AtLeast),
    ("<=", Comparison::AtMost),
    (">", Comparison::Above),
    ("<", Comparison::Below),
];

impl FailIf {
    /// Whether `value`, in the metric's base unit, is a failure. A value that does not exist is one: what was
    /// not measured is not known to be good.
    pub(crate) fn fails(&self, value: Option<f64>) -> bool {
        let Some(value) = value else { return true };
        match self.comparison {
            Comparison::Above => value > self.limit,
            Comparison::AtLeast => value >= self.limit,
            Comparison::Below => value < self.limit,
            Comparison::AtMost => value <= self.limit,
        }
    }

    /// The comparison and the limit, without the metric: `> 1ms`.
    fn condition(&self) -> String {
        let (sign, _) = COMPARISONS
            .into_iter()
            .find(|(_, comparison)| *comparison == self.comparison)
            .expect("every comparison is in the table");
        format!("{sign} {}", self.metric.show(self.limit))
    }

    /// What happened, in a line: `p99.9 1.90ms > 1.00ms`.
    pub(crate) fn explain(&self, value: Option<f64>) -> String {
        let value = value.map_or_else(|| "not measured".to_owned(), |value| self.metric.show(value));
        format!("{} {value} {}", self.metric, self.condition())
    }
}

impl FromStr for FailIf {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = COMPARISONS.into_iter().find_map(|(sign, comparison)| {
            text.split_once(sign)
                .map(|(left, right)| (left, comparison, right))
        });
        let (metric, comparison, limit) = found.ok_or_else(|| {
            format!("{text:?}: want METRIC, one of > >= < <=, and a limit, such as p99>1ms")
        })?;
        let metric: Metric = metric.trim().parse()?;
        let limit = metric.read(limit.trim())?;
        Ok(Self {
            metric,
            comparison,
            limit,
            text: text.to_owned(),
        })
    }
}

impl fmt::Display for FailIf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Reads a percentage or a share: `0.1%`, `0.001`.
pub(super) fn parse_share(text: &str) -> Option<f64> {
    match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().ok().map(|percent| percent / 100.0),
        None => text.parse().ok(),
    }
    .filter(|share| share.is_finite() && *share >= 0.0)
}

/// Reads a count that may be 0.
pub(super) fn parse_number(text: &str) -> Option<f64> {
    if text == "0" {
        Some(0.0)
    } else {
        number::parse_count(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_read_and_compared() {
        for (text, value, fails) in [
            ("p99>1ms", 0.0011, true),
            ("p99>1ms", 0.001, false),
            ("p99 >= 1ms", 0.001, true),
            ("p99.99>500us", 0.0006, true),
            ("service-p50>500us", 0.0004, false),
            ("max>2s", 2.5, true),
            ("loss>0.1%", 0.002, true),
            ("loss>0.1%", 0.0005, false),
            ("loss>0", 0.0, false),
            ("lost>0", 1.0, true),
            ("duplicated>0", 0.0, false),
            ("reordered>10", 11.0, true),
            ("payload>0", 1.0, true),
            ("errors>=1", 1.0, true),
            ("rate<500k", 499_000.0, true),
            ("rate<=500k", 500_000.0, true),
            ("rate<500k", 500_001.0, false),
            ("busy>90%", 0.95, true),
        ] {
            let condition: FailIf = text.parse().unwrap();
            assert_eq!(condition.fails(Some(value)), fails, "{text} with {value}");
        }
    }

    #[test]
    fn what_was_not_measured_fails() {
        let condition: FailIf = "p99>1ms".parse().unwrap();
        assert!(condition.fails(None));
        assert_eq!(condition.explain(None), "p99 not measured > 1.00ms");
        assert_eq!(condition.explain(Some(0.0019)), "p99 1.90ms > 1.00ms");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for text in [
            "",
            "p99",
            "p99>",
            ">1ms",
            "p98>1ms",
            "p99=1ms",
            "p99>1",
            "p99>1k",
            "loss>1ms",
            "rate<fast",
            "rate<-1",
            "loss>-1%",
        ] {
            assert!(text.parse::<FailIf>().is_err(), "{text:?}");
        }
    }
}
