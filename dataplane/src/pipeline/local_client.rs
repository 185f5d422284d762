//! Clients in the balancer's own network namespace.
//!
//! Their packets come by another way than the interface ([`Frame::is_local`]) and have an own address as their source.
//! So each of them gets to the place where a packet without a flow is dropped as a martian, and is taken from there. Its
//! flow has keys of its own ([`FlowTable::local_clients`]): no packet that comes in by the interface is a local client's, and
//! a reply to one gets here when no other flow has it. Nothing here is asked for a packet of any other flow.
//!
//! [`FlowTable::local_clients`]: crate::flow::FlowTable::local_clients

use vl3lb_common::DropReason;

use super::early_selection::EarlySelection;
use super::lookup::{self, Found, Lookup};
use super::policy::Policy;
use super::reject::DropContext;
use super::tuple::Tuple;
use super::{Context, Engine, Verdict};
use crate::flow::{FlowId, FlowTable, Predecessor};
use crate::packet::{Family, Parsed, Transport};
use crate::port::Frame;

/// Whether a packet came from a client in this network namespace.
pub(super) fn is_local<F: Frame>(packet: &[F]) -> bool {
    packet.first().is_some_and(Frame::is_local)
}

/// The tuple by which the flow of a local client is found. `None` if the own address has no second index.
pub(super) fn tuple_of(table: &FlowTable, tuple: Tuple) -> Option<Tuple> {
    let local = table.local_clients(tuple.local)?;
    Some(Tuple { local, ..tuple })
}

/// A datagram for a local client: none of its headers shows where one of a super-packet ends.
pub(super) fn check_size(policy: &Policy, parsed: &Parsed) -> Result<(), DropReason> {
    let is_long = parsed.ip_len() > u32::from(policy.snapshot.mtu);
    match parsed.transport {
        Transport::Udp { .. } if is_long => Err(DropReason::UdpSuperPacket),
        _ => Ok(()),
    }
}

impl Engine {
    /// A packet whose source may not come in by the interface, for `reason`: a local client's request, or dropped.
    #[cold]
    #[inline(never)]
    pub(super) fn local_request<F: Frame>(
        &mut self,
        packet: &mut [F],
        context: Context<'_>,
        early: Option<&EarlySelection>,
        reason: DropReason,
    ) -> Result<Verdict, DropContext> {
        let parsed = context.parsed;
        let table = self.tables.flows.table();
        let tuple = tuple_of(table, context.tuple())
            .filter(|_| is_local(packet) && table.find_local(&parsed.source).is_some())
            .ok_or(reason)?;
        let lookup = Lookup {
            tuple,
            flags: context.tcp_flags(),
            nat_owner: None,
            is_reply: false,
            probe: table.request_probe(&tuple.request_key(parsed.source)),
        };
        let context = Context {
            lookup: &lookup,
            ..context
        };
        let verdict = match lookup::find(table, context) {
            Found::Reply(id) | Found::Request(id) => self.request(packet, context, id),
            Found::Nothing(expired) => self.without_flow(packet, context, early, Predecessor::Known(expired)),
        }?;
        if let Verdict::Handoff(_) | Verdict::Overflow(_) = verdict {
            return Ok(verdict);
        }
        // From here on it is the balancer's own.
        packet.iter_mut().for_each(|frame| frame.set_local(false));
        let is_v4 = parsed.family == Family::V4;
        if is_v4 && parsed.dont_fragment && matches!(verdict, Verdict::Fragment { .. }) {
            return self.identify(packet, parsed, Ok(verdict));
        }
        Ok(verdict)
    }

    /// The reply to a local client, if the packet is one: it is sent to a NAT port of this worker and has no other flow.
    #[cold]
    #[inline(never)]
    pub(super) fn local_reply<F: Frame>(
        &mut self,
        packet: &mut [F],
        context: Context<'_>,
    ) -> Option<Result<Verdict, DropContext>> {
        let id = self.local_reply_flow(context)?;
        Some(self.reply::<F, true>(packet, context, id))
    }

    /// The flow of a local client that the packet is a reply of.
    pub(super) fn local_reply_flow(&self, context: Context<'_>) -> Option<FlowId> {
        let table = self.tables.flows.table();
        let tuple = tuple_of(table, context.tuple())?;
        table.reply(&tuple.reply_key(context.parsed.source), context.now)
    }
}
