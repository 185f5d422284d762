//! The numbers of a run that can be summarized and be judged.

use std::fmt;
use std::str::FromStr;

use super::{goal, number};
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

/// Name in `--fail-if`, key in JSON.
const METRICS: [(&str, &str, Metric); 12] = [
    ("rate", "packetsPerSecond", Metric::Rate),
    ("sent-rate", "sentPerSecond", Metric::SentRate),
    ("throughput", "bytesPerSecond", Metric::Throughput),
    ("loss", "loss", Metric::Loss),
    ("lost", "lost", Metric::Lost),
    ("duplicated", "duplicated", Metric::Duplicated),
    ("reordered", "reordered", Metric::Reordered),
    ("payload", "wrongPayload", Metric::Payload),
    ("errors", "errors", Metric::Errors),
    ("connections", "connectionsPerSecond", Metric::ConnectionRate),
    ("busy", "generatorBusyRatio", Metric::Busy),
    ("target-cpu", "targetCpuCores", Metric::TargetCpu),
];

/// Before the name of a quantile: that of the service time.
const SERVICE: &str = "service-";

impl Metric {
    /// All, with their keys in JSON.
    pub(crate) fn all() -> impl Iterator<Item = (String, Self)> {
        let plain = METRICS
            .into_iter()
            .map(|(_, key, metric)| (key.to_owned(), metric));
        let latency = QUANTILES.into_iter().map(|(_, quantile)| {
            (
                format!("latencySeconds.{}", quantile.key()),
                Self::Latency(quantile),
            )
        });
        let service = QUANTILES.into_iter().map(|(_, quantile)| {
            (
                format!("serviceTimeSeconds.{}", quantile.key()),
                Self::Service(quantile),
            )
        });
        plain.chain(latency).chain(service)
    }

    /// Its value in a run, in seconds, per second, bytes per second, or a share of 1. `None` if there is none.
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
            Self::ConnectionRate => {
                tally.connected as f64 / run.duration.as_secs_f64().max(f64::MIN_POSITIVE)
            }
            Self::Busy => run.busy_ratio,
            Self::TargetCpu => {
                run.target_cpu?.as_secs_f64() / run.duration.as_secs_f64().max(f64::MIN_POSITIVE)
            }
            Self::Latency(quantile) => quantile.of(&Percentiles::of(&run.latency.corrected)?),
            Self::Service(quantile) => quantile.of(&Percentiles::of(&run.latency.service)?),
        })
    }

    /// A value for people.
    pub(crate) fn show(self, value: f64) -> String {
        match self {
            Self::Latency(_) | Self::Service(_) => number::time(value),
            Self::Loss | Self::Busy => number::percent(value),
            Self::Throughput => format!("{}bit/s", number::short(value * 8.0)),
            Self::Rate | Self::SentRate | Self::ConnectionRate => format!("{}/s", number::short(value)),
            Self::TargetCpu => format!("{value:.2} CPU"),
            Self::Lost | Self::Duplicated | Self::Reordered | Self::Payload | Self::Errors => {
                number::short(value)
            }
        }
    }

    /// A value as people write it.
    pub(super) fn read(self, text: &str) -> Result<f64, String> {
        match self {
            Self::Latency(_) | Self::Service(_) => {
                let with_unit = text.ends_with('s').then(|| humantime::parse_duration(text).ok());
                with_unit
                    .flatten()
                    .map(|duration| duration.as_secs_f64())
                    .ok_or_else(|| format!("{text:?}: want a time with its unit, such as 500us or 1ms"))
            }
            Self::Loss | Self::Busy => goal::parse_share(text)
                .ok_or_else(|| format!("{text:?}: want a share, such as 0.1% or 0.001")),
            Self::Throughput => goal::parse_number(text)
                .map(|bits| bits / 8.0)
                .ok_or_else(|| format!("{text:?}: want bits per second, such as 500M")),
            _ => {
                goal::parse_number(text).ok_or_else(|| format!("{text:?}: want a number, such as 0 or 500k"))
            }
        }
    }
}

impl Quantile {
    fn of(self, of: &Percentiles) -> f64 {
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

    fn name(self) -> &'static str {
        let mut names = QUANTILES.into_iter();
        let (name, _) = names
            .find(|(_, quantile)| *quantile == self)
            .expect("every quantile is in the table");
        name
    }

    /// The key in JSON: without the point.
    fn key(self) -> String {
        self.name().replace('.', "")
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latency(quantile) => f.write_str(quantile.name()),
            Self::Service(quantile) => write!(f, "{SERVICE}{}", quantile.name()),
            other => {
                let mut names = METRICS.into_iter();
                let (name, ..) = names
                    .find(|(_, _, metric)| metric == other)
                    .expect("every plain metric is in the table");
                f.write_str(name)
            }
        }
    }
}

impl FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let quantile = |text: &str| {
            QUANTILES
                .into_iter()
                .find(|(name, _)| *name == text)
                .map(|(_, quantile)| quantile)
        };
        let plain = METRICS.into_iter().find(|(name, ..)| *name == text);
        plain
            .map(|(.., metric)| metric)
            .or_else(|| quantile(text).map(Self::Latency))
            .or_else(|| quantile(text.strip_prefix(SERVICE)?).map(Self::Service))
            .ok_or_else(|| {
                let plain: Vec<_> = METRICS.iter().map(|(name, ..)| *name).collect();
                let quantiles: Vec<_> = QUANTILES.iter().map(|(name, _)| *name).collect();
                format!(
                    "no metric {text:?}: there are {}, {}, and with {SERVICE} before them those of the service time",
                    plain.join(", "),
                    quantiles.join(", ")
                )
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_read_by_its_name() {
        for (key, metric) in Metric::all() {
            assert_eq!(metric.to_string().parse(), Ok(metric), "{key}");
        }
    }
}
