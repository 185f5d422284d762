//! The table of flows.

use std::net::SocketAddr;

use serde::Deserialize;
use vl3lb_common::report::{Flow, FlowList, FlowTraffic, Warning};

use super::number::{Digits, UNKNOWN, age_seconds, grouped};
use super::table::{Cell, Column, Table, number, text};
use super::view::View;

/// In the order of a packet's way: client, service, balancer, backend.
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
const WIDE: [Column; 1] = [text("NAME")];

/// A table of flows that is written in parts.
#[derive(Debug)]
pub(super) struct FlowTable {
    table: Table,
    view: View,
    headings: bool,
}

impl FlowTable {
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

    /// Appends a flow.
    pub(super) fn push(&mut self, flow: &Flow) {
        let mut row = row(flow, self.view.digits);
        if self.view.wide() {
            row.push(flow.service.as_deref().unwrap_or(UNKNOWN).into());
        }
        self.table.push(row);
    }

    /// The lines of what was appended since the last call, the first time with headings.
    pub(super) fn take_lines(&mut self) -> String {
        let headings = std::mem::take(&mut self.headings);
        self.table.take_lines(headings, self.view.color)
    }
}

/// A line of the streamed document: `{...,"items":[`, then one flow a line, then `],...}`.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Flow(&'a [u8]),
    /// The end as a document of its own.
    End(Vec<u8>),
    Other,
}

impl<'a> Line<'a> {
    /// Tells the lines apart by how they begin and end.
    pub(super) fn new(line: &'a [u8]) -> Self {
        match line {
            [b'{', .., b'['] | [] => Self::Other,
            [b']', b',', end @ ..] => Self::End([b"{", end].concat()),
            [flow @ .., b','] | flow => Self::Flow(flow),
        }
    }
}

/// What is known only after the last flow.
#[derive(Debug, Deserialize)]
pub(super) struct End {
    pub warnings: Vec<Warning>,
}

/// One row per flow.
pub(super) fn table(answer: &FlowList, view: View) -> String {
    let mut table = FlowTable::new(view);
    for flow in &answer.envelope.items {
        table.push(flow);
    }
    table.take_lines()
}

/// What the list leaves out, for standard error.
pub(super) fn omission(answer: &FlowList) -> Option<String> {
    answer.envelope.truncated.then(|| {
        format!(
            "showing {} of {}; --all shows all, --limit more",
            grouped(answer.envelope.items.len() as u64),
            grouped(answer.matched_total)
        )
    })
}

fn row(flow: &Flow, digits: Digits) -> Vec<Cell> {
    let endpoint = |address, port| SocketAddr::new(address, port).to_string();
    let both = |of: fn(&FlowTraffic) -> u64| {
        format!(
            "{}/{}",
            digits.count(of(&flow.inbound)),
            digits.count(of(&flow.outbound))
        )
    };
    vec![
        flow.protocol.name().into(),
        endpoint(flow.client, flow.client_port).into(),
        endpoint(flow.service_address, flow.service_port).into(),
        endpoint(flow.service_address, flow.nat_port).into(),
        endpoint(flow.backend, flow.backend_port).into(),
        flow.state.as_str().into(),
        age_seconds(flow.age_seconds).into(),
        age_seconds(flow.idle_seconds).into(),
        age_seconds(flow.expires_seconds).into(),
        both(|traffic| traffic.packets_total).into(),
        both(|traffic| traffic.bytes_total).into(),
        flow.worker.to_string().into(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streamed_document_is_taken_apart_by_lines() {
        let document = "{\"items\":[\n{\"a\":[1]},\n{\"a\":2}\n],\"warnings\":[]}\n";
        let lines: Vec<_> = document
            .as_bytes()
            .split(|&b| b == b'\n')
            .map(Line::new)
            .collect();
        assert_eq!(
            lines,
            [
                Line::Other,
                Line::Flow(b"{\"a\":[1]}"),
                Line::Flow(b"{\"a\":2}"),
                Line::End(b"{\"warnings\":[]}".to_vec()),
                Line::Other,
            ]
        );
    }
}
