//! Log lines on standard error: text for people, JSON lines for machines.
//!
//! Each line has `ts` (RFC 3339 UTC with microseconds), `level`, `target`, `msg`, then its fields.
//! Repeated lines are suppressed, and summarized in one line with their number.

mod line;
mod output;
#[cfg(test)]
mod tests;
mod throttle;

use std::io::{IsTerminal, Stderr, Write};
use std::time::Instant;

use tracing::{Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::config::{LogFormat, LogLevel};

use line::Form;
use output::Output;

/// Prefixes of our own crates. Other crates log at warn and above only: their trace would drown ours.
const OURS: [&str; 2] = ["vl3lb", "vl3_lb"];

/// Crates that log each attempt. Their failures are logged by their callers here, once.
const SILENCED: [&str; 2] = ["kube_client", "kube_runtime"];

/// The running log, whose level can be changed. Dropping it writes the pending summaries.
#[derive(Debug)]
pub struct Log {
    filter: Filter,
    configured: LogLevel,
    output: Output<Stderr>,
}

type Filter = reload::Handle<Targets, Registry>;

impl Log {
    /// Starts logging to standard error. Call once.
    ///
    /// Errors: another log was started before.
    pub fn start(level: LogLevel, format: LogFormat) -> Result<Self, String> {
        let form = match format {
            LogFormat::Auto if std::io::stderr().is_terminal() => Form::Text,
            LogFormat::Text => Form::Text,
            LogFormat::Auto | LogFormat::Json => Form::Json,
        };
        let output = Output::new(form, std::io::stderr());
        let (subscriber, filter) = subscriber(level, output.clone());
        subscriber
            .try_init()
            .map_err(|error| format!("start the log: {error}"))?;
        Ok(Self {
            filter,
            configured: level,
            output,
        })
    }

    /// Suppresses repeated lines from now on. Call it once the start, of which every line matters, is over.
    pub fn throttle(&self) {
        self.output.throttle();
    }

    /// Writes the summaries of lines that have been suppressed for ten seconds. Call about once a second.
    pub fn write_summaries(&self, now: Instant) {
        self.output.write_due(now);
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
        self.output.write_rest(Instant::now());
    }
}

/// The subscriber, and the handle of its level filter.
fn subscriber<W: Write + Send + 'static>(
    level: LogLevel,
    output: Output<W>,
) -> (impl Subscriber + Send + Sync, Filter) {
    let (filter, handle) = reload::Layer::new(targets(level));
    (tracing_subscriber::registry().with(filter).with(output), handle)
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
