//! The screen of `status`.

use crate::api::{Envelope, Severity, Status, Time, Verdict, Warning};
use crate::number::age;
use crate::summary;

use super::table::{Cell, Table, Tone, text};
use super::view::View;

/// The screen: the verdict, its reasons, the next steps.
pub(super) fn screen(answer: &Envelope<Status>, view: View) -> String {
    let mut screen = String::new();
    for status in &answer.items {
        let lines = summary::lines(status, answer.time, view.digits);
        let labelled = lines.iter().map(|(label, line)| format!("{label:<9}  {line}"));
        for line in std::iter::once(headline(status, answer, view)).chain(labelled) {
            screen.push_str(line.trim_end());
            screen.push('\n');
        }
        if !status.warnings.is_empty() {
            screen.push_str("WARNINGS\n");
            screen.push_str(&warnings(&status.warnings, answer.time, view));
        }
    }
    screen
}

/// The one line of `--check`: the verdict and its worst reason.
pub(super) fn verdict(status: &Status) -> String {
    let word = status.verdict().name().to_lowercase();
    let reason = status
        .not_ready_reason
        .clone()
        .or_else(|| status.warnings.first().map(|warning| warning.text.clone()));
    match reason {
        Some(reason) => format!("{word}: {reason}"),
        None => format!("{word}: services {}", summary::services(status)),
    }
}

/// The colour of a verdict.
pub(super) const fn tone(verdict: Verdict) -> Tone {
    match verdict {
        Verdict::NotReady => Tone::Bad,
        Verdict::Draining | Verdict::Degraded => Tone::Warning,
        Verdict::Ready => Tone::Good,
    }
}

fn headline(status: &Status, answer: &Envelope<Status>, view: View) -> String {
    let (word, tone) = (status.verdict().name(), tone(status.verdict()));
    let verdict = if view.color {
        format!("{}{word}{:#}", tone.style(), tone.style())
    } else {
        word.to_owned()
    };
    let reason = status
        .not_ready_reason
        .as_ref()
        .map_or_else(String::new, |reason| format!(" ({reason})"));
    let snapshot = match (answer.generation, status.snapshot_time) {
        (Some(generation), Some(time)) => {
            format!("snapshot {generation}, {} old", age(answer.time.since(time)))
        }
        (Some(generation), None) => format!("snapshot {generation}"),
        (None, _) => "no snapshot".to_owned(),
    };
    format!(
        "vl3-lb {} ({})  {}  {verdict}{reason}  up {}   {snapshot}",
        status.version,
        status.revision,
        status.instance,
        age(answer.time.since(status.start_time)),
    )
}

fn warnings(warnings: &[Warning], now: Time, view: View) -> String {
    let mut table = Table::new(&[text(""), text(""), text(""), text("")]);
    for warning in warnings {
        let tone = match warning.severity {
            Severity::Error => Tone::Bad,
            Severity::Warn => Tone::Warning,
            Severity::Info => Tone::Plain,
        };
        let age = warning
            .since
            .map_or_else(String::new, |since| format!(" ({})", age(now.since(since))));
        table.push(vec![
            "".into(),
            Cell::toned(warning.severity.name(), tone),
            format!("{}{age}", warning.text).into(),
            warning
                .next
                .as_ref()
                .map_or_else(String::new, |next| format!("-> {next}"))
                .into(),
        ]);
    }
    table.take_lines(false, view.color)
}
