//! `--fail-if`: conditions under which a result is a failure.

use std::fmt;
use std::str::FromStr;

use super::metric::Metric;

/// A condition that makes a result a failure: `p99>1ms`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FailIf {
    pub(crate) metric: Metric,
    comparison: Comparison,
    limit: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Above,
    AtLeast,
    Below,
    AtMost,
}

/// A condition that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FailIfError {
    #[error("{0:?}: allowed is METRIC, one of > >= < <=, and a limit, such as p99>1ms")]
    Form(String),

    #[error("unknown metric {0:?}; allowed are {names}", names = Metric::names())]
    Metric(String),

    #[error("limit {limit:?} of {metric}: allowed is {allowed}")]
    Limit {
        metric: String,
        limit: String,
        allowed: &'static str,
    },
}

impl FailIf {
    /// Whether `value`, in the metric's unit, is a failure. A value that was not measured is one.
    pub(crate) fn fails(&self, value: Option<f64>) -> bool {
        let Some(value) = value else { return true };
        match self.comparison {
            Comparison::Above => value > self.limit,
            Comparison::AtLeast => value >= self.limit,
            Comparison::Below => value < self.limit,
            Comparison::AtMost => value <= self.limit,
        }
    }

    /// The failure in a line: `p99.9 1.90ms > 1.00ms`.
    pub(crate) fn explain(&self, value: Option<f64>) -> String {
        let Self {
            metric,
            comparison,
            limit,
        } = self;
        let value = value.map_or_else(|| "not measured".to_owned(), |value| metric.show(value));
        format!("{metric} {value} {comparison} {}", metric.show(*limit))
    }
}

impl FromStr for FailIf {
    type Err = FailIfError;

    fn from_str(text: &str) -> Result<Self, FailIfError> {
        // Longer ones first, or `>=` would be read as `>`.
        let found = [
            Comparison::AtLeast,
            Comparison::AtMost,
            Comparison::Above,
            Comparison::Below,
        ]
        .into_iter()
        .find_map(|comparison| Some((text.split_once(&comparison.to_string())?, comparison)));
        let ((name, limit), comparison) = found.ok_or_else(|| FailIfError::Form(text.to_owned()))?;
        let (name, limit) = (name.trim(), limit.trim());
        let metric = Metric::named(name).ok_or_else(|| FailIfError::Metric(name.to_owned()))?;
        let unit = metric.unit();
        let limit = unit.read(limit).ok_or_else(|| FailIfError::Limit {
            metric: name.to_owned(),
            limit: limit.to_owned(),
            allowed: unit.allowed(),
        })?;
        Ok(Self {
            metric,
            comparison,
            limit,
        })
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Above => ">",
            Self::AtLeast => ">=",
            Self::Below => "<",
            Self::AtMost => "<=",
        })
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
    fn a_metric_without_a_value_fails() {
        let condition: FailIf = "p99>1ms".parse().unwrap();
        assert!(condition.fails(None));
        assert_eq!(condition.explain(None), "p99 not measured > 1.00ms");
        assert_eq!(condition.explain(Some(0.0019)), "p99 1.90ms > 1.00ms");
    }

    #[test]
    fn invalid_conditions_are_rejected() {
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
