//! Log lines on standard error: text for people, JSON lines for machines.
//!
//! Each line has `ts` (RFC 3339 UTC with microseconds), `level`, `target`, `msg`, then its fields. A place in the
//! code writes at most ten lines a second; what it has to say beyond that is told in one line.

mod repeats;

use std::fmt::{self, Write as _};
use std::io::{IsTerminal, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

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

use repeats::{Folded, Repeats};

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
    line: Line,
}

impl Drop for Log {
    /// Tells what was folded and not told yet.
    fn drop(&mut self) {
        let rest = self.line.repeats().rest(Instant::now());
        self.line.tell(&rest);
    }
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
        let line = Line::new(json);
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .event_format(line.clone());
        tracing_subscriber::registry()
            .with(filter)
            .with(lines)
            .try_init()
            .map_err(|error| format!("start the log: {error}"))?;
        line.tell_folded_in_time()?;
        Ok(Self {
            filter: handle,
            configured: level,
            line,
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

/// How often folded lines are looked for.
const LOOK: vl3lb_common::Duration = vl3lb_common::Duration::from_secs(1);

/// The form of a line, and which lines are written.
#[derive(Debug, Clone)]
struct Line {
    json: bool,
    repeats: Arc<Mutex<Repeats>>,
}

impl Line {
    fn new(json: bool) -> Self {
        Self {
            json,
            repeats: Arc::default(),
        }
    }

    fn repeats(&self) -> MutexGuard<'_, Repeats> {
        // Nothing that is done under the lock leaves it half done.
        self.repeats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a thread that tells what was folded, also when nothing else is logged.
    fn tell_folded_in_time(&self) -> Result<(), String> {
        let line = self.clone();
        let tell = move || {
            loop {
                std::thread::sleep(LOOK);
                let due = line.repeats().due(Instant::now());
                line.tell(&due);
            }
        };
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(tell)
            .map(drop)
            .map_err(|error| format!("start the thread of the log: {error}"))
    }

    fn tell(&self, folded: &[Folded]) {
        for line in folded {
            let text = self.line(line.level, &line.target, &line.message, "");
            // Where nobody reads the log there is nobody to tell.
            std::io::stderr().write_all(text.as_bytes()).ok();
        }
    }

    /// A line with its end; `rest` are the fields, ready to append.
    fn line(&self, level: Level, target: &str, message: &str, rest: &str) -> String {
        let ts = humantime::format_rfc3339_micros(std::time::SystemTime::now());
        let level = level.as_str().to_lowercase();
        if self.json {
            let (target, message) = (quoted(target), quoted(message));
            format!("{{\"ts\":\"{ts}\",\"level\":\"{level}\",\"target\":{target},\"msg\":{message}{rest}}}\n")
        } else {
            format!("{ts} {level:5} {target}: {message}{rest}\n")
        }
    }
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
        let metadata = event.metadata();
        let mut fields = Fields {
            json: self.json,
            ..Fields::default()
        };
        event.record(&mut fields);
        let Fields { message, rest, .. } = fields;
        if !self.repeats().admit(metadata, &message, Instant::now()) {
            return Ok(());
        }
        writer.write_str(&self.line(*metadata.level(), metadata.target(), &message, &rest))
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
                .event_format(Line::new(json)),
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
    fn a_line_that_repeats_is_folded_and_told_later() {
        let sink = Sink::default();
        let writer = sink.clone();
        let line = Line::new(false);
        let subscriber = tracing_subscriber::registry().with(targets(LogLevel::Info)).with(
            tracing_subscriber::fmt::layer()
                .with_writer(move || writer.clone())
                .event_format(line.clone()),
        );
        let before = Instant::now();
        tracing::subscriber::with_default(subscriber, || {
            for number in 0..350 {
                tracing::warn!(target: "vl3lb_control", "again {number}");
            }
            tracing::warn!(target: "vl3lb_control", "something else");
        });
        let text = String::from_utf8(sink.0.lock().unwrap().clone()).unwrap();
        let written = text.lines().filter(|line| line.contains("again")).count();
        assert!(text.contains("something else"));
        // The loop may have taken longer than a second.
        let after = Instant::now();
        assert!(
            after.duration_since(before).as_secs() > 0 || written == 10,
            "{written} lines"
        );
        assert_eq!(line.repeats().due(before), []);
        let told = line.repeats().due(after + 10 * LOOK);
        assert_eq!(told.len(), 1);
        let expected = format!("… {} more in ", 350 - written);
        assert!(told[0].message.starts_with(&expected), "{told:?}");
        assert!(told[0].message.ends_with("the last: again 349"), "{told:?}");
        assert_eq!(line.repeats().rest(after), [], "told once");
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
