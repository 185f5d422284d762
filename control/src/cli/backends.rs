//! The table of backends.

use crate::api::{Backend, BackendCheck, BackendState, Envelope, Time};

use super::table::{Cell, Column, Table, Tone, number, text};
use super::view::View;
use crate::number::{UNKNOWN, latency, percent};
use crate::summary::since;

const COLUMNS: [Column; 13] = [
    text("SERVICE"),
    text("BACKEND"),
    text("STATE"),
    number("WEIGHT"),
    number("FLOWS"),
    number("NEW/s"),
    number("FAIL/s"),
    number("PPS IN"),
    number("BIT/s OUT"),
    number("CONN p99"),
    number("PORTS"),
    number("SINCE"),
    text("NOTE"),
];
const WIDE: [Column; 6] = [
    text("POD"),
    text("NODE"),
    text("SOURCE"),
    text("NEXTHOP"),
    text("CHECK"),
    number("TRANSITIONS"),
];

/// One row per backend.
pub(super) fn table(answer: &Envelope<Backend>, view: View) -> String {
    let mut table = Table::new(&columns(view));
    for backend in &answer.items {
        table.push(cells(backend, answer.time, view));
    }
    table.take_lines(view.headings, view.color)
}

/// The columns of the view.
pub(super) fn columns(view: View) -> Vec<Column> {
    let mut columns = COLUMNS.to_vec();
    if view.wide() {
        columns.extend(WIDE);
    }
    columns
}

/// A row at `now`: one cell per column of the view.
pub(super) fn cells(backend: &Backend, now: Time, view: View) -> Vec<Cell> {
    let mut cells = row(backend, now, view);
    if view.wide() {
        cells.extend(wide_row(backend));
    }
    cells
}

fn row(backend: &Backend, now: Time, view: View) -> Vec<Cell> {
    let digits = view.digits;
    vec![
        backend.service.as_str().into(),
        backend.endpoint().to_string().into(),
        Cell::toned(backend.state.name(), tone(backend.state)),
        backend.weight.to_string().into(),
        digits.count(backend.flows).into(),
        digits.rate(backend.new_flows_per_second).into(),
        digits.rate(backend.failures_per_second).into(),
        digits.rate(backend.inbound.packets_per_second).into(),
        digits.bits(backend.outbound.bytes_per_second).into(),
        latency(backend.connect_seconds.as_ref().and_then(|connect| connect.p99)).into(),
        percent(backend.nat_ports.ratio()).into(),
        since(backend.since, now).into(),
        backend.note(now).into(),
    ]
}

fn wide_row(backend: &Backend) -> Vec<Cell> {
    let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| UNKNOWN.to_owned());
    let next_hop = backend.next_hop.as_ref().map_or_else(
        || UNKNOWN.to_owned(),
        |hop| format!("{} {}", hop.mac.as_deref().unwrap_or(UNKNOWN), hop.state),
    );
    vec![
        or_unknown(&backend.pod).into(),
        or_unknown(&backend.node).into(),
        or_unknown(&backend.source).into(),
        next_hop.into(),
        backend
            .check
            .as_ref()
            .map_or_else(|| UNKNOWN.to_owned(), checked)
            .into(),
        backend.transitions.to_string().into(),
    ]
}

/// The last check: `tcp ok 0.4ms (2 of 2)`.
fn checked(check: &BackendCheck) -> String {
    if check.kind == "passive" {
        return check.kind.clone();
    }
    let Some(result) = check.last_result else {
        return format!("{} not yet", check.kind);
    };
    let took = latency(check.duration_seconds);
    format!("{} {} {took} {}", check.kind, result.name(), check.progress())
}

/// The colour of a state.
pub(super) const fn tone(state: BackendState) -> Tone {
    match state {
        BackendState::Up => Tone::Good,
        BackendState::Draining | BackendState::Unknown => Tone::Warning,
        BackendState::Down => Tone::Bad,
    }
}
