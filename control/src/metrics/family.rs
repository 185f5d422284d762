//! One metric family: name, help text and samples.

use crate::api::Distribution;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// The type of a family's samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// The value of a sample.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Integer(u64),
    Real(f64),
    Distribution(Distribution),
}

/// Labels of a sample, in the order in which they are written.
pub type Labels = Vec<(&'static str, String)>;

/// A metric family.
#[derive(Debug, Clone, PartialEq)]
pub struct Family {
    /// Without the `_total` of counters.
    pub name: &'static str,
    pub kind: Kind,
    help: &'static str,
    samples: Vec<(Labels, Value)>,
}

impl Family {
    /// A counter without samples; its series get `_total`.
    pub const fn counter(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Counter, help)
    }

    /// A gauge without samples.
    pub const fn gauge(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Gauge, help)
    }

    /// A histogram without samples.
    pub const fn histogram(name: &'static str, help: &'static str) -> Self {
        Self::new(name, Kind::Histogram, help)
    }

    const fn new(name: &'static str, kind: Kind, help: &'static str) -> Self {
        Self {
            name,
            kind,
            help,
            samples: Vec::new(),
        }
    }

    /// Adds a sample.
    #[must_use]
    pub fn with<const N: usize>(mut self, labels: [(&'static str, &str); N], value: u64) -> Self {
        self.add(labels, value);
        self
    }

    /// Adds a sample that is not an integer; unknown values have no series.
    #[must_use]
    pub fn with_real<const N: usize>(
        mut self,
        labels: [(&'static str, &str); N],
        value: impl Into<Option<f64>>,
    ) -> Self {
        self.add_real(labels, value);
        self
    }

    /// Adds a sample if it is known.
    #[must_use]
    pub fn with_known(mut self, value: Option<u64>) -> Self {
        if let Some(value) = value {
            self.add([], value);
        }
        self
    }

    /// As [`Self::with`].
    pub fn add<const N: usize>(&mut self, labels: [(&'static str, &str); N], value: u64) {
        self.samples.push((owned(labels), Value::Integer(value)));
    }

    /// As [`Self::with_real`].
    pub fn add_real<const N: usize>(
        &mut self,
        labels: [(&'static str, &str); N],
        value: impl Into<Option<f64>>,
    ) {
        if let Some(value) = value.into() {
            self.samples.push((owned(labels), Value::Real(value)));
        }
    }

    /// Adds the samples of a histogram.
    pub fn add_distribution<const N: usize>(
        &mut self,
        labels: [(&'static str, &str); N],
        distribution: &Distribution,
    ) {
        self.samples
            .push((owned(labels), Value::Distribution(distribution.clone())));
    }

    /// What it counts or measures, for people.
    pub const fn help(&self) -> &'static str {
        self.help
    }

    /// All series.
    pub fn samples(&self) -> &[(Labels, Value)] {
        &self.samples
    }

    /// Every label name in use.
    pub fn label_names(&self) -> impl Iterator<Item = &'static str> {
        self.samples
            .iter()
            .flat_map(|(labels, _)| labels.iter().map(|(name, _)| *name))
    }

    /// Writes the family; one without samples is left out.
    pub fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> std::fmt::Result {
        if self.samples.is_empty() {
            return Ok(());
        }
        let kind = match self.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        let mut metric = encoder.encode_descriptor(self.name, self.help, None, kind)?;
        for (labels, value) in &self.samples {
            if labels.is_empty() {
                value.encode(self.kind, &mut metric)?;
            } else {
                value.encode(self.kind, &mut metric.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}

impl Value {
    fn encode(&self, kind: Kind, series: &mut MetricEncoder<'_>) -> std::fmt::Result {
        match (kind, self) {
            (Kind::Counter, Self::Integer(value)) => series.encode_counter::<NoLabelSet, _, u64>(value, None),
            (Kind::Counter, Self::Real(value)) => series.encode_counter::<NoLabelSet, _, u64>(value, None),
            (_, Self::Integer(value)) => series.encode_gauge(value),
            (_, Self::Real(value)) => series.encode_gauge(value),
            (_, Self::Distribution(distribution)) => {
                let buckets: Vec<_> = distribution
                    .buckets
                    .iter()
                    .map(|bucket| (bucket.upper_seconds.unwrap_or(f64::INFINITY), bucket.count))
                    .collect();
                series.encode_histogram::<NoLabelSet>(distribution.sum, distribution.count, &buckets, None)
            }
        }
    }
}

fn owned<const N: usize>(labels: [(&'static str, &str); N]) -> Labels {
    labels
        .into_iter()
        .map(|(name, value)| (name, value.to_owned()))
        .collect()
}
