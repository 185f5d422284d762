//! Log lines on standard error: text, or JSON lines.
//!
//! Each JSON line has `timestamp` (RFC 3339 UTC with microseconds), `level`, `message`, the fields of the
//! event, and `target`. Repeated lines are suppressed, and summarized in one line with their number.

#[cfg(test)]
mod tests;
mod throttle;

use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Instant;

use thiserror::Error;
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::{LogFormat, LogLevel};

use throttle::LogThrottle;

/// The target of spans that are actions of the control side, with their duration: the traces of
/// [`crate::config::Telemetry`]. They are in no line.
pub const CONTROL_ACTION: &str = "control_action";

/// Prefixes of our own crates. Other crates log at warn and above only: their trace would drown ours.
const OURS: [&str; 2] = ["vl3lb", "vl3_lb"];

/// Crates that log each attempt. Their failures are logged by their callers here, once.
const SILENCED: [&str; 2] = ["kube_client", "kube_runtime"];

/// A log that cannot be started.
#[derive(Debug, Error)]
#[error("start the log: {source}")]
pub struct LogError {
    source: TryInitError,
}

/// The running log, whose level can be changed. Dropping it writes the pending summaries.
#[derive(Debug)]
pub struct Log {
    filter: LevelHandle,
    configured: LogLevel,
    throttle: Arc<LogThrottle>,
}

type LevelHandle = reload::Handle<Targets, Registry>;
type LineLayer = Box<dyn Layer<Registry> + Send + Sync>;
/// A layer beside the one that writes lines.
pub type TraceLayer = Box<dyn Layer<Layered<LineLayer, Registry>> + Send + Sync>;

/// The form of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

impl Log {
    /// Starts logging to standard error. Call once.
    ///
    /// `traces` gets spans, whatever the level.
    ///
    /// Errors: another log was started before.
    pub fn start(level: LogLevel, format: LogFormat, traces: Option<TraceLayer>) -> Result<Self, LogError> {
        let form = match format {
            LogFormat::Auto if std::io::stderr().is_terminal() => Form::Text,
            LogFormat::Text => Form::Text,
            LogFormat::Auto | LogFormat::Json => Form::Json,
        };
        let throttle = Arc::default();
        let (lines, filter) = lines(level, form, Arc::clone(&throttle), std::io::stderr);
        let subscriber = tracing_subscriber::registry().with(lines).with(traces);
        subscriber.try_init().map_err(|source| LogError { source })?;
        Ok(Self {
            filter,
            configured: level,
            throttle,
        })
    }

    /// Suppresses repeated lines from now on. Call it once the start, of which every line matters, is over.
    pub fn throttle(&self) {
        self.throttle.enable();
    }

    /// Writes the summaries of lines that have been suppressed for ten seconds. Call about once a second.
    pub fn write_summaries(&self, now: Instant) {
        throttle::write(&self.throttle.due(now));
    }

    /// Logs at level trace from now on (SIGUSR1).
    pub fn trace(&self) {
        self.set(LogLevel::Trace);
    }

    /// Returns to the configured level (SIGUSR2).
    pub fn configured(&self) {
        self.set(self.configured);
    }

    fn set(&self, level: LogLevel) {
        match self.filter.reload(targets(level)) {
            Ok(()) => tracing::info!("log level: {}", level.name()),
            Err(error) => tracing::warn!("set the log level to {}: {error}", level.name()),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        throttle::write(&self.throttle.rest(Instant::now()));
    }
}

/// The layer that writes lines, and the handle of its level filter.
fn lines<W>(level: LogLevel, form: Form, throttle: Arc<LogThrottle>, writer: W) -> (LineLayer, LevelHandle)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(targets(level));
    let lines = fmt::layer().with_ansi(false).with_writer(writer);
    let lines = match form {
        Form::Text => lines.boxed(),
        Form::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .boxed(),
    };
    let lines = lines.with_filter(throttle::Filter(throttle)).with_filter(filter);
    (lines.boxed(), handle)
}

fn targets(level: LogLevel) -> Targets {
    let ours = match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    Targets::new()
        .with_default(ours.min(Level::WARN))
        .with_targets(OURS.map(|name| (name, ours)))
        .with_targets(SILENCED.map(|name| (name, LevelFilter::OFF)))
}
