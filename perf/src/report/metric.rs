//! The metrics of a run that are summarized and judged.

use std::fmt;

use super::number;
use crate::load::latency::Percentiles;
use crate::load::run::Run;

/// A number of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Metric {
    Rate,
    SentRate,
    Throughput,
    Loss,
    Lost,
    Duplicated,
    Reordered,
    Payload,
    Errors,
    ConnectionRate,
    Busy,
    /// Cores that the target process used.
    TargetCpu,
    Latency(Quantile),
    Service(Quantile),
}

/// A number of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quantile {
    Min,
    P50,
    P90,
    P99,
    P999,
    P9999,
    Max,
    Mean,
}

/// The unit of a metric, of which values are shown and read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Seconds,
    /// A share of 1.
    Share,
    /// Bytes per second, shown in bits.
    Throughput,
    PerSecond,
    Cores,
    Count,
}

const QUANTILES: [(&str, Quantile); 8] = [
    ("min", Quantile::Min),
    ("p50", Quantile::P50),
    ("p90", Quantile::P90),
    ("p99", Quantile::P99),
    ("p99.9", Quantile::P999),
    ("p99.99", Quantile::P9999),
    ("max", Quantile::Max),
    ("mean", Quantile::Mean),
];

/// Name in `--fail-if`, key in JSON, unit.
const METRICS: [(&str, &str, Metric, Unit); 12] = [
    ("rate", "packetsPerSecond", Metric::Rate, Unit::PerSecond),
    ("sent-rate", "sentPerSecond", Metric::SentRate, Unit::PerSecond),
    (
        "throughput",
        "bytesPerSecond",
        Metric::Throughput,
        Unit::Throughput,
    ),
    ("loss", "loss", Metric::Loss, Unit::Share),
    ("lost", "lost", Metric::Lost, Unit::Count),
    ("duplicated", "duplicated", Metric::Duplicated, Unit::Count),
    ("reordered", "reordered", Metric::Reordered, Unit::Count),
    ("payload", "wrongPayload", Metric::Payload, Unit::Count),
    ("errors", "errors", Metric::Errors, Unit::Count),
    (
        "connections",
        "connectionsPerSecond",
        Metric::ConnectionRate,
        Unit::PerSecond,
    ),
    ("busy", "generatorBusyRatio", Metric::Busy, Unit::Share),
    ("target-cpu", "targetCpuCores", Metric::TargetCpu, Unit::Cores),
];

/// Prefix of a quantile: that of the service time.
const SERVICE: &str = "service-";

