//! Log lines on standard error: text for people, JSON lines for machines.
//!
//! Each line has `ts` (RFC 3339 UTC with microseconds), `level`, `target`, `msg`, then its fields.

use std::fmt::{self, Write};
use std::io::IsTerminal;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, LogLevel};

/// Names of our own crates begin so. Others are heard at warnings and above only: at trace they
/// would drown ours.
const OURS: [&str; 2] = ["vl3lb", "vl3_lb"];

/// These log each of their attempts; what fails there is logged here, once.
const TOLD_HERE: [&str; 2] = ["kube_client", "kube_runtime"];

/// The running log, whose level can be changed.
#[derive(Debug)]
pub struct Log {
    filter: reload::Handle<Targets, tracing_subscriber::Registry>,
    configured: LogLevel,
}

impl Log {
    /// Starts logging to standard error. Call once.
    ///
    /// Errors: another log was started before.
    pub fn start(level: LogLevel, format: LogFormat) -> Result<Self, String> {
        let (filter, handle) = reload::Layer::new(targets(level));
        let json = match format {
            LogFormat::Auto => !std::io::stderr().is_terminal(),
            LogFormat::Text => false,
            LogFormat::Json => true,
        };
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .event_format(Line { json });
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .try_init()
            .map_err(|error| format!("start the log: {error}"))?;
        Ok(Self {
            filter: handle,
            configured: level,
        })
    }

    /// Writes everything from now on (SIGUSR1).
    pub fn trace(&self) {
        self.set(LogLevel::Trace);
    }

    /// Goes back to the configured level (SIGUSR2).
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
        .with_targets(TOLD_HERE.map(|name| (name, LevelFilter::OFF)))
}

/// The form of a line.
#[derive(Debug)]
struct Line {
    json: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let ts = humantime::format_rfc3339_micros(std::time::SystemTime::now());
        let level = event.metadata().level().as_str().to_lowercase();
        let target = event.metadata().target();
        let mut fields = Fields {
            json: self.json,
            ..Fields::default()
        };
        event.record(&mut fields);
        let Fields { message, rest, .. } = fields;
        if self.json {
            let (target, message) = (quoted(target), quoted(&message));
            writeln!(
                writer,
                r#"{{"ts":"{ts}","level":"{level}","target":{target},"msg":{message}{rest}}}"#
            )
        } else {
            writeln!(writer, "{ts} {level:5} {target}: {message}{rest}")
        }
    }
}

/// The fields of an event: the message apart, the others ready to append.
#[derive(Debug, Default)]
struct Fields {
    json: bool,
    message: String,
    rest: String,
}

impl Fields {
    /// `json` and `text` are the value in both forms.
    fn append(&mut self, field: &Field, json: &str, text: &str) {
        let name = field.name();
        // Writing to a string cannot fail.
        if self.json {
            write!(self.rest, ",{}:{json}", quoted(name)).ok();
        } else {
            write!(self.rest, " {name}={text}").ok();
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            let text = if value.contains(|c: char| c.is_whitespace() || c == '"') {
                quoted(value)
            } else {
                value.to_owned()
            };
            self.append(field, &quoted(value), &text);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.append(field, &value.to_string(), &value.to_string());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.append(field, &value.to_string(), &value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.append(field, &value.to_string(), &value.to_string());
    }
}

/// A JSON string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(json: bool, level: LogLevel, events: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = tracing_subscriber::registry().with(targets(level)).with(
            tracing_subscriber::fmt::layer()
                .with_writer(move || writer.clone())
                .event_format(Line { json }),
        );
        tracing::subscriber::with_default(subscriber, events);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn json_lines_have_their_fields_in_order() {
        let text = logged(true, LogLevel::Info, || {
            tracing::info!(target: "vl3lb_control::publisher", service = "ledger", generation = 42_u64,
                "snapshot \"41\" -> 42");
        });
        let (ts, rest) = text.split_once(",\"level\"").unwrap();
        let ts = ts.strip_prefix("{\"ts\":\"").unwrap().trim_end_matches('"');
        assert_eq!(ts.len(), "2026-11-24T06:12:40.123456Z".len(), "{ts}");
        assert_eq!(
            rest,
            ":\"info\",\"target\":\"vl3lb_control::publisher\",\"msg\":\"snapshot \\\"41\\\" -> 42\",\
             \"service\":\"ledger\",\"generation\":42}\n"
        );
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
    }

    #[test]
    fn text_lines_quote_what_has_spaces() {
        let text = logged(false, LogLevel::Info, || {
            tracing::warn!(target: "vl3lb_control", reason = "two words", service = "a", "config refused");
        });
        let (_, rest) = text.split_once(' ').unwrap();
        assert_eq!(
            rest,
            "warn  vl3lb_control: config refused reason=\"two words\" service=a\n"
        );
    }

    #[test]
    fn other_crates_are_heard_at_warnings_only() {
        let text = logged(false, LogLevel::Trace, || {
            tracing::trace!(target: "vl3lb_dataplane::plane", "ours");
            tracing::info!(target: "hyper", "theirs");
            tracing::warn!(target: "hyper", "their warning");
        });
        assert!(text.contains("ours") && text.contains("their warning"));
        assert!(!text.contains("theirs\n"));
        let text = logged(false, LogLevel::Error, || {
            tracing::warn!(target: "hyper", "their warning");
            tracing::warn!(target: "vl3lb_control", "our warning");
            tracing::error!(target: "vl3_lb", "our error");
        });
        assert!(!text.contains("warning") && text.contains("our error"));
    }
}
