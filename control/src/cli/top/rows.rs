//! The rows of the table of `top`: chosen, ordered, and as many columns as there is room for.

use std::cmp::{Ordering, Reverse};

use super::sample::Sample;
use super::state::{Key, Opened, Order, Pane, State};
use crate::api::{Backend, Service};
use crate::cli::table::{Align, Cell, Column, Table};
use crate::cli::view::View;
use crate::cli::{backends, services};

/// Headings of the columns that make room, the first one first.
const EXPENDABLE: [&str; 18] = [
    "SCHED",
    "PROTO",
    "SINCE",
    "PORTS",
    "WEIGHT",
    "ADDRESS",
    "CONN p99",
    "BIT/s IN",
    "PPS OUT",
    "NOTE",
    "NEW/s",
    "BIT/s OUT",
    "PPS IN",
    "FAIL/s",
    "DROP/s",
    "FLOWS",
    "BACKENDS",
    "SERVICE",
];
/// Between two columns.
const GAP: usize = 2;
/// The least width of a name that is cut.
const SHORTEST_NAME: usize = 8;

/// One row.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub key: Key,
    pub cells: Vec<Cell>,
}

/// The rows of the shown table, in the user's order.
pub(super) fn rows(sample: &Sample, state: &State, view: View) -> Vec<Row> {
    match state.table() {
        Pane::Services => chosen_services(sample, state)
            .into_iter()
            .map(|service| Row {
                key: service.name.clone(),
                cells: services::cells(service, sample.time, view),
            })
            .collect(),
        Pane::Backends => chosen_backends(sample, state)
            .into_iter()
            .map(|backend| Row {
                key: key(backend),
                cells: backends::cells(backend, sample.time, view),
            })
            .collect(),
    }
}

/// The identities of the rows of the shown table, in their order.
pub(super) fn keys(sample: &Sample, state: &State) -> Vec<Key> {
    match state.table() {
        Pane::Services => {
            let chosen = chosen_services(sample, state).into_iter();
            chosen.map(|service| service.name.clone()).collect()
        }
        Pane::Backends => chosen_backends(sample, state).into_iter().map(key).collect(),
    }
}

/// The columns of the shown table.
pub(super) fn columns(state: &State, view: View) -> Vec<Column> {
    match state.table() {
        Pane::Services => services::columns(view),
        Pane::Backends => backends::columns(view),
    }
}

/// All objects that the shown table could have.
pub(super) fn count(sample: &Sample, state: &State) -> usize {
    match (state.table(), state.opened.last()) {
        (Pane::Services, _) => sample.services.len(),
        (Pane::Backends, Some(Opened::Service(name))) => sample
            .backends
            .iter()
            .filter(|backend| backend.service == *name)
            .count(),
        (Pane::Backends, _) => sample.backends.len(),
    }
}

/// Identity of a backend.
pub(super) fn key(backend: &Backend) -> Key {
    format!("{} {}", backend.service, backend.endpoint())
}

/// The whole table as text.
pub(super) fn text(sample: &Sample, state: &State, view: View) -> String {
    let mut table = Table::new(&columns(state, view));
    for row in rows(sample, state, view) {
        table.push(row.cells);
    }
    table.take_lines(view.headings, view.color)
}

fn contains(text: &str, part: &str) -> bool {
    part.is_empty() || text.to_lowercase().contains(&part.to_lowercase())
}

fn chosen_services<'a>(sample: &'a Sample, state: &State) -> Vec<&'a Service> {
    let filter = state.active_filter();
    let mut chosen: Vec<_> = sample
        .services
        .iter()
        .filter(|service| contains(&service.name, filter))
        .collect();
    let rate =
        |value: fn(&Service) -> Option<f64>| move |a: &&Service, b: &&Service| larger(value(a), value(b));
    match state.order {
        // As the balancer lists them.
        Order::State => {}
        Order::Name => chosen.sort_by(|a, b| a.name.cmp(&b.name)),
        Order::Flows => chosen.sort_by_key(|service| Reverse(service.flows)),
        Order::New => chosen.sort_by(rate(|service| service.new_flows_per_second)),
        Order::Pps => chosen.sort_by(rate(|service| service.inbound.packets_per_second)),
        Order::Bps => chosen.sort_by(rate(|service| service.outbound.bytes_per_second)),
        Order::Drops => chosen.sort_by(rate(|service| service.drops_per_second)),
    }
    if state.reverse {
        chosen.reverse();
    }
    chosen
}

