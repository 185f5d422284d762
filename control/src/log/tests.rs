use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::Metadata;
use tracing::callsite::Identifier;

use super::throttle::{Line, LogThrottle, Summary};
use super::*;

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Sink {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn logged(form: Form, level: LogLevel, events: impl FnOnce()) -> String {
    let sink = Sink::default();
    let writer = sink.clone();
    let (lines, _) = lines(level, form, Arc::default(), move || writer.clone());
    let subscriber = tracing_subscriber::registry().with(lines);
    tracing::subscriber::with_default(subscriber, events);
    sink.text()
}

#[test]
fn json_lines_are_flat_objects() {
    let text = logged(Form::Json, LogLevel::Info, || {
        tracing::info!(target: "vl3lb_control::publisher", service = "ledger", generation = 42_u64,
                "snapshot \"41\" -> 42");
    });
    let mut line: serde_json::Value = serde_json::from_str(&text).unwrap();
    let timestamp = line["timestamp"].take();
    let timestamp = timestamp.as_str().unwrap();
    assert_eq!(
        timestamp.len(),
        "2026-11-24T06:12:40.123456Z".len(),
        "{timestamp}"
    );
    assert!(timestamp.ends_with('Z'), "{timestamp}");
    assert_eq!(
        line,
        serde_json::json!({
            "timestamp": null,
            "level": "INFO",
            "message": "snapshot \"41\" -> 42",
            "service": "ledger",
            "generation": 42,
            "target": "vl3lb_control::publisher",
        })
    );
}

#[test]
fn text_lines_have_message_and_fields() {
    let text = logged(Form::Text, LogLevel::Info, || {
        tracing::warn!(target: "vl3lb_control", reason = "two words", service = "a", "config rejected");
    });
    let (_, rest) = text.split_once(' ').unwrap();
    assert_eq!(
        rest,
        " WARN vl3lb_control: config rejected reason=\"two words\" service=\"a\"\n"
    );
}

#[test]
fn other_crates_log_at_warn_and_above() {
    let text = logged(Form::Text, LogLevel::Trace, || {
        tracing::trace!(target: "vl3lb_dataplane::plane", "ours");
        tracing::info!(target: "hyper", "theirs");
        tracing::warn!(target: "hyper", "their warning");
    });
    assert!(text.contains("ours") && text.contains("their warning"));
    assert!(!text.contains("theirs\n"));
    let text = logged(Form::Text, LogLevel::Error, || {
        tracing::warn!(target: "hyper", "their warning");
        tracing::warn!(target: "vl3lb_control", "our warning");
        tracing::error!(target: "vl3_lb", "our error");
    });
    assert!(!text.contains("warning") && text.contains("our error"));
}

#[test]
fn repeats_are_suppressed_in_both_forms_and_at_a_level_set_later() {
    for form in [Form::Text, Form::Json] {
        let sink = Sink::default();
        let writer = sink.clone();
        let throttle: Arc<LogThrottle> = Arc::default();
        let (lines, filter) = lines(LogLevel::Info, form, Arc::clone(&throttle), move || {
            writer.clone()
        });
        let subscriber = tracing_subscriber::registry().with(lines);
        let again = || tracing::debug!(target: "vl3lb_control", service = "ledger", "again");
        tracing::subscriber::with_default(subscriber, || {
            again();
            filter.reload(targets(LogLevel::Trace)).unwrap();
            again();
            again();
            throttle.enable();
            for _ in 0..300 {
                again();
            }
            throttle::write(&throttle.rest(Instant::now()));
            let text = sink.text();
            let lines: Vec<_> = text.lines().collect();
            // Two before throttling, the first one after, and the summary of the rest.
            assert_eq!(lines.len(), 4, "{text}");
            assert!(
                lines
                    .iter()
                    .all(|line| line.contains("again") && line.contains("DEBUG"))
            );
            assert!(lines[3].contains("… 299 more in ") && lines[3].contains(", the last: again service="));
            throttle::write(&throttle.rest(Instant::now()));
            assert_eq!(sink.text(), text, "summarized once");
        });
    }
}

/// A call site without code.
struct FakeCallSite(u8);

static CALL_SITES: [FakeCallSite; 2] = [FakeCallSite(0), FakeCallSite(1)];

impl tracing::Callsite for FakeCallSite {
    fn set_interest(&self, _: tracing::subscriber::Interest) {}

    fn metadata(&self) -> &Metadata<'_> {
        unreachable!("call site {} is only compared", self.0)
    }
}