impl Metric {
    /// All, with their keys in JSON.
    pub(crate) fn all() -> impl Iterator<Item = (String, Self)> {
        let plain = METRICS
            .into_iter()
            .map(|(_, key, metric, _)| (key.to_owned(), metric));
        let quantiles = |key: &'static str, of: fn(Quantile) -> Self| {
            QUANTILES
                .into_iter()
                .map(move |(name, quantile)| (format!("{key}.{}", name.replace('.', "")), of(quantile)))
        };
        plain
            .chain(quantiles("latencySeconds", Self::Latency))
            .chain(quantiles("serviceTimeSeconds", Self::Service))
    }

    /// The metric with this name in `--fail-if`.
    pub(super) fn named(name: &str) -> Option<Self> {
        let quantile = |name: &str| {
            let found = QUANTILES.into_iter().find(|(known, _)| *known == name);
            found.map(|(_, quantile)| quantile)
        };
        let plain = METRICS.into_iter().find(|(known, ..)| *known == name);
        plain
            .map(|(_, _, metric, _)| metric)
            .or_else(|| quantile(name).map(Self::Latency))
            .or_else(|| quantile(name.strip_prefix(SERVICE)?).map(Self::Service))
    }

    /// The names in `--fail-if`.
    pub(super) fn names() -> String {
        let plain = METRICS.iter().map(|(name, ..)| *name);
        let names: Vec<_> = plain.chain(QUANTILES.iter().map(|(name, _)| *name)).collect();
        format!(
            "{}, and {SERVICE}p50 and so on for the service time",
            names.join(", ")
        )
    }

    /// Its value in a run, in its unit. `None` if the run does not have it.
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^53")]
    pub(crate) fn of(self, run: &Run) -> Option<f64> {
        let tally = &run.tally;
        let errors = &tally.errors;
        Some(match self {
            Self::Rate => run.packets_per_second(),
            Self::SentRate => run.sent_per_second(),
            Self::Throughput => run.bytes_per_second(),
            Self::Loss => tally.loss(),
            Self::Lost => tally.lost() as f64,
            Self::Duplicated => tally.duplicated as f64,
            Self::Reordered => tally.reordered as f64,
            Self::Payload => errors.payload as f64,
            Self::Errors => (errors.connect + errors.timeout + errors.reset + errors.payload) as f64,
            Self::ConnectionRate => run.per_second(tally.connected),
            Self::Busy => run.busy_ratio,
            Self::TargetCpu => {
                run.target_cpu?.as_secs_f64() / run.duration.as_secs_f64().max(f64::MIN_POSITIVE)
            }
            Self::Latency(quantile) => quantile.of(&Percentiles::of(&run.latency.corrected)?),
            Self::Service(quantile) => quantile.of(&Percentiles::of(&run.latency.service)?),
        })
    }

    pub(super) fn unit(self) -> Unit {
        let plain = METRICS.into_iter().find(|(_, _, metric, _)| *metric == self);
        plain.map_or(Unit::Seconds, |(.., unit)| unit)
    }

    /// A value with its unit.
    pub(crate) fn show(self, value: f64) -> String {
        match self.unit() {
            Unit::Seconds => number::time(value),
            Unit::Share => number::percent(value),
            Unit::Throughput => format!("{}bit/s", number::short(value * 8.0)),
            Unit::PerSecond => format!("{}/s", number::short(value)),
            Unit::Cores => format!("{value:.2} CPU"),
            Unit::Count => number::short(value),
        }
    }
}

impl Quantile {
    const fn of(self, of: &Percentiles) -> f64 {
        match self {
            Self::Min => of.min,
            Self::P50 => of.p50,
            Self::P90 => of.p90,
            Self::P99 => of.p99,
            Self::P999 => of.p999,
            Self::P9999 => of.p9999,
            Self::Max => of.max,
            Self::Mean => of.mean,
        }
    }
}

impl Unit {
    /// Reads a value; `None` if it is not valid.
    pub(super) fn read(self, text: &str) -> Option<f64> {
        let count = || match text {
            "0" => Some(0.0),
            _ => number::parse_count(text).ok(),
        };
        match self {
            Self::Seconds => {
                let duration = text.ends_with('s').then(|| humantime::parse_duration(text).ok());
                Some(duration??.as_secs_f64())
            }
            Self::Share => {
                let share = match text.strip_suffix('%') {
                    Some(percent) => percent.parse::<f64>().ok()? / 100.0,
                    None => text.parse().ok()?,
                };
                (share.is_finite() && share >= 0.0).then_some(share)
            }
            Self::Throughput => count().map(|bits| bits / 8.0),
            Self::PerSecond | Self::Cores | Self::Count => count(),
        }
    }

    /// The values that are allowed.
    pub(super) const fn allowed(self) -> &'static str {
        match self {
            Self::Seconds => "a time with its unit, such as 500us or 1ms",
            Self::Share => "a share, such as 0.1% or 0.001",
            Self::Throughput => "bits per second, such as 500M",
            Self::PerSecond | Self::Cores | Self::Count => "a number, such as 0 or 500k",
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (prefix, quantile) = match self {
            Self::Latency(quantile) => ("", quantile),
            Self::Service(quantile) => (SERVICE, quantile),
            plain => {
                let mut rows = METRICS.into_iter();
                let row = rows.find(|(_, _, metric, _)| metric == plain);
                return f.write_str(row.expect("every plain metric has a row").0);
            }
        };
        let mut rows = QUANTILES.into_iter();
        let row = rows.find(|(_, known)| known == quantile);
        write!(f, "{prefix}{}", row.expect("every quantile has a row").0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_read_by_its_name() {
        for (key, metric) in Metric::all() {
            assert_eq!(Metric::named(&metric.to_string()), Some(metric), "{key}");
        }
    }
}
