//! OpenTelemetry: the families of `/metrics` and traces of control actions, sent to a collector by OTLP over gRPC
//! (<https://opentelemetry.io/docs/specs/otlp/>).
//!
//! Nothing here is on a packet's way: metrics are read from the same counters as `/metrics`, at the configured interval,
//! and traces are about what the control side does once in a while.

mod metrics;
#[cfg(test)]
mod tests;
mod traces;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tonic::transport::{Channel, Endpoint};
use tracing::{info, warn};
use url::Url;

use crate::config::{Metrics, Telemetry};
use crate::metrics::families;
use crate::observe::report::Reporter;
use crate::version;

use metrics::Span;

pub use traces::{Traces, TracesError};

/// The instrumentation scope of metrics and traces.
const SCOPE: &str = "vl3-lb";
/// The limit of one export.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What the collector gets about this balancer itself: semantic conventions, "Resource",
/// <https://opentelemetry.io/docs/specs/semconv/resource/>.
pub fn resource(instance: &str) -> Vec<(&'static str, String)> {
    vec![
        ("service.name", "vl3-lb".to_owned()),
        ("service.version", version::VERSION.to_owned()),
        ("service.instance.id", instance.to_owned()),
    ]
}

/// Sends metrics.
#[derive(Debug)]
pub struct MetricsExport {
    endpoint: Url,
    interval: Duration,
    client: MetricsServiceClient<Channel>,
    reporter: Arc<Reporter>,
    content: Metrics,
    resource: Vec<(&'static str, String)>,
    start: SystemTime,
    is_failing: bool,
}

impl MetricsExport {
    /// `None` without a collector. Connects with the first export.
    ///
    /// # Errors
    ///
    /// The collector's URL cannot be used.
    pub fn new(
        telemetry: &Telemetry,
        content: Metrics,
        instance: &str,
        reporter: Arc<Reporter>,
    ) -> Result<Option<Self>, EndpointError> {
        let Some(endpoint) = telemetry.endpoint.clone() else {
            return Ok(None);
        };
        let channel = match Endpoint::from_shared(endpoint.to_string()) {
            Ok(channel) => channel,
            Err(source) => return Err(EndpointError { endpoint, source }),
        };
        let channel = channel.timeout(TIMEOUT).connect_timeout(TIMEOUT).connect_lazy();
        Ok(Some(Self {
            endpoint,
            interval: telemetry.interval,
            client: MetricsServiceClient::new(channel),
            reporter,
            content,
            resource: resource(instance),
            start: SystemTime::now(),
            is_failing: false,
        }))
    }

    /// Exports at each interval, for ever. A failure is logged when it begins and when it is over; what was not sent is
    /// part of the next export, since all counters are cumulative.
    pub async fn run(mut self) {
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let outcome = self.export().await;
            match (outcome, self.is_failing) {
                (Err(error), false) => warn!("send metrics to {}: {error}; trying on", self.endpoint),
                (Ok(()), true) => info!("send metrics to {}: works again", self.endpoint),
                (Err(_), true) | (Ok(()), false) => continue,
            }
            self.is_failing = !self.is_failing;
        }
    }

    async fn export(&mut self) -> Result<(), ExportError> {
        let reporter = Arc::clone(&self.reporter);
        let (content, resource, start) = (self.content, self.resource.clone(), self.start);
        let built = spawn_blocking(move || {
            let span = Span {
                start,
                now: SystemTime::now(),
            };
            metrics::request(&families(&reporter.report(), content), &resource, span)
        });
        let reply = self.client.export(built.await?).await?.into_inner();
        match reply.partial_success {
            Some(partial) if partial.rejected_data_points > 0 => Err(ExportError::Rejected {
                points: partial.rejected_data_points,
                reason: partial.error_message,
            }),
            _ => Ok(()),
        }
    }
}

/// A collector's URL that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("connect to telemetry.endpoint {endpoint}: {source}")]
pub struct EndpointError {
    endpoint: Url,
    source: tonic::transport::Error,
}

/// Metrics that the collector did not take.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    #[error("build the report: {0}")]
    Report(#[from] tokio::task::JoinError),
    #[error("{}: {}", .0.code(), .0.message())]
    Refused(#[from] tonic::Status),
    #[error("the collector rejected {points} samples: {reason}")]
    Rejected { points: i64, reason: String },
}
