//! The table of events.

use vl3lb_common::report::{Event, EventList, Severity};

use super::number::{UNKNOWN, grouped};
use super::table::{Cell, Column, Table, Tone, text};
use super::view::View;

const COLUMNS: [Column; 5] = [
    text("TIME"),
    text("SEVERITY"),
    text("SERVICE"),
    text("BACKEND"),
    text("EVENT"),
];
const WIDE: [Column; 4] = [text("CODE"), text("FROM"), text("TO"), text("NUMBER")];

/// A table of events that is written in parts.
#[derive(Debug)]
pub(super) struct EventTable {
    table: Table,
    view: View,
    headings: bool,
}

impl EventTable {
    /// An empty one.
    pub(super) fn new(view: View) -> Self {
        let mut columns = COLUMNS.to_vec();
        if view.wide() {
            columns.extend(WIDE);
        }
        Self {
            table: Table::new(&columns),
            view,
            headings: view.headings,
        }
    }

    /// Appends an event.
    pub(super) fn push(&mut self, event: &Event) {
        let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| UNKNOWN.to_owned());
        let backend = event.backend.map(|backend| backend.to_string());
        let mut row = vec![
            event.time.to_string().into(),
            Cell::toned(event.severity.name(), tone(event.severity)),
            or_unknown(&event.service).into(),
            or_unknown(&backend).into(),
            event.text.as_str().into(),
        ];
        if self.view.wide() {
            row.extend([
                event.code.name().into(),
                or_unknown(&event.from).into(),
                or_unknown(&event.to).into(),
                event.sequence.to_string().into(),
            ]);
        }
        self.table.push(row);
    }

    /// The lines of what was appended since the last call, the first time with headings.
    pub(super) fn take_lines(&mut self) -> String {
        let headings = std::mem::take(&mut self.headings);
        self.table.take_lines(headings, self.view.color)
    }
}

/// One row per event, oldest first.
pub(super) fn table(answer: &EventList, view: View) -> String {
    let mut table = EventTable::new(view);
    for event in &answer.envelope.items {
        table.push(event);
    }
    table.take_lines()
}

/// What the list leaves out, for standard error.
pub(super) fn omission(answer: &EventList) -> Option<String> {
    answer.envelope.truncated.then(|| {
        format!(
            "showing {} of {} events since the start",
            grouped(answer.envelope.items.len() as u64),
            grouped(answer.events_total)
        )
    })
}

const fn tone(severity: Severity) -> Tone {
    match severity {
        Severity::Error => Tone::Bad,
        Severity::Warn => Tone::Uneasy,
        Severity::Info => Tone::Plain,
    }
}
