//! Packets that the engine has decided about and that the worker could not send: a full ring, or the kernel refuses them.

use vl3lb_common::{DropReason, ServiceSlot, Timestamp};

use super::local_client::tuple_of;
use super::tuple::Tuple;
use super::{Engine, packet};
use crate::flow::{Direction, FlowId, ReplyKey, RequestKey};
use crate::packet::Parsed;
use crate::port::{Frame, packet_len};

/// What of a packet was to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsent {
    /// All of it.
    Whole,
    /// It, or a segment of a packet that is counted as one and in part sent.
    Part,
}

impl Engine {
    /// Counts a packet that the worker could not send as dropped for its service. A translated one leaves the traffic of
    /// its flow, service and backend again, where it was counted a moment ago.
    ///
    /// The flow is found by the addresses that the packet has by now, so a packet that is sent pays nothing for this.
    #[cold]
    pub fn drop_unsent<F: Frame>(
        &mut self,
        packet: &[F],
        unsent: Unsent,
        reason: DropReason,
        now: Timestamp,
    ) {
        let service = self.service_of_unsent(packet, unsent, now);
        self.signals.stats.drop_packet(service, reason);
        if self.capture.is_active() {
            self.capture_unsent(packet, service, reason, now);
        }
    }

    /// Counts a packet that is not forwarded because of a lack at this worker, before it was decided about.
    #[cold]
    pub fn drop_undecided<F: Frame>(&mut self, packet: &[F], reason: DropReason, now: Timestamp) {
        self.count_drop(reason);
        if self.capture.is_active() {
            self.capture_unsent(packet, None, reason, now);
        }
    }

    fn service_of_unsent<F: Frame>(
        &mut self,
        packet: &[F],
        unsent: Unsent,
        now: Timestamp,
    ) -> Option<ServiceSlot> {
        let head = packet.first()?.bytes();
        let mut parsed = packet::parse(head, packet_len(packet), self.policy.framing).ok()?;
        let table = self.tables.flows.table();
        let Some(local) = table.find_local(&parsed.source) else {
            // On its way to the worker of its flow, as it came in.
            let tuple = Tuple::of_any(&parsed, table.find_local(&parsed.destination)?)?;
            return self.policy.service_at(&parsed, tuple);
        };
        let tuple = Tuple::of_any(&parsed, local)?;
        if let Some((id, direction)) = self.translated(&parsed, tuple, now) {
            let owner = self.tables.flows.table().entry(id).owner();
            if unsent == Unsent::Whole {
                self.tables
                    .flows
                    .uncount_packet(id, owner, direction, parsed.ip_len());
            }
            return Some(owner.0);
        }
        // A rejection, or a packet of another worker's flow: from the service itself.
        parsed.destination = parsed.source;
        let reversed = Tuple {
            destination_port: tuple.source_port,
            ..tuple
        };
        self.policy.service_at(&parsed, reversed)
    }

    /// The flow of a translated packet, and which way it goes.
    pub(super) fn translated(
        &self,
        parsed: &Parsed,
        tuple: Tuple,
        now: Timestamp,
    ) -> Option<(FlowId, Direction)> {
        self.translated_by(parsed, tuple, now).or_else(|| {
            let local = tuple_of(self.tables.flows.table(), tuple)?;
            self.translated_by(parsed, local, now)
        })
    }

    fn translated_by(&self, parsed: &Parsed, tuple: Tuple, now: Timestamp) -> Option<(FlowId, Direction)> {
        let table = self.tables.flows.table();
        let protocol = tuple.protocol.number();
        let to_backend = ReplyKey {
            backend: parsed.destination,
            backend_port: tuple.destination_port,
            local: tuple.local,
            nat_port: tuple.source_port,
            protocol,
        };
        let to_client = RequestKey {
            client: parsed.destination,
            client_port: tuple.destination_port,
            local: tuple.local,
            service_port: tuple.source_port,
            protocol,
        };
        let request = table.reply(&to_backend, now).map(|id| (id, Direction::In));
        request.or_else(|| table.request(&to_client, now).map(|id| (id, Direction::Out)))
    }
}
