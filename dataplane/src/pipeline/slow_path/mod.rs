//! Packets that need more than a lookup: ICMP errors, fragments, SCTP, and packets to an own address that is gone.

mod fragment;
mod icmp;
mod sctp;

use vl3lb_common::stats::CloseCause;
use vl3lb_common::{DropReason, Timestamp};

use super::classify::check_source;
use super::local_client::is_local;
use super::reject::DropContext;
use super::{Engine, Origin, Tuple, Verdict};
use crate::packet::{self, Parsed, Transport};
use crate::port::Frame;

pub(crate) use fragment::Ticket;
pub(super) use fragment::{Arrival, FragmentTable};

impl Engine {
    /// Decides about a packet to the address with the index `local`.
    #[cold]
    pub(super) fn slow_path<F: Frame>(
        &mut self,
        packet: &mut [F],
        parsed: &Parsed,
        local: u8,
        arrival: Arrival,
        origin: Origin,
        now: Timestamp,
    ) -> Result<Verdict, DropContext> {
        let table = self.tables.flows.table();
        if !is_local(packet) {
            check_source(&self.policy, table, parsed)?;
        }
        if table.is_departed(local) {
            return Err(self.end_on_departed_address(parsed, local, now));
        }
        match parsed.transport {
            Transport::Icmp => {
                if packet.len() > 1 {
                    packet::check_long_icmp(packet, parsed)?;
                }
                let head = packet.first().ok_or(DropReason::Malformed)?.bytes();
                let quoted = packet::parse_quote(head, parsed)?;
                let error = icmp::Error {
                    parsed,
                    quoted: &quoted,
                    origin,
                    now,
                };
                let forwarded = icmp::forward(&self.policy, &mut self.tables, &self.signals, packet, error);
                if parsed.dont_fragment {
                    forwarded
                } else {
                    self.identify(packet, parsed, forwarded)
                }
            }
            Transport::Fragment { .. } => self.fragment(packet, parsed, local, arrival, origin, now),
            Transport::Sctp { .. } => self.sctp(packet, parsed, local, origin, now),
            Transport::Tcp { .. } | Transport::Udp { .. } => Err(DropReason::Internal.into()),
        }
    }

    /// Ends the flow of a packet to an own address that is gone.
    fn end_on_departed_address(&mut self, parsed: &Parsed, local: u8, now: Timestamp) -> DropContext {
        let reason = DropReason::NoService;
        let Some(tuple) = Tuple::of_any(parsed, local) else {
            return reason.into();
        };
        let table = self.tables.flows.table();
        let found = table
            .reply(&tuple.reply_key(parsed.source), now)
            .or_else(|| table.request(&tuple.request_key(parsed.source), now));
        let Some(id) = found else { return reason.into() };
        let service = table.entry(id).service();
        self.tables.flows.end(id, CloseCause::InterfaceLost, now);
        DropContext::of(service, reason)
    }
}
