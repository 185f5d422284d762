//! The flows that a worker knows, for the program that sheds load ([`crate::shed`]): their packets pass, and those of no flow
//! are dropped in the kernel.
//!
//! Nothing is noted before load is shed. From then on all workers of the interface note each flow that they open, and those
//! that they have already: a walk through the table begins at once and again every few seconds, so that flows that are gone
//! are forgotten. A walk takes one look at a time between two bursts: a million flows take less than a second.

use vl3lb_common::{Duration, Protocol, Timestamp};

use crate::flow::{FlowId, FlowTable, State};
use crate::shed::Shed;

/// Time between the begins of two walks. The program knows a flow for 30 seconds.
const PERIOD: Duration = Duration::from_secs(5);
/// Places of the table between two bursts: some 30 us.
const PLACES: usize = 512;

/// What of a worker's flows the program knows.
#[derive(Debug, Default)]
pub(super) struct KnownFlows {
    /// Whether load is shed.
    is_needed: bool,
    /// The next place of the table in the present walk.
    cursor: Option<u32>,
    /// The next walk begins.
    due: Timestamp,
}

impl KnownFlows {
    /// Begins a walk if one is due while load is shed (`is_needed`).
    pub(super) fn follow(&mut self, is_needed: bool, now: Timestamp) {
        if !is_needed {
            *self = Self::default();
        } else if self.cursor.is_none() && now >= self.due {
            self.cursor = Some(0);
            self.due = now + PERIOD;
        }
        self.is_needed = is_needed;
    }

    /// Whether flows that are opened are to be noted.
    pub(super) const fn is_needed(&self) -> bool {
        self.is_needed
    }

    /// Whether a walk is under way.
    pub(super) const fn is_walking(&self) -> bool {
        self.cursor.is_some()
    }

    /// Goes on with the walk.
    pub(super) fn walk(&mut self, flows: &FlowTable, shed: &Shed, now: Timestamp) {
        for _ in 0..PLACES {
            let Some(cursor) = self.cursor else { return };
            let (found, next) = flows.look_at(cursor);
            if let Some(id) = found {
                note(flows, id, shed, now);
            }
            self.cursor = next;
        }
    }
}

/// Notes the packets of a flow in both directions, but no request of a flow of datagrams without a reply: to send more of
/// them, their sender need not be where they say.
pub(super) fn note(flows: &FlowTable, id: FlowId, shed: &Shed, now: Timestamp) {
    let entry = flows.entry(id);
    if entry.protocol != Protocol::Udp.number() || entry.state() == State::Replied {
        let ports = [entry.client_port, entry.service_port];
        shed.note_flow(&entry.client, ports, entry.protocol, now);
    }
    let backend = flows.endpoint(entry);
    let ports = [backend.port, entry.nat_port];
    shed.note_flow(&backend.address, ports, entry.protocol, now);
}
