//! What is sent to a collector of OpenTelemetry, in builds with the feature `telemetry`.

#[cfg(feature = "telemetry")]
pub(super) use with::{Sender, send_metrics};
#[cfg(not(feature = "telemetry"))]
pub(super) use without::{Sender, send_metrics};

/// The name of this balancer among others.
pub(super) fn instance() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

#[cfg(feature = "telemetry")]
mod with {
    use std::sync::Arc;

    use tokio::runtime::Runtime;
    use tracing_subscriber::Layer;

    use crate::config::Config;
    use crate::log::TraceLayer;
    use crate::observe::report::Reporter;
    use crate::supervise::Tasks;
    use crate::telemetry::{EndpointError, MetricsExport, Traces, TracesError};

    use super::instance;

    /// Sends traces, if a collector is configured.
    #[derive(Debug)]
    pub(in crate::run) struct Sender(Option<Traces>);

    impl Sender {
        /// Errors: an endpoint that cannot be used.
        pub(in crate::run) fn new(config: &Config, runtime: &Runtime) -> Result<Self, TracesError> {
            let _entered = runtime.enter();
            let endpoint = config.telemetry.endpoint.as_ref();
            let traces = endpoint.map(|endpoint| Traces::new(endpoint, &instance()));
            traces.transpose().map(Self)
        }

        /// The layer of the log that makes them.
        pub(in crate::run) fn layer(&self) -> Option<TraceLayer> {
            self.0.as_ref().map(|traces| traces.layer().boxed())
        }
    }

    /// Starts the task that sends metrics, if a collector is configured. Errors: an endpoint that cannot be used.
    pub(in crate::run) fn send_metrics(
        config: &Config,
        reporter: &Arc<Reporter>,
        tasks: &Tasks,
    ) -> Result<(), EndpointError> {
        let export = MetricsExport::new(
            &config.telemetry,
            config.metrics,
            &instance(),
            Arc::clone(reporter),
        )?;
        if let Some(export) = export {
            tasks.spawn("the metrics of the collector", export.run());
        }
        Ok(())
    }
}

#[cfg(not(feature = "telemetry"))]
mod without {
    use std::convert::Infallible;
    use std::sync::Arc;

    use thiserror::Error;
    use tokio::runtime::Runtime;
    use url::Url;

    use crate::config::Config;
    use crate::log::TraceLayer;
    use crate::observe::report::Reporter;
    use crate::supervise::Tasks;

    /// Sends nothing.
    #[derive(Debug)]
    pub(in crate::run) struct Sender;

    /// A collector is configured.
    #[derive(Debug, Error)]
    #[error("telemetry.endpoint: {0}, allowed none: this vl3-lb was built without the feature telemetry")]
    pub(in crate::run) struct Unsupported(Url);

    impl Sender {
        /// Errors: a collector is configured.
        pub(in crate::run) fn new(config: &Config, _: &Runtime) -> Result<Self, Unsupported> {
            let endpoint = config.telemetry.endpoint.clone();
            endpoint.map_or(Ok(Self), |endpoint| Err(Unsupported(endpoint)))
        }

        pub(in crate::run) fn layer(&self) -> Option<TraceLayer> {
            None
        }
    }

    pub(in crate::run) fn send_metrics(_: &Config, _: &Arc<Reporter>, _: &Tasks) -> Result<(), Infallible> {
        Ok(())
    }
}
