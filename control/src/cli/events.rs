//! The table of events.

use crate::api::{Event, EventList, Severity};

use super::table::{Cell, Column, Listing, Tone, text};
use super::view::View;
use crate::number::{UNKNOWN, grouped};

const COLUMNS: [Column; 5] = [
    text("TIME"),
    text("SEVERITY"),
    text("SERVICE"),
    text("BACKEND"),
    text("EVENT"),
];
const WIDE: [Column; 4] = [text("CODE"), text("FROM"), text("TO"), text("NUMBER")];

/// An empty table.
pub(super) fn listing(view: View) -> Listing {
    Listing::new(&COLUMNS, &WIDE, view)
}

/// Appends an event.
pub(super) fn push(listing: &mut Listing, event: &Event) {
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| UNKNOWN.to_owned());
    let backend = event.backend.map(|backend| backend.to_string());
    let row = vec![
        event.time.to_string().into(),
        Cell::toned(event.severity.name(), tone(event.severity)),
        or_unknown(&event.service).into(),
        or_unknown(&backend).into(),
        event.text.as_str().into(),
    ];
    let wide = vec![
        event.code.name().into(),
        or_unknown(&event.from).into(),
        or_unknown(&event.to).into(),
        event.sequence.to_string().into(),
    ];
    listing.push(row, wide);
}

/// One row per event, oldest first.
pub(super) fn table(answer: &EventList, view: View) -> String {
    let mut listing = listing(view);
    for event in &answer.envelope.items {
        push(&mut listing, event);
    }
    listing.take_lines()
}

/// A note on the events that the list omits.
pub(super) fn omission(answer: &EventList) -> Option<String> {
    answer.envelope.truncated.then(|| {
        format!(
            "showing {} of {} events since the start",
            grouped(answer.envelope.items.len() as u64),
            grouped(answer.events_total)
        )
    })
}

/// The colour of a severity.
pub(super) const fn tone(severity: Severity) -> Tone {
    match severity {
        Severity::Error => Tone::Bad,
        Severity::Warn => Tone::Warning,
        Severity::Info => Tone::Plain,
    }
}
