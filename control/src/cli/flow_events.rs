//! The table of flows that open and close.

use crate::api::{Flow, FlowEvent, Time};
use vl3lb_common::stats::CloseCause;

use super::flows::{endpoints, traffic};
use super::table::{Cell, Column, Listing, Tone, number, text};
use super::view::View;
use crate::number::{UNKNOWN, age_seconds};

/// Of `172.16.1.100:40000` and most others.
const IPV4: usize = 18;

/// Time and event, then the columns of the table of flows.
const COLUMNS: [Column; 13] = [
    text("TIME"),
    text("EVENT"),
    text("CAUSE").at_least(12),
    text("PROTO"),
    text("CLIENT").at_least(IPV4),
    text("SERVICE").at_least(IPV4),
    text("NAT SOURCE").at_least(IPV4),
    text("BACKEND").at_least(IPV4),
    text("STATE").at_least(11),
    number("AGE").at_least(5),
    number("PKTS IN/OUT"),
    number("BYTES IN/OUT"),
    number("W"),
];
const WIDE: [Column; 1] = [text("NAME")];

/// An empty table.
pub(super) fn listing(view: View) -> Listing {
    Listing::new(&COLUMNS, &WIDE, view)
}

/// Appends the row of an opened or closed flow; a loss has no row.
pub(super) fn push(listing: &mut Listing, event: &FlowEvent) {
    match event {
        FlowEvent::Open { time, flow } => push_row(listing, *time, event.name(), UNKNOWN, flow),
        FlowEvent::Close { time, cause, flow } => push_row(listing, *time, event.name(), cause, flow),
        FlowEvent::Lost { .. } => {}
    }
}

fn push_row(listing: &mut Listing, time: Time, event: &str, cause: &str, flow: &Flow) {
    let mut row = vec![
        time.to_string().into(),
        event.into(),
        Cell::toned(cause, tone(cause)),
    ];
    row.extend(endpoints(flow));
    row.extend([flow.state.as_str().into(), age_seconds(flow.age_seconds).into()]);
    row.extend(traffic(flow, listing.digits()));
    row.push(flow.worker.to_string().into());
    let name = flow.service.as_deref().unwrap_or(UNKNOWN);
    listing.push(row, vec![name.into()]);
}

/// Highlights flows that the balancer cut, and flows that ended irregularly.
fn tone(cause: &str) -> Tone {
    let is = |causes: &[CloseCause]| causes.iter().any(|known| known.name() == cause);
    if is(&[
        CloseCause::BackendDown,
        CloseCause::InterfaceLost,
        CloseCause::PortTaken,
    ]) {
        Tone::Bad
    } else if is(&[CloseCause::Rst, CloseCause::Drain]) {
        Tone::Warning
    } else {
        Tone::Plain
    }
}
