//! Families of `/metrics` as metrics of OpenTelemetry.
//!
//! The names are those of `/metrics`, so that one board serves both ways. Source:
//! <https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/>.

use std::time::SystemTime;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::number_data_point;
use opentelemetry_proto::tonic::metrics::v1::{
    AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, Sum, metric,
};
use opentelemetry_proto::tonic::resource::v1::Resource;

use crate::api::Distribution;
use crate::metrics::{Family, Kind, Labels, Value};

use super::SCOPE;

/// The time that samples are about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    /// The start of the balancer, from which its counters count.
    pub(super) start: SystemTime,
    pub(super) now: SystemTime,
}

/// `families` for the collector, of the balancer that `resource` names.
pub(super) fn request(
    families: &[Family],
    resource: &[(&str, String)],
    span: Span,
) -> ExportMetricsServiceRequest {
    let metrics = families
        .iter()
        .filter_map(|family| metric(family, span))
        .collect();
    let scope = InstrumentationScope {
        name: SCOPE.to_owned(),
        version: crate::version::VERSION.to_owned(),
        ..InstrumentationScope::default()
    };
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: Some(Resource {
                attributes: attributes(resource.iter().map(|(name, value)| (*name, value.as_str()))),
                ..Resource::default()
            }),
            scope_metrics: vec![ScopeMetrics {
                scope: Some(scope),
                metrics,
                schema_url: String::new(),
            }],
            schema_url: String::new(),
        }],
    }
}

/// A family without samples is left out, as it is in `/metrics`.
fn metric(family: &Family, span: Span) -> Option<Metric> {
    let samples = family.samples();
    if samples.is_empty() {
        return None;
    }
    let numbers = || -> Vec<NumberDataPoint> {
        let points = samples.iter();
        points
            .filter_map(|(labels, value)| number(labels, value, span))
            .collect()
    };
    let data = match family.kind {
        Kind::Gauge => metric::Data::Gauge(Gauge {
            data_points: numbers(),
        }),
        Kind::Counter => metric::Data::Sum(Sum {
            data_points: numbers(),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
            is_monotonic: true,
        }),
        Kind::Histogram => metric::Data::Histogram(Histogram {
            data_points: samples
                .iter()
                .filter_map(|(labels, value)| histogram(labels, value, span))
                .collect(),
            aggregation_temporality: AggregationTemporality::Cumulative.into(),
        }),
    };
    Some(Metric {
        name: family.name.to_owned(),
        description: family.help().to_owned(),
        unit: unit(family.name).to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

/// In UCUM, <https://ucum.org/ucum>, by the suffix that Prometheus demands.
fn unit(name: &str) -> &'static str {
    match name.rsplit('_').next() {
        Some("seconds") => "s",
        Some("bytes") => "By",
        Some("ratio") => "1",
        _ => "",
    }
}

fn number(labels: &Labels, value: &Value, span: Span) -> Option<NumberDataPoint> {
    let value = match value {
        Value::Integer(value) => number_data_point::Value::AsInt(i64::try_from(*value).unwrap_or(i64::MAX)),
        Value::Real(value) => number_data_point::Value::AsDouble(*value),
        Value::Distribution(_) => return None,
    };
    Some(NumberDataPoint {
        attributes: of_labels(labels),
        start_time_unix_nano: nanoseconds(span.start),
        time_unix_nano: nanoseconds(span.now),
        value: Some(value),
        ..NumberDataPoint::default()
    })
}

fn histogram(labels: &Labels, value: &Value, span: Span) -> Option<HistogramDataPoint> {
    let Value::Distribution(Distribution {
        count, sum, buckets, ..
    }) = value
    else {
        return None;
    };
    Some(HistogramDataPoint {
        attributes: of_labels(labels),
        start_time_unix_nano: nanoseconds(span.start),
        time_unix_nano: nanoseconds(span.now),
        count: *count,
        sum: Some(*sum),
        // The last bucket has no bound in both.
        explicit_bounds: buckets.iter().filter_map(|bucket| bucket.upper_seconds).collect(),
        bucket_counts: buckets.iter().map(|bucket| bucket.count).collect(),
        ..HistogramDataPoint::default()
    })
}

fn of_labels(labels: &Labels) -> Vec<KeyValue> {
    attributes(labels.iter().map(|(name, value)| (*name, value.as_str())))
}

fn attributes<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<KeyValue> {
    let attribute = |(key, value): (&str, &str)| KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue {
            value: Some(any_value::Value::StringValue(value.to_owned())),
        }),
        ..KeyValue::default()
    };
    pairs.map(attribute).collect()
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
