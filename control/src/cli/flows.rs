//! The table of flows.

use std::net::SocketAddr;

use crate::api::{Flow, FlowList, FlowTraffic};

use super::table::{Cell, Column, Listing, number, text};
use super::view::View;
use crate::number::{Digits, UNKNOWN, age_seconds, grouped};

/// In the order of the path: client, service, balancer, backend.
const COLUMNS: [Column; 12] = [
    text("PROTO"),
    text("CLIENT"),
    text("SERVICE"),
    text("NAT SOURCE"),
    text("BACKEND"),
    text("STATE"),
    number("AGE"),
    number("IDLE"),
    number("EXPIRES"),
    number("PKTS IN/OUT"),
    number("BYTES IN/OUT"),
    number("W"),
];
const WIDE: [Column; 2] = [text("NAME"), text("PATH")];

/// An empty table.
pub(super) fn listing(view: View) -> Listing {
    Listing::new(&COLUMNS, &WIDE, view)
}

/// Appends a flow.
pub(super) fn push(listing: &mut Listing, flow: &Flow) {
    let mut row = endpoints(flow);
    row.extend([
        flow.state.as_str().into(),
        age_seconds(flow.age_seconds).into(),
        age_seconds(flow.idle_seconds).into(),
        age_seconds(flow.expires_seconds).into(),
    ]);
    row.extend(traffic(flow, listing.digits()));
    row.push(flow.worker.to_string().into());
    let name = flow.service.as_deref().unwrap_or(UNKNOWN);
    let path = if flow.fast { "kernel" } else { "worker" };
    listing.push(row, vec![name.into(), path.into()]);
}

/// One row per flow.
pub(super) fn table(answer: &FlowList, view: View) -> String {
    let mut listing = listing(view);
    for flow in &answer.envelope.items {
        push(&mut listing, flow);
    }
    listing.take_lines()
}

/// A note on the flows that the list omits.
pub(super) fn omission(answer: &FlowList) -> Option<String> {
    answer.envelope.truncated.then(|| {
        format!(
            "showing {} of {}; --all shows all, --limit more",
            grouped(answer.envelope.items.len() as u64),
            grouped(answer.matched_total)
        )
    })
}

/// Protocol and addresses in the order of the path.
pub(super) fn endpoints(flow: &Flow) -> Vec<Cell> {
    let endpoint = |address, port| SocketAddr::new(address, port).to_string();
    vec![
        flow.protocol.name().into(),
        endpoint(flow.client, flow.client_port).into(),
        endpoint(flow.service_address, flow.service_port).into(),
        endpoint(flow.service_address, flow.nat_port).into(),
        endpoint(flow.backend, flow.backend_port).into(),
    ]
}

/// Packets and bytes, each in both directions.
pub(super) fn traffic(flow: &Flow, digits: Digits) -> [Cell; 2] {
    [
        |of: &FlowTraffic| of.packets_total,
        |of: &FlowTraffic| of.bytes_total,
    ]
    .map(|total| {
        let (inbound, outbound) = (total(&flow.inbound), total(&flow.outbound));
        format!("{}/{}", digits.count(inbound), digits.count(outbound)).into()
    })
}
