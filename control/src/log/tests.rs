use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tracing::Metadata;
use tracing::callsite::Identifier;

use super::line::Line;
use super::repeats::Repeats;
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
    let (subscriber, _) = subscriber(level, Output::new(form, sink.clone()));
    tracing::subscriber::with_default(subscriber, events);
    sink.text()
}

#[test]
fn json_lines_have_their_fields_in_order() {
    let text = logged(Form::Json, LogLevel::Info, || {
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
    let text = logged(Form::Text, LogLevel::Info, || {
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
fn repeats_are_folded_in_both_forms_and_at_a_level_set_later() {
    for form in [Form::Text, Form::Json] {
        let sink = Sink::default();
        let output = Output::new(form, sink.clone());
        let (subscriber, filter) = subscriber(LogLevel::Info, output.clone());
        let again = || tracing::debug!(target: "vl3lb_control", service = "ledger", "again");
        tracing::subscriber::with_default(subscriber, || {
            again();
            filter.reload(targets(LogLevel::Trace)).unwrap();
            again();
            again();
            output.fold();
            for _ in 0..300 {
                again();
            }
        });
        output.tell_rest(Instant::now());
        let text = sink.text();
        let lines: Vec<_> = text.lines().collect();
        // Two before folding began, one that stands for all others, and how many those were.
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[3].contains("… 299 more in ") && lines[3].contains(", the last: again"));
        let end = match form {
            Form::Text => "again service=ledger",
            Form::Json => "again\",\"service\":\"ledger\"}",
        };
        assert!(lines.iter().all(|line| line.ends_with(end)), "{text}");
        output.tell_rest(Instant::now());
        assert_eq!(sink.text(), text, "told once");
    }
}

/// A place that logs, for tests that need none.
struct Place(u8);

static PLACES: [Place; 2] = [Place(0), Place(1)];

impl tracing::Callsite for Place {
    fn set_interest(&self, _: tracing::subscriber::Interest) {}

    fn metadata(&self) -> &Metadata<'_> {
        unreachable!("place {} is only told from others", self.0)
    }
}

/// Folding on a clock of its own.
struct Folding {
    repeats: Repeats,
    start: Instant,
}

impl Folding {
    fn new() -> Self {
        let mut repeats = Repeats::default();
        repeats.fold();
        Self {
            repeats,
            start: Instant::now(),
        }
    }

    fn at(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    /// Whether `message` of a place is written.
    fn admit(&mut self, place: usize, message: &str, millis: u64) -> bool {
        let now = self.at(millis);
        self.repeats
            .admit(Identifier(&PLACES[place]), &line(message), now)
    }

    fn due(&mut self, millis: u64) -> Vec<String> {
        let now = self.at(millis);
        messages(self.repeats.due(now))
    }

    fn rest(&mut self, millis: u64) -> Vec<String> {
        let now = self.at(millis);
        messages(self.repeats.rest(now))
    }
}

fn line(message: &str) -> Line {
    Line {
        level: Level::WARN,
        target: "vl3lb_control",
        message: message.to_owned(),
        fields: String::new(),
    }
}

fn messages(lines: Vec<Line>) -> Vec<String> {
    lines.into_iter().map(|line| line.message).collect()
}

#[test]
fn nothing_is_folded_before_the_start_is_over() {
    let start = Instant::now();
    let mut repeats = Repeats::default();
    for _ in 0..100 {
        assert!(repeats.admit(Identifier(&PLACES[0]), &line("refused"), start));
    }
    assert!(repeats.rest(start).is_empty());
}

#[test]
fn a_place_writes_ten_lines_a_second_and_others_are_not_held_up() {
    let mut folding = Folding::new();
    let written = |folding: &mut Folding, millis| {
        (0..350)
            .filter(|number| folding.admit(0, &format!("number {number}"), millis))
            .count()
    };
    assert_eq!(written(&mut folding, 0), 10);
    assert_eq!(written(&mut folding, 999), 0);
    assert!(folding.admit(1, "something else", 999));
    assert_eq!(written(&mut folding, 1000), 10);
    assert!(folding.due(9_999).is_empty());
    assert_eq!(folding.due(10_000), ["… 1030 more in 10s, the last: number 349"]);
    assert!(folding.rest(10_000).is_empty(), "told once");
}

#[test]
fn a_line_that_says_the_same_is_written_once_and_then_counted() {
    let mut folding = Folding::new();
    assert!(folding.admit(0, "trying again", 0));
    for second in 1..=34 {
        assert!(!folding.admit(0, "trying again", 1000 * second));
        let told = folding.due(1000 * second);
        // Each group begins with the first line after the last one was told.
        match second {
            11 | 22 | 33 => assert_eq!(told, ["… 11 more in 10s, the last: trying again"]),
            _ => assert!(told.is_empty(), "{second} {told:?}"),
        }
    }
    assert_eq!(folding.rest(34_500), ["… 1 more in 1s, the last: trying again"]);
    assert!(folding.admit(0, "trying again", 44_501), "after a long silence");
}

#[test]
fn what_changes_is_not_a_repeat() {
    let mut folding = Folding::new();
    for second in 0..20 {
        assert!(folding.admit(0, "up -> down", 1000 * second));
        assert!(folding.admit(0, "down -> up", 1000 * second + 500));
    }
    assert!(folding.rest(20_000).is_empty());
}
