//! The collector of OpenTelemetry.

use serde::{Serialize, Serializer};
use url::Url;
use vl3lb_common::Duration;

use super::duration;
use super::node::Section;

pub(super) const ENDPOINT_FORM: &str =
    "none, or http://HOST:PORT of a collector (OTLP over gRPC, without TLS)";
pub(super) const INTERVAL_FORM: &str = "a duration from 1s on such as 10s";
/// OTLP's port for gRPC: https://opentelemetry.io/docs/specs/otlp/, "OTLP/gRPC Default Port".
const PORT: u16 = 4317;

/// The collector that gets metrics and traces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Telemetry {
    /// `None`: nothing is sent.
    #[serde(serialize_with = "url_or_none")]
    pub endpoint: Option<Url>,
    /// Between two exports of metrics.
    #[serde(serialize_with = "duration::serialize")]
    pub interval: Duration,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            endpoint: None,
            interval: Duration::from_secs(10),
        }
    }
}

impl Telemetry {
    /// Reads `telemetry`.
    pub(super) fn read(&mut self, parent: &mut Section<'_>) {
        let path = parent.path("telemetry");
        let value = parent.value("telemetry");
        let mut section = Section::new(&*path, value, &["endpoint", "interval"], parent.errors());
        if let Some(endpoint) = section.optional_text("endpoint", ENDPOINT_FORM, endpoint) {
            self.endpoint = endpoint;
        }
        if let Some(interval) = section.optional_text("interval", INTERVAL_FORM, interval) {
            self.interval = interval;
        }
    }
}

/// Reads `none`, `http://HOST`, or `HOST:PORT` as Network Service Mesh writes it. The outer `None` is an error.
#[expect(clippy::option_option, reason = "an error, no collector, a collector")]
pub(super) fn endpoint(text: &str) -> Option<Option<Url>> {
    if text == "none" {
        return Some(None);
    }
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let mut url = Url::parse(&full).ok()?;
    let is_plain =
        url.scheme() == "http" && url.path() == "/" && url.query().is_none() && url.username().is_empty();
    if !is_plain || url.host_str().is_none_or(str::is_empty) {
        return None;
    }
    if url.port().is_none() {
        url.set_port(Some(PORT)).ok()?;
    }
    Some(Some(url))
}

pub(super) fn interval(text: &str) -> Option<Duration> {
    let interval = duration::parse(text).ok()?;
    (interval >= Duration::from_secs(1)).then_some(interval)
}

#[expect(clippy::ref_option, reason = "called by serde")]
fn url_or_none<S: Serializer>(url: &Option<Url>, serializer: S) -> Result<S::Ok, S::Error> {
    match url {
        Some(url) => url.serialize(serializer),
        None => serializer.serialize_str("none"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_url_or_a_host_and_a_port() {
        for (text, expected) in [
            ("http://otel:4317", Some(Some("http://otel:4317/"))),
            ("http://otel", Some(Some("http://otel:4317/"))),
            (
                "otel-collector.observability.svc.cluster.local:4317",
                Some(Some(
                    "http://otel-collector.observability.svc.cluster.local:4317/",
                )),
            ),
            ("[2001:db8::1]:4317", Some(Some("http://[2001:db8::1]:4317/"))),
            ("none", Some(None)),
            ("https://otel:4317", None),
            ("grpc://otel:4317", None),
            ("http://otel:4317/v1/metrics", None),
            ("http://user@otel:4317", None),
            ("http://", None),
            ("otel:port", None),
            ("", None),
        ] {
            let read = endpoint(text).map(|endpoint| endpoint.map(String::from));
            let expected = expected.map(|endpoint| endpoint.map(str::to_owned));
            assert_eq!(read, expected, "{text:?}");
        }
    }
}
