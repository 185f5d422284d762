//! ICMP errors about packets that the balancer sent, on to whoever they concern (RFC 5508
//! section 4). They change no state and refresh no timer.

use vl3lb_common::addr::from_octets;
use vl3lb_common::stats::FlowFailure;
use vl3lb_common::{BackendSlot, DropReason, MacAddr, ServiceKey, ServiceSlot, Timestamp};

use super::{DropContext, Engine, Origin, Tuple, Verdict};
use crate::flow::{FlowId, State};
use crate::packet::{self, ErrorClass, Family, Parsed, Quoted, Translation};
use crate::port::Frame;

impl Engine {
    pub(super) fn icmp_error<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        quoted: &Quoted,
        origin: Origin,
        now: Timestamp,
    ) -> Result<Verdict, DropContext> {
        // The quoted packet was sent by us.
        let local = self
            .flows
            .find_local(&quoted.source)
            .ok_or(DropReason::IcmpUnmatched)?;
        // Of a packet that its receiver would send in answer to the quoted one.
        let tuple = Tuple {
            protocol: quoted.protocol,
            source_port: quoted.destination_port,
            destination_port: quoted.source_port,
            local,
        };
        let reply_owner = self.nat_owner(tuple);
        if reply_owner == Some(self.worker) {
            let key = tuple.reply_key(quoted.destination);
            if let Some(id) = self.flows.reply(&key, now) {
                return self.error_to_client(packet, parsed, quoted, id);
            }
        }
        let by_ports = self.request_owner(&quoted.destination, tuple);
        if by_ports == self.worker || self.placement.any_by_client() {
            let key = tuple.request_key(quoted.destination);
            if let Some(id) = self.flows.request(&key, now) {
                return self.error_to_backend(packet, parsed, quoted, id);
            }
        }
        let own = ServiceKey {
            address: from_octets(quoted.source),
            port: quoted.source_port,
            protocol: quoted.protocol,
        };
        let next = match (self.snapshot.services.get(&own), reply_owner) {
            (Some(&service), _) => self.remote_owner(service, &quoted.destination, by_ports, origin),
            (None, owner) => Some(owner.unwrap_or(by_ports)).filter(|&owner| owner != self.worker),
        };
        next.map(Verdict::Handoff)
            .ok_or_else(|| DropReason::IcmpUnmatched.into())
    }

    /// An error about a packet to the backend: the client shall know (RFC 5508 REQ-5).
    fn error_to_client<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        quoted: &Quoted,
        id: FlowId,
    ) -> Result<Verdict, DropContext> {
        let entry = self.flows.entry(id);
        let own = self.flows.local_address(entry.local);
        let inner = Translation {
            source: entry.client,
            destination: own,
            source_port: entry.client_port,
            destination_port: entry.service_port,
        };
        if matches!(quoted.kind, ErrorClass::Unreachable)
            && matches!(entry.state(), State::Opening | State::Unreplied)
        {
            let failed = &self.stats.backend(BackendSlot(entry.backend_slot)).flows_failed;
            failed[FlowFailure::Unreachable as usize].add(1);
        }
        let mac = self.flow_client_mac(id);
        self.pass_error(packet, parsed, quoted, id, own, inner, mac)
    }

    /// An error about a packet to the client: the backend shall know (RFC 5508 REQ-4).
    fn error_to_backend<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        quoted: &Quoted,
        id: FlowId,
    ) -> Result<Verdict, DropContext> {
        let entry = self.flows.entry(id);
        let own = self.flows.local_address(entry.local);
        let inner = Translation {
            source: entry.backend,
            destination: own,
            source_port: entry.backend_port,
            destination_port: entry.nat_port,
        };
        let service = Some(ServiceSlot(entry.service_slot));
        let mac = self
            .snapshot
            .backend(BackendSlot(entry.backend_slot))
            .ok_or(DropReason::Internal)
            .and_then(|backend| self.mac_of(backend))
            .map_err(|reason| DropContext { service, reason })?;
        self.pass_error(packet, parsed, quoted, id, own, inner, mac)
    }

    /// Both directions: the error's receiver is the sender of the quoted packet, as it sees itself.
    #[expect(
        clippy::too_many_arguments,
        reason = "the two directions differ in just these values"
    )]
    fn pass_error<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        quoted: &Quoted,
        id: FlowId,
        own: [u8; 16],
        inner: Translation,
        mac: Option<MacAddr>,
    ) -> Result<Verdict, DropContext> {
        let service = Some(ServiceSlot(self.flows.entry(id).service_slot));
        let dropped = |reason| DropContext { service, reason };
        if parsed.hop_limit <= 1 {
            return Err(dropped(DropReason::TtlExpired));
        }
        if let ErrorClass::TooBig { mtu } = quoted.kind {
            self.lower_mss(id, parsed.family, mtu);
        }
        let head = packet.first_mut().ok_or(DropReason::Malformed)?;
        packet::translate_error(head.bytes_mut(), parsed, quoted, own, inner.source, &inner)
            .map_err(dropped)?;
        self.address_frame(packet, mac);
        Ok(Verdict::Transmit)
    }

    /// Super-packets of this flow are cut smaller from now on.
    fn lower_mss(&mut self, id: FlowId, family: Family, mtu: u32) {
        let headers = match family {
            Family::V4 => 40,
            Family::V6 => 60,
        };
        let Ok(mtu) = u16::try_from(mtu) else { return };
        if mtu < smallest_path_mtu(family) {
            return;
        }
        let entry = self.flows.entry_mut(id);
        let limit = mtu - headers;
        if entry.mss == 0 || entry.mss > limit {
            entry.mss = limit;
        }
    }
}

/// The shortest MTU that a path may have, by family (RFC 791, RFC 8200): a Too Big message below
/// it is not believed.
const fn smallest_path_mtu(family: Family) -> u16 {
    match family {
        Family::V4 => 68,
        Family::V6 => 1280,
    }
}
