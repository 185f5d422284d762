//! The tables of services, and of one service in full.

use crate::api::{Backend, Envelope, EventList, ReasonCount, Service, ServiceCheck, ServiceState, Time};
use vl3lb_common::DropReason;

use super::table::{Cell, Column, Table, Tone, number, text};
use super::view::View;
use super::{backends, events};
use crate::number::{UNKNOWN, age_seconds, latency};
use crate::summary::since;

const COLUMNS: [Column; 14] = [
    text("NAME"),
    text("PROTO"),
    text("ADDRESS"),
    text("SCHED"),
    text("STATE"),
    number("BACKENDS"),
    number("FLOWS"),
    number("NEW/s"),
    number("PPS IN"),
    number("PPS OUT"),
    number("BIT/s IN"),
    number("BIT/s OUT"),
    number("DROP/s"),
    number("SINCE"),
];
const WIDE: [Column; 11] = [
    number("TARGETPORT"),
    number("AFFINITY"),
    number("DRAIN"),
    text("CHECK"),
    text("SELECTOR"),
    text("SOURCES"),
    text("CLIENT ADDR"),
    number("CONN p50"),
    number("CONN p99"),
    number("FLOWS TOTAL"),
    number("MAX/MEAN"),
];

/// One row per service.
pub(super) fn table(answer: &Envelope<Service>, view: View) -> String {
    let mut table = Table::new(&columns(view));
    for service in &answer.items {
        table.push(cells(service, answer.time, view));
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
pub(super) fn cells(service: &Service, now: Time, view: View) -> Vec<Cell> {
    let mut cells = row(service, now, view);
    if view.wide() {
        cells.extend(wide_row(service, view));
    }
    cells
}

/// One service with its backends, drop reasons and last events.
pub(super) fn block(
    answer: &Envelope<Service>,
    backends: &Envelope<Backend>,
    events: &EventList,
    view: View,
) -> String {
    let mut block = table(answer, view);
    block.push('\n');
    block.push_str(&backends::table(backends, view));
    let drops: Vec<_> = answer
        .items
        .iter()
        .flat_map(|service| service.drops.iter().filter(|drop| drop.packets_total > 0))
        .collect();
    if !drops.is_empty() {
        block.push('\n');
        block.push_str(&reasons(drops, view));
    }
    if !events.envelope.items.is_empty() {
        block.push('\n');
        block.push_str(&events::table(events, view));
    }
    block
}

/// Drop reasons with their counts and remedies.
pub(super) fn reasons<'a>(drops: impl IntoIterator<Item = &'a ReasonCount>, view: View) -> String {
    let mut table = Table::new(&[
        text("REASON"),
        number("PACKETS"),
        number("DROP/s"),
        text("REMEDY"),
        text("PAGE"),
    ]);
    for drop in drops {
        let remedy = DropReason::ALL
            .iter()
            .find(|reason| reason.name() == drop.reason)
            .map_or(UNKNOWN, |reason| reason.remedy());
        table.push(vec![
            drop.reason.as_str().into(),
            view.digits.count(drop.packets_total).into(),
            view.digits.rate(drop.packets_per_second).into(),
            remedy.into(),
            format!("docs/drop-reasons.md#{}", drop.reason).into(),
        ]);
    }
    table.take_lines(view.headings, view.color)
}

fn row(service: &Service, now: Time, view: View) -> Vec<Cell> {
    let digits = view.digits;
    vec![
        service.name.as_str().into(),
        service.protocol.name().into(),
        service.endpoints().into(),
        service.scheduler.name().into(),
        Cell::toned(service.state.name(), tone(service.state)),
        format!("{}/{}", service.backends.up, service.backends.total).into(),
        digits.count(service.flows).into(),
        digits.rate(service.new_flows_per_second).into(),
        digits.rate(service.inbound.packets_per_second).into(),
        digits.rate(service.outbound.packets_per_second).into(),
        digits.bits(service.inbound.bytes_per_second).into(),
        digits.bits(service.outbound.bytes_per_second).into(),
        digits.rate(service.drops_per_second).into(),
        since(service.since, now).into(),
    ]
}

fn wide_row(service: &Service, view: View) -> Vec<Cell> {
    let selector: Vec<_> = service
        .selector
        .iter()
        .map(|(label, value)| format!("{label}={value}"))
        .collect();
    let sources: Vec<_> = service.source_ranges.iter().map(ToString::to_string).collect();
    vec![
        service.target_port.to_string().into(),
        service
            .affinity_seconds
            .map_or_else(|| UNKNOWN.to_owned(), age_seconds)
            .into(),
        age_seconds(service.drain_seconds).into(),
        service
            .check
            .as_ref()
            .map_or_else(|| UNKNOWN.to_owned(), checked)
            .into(),
        if selector.is_empty() {
            UNKNOWN.into()
        } else {
            selector.join(",").into()
        },
        if sources.is_empty() {
            "all".into()
        } else {
            sources.join(",").into()
        },
        service.client_address.name().into(),
        latency(service.connect_seconds.p50).into(),
        latency(service.connect_seconds.p99).into(),
        view.digits.count(service.flows_opened_total).into(),
        service
            .imbalance
            .map_or_else(|| UNKNOWN.to_owned(), |ratio| format!("{ratio:.2}"))
            .into(),
    ]
}

/// `tcp every 2s`, `tcp:80 every 2s` if not at the backends' own port, `http /healthz every 2s`.
fn checked(check: &ServiceCheck) -> String {
    let port = check.port.map_or_else(String::new, |port| format!(":{port}"));
    let object = check
        .object
        .as_deref()
        .map_or_else(String::new, |object| format!(" {object}"));
    format!(
        "{}{port}{object} every {}",
        check.kind,
        age_seconds(check.interval_seconds)
    )
}

/// Every address that the service listens at, and its port.
/// The colour of a state.
pub(super) const fn tone(state: ServiceState) -> Tone {
    match state {
        ServiceState::Ok => Tone::Good,
        ServiceState::Degraded => Tone::Warning,
        ServiceState::Down => Tone::Bad,
    }
}