/// A throttle on a clock of its own.
struct Clocked {
    throttle: LogThrottle,
    start: Instant,
}

impl Clocked {
    fn new() -> Self {
        let throttle = LogThrottle::default();
        throttle.enable();
        Self {
            throttle,
            start: Instant::now(),
        }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    /// Whether `message` of a call site is written.
    fn admit(&mut self, call_site: usize, message: &str, millis: u64) -> bool {
        let now = self.at(millis);
        self.throttle
            .admit(Identifier(&CALL_SITES[call_site]), &line(message), now)
    }

    fn due(&mut self, millis: u64) -> Vec<String> {
        let now = self.at(millis);
        messages(self.throttle.due(now))
    }

    fn rest(&mut self, millis: u64) -> Vec<String> {
        let now = self.at(millis);
        messages(self.throttle.rest(now))
    }
}

fn line(message: &str) -> Line {
    Line {
        level: Level::WARN,
        target: "vl3lb_control",
        text: message.to_owned(),
    }
}

fn messages(summaries: Vec<Summary>) -> Vec<String> {
    let text = |Summary { count, seconds, last }| format!("{count} in {seconds}s: {}", last.text);
    summaries.into_iter().map(text).collect()
}

#[test]
fn nothing_is_suppressed_during_the_start() {
    let start = Instant::now();
    let throttle = LogThrottle::default();
    for _ in 0..100 {
        assert!(throttle.admit(Identifier(&CALL_SITES[0]), &line("refused"), start));
    }
    assert!(throttle.rest(start).is_empty());
}

#[test]
fn a_call_site_writes_ten_lines_a_second_and_does_not_limit_others() {
    let mut clocked = Clocked::new();
    let written = |clocked: &mut Clocked, millis| {
        (0..350)
            .filter(|number| clocked.admit(0, &format!("number {number}"), millis))
            .count()
    };
    assert_eq!(written(&mut clocked, 0), 10);
    assert_eq!(written(&mut clocked, 999), 0);
    assert!(clocked.admit(1, "something else", 999));
    assert_eq!(written(&mut clocked, 1000), 10);
    assert!(clocked.due(9_999).is_empty());
    assert_eq!(clocked.due(10_000), ["1030 in 10s: number 349"]);
    assert!(clocked.rest(10_000).is_empty(), "summarized once");
}

#[test]
fn an_equal_line_is_written_once_and_then_counted() {
    let mut clocked = Clocked::new();
    assert!(clocked.admit(0, "trying again", 0));
    for second in 1..=34 {
        assert!(!clocked.admit(0, "trying again", 1000 * second));
        let summaries = clocked.due(1000 * second);
        // Each group begins with the first line after the last summary.
        match second {
            11 | 22 | 33 => assert_eq!(summaries, ["11 in 10s: trying again"]),
            _ => assert!(summaries.is_empty(), "{second} {summaries:?}"),
        }
    }
    assert_eq!(clocked.rest(34_500), ["1 in 1s: trying again"]);
    assert!(clocked.admit(0, "trying again", 44_501), "after a long silence");
}

#[test]
fn alternating_lines_are_not_repeats() {
    let mut clocked = Clocked::new();
    for second in 0..20 {
        assert!(clocked.admit(0, "up -> down", 1000 * second));
        assert!(clocked.admit(0, "down -> up", 1000 * second + 500));
    }
    assert!(clocked.rest(20_000).is_empty());
}
