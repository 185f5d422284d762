//! Packets that need more than a lookup: ICMP errors, fragments, and packets to an own address that is gone.

mod fragment;
mod icmp;

use vl3lb_common::stats::CloseCause;
use vl3lb_common::{DropReason, ServiceSlot, Timestamp};

use super::classify::check_source;
use super::lookup::Lookup;
use super::reject::DropContext;
use super::{Context, Engine, Origin, Tuple, Verdict};
use crate::packet::{self, Parsed, TcpFlags, Transport};
use crate::port::Frame;

pub(super) use fragment::FragmentTable;
use fragment::{Part, Step};

impl Engine {
    /// Decides about a packet to the address with the index `local`.
    #[cold]
    pub(super) fn slow_path<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        local: u8,
        origin: Origin,
        now: Timestamp,
    ) -> Result<Verdict, DropContext> {
        let table = self.tables.flows.table();
        check_source(table, parsed)?;
        if table.is_departed(local) {
            return Err(self.end_on_departed_address(parsed, local, now));
        }
        match parsed.transport {
            Transport::Icmp => {
                let head = packet.first().ok_or(DropReason::Malformed)?.bytes();
                let quoted = packet::parse_quote(head, parsed)?;
                let error = icmp::Error {
                    parsed,
                    quoted: &quoted,
                    origin,
                    now,
                };
                icmp::forward(&self.policy, &mut self.tables.flows, &self.signals, packet, error)
            }
            Transport::Fragment {
                protocol, id, ports, ..
            } => self.fragment(packet, parsed, local, Part { protocol, id, ports }, origin, now),
            Transport::Tcp { .. } | Transport::Udp { .. } => Err(DropReason::Internal.into()),
        }
    }

    /// A fragment follows the flow of its datagram's first fragment.
    fn fragment<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        local: u8,
        part: Part,
        origin: Origin,
        now: Timestamp,
    ) -> Result<Verdict, DropContext> {
        let (policy, tables) = (&self.policy, &mut self.tables);
        let datagram = match tables
            .fragments
            .track(policy, parsed.source, local, part, origin, now)?
        {
            Step::Handoff(worker) => return Ok(Verdict::Handoff(worker)),
            Step::Known(datagram) => datagram,
        };
        let tuple = datagram.tuple;
        let flags = TcpFlags(TcpFlags::ACK);
        let lookup = Lookup::new(policy, tables.flows.table(), parsed, tuple, flags);
        let context = Context {
            parsed,
            lookup: &lookup,
            origin,
            now,
        };
        let identification = datagram.identification(policy);
        let verdict = self.balance(packet, context, None)?;
        if verdict == Verdict::Transmit
            && let Some(head) = packet.first_mut()
        {
            packet::set_ipv4_identification(head.bytes_mut(), parsed, identification)?;
        }
        Ok(verdict)
    }

    /// Ends the flow of a packet to an own address that is gone.
    fn end_on_departed_address(&mut self, parsed: &Parsed, local: u8, now: Timestamp) -> DropContext {
        let reason = DropReason::NoService;
        let Some((tuple, _)) = Tuple::of(parsed, local) else {
            return reason.into();
        };
        let table = self.tables.flows.table();
        let found = table
            .reply(&tuple.reply_key(parsed.source), now)
            .or_else(|| table.request(&tuple.request_key(parsed.source), now));
        let Some(id) = found else { return reason.into() };
        let service = ServiceSlot(table.entry(id).service_slot);
        self.tables.flows.end(id, CloseCause::InterfaceLost, now);
        DropContext::of(service, reason)
    }
}