fn chosen_backends<'a>(sample: &'a Sample, state: &State) -> Vec<&'a Backend> {
    let filter = state.active_filter();
    let service = state.opened.iter().find_map(|opened| match opened {
        Opened::Service(name) => Some(name),
        Opened::Backend(_) => None,
    });
    let mut chosen: Vec<_> = sample
        .backends
        .iter()
        .filter(|backend| service.is_none_or(|service| backend.service == *service))
        .filter(|backend| {
            let pod = backend.pod.as_deref().unwrap_or_default();
            contains(&key(backend), filter) || contains(pod, filter)
        })
        .collect();
    let rate =
        |value: fn(&Backend) -> Option<f64>| move |a: &&Backend, b: &&Backend| larger(value(a), value(b));
    match state.order {
        Order::State => {}
        Order::Name => {
            chosen.sort_by(|a, b| (&a.service, a.endpoint()).cmp(&(&b.service, b.endpoint())));
        }
        Order::Flows => chosen.sort_by_key(|backend| Reverse(backend.flows)),
        Order::New => chosen.sort_by(rate(|backend| backend.new_flows_per_second)),
        Order::Pps => chosen.sort_by(rate(|backend| backend.inbound.packets_per_second)),
        Order::Bps => chosen.sort_by(rate(|backend| backend.outbound.bytes_per_second)),
        Order::Drops => chosen.sort_by(rate(|backend| backend.failures_per_second)),
    }
    if state.reverse {
        chosen.reverse();
    }
    chosen
}

/// The larger rate first, unknown ones last.
fn larger(a: Option<f64>, b: Option<f64>) -> Ordering {
    let known = |rate: Option<f64>| rate.unwrap_or(f64::NEG_INFINITY);
    known(b).total_cmp(&known(a))
}

/// Columns that fit a width.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fit {
    /// Index and width of each column that is shown.
    pub columns: Vec<(usize, usize)>,
}

impl Fit {
    /// Leaves out columns until the rest fits into `room`, and cuts the first one if that is not enough.
    pub(super) fn new(columns: &[Column], rows: &[Row], room: usize) -> Self {
        let width = |index: usize| {
            let cells = rows.iter().map(|row| row.cells[index].text().chars().count());
            let heading = columns[index].heading().chars().count();
            // Notes are sentences: what does not fit is cut.
            if columns[index].heading() == "NOTE" {
                heading
            } else {
                cells.chain([heading]).max().unwrap_or_default()
            }
        };
        let mut fit: Vec<_> = (0..columns.len()).map(|index| (index, width(index))).collect();
        let needed = |fit: &[(usize, usize)]| {
            fit.iter().map(|(_, width)| width).sum::<usize>() + GAP * fit.len().saturating_sub(1)
        };
        for heading in EXPENDABLE {
            if needed(&fit) <= room {
                break;
            }
            fit.retain(|&(index, _)| columns[index].heading() != heading);
        }
        let excess = needed(&fit).saturating_sub(room);
        if let Some((_, first)) = fit.first_mut() {
            *first = first.saturating_sub(excess).max(SHORTEST_NAME.min(*first));
        }
        Self { columns: fit }
    }

    /// The text of a cell, padded or cut to the column; the last column is as long as its text.
    pub(super) fn padded(&self, place: usize, text: &str, align: Align) -> String {
        let (_, width) = self.columns[place];
        let gap = if place == 0 { "" } else { "  " };
        let last = place + 1 == self.columns.len();
        if text.chars().count() > width && !last {
            let cut: String = text.chars().take(width.saturating_sub(1)).collect();
            return format!("{gap}{cut}~");
        }
        match align {
            Align::Left if last => format!("{gap}{text}"),
            Align::Left => format!("{gap}{text:<width$}"),
            Align::Right => format!("{gap}{text:>width$}"),
        }
    }
}
