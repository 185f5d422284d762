//! Traces of what the control side does: spans of `tracing` with the target `control_action`.

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use thiserror::Error;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::registry::LookupSpan;
use url::Url;

use super::{SCOPE, TIMEOUT, resource};
use crate::log::CONTROL_ACTION;

/// An exporter of traces that cannot be made.
#[derive(Debug, Error)]
#[error("send traces to {endpoint} (telemetry.endpoint): {source}")]
pub struct TracesError {
    endpoint: Url,
    source: ExporterBuildError,
}

/// Sends spans that have ended, in batches. Dropping it sends the rest, for [`TIMEOUT`] at most.
#[derive(Debug)]
pub struct Traces(SdkTracerProvider);

impl Traces {
    /// Call it within a tokio runtime, which the connection to the collector uses.
    ///
    /// Errors: a URL that is none.
    pub fn new(endpoint: &Url, instance: &str) -> Result<Self, TracesError> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint.as_str())
            .with_timeout(TIMEOUT)
            .build()
            .map_err(|source| TracesError {
                endpoint: endpoint.clone(),
                source,
            })?;
        let attributes = resource(instance).into_iter();
        let resource = Resource::builder_empty()
            .with_attributes(attributes.map(|(name, value)| KeyValue::new(name, value)));
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build());
        Ok(Self(provider.build()))
    }

    /// The layer of the log's subscriber that makes traces of spans.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer(SCOPE))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(|metadata| {
                metadata.is_span() && metadata.target() == CONTROL_ACTION
            }))
    }
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(TIMEOUT) {
            tracing::warn!("send the last traces: {error}");
        }
    }
}
